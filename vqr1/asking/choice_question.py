"""A question with options about pictures, and what its authors say is the right option."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Any

from vqr1.asking.rows import Row
from vqr1.errors import UserError
from vqr1.picture_prompts import MODEL_TOKEN, ORDINALS
from vqr1.questions import check_question, read_letter

NO_OPTION = "N/A"  # what pads the options of a table


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question as it is asked."""

    row: int  # of its file, from 1
    pictures: tuple[str, ...]  # paths
    question: str
    options: tuple[str, ...]
    right: int | None  # index of an option; None where the authors keep it to themselves
    kinds: dict[str, str]  # by what accuracies are told apart: a field of the row and its value
    fields: dict[str, Any] = field(repr=False)  # the row as it came

    def rotated(self, k: int) -> list[str]:
        """The options in rotation k (:func:`vqr1.questions.rotations`)."""
        return [*self.options[k:], *self.options[:k]]

    def wording(self, options: list[str]) -> str:
        """The question with its options in an order, as Q-Bench and Co-Instruct ask it."""
        listed = [f"{letter}. {option}" for letter, option in zip(ascii_uppercase, options, strict=False)]
        asks = "Answer with the option's letter from the given choices directly."
        return "\n".join([self.question, *listed, asks])


def checked(
    row: Row, pictures: list[str], question: str, options: list[str], right: int | None, kinds: tuple[str, ...]
) -> ChoiceQuestion:
    """The question of a row. ``kinds`` are fields of it, which may be missing.

    Raises UserError, naming file and row, for options that cannot be told apart, fewer than two, a right answer that is
    none of them, a number of pictures that cannot be named, or a text with a token of the model's own.
    """
    try:
        check_question(options, right)
    except UserError as error:
        raise row.wrong(f"{error}. Correct the row, or leave it out") from error
    if not 1 <= len(pictures) <= len(ORDINALS):
        raise row.wrong(f"{len(pictures)} pictures; 1 to {len(ORDINALS)} can be asked about, leave the row out")
    for text in (question, *options):
        if token := MODEL_TOKEN.search(text):
            raise row.wrong(f"{token[0]} in {text[:80]!r} is a token of the model's own and no text; take it out")
    named = {name: str(row.fields[name]) for name in kinds if row.fields.get(name) is not None}
    return ChoiceQuestion(row.number, tuple(pictures), question, tuple(options), right, named, row.fields)


def right_option(row: Row, name: str, options: list[str]) -> int | None:
    """The option that a field names: by its text, by its letter, or by both ("B. Blurry"). None where it is hidden.

    Raises UserError for what is none of the options, and for what names one by its text and another by its letter.
    """
    value = row.fields.get(name)
    if value is None or (isinstance(value, str) and value.strip() in ("", NO_OPTION)):
        return None
    said = row.text(name)
    plain = [" ".join(option.split()) for option in options]
    by_text = plain.index(" ".join(said.split())) if " ".join(said.split()) in plain else None
    letter = re.fullmatch(r"[A-Z]", said.strip())
    by_letter = ascii_uppercase.index(letter[0]) if letter else read_letter(said, options)
    if by_letter is not None and by_letter >= len(options):
        by_letter = None
    if by_text is not None and by_letter is not None and by_text != by_letter:
        raise row.wrong(
            f"{name} {said!r} is the text of one option and the letter of another; write that option's text otherwise, "
            "or leave the row out"
        )
    found = by_letter if by_text is None else by_text
    if found is None:
        raise row.wrong(f"{name} {said!r} is none of the options {options}; correct the row, or leave it out")
    return found
