"""Votes on which of two pictures is better, and the scores that follow, within each reference.

DepictQA (arXiv 2312.08962) lets a policy vote on all pairs of pictures of one reference. Answers in, scores out: numpy,
no model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from vqr1.evaluation.correlation import is_constant, srcc

FEWEST_PICTURES = 3  # of a reference, for a correlation


def vote_of_letters(logit_first: ArrayLike, logit_second: ArrayLike) -> np.ndarray:
    """The first picture's part of a vote with confidence: the probability of its letter over the two letters alone.

        v = exp(x_first) / (exp(x_first) + exp(x_second))

    Whichever letter is chosen has its probability c, and the other 1 - c. Logits or log-probabilities, broadcast.

        >>> float(vote_of_letters(2.0, 2.0))
        0.5
    """
    first, second = np.asarray(logit_first, dtype=float), np.asarray(logit_second, dtype=float)
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("a letter's logit is NaN or infinite: count that vote as unreadable")
    return expit(first - second)


def scores_of_votes(pairs: ArrayLike, votes: ArrayLike, pictures: int) -> tuple[np.ndarray, np.ndarray]:
    """Each picture's score: the mean of its parts of the votes it took part in.

    Source: DepictQA's evaluation by comparisons of all pairs of a reference.

    Args:
        pairs: (N, 2) indices of pictures. A pair that is asked in both orders comes twice.
        votes: (N,) the first picture's part: 1 where it won, 0 where the second did, 1/2 for a draw, the probability
            of its letter (`vote_of_letters`), NaN where the answer was unreadable. The second picture has the rest.
        pictures: how many there are.

    Returns:
        Scores (pictures,) on [0, 1], NaN without a vote, and the number of votes of each (pictures,).

    Raises:
        ValueError: shapes that do not match, a vote that is not on [0, 1], a picture that is not there or against
            itself.

        >>> scores, votes = scores_of_votes([[0, 1], [1, 2], [2, 0]], [1, 0.5, np.nan], 4)
        >>> scores.tolist(), votes.tolist()
        ([1.0, 0.25, 0.5, nan], [1, 2, 1, 0])
    """
    who = as_pairs(pairs, pictures)
    part = np.asarray(votes, dtype=float)
    if part.shape != (len(who),):
        raise ValueError(f"{part.shape} votes for {len(who)} pairs: one each")
    readable = ~np.isnan(part)
    if not ((part[readable] >= 0) & (part[readable] <= 1)).all():
        raise ValueError("a vote is not on [0, 1]: give the first picture's part, and NaN where unreadable")
    who, part = who[readable], part[readable]
    total = np.bincount(who[:, 0], part, pictures) + np.bincount(who[:, 1], 1 - part, pictures)
    counted = np.bincount(who.flatten(), minlength=pictures)
    return np.divide(total, counted, out=np.full(pictures, math.nan), where=counted > 0), counted


@dataclass(frozen=True)
class ReferenceCorrelation:
    """SRCC within each reference, and the references that have none.

    >>> ReferenceCorrelation({"a": 1.0, "b": 0.5}, few=2, constant_mos=0, constant_scores=1, unscored=0).mean
    0.75
    """

    srcc: dict[Hashable, float]
    few: int  # references with fewer than three scored pictures
    constant_mos: int  # references whose MOS are all equal
    constant_scores: int  # references whose scores are: they order nothing
    unscored: int  # pictures without a score, which enter nothing

    @property
    def mean(self) -> float:
        """The plain mean; NaN without a reference."""
        return sum(self.srcc.values()) / len(self.srcc) if self.srcc else math.nan


def correlation_per_reference(
    scores: ArrayLike, mos: ArrayLike, references: Sequence[Hashable]
) -> ReferenceCorrelation:
    """SRCC of raw scores with MOS within each reference (DepictQA, which correlates fitted values: a fit that may fall
    hides a wrong sign).

    Args:
        scores, mos: (n,); a score that is NaN is none.
        references: (n,).

    Raises:
        ValueError: shapes that differ, a MOS that is not finite, an infinite score.

        >>> correlation_per_reference([1, 2, 3, 9], [5, 4, 3, 1], ["a", "a", "a", "b"])
        ReferenceCorrelation(srcc={'a': -1.0}, few=1, constant_mos=0, constant_scores=0, unscored=0)
    """
    x, y = np.asarray(scores, dtype=float), np.asarray(mos, dtype=float)
    if not x.shape == y.shape == (len(references),):
        raise ValueError(f"{x.shape} scores, {y.shape} MOS and {len(references)} references: one each, as vectors")
    if np.isinf(x).any() or not np.isfinite(y).all():
        raise ValueError("MOS must be finite, and scores finite or NaN")
    members: dict[Hashable, list[int]] = {}
    for i, reference in enumerate(references):
        members.setdefault(reference, [])
        if not np.isnan(x[i]):
            members[reference].append(i)
    found: dict[Hashable, float] = {}
    faults: Counter[str] = Counter()
    for reference, own in members.items():
        if len(own) < FEWEST_PICTURES:
            faults["few"] += 1
        elif is_constant(y[own]):
            faults["constant_mos"] += 1
        elif is_constant(x[own]):
            faults["constant_scores"] += 1
        else:
            found[reference] = srcc(x[own], y[own])
    unscored = int(np.isnan(x).sum())
    return ReferenceCorrelation(found, faults["few"], faults["constant_mos"], faults["constant_scores"], unscored)


def bapps_agreement(judge: ArrayLike, chosen: ArrayLike) -> float:
    """The share of raters that a choice between two distorted patches agrees with, averaged (BAPPS, arXiv 1801.03924).

        1/N sum over pairs of judge where p1 was chosen, 1 - judge where p0 was, 1/2 on a tie

    Args:
        judge: (N,) the share of raters that found p1 closer to the reference.
        chosen: (N,) 1 for p1, 0 for p0, 1/2 for a tie. What an unreadable answer is, the caller says.

    Returns:
        0 to 1; people themselves reach less than 1, since they disagree. NaN without a pair.

    Raises:
        ValueError: shapes that differ, a share that is not on [0, 1], another choice.

        >>> bapps_agreement([1.0, 0.25, 0.0], [1, 0, 0.5])
        0.75
    """
    raters, choice = np.asarray(judge, dtype=float), np.asarray(chosen, dtype=float)
    if raters.shape != choice.shape or raters.ndim != 1:
        raise ValueError(f"{raters.shape} judgements for {choice.shape} choices: one each, as vectors")
    if not ((raters >= 0) & (raters <= 1)).all() or not np.isin(choice, (0, 0.5, 1)).all():
        raise ValueError("judge is a share of raters, 0 to 1, and chosen is 0, 1/2 or 1")
    return float((choice * raters + (1 - choice) * (1 - raters)).mean()) if len(raters) else math.nan


def as_pairs(pairs: ArrayLike, pictures: int) -> np.ndarray:
    """(N, 2) indices of pictures. Raises ValueError for a picture that is not there or against itself.

    >>> as_pairs([], 3).shape
    (0, 2)
    """
    who = np.asarray(pairs)
    if who.size == 0:
        return np.empty((0, 2), dtype=int)
    if who.ndim != 2 or who.shape[1] != 2 or not np.issubdtype(who.dtype, np.integer):
        raise ValueError(f"pairs of shape {who.shape}: give two indices of pictures for each")
    if who.min() < 0 or who.max() >= pictures:
        raise ValueError(f"a pair names picture {who.max() if who.min() >= 0 else who.min()} of {pictures}, from 0")
    if (who[:, 0] == who[:, 1]).any():
        raise ValueError("a pair is of a picture and itself")
    return who
