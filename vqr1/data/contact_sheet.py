"""A contact sheet: pictures over the whole range of opinion scores, worst first, each with its score."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from vqr1.data.pictures import open_picture
from vqr1.data.sample import Sample
from vqr1.errors import UserError

TILE = 220  # pixels of a picture's longer side
MARGIN = 12
TEXT = 34  # two lines under each picture


def spread_over(samples: Sequence[Sample], count: int) -> list[Sample]:
    """``count`` records at even steps through the list sorted by score, both ends included."""
    ordered = sorted(samples, key=lambda sample: (sample.mos, sample.image_id))
    if count >= len(ordered):
        return ordered
    if count == 1:
        return [ordered[len(ordered) // 2]]
    return [ordered[round(i * (len(ordered) - 1) / (count - 1))] for i in range(count)]


def contact_sheet(samples: Sequence[Sample], title: str, columns: int = 6) -> Image.Image:
    """The pictures of ``samples`` in rows, with score, spread and name under each.

    Raises UserError for an unreadable picture, or where there is none.
    """
    if not samples:
        raise UserError(f"{title}: no pictures to show")
    columns = min(columns, len(samples))
    rows = math.ceil(len(samples) / columns)
    head = 40
    size = MARGIN + columns * (TILE + MARGIN), head + rows * (TILE + TEXT + MARGIN)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, fill="black", font=ImageFont.load_default(16))
    for i, sample in enumerate(samples):
        left = MARGIN + i % columns * (TILE + MARGIN)
        top = head + i // columns * (TILE + TEXT + MARGIN)
        _place(sheet, draw, sample, left, top)
    return sheet


def _place(sheet: Image.Image, draw: ImageDraw.ImageDraw, sample: Sample, left: int, top: int) -> None:
    picture = open_picture(sample.image, TILE**2)
    picture.thumbnail((TILE, TILE))
    sheet.paste(picture, (left + (TILE - picture.width) // 2, top + (TILE - picture.height) // 2))
    spread = "" if sample.mos_std is None else f" ± {sample.mos_std:.3g}"
    draw.text((left, top + TILE), f"{sample.mos:.4g}{spread}", fill="black", font=ImageFont.load_default(14))
    name = sample.image_id.partition("/")[2]
    draw.text((left, top + TILE + 17), name[-32:], fill="grey", font=ImageFont.load_default(11))
