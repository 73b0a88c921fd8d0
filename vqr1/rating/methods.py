"""From pictures to ratings: a function for each :class:`vqr1.rating.rating.Method`.

A method gets pictures that fit the policy's grid and returns a rating for each, in order, which depends on the picture
and on what is asked alone, not on the other pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from vqr1.answer import build_prompt, read_score
from vqr1.answering.answerer import Answerer
from vqr1.evaluation.results import first_readable, mean_and_std
from vqr1.rating.rating import Method, Rating
from vqr1.rating.seeds import answer_seed, picture_digest


@dataclass(frozen=True)
class Asked:
    k: int  # answers to each picture
    seed: int


Rate = Callable[[Answerer, Sequence[Image.Image], Asked], list[Rating]]


def by_answers(answerer: Answerer, pictures: Sequence[Image.Image], asked: Asked) -> list[Rating]:
    """The mean score of k answers, each of its own seed; of one answer where the answerer is greedy."""
    prompt = build_prompt(answerer.model.prompt)
    examples = [
        {"image": picture, "prompt": prompt, "image_id": i, "answer_seed": answer_seed(asked.seed, digest, k)}
        for i, picture in enumerate(pictures)
        for digest in [picture_digest(picture)]
        for k in range(asked.k)
    ]
    texts = answerer.policy.answer(examples) if examples else []
    return [rating_of(texts[i * asked.k : (i + 1) * asked.k]) for i in range(len(pictures))]


def rating_of(answers: Sequence[str]) -> Rating:
    """The rating that the answers to one picture, one or more, come to."""
    scores = [read_score(text) for text in answers]
    mean, std = mean_and_std(scores)
    return Rating(mean, std, scores, first_readable(answers, scores), "unreadable" if mean is None else "ok")


METHODS: dict[Method, Rate] = {Method.greedy: by_answers, Method.mean: by_answers}
