"""Prompts with several pictures: each picture is named where it stands, and the question follows.

Co-Instruct (arXiv 2402.16641) names pictures in order, DepictQA (arXiv 2312.08962) by tags. A message's content is a
list of texts and of places for pictures, which chat templates print in this order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from vqr1.errors import UserError

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
# A token that stands for no text, such as <|image_pad|>, would be a place for a picture that there is none for.
MODEL_TOKEN = re.compile(r"<\|[^<>|]*\|>")

Message = dict[str, Any]


def in_order(pictures: int, question: str) -> list[Message]:
    """One user message: ``The first image: [picture] The second image: [picture]``, then the question on a line of its
    own. A single picture stands before the question without a name.

    Raises UserError for no picture or more than ten, and what `named` raises.

        >>> [part.get("text", "[]") for part in in_order(2, "Which is sharper?")[0]["content"]]
        ['The first image: ', '[]', ' The second image: ', '[]', '\\nWhich is sharper?']
        >>> [part.get("text", "[]") for part in in_order(1, "Is it sharp?")[0]["content"]]
        ['[]', 'Is it sharp?']
    """
    if not 1 <= pictures <= len(ORDINALS):
        raise UserError(f"a question about {pictures} pictures: 1 to {len(ORDINALS)} can be named in order")
    if pictures == 1:
        check_text(question)
        return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    return named([f"The {ordinal} image" for ordinal in ORDINALS[:pictures]], question)


def named(names: Sequence[str], question: str) -> list[Message]:
    """One user message: each name, a colon and its picture, then the question on a line of its own.

    Raises UserError for a name or question that holds a token of the model's own.

        >>> named(["Image A"], "Is it sharp?")[0]["content"][0]
        {'type': 'text', 'text': 'Image A: '}
    """
    content: list[dict[str, str]] = []
    for i, name in enumerate(names):
        check_text(name)
        content += [{"type": "text", "text": f"{' ' if i else ''}{name}: "}, {"type": "image"}]
    check_text(question)
    return [{"role": "user", "content": [*content, {"type": "text", "text": f"\n{question}"}]}]


def number_of_pictures(prompt: list[Message]) -> int:
    """For how many pictures a prompt of this module has places.

    >>> number_of_pictures(in_order(3, "Which is sharper?"))
    3
    """
    return sum(part["type"] == "image" for part in prompt[0]["content"])


def check_text(text: str, what: str = "a question") -> None:
    """Raises UserError for a text that holds a token of the model's own.

    >>> check_text("Is it sharp?")
    """
    if token := MODEL_TOKEN.search(text):
        raise UserError(
            f"{what} holds {token[0]}, which tokenizers read as a token of the model's own and no text; take it "
            "out. Pictures are put where they are named"
        )
