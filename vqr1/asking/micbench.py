"""MICBench (Co-Instruct, arXiv 2402.16641): questions about three or four pictures.

Rows as LLVisionQA's, with a list of pictures in ``img_paths``, ``images`` or ``img_path``.
"""

from __future__ import annotations

from vqr1.asking.choice_question import ChoiceQuestion, checked, right_option
from vqr1.asking.rows import Pictures, Row

NAMES = ("img_path", "img_paths", "images")


def fits(row: Row) -> bool:
    return "candidates" in row.fields and any(isinstance(row.fields.get(name), list) for name in NAMES)


def read(row: Row, pictures: Pictures) -> ChoiceQuestion:
    """Raises UserError, naming file and row; two of the fields that name other pictures are refused as well."""
    given = {name: row.fields[name] for name in NAMES if row.fields.get(name) is not None}
    (name, named), *others = given.items()
    if any(value != named for _, value in others):
        raise row.wrong(f"{' and '.join(given)} name different pictures; keep one of these fields")
    if not isinstance(named, list):
        raise row.wrong(f"{name} is {named!r}; give a list of pictures, or leave the row out")
    shown = [pictures.find(row, name, each) for each in named]
    options = row.texts("candidates")
    right = right_option(row, "correct_ans", options)
    return checked(row, shown, row.text("question"), options, right, ("type", "concern"))
