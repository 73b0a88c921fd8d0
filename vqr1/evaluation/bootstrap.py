"""How sure a correlation is: percentile bootstrap intervals, and the paired test of two models on the same pictures.

What is drawn with replacement is a unit: a picture, or a whole content group where a dataset has groups, since pictures
of one content are no independent witnesses. A drawn sample is a weight for each picture (how often its unit was drawn);
weighted ranks follow from cumulated weights, so no round sorts anything and 1,000 rounds of the largest set take
seconds. Rounds are made in pieces of bounded memory; the pieces do not change what is drawn.

Shapes: n pictures, U units, R rounds, M models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from vqr1.evaluation.correlation import as_pair

ROUNDS = 1000
LEVEL = 0.95
PIECE = 2_000_000  # weights that are held at once

Interval = tuple[float, float]
UNDEFINED: Interval = (float("nan"), float("nan"))


def interval(values_R: np.ndarray, level: float = LEVEL) -> Interval:
    """The percentile interval of the rounds in which the figure is defined; NaN where it never is."""
    defined = values_R[~np.isnan(values_R)]
    if not len(defined):
        return UNDEFINED
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def srcc_interval(
    predictions: ArrayLike, mos: ArrayLike, *, rounds: int = ROUNDS, level: float = LEVEL, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of the SRCC, resampling pictures. NaN where it is undefined."""
    return correlation_intervals(predictions, mos, rounds=rounds, level=level, seed=seed)[0]


def correlation_intervals(
    predictions: ArrayLike, mos: ArrayLike, *, rounds: int = ROUNDS, level: float = LEVEL, seed: int = 0
) -> tuple[Interval, Interval]:
    """Percentile bootstrap intervals of SRCC and PLCC from the same drawn pictures. NaN where they are undefined."""
    x, y = as_pair(predictions, mos)
    spearman, pearson = resampled_correlations([x], y, np.arange(len(x)), rounds, seed)[:, 0]
    return interval(spearman, level), interval(pearson, level)


def resampled_correlations(
    predictions: Sequence[np.ndarray], mos: np.ndarray, unit: np.ndarray, rounds: int = ROUNDS, seed: int = 0
) -> np.ndarray:
    """SRCC and PLCC of M models in R rounds, (2, M, R), every model on the same drawn pictures.

    ``unit`` (n,) says by a number from 0 which pictures are drawn together. NaN where a round drew a constant side.
    """
    if not len(mos):
        return np.full((2, len(predictions), rounds), np.nan)
    sides = [_Side(values) for values in (mos, *predictions)]
    pieces = []
    for weights in drawn_weights(unit, rounds, seed):
        truth, *models = [side.drawn(weights) for side in sides]
        pieces.append(np.array([_weighted_correlations(model, truth, weights) for model in models]).swapaxes(0, 1))
    return np.concatenate(pieces, axis=2)


def resampled_means(values: np.ndarray, rounds: int = ROUNDS, seed: int = 0) -> np.ndarray:
    """The mean over U drawn units of each of M rows of values, (M, U) to (M, R): for figures that are such means.

    A unit whose value is NaN enters no mean of its row.
    """
    known = ~np.isnan(values)
    pieces = [
        (np.where(known, values, 0) @ counts.T) / np.where(seen := known @ counts.T, seen, np.nan)
        for counts in _counts(values.shape[1], rounds, seed)
    ]
    return np.concatenate(pieces, axis=1)


@dataclass(frozen=True)
class Difference:
    """One model's figure less another's, over the same drawn pictures."""

    value: float
    low: float
    high: float
    p: float  # two-sided; NaN where the difference is undefined


def paired(value: float, differences_R: np.ndarray) -> Difference:
    """Interval and p of a difference from its bootstrap rounds.

    p is twice the smaller share of rounds at or beyond zero, with the observed sample counted as one more round, so it
    is never 0: p = 2 (1 + min(#{d <= 0}, #{d >= 0})) / (R + 1), at most 1 (Davison and Hinkley 1997, section 4.2).
    """
    defined = differences_R[~np.isnan(differences_R)]
    if np.isnan(value) or not len(defined):
        return Difference(value, *UNDEFINED, float("nan"))
    beyond = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    return Difference(value, *interval(defined), min(1.0, 2 * (1 + beyond) / (len(defined) + 1)))


def units_of(groups: Sequence[str]) -> np.ndarray:
    """Groups as numbers from 0 in the order in which they come, (n,)."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=int)


def _counts(units: int, rounds: int, seed: int, width: int | None = None) -> Iterator[np.ndarray]:
    """How often each of U units was drawn, (piece, U), until R rounds are drawn."""
    rng = np.random.default_rng(seed)
    piece = max(1, PIECE // (width or units))
    for first in range(0, rounds, piece):
        size = min(piece, rounds - first)
        drawn = rng.integers(units, size=(size, units)) + units * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units).astype(float)


def drawn_weights(unit: np.ndarray, rounds: int, seed: int) -> Iterator[np.ndarray]:
    """How often each picture was drawn, (piece, n), until R rounds are drawn.

    ``unit`` (n,) says by a number from 0 which pictures are drawn together.
    """
    units = int(unit.max()) + 1
    each = units == len(unit) and bool((unit == np.arange(units)).all())
    for counts in _counts(units, rounds, seed, len(unit)):
        yield counts if each else counts[:, unit]


@dataclass(frozen=True)
class _Drawn:
    """One side of a correlation in some rounds."""

    centred_ranks: np.ndarray  # (piece, n)
    rank_power: np.ndarray  # (piece,) weighted sum of their squares
    values: np.ndarray  # (n,)


class _Side:
    """Predictions or opinion scores, ready to be ranked under any weights."""

    def __init__(self, values: np.ndarray):
        largest = np.abs(values).max()
        scaled = values / (largest or 1)
        self.values = scaled - scaled.mean()
        _, self._place, counts = np.unique(values, return_inverse=True, return_counts=True)
        self._order = np.argsort(self._place, kind="stable")
        self._starts = np.cumsum(counts) - counts

    def drawn(self, weights: np.ndarray) -> _Drawn:
        """Mean ranks among the drawn pictures, less their mean, (N + 1) / 2.

        All are multiples of 1/2 below 2^26, so a constant side gives a power of exactly zero.
        """
        counts = np.add.reduceat(weights[:, self._order], self._starts, axis=1)
        centred = np.cumsum(counts, axis=1) - (counts - 1) / 2
        centred -= (weights.sum(1, keepdims=True) + 1) / 2
        return _Drawn(centred[:, self._place], (counts * centred**2).sum(1), self.values)


def _weighted_correlations(x: _Drawn, y: _Drawn, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SRCC and PLCC under weights, (piece,) each; NaN where a side is constant among what was drawn."""
    defined = (x.rank_power > 0) & (y.rank_power > 0)
    spearman = np.einsum("rn,rn,rn->r", weights, x.centred_ranks, y.centred_ranks)
    powers = x.values**2, y.values**2, x.values * y.values
    sums = weights @ np.stack([x.values, y.values, *powers], axis=1) / weights.sum(1, keepdims=True)
    mean_x, mean_y, power_x, power_y, product = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        spearman = spearman / (np.sqrt(x.rank_power) * np.sqrt(y.rank_power))
        pearson = (product - mean_x * mean_y) / np.sqrt((power_x - mean_x**2) * (power_y - mean_y**2))
    return np.where(defined, spearman, np.nan), np.where(defined, pearson, np.nan)
