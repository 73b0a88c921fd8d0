"""The ways to a score side by side:  python -m vqr1.bench.rating RUN [--without-thinking RUN] [--out FOLDER]

Every row is an evaluation by ``vqr1 evaluate``, in result folders below OUT that it goes on with when it was stopped:
SRCC and PLCC with 95 % intervals, the difference of the first row's SRCC on the same pictures, answer tokens that are
drawn one by one, and seconds for loading the model and the pictures and for the answers: of the processor where there
is no GPU, since the machine may have other things to do.

A second table replays the rule of ``until=`` on the largest mean's answers: how many answers it takes at each target,
and what as many answers for every picture would have been worth.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from vqr1.answering.settings import Method
from vqr1.bench.rollout import machine
from vqr1.demo.specs import register_demonstration
from vqr1.evaluation.compare import compare
from vqr1.evaluation.correlation import srcc
from vqr1.evaluation.render import markdown_grid
from vqr1.evaluation.results import Evaluation, ResultRow, read_evaluation
from vqr1.evaluation.summary import outcome_of
from vqr1.evaluation.table import Grid, interval_text, number_text
from vqr1.packaged import data_root
from vqr1.provenance import finite, versions
from vqr1.rating_statistics import StoppingRule, score_and_std
from vqr1.scoring.evaluate import evaluate
from vqr1.scoring.settings import EvaluateConfig

LARGEST = "mean of 48"
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"method": Method.greedy},
    "expected": {"method": Method.expected, "k": 1},
    "mean of 6": {"method": Method.mean, "k": 6},
    "mean of 6 expected": {"method": Method.expected, "k": 6},
    LARGEST: {"method": Method.mean, "k": 48},
    "mean until 0.1": {"method": Method.mean, "until": 0.1},
    "expected until 0.1": {"method": Method.expected, "until": 0.1},
    "mean until 0.05": {"method": Method.mean, "until": 0.05},
    "expected until 0.05": {"method": Method.expected, "until": 0.05},
}
TARGETS = (0.4, 0.2, 0.1, 0.05)  # of the second table
FEWEST = 2  # answers below which the second table has no mean to compare


@dataclass(frozen=True)
class Row:
    """One way to a score on all sets."""

    name: str
    evaluation: Evaluation
    seconds: float | None  # None where it was not done in one go

    def per_picture(self, count: Callable[[ResultRow], int]) -> str:
        return f"{fmean(count(row) for of_set in self.evaluation.rows.values() for row in of_set):.1f}"


def evaluated(name: str, model: str, asked: argparse.Namespace, settings: dict[str, Any]) -> Row:
    """Evaluate, or go on, or find it done."""
    folder = asked.out / name.replace(" ", "-")
    timed = folder / "seconds.json"
    config = EvaluateConfig(
        model=model, data=asked.data, root=str(asked.root), folder=str(folder), threads=asked.threads, **settings
    )
    fresh = not folder.exists()
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    with contextlib.redirect_stdout(sys.stderr):
        began = clock()
        evaluate(config)
        done = clock()
        evaluate(config)  # nothing is left to rate: reading the sets and the table
    if fresh:
        timed.write_text(json.dumps(max(0.0, (done - began) - (clock() - done))))
    return Row(name, read_evaluation(folder), json.loads(timed.read_text()) if timed.is_file() else None)


def table(rows: Sequence[Row]) -> Grid:
    """A line for each way and set."""
    header = ["Way", "Set", "SRCC", "interval", "PLCC", "interval", "less the first's SRCC", "interval",
              "answers", "tokens", "seconds, all sets"]  # fmt: skip
    lines = []
    for row in rows:
        apart = {found.name: found.differences["srcc"] for found in compare(row.evaluation, rows[0].evaluation)}
        for i, (name, facts) in enumerate(row.evaluation.sets.items()):
            measures = outcome_of(row.evaluation, name, facts).measures
            cells = [row.name if i == 0 else "", name]
            for figure in ("srcc", "plcc"):
                cells += [number_text(measures.figures[figure]), interval_text(measures.intervals[figure])]
            less = apart[name]
            cells += ["", ""] if row is rows[0] else [f"{less.value:+.3f}", interval_text((less.low, less.high))]
            shared = [row.per_picture(lambda row: len(row.scores)), row.per_picture(lambda row: row.tokens or 0)]
            cells += [*shared, "-" if row.seconds is None else f"{row.seconds:.0f}"] if i == 0 else [""] * 3
            lines.append(cells)
    return Grid(header, lines)


def replayed(evaluation: Evaluation, targets: Sequence[float] = TARGETS) -> Grid:
    """The rule of ``until=`` on answers that are there: answers it takes, and as many for each picture instead."""
    header = ["Set", "until", "answers", "SRCC", "the same number for each", "SRCC", "for that SRCC", "saved"]
    lines = []
    for name, rows in evaluation.rows.items():
        most = max(len(row.scores) for row in rows)
        by_k = {k: of_means(rows, [k] * len(rows)) for k in range(FEWEST, most + 1)}
        for target in targets:
            rule = StoppingRule(target, most=most)
            used = [rule.used(row.scores) for row in rows]
            mean = sum(used) / len(used)
            reached, alike = of_means(rows, used), max(FEWEST, round(mean))
            needed = next((k for k, value in by_k.items() if value >= reached), None)
            lines.append([
                name, f"{target:g}", f"{mean:.1f}", number_text(reached), str(alike), number_text(by_k[alike]),
                "more" if needed is None else str(needed), "-" if needed is None else f"{1 - mean / needed:+.0%}",
            ])  # fmt: skip
    return Grid(header, lines)


def of_means(rows: Sequence[ResultRow], used: Sequence[int]) -> float:
    """SRCC of the means of each picture's first answers; pictures without a readable one are left out."""
    means = [score_and_std(row.scores[:k])[0] for row, k in zip(rows, used, strict=True)]
    known = [(mean, row.mos) for mean, row in zip(means, rows, strict=True) if mean is not None]
    return srcc(*map(list, zip(*known, strict=True))) if known else math.nan


def bench(asked: argparse.Namespace) -> None:
    register_demonstration()
    rows = [evaluated(name, asked.run, asked, settings) for name, settings in WAYS.items()]
    if asked.without_thinking:
        for name in ("greedy", "mean of 6"):
            rows.append(evaluated(f"{name} without thinking", asked.without_thinking, asked, WAYS[name]))
    grids = {"ways": table(rows), "adaptive": replayed(next(r for r in rows if r.name == LARGEST).evaluation)}
    facts = {"command": shlex.join(["python", "-m", "vqr1.bench.rating", *sys.argv[1:]]),
             "date": date.today().isoformat(), "machine": machine(), "versions": versions()}  # fmt: skip
    made = {name: {"header": grid.header, "rows": grid.rows} for name, grid in grids.items()}
    (asked.out / "rating.json").write_text(json.dumps(finite({**facts, **made}), indent=1) + "\n")
    text = f"{facts['command']}, {facts['machine']}, {facts['date']}\n\n" + "\n\n".join(
        map(markdown_grid, grids.values())
    )
    (asked.out / "rating.md").write_text(text + "\n")
    print(text)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="the ways to a score side by side")
    parser.add_argument("run", metavar="RUN", help="the policy, as --model of vqr1 rate")
    parser.add_argument("--without-thinking", metavar="RUN", help="a policy that was trained with prompt=no_thinking")
    parser.add_argument("--data", nargs="+", default=["demo_five", "demo_hundred"])
    parser.add_argument("--root", type=Path, default=Path(data_root()))
    parser.add_argument("--out", type=Path, default=Path("evaluations/bench-rating"), metavar="FOLDER")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; 1 is fastest for the tiny policy")
    return parser.parse_args(words)


if __name__ == "__main__":
    bench(arguments())
