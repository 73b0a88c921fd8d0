"""Unusual picture files: what happens to each is written in vqr1.data.pictures."""

import numpy as np
import pytest
from PIL import Image

from vqr1.data.pictures import fit_to_grid, open_picture, picture_loader

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


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not a picture")
    plain((200, 200)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:600])
    for name in ("empty.png", "text.png", "cut.jpg", "missing.png"):
        with pytest.raises(ValueError, match=f"{name}: not a readable picture"):
            open_picture(tmp_path / name)


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
