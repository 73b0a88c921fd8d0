"""Rows on what pictures show, from a file of the user's: mixed in, so that a policy does not forget to describe.

An object a line: ``query``, ``answer``, and the pictures, by their paths from the file's folder. Either ``image``, one
picture without a name, or DepictQA's ``image_ref``, ``image_A`` and ``image_B`` (arXiv 2312.08962), each of which may
be null. An ``id`` is not read, and any other field is refused: a picture under a misspelt name would not be shown.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vqr1.data.files import read_text, trouble
from vqr1.depiction import REFERENCE, TAGS
from vqr1.errors import MissingFileError, UserError
from vqr1.picture_prompts import Message, check_text, in_order, named
from vqr1.training.shown_examples import Example

SET = "content"  # which the rows are of, beside datasets
TAGGED = {"image_ref": REFERENCE, "image_A": TAGS[0], "image_B": TAGS[1]}
FIELDS = ("id", "query", "answer", "image", *TAGGED)


def read_content(path: Path) -> list[Example]:
    """The rows of a file. Raises UserError, naming file and line, for what is none, or whose pictures are missing."""
    if why := trouble(path):
        raise MissingFileError(f"depict.content={path} {why}; name a file with an object a line, or leave it out")
    lines = read_text(path).split("\n")  # not at U+2028, which JSON has in texts
    found = [_example(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise UserError(f"depict.content={path} has no rows; write an object a line, or leave it out")
    return found


def _example(line: str, path: Path, number: int) -> Example:
    where = f"{path}, line {number}"
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error}); write one object a line") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: {line[:80]!r} is no object; write one a line")
    if unknown := next((name for name in row if name not in FIELDS), None):
        raise UserError(
            f"{where}: {unknown} is {str(row[unknown])[:80]!r}, and a row has no such field; it has "
            f"{', '.join(FIELDS)}. Correct its name, or take it out"
        )
    query, answer = (_text(row, name, where) for name in ("query", "answer"))
    shown = {name: row[name] for name in ("image", *TAGGED) if row.get(name) is not None}
    if not shown or ("image" in shown and len(shown) > 1):
        raise UserError(
            f"{where}: its pictures are {', '.join(shown) or 'none'}; give image, or one or more of {', '.join(TAGGED)}"
        )
    pictures = tuple(_picture(value, name, path.parent, where) for name, value in shown.items())
    try:
        check_text(answer, "an answer")
        prompt: list[Message] = (
            in_order(1, query) if "image" in shown else named([TAGGED[name] for name in shown], query)
        )
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return Example(pictures, prompt, answer.strip(), f"{path.name}, line {number}", SET)


def _text(row: dict[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: {name} is {str(value)[:80]!r}; give a text, or leave the row out")
    return value


def _picture(value: Any, name: str, folder: Path, where: str) -> str:
    if not isinstance(value, str) or trouble(folder / value):
        raise UserError(
            f"{where}: {name} is {str(value)[:80]!r}, and there is no such picture in {folder}; put it there, or leave "
            "the row out"
        )
    return str(folder / value)
