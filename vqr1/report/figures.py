"""What the page draws: which metrics, in which order, with which words, as plain numbers by arm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from vqr1.report.arms import Arm, Curve, curve
from vqr1.report.runs import Run, number
from vqr1.report.style import LEVEL_STD, axis_name

TEST = "_test"  # ending of a set's name: its test pictures


@dataclass(frozen=True)
class Line:
    """A value that the curves can be held against."""

    name: str
    value: float


@dataclass(frozen=True)
class Figure:
    """A curve for each arm, or for each set of a single arm."""

    title: str
    axis: str
    series: list[tuple[int, str, Curve]]  # which look, its name, its figures
    evaluated: bool  # measured at evaluations only, not at every step
    sets: bool = False  # the series are sets and not arms
    lines: list[Line] = field(default_factory=list)


# Of every step, in the order of the page.
FIRST = (
    ("train/reward", "Reward: mean"),
    ("train/reward_std", "Reward: standard deviation"),
    ("reward/fidelity", "Fidelity"),
    ("reward/binary", "Pairs in the right order, as reward"),
    ("reward/regression", "Hits"),
    ("reward/format", "Format"),
)
# Before these, of runs that were shown answers; their loss is one to look at.
SHOWN = (
    ("train/loss", "Loss"),
    ("train/token_accuracy", "Likeliest tokens"),
    ("levels/cross_entropy", "Levels: cross-entropy"),
    ("levels/text", "Levels: the answer's other words"),
    ("levels/pair", "Levels: pairs"),
)
SPREADS = (
    ("rollout/score_std", "Score std within pictures, in training"),
    ("rollout/score_std_between", "Score std between pictures, in training"),
)
POLICY = (
    ("policy/kl", "KL"),
    ("policy/entropy", "Entropy"),
    ("canary/logp_difference", "Canary: mean"),
    ("canary/logp_difference_max", "Canary: largest"),
    ("reward/zero_spread", "Pictures without spread"),
    ("rollout/unreadable", "Unreadable answers"),
)
AXES = {
    "rollout/score_std_between": "standard deviation of the pictures' mean scores",
    "canary/logp_difference": "difference of vLLM's and the trainer's log-probabilities",
    "canary/logp_difference_max": "the largest such difference of a token",
    "canary/importance_ratio": "ratio of the trainer's to vLLM's probabilities",
    "reward/zero_spread": "share whose answers all give one score",
    "rollout/unreadable": "share of the answers",
    "rollout/score_mean": "mean of the readable scores",
    "rollout/length": "tokens of an answer, mean",
    "rollout/clipped": "answers cut at rollout.max_tokens (share)",
    "reward/no_rival": "pictures without one to compare with (share)",
    "train/loss": "loss; near 0 by construction, no measure of progress",
    "train/grad_norm": "norm of the gradient before it is clipped",
    "train/lr": "learning rate",
}


def figures(arms: Sequence[Arm]) -> tuple[list[Figure], list[Figure]]:
    """The figures to look at first, and the others, each with what was logged of it."""
    runs = [run for arm in arms for run in arm.runs]
    taught = SHOWN if any(was_shown(run) for run in runs) else ()
    first = [
        *_stepwise(arms, (*taught, *FIRST)),
        *_by_set(arms, runs, "srcc", "SRCC"),
        *_by_set(arms, runs, "score_std", "Score std"),
        *_stepwise(arms, SPREADS),
        *_stepwise(arms, POLICY),
    ]
    shown = {key for key, _ in (*taught, *FIRST, *SPREADS, *POLICY)}
    others = sorted({key for run in runs for key in run.names()} - shown)
    keys = [(key, key) for key in others if not key.startswith("eval/")]
    return first, [*_stepwise(arms, keys), *_by_set(arms, runs, "plcc", "PLCC")]


def was_shown(run: Run) -> bool:
    """Whether the run learnt from answers that it was shown, and drew none."""
    return run.settings.get("objective", "rl2r") != "rl2r"


def curved_sets(runs: Sequence[Run]) -> list[str]:
    """The sets that a run evaluated more often than at its start and its end, in the order of the first time."""
    names = dict.fromkeys(name for run in runs for name in run.sets())
    return [name for name in names if any(len(run.series(f"eval/{name}/srcc")[0]) > 2 for run in runs)]


def final_sets(runs: Sequence[Run]) -> list[str]:
    """The sets whose figures sum a run up: test sets first. Without those of the start policy alone."""
    names = dict.fromkeys(name for run in runs for name in final(run))
    return sorted(names, key=lambda name: not name.endswith(TEST))


def final(run: Run, end: str = "final") -> dict[str, dict[str, float | None]]:
    """The figures of each set at a run's end (or start), from its summary; from its last (first) evaluation without."""
    found = (run.summary or {}).get(end)
    if isinstance(found, dict):
        return {
            name: {key: number(value) for key, value in values.items()}
            for name, values in found.items()
            if isinstance(values, dict)
        }
    rows = [row for row in run.metrics if any(key.startswith("eval/") for key in row)]
    made: dict[str, dict[str, float | None]] = {}
    for key, value in (rows[-1 if end == "final" else 0] if rows else {}).items():
        if key.startswith("eval/") and key.count("/") == 2:
            _, name, figure = key.split("/")
            made.setdefault(name, {})[figure] = number(value)
    return made


def ceilings(runs: Sequence[Run], name: str) -> list[Line]:
    """What the proof of the runs says that set ``name`` can reach at best; each value once."""
    made: dict[Line, None] = {}
    for run in runs:
        proof: Any = (run.summary or {}).get("proof")
        row = proof.get(name) if isinstance(proof, dict) else None
        for kind in ("supervised", "label"):
            value = number(row.get(f"{kind}_ceiling")) if isinstance(row, dict) else None
            if value is not None:
                made[Line(f"{kind} ceiling", value)] = None
    return list(made)


def _stepwise(arms: Sequence[Arm], wanted: Sequence[tuple[str, str]]) -> Iterator[Figure]:
    for key, title in wanted:
        series = [(i, arm.name, one) for i, arm in enumerate(arms) if (one := curve(arm, key, smooth=True))]
        if series:
            axis = axis_name(key) if (key, title) in SHOWN else AXES.get(key, axis_name(key))
            yield Figure(title, axis, series, evaluated=False)


def _by_set(arms: Sequence[Arm], runs: Sequence[Run], figure: str, title: str) -> Iterator[Figure]:
    """A figure per set with a curve per arm; of a single arm one figure with a curve per set."""
    sets = curved_sets(runs)
    levels = figure == "score_std" and all(map(was_shown, runs))
    axis = LEVEL_STD if levels else axis_name(f"eval/set/{figure}")
    if len(arms) == 1:
        series = [
            (i, name, one) for i, name in enumerate(sets) if (one := curve(arms[0], f"eval/{name}/{figure}", False))
        ]
        if series:
            lines = [
                Line(f"{name}, {line.name}", line.value)
                for name in sets
                for line in (ceilings(runs, name + TEST) if figure == "srcc" else [])
            ]
            yield Figure(f"{title}, validation sets", axis, series, True, sets=True, lines=lines)
        return
    for name in sets:
        series = [
            (i, arm.name, one) for i, arm in enumerate(arms) if (one := curve(arm, f"eval/{name}/{figure}", False))
        ]
        if series:
            lines = ceilings(runs, name + TEST) if figure == "srcc" else []
            yield Figure(f"{title}: {name}", axis, series, True, lines=lines)
