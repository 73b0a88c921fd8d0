"""From result files to the lines of a table: each model's figures on each set, runs of one model put together.

Result files belong to one line when the model's name, how it was asked (method, K, temperature, prompt) and what it was
trained on are the same. Seed and weights may differ: then the line holds mean and spread over the runs.

Votes compare pictures of one reference, so their correlation within each stands beside that over all pictures.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vqr1.errors import UserError
from vqr1.evaluation.bootstrap import ROUNDS
from vqr1.evaluation.measures import Measures, beside_within, measure
from vqr1.evaluation.results import Evaluation, ResultRow, SetFacts

# Settings that make two result files two lines.
ASKED = (
    "method",
    "k",
    "until",
    "max_k",
    "temperature",
    "prompt",
    "orders",
    "anchors",
    "intervals",
    "limit_per_reference",
)


@dataclass(frozen=True)
class Counts:
    """Who enters the figures, and who does not."""

    pictures: int  # that were to be rated
    rated: int  # with a score: these alone enter
    unreadable: int  # K answers and none readable
    missing: int  # no answer at all
    pending: int  # not in the file yet
    answers: int
    unreadable_answers: int
    score_std: float  # mean over pictures of the std of their scores; NaN for K = 1
    tokens: float  # of a picture's answers, mean; NaN where nobody counted
    passes: float  # of the policy for a picture, mean; NaN where nobody counted


@dataclass(frozen=True)
class Outcome:
    """One run on one set."""

    evaluation: Evaluation
    facts: SetFacts
    counts: Counts
    measures: Measures


@dataclass(frozen=True)
class Figure:
    """A figure over runs."""

    mean: float
    spread: float  # sample standard deviation; NaN for one run
    runs: int


@dataclass(frozen=True)
class Line:
    """One model."""

    name: str
    asked: dict[str, Any]
    trained_on: list[str] | None
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)  # by set

    def figure(self, name: str, which: str) -> Figure:
        """``which`` of the figures on the set ``name``, over the line's runs."""
        return over_runs([outcome.measures.figures[which] for outcome in self.outcomes[name]])

    def average(self, sets: Sequence[str], which: str) -> Figure | None:
        """The mean over ``sets``; None unless all were evaluated. Spread where every run has every set."""
        if not sets or any(name not in self.outcomes for name in sets):
            return None
        by_run: dict[str, list[float]] = {}
        for name in sets:
            for outcome in self.outcomes[name]:
                by_run.setdefault(outcome.evaluation.folder, []).append(outcome.measures.figures[which])
        if all(len(values) == len(sets) for values in by_run.values()):
            return over_runs([statistics.fmean(values) for values in by_run.values()])
        return Figure(statistics.fmean(self.figure(name, which).mean for name in sets), float("nan"), len(by_run))


def over_runs(values: Sequence[float]) -> Figure:
    """Mean and sample standard deviation; an undefined run makes both undefined."""
    if any(value != value for value in values):
        return Figure(float("nan"), float("nan"), len(values))
    spread = statistics.stdev(values) if len(values) > 1 else float("nan")
    return Figure(statistics.fmean(values), spread, len(values))


def summarise(evaluations: Sequence[Evaluation], rounds: int = ROUNDS) -> list[Line]:
    """The lines, in the order in which their models come.

    Raises UserError, naming the folders, where one run is given twice, or runs of one line rated other pictures.
    """
    lines: dict[str, Line] = {}
    for evaluation in evaluations:
        asked = {key: evaluation.settings.get(key) for key in ASKED} | {"method": method_of(evaluation)}
        key = f"{evaluation.name} {asked} {evaluation.trained_on}"
        line = lines.setdefault(key, Line(evaluation.name, asked, evaluation.trained_on))
        for name, facts in evaluation.sets.items():
            for other in line.outcomes.get(name, []):
                _check_merged(name, other, evaluation)
            line.outcomes.setdefault(name, []).append(outcome_of(evaluation, name, facts, rounds))
    return list(lines.values())


def method_of(evaluation: Evaluation) -> str:
    """How the pictures came to their scores; a file of an older version does not name it."""
    drawn = "greedy" if evaluation.settings.get("temperature") == 0 else "mean"
    return str(evaluation.settings.get("method", drawn))


def outcome_of(evaluation: Evaluation, name: str, facts: SetFacts, rounds: int = ROUNDS) -> Outcome:
    """One set of a result file, measured."""
    rows = evaluation.rows[name]
    x, y, groups = rated(rows)
    measures = measure(x, y, groups, per_group=facts.per_group_scale, group=facts.group, rounds=rounds)
    if method_of(evaluation) == "votes" and not facts.per_group_scale:
        measures = beside_within(measures, measure(x, y, groups, per_group=True, group=facts.group, rounds=rounds))
    return Outcome(evaluation, facts, count(rows, facts), measures)


def rated(rows: Sequence[ResultRow]) -> tuple[list[float], list[float], list[str]]:
    """Predictions, opinion scores and groups of the pictures that have a score."""
    kept = [(row.score, row.mos, row.group) for row in rows if row.score is not None]
    return [x for x, _, _ in kept], [y for _, y, _ in kept], [group for _, _, group in kept]


def count(rows: Sequence[ResultRow], facts: SetFacts) -> Counts:
    stds = [row.std for row in rows if row.std is not None]
    tokens = [row.tokens for row in rows if row.tokens is not None]
    passes = [row.passes for row in rows if row.passes is not None]
    return Counts(
        pictures=facts.pictures,
        rated=sum(row.status == "ok" for row in rows),
        unreadable=sum(row.status == "unreadable" for row in rows),
        missing=sum(row.status == "missing" for row in rows),
        pending=facts.pictures - len(rows),
        answers=sum(len(row.scores) for row in rows),
        unreadable_answers=sum(score is None for row in rows for score in row.scores),
        score_std=statistics.fmean(stds) if stds else float("nan"),
        tokens=statistics.fmean(tokens) if tokens else float("nan"),
        passes=statistics.fmean(passes) if passes else float("nan"),
    )


def _check_merged(name: str, other: Outcome, evaluation: Evaluation) -> None:
    folders = f"{other.evaluation.folder} and {evaluation.folder}"
    if other.facts.labels_sha256 != evaluation.sets[name].labels_sha256:
        raise UserError(
            f"{folders} are runs of {evaluation.name} on other pictures or opinion scores of {name}; name them apart"
        )
    if Path(other.evaluation.folder).resolve() == Path(evaluation.folder).resolve():
        raise UserError(f"{evaluation.folder} is given twice; give each result once")
    same = all(other.evaluation.settings.get(key) == evaluation.settings.get(key) for key in ("seed", "weights_sha256"))
    if same:
        raise UserError(
            f"{folders} are the same weights with the same seed on {name}: no spread to show; leave one out"
        )
