"""Q-Bench2 (Q-Bench+, arXiv 2402.07116): questions about two pictures.

Rows {id, image1, image2, question, option0 to option3, question_type, question_concern, correct_choice}. Options are
padded with "N/A"; correct_choice is a letter, of the options with their padding, and hidden in the test part.
"""

from __future__ import annotations

from string import ascii_uppercase

from vqr1.asking.choice_question import NO_OPTION, ChoiceQuestion, checked, right_option
from vqr1.asking.rows import Pictures, Row

OPTIONS = ("option0", "option1", "option2", "option3")


def fits(row: Row) -> bool:
    return {"image1", "image2", "option0"} <= set(row.fields)


def read(row: Row, pictures: Pictures) -> ChoiceQuestion:
    """Raises UserError, naming file and row."""
    shown = [pictures.find(row, name, row.fields[name]) for name in ("image1", "image2")]
    kept = [name for name in OPTIONS if not _is_padding(row, name)]
    options = [row.text(name) for name in kept]
    right = _right(row, kept, options)
    return checked(row, shown, row.text("question"), options, right, ("question_type", "question_concern"))


def _is_padding(row: Row, name: str) -> bool:
    value = row.fields.get(name)
    return value is None or (isinstance(value, str) and value.strip() == NO_OPTION)


def _right(row: Row, kept: list[str], options: list[str]) -> int | None:
    said = row.fields.get("correct_choice")
    letter = said.strip() if isinstance(said, str) else ""
    if len(letter) == 1 and letter in ascii_uppercase[: len(OPTIONS)]:
        name = OPTIONS[ascii_uppercase.index(letter)]
        if name not in kept:
            raise row.wrong(f"correct_choice {letter} is {name}, which is padding; correct the row, or leave it out")
        return kept.index(name)
    return right_option(row, "correct_choice", options)
