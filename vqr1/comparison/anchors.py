"""One picture's score from comparisons with a few fixed pictures, the anchors, whose scores are solved once and stay.

Compare2Score (arXiv 2405.19298) solves anchors and test picture anew for every picture and scales the six scores to
their range, so that pictures beyond the anchors stick at its ends. Here the score is a function of the picture's own
preferences alone, rises with each of them, and has no end.

Shapes: N pictures of a dataset's training part, A anchors, B pictures to be scored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize.elementwise import find_root

from vqr1.comparison.scores import Link, link_derivatives
from vqr1.comparison.words import check_probabilities
from vqr1.errors import UserError

EDGE = 1e-9  # of an interval: what is off an edge or a middle by rounding alone is on it


@dataclass(frozen=True)
class Anchors:
    """The anchors that were chosen, and the intervals that have none."""

    pictures: tuple[int, ...]  # indices into the N pictures, by rising interval
    empty: tuple[tuple[float, float], ...]  # (low, high] of each interval without a picture, on the MOS scale
    intervals: int

    def in_words(self) -> str:
        """One sentence: how many anchors there are, and where there is none."""
        if not self.empty:
            return f"{len(self.pictures)} anchors, one in each interval of the MOS"
        where = ", ".join(f"({low:.4g}, {high:.4g}]" for low, high in self.empty)
        return f"{len(self.pictures)} anchors in {self.intervals} intervals: no picture has a MOS in {where}"


def choose_anchors(mos_N: ArrayLike, std_N: ArrayLike | None, id_N: Sequence[str], intervals: int = 5) -> Anchors:
    """The picture of each interval of the MOS that its raters agree on most.

    The range of the MOS is cut into equal right-closed intervals, its lowest value belonging to the first. In each the
    picture with the smallest standard deviation of its ratings is taken, of several with the same, or without any, the
    nearest to the interval's middle, then the first by id. An interval without a picture has no anchor. After
    Compare2Score (arXiv 2405.19298).

    Args:
        mos_N: MOS of one dataset's training part, higher = better.
        std_N: standard deviations of the ratings, NaN for a picture without one, which is taken where its interval has
            no other. None for a dataset without standard deviations.
        id_N: unique ids.
        intervals: how many, from 1 up.

    Returns:
        Indices of the anchors and the intervals that have none: say `Anchors.in_words()`.

    Raises:
        UserError: no picture, MOS that are all equal or not finite, a std that is negative or infinite, an id that
            comes twice.
        ValueError: arrays of different length, less than one interval.

        >>> choose_anchors([1.0, 1.4, 2.0, 5.0], [0.9, 0.5, 0.5, 0.7], ["a", "b", "c", "d"], 2).pictures
        (2, 3)
    """
    mos = np.asarray(mos_N, dtype=float)
    std = np.full(mos.shape, np.nan) if std_N is None else np.asarray(std_N, dtype=float)
    _check_candidates(mos, std, id_N, intervals)
    low, high = float(mos.min()), float(mos.max())
    width = (high - low) / intervals
    place = (mos - low) / width  # in intervals
    interval = np.clip(np.ceil(place - EDGE), 1, intervals).astype(int) - 1
    unsure = np.where(np.isnan(std), math.inf, std)
    off_middle = np.round(np.abs(place - (interval + 0.5)), 9)
    best: dict[int, int] = {}
    for i in sorted(range(len(mos)), key=lambda i: (unsure[i], off_middle[i], id_N[i])):
        best.setdefault(int(interval[i]), i)
    empty = tuple((low + k * width, low + (k + 1) * width) for k in range(intervals) if k not in best)
    return Anchors(tuple(best[k] for k in sorted(best)), empty, intervals)


def _check_candidates(mos: np.ndarray, std: np.ndarray, ids: Sequence[str], intervals: int) -> None:
    if intervals < 1:
        raise ValueError(f"{intervals} intervals: anchors come of at least one")
    if mos.ndim != 1 or not mos.shape == std.shape == (len(ids),):
        raise ValueError(f"{mos.shape} MOS, {std.shape} stds and {len(ids)} ids: give one of each for every picture")
    if not np.isfinite(mos).all():
        raise UserError("a MOS is not finite: leave pictures without a MOS out of the choice of anchors")
    if ((std < 0) | np.isinf(std)).any():
        raise UserError("a std of ratings is negative or infinite: give standard deviations, or NaN for a missing one")
    if not len(mos) or mos.min() == mos.max():
        raise UserError(f"{len(mos)} pictures whose MOS do not differ: anchors need a range of MOS")
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise UserError(f"{name} appears more than once among the pictures for anchors; keep one row per picture")
        seen.add(name)


def check_no_anchor(pictures: Iterable[str], anchors: Iterable[str]) -> None:
    """Raises UserError, naming it, for a picture to be scored that is one of the anchors: it cannot be compared with
    itself. Both are given by their ids.

    >>> check_no_anchor(["a", "b"], ["c"])
    """
    both = sorted(set(pictures) & set(anchors))
    if both:
        raise UserError(
            f"{both[0]} is to be scored and is an anchor{f', and so are {len(both) - 1} more' if both[1:] else ''}: "
            "take anchors from the training part, or leave them out of the pictures"
        )


def score_against_anchors(
    preference_BA: ArrayLike, anchor_A: ArrayLike, *, link: Link | str = Link.normal, prior: float = 1.0
) -> np.ndarray:
    """The scores of B pictures from their preferences over the same A anchors.

        s = argmax sum_k [p_k log F(s - a_k) + (1 - p_k) log F(a_k - s)] - prior / 2 s^2

    Strictly concave: the slope falls through one zero, which is found by bracketing. It lies no further than
    A F'(0) / (F(0) prior) outside of 0 and the anchors.

    Args:
        preference_BA: p, the probability that picture b is better than anchor k (`both_orders`, or one order).
        anchor_A: a, the anchors' scores (`map_scores` of the comparisons among them).
        link, prior: those that the anchors were solved with.

    Returns:
        Scores (B,), float64, on the scale of the anchors' scores, to rounding. Each depends on its own row alone.

    Raises:
        ValueError: shapes that do not fit, no anchor, an anchor's score that is not finite, what is no probability, a
            prior that is not positive, an unknown link.

    As good as an anchor at 0, and as its one winner:

        >>> score_against_anchors([[0.5], [1.0]], [0.0]).round(6).tolist()
        [0.0, 0.506054]
    """
    p, a = np.asarray(preference_BA, dtype=float), np.asarray(anchor_A, dtype=float)
    if a.ndim != 1 or not a.size or not np.isfinite(a).all():
        raise ValueError(f"anchors' scores of shape {a.shape}: give one finite score for each of one anchor or more")
    if p.ndim != 2 or p.shape[1] != a.size:
        raise ValueError(f"preferences of shape {p.shape}: they are (pictures, {a.size} anchors)")
    if not 0 < prior < math.inf:
        raise ValueError(f"prior={prior} must be a positive number: without a prior some scores have no maximum")
    check_probabilities(p)
    at_zero, _ = link_derivatives(np.zeros(1), link)
    beyond = a.size * float(at_zero[0]) / prior + 1

    def slope(s: np.ndarray, *preferences: np.ndarray) -> np.ndarray:
        total = -prior * s
        for p_k, a_k in zip(preferences, a, strict=True):
            up, down = (link_derivatives(gap, link)[0] for gap in (s - a_k, a_k - s))
            total = total + p_k * up - (1 - p_k) * down
        return total

    bracket = tuple(np.full(len(p), end) for end in (min(0.0, a.min()) - beyond, max(0.0, a.max()) + beyond))
    found = find_root(slope, bracket, args=tuple(p.T))
    if not np.all(found.success):
        raise RuntimeError(f"no root of the slope for {np.sum(~found.success)} pictures: status {found.status}")
    return np.asarray(found.x, dtype=float)


@dataclass(frozen=True)
class MosLine:
    """MOS = intercept + slope * score. A line that does not rise says that the policy ranks the anchors wrongly."""

    slope: float
    intercept: float

    def __call__(self, scores: ArrayLike) -> np.ndarray:
        """The MOS of scores, float64 of their shape; not limited to the scale's range."""
        return self.intercept + self.slope * np.asarray(scores, dtype=float)

    @property
    def rises(self) -> bool:
        return self.slope > 0


def mos_line(anchor_A: ArrayLike, mos_A: ArrayLike) -> MosLine:
    """The least-squares line through (a_k, MOS of anchor k).

    It reads scores as the MOS of the anchors' dataset. Correlations belong on the scores themselves: a falling line
    would hide a wrong order.

    Args:
        anchor_A, mos_A: the anchors' scores and their MOS.

    Raises:
        ValueError: arrays of different length or with what is not finite.
        UserError: fewer than two anchors, or scores that do not differ (all comparisons were draws): there is no line.

        >>> line = mos_line([-1.0, 0.0, 1.0], [10.0, 40.0, 100.0])
        >>> line.slope, line.intercept
        (45.0, 50.0)
    """
    a, mos = np.asarray(anchor_A, dtype=float), np.asarray(mos_A, dtype=float)
    if a.shape != mos.shape or a.ndim != 1 or not (np.isfinite(a).all() and np.isfinite(mos).all()):
        raise ValueError(
            f"{a.shape} scores and {mos.shape} MOS of anchors: give one finite number of each for every one"
        )
    if len(a) < 2 or np.ptp(a) <= EDGE * max(1.0, float(np.abs(a).max())):
        raise UserError(
            f"no line from scores to MOS: {len(a)} anchors with scores that do not differ; the policy finds them "
            "alike, or there are too few"
        )
    gap = a - a.mean()
    slope = float(gap @ (mos - mos.mean()) / (gap @ gap))
    return MosLine(slope, float(mos.mean() - slope * a.mean()))
