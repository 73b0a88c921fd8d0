"""From pictures to scores: which answers a picture gets, and what they say together.

What a picture gets depends on the picture and on what is asked alone, not on the other pictures nor on the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from vqr1.answer import build_prompt, read_score
from vqr1.answering.answerer import Answerer
from vqr1.answering.seeds import answer_seed, picture_digest
from vqr1.answering.settings import Method as Method
from vqr1.rating_statistics import Moments, moments


@dataclass(frozen=True)
class Asked:
    """What is asked of each picture."""

    method: Method
    k: int  # answers to each picture; with ``until`` not looked at
    seed: int
    until: float | None = None  # answers are drawn until the standard error of the mean is below this
    most: int = 48  # answers at most, with ``until``


@dataclass(frozen=True)
class Answered:
    """The answers to one picture, in the order of their seeds."""

    texts: list[str]
    scores: list[float | None]  # None where unreadable; expected: the mean of the score's distribution
    stds: list[float | None]  # of the score given the reasoning: 0 where it was drawn, None where unreadable
    weights: list[float] | None  # expected: the probability that a readable score follows
    tokens: int  # drawn one by one, in all answers

    @property
    def moments(self) -> Moments:
        return moments(self.scores, self.stds, self.weights)

    @property
    def score(self) -> float | None:
        """None without a readable answer."""
        mean = self.moments.mean
        return None if math.isnan(mean) else mean

    @property
    def std(self) -> float | None:
        """Of one drawn answer; of one distribution that distribution's; None of one drawn answer."""
        known = self.moments
        if known.answers == 1 and self.weights is not None:
            return known.within
        return None if math.isnan(known.std) else known.std

    @property
    def reasoning(self) -> str:
        """The first answer with a score, else the first."""
        readable = (text for text, score in zip(self.texts, self.scores, strict=True) if score is not None)
        return next(readable, self.texts[0])


def answer_pictures(answerer: Answerer, pictures: Sequence[Image.Image], asked: Asked) -> list[Answered]:
    """The answers to pictures that fit the policy's grid, in order; of each picture and ``asked`` alone."""
    prompt = build_prompt(answerer.model.prompt)
    examples = [
        {"image": picture, "prompt": prompt, "image_id": i, "answer_seed": answer_seed(asked.seed, digest, k)}
        for i, picture in enumerate(pictures)
        for digest in [picture_digest(picture)]
        for k in range(asked.k)
    ]
    drawn = answerer.policy.draw(examples) if examples else []
    texts = answerer.processor.tokenizer.batch_decode(drawn, skip_special_tokens=True)
    answered = []
    for first in range(0, len(examples), asked.k):
        of_one = slice(first, first + asked.k)
        scores = [read_score(text) for text in texts[of_one]]
        stds = [None if score is None else 0.0 for score in scores]
        answered.append(Answered(texts[of_one], scores, stds, None, sum(map(len, drawn[of_one]))))
    return answered
