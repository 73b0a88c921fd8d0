"""Is one model better than another? A paired test on the same pictures, set by set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vqr1.errors import UserError, printable
from vqr1.evaluation.bootstrap import (
    ROUNDS,
    Difference,
    paired,
    resampled_correlations,
    resampled_means,
    units_of,
)
from vqr1.evaluation.correlation import plcc, srcc
from vqr1.evaluation.measures import FEW_UNITS, group_correlations, mean
from vqr1.evaluation.results import Evaluation, ResultRow

FIGURES = ("srcc", "plcc")


@dataclass(frozen=True)
class Comparison:
    """Model A less model B on one set."""

    name: str
    title: str
    pictures: int  # that both rated: they alone are compared
    of: int
    figures: dict[str, tuple[float, float]]  # A's and B's, on these pictures
    differences: dict[str, Difference]
    scope: str
    resampled: str
    units: int  # how many things are resampled


def compare(a: Evaluation, b: Evaluation, rounds: int = ROUNDS) -> list[Comparison]:
    """The sets that both evaluated.

    Raises UserError, naming what differs, where there is none, or where pictures, opinion scores or groups differ.
    """
    common = [name for name in a.sets if name in b.sets]
    if not common:
        raise UserError(
            f"{a.folder} has {', '.join(a.sets)} and {b.folder} has {', '.join(b.sets)}: no set in common to compare"
        )
    return [_compare(a, b, name, rounds) for name in common]


def _compare(a: Evaluation, b: Evaluation, name: str, rounds: int) -> Comparison:
    pairs = same_pictures(a, b, name)
    both = [(one, other) for one, other in pairs if one.score is not None and other.score is not None]
    x = [np.array([row[i].score for row in both], dtype=float) for i in range(2)]
    mos = np.array([one.mos for one, _ in both])
    unit = units_of([one.group for one, _ in both])
    units = len(set(unit.tolist()))
    facts = a.sets[name]
    if facts.per_group_scale:
        figures, differences, used = _per_group(x, mos, unit, rounds)
        units = used
        scope, resampled = f"mean over {used} {facts.group}s", f"{used} {facts.group}s' values"
    else:
        figures, differences = _pooled(x, mos, unit, rounds)
        scope, resampled = "pooled", f"{units} pictures" if units == len(both) else f"{units} {facts.group}s"
    return Comparison(name, facts.title, len(both), len(pairs), figures, differences, scope, resampled, units)


Figures = dict[str, tuple[float, float]]


def _pooled(
    x: list[np.ndarray], mos: np.ndarray, unit: np.ndarray, rounds: int
) -> tuple[Figures, dict[str, Difference]]:
    drawn = resampled_correlations(x, mos, unit, rounds)
    figures: Figures = {}
    differences = {}
    for i, (name, function) in enumerate(zip(FIGURES, (srcc, plcc), strict=True)):
        figures[name] = (function(x[0], mos), function(x[1], mos))
        differences[name] = paired(figures[name][0] - figures[name][1], drawn[i, 0] - drawn[i, 1])
    return figures, differences


def _per_group(
    x: list[np.ndarray], mos: np.ndarray, unit: np.ndarray, rounds: int
) -> tuple[Figures, dict[str, Difference], int]:
    """Over the groups in which both models have a correlation."""
    values = np.array([group_correlations(side, mos, unit) for side in x])  # (2 models, 2 figures, groups)
    values = values[:, :, ~np.isnan(values).any(axis=(0, 1))]
    figures: Figures = {}
    differences = {}
    for i, name in enumerate(FIGURES):
        gaps = values[0, i] - values[1, i]
        figures[name] = (mean(values[0, i]), mean(values[1, i]))
        drawn = resampled_means(gaps[None], rounds)[0] if len(gaps) else np.full(rounds, np.nan)
        differences[name] = paired(mean(gaps), drawn)
    return figures, differences, values.shape[2]


def same_pictures(a: Evaluation, b: Evaluation, name: str) -> list[tuple[ResultRow, ResultRow]]:
    """Rows of both files, picture by picture, in A's order. Raises UserError for whatever is not the same."""
    theirs = {row.image_id: row for row in b.rows[name]}
    ours = {row.image_id: row for row in a.rows[name]}
    for one, other, where, of in ((ours, theirs, b.folder, a.folder), (theirs, ours, a.folder, b.folder)):
        absent = [image for image in one if image not in other]
        if absent:
            raise UserError(
                f"{name}: {where} lacks {len(absent)} pictures of {of}, {absent[0]} first; "
                "compare results on the same pictures, and finish an interrupted evaluation first"
            )
    for image, row in ours.items():
        other_row = theirs[image]
        for what in ("mos", "group"):
            mine, its = getattr(row, what), getattr(other_row, what)
            if mine != its:
                raise UserError(
                    f"{name}: {image} has {what} {mine} in {a.folder} and {its} in {b.folder}; "
                    "the labels changed between the two: evaluate one of them again"
                )
    return [(row, theirs[image]) for image, row in ours.items()]


def comparison_text(a: str, b: str, comparisons: list[Comparison]) -> str:
    """The test as lines for the screen."""
    lines = [f"{a} less {b}: difference [95 % interval], two-sided p; paired bootstrap"]
    for c in comparisons:
        lines.append(f"{c.title}: {c.pictures} of {c.of} pictures rated by both, {c.scope}, {c.resampled} resampled")
        if c.units < FEW_UNITS:
            lines.append(f"  only {c.units} to resample: interval and p are a rough guide")
        for name in FIGURES:
            d, (first, second) = c.differences[name], c.figures[name]
            if np.isnan(d.value):
                lines.append(f"  {name.upper()}  undefined: constant predictions, or too few pictures")
            else:
                interval = f"[{d.low:+.3f}, {d.high:+.3f}]"
                lines.append(f"  {name.upper()}  {first:.3f} - {second:.3f} = {d.value:+.3f} {interval}  p = {d.p:.3f}")
    return "\n".join(map(printable, lines))
