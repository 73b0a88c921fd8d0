"""The pictures of a run folder, which may have become anything since."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

from vqr1.picture_errors import BROKEN, open_content


def read_picture(path: Path, side: int | None = None) -> Image.Image | None:
    """Upright RGB; a large JPEG may come smaller, with at least ``side`` pixels a side.

    None for a file that is missing, damaged or no picture, and for a program in PostScript, which is not run.
    """
    try:
        if not path.is_file():  # to open a pipe is to wait for it
            return None
        # From its bytes: of a file Pillow reads as much as a damaged length says, gigabytes.
        with open_content(path.read_bytes()) as file:
            if side is not None:
                file.draft("RGB", (side, side))
            return ImageOps.exif_transpose(file).convert("RGB")
    except BROKEN:
        return None
