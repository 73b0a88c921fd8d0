"""How a policy is asked which of two pictures is better, and how its answer is read: three forms of the question.

Reading is strict: case, white space and a full stop at the end aside, an answer is one of the phrases below or it is
unreadable. Nothing is looked for inside a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from vqr1.comparison.words import ANSWER, QUESTION, SIMILAR, WORDS
from vqr1.errors import UserError
from vqr1.picture_prompts import Message, in_order, named
from vqr1.questions import Choice

_DRAWS = r"(?:a )?(?:draw|tie)|similar|equal|(?:the )?same|neither"
_BETTER = r"(?: (?:is|looks) better| (?:is of|has) (?:the )?better quality)?"
_PLACES = re.compile(rf"(?:the )?(first|second)(?: (?:image|picture|one))?{_BETTER}|({_DRAWS})")
_TAGS = re.compile(rf"(?:image )?(a|b){_BETTER}|({_DRAWS})")
_WORD = re.compile(rf"(?:{ANSWER.lower()} )?({'|'.join(WORDS)})")


class FormName(StrEnum):
    """Which question is asked.

    >>> FormName("which") is FormName.which
    True
    """

    which = "which"  # first or second, as in the two-alternative protocol
    compared = "compared"  # Compare2Score's, answered by one of five words
    tagged = "tagged"  # DepictQA's, Image A or Image B


@dataclass(frozen=True)
class Form:
    """A form of the question."""

    ask: Callable[[bool], list[Message]]  # whether the reference is shown first; then the two pictures, in order
    read: Callable[[str], Choice]


def read_place(text: str) -> Choice:
    """Which picture an answer in words names.

    >>> [str(read_place(text)) for text in ("The first image.", "second", "Draw", "first, or second")]
    ['first', 'second', 'draw', 'unreadable']
    """
    found = _PLACES.fullmatch(_plain(text))
    return Choice.unreadable if not found else Choice(found[1]) if found[1] else Choice.draw


def read_tag(text: str) -> Choice:
    """The same by tags, of which Image A is the first shown.

    >>> [str(read_tag(text)) for text in ("Image B", "a", "Image A has better quality.", "Image A and Image B")]
    ['second', 'first', 'first', 'unreadable']
    """
    found = _TAGS.fullmatch(_plain(text))
    return Choice.unreadable if not found else {"a": Choice.first, "b": Choice.second}.get(found[1], Choice.draw)


def read_word(text: str) -> Choice:
    """The same by Compare2Score's word for the second picture.

    >>> [str(read_word(text)) for text in ("The quality of the second image is better.", "similar", "inferior", "good")]
    ['second', 'draw', 'first', 'unreadable']
    """
    found = _WORD.fullmatch(_plain(text))
    if not found:
        return Choice.unreadable
    above = WORDS.index(found[1]) - SIMILAR
    return Choice.second if above > 0 else Choice.first if above < 0 else Choice.draw


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).removesuffix(".")


def _which(reference: bool) -> list[Message]:
    names = ["The reference image"] * reference + ["The first image", "The second image"]
    like = "looks more like the reference image" if reference else "has the better quality"
    return named(names, f"Which of the two images {like}? Answer with one word: first, second or draw.")


def _tagged(reference: bool) -> list[Message]:
    names = ["Reference Image"] * reference + ["Image A", "Image B"]
    beside = ", compared with the Reference Image" if reference else ""
    return named(names, f"Which image has the better quality{beside}? Answer with Image A, Image B or draw.")


def _compared(reference: bool) -> list[Message]:
    if reference:
        raise UserError("--form compared has no reference image; give --no-reference, or another form")
    return in_order(2, QUESTION)


FORMS = {
    FormName.which: Form(_which, read_place),
    FormName.compared: Form(_compared, read_word),
    FormName.tagged: Form(_tagged, read_tag),
}
