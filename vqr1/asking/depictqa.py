"""DepictQA's comparisons (arXiv 2312.08962): which of two pictures is better, with or without their reference.

Rows {id, image_ref, image_A, image_B, query, answer}; a null reference means without. The answer is "Image A" or
"Image B", alone or as the begin of a sentence.
"""

from __future__ import annotations

import re

from vqr1.asking.rows import Pictures, Row
from vqr1.data.sample import Pair

ANSWER = re.compile(r"Image ([AB])\b(?!.*Image [AB]\b)", flags=re.DOTALL)


def fits(row: Row) -> bool:
    return {"image_A", "image_B", "answer"} <= set(row.fields)


def read(row: Row, pictures: Pictures) -> Pair:
    """The pair, with 1 as the share of people who prefer the second where "Image B" is right; no reference is "".

    Raises UserError, naming file and row.
    """
    reference = row.fields.get("image_ref")
    shown = "" if reference is None else pictures.find(row, "image_ref", reference)
    first, second = (pictures.find(row, name, row.fields[name]) for name in ("image_A", "image_B"))
    if first == second:
        raise row.wrong(f"image_A and image_B are both {first}; leave the row out")
    said = row.text("answer").strip()
    found = ANSWER.match(said)
    if not found:
        raise row.wrong(
            f'answer {said[:80]!r} does not begin with "Image A" or "Image B" and name no other; short answers of '
            "comparisons are read, leave the row out"
        )
    identity = row.fields.get("id")
    return Pair(
        reference=shown,
        first=first,
        second=second,
        preference=float(found[1] == "B"),
        dataset="depictqa",
        group=shown,
        pair_id=str(row.number if identity is None else identity),
    )
