"""How well predictions follow opinion scores. Maths only: numpy in, numbers out."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


def srcc(predictions: ArrayLike, mos: ArrayLike) -> float:
    """Spearman's rank correlation, -1..1; NaN for fewer than two pictures or a constant side."""
    return _correlation(stats.spearmanr, predictions, mos)


def plcc(predictions: ArrayLike, mos: ArrayLike) -> float:
    """Pearson's linear correlation of the raw predictions, -1..1; NaN where :func:`srcc` is."""
    return _correlation(stats.pearsonr, predictions, mos)


def _correlation(function: Callable[..., Any], predictions: ArrayLike, mos: ArrayLike) -> float:
    x, y = np.asarray(predictions, dtype=float), np.asarray(mos, dtype=float)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"{x.shape} predictions for {y.shape} opinion scores: one each, as vectors")
    if len(x) < 2:
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        return float(function(x, y).statistic)


def srcc_interval(
    predictions: ArrayLike, mos: ArrayLike, *, rounds: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of :func:`srcc`, resampling pictures. NaN where it is undefined."""
    x, y = np.asarray(predictions, dtype=float), np.asarray(mos, dtype=float)
    if np.isnan(srcc(x, y)):
        return float("nan"), float("nan")
    drawn = np.random.default_rng(seed).integers(len(x), size=(rounds, len(x)))
    ranks_x = stats.rankdata(x[drawn], axis=1)
    ranks_y = stats.rankdata(y[drawn], axis=1)
    ranks_x -= ranks_x.mean(1, keepdims=True)
    ranks_y -= ranks_y.mean(1, keepdims=True)
    norms = np.sqrt((ranks_x**2).sum(1) * (ranks_y**2).sum(1))
    values = (ranks_x * ranks_y).sum(1)[norms > 0] / norms[norms > 0]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
