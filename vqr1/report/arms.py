"""Runs side by side: those that differ in their seed alone are one arm, whose curves are a mean with its range."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from vqr1.report.runs import Run
from vqr1.report.study import axes_of, order_of, text, value_of
from vqr1.report.style import running_mean

LONGEST = 60  # letters of an arm's name
VALUE = 40  # letters of a value in it


@dataclass(frozen=True)
class Arm:
    """Runs with the same settings."""

    name: str
    values: dict[str, Any]  # of the settings that set the arms apart
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Curve:
    """A metric of one arm over steps. None where no run defines it."""

    steps: list[int]
    mean: list[float | None]  # over the runs that have the step
    low: list[float | None]  # the smallest and the largest of them
    high: list[float | None]
    runs: int
    interval: bool  # low and high are a single run's 95 % interval
    raw: list[float | None]  # of a single run: what was logged, where ``mean`` is smoothed


def arms_of(runs: Sequence[Run]) -> list[Arm]:
    """The arms in the order of their settings' values."""
    names = axes_of(runs)
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps([value_of(run, name) for name in names], default=str), []).append(run)
    found = sorted(groups.values(), key=lambda members: [order_of(name, value_of(members[0], name)) for name in names])
    short = short_names(names)
    made: list[Arm] = []
    for members in found:
        values = {name: value_of(members[0], name) for name in names}
        words = ", ".join(f"{short[name]}={text(value)[:VALUE]}" for name, value in values.items())
        if not words:
            words = members[0].name if len(members) == 1 else members[0].experiment
        elif len(words) > LONGEST:
            words = members[0].name if len(members) == 1 else f"setting {len(made) + 1}"
        made.append(Arm(words, values, tuple(members)))
    return made


def short_names(names: Sequence[str]) -> dict[str, str]:
    """The last part of each dotted name, or all of it where two end alike."""
    last = [name.rpartition(".")[2] for name in names]
    return {name: end if last.count(end) == 1 else name for name, end in zip(names, last, strict=True)}


def curve(arm: Arm, metric: str, smooth: bool) -> Curve | None:
    """None where no run of the arm logged the metric. ``smooth``: each run's running mean in place of its figures.

    A single run's low and high are its logged interval, <metric>_low and <metric>_high, where it has one.
    """
    series = [(steps, values) for run in arm.runs for steps, values in [run.series(metric)] if steps]
    if not series:
        return None
    found: dict[int, list[float]] = {}
    for steps, values in series:
        for step, value in zip(steps, running_mean(values) if smooth else values, strict=True):
            known = found.setdefault(step, [])
            if value is not None:
                known.append(value)
    steps = sorted(found)
    at = [found[step] for step in steps]
    low, high = [min(values, default=None) for values in at], [max(values, default=None) for values in at]
    ends = [dict(zip(*arm.runs[0].series(metric + end), strict=True)) for end in ("_low", "_high")]
    interval = len(arm.runs) == 1 and all(ends)
    if interval:
        low, high = ([end.get(step) for step in steps] for end in ends)
    raw = list(series[0][1]) if smooth and len(series) == 1 else []
    return Curve(steps, [fmean(values) if values else None for values in at], low, high, len(series), interval, raw)


def spread_out(items: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` of ``items``, evenly chosen, with the first and the last."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]
