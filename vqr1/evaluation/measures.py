"""Everything that is measured of one model on one dataset, and what must be said beside the numbers.

Pooled: over all pictures at once. Per group: within each scene, then the mean over scenes; for datasets whose scores
can be compared within a scene only. Nothing is imputed: a picture without a readable answer enters nothing, a group
that cannot be measured enters no mean, and both are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vqr1.evaluation.bootstrap import (
    LEVEL,
    ROUNDS,
    UNDEFINED,
    Interval,
    interval,
    resampled_correlations,
    resampled_means,
    units_of,
)
from vqr1.evaluation.correlation import as_pair, is_constant, krcc, pair_accuracy, plcc, srcc
from vqr1.evaluation.logistic import fit_logistic

SMALLEST_GROUP = 3
FEW_UNITS = 10  # below this many a percentile interval is only a rough guide
FIGURES = ("srcc", "plcc", "krcc", "plcc_fit", "rmse_fit", "pair_accuracy")


@dataclass(frozen=True)
class Measures:
    """The figures of one set."""

    figures: dict[str, float]  # by the names in FIGURES; NaN where undefined
    intervals: dict[str, Interval]  # of srcc and plcc
    scope: str  # "pooled", or "mean over 100 scenes"
    resampled: str  # "586 pictures", or "25 references"
    notes: tuple[str, ...] = ()
    pooled: dict[str, float] = field(default_factory=dict)  # beside figures per group: not comparable, never printed
    within: dict[str, float] = field(default_factory=dict)  # beside pooled figures: the means of those within groups


def measure(
    predictions: Sequence[float],
    mos: Sequence[float],
    groups: Sequence[str],
    *,
    per_group: bool = False,
    group: str = "group",
    rounds: int = ROUNDS,
    level: float = LEVEL,
) -> Measures:
    """Measure n predictions against n opinion scores.

    ``groups`` (n,) are what is resampled together; where each picture is its own group, pictures are. ``per_group``
    measures within groups; ``group`` is the word for one. Raises ValueError for values that are not finite.
    """
    x, y = as_pair(predictions, mos)
    unit = units_of(groups)
    if per_group:
        return _per_group(x, y, unit, group, rounds, level)
    drawn = resampled_correlations([x], y, unit, rounds)
    units = len(set(unit.tolist()))
    figures, reasons = _figures(x, y)
    notes = [*reasons, *_remarks(figures["srcc"], units)]
    return Measures(
        figures,
        {name: _interval_of(figures[name], drawn[i, 0], level) for i, name in enumerate(("srcc", "plcc"))},
        "pooled",
        f"{units} pictures" if units == len(x) else f"{units} {group}s",
        tuple(notes),
    )


def beside_within(pooled: Measures, within: Measures) -> Measures:
    """``pooled`` with what was measured within each group, in a note too."""
    srcc, (low, high) = within.figures["srcc"], within.intervals["srcc"]
    value = "undefined" if np.isnan(srcc) else f"{srcc:.3f} [{low:.3f}, {high:.3f}]"
    said = f"SRCC within each is {value}, {within.scope}"
    left_out = [note for note in within.notes if "left out" in note]
    return replace(pooled, within=within.figures, notes=(*pooled.notes, "; ".join([said, *left_out])))


def group_correlations(x: np.ndarray, y: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """SRCC and PLCC within each group that can be measured, (2, groups)."""
    members = [np.flatnonzero(unit == u) for u in np.unique(unit)]
    usable = [m for m in members if _fault(y[m]) is None]
    return np.array([[function(x[m], y[m]) for m in usable] for function in (srcc, plcc)]).reshape(2, len(usable))


def mean(values: Sequence[float] | np.ndarray) -> float:
    """The mean of what is defined; NaN where nothing is."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _per_group(x: np.ndarray, y: np.ndarray, unit: np.ndarray, word: str, rounds: int, level: float) -> Measures:
    members = [np.flatnonzero(unit == u) for u in np.unique(unit)]
    faults = [_fault(y[m]) for m in members]
    measured = [_figures(x[m], y[m]) for m, fault in zip(members, faults, strict=True) if fault is None]
    figures = {name: mean([values[name] for values, _ in measured]) for name in FIGURES}
    within = np.array([[values[name] for values, _ in measured] for name in ("srcc", "plcc")])
    drawn = resampled_means(within, rounds) if measured else np.full((2, rounds), np.nan)
    left_out = _count([fault for fault in faults if fault], word, "left out")
    undefined = _count([reason for _, reasons in measured for reason in reasons], word, "left out of those means")
    return Measures(
        figures,
        {name: _interval_of(figures[name], drawn[i], level) for i, name in enumerate(("srcc", "plcc"))},
        f"mean over {len(measured)} {word}s",
        f"{len(measured)} {word}s' values",
        (*left_out, *undefined, *_remarks(figures["srcc"], len(measured))),
        _figures(x, y)[0],
    )


def _figures(x: np.ndarray, y: np.ndarray) -> tuple[dict[str, float], list[str]]:
    """The figures of one set or group, and why any of them is missing."""
    fit = fit_logistic(x, y)
    values = (srcc(x, y), plcc(x, y), krcc(x, y), fit.plcc, fit.rmse, pair_accuracy(x, y))
    return dict(zip(FIGURES, values, strict=True)), [fit.reason] if fit.reason else []


def _fault(y: np.ndarray) -> str | None:
    """Why a group cannot be measured."""
    if len(y) < SMALLEST_GROUP:
        return f"fewer than {SMALLEST_GROUP} pictures"
    return "constant opinion scores" if is_constant(y) else None


def _count(reasons: Sequence[str], word: str, what: str) -> list[str]:
    return [f"{reasons.count(reason)} {word}(s) {what}: {reason}" for reason in dict.fromkeys(reasons)]


def _interval_of(figure: float, rounds: np.ndarray, level: float) -> Interval:
    return UNDEFINED if np.isnan(figure) else interval(rounds, level)


def _remarks(figure: float, units: int) -> list[str]:
    remarks = []
    if figure < 0:
        remarks.append("SRCC is negative: higher scores go with worse pictures")
    if units < FEW_UNITS:
        remarks.append(f"only {units} to resample: the interval is a rough guide")
    return remarks
