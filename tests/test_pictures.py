"""Unusual picture files: what happens to each is written in vqr1.data.pictures."""

import errno
import os
import pickle
import resource
import struct
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngInfo

from tests.support.faults_pictures import PROGRAM, damaged_avif, iptc, saved
from vqr1.data import pictures
from vqr1.data.pictures import (
    PictureLoader,
    fit_to_grid,
    grid_size,
    load_fitted,
    load_many,
    open_picture,
    picture_loader,
    upright_rgb,
)
from vqr1.errors import UserError

RED = (200, 30, 40)


def plain(size=(40, 30), colour=RED, mode="RGB"):
    return Image.new(mode, size, colour)


def test_an_ordinary_picture_is_unchanged(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(open_picture(tmp_path / "a.png")), pixels)


def test_sixteen_bits_are_scaled(tmp_path):
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    opened = np.asarray(open_picture(tmp_path / "a.png"))
    assert np.array_equal(opened[..., 0], (ramp >> 8).astype(np.uint8))
    assert opened.shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("mode", "colour", "suffix"), [("L", 77, "png"), ("P", 3, "png"), ("CMYK", (9, 8, 7, 6), "jpg")]
)
def test_other_modes_become_rgb(tmp_path, mode, colour, suffix):
    picture = plain(colour=colour, mode=mode)
    picture.save(tmp_path / f"a.{suffix}")
    opened = open_picture(tmp_path / f"a.{suffix}")
    assert opened.mode == "RGB"
    assert np.abs(np.asarray(opened).astype(int) - np.asarray(picture.convert("RGB")).astype(int)).max() <= 3


def test_alpha_lies_over_white(tmp_path):
    picture = Image.new("RGBA", (40, 30), (*RED, 0))
    picture.paste((*RED, 255), (0, 0, 20, 30))
    picture.save(tmp_path / "a.png")
    pixels = np.asarray(open_picture(tmp_path / "a.png"))
    assert tuple(pixels[0, 0]) == RED
    assert tuple(pixels[0, 39]) == (255, 255, 255)


def test_exif_orientation_is_applied(tmp_path):
    picture = plain((40, 30))
    picture.paste((0, 0, 255), (0, 0, 10, 30))  # a blue band on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    picture.save(tmp_path / "a.png", exif=exif)
    opened = open_picture(tmp_path / "a.png")
    assert opened.size == (30, 40)
    assert np.asarray(opened)[0, 15, 2] == 255  # the band is on top now


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [plain(colour=c) for c in (RED, (0, 0, 255))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.asarray(open_picture(tmp_path / "a.gif"))[5, 5, 0] > 150


def test_a_length_of_gigabytes_is_not_reserved(tmp_path):
    plain((48, 32)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    at = content.index(b"IDAT") - 4
    (tmp_path / "a.png").write_bytes(content[:at] + b"\x7f\xff\xff\xff" + content[at + 4 :])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, hard))
    try:
        assert open_picture(tmp_path / "a.png").size == (48, 32)  # all its pixels are there
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not a picture")
    plain((200, 200)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:600])
    (tmp_path / "damaged.avif").write_bytes(damaged_avif())
    for name in ("empty.png", "text.png", "cut.jpg", "damaged.avif"):
        with pytest.raises(UserError, match=f"{name}: not a readable picture") as refused:
            open_picture(tmp_path / name)
        assert " at 0x" not in str(refused.value)  # the same words in each process that reads it


@pytest.mark.parametrize("name", ["a.jp2", "a.j2k"])
def test_a_jpeg2000_without_its_end_is_refused_and_not_guessed(tmp_path, name):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / name, "JPEG2000", no_jp2=name == "a.j2k")
    content = (tmp_path / name).read_bytes()
    assert np.array_equal(np.asarray(open_picture(tmp_path / name)), noise)
    (tmp_path / name).write_bytes(content + bytes(16))  # as downloads may be filled up
    assert np.array_equal(np.asarray(open_picture(tmp_path / name)), noise)
    for end in (*range(len(content) // 2, len(content), 199), len(content) - 1):
        (tmp_path / name).write_bytes(content[:end])
        with pytest.raises(UserError, match=f"{name}: not a readable picture .*truncated"):
            open_picture(tmp_path / name)


def test_what_is_no_file_is_named_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "lost.png").symlink_to("gone.png")
    (tmp_path / "round.png").symlink_to("round.png")
    for path, why in [
        (tmp_path / "pipe.png", "is a named pipe, not a regular file"),
        (Path("/dev/zero"), "is a device, not a regular file"),
        (tmp_path / "folder.png", "is a folder, not a regular file"),
        (tmp_path / "missing.png", "is missing"),
        (tmp_path / "lost.png", "is a symbolic link to gone.png, which is not there"),
        (tmp_path / "round.png", "is a symbolic link that leads back to itself"),
        (tmp_path / ("x" * 300), "cannot be read .File name too long."),
    ]:
        with pytest.raises(UserError, match=rf"{path.name} {why}; give a picture file or leave it out"):
            open_picture(path)


def test_a_symbolic_link_to_a_picture_is_followed(tmp_path):
    plain().save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("a.png")
    assert open_picture(tmp_path / "b.png").size == (40, 30)


def save_tiff(path, values, bits, photometric=1):
    """A grey TIFF of one strip: ``values`` are its bytes, of 64 x 40 pixels."""
    entries = [(256, 64), (257, 40), (258, bits), (259, 1), (262, photometric), (273, 122), (277, 1), (278, 40)]
    entries.append((279, len(values)))
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    fields = b"".join(struct.pack("<HHII", tag, 4 if tag == 279 else 3, 1, value) for tag, value in entries)
    path.write_bytes(head + fields + struct.pack("<I", 0) + values)


GREY = np.tile(np.arange(64, dtype=np.uint16) * 4, (40, 1))  # what the upper eight bits of each file below are
PACKED = (
    np.stack([GREY[:, ::2], GREY[:, 1::2] >> 4, (GREY[:, 1::2] & 15) << 4], -1).astype(np.uint8).tobytes()
)  # 12 bits


def test_sixteen_bits_are_scaled_in_every_format(tmp_path):
    wide = GREY * 257
    Image.fromarray(wide).save(tmp_path / "a.png")
    Image.fromarray(wide).save(tmp_path / "little.tif")
    Image.fromarray(wide.astype(">u2")).save(tmp_path / "big.tif")
    (tmp_path / "wide.pgm").write_bytes(b"P5 64 40 65535\n" + wide.astype(">u2").tobytes())
    (tmp_path / "twelve.pgm").write_bytes(b"P5 64 40 4095\n" + (GREY * 16).astype(">u2").tobytes())
    save_tiff(tmp_path / "twelve.tif", PACKED, 12)
    save_tiff(tmp_path / "white_is_zero.tif", (65535 - wide).tobytes(), 16, photometric=0)
    for file in sorted(tmp_path.iterdir()):
        assert np.array_equal(np.asarray(open_picture(file))[..., 0], GREY), file.name


@pytest.mark.parametrize(
    ("values", "kind"),
    [((GREY / 255).astype(np.float32), "floating-point"), (GREY.astype(np.int32), "32-bit or signed")],
)
def test_values_without_a_known_range_are_refused(tmp_path, values, kind):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=rf"a.tif: {kind} values .*; save it with 8 or 16 bits, or leave it out"):
        open_picture(tmp_path / "a.tif")


def test_more_text_or_profile_than_pillow_reads_is_passed_over(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    info = PngInfo()
    info.add_text("parameters", "x" * 3_000_000, zip=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "text.png", pnginfo=info, exif=exif)
    Image.fromarray(pixels).save(tmp_path / "profile.png", icc_profile=bytes(3_000_000), exif=exif)
    for name in ("text.png", "profile.png"):
        assert np.array_equal(np.asarray(open_picture(tmp_path / name)), np.rot90(pixels, -1)), name


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's about a TIFF
@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "tif", "webp"])
def test_a_damaged_file_is_read_or_named(tmp_path, ending):
    noise((48, 48)).save(tmp_path / f"a.{ending}")
    whole = (tmp_path / f"a.{ending}").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(whole)
        for place in rng.integers(0, min(len(data), 400), size=rng.integers(1, 6)):
            data[place] = rng.integers(0, 256)
        (tmp_path / f"b.{ending}").write_bytes(data[: rng.integers(1, len(data) + 1)] if rng.random() < 0.2 else data)
        try:
            open_picture(tmp_path / f"b.{ending}")
        except UserError as error:
            assert f"b.{ending}" in str(error)


@pytest.mark.parametrize("preview", [b"", b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 12, len(PROGRAM))])
def test_a_program_in_postscript_is_not_run(tmp_path, preview):
    (tmp_path / "a.png").write_bytes(preview + PROGRAM)
    with pytest.raises(UserError, match=r"a.png: a program in PostScript, which is not run"):
        open_picture(tmp_path / "a.png")


def test_a_program_in_postscript_inside_another_file_is_not_run(tmp_path, ghostscript):
    (tmp_path / "a.png").write_bytes(iptc(PROGRAM))
    with pytest.raises(UserError, match=r"a.png: not a readable picture"):
        open_picture(tmp_path / "a.png")
    assert not ghostscript.exists()
    with Image.open(tmp_path / "a.png") as opened, pytest.raises(UserError, match="a: a file that may hold a program"):
        upright_rgb(opened, "a")
    assert not ghostscript.exists()


def test_a_file_around_a_picture_of_another_size_than_it_says_is_refused(tmp_path):
    (tmp_path / "a.iim").write_bytes(iptc(saved(plain((10, 10)), "PNG")))
    with pytest.raises(UserError, match=r"a.iim: not a readable picture"):
        open_picture(tmp_path / "a.iim")


def test_an_icon_whose_picture_is_smaller_than_it_says_is_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "inner.png")
    inner = (tmp_path / "inner.png").read_bytes()
    (tmp_path / "a.ico").write_bytes(struct.pack("<HHHBBBBHHII", 0, 1, 1, 48, 32, 0, 0, 1, 32, len(inner), 22) + inner)
    with pytest.raises(UserError, match=r"a.ico: 8x8 pixels; a side must have 28 or more"):
        open_picture(tmp_path / "a.ico")


@pytest.mark.parametrize(
    ("size", "message"), [((1, 1), "28 or more"), ((27, 300), "28 or more"), ((28 * 201, 28), "200:1")]
)
def test_pictures_without_a_grid_are_refused(tmp_path, size, message):
    plain(size).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=message):
        open_picture(tmp_path / "a.png")


@pytest.mark.parametrize("size", [(112, 112), (512, 384), (3000, 2000), (40, 900), (28, 28)])
def test_the_grid_holds_the_limits(size):
    fitted = fit_to_grid(plain(size), 3136, 200704)
    assert all(side % 28 == 0 for side in fitted.size)
    assert 3136 <= fitted.size[0] * fitted.size[1] <= 200704
    assert fit_to_grid(fitted, 3136, 200704) is fitted


def test_a_picture_is_decoded_once(tmp_path):
    plain((112, 112)).save(tmp_path / "a.png")
    load = picture_loader(3136, 200704)
    first = load(str(tmp_path / "a.png"))
    (tmp_path / "a.png").unlink()
    assert load(str(tmp_path / "a.png")) is first


def noise(size, seed=0):
    """Smooth enough for JPEG to keep: its decoded sizes can be compared."""
    small = np.random.default_rng(seed).integers(0, 256, (size[1] // 16, size[0] // 16, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def png_header(path, width, height):
    """A PNG that says how large it is; there is nothing behind it to decode."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"\x00\x00\x00\r" + header + struct.pack(">I", zlib.crc32(header))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + b"\x00\x00\x00\x00IDAT")
    return str(path)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("load", [open_picture, picture_loader(3136, 200704)])
def test_a_picture_of_300_megapixels_is_refused_before_it_is_decoded(tmp_path, load):
    with pytest.raises(ValueError, match=r"bomb.png: .*over 150 megapixels.*; shrink it or leave it out"):
        load(png_header(tmp_path / "bomb.png", 20000, 15000))


@pytest.mark.filterwarnings("error")
def test_a_picture_is_warned_of_by_nobody_and_over_150_megapixels_refused(tmp_path):
    with pytest.raises(UserError, match=r"a.png: not a readable picture"):  # there is nothing behind the header
        open_picture(png_header(tmp_path / "a.png", 14400, 10000))
    with pytest.raises(UserError, match=r"a.png: .*over 150 megapixels.*; shrink it or leave it out"):
        open_picture(png_header(tmp_path / "a.png", 16000, 10000))


def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size(tmp_path, monkeypatch):
    noise((4800, 3600)).save(tmp_path / "a.jpg", quality=95)
    decoded = []
    plain_load = JpegImageFile.load

    def load(self):
        result = plain_load(self)
        decoded.append(self.size)
        return result

    monkeypatch.setattr(JpegImageFile, "load", load)
    reduced = load_fitted(tmp_path / "a.jpg", 3136, 200704)
    assert max(decoded) == (1200, 900)  # a quarter; an eighth would leave less than twice what is kept
    whole = fit_to_grid(open_picture(tmp_path / "a.jpg"), 3136, 200704)
    assert reduced.size == whole.size == (504, 364)
    difference = np.abs(np.asarray(reduced).astype(int) - np.asarray(whole).astype(int))
    assert difference.mean() < 1 and difference.max() < 25


@pytest.mark.parametrize("size", [(1024, 768), (300, 200)])
def test_a_picture_that_is_not_much_too_large_is_decoded_whole(tmp_path, size):
    noise(size).save(tmp_path / "a.jpg")
    whole = fit_to_grid(open_picture(tmp_path / "a.jpg"), 3136, 200704)
    assert load_fitted(tmp_path / "a.jpg", 3136, 200704).tobytes() == whole.tobytes()


def test_the_grid_is_that_of_the_whole_picture_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise((4001, 2999)).save(tmp_path / "a.jpg", exif=exif)
    whole = fit_to_grid(open_picture(tmp_path / "a.jpg"), 3136, 200704)
    assert load_fitted(tmp_path / "a.jpg", 3136, 200704).size == whole.size == grid_size(2999, 4001, 3136, 200704)


def test_a_truncated_large_jpeg_is_refused_though_it_is_decoded_reduced(tmp_path):
    noise((4000, 3000)).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) * 9 // 10])
    with pytest.raises(
        ValueError, match=r"cut.jpg: not a readable picture .*truncated.*; replace the file or leave it"
    ):
        load_fitted(tmp_path / "cut.jpg", 3136, 200704)


class Counted:
    """Loads pictures and counts how often each was decoded."""

    def __init__(self, monkeypatch):
        self.times = Counter()
        plain = pictures._decode

        def decode(path, needed):
            self.times[Path(path).name] += 1
            time.sleep(0.01)  # long enough for two threads to meet
            return plain(path, needed)

        monkeypatch.setattr(pictures, "_decode", decode)


@pytest.fixture
def counted(monkeypatch):
    return Counted(monkeypatch)


def test_k_answers_to_a_picture_decode_it_once(tmp_path, counted):
    for i in range(5):
        noise((112, 112), i).save(tmp_path / f"{i}.png")
    paths = [str(tmp_path / f"{i}.png") for i in (3, 1, 4, 1, 0) for _ in range(6)]
    loaded = load_many(picture_loader(3136, 200704), paths)
    assert counted.times == {"3.png": 1, "1.png": 1, "4.png": 1, "0.png": 1}
    assert [image.tobytes() for image in loaded] == [open_picture(path).tobytes() for path in paths]


def test_threads_that_ask_for_one_picture_wait_for_one_decoder(tmp_path, counted):
    noise((112, 112)).save(tmp_path / "a.png")
    load = picture_loader(3136, 200704)
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(load, [str(tmp_path / "a.png")] * 32))
    assert counted.times == {"a.png": 1}
    assert all(image is loaded[0] for image in loaded)


def test_memory_is_bounded_and_the_longest_unused_goes_first(tmp_path, counted):
    for i in range(3):
        noise((112, 112), i).save(tmp_path / f"{i}.png")
    load = PictureLoader(3136, 200704, memory=2 * 112 * 112 * 3)
    for i in (0, 1, 0, 2, 0, 1):  # 2 puts 1 out, for 0 was used since
        load(str(tmp_path / f"{i}.png"))
    assert counted.times == {"0.png": 1, "1.png": 2, "2.png": 1}


def test_a_broken_picture_is_refused_each_time_it_is_asked_for(tmp_path):
    load = picture_loader(3136, 200704)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"a.png is missing"):
            load(str(tmp_path / "a.png"))
    noise((112, 112)).save(tmp_path / "a.png")
    assert load(str(tmp_path / "a.png")).size == (112, 112)


def test_the_folder_of_resized_pictures_changes_no_pixel(tmp_path, counted):
    source = tmp_path / "a.jpg"
    noise((1000, 700)).save(source)
    plain_pixels = picture_loader(3136, 200704)(str(source)).tobytes()
    cached = [picture_loader(3136, 200704, str(tmp_path / "cache"))(str(source)) for _ in range(2)]
    assert [image.tobytes() for image in cached] == [plain_pixels] * 2
    (kept,) = (tmp_path / "cache").rglob("*.*")
    assert counted.times == {"a.jpg": 2, kept.name: 1}  # plain, then to fill the folder, then from the folder
    # Other limits, and another file in its place, are other pictures.
    assert picture_loader(3136, 100352, str(tmp_path / "cache"))(str(source)).size != cached[0].size
    noise((1000, 700), seed=1).save(source)
    assert picture_loader(3136, 200704, str(tmp_path / "cache"))(str(source)).tobytes() != plain_pixels


def test_the_folder_keeps_no_picture_that_fits_as_it_is(tmp_path):
    noise((112, 112)).save(tmp_path / "a.png")
    picture_loader(3136, 200704, str(tmp_path / "cache"))(str(tmp_path / "a.png"))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("cached", [False, True])
def test_a_picture_that_is_replaced_is_refused_when_it_is_read_again(tmp_path, cached):
    """The same size in bytes and the same times are no content."""
    paths = [str(tmp_path / f"{i}.bmp") for i in range(3)]
    for i, path in enumerate(paths):
        Image.new("RGB", (100, 100), (i, 50, 90)).save(path)
    cache = tmp_path / "cache" if cached else None
    load = PictureLoader(3136, 200704, cache, memory=1)
    for path in paths:
        load(path)
    assert len(set(load.digests.values())) == 3
    load.expect(dict(load.digests))
    for path in paths:
        load(path)  # each has been forgotten, and is what it was
    os.utime(paths[0], (1, 1))
    load(paths[0])  # a time is no content
    load(paths[1])
    Path(paths[0]).write_bytes(Path(paths[1]).read_bytes())
    for again in (load, pickle.loads(pickle.dumps(load))):
        with pytest.raises(UserError, match="0.bmp is another picture than when the run started"):
            again(paths[0])


def test_a_folder_that_cannot_be_written_keeps_nothing_and_is_told_once(tmp_path, capsys, monkeypatch):
    paths = [tmp_path / f"{i}.jpg" for i in range(2)]
    for i, path in enumerate(paths):
        noise((1000, 700), seed=i).save(path)
    plain = [picture_loader(3136, 200704)(str(path)).tobytes() for path in paths]

    def full(self, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        load = picture_loader(3136, 200704, str(tmp_path / "cache"))
        assert [load(str(path)).tobytes() for path in paths] == plain
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: no more resized pictures are kept in data.cache: ") and "bytes free" in line


@pytest.mark.parametrize("left", [0, 100])
def test_a_kept_picture_that_is_cut_is_made_anew(tmp_path, left):
    noise((1000, 700)).save(tmp_path / "a.jpg")
    fresh = [str(tmp_path / "cache")], str(tmp_path / "a.jpg")
    pixels = picture_loader(3136, 200704, *fresh[0])(fresh[1]).tobytes()
    (kept,) = (tmp_path / "cache").rglob("*.png")
    whole = kept.read_bytes()
    kept.write_bytes(whole[:left])
    assert picture_loader(3136, 200704, *fresh[0])(fresh[1]).tobytes() == pixels
    assert kept.read_bytes() == whole


def test_what_killed_processes_left_of_resized_pictures_is_deleted(tmp_path):
    unfinished = tmp_path / "cache" / "unfinished"
    unfinished.mkdir(parents=True)
    for name in ("old", "new"):
        (unfinished / name).touch()
    os.utime(unfinished / "old", (0, 0))
    noise((1000, 700)).save(tmp_path / "a.jpg")
    picture_loader(3136, 200704, str(tmp_path / "cache"))(str(tmp_path / "a.jpg"))
    assert [path.name for path in unfinished.iterdir()] == ["new"]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system binds no process to cores")
@pytest.mark.parametrize(
    ("machine", "bound", "ranks", "threads"),
    [(32, 32, None, 16), (16, 16, "4", 4), (16, 4, "4", 4), (4, 4, "8", 1), (1, 1, None, 1)],
    ids=["one rank", "shared by ranks", "bound ranks", "more ranks than cores", "one core"],
)
def test_ranks_that_share_cores_share_them_out(monkeypatch, machine, bound, ranks, threads):
    monkeypatch.setattr(os, "cpu_count", lambda: machine)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(bound)))
    if ranks is None:
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    else:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    with pictures.decoders() as pool:
        assert pool._max_workers == threads
