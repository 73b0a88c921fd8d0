"""From pictures to scores: which answers a picture gets, and what they say together.

What a picture gets depends on the picture and on what is asked alone, not on the other pictures nor on the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from PIL import Image

from vqr1.answer import read_score
from vqr1.answering.answerer import Answerer
from vqr1.answering.seeds import answer_seed, picture_digest
from vqr1.answering.settings import MOST, AnswerSettings, conversation
from vqr1.answering.settings import Method as Method
from vqr1.levels import ENDING, LEVELS, OPENING
from vqr1.policy.expected import expected_scores, tokens_before_score
from vqr1.policy.level_scores import level_scores
from vqr1.rating_statistics import Moments, StoppingRule, moments, score_and_std
from vqr1.rollout.engine import vision_tokens
from vqr1.rollout.offline import Policy, encode_prompts

Shown = Image.Image | Sequence[Image.Image]  # a picture alone, or after others

READABLE = 0.5  # the probability of a readable score from which an answer that was not drawn to its end is readable


@dataclass(frozen=True)
class Asked:
    """What is asked of each picture."""

    method: Method
    k: int  # answers to each picture; with ``until`` not looked at
    seed: int
    until: float | None = None  # answers are drawn until the standard error of the mean is at most this
    most: int = MOST  # answers at most, with ``until``

    @classmethod
    def of(cls, settings: AnswerSettings) -> Asked:
        return cls(settings.method, settings.answers, settings.seed, settings.until, settings.max_k or MOST)


@dataclass(frozen=True)
class Answered:
    """The answers to one picture, in the order of their seeds."""

    texts: list[str]  # expected: what stands before the score; levels: with the likeliest word
    scores: list[float | None]  # None where unreadable; expected, levels: the mean of the score's distribution
    stds: list[float | None]  # of the score given the reasoning: 0 where it was drawn, None where unreadable
    weights: list[float] | None  # expected: the probability that a readable score follows; levels: 1
    tokens: int  # drawn one by one, in all answers
    passes: float | None = None  # sequences that the policy read or wrote: one an answer, one a distribution

    @property
    def moments(self) -> Moments:
        return moments(self.scores, self.stds, self.weights)

    @property
    def score(self) -> float | None:
        """None without a readable answer."""
        return self._score_and_std[0]

    @property
    def std(self) -> float | None:
        """Of one drawn answer; of a single distribution that distribution's; None of a single drawn answer."""
        return self._score_and_std[1]

    @property
    def reasoning(self) -> str:
        """The first answer with a score, else the first."""
        readable = (text for text, score in zip(self.texts, self.scores, strict=True) if score is not None)
        return next(readable, self.texts[0])

    @property
    def _score_and_std(self) -> tuple[float | None, float | None]:
        exact = self.weights is not None
        return score_and_std(self.scores, self.stds if exact else None, self.weights)


class _Answer(NamedTuple):
    text: str
    score: float | None
    std: float | None
    weight: float
    tokens: int
    passes: int


def answer_pictures(
    answerer: Answerer, pictures: Sequence[Shown], asked: Asked, at_once: int | None = None
) -> list[Answered]:
    """The answers to pictures that fit the policy's grid, in order; of each picture and ``asked`` alone.

    A picture that is shown with others is the last of them: its reference comes before it. The noise is the picture's.
    ``at_once``: answers that are asked for together, None: all. By the methods expected and levels the attention of a
    policy under transformers is another during the call, so no other thread may use it then.
    """
    prompt = conversation(asked.method, answerer.model.prompt)
    shown = [[each] if isinstance(each, Image.Image) else list(each) for each in pictures]
    digests = [picture_digest(each[-1]) for each in shown]
    rule = None if asked.until is None else StoppingRule(asked.until, most=asked.most)
    answer: Callable[[Answerer, list[dict[str, Any]]], list[_Answer]]
    answer = {Method.expected: _expected, Method.levels: _levels}.get(asked.method, _drawn)
    answers: list[list[_Answer]] = [[] for _ in pictures]
    while True:
        missing = [
            (i, answer_seed(asked.seed, digests[i], k))
            for i, so_far in enumerate(answers)
            for k in range(len(so_far), _wanted(so_far, rule) if rule else asked.k)
        ]
        if not missing:
            return [_together(each, asked.method) for each in answers]
        step = at_once or len(missing)
        for first in range(0, len(missing), step):
            now = missing[first : first + step]
            examples = [{"images": shown[i], "prompt": prompt, "image_id": i, "answer_seed": seed} for i, seed in now]
            for (i, _), each in zip(now, answer(answerer, examples), strict=True):
                answers[i].append(each)


def _wanted(so_far: Sequence[_Answer], rule: StoppingRule) -> int:
    return rule.wanted([each.score for each in so_far], [each.weight for each in so_far])


def _together(answers: Sequence[_Answer], method: Method) -> Answered:
    return Answered(
        texts=[each.text for each in answers],
        scores=[each.score for each in answers],
        stds=[each.std for each in answers],
        weights=[each.weight for each in answers] if method in (Method.expected, Method.levels) else None,
        tokens=sum(each.tokens for each in answers),
        passes=sum(each.passes for each in answers),
    )


def _drawn(answerer: Answerer, examples: list[dict[str, Any]]) -> list[_Answer]:
    """Each answer's own score."""
    drawn = answerer.policy.draw(examples)
    texts = answerer.processor.tokenizer.batch_decode(drawn, skip_special_tokens=True)
    scores = [read_score(text) for text in texts]
    return [
        _Answer(text, score, None if score is None else 0.0, 1.0, len(tokens), 1)
        for text, score, tokens in zip(texts, scores, drawn, strict=True)
    ]


def _expected(answerer: Answerer, examples: list[dict[str, Any]]) -> list[_Answer]:
    """The distribution of each answer's score, given its reasoning; what follows the score's place is not drawn."""
    policy, tokenizer = answerer.policy, answerer.processor.tokenizer
    assert isinstance(policy, Policy), "the distribution is read off the policy under transformers"
    drawn = policy.draw(examples, enough=_has_place)
    found = expected_scores(
        policy.model,
        tokenizer,
        encode_prompts(answerer.processor, examples).to(policy.model.device),
        drawn,
        never=vision_tokens(tokenizer),
        temperature=policy.temperature,
    )
    masses, means, stds = (each.tolist() for each in (found.mass_readable_R, found.mean_R, found.std_R))
    answers = []
    for tokens, mass, mean, std in zip(drawn, masses, means, stds, strict=True):
        pieces = tokenizer.batch_decode([[token] for token in tokens], skip_special_tokens=True)
        text = tokenizer.decode(tokens[: tokens_before_score(pieces)], skip_special_tokens=True)
        score, spread = (mean, std) if mass >= READABLE else (None, None)
        answers.append(_Answer(text, score, spread, min(mass, 1.0), len(tokens), 2))  # rounding may leave more than 1
    return answers


def _levels(answerer: Answerer, examples: list[dict[str, Any]]) -> list[_Answer]:
    """The distribution of the level over the five words, nothing being drawn."""
    policy = answerer.policy
    assert isinstance(policy, Policy), "the distribution is read off the policy under transformers"
    inputs = encode_prompts(answerer.processor, examples).to(policy.model.device)
    found = level_scores(policy.model, answerer.processor.tokenizer, inputs)
    likeliest = found.probabilities.argmax(1).tolist()
    return [
        _Answer(f"{OPENING} {LEVELS[best]}{ENDING}", score, std, 1.0, 0, 1)
        for best, score, std in zip(likeliest, found.score.tolist(), found.std.tolist(), strict=True)
    ]


def _has_place(texts: Sequence[str]) -> bool:
    """Whether the place of the number, after all white space, is known."""
    before = tokens_before_score(texts)
    return before is not None and before < len(texts)
