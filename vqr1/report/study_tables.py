"""A study's tables for the page: K over beta in colour, the layouts of the paper's Tables 3 and 4, paired tests."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from vqr1.evaluation.paired_seeds import student_interval
from vqr1.report.runs import Run
from vqr1.report.study import (
    MEAN,
    Cell,
    Compared,
    Cross,
    Layout,
    Setting,
    Study,
    compared,
    crosses,
    layout,
    studies,
    text,
)
from vqr1.report.study_text import cell_text, count_text, joined, name_of, p_text, published_texts, tests_text

SHADES = 9
NOTHING = "–"


def study_tables(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Of the runs of one experiment; none where all have one setting, or fewer than two have finished."""
    (study,) = studies(runs)
    if len(study.settings) < 2 or len(study.runs) < 2:
        return []
    made = layout(study, study.figures)
    tables = [_cross(each) for name in made.sets for each in crosses(study, f"eval/{name}/srcc")]
    tables.append(_layout(made, study))
    tests = compared(study)
    if tests and study.default:
        notes = [line.removeprefix("- ") for said in tests_text(study, tests)[1:] for line in said.splitlines()]
        tables.append(_tests(tests, study, study.default, notes))
    return tables


def _cross(made: Cross) -> dict[str, Any]:
    """Shaded from its lowest to its highest mean."""
    means = [_mean(cell) for line in made.cells for cell in line]
    known = [mean for mean in means if mean is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)

    def shade(mean: float | None) -> int | None:
        return None if mean is None else round((SHADES - 1) * (mean - low) / (high - low)) if high > low else 0

    fixed = "".join(f", {axis}={text(value)}" for axis, value in made.fixed.items())
    return {
        "title": f"{made.metric.removeprefix('eval/').replace('/srcc', ': SRCC')}{fixed}",
        "header": [f"{made.row} \\ {made.column}", *map(text, made.column_values)],
        "rows": [
            _row([(text(value), None), *((_counted(cell), shade(_mean(cell))) for cell in line)])
            for value, line in zip(made.row_values, made.cells, strict=True)
        ],
        "notes": ["Mean ± sample standard deviation over seeds (their number), of the last step; darker is higher."],
    }


def _layout(made: Layout, study: Study) -> dict[str, Any]:
    columns = [*made.sets, *([MEAN] if len(made.sets) > 1 else [])]
    rows = []
    for row in made.published:
        cells = [joined(published_texts(made, row, name), NOTHING) for name in made.sets]
        average = [NOTHING] if len(columns) > len(made.sets) else []
        rows.append(_row([(each, None) for each in (f"{row.method} (published)", "", *cells, *average)], faint=True))
    for setting, by_column in made.rows:
        cells = [joined(map(_with_interval, by_column[column]), NOTHING) for column in columns]
        rows.append(_row([(each, None) for each in (name_of(setting), str(len(setting.runs)), *cells)]))
    figures = " / ".join(name.upper() for name in made.figures)
    return {
        "title": f"Settings by test set: {figures}",
        "header": ["Setting", "seeds", *columns],
        "rows": rows,
        "notes": [
            "Mean over seeds with its 95 % interval (Student's) where there are several; a figure that is undefined in "
            "one run is so for its setting."
            + (" Published rows are the paper's (arXiv 2505.14460), on whole sets." if made.published else ""),
            *(f"Left out: {run.name}, {why}." for run, why in study.left_out),
        ],
    }


def _tests(tests: Sequence[Compared], study: Study, default: Setting, notes: list[str]) -> dict[str, Any]:
    return {
        "title": f"Paired over seeds: SRCC less that of {name_of(default)}",
        "header": ["Setting", "set", "seeds", "difference", "95 % interval", "t: p", "Holm", "sign flip: p", "Holm"],
        "rows": [_row([(cell, None) for cell in _test(each)]) for each in tests],
        "notes": ["Holm's correction is over the settings of a set.", *notes],
    }


def _test(each: Compared) -> Iterator[str]:
    test = each.test
    yield from (name_of(each.setting), each.column, str(test.pairs))
    if each.undefined or not test.pairs:
        yield from (f"undefined in {each.undefined}" if each.undefined else NOTHING, *[NOTHING] * 5)
        return
    yield f"{test.mean:+.3f}"
    yield NOTHING if math.isnan(test.low) else f"{test.low:+.3f} to {test.high:+.3f}"
    yield from (p_text(p) or NOTHING for p in each.p_values)


def _mean(cell: Cell) -> float | None:
    return None if cell.figure is None or math.isnan(cell.figure.mean) else cell.figure.mean


def _counted(cell: Cell) -> str:
    return (cell_text(cell) or NOTHING) + count_text(cell)


def _with_interval(cell: Cell) -> str | None:
    figure = cell.figure
    if figure is None or math.isnan(figure.spread):
        return cell_text(cell)
    low, high = student_interval(figure.mean, figure.spread, figure.runs)
    return f"{figure.mean:.3f} [{low:.3f}, {high:.3f}]"


def _row(cells: Sequence[tuple[str, int | None]], faint: bool = False) -> dict[str, Any]:
    return {"cells": [{"text": text, "shade": shade} for text, shade in cells], "faint": faint}
