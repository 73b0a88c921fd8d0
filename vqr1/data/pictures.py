"""From a picture file to the pixels that the policy sees.

Done once per picture, early: upright, eight bits, RGB, and resized to a grid that the model's processor leaves alone.
The processor of Qwen2.5-VL cuts pictures into squares of 28 pixels and resizes what does not fit; vLLM reads the
processor from the model's folder and knows nothing of a limit set in Python. A picture that already fits is a no-op
for both, so rollout and training see the same tokens. What happens to unusual pictures:

===================  ==================================================================
16 bits a channel    the upper 8 bits (of 12 bits in a TIFF too)
32 bits, floats      refused: the file does not say which values are black and white
grey, palette, CMYK  converted to RGB (so are YCbCr, LAB, HSV, and black and white)
alpha                laid over white
EXIF orientation     turned upright
animated, MPO        the first frame
colour profile       not applied
under 28 pixels      refused (one side is shorter than a single token)
aspect over 200      refused (as the model's processor does)
unreadable, empty    refused, as is what is not a regular file
PostScript (EPS)     refused: it is a program, which would run for as long as it likes
IPTC                 refused: what it holds may be such a program
over 150 megapixels  refused, before it is decoded
===================  ==================================================================

A large JPEG is decoded at a half, a quarter or an eighth of its size (libjpeg's own scaling) where at least twice the
sides that are needed remain, so a photograph of many megapixels takes little memory; the rest is a bicubic filter.
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vqr1.data.file_picture import FilePicture
from vqr1.data.files import trouble
from vqr1.errors import UserError, file_trouble, show
from vqr1.picture_errors import BROKEN, MAX_PIXELS, POSTSCRIPT, PROGRAMS, TOO_LARGE, open_content

TOKEN_PIXELS = 28  # a language token covers 28 x 28 pixels: patches of 14, merged two by two
MAX_ASPECT = 200
SPARE = 2  # a JPEG that is decoded reduced keeps so many times the sides that are needed
TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
MEMORY = 512 * 2**20  # bytes of fitted pictures that a loader remembers
DECODERS = 16  # pictures that are decoded at once, at most: each may take tens of megabytes while it is
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF, and a value of the second
LEFT = 3600.0  # seconds after which what is being kept of a resized picture was left by a process that has ended
CACHE_VERSION = 1  # raise it when anything that changes a pixel changes

Load = Callable[[str], Image.Image]


def open_picture(path: str | Path, needed: int | None = None) -> Image.Image:
    """The picture as upright 8-bit RGB, at its own size; where only ``needed`` pixels are, a large JPEG comes reduced.

    Raises UserError, naming the file, for one that is missing, empty, truncated, no picture, of values without a known
    range, shorter than 28 pixels on a side, or over 150 megapixels.
    """
    return _decode(path, needed)[0]


def digest(path: str | Path) -> str:
    """Of a file's content: BLAKE2b, 32 hexadecimal digits. Raises OSError."""
    return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).hexdigest()


def save_thumbnail(path: str | Path, to: Path, side: int) -> None:
    """The picture as the policy sees it, upright and RGB, as a JPEG of at most ``side`` pixels a side.

    Raises what :func:`open_picture` raises, and OSError where ``to`` cannot be written.
    """
    picture = open_picture(path, side * side)
    picture.thumbnail((side, side), Image.Resampling.BICUBIC)
    picture.save(to, format="JPEG", quality=90, subsampling=0)  # colours as sharp as the light: noise is of both


def load_fitted(path: str | Path, min_pixels: int, max_pixels: int) -> Image.Image:
    """The picture fitted to the grid as :func:`fit_to_grid` does, decoded no larger than that needs.

    Raises what :func:`open_picture` raises.
    """
    return load_with_size(path, min_pixels, max_pixels)[0]


def load_with_size(path: str | Path, min_pixels: int, max_pixels: int) -> tuple[Image.Image, tuple[int, int]]:
    """As :func:`load_fitted`, with width and height of the upright original."""
    picture, size = _decode(path, max_pixels)
    fitted = grid_size(*size, min_pixels, max_pixels)
    if picture.size != fitted:
        picture = picture.resize(fitted, Image.Resampling.BICUBIC)
    return picture, size


def upright_rgb(picture: Image.Image, name: str) -> Image.Image:
    """A picture that was opened elsewhere, as :func:`open_picture` gives a file's. ``name`` is what messages call it.

    Raises what :func:`open_picture` raises.
    """
    with _refusals(name):
        return _upright(name, picture, None)[0]


def _decode(path: str | Path, needed: int | None) -> tuple[Image.Image, tuple[int, int]]:
    """Upright RGB and the width and height of the upright original. ``needed``: pixels that will be kept of it."""
    why = trouble(Path(path))  # to open a pipe is to wait for it
    if why is not None:
        raise UserError(f"{path} {why}; give a picture file or leave it out")
    with _refusals(path):
        content = Path(path).read_bytes()  # of a file Pillow reads as much as a damaged length says, gigabytes
        try:
            return _decode_file(path, content, needed)
        except ValueError as error:
            if "MAX_TEXT" not in str(error):  # a PNG with more text or profile than Pillow reads: it has pixels too
                raise
        return _decode_file(path, _without_text(content), needed)


@contextmanager
def _refusals(path: str | Path) -> Iterator[None]:
    """What decoders raise, as UserError."""
    try:
        yield
    except UserError:
        raise
    except TOO_LARGE as error:
        raise UserError(f"{path}: over 150 megapixels ({error}); shrink it or leave it out") from error
    except BROKEN as error:
        # Pillow's own words are that it cannot identify <_io.BytesIO object>.
        why = "of no format that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
        raise UserError(f"{path}: not a readable picture ({why}); replace the file or leave it out") from error


def _decode_file(path: str | Path, content: bytes, needed: int | None) -> tuple[Image.Image, tuple[int, int]]:
    if content.startswith(POSTSCRIPT):
        raise _not_run(path, "EPS")
    with open_content(content) as file:
        return _upright(path, file, needed)


def _not_run(path: str | Path, kind: str) -> UserError:
    return UserError(f"{path}: {PROGRAMS[kind]}, which is not run; convert it to PNG, or leave it out")


def _upright(path: str | Path, file: Image.Image, needed: int | None) -> tuple[Image.Image, tuple[int, int]]:
    if file.format in PROGRAMS:  # opened elsewhere
        raise _not_run(path, file.format)
    _check_size(path, *file.size)
    depth, inverted = _grey(path, file)
    width, height = file.size
    if needed is not None:
        _reduce(file, needed)
    said = file.size
    file.load()
    if file.size != said:  # an icon's own picture, whose size its header need not know
        width, height = file.size
        _check_size(path, width, height)
    turned = file.getexif().get(0x0112) in TURNED
    picture = ImageOps.exif_transpose(file)
    return _to_rgb(picture, depth, inverted), (height, width) if turned else (width, height)


def _without_text(png: bytes) -> bytes:
    """A PNG without its chunks of text and its colour profile, which change no pixel."""
    kept, place = [png[:8]], 8
    while place < len(png):
        end = place + 12 + int.from_bytes(png[place : place + 4])  # length, name, content, checksum
        if png[place + 4 : place + 8] not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            kept.append(png[place:end])
        place = end
    return b"".join(kept)


def _grey(path: str | Path, file: Image.Image) -> tuple[int, bool]:
    """The bits of a value, and whether Pillow leaves it to us that 0 is white.

    Raises UserError where the file does not say which values are black and white.
    """
    if file.mode.startswith("I;16") or (file.mode == "I" and file.format == "PPM"):  # Pillow scales a PPM to 16 bits
        tags = file.tag_v2 if file.format == "TIFF" else {}  # type: ignore[attr-defined]
        return 12 if tags.get(BITS_PER_SAMPLE) == (12,) else 16, tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
    if file.mode in ("I", "F"):
        kind = "floating-point" if file.mode == "F" else "32-bit or signed"
        raise UserError(
            f"{path}: {kind} values (mode {file.mode}), of which the file does not say what is black and what white; "
            "save it with 8 or 16 bits, or leave it out"
        )
    return 8, False


def _check_size(path: str | Path, width: int, height: int) -> None:
    if min(width, height) < TOKEN_PIXELS:
        raise UserError(f"{path}: {width}x{height} pixels; a side must have {TOKEN_PIXELS} or more, leave it out")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UserError(f"{path}: {width}x{height} pixels is longer than {MAX_ASPECT}:1, leave it out")
    if width * height > MAX_PIXELS:
        raise UserError(f"{path}: {width}x{height} pixels are over 150 megapixels; shrink it or leave it out")


def _reduce(file: Image.Image, needed: int) -> None:
    """Let libjpeg decode at a fraction of the size; nothing happens for other formats."""
    share = SPARE * math.sqrt(needed / (file.width * file.height))
    if share < 1:
        file.draft(None, (math.ceil(file.width * share), math.ceil(file.height * share)))


def _to_rgb(picture: Image.Image, depth: int, inverted: bool) -> Image.Image:
    if depth > 8:
        # Pillow clips such values at 255 when it converts them, so scale first.
        values = np.asarray(picture).astype(np.int64)
        grey = (values >> depth - 8).clip(0, 255)
        grey = 255 - grey if inverted else grey
        clear = picture.info.get("transparency")  # one grey value of a PNG that is to be seen through
        grey[values == clear] = 255
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def grid_size(width: int, height: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Width and height in multiples of 28 with ``min_pixels <= width * height <= max_pixels``, as Qwen2.5-VL's own
    processor would choose them."""
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    new_height, new_width = smart_resize(height, width, TOKEN_PIXELS, min_pixels, max_pixels)
    return new_width, new_height


def fit_to_grid(picture: Image.Image, min_pixels: int, max_pixels: int) -> Image.Image:
    """Resize to :func:`grid_size`; a picture that has it already is returned as it is."""
    fitted = grid_size(*picture.size, min_pixels, max_pixels)
    return picture if picture.size == fitted else picture.resize(fitted, Image.Resampling.BICUBIC)


class PictureLoader:
    """From path to fitted picture; remembers the last ones up to ``memory`` bytes.

    TRL asks for each picture K times per step and again in every epoch. A picture that is being decoded is waited for,
    never decoded twice. With ``folder`` a resized picture is kept there, as PNG, for the next run: the pixels are the
    same. Safe to call from many threads, and processes with one folder. Pickled, pictures are paths, it its settings.
    """

    def __init__(self, min_pixels: int, max_pixels: int, folder: Path | None = None, memory: int = MEMORY):
        self._limits = min_pixels, max_pixels
        self._folder = folder
        self._memory = memory
        self._storing = True  # into the folder
        self._cleared = False  # of what others left there
        self._held = 0  # bytes
        self._pictures: OrderedDict[str, Future[Image.Image]] = OrderedDict()
        self._lock = threading.Lock()
        self.digests: dict[str, str] = {}  # of the contents of the files that were read
        self._cached: dict[str, Path] = {}  # where the resized picture of such a file is, if it was looked for
        self._expected: Mapping[str, str] = {}

    def expect(self, digests: Mapping[str, str]) -> None:
        """From now on refuse, with a UserError, a file whose content is not that of its path in ``digests``.

        So does the loader of pictures that come from other processes.
        """
        for loader in (self, _loader_of_process(*self.__reduce__()[1])):
            loader._expected = digests

    def expected(self, path: str) -> str:
        """The digest that the content of a file must have: BLAKE2b, 32 hexadecimal digits."""
        return self._expected[path]

    def __call__(self, path: str) -> Image.Image:
        with self._lock:
            waiting = self._pictures.get(path)
            if waiting is None:
                mine = self._pictures[path] = Future()
            else:
                self._pictures.move_to_end(path)
        if waiting is not None:
            return waiting.result()
        try:
            picture = FilePicture.of(self, path, self._load(path))
        except BaseException as error:
            with self._lock:
                del self._pictures[path]
            mine.set_exception(error)
            raise
        mine.set_result(picture)
        self._forget(_size(picture))
        return picture

    def __reduce__(self) -> Any:
        return _loader_of_process, (*self._limits, str(self._folder) if self._folder else None)

    def _forget(self, arrived: int) -> None:
        """Make room for what has arrived, the longest unused first, but never what is still being decoded."""
        with self._lock:
            self._held += arrived
            for path in list(self._pictures)[:-1]:
                if self._held <= self._memory:
                    return
                if self._pictures[path].done():
                    self._held -= _size(self._pictures.pop(path).result())

    def _load(self, path: str) -> Image.Image:
        kept = self._kept(path) if self._folder is not None else None
        if kept is None or self._cached.get(path) != kept:  # the name is another where the file was touched
            self._look_at(path)
        if kept is not None:
            self._cached[path] = kept
            with suppress(OSError, UserError):  # where it is no picture since the machine crashed it is made anew
                if kept.is_file():
                    return open_picture(kept)
        picture, size = load_with_size(path, *self._limits)
        if kept is not None and picture.size != size:
            self._store(picture, kept)
        return picture

    def _look_at(self, path: str) -> None:
        """Note the content of a file, just before it is decoded: the disk is read once."""
        try:
            found = digest(path)
        except OSError:
            return  # opening it will say so
        if self._expected.get(path, found) != found:
            raise UserError(f"{path} is another picture than when the run started; put the file back and resume")
        self.digests[path] = found

    def _store(self, picture: Image.Image, path: Path) -> None:
        """Written beside its place and moved there, so that nobody reads half of it.

        Where that fails nothing more is kept: a run needs it for nothing but speed.
        """
        if not self._storing:
            return
        unfinished = self._unfinished() / f"{path.stem}.{os.getpid()}-{threading.get_ident()}"
        try:
            self._clear_left()
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(unfinished, format="PNG", compress_level=1)
            unfinished.replace(path)
        except OSError as error:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            with self._lock:
                first, self._storing = self._storing, False
            if first:
                told = f"warning: no more resized pictures are kept in data.cache: {file_trouble(error, path)}"
                show(told, file=sys.stderr, flush=True)

    def _unfinished(self) -> Path:
        """Where pictures are written before they are in their places."""
        assert self._folder is not None
        return self._folder / "unfinished"

    def _clear_left(self) -> None:
        """Once, when something is kept for the first time: delete what processes left that were killed."""
        with self._lock:
            if not self._cleared:
                self._cleared = True
                self._unfinished().mkdir(parents=True, exist_ok=True)
                for path in self._unfinished().iterdir():
                    with suppress(FileNotFoundError):  # another process was first
                        if path.stat().st_mtime < time.time() - LEFT:
                            path.unlink()

    def _kept(self, path: str) -> Path | None:
        """Where the resized picture is kept: a name that changes with the file and the limits."""
        assert self._folder is not None
        try:
            file = Path(path).stat()
        except OSError:
            return None  # opening it will say so
        key = f"{Path(path).absolute()}|{file.st_mtime_ns}|{file.st_size}|{self._limits}|{CACHE_VERSION}"
        name = hashlib.sha256(key.encode()).hexdigest()
        return self._folder / name[:2] / f"{name[2:34]}.png"


def _size(picture: Image.Image) -> int:
    return picture.width * picture.height * 3


def picture_loader(min_pixels: int, max_pixels: int, cache: str | None = None) -> PictureLoader:
    """A function from path to fitted picture that decodes each once; ``cache`` is a folder for resized pictures."""
    return PictureLoader(min_pixels, max_pixels, Path(cache).expanduser() if cache else None)


@cache
def _loader_of_process(min_pixels: int, max_pixels: int, folder: str | None) -> PictureLoader:
    """What opens pictures that came from another process."""
    return picture_loader(min_pixels, max_pixels, folder)


def decoders() -> ThreadPoolExecutor:
    """Threads to decode or cut in, as many as this process may use cores: Pillow and torch let others run meanwhile."""
    machine = os.cpu_count() or 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    if cores == machine:  # the launcher has given each of the machine's ranks no cores of its own
        cores //= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return ThreadPoolExecutor(min(DECODERS, max(1, cores)))


def load_shown(load: Load, shown: Sequence[Sequence[str]]) -> list[list[Image.Image]]:
    """The pictures of each list of paths, as :func:`load_many` loads them."""
    loaded = iter(load_many(load, [path for paths in shown for path in paths]))
    return [[next(loaded) for _ in paths] for paths in shown]


def load_many(load: Load, paths: Sequence[str]) -> list[Image.Image]:
    """The pictures of ``paths``, in order; each distinct one is loaded once, several at a time."""
    distinct = list(dict.fromkeys(paths))
    if len(distinct) == 1:
        return [load(distinct[0])] * len(paths)
    with decoders() as pool:
        loaded = dict(zip(distinct, pool.map(load, distinct), strict=True))
    return [loaded[path] for path in paths]
