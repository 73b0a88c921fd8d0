"""Is a picture's standard deviation its error? And is the probability that one of two looks better a frequency?

Both are asked of pictures that neither the policy nor the map to the MOS scale (:mod:`vqr1.evaluation.mos_map`) was
fitted to. Intervals are percentile bootstrap intervals over content groups (:mod:`vqr1.evaluation.bootstrap`).

Shapes: n pictures, R rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from vqr1.evaluation.bootstrap import (
    PIECE,
    ROUNDS,
    Interval,
    drawn_weights,
    interval,
    resampled_correlations,
    units_of,
)
from vqr1.evaluation.correlation import as_pair, ranks, srcc
from vqr1.rating_statistics import GAMMA, probability_better

LEVELS = (0.5, 0.68, 0.8, 0.9, 0.95)
STD_BINS = 5
CONFIDENCE_EDGES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class StdBin:
    """Pictures of similar standard deviation. Were it the error, ``std`` and ``error`` would be equal."""

    pictures: int
    std: float  # root mean square
    error: float  # root mean square
    error_interval: Interval


@dataclass(frozen=True)
class Coverage:
    """How many pictures' MOS are within the normal interval of their score. Calibrated: ``share`` is ``level``."""

    level: float
    share: float
    share_interval: Interval


@dataclass(frozen=True)
class StdCalibration:
    """Standard deviations against errors, on the MOS scale."""

    pictures: int
    without_spread: int  # pictures whose std is zero: their interval is a point
    bins: tuple[StdBin, ...]  # by rising std
    coverage: tuple[Coverage, ...]
    error_per_std: (
        float  # root mean square error / root mean square std: what a std must be multiplied by; 1: calibrated
    )
    error_per_std_interval: Interval
    srcc: float  # of std and |error|: whether the pictures with the larger std are those with the larger error
    srcc_interval: Interval


def std_calibration(
    predictions: ArrayLike,
    stds: ArrayLike,
    mos: ArrayLike,
    groups: Sequence[str],
    *,
    bins: int = STD_BINS,
    levels: Sequence[float] = LEVELS,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> StdCalibration:
    """Hold n standard deviations against the n errors mos - prediction.

    All are on the MOS scale: map scores and stds first (`MosMap.__call__`, `MosMap.std`). A std is calibrated in the
    sense of Levi and others (arXiv 1905.11659) where pictures of any std have it for their root mean square error.
    ``bins`` of as many pictures each, but equal stds share one. ``groups`` (n,) are resampled together. NaN where a
    figure is undefined; ratios are infinite where no picture has any spread.

    Raises ValueError for no picture, values that are not finite, a negative std, or sides of different length.
    """
    x, y = as_pair(predictions, mos)
    std, _ = as_pair(stds, mos)
    if not len(y) or len(groups) != len(y):
        raise ValueError(
            f"{len(y)} pictures and {len(groups)} groups: give at least one picture, and one group for each"
        )
    if (std < 0).any():
        raise ValueError("a standard deviation is negative: give standard deviations")
    if bins < 1 or not all(0 < level < 1 for level in levels):
        raise ValueError(f"bins={bins} must be at least 1, and levels {tuple(levels)} between 0 and 1")
    error = np.abs(y - x)
    unit = units_of(groups)

    def drawn(values: np.ndarray) -> np.ndarray:
        """The sum of values (n,) over the drawn pictures, (R,)."""
        return np.concatenate([weights @ values for weights in drawn_weights(unit, rounds, seed)])

    def root_interval(squares: np.ndarray, over: np.ndarray) -> Interval:
        """Of a root of a ratio of sums. A round in which it is infinite is left out."""
        roots = np.sqrt(_ratio(drawn(squares), drawn(over)))
        return interval(np.where(np.isfinite(roots), roots, np.nan))

    place = ((ranks(std) - 0.5) / len(std) * bins).astype(int)  # 0 to bins - 1; equal ranks, equal bins
    members = [place == number for number in range(bins) if (place == number).any()]
    inside = [error <= NormalDist().inv_cdf((1 + level) / 2) * std for level in levels]
    everyone = np.ones(len(y))
    return StdCalibration(
        pictures=len(y),
        without_spread=int((std == 0).sum()),
        bins=tuple(
            StdBin(
                int(those.sum()),
                _root_mean_square(std[those]),
                _root_mean_square(error[those]),
                root_interval(those * error**2, those * everyone),
            )
            for those in members
        ),
        coverage=tuple(
            Coverage(level, float(within.mean()), interval(drawn(within * everyone) / drawn(everyone)))
            for level, within in zip(levels, inside, strict=True)
        ),
        error_per_std=float(np.sqrt(_ratio((error**2).sum(), (std**2).sum()))),
        error_per_std_interval=root_interval(error**2, std**2),
        srcc=srcc(std, error),
        srcc_interval=interval(resampled_correlations([std], error, unit, rounds, seed)[0, 0]),
    )


@dataclass(frozen=True)
class PairBin:
    """Pairs that the policy is about equally sure of. Were that a frequency, ``confidence`` would be ``accuracy``."""

    low: float
    high: float
    pairs: int
    confidence: float  # mean probability of the picture that the policy puts first
    accuracy: float  # share of pairs that people order likewise
    accuracy_interval: Interval


@dataclass(frozen=True)
class PairCalibration:
    """Probabilities that one of two pictures looks better, against the order of their MOS."""

    pairs: int  # of different MOS
    confidence: float
    accuracy: float  # 1/2 for equal means; as correlation.pair_accuracy
    accuracy_interval: Interval
    brier: float  # mean square of probability less outcome (Brier 1950): 0 is perfect, 1/4 is saying 1/2 always
    calibration_error: float  # mean over pairs of their bin's |confidence - accuracy| (ECE)
    bins: tuple[PairBin, ...]  # those with a pair


def pair_calibration(
    scores: ArrayLike,
    stds: ArrayLike,
    mos: ArrayLike,
    groups: Sequence[str],
    *,
    per_group: bool = False,
    gamma: float = GAMMA,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> PairCalibration:
    """Compare every two of n pictures by `probability_better`, and with their MOS.

    Scores and stds are the policy's own; no map is needed, since it changes no order. ``per_group``: MOS are comparable
    within a group only. Pairs of equal MOS are not counted. Pairs share pictures, so that not they but groups are
    resampled: a pair counts as often as both of its pictures were drawn.

    People's order is that of their means, which is uncertain itself where two MOS are close: such pairs lower the
    accuracy of any policy, and of one that is sure of them the calibration.

    Raises ValueError for values that are not finite, a negative std, or sides of different length. NaN without a pair.
    """
    x, y = as_pair(scores, mos)
    std, _ = as_pair(stds, mos)
    if len(groups) != len(y):
        raise ValueError(f"{len(y)} pictures and {len(groups)} groups: one for each")
    unit = units_of(groups)
    bins = len(CONFIDENCE_EDGES) - 1
    sums = np.zeros((4, bins))  # pairs, right, confidence, squared difference
    for rows in _row_blocks(len(y)):
        pairs = _pairs(rows, x, std, y, unit if per_group else None, gamma)
        for number in range(bins):
            sums[:, number] += pairs.sums(number)
    drawn = []
    for weights in drawn_weights(unit, rounds, seed) if len(y) else ():
        counts = np.zeros((2, bins, len(weights)))
        for rows in _row_blocks(len(y)):
            pairs = _pairs(rows, x, std, y, unit if per_group else None, gamma)
            for number in range(bins):
                for of, values in enumerate((pairs.counted(number), pairs.right(number))):
                    counts[of, number] += np.einsum("rb,rb->r", weights[:, rows], weights @ values.T)
        drawn.append(counts)
    counted, right, confidence, squares = sums
    drawn_counted, drawn_right = np.concatenate(drawn, axis=2) if drawn else np.zeros((2, bins, 0))
    whole = float(counted.sum())
    return PairCalibration(
        pairs=int(whole) // 2,  # (a, b) and (b, a)
        confidence=float(_ratio(confidence.sum(), whole)),
        accuracy=float(_ratio(right.sum(), whole)),
        accuracy_interval=interval(_ratio(drawn_right.sum(0), drawn_counted.sum(0))),
        brier=float(_ratio(squares.sum(), whole)),
        calibration_error=float(_ratio(np.abs(confidence - right).sum(), whole)),
        bins=tuple(
            PairBin(
                CONFIDENCE_EDGES[number],
                CONFIDENCE_EDGES[number + 1],
                int(counted[number]) // 2,
                float(confidence[number] / counted[number]),
                float(right[number] / counted[number]),
                interval(_ratio(drawn_right[number], drawn_counted[number])),
            )
            for number in range(bins)
            if counted[number]
        ),
    )


@dataclass(frozen=True)
class _Pairs:
    """Some pictures against all n, each (rows, n): symmetrical in the two pictures of a pair."""

    confidence: np.ndarray
    agreed: np.ndarray  # 1, 1/2 (a tie of the policy's), 0
    bin: np.ndarray  # -1 where the pair is not counted

    def counted(self, number: int) -> np.ndarray:
        return (self.bin == number).astype(float)

    def right(self, number: int) -> np.ndarray:
        return np.where(self.bin == number, self.agreed, 0.0)

    def sums(self, number: int) -> tuple[float, float, float, float]:
        """How many, how many right, their confidence, and their squared difference from people's order."""
        of = self.bin == number
        confidence, agreed = self.confidence[of], self.agreed[of]
        # A tie has confidence 1/2 and is wrong by that, whoever is better.
        squares = np.where(agreed == 0.5, 0.25, (confidence - agreed) ** 2)
        return len(agreed), agreed.sum(), confidence.sum(), squares.sum()


def _pairs(rows: slice, x: np.ndarray, std: np.ndarray, y: np.ndarray, unit: np.ndarray | None, gamma: float) -> _Pairs:
    gap, order = x[rows, None] - x, np.sign(y[rows, None] - y)
    confidence = probability_better(np.abs(gap), std[rows, None], 0.0, std, gamma=gamma)
    counted = order != 0
    if unit is not None:
        counted &= unit[rows, None] == unit
    bins = np.searchsorted(CONFIDENCE_EDGES[1:-1], confidence, side="right")
    return _Pairs(confidence, (1 + np.sign(gap) * order) / 2, np.where(counted, bins, -1))


def _row_blocks(n: int) -> list[slice]:
    """Rows of an n by n matrix in pieces of bounded memory."""
    size = max(1, PIECE // max(n, 1))
    return [slice(first, min(first + size, n)) for first in range(0, n, size)]


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _ratio(numerator: ArrayLike, denominator: ArrayLike) -> np.ndarray:
    """Infinite over zero, NaN for 0 / 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(numerator, dtype=float) / np.asarray(denominator, dtype=float)
