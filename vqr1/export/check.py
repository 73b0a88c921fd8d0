"""Ask an exported folder in a process that has no vqr1, with the lines that its card shows."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vqr1.data.pictures import fit_to_grid
from vqr1.errors import UserError
from vqr1.export.asking import transformers_lines

SIZE = (224, 168)  # of the picture that is asked about, before it is fitted: wide enough to show a side that is swapped
WITHOUT = "import sys\nsys.modules['vqr1'] = None  # importing it fails\n"
SHOWN = 2000  # characters of the failed process's last words


def check_picture(min_pixels: int, max_pixels: int) -> Image.Image:
    """A picture that differs in every corner, of a size that no processor resizes."""
    width, height = SIZE
    across, down = np.linspace(0, 255, width), np.linspace(0, 255, height)[:, None]
    pixels = np.stack([across + 0 * down, down + 0 * across, (across + down) % 256], axis=2)
    return fit_to_grid(Image.fromarray(pixels.astype(np.uint8)), min_pixels, max_pixels)


def check_reference(picture: Image.Image) -> Image.Image:
    """Another picture of that size, for a policy that is shown one before it."""
    return ImageOps.mirror(picture)


def ask_without_vqr1(
    folder: Path,
    prompt: str,
    picture: Image.Image,
    reference: Image.Image | None = None,
    lines: Callable[..., str] = transformers_lines,
) -> str:
    """The answer of an exported folder to a picture, by transformers alone, offline. ``lines``: of the card.

    ``reference``: what it is shown first.

    Raises UserError, with the process's last words, where the folder cannot be asked.
    """
    with tempfile.TemporaryDirectory() as place:
        photo, reply = Path(place) / "photo.png", Path(place) / "answer.txt"
        picture.save(photo)
        shown = [repr(str(photo))]
        if reference is not None:
            original = Path(place) / "original.png"
            reference.save(original)
            shown.append(repr(str(original)))
        asking = lines(prompt, repr(str(folder.resolve())), *shown)
        kept = f"from pathlib import Path\nPath({str(reply)!r}).write_text(answer, encoding='utf-8')\n"
        done = subprocess.run(
            [sys.executable, "-I", "-c", WITHOUT + asking + kept],
            cwd=place,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode or not reply.is_file():
            raise UserError(
                f"{folder} cannot be asked by transformers alone (exit code {done.returncode}), and is not what it "
                f"should be:\n{done.stderr.strip()[-SHOWN:]}"
            )
        return reply.read_text(encoding="utf-8")
