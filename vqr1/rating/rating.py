"""A picture's rating."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ConfigDict

from vqr1.answering.methods import Answered


@dataclass(frozen=True)
class Rating:
    """What a policy says of one picture."""

    __pydantic_config__ = ConfigDict(strict=True, allow_inf_nan=False)  # as it is read from files
    score: float | None  # from 1, bad, to 5, excellent; None without a readable answer
    std: float | None  # standard deviation of one drawn answer; None where it is not known
    scores: list[float | None]  # of the answers in order, None where one is unreadable
    reasoning: str  # the first readable answer, else the first; where the picture could not be opened: why
    status: str  # ok; unreadable: answers, none of them a score; failed: the picture could not be opened
    answers: int  # that were drawn
    tokens: int  # of these answers


def rating_of(answered: Answered) -> Rating:
    """The rating that the answers to one picture come to."""
    score, scores = answered.score, answered.scores
    status = "unreadable" if score is None else "ok"
    return Rating(score, answered.std, scores, answered.reasoning, status, len(scores), answered.tokens)


def failed(why: str) -> Rating:
    """Of a picture that could not be opened."""
    return Rating(None, None, [], why, "failed", 0, 0)
