"""How well predictions follow opinion scores. Maths only: numpy in, numbers out.

(n,) predictions are compared with (n,) opinion scores. NaN means undefined: fewer than two pictures, or one side
constant; no epsilon makes a number of it. None of these loads scipy, so a table is quick to print.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

NAN = float("nan")


def srcc(predictions: ArrayLike, mos: ArrayLike) -> float:
    """Spearman's rank correlation, -1..1: Pearson's of the ranks, ties sharing their mean rank."""
    x, y = as_pair(predictions, mos)
    return plcc(ranks(x), ranks(y))


def plcc(predictions: ArrayLike, mos: ArrayLike) -> float:
    """Pearson's linear correlation of the raw predictions, -1..1."""
    x, y = as_pair(predictions, mos)
    if is_constant(x) or is_constant(y):
        return NAN
    x, y = _unit(x), _unit(y)
    return float(np.clip(x @ y, -1, 1))


def krcc(predictions: ArrayLike, mos: ArrayLike) -> float:
    """Kendall's tau-b, -1..1: (C - D) / sqrt((P - T_x) (P - T_y)) over all P pairs (Kendall 1945).

    C pairs are ordered alike on both sides, D the other way round; T_x and T_y are tied in predictions and in scores.
    """
    x, y = as_pair(predictions, mos)
    if is_constant(x) or is_constant(y):
        return NAN
    pairs = _pairs(len(x))
    untied = (pairs - _tied(x), pairs - _tied(y))
    return float(_agreement(x, y) / (np.sqrt(untied[0]) * np.sqrt(untied[1])))


def pair_accuracy(predictions: ArrayLike, mos: ArrayLike) -> float:
    """The share of pairs that the predictions put in the right order, 0..1; 1/2 is chance.

    Pairs of equal opinion scores are not counted; of the others, one with equal predictions is half right. NaN without
    a pair to count.
    """
    x, y = as_pair(predictions, mos)
    counted = _pairs(len(y)) - _tied(y)
    return float((1 + _agreement(x, y) / counted) / 2) if counted else NAN


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties sharing their mean rank. (n,) in and out."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def is_constant(values: np.ndarray) -> bool:
    """Whether there is nothing to correlate: fewer than two values, or all equal."""
    return len(values) < 2 or bool((values == values[0]).all())


def as_pair(predictions: ArrayLike, mos: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both sides as vectors of floats. Raises ValueError for sides that do not match or hold what is no number."""
    x, y = np.asarray(predictions, dtype=float), np.asarray(mos, dtype=float)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"{x.shape} predictions for {y.shape} opinion scores: one each, as vectors")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("predictions and opinion scores must be finite: leave unreadable answers out")
    return x, y


def _unit(values: np.ndarray) -> np.ndarray:
    """Centred, of length one; scaled first, so that no square overflows."""
    scaled = values / np.abs(values).max()
    centred = scaled - scaled.mean()
    centred /= np.abs(centred).max()
    return centred / np.sqrt(centred @ centred)


def _pairs(n: int) -> int:
    return n * (n - 1) // 2


def _tied(values: np.ndarray) -> int:
    """The number of pairs of equal values; rows of a matrix are compared whole."""
    _, counts = np.unique(values, return_counts=True, axis=0)
    return int((counts * (counts - 1) // 2).sum())


def _agreement(x: np.ndarray, y: np.ndarray) -> int:
    """Pairs ordered alike on both sides less pairs ordered the other way round, in O(n log^2 n)."""
    tied_on_a_side = _tied(x) + _tied(y) - _tied(np.stack([x, y], axis=1))
    discordant = _inversions(y[np.lexsort((y, x))])
    return _pairs(len(x)) - tied_on_a_side - 2 * discordant


def _inversions(values: np.ndarray) -> int:
    """Pairs in falling order. Knight's merge sort (1966), all merges of one width at once."""
    n = len(values)
    size = 1 << max(n - 1, 0).bit_length()
    rows = np.full((size, 1), n)  # what fills up to a power of two is largest and last: no inversions
    rows[:n, 0] = np.unique(values, return_inverse=True)[1]
    found, width = 0, 1
    while width < size:
        rows = rows.reshape(-1, 2 * width)  # both halves of a row are sorted
        order = np.argsort(rows, axis=1, kind="stable")
        right = np.nonzero(order >= width)[1]
        not_greater = int(right.sum()) - len(rows) * _pairs(width)  # of the left half, for each of the right
        found += len(rows) * width**2 - not_greater
        rows = np.take_along_axis(rows, order, axis=1)
        width *= 2
    return found
