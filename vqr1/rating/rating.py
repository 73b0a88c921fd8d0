"""A picture's rating, and the ways to come to one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Method(Enum):
    greedy = "greedy"  # one answer, the likeliest token at every place
    mean = "mean"  # the mean of k drawn answers


@dataclass(frozen=True)
class Rating:
    """What a policy says of one picture."""

    score: float | None  # from 1, bad, to 5, excellent; None without a readable answer
    std: float | None  # sample standard deviation of the readable scores; None for fewer than two
    scores: list[float | None]  # of the answers in order, None where one is unreadable
    reasoning: str  # the first readable answer, else the first; where the picture could not be opened: why
    status: str  # ok; unreadable: answers, none of them a score; failed: the picture could not be opened


def failed(why: str) -> Rating:
    """Of a picture that could not be opened."""
    return Rating(None, None, [], why, "failed")
