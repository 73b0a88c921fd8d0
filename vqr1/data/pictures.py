"""From a picture file to the pixels that the policy sees.

Done once per picture, early: upright, eight bits, RGB, and resized to a grid that the model's processor leaves alone.
The processor of Qwen2.5-VL cuts pictures into squares of 28 pixels and resizes what does not fit; vLLM reads the
processor from the model's folder and knows nothing of a limit set in Python. A picture that already fits is a no-op
for both, so rollout and training see the same tokens.

What happens to unusual pictures:

===================  ==================================================================
16 bits a channel    scaled to 8 bits
grey, palette, CMYK  converted to RGB
alpha                laid over white
EXIF orientation     turned upright
animated, MPO        the first frame
under 28 pixels      refused (one side is shorter than a single token)
aspect over 200      refused (as the model's processor does)
unreadable, empty    refused
===================  ==================================================================
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

TOKEN_PIXELS = 28  # a language token covers 28 x 28 pixels: patches of 14, merged two by two
MAX_ASPECT = 200


def open_picture(path: str | Path) -> Image.Image:
    """The picture as upright 8-bit RGB, at its own size.

    Raises ValueError, naming the file, for one that is missing, empty, truncated, no picture, or shorter than 28
    pixels on a side.
    """
    try:
        with Image.open(path) as file:
            file.load()
            picture = ImageOps.exif_transpose(file)
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not a readable picture ({error}); replace the file or drop its row") from error
    picture = _to_rgb(picture)
    width, height = picture.size
    if min(width, height) < TOKEN_PIXELS:
        raise ValueError(f"{path}: {width}x{height} pixels; a side must have {TOKEN_PIXELS} or more, drop its row")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f"{path}: {width}x{height} pixels is longer than {MAX_ASPECT}:1, drop its row")
    return picture


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16") or picture.mode == "I":
        # Pillow clips such values at 255 when it converts them, so scale first.
        return Image.fromarray((np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def fit_to_grid(picture: Image.Image, min_pixels: int, max_pixels: int) -> Image.Image:
    """Resize to sides that are multiples of 28 with ``min_pixels <= width * height <= max_pixels``.

    The size is the one Qwen2.5-VL's own processor would choose; a picture that has it already is returned as it is.
    """
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    width, height = picture.size
    new_height, new_width = smart_resize(height, width, TOKEN_PIXELS, min_pixels, max_pixels)
    if (new_width, new_height) == (width, height):
        return picture
    return picture.resize((new_width, new_height), Image.Resampling.BICUBIC)


def picture_loader(min_pixels: int, max_pixels: int, cached: int = 1024) -> Callable[[str], Image.Image]:
    """A function from path to fitted picture that remembers the last ``cached`` ones.

    TRL asks for each picture K times per step and again in every epoch; it is decoded once.
    """

    @functools.lru_cache(maxsize=cached)
    def load(path: str) -> Image.Image:
        return fit_to_grid(open_picture(path), min_pixels, max_pixels)

    return load
