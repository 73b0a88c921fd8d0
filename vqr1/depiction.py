"""Questions on pictures that are named by tags, with the answers that opinion scores give, in several phrasings.

DepictQA (Depicting beyond scores, arXiv 2312.08962) names pictures Reference Image, Image A and Image B, asks for a
description, a comparison, or one with its reasons, and asks a part of its questions for a short answer. Its texts are
people's and a language model's; these need nothing but scores, and where a dataset knows it the distortion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vqr1.picture_prompts import Message, named

A, B, REFERENCE = "Image A", "Image B", "Reference Image"
TAGS = (A, B)
# A short answer that names a picture: this, a blank, one of the letters, and a full stop.
OPENING, LETTERS = "Image", ("A", "B")

WHICH = (
    "Which image has the better quality?",
    "Which of Image A and Image B looks better?",
    "Compare the quality of Image A and Image B. Which one is higher?",
)
WHICH_SHORT = " Answer with Image A or Image B."
QUESTION = WHICH[0] + WHICH_SHORT  # by whose short answer a policy is read
WHICH_ANSWERS = ("{better} has the better quality.", "The quality of {better} is higher than that of {worse}.")
AMOUNT = (
    "How does the quality of Image B compare with that of Image A?",
    "How much better or worse than Image A is Image B?",
    "By how much do Image A and Image B differ in quality?",
)
AMOUNT_SHORT = " Answer for Image B: much worse, worse, similar, better or much better."
# In the order of vqr1.comparison.words.WORDS.
AMOUNTS = ("much worse", "worse", "similar", "better", "much better")
DISTORTION = (
    "What degrades Image A?",
    "Describe the distortion of Image A.",
    "Which distortion does Image A have, and how strong is it?",
)
DISTORTION_SHORT = " Name the distortion and its strength."


@dataclass(frozen=True)
class Distortion:
    """What a dataset knows of a picture."""

    name: str  # as a noun: "Gaussian blur"
    level: int  # of strength, from 1
    levels: int

    def __str__(self) -> str:
        return f"{self.name}, strength {self.level} of {self.levels}"


@dataclass(frozen=True)
class Question:
    """A question on tagged pictures and its answer."""

    prompt: list[Message]
    answer: str


def ask_which(reference: bool = False) -> list[Message]:
    """The one question, of short answer, by which a policy is read: which of two pictures is better."""
    return _asked(TAGS, reference, QUESTION)


def which_is_better(
    second: bool,
    draw: np.random.Generator,
    *,
    short: bool,
    reference: bool = False,
    why: tuple[Distortion, Distortion] | None = None,
) -> Question:
    """Whether Image A or Image B is better.

    Args:
        second: Image B is the better one.
        draw: of the phrasing.
        short: asked for a short answer.
        reference: the reference is shown before both.
        why: the distortions of both, which a long answer names as reasons.

        >>> which_is_better(True, np.random.default_rng(0), short=True).answer
        'Image B.'
    """
    better, worse = (B, A) if second else (A, B)
    asked = _of(WHICH, draw) + (WHICH_SHORT if short else "")
    answer = f"{better}." if short else _of(WHICH_ANSWERS, draw).format(better=better, worse=worse)
    if why is not None and not short:
        answer += f" Image A has {why[0]}, and Image B has {why[1]}."
    return Question(_asked(TAGS, reference, asked), answer)


def how_much_better(word: int, draw: np.random.Generator, *, short: bool, reference: bool = False) -> Question:
    """How Image B compares with Image A; ``word`` is an index into `AMOUNTS`. Other arguments as above.

    >>> how_much_better(0, np.random.default_rng(0), short=False).answer
    'Image B is much worse than Image A.'
    """
    amount, similar = AMOUNTS[word], AMOUNTS[word] == "similar"
    full = "Image B is similar to Image A in quality." if similar else f"Image B is {amount} than Image A."
    asked = _of(AMOUNT, draw) + (AMOUNT_SHORT if short else "")
    return Question(_asked(TAGS, reference, asked), f"{amount.capitalize()}." if short else full)


def what_degrades(found: Distortion, draw: np.random.Generator, *, short: bool, reference: bool = False) -> Question:
    """The distortion of a picture alone, which is Image A. Arguments as above.

    >>> what_degrades(Distortion("JPEG", 2, 5), np.random.default_rng(0), short=False).answer
    'Image A is degraded by JPEG, strength 2 of 5.'
    """
    asked = _of(DISTORTION, draw) + (DISTORTION_SHORT if short else "")
    answer = str(found) if short else f"Image A is degraded by {found}"
    return Question(_asked((A,), reference, asked), f"{answer}.")


def _asked(tags: tuple[str, ...], reference: bool, question: str) -> list[Message]:
    return named([*([REFERENCE] if reference else []), *tags], question)


def _of(phrasings: tuple[str, ...], draw: np.random.Generator) -> str:
    return phrasings[int(draw.integers(len(phrasings)))]
