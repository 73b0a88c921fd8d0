"""What the answers to one picture say together, when enough of them were drawn, and which of two pictures looks better.

K answers to a picture are K reasonings. Each gives a score that was drawn after it, or, by the method "expected", the
mean and the standard deviation of the exact distribution of the score after it. Numbers in, numbers out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from vqr1.errors import UserError

GAMMA = 1e-6  # the reward's (vqr1.ranking)
FEWEST_DRAWN, FEWEST_EXPECTED = 4, 2  # answers to each picture from which two pictures are compared


@dataclass(frozen=True)
class Moments:
    """Mean and spread of a picture's score over K answers, on the scale of the scores.

        mean       = 1/W sum w_i m_i                                        W = sum w_i
        within^2   = 1/W sum w_i s_i^2                                      the score after a given reasoning varies
        between^2  = sum w_i (m_i - mean)^2 / (W - sum w_i^2 / W)           reasonings differ
        std^2      = within^2 + between^2                                   law of total variance
        standard_error^2 = between^2 sum w_i^2 / W^2

    A drawn answer has its score for m_i, s_i = 0 and w_i = 1, or w_i = 0 where it is unreadable: then these are the
    sample mean and standard deviation, and the standard error is std / sqrt(K). An exact distribution has mean and
    standard deviation, and for w_i the probability that a readable score follows. Both estimate mean and variance of
    one drawn answer. ``mean`` and ``within`` are NaN without an answer that can be read; ``between``, ``std`` and
    ``standard_error`` with fewer than two.
    """

    mean: float
    within: float
    between: float
    answers: int  # those that can be read
    worth: float  # of how many answers of equal weight: W^2 / sum w_i^2

    @property
    def std(self) -> float:
        """Of one drawn answer."""
        return math.hypot(self.within, self.between)

    @property
    def standard_error(self) -> float:
        """Of the mean. Exact distributions leave only what reasonings differ by."""
        return self.between / math.sqrt(self.worth) if self.worth else math.nan


def moments(
    scores: Sequence[float | None],
    stds: Sequence[float | None] | None = None,
    weights: Sequence[float] | None = None,
) -> Moments:
    """The moments of K answers: ``scores`` m_i, None or not finite where unreadable, ``stds`` s_i, ``weights`` w_i.

    Without stds scores are drawn; without weights readable ones count alike. Equal scores have exactly no spread.
    Raises ValueError for stds or weights of another number than the scores, and beside a score for a std that is
    negative, not finite or missing and a weight that is no probability.

        >>> known = moments([3.0, None, 4.0, 5.0])
        >>> known.mean, known.std, known.answers
        (4.0, 1.0, 3)
        >>> moments([3.0, 5.0], [1.0, 1.0]).std == 3**0.5
        True
    """
    stds = [0.0] * len(scores) if stds is None else stds
    weights = [1.0] * len(scores) if weights is None else weights
    if not len(stds) == len(weights) == len(scores):
        raise ValueError(f"{len(stds)} stds and {len(weights)} weights for {len(scores)} scores: one each")
    answers = []
    for m, s, w in zip(scores, stds, weights, strict=True):
        if m is None or not math.isfinite(m) or w == 0:
            continue
        if s is None or not (0 <= s < math.inf and 0 < w <= 1):
            raise ValueError(f"std {s} and weight {w} beside the score {m}: give a number from 0 up and a probability")
        answers.append((float(m), float(s), float(w)))
    if not answers:
        return Moments(math.nan, math.nan, math.nan, 0, 0.0)
    largest = max(w for _, _, w in answers)  # only ratios matter; the squares of tiny ones would be zero
    answers = [(m, s, w / largest) for m, s, w in answers]
    whole, squares = (math.fsum(w**power for _, _, w in answers) for power in (1, 2))
    lowest = min(m for m, _, _ in answers)  # distances from a score keep equal scores exact
    mean = lowest + math.fsum(w * (m - lowest) for m, _, w in answers) / whole
    within = math.sqrt(math.fsum(w * s**2 for _, s, w in answers) / whole)
    between = math.nan
    if len(answers) > 1:
        # W - sum w_i^2 / W = 2 / W sum w_i w_j over pairs: nothing is subtracted, so nothing vanishes
        pairs = math.fsum(a * b for (_, _, a), (_, _, b) in combinations(answers, 2))
        between = math.sqrt(math.fsum(w * (m - mean) ** 2 for m, _, w in answers) * whole / (2 * pairs))
    return Moments(mean, within, between, len(answers), whole**2 / squares)


def score_and_std(
    scores: Sequence[float | None],
    stds: Sequence[float | None] | None = None,
    weights: Sequence[float] | None = None,
) -> tuple[float | None, float | None]:
    """What a picture is said to have: `Moments.mean` and `Moments.std` of its answers, None where they are NaN.

    Of a single exact distribution (``stds`` given) the std is that distribution's, without what reasonings differ by.
    """
    known = moments(scores, stds, weights)
    if not known.answers:
        return None, None
    if known.answers == 1:
        return known.mean, None if stds is None else known.within
    return known.mean, known.std


@dataclass(frozen=True)
class StoppingRule:
    """When a picture has answers enough: the standard error of its mean is at most ``target``.

    At least ``least`` answers must have been readable, since the spread of fewer is hardly known, and ``most`` are
    drawn. The rule reads nothing but the picture's own answers in their order, so what a picture gets depends on no
    other picture and no batch. It looks rarely: after a look it asks for as many answers as the spread so far says
    (std^2 / target^2), at most twice as many as there are, so that four rounds reach 48 and an accidentally small
    spread has few chances to stop early. Some do: with normal answers of which 14 or 25 are needed, the mean's error
    was 1.13 and 1.16 times the target. Six equal answers have no spread and stop.

    The standard error is that of the policy's mean, which the mean of infinitely many answers would have as well: it
    says nothing of how far that is from people's opinion (vqr1.evaluation.calibration).
    """

    target: float  # on the scale of the scores
    least: int = 6
    most: int = 48

    def __post_init__(self) -> None:
        if not 0 < self.target < math.inf:
            raise UserError(
                f"until={self.target}: the standard error at which drawing stops is a positive number on the scale of "
                "the scores; give 0.05, for instance"
            )
        if self.least < 2:
            raise UserError(f"{self.least} answers at least: a standard error needs 2; ask for 2 or more")
        if self.most < self.least:
            raise UserError(f"max_k={self.most} is below the {self.least} answers that are drawn at least; raise it")

    def wanted(self, scores: Sequence[float | None], weights: Sequence[float] | None = None) -> int:
        """How many answers a picture should have that has these, unreadable ones as None: len(scores) if enough.

        For the method "expected" the scores are the exact means, and the weights the probabilities of a readable score.
        """
        drawn, known = len(scores), moments(scores, weights=weights)
        if drawn >= self.most:
            return drawn
        if known.answers < self.least:
            return min(drawn + self.least - known.answers, self.most)
        if known.standard_error <= self.target:
            return drawn
        ratio = known.between / self.target
        missing = math.ceil(min(ratio * ratio, self.most) - known.worth)
        return min(drawn + max(missing, 1), 2 * drawn, self.most)

    def used(self, scores: Sequence[float | None]) -> int:
        """How many of these answers would have been drawn: to see, of many, what the rule saves.

        Raises ValueError where they are fewer than the rule wants.
        """
        drawn = 0
        while (wanted := self.wanted(scores[:drawn])) > drawn:
            if wanted > len(scores):
                raise ValueError(f"{len(scores)} answers, and the rule wants {wanted}: draw {self.most} to see")
            drawn = wanted
        return drawn


def probability_better(
    mean_a: ArrayLike, std_a: ArrayLike, mean_b: ArrayLike, std_b: ArrayLike, *, gamma: float = GAMMA
) -> np.ndarray:
    """How probable it is that picture a looks better than picture b, by Thurstone's model.

        P(a, b) = Phi((mean_a - mean_b) / sqrt(std_a^2 + std_b^2 + gamma))

    VisualQuality-R1's equation 1 (arXiv 2505.14460) with the mean in the place of one answer's score. Phi is taken at
    the negative gap for the other order, so that P(a, b) + P(b, a) = 1 to rounding and small probabilities are kept.

    Args:
        mean_a, std_a, mean_b, std_b: `Moments.mean` and `Moments.std`, or arrays of them that broadcast.
        gamma: as in the reward: without any spread a gap of sqrt(gamma) is one standard deviation. With 0 the limit is
            taken: 1, 1/2 or 0.

    Returns:
        Probabilities, float64 of the broadcast shape. NaN where a mean or a std is.

    Raises:
        ValueError: a negative std, or gamma that is negative or not finite.

        >>> float(probability_better(3.0, 0.5, 3.0, 0.1))
        0.5
    """
    from scipy.special import ndtr  # only where two pictures are compared

    first, second = np.asarray(std_a, dtype=float), np.asarray(std_b, dtype=float)
    if (first < 0).any() or (second < 0).any():
        raise ValueError("a standard deviation is negative: give standard deviations")
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma={gamma} must be zero or a small positive number")
    gap = np.asarray(mean_a, dtype=float) - np.asarray(mean_b, dtype=float)
    root = np.sqrt(first**2 + second**2 + gamma)
    # Where the root is zero the smallest number leaves the limit: 0, 1/2 or 1.
    with np.errstate(over="ignore"):
        return ndtr(gap / np.maximum(root, np.finfo(float).tiny))
