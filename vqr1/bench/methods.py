"""The seeds' methods beside RL2R, on the demonstration:  python -m vqr1.bench.methods [--rows ROW ...] [--out FOLDER]

Every training is a run of ``vqr1 train`` and every scoring one of ``vqr1 evaluate``, two at a time, each on one torch
thread. What is done is not done again, and what was stopped goes on, so that the same command ends what it began. At
the end, or with --table at once, the table of what there is: SRCC and PLCC with 95 % intervals (of several seeds their
mean and standard deviation), SRCC within each reference averaged, tokens drawn and passes of the policy for a picture,
and the processor time of training and of scoring, start included: seconds by the clock would depend on what else the
machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import Any

from vqr1.bench.rollout import machine
from vqr1.demo.specs import register_demonstration
from vqr1.evaluation.measures import measure
from vqr1.evaluation.render import markdown_grid
from vqr1.evaluation.results import read_evaluation
from vqr1.evaluation.summary import Outcome, outcome_of, over_runs, rated
from vqr1.evaluation.table import Grid, interval_text, number_text
from vqr1.packaged import data_root
from vqr1.provenance import finite, versions

SETS = ("demo_five", "demo_hundred")
# The run's own figures are left out: the table has them.
QUIET = ("logger=disabled", "evaluation.every=0", "evaluation.proof=false")
DRAWN = ("evaluation.test_k=1",)
# What is trained: the words of vqr1 train, and seeds.
TRAININGS: dict[str, tuple[tuple[str, ...], int]] = {
    "rl2r": (("experiment=demo", *DRAWN), 3),
    "reference": (("experiment=demo_reference", *DRAWN), 1),
    "regression": (("experiment=demo", "reward=regression", *DRAWN), 1),
    "hard": (("experiment=demo_levels",), 3),
    "soft": (("experiment=demo_levels", "levels.labels=soft", "levels.pair_weight=1"), 1),
    "comparison": (("experiment=demo_comparison",), 1),
}


@dataclass(frozen=True)
class Row:
    """One row of the table: a training, and how its policy is asked."""

    name: str
    training: str
    words: tuple[str, ...]  # of vqr1 evaluate

    @property
    def folder(self) -> str:
        return self.name.replace(", ", "-").replace(" ", "-")


ROWS = (
    Row("RL2R, greedy", "rl2r", ("method=greedy",)),
    Row("RL2R, expected", "rl2r", ("method=expected",)),
    Row("RL2R, mean of 6", "rl2r", ("method=mean",)),
    Row("RL2R with reference, mean of 6", "reference", ("method=mean",)),
    Row("regression reward, mean of 6", "regression", ("method=mean",)),
    Row("levels, hard", "hard", ("method=levels",)),
    Row("levels, soft", "soft", ("method=levels",)),
    Row("comparison, both orders", "comparison", ("method=comparison",)),
    Row("comparison, one order", "comparison", ("method=comparison", "orders=one")),
    Row("votes, both orders", "comparison", ("method=votes", "limit_per_reference=40")),
)


def vqr1(words: Sequence[str], log: Path, seconds: Path) -> None:
    """Run a command with its output in ``log``; add the seconds of processor time it took to those in ``seconds``.

    Raises CalledProcessError where it fails.
    """
    command = [sys.executable, "-m", "vqr1", *words]
    with log.open("a", encoding="utf-8") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
    before = json.loads(seconds.read_text()) if seconds.is_file() else 0.0
    seconds.write_text(json.dumps(before + used.ru_utime + used.ru_stime))
    if process_code := os.waitstatus_to_exitcode(status):
        raise subprocess.CalledProcessError(process_code, command)


def trained(training: str, seed: int, asked: argparse.Namespace) -> None:
    """The run, trained or gone on with."""
    words, _ = TRAININGS[training]
    run = run_of(training, seed, asked)
    if (run / "summary.json").is_file():
        return
    more = [f"data.root={asked.root}", f"seed={seed}", f"name={run.name}", f"runs={asked.out}", *asked.training]
    more += ["resume=true"] if (run / "config.yaml").is_file() else []
    vqr1(["train", *words, *QUIET, *more], log_of(run), seconds_of(run))


def scored(row: Row, seed: int, asked: argparse.Namespace) -> None:
    """The result folder of a row and seed, whose run is trained."""
    run, folder = run_of(row.training, seed, asked), result_of(row, seed, asked)
    if (folder / "table.json").is_file():
        return
    words = [f"model={run}", f"data=[{','.join(SETS)}]", f"root={asked.root}", "threads=1", "yes=true", *asked.scoring]
    vqr1(["evaluate", *words, *row.words, f"name='{row.name}'", f"folder={folder}"], log_of(folder), seconds_of(folder))


def run_of(training: str, seed: int, asked: argparse.Namespace) -> Path:
    return Path(asked.out) / f"{training}-{seed}"


def result_of(row: Row, seed: int, asked: argparse.Namespace) -> Path:
    return Path(asked.out) / "results" / f"{row.folder}-{seed}"


def log_of(folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder.with_name(f"{folder.name}.log")


def seconds_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.seconds.json")


def all_of(training: str, seed: int, rows: Sequence[Row], asked: argparse.Namespace) -> str:
    """Train and score with one seed. Returns what failed, if anything: the others go on."""
    try:
        trained(training, seed, asked)
        for row in rows:
            if row.training == training:
                scored(row, seed, asked)
    except subprocess.CalledProcessError as error:
        return f"{training}, seed {seed}: {' '.join(error.cmd[2:5])} ... ended with {error.returncode}, see its .log"
    return ""


def table(rows: Sequence[Row], asked: argparse.Namespace) -> Grid:
    """A line for each row and set of which there are results."""
    header = ["Method", "Set", "SRCC", "interval", "PLCC", "interval", "SRCC within", "pictures", "seeds", "tokens",
              "passes", "training, CPU s", "scoring, CPU s"]  # fmt: skip
    lines = []
    for row in rows:
        folders = [result_of(row, seed, asked) for seed in range(TRAININGS[row.training][1])]
        done = [read_evaluation(folder) for folder in folders if (folder / "table.json").is_file()]
        for i, name in enumerate(SETS if done else ()):
            outcomes = [outcome_of(each, name, each.sets[name]) for each in done]
            cells = [row.name if i == 0 else "", name]
            for figure in ("srcc", "plcc"):
                cells += figure_and_interval(outcomes, figure)
            within = [measure(*rated(each.rows[name]), per_group=True, rounds=1).figures["srcc"] for each in done]
            pictures = [each for evaluation in done for each in evaluation.rows[name]]
            tokens, passes = (fmean(getattr(each, of) or 0 for each in pictures) for of in ("tokens", "passes"))
            runs = [run_of(row.training, seed, asked) for seed in range(len(done))]
            shown = [
                number_text(fmean(within)),
                f"{len(done[0].rows[name])}",
                f"{len(done)}",
                f"{tokens:.1f}",
                f"{passes:.1f}",
                mean_seconds(runs),
                mean_seconds(folders),
            ]
            lines.append(cells + (shown if i == 0 else [*shown[:5], "", ""]))
    return Grid(header, lines)


def figure_and_interval(outcomes: Sequence[Outcome], figure: str) -> list[str]:
    """Of one seed the figure and its bootstrap interval; of several the mean and the standard deviation over seeds."""
    known = over_runs([each.measures.figures[figure] for each in outcomes])
    if known.runs > 1:
        return [number_text(known.mean), f"± {known.spread:.3f}"]
    return [number_text(known.mean), interval_text(outcomes[0].measures.intervals[figure])]


def mean_seconds(folders: Sequence[Path]) -> str:
    """Of the commands that made them, with those that were stopped by a signal or went on."""
    known = [json.loads(path.read_text()) for folder in folders if (path := seconds_of(folder)).is_file()]
    return f"{fmean(known):.0f}" if known else "-"


def bench(asked: argparse.Namespace) -> int:
    register_demonstration()
    rows = [row for row in ROWS if not asked.rows or row.name in asked.rows]
    jobs = [(training, seed) for training in dict.fromkeys(row.training for row in rows)
            for seed in range(TRAININGS[training][1])]  # fmt: skip
    failures: list[str] = []
    if not asked.table:
        with ThreadPoolExecutor(asked.at_once) as pool:
            ended = [pool.submit(all_of, training, seed, rows, asked) for training, seed in jobs]
            failures = [failure for each in ended if (failure := each.result())]
    made = table(rows, asked)
    facts = {"date": date.today().isoformat(), "machine": machine(), "versions": versions(), "at_once": asked.at_once}
    content: dict[str, Any] = {**facts, "header": made.header, "rows": made.rows, "failures": failures}
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "methods.json").write_text(json.dumps(finite(content), indent=1) + "\n")
    text = f"{facts['machine']}, {facts['date']}, {asked.at_once} at a time\n\n{markdown_grid(made)}"
    (asked.out / "methods.md").write_text(text)
    print("\n".join([text, *failures]))
    return 1 if failures else 0


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="the seeds' methods beside RL2R, on the demonstration")
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS], metavar="ROW", help="these alone")
    parser.add_argument("--at-once", type=int, default=2, help="runs side by side")
    parser.add_argument("--table", action="store_true", help="train and score nothing")
    parser.add_argument("--training", nargs="+", default=[], metavar="KEY=VALUE", help="of every training, too")
    parser.add_argument("--scoring", nargs="+", default=[], metavar="KEY=VALUE", help="of every scoring, too")
    parser.add_argument("--root", type=Path, default=Path(data_root()))
    parser.add_argument("--out", type=Path, default=Path("runs/compare-methods"), metavar="FOLDER")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(bench(arguments()))
