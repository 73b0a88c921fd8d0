"""The benchmark table in the layout of the paper's Table 2, as Markdown and as LaTeX, from lines and published rows.

Columns are datasets, cells SRCC / PLCC (raw), the average comes last. Below: every figure with its interval and counts,
and in words what the numbers do not say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vqr1.evaluation.bootstrap import LEVEL
from vqr1.evaluation.paper import REMARKS, TABLE2, Published
from vqr1.evaluation.summary import Figure, Line, Outcome

NOTHING = "-"
UNDEFINED = "undefined"
TRAINED = "*"  # marks a cell of a set that was trained on
PUBLISHED = "published"
VALIDATION = "validation split"  # in the words of SetFacts.part


@dataclass(frozen=True)
class Grid:
    """A table of texts. ``published`` are the rows, counted from 0, that others measured."""

    header: list[str]
    rows: list[list[str]]
    published: frozenset[int] = frozenset()


@dataclass(frozen=True)
class BenchmarkTable:
    """What is printed."""

    main: Grid
    details: Grid
    notes: list[str]


def benchmark_table(lines: Sequence[Line], published: Sequence[Published]) -> BenchmarkTable:
    return BenchmarkTable(_main(lines, published), _details(lines), _notes(lines, published))


def comparable(lines: Sequence[Line], published: Sequence[Published]) -> list[Published]:
    """The published rows where one of the lines has a set that they have, else none: with no column in common they
    would say nothing of what was evaluated."""
    evaluated = {name for line in lines for name in line.outcomes}
    return [row for row in published if evaluated & {name for name, pair in row.cells.items() if pair is not None}]


def columns(lines: Sequence[Line], published: Sequence[Published]) -> dict[str, str]:
    """Sets and their titles: the paper's eight where its rows are shown, then what else was evaluated."""
    evaluated = {name: outcomes[0].facts.title for line in lines for name, outcomes in line.outcomes.items()}
    eight = TABLE2 if published else {name: title for name, title in TABLE2.items() if name in evaluated}
    return {**eight, **{name: title for name, title in evaluated.items() if name not in eight}}


def averaged(lines: Sequence[Line], published: Sequence[Published]) -> list[str]:
    """The sets that the average is over: the paper's eight beside its rows, else all that are shown."""
    return list(TABLE2) if published else list(columns(lines, published))


def _main(lines: Sequence[Line], published: Sequence[Published]) -> Grid:
    sets = columns(lines, published)
    rows = [_published_row(row, sets) for row in published]
    for line in lines:
        rows.extend(_line_rows(line, lines, sets, averaged(lines, published)))
    return Grid(["Model", "Trained on", *sets.values(), "Avg"], rows, frozenset(range(len(published))))


def _published_row(row: Published, sets: dict[str, str]) -> list[str]:
    cells = []
    for name in sets:
        pair = row.cells.get(name)
        mark = TRAINED if name in row.trained_sets else ""
        cells.append(NOTHING if pair is None else _pair([_plain(value) for value in pair]) + mark)
    average = _pair([_plain(value) for value in row.average])
    return [f"{row.method} ({PUBLISHED})", row.trained_on, *cells, average]


def _line_rows(line: Line, lines: Sequence[Line], sets: dict[str, str], over: Sequence[str]) -> Iterator[list[str]]:
    cells, ends = [], []
    for name in sets:
        outcomes = line.outcomes.get(name, [])
        mark = TRAINED if any(outcome.facts.trained_on for outcome in outcomes) else ""
        cells.append(_pair([_figure(line.figure(name, f)) for f in ("srcc", "plcc")]) + mark if outcomes else NOTHING)
        one = outcomes[0].measures.intervals if len(outcomes) == 1 else {}
        ends.append(_pair([interval_text(one[f]) for f in ("srcc", "plcc")]) if one else NOTHING)
    averages = [line.average(over, figure) for figure in ("srcc", "plcc")]
    average = _pair([_figure(value) for value in averages if value]) or NOTHING
    yield [label(line, lines), trained_on(line), *cells, average]
    if any(end != NOTHING for end in ends):
        yield [f"{LEVEL:.0%} interval".replace("%", " %"), "", *ends, ""]


def label(line: Line, lines: Sequence[Line]) -> str:
    """The model's name, with what sets it apart from another of that name, and how many runs there are."""
    runs = max(len(outcomes) for outcomes in line.outcomes.values())
    others = [other for other in lines if other is not line and other.name == line.name]
    differing = [key for key in line.asked if any(other.asked[key] != line.asked[key] for other in others)]
    remarks = [f"{key} {str(line.asked[key])[:40]}" for key in differing if line.asked[key] is not None]
    return ", ".join([line.name, *remarks, *([f"mean of {runs} runs"] if runs > 1 else [])])


def trained_on(line: Line) -> str:
    if line.trained_on is None:
        return "not stated"
    titles = {"kadid10k": "KADID-10k", "spaq": "SPAQ", **TABLE2}
    return " + ".join(titles.get(name, name) for name in line.trained_on) or "nothing"


DETAILS = (
    "Model", "Set", "Seed", "SRCC", "PLCC raw", "PLCC fitted", "KRCC", "RMSE fitted", "Pair accuracy", "Score std",
    "Answer tokens", "Passes", "Rated", "Unreadable", "Unreadable answers", "Missing", "Figures", "Resampled",
)  # fmt: skip


def _details(lines: Sequence[Line]) -> Grid:
    rows = [
        _detail(line.name, outcome) for line in lines for outcomes in line.outcomes.values() for outcome in outcomes
    ]
    return Grid(list(DETAILS), rows)


def _detail(name: str, outcome: Outcome) -> list[str]:
    counts, measures = outcome.counts, outcome.measures
    seed = outcome.evaluation.settings.get("seed")
    shares = f"{counts.unreadable_answers} of {counts.answers}" if counts.answers else NOTHING
    return [
        name,
        outcome.facts.title + (TRAINED if outcome.facts.trained_on else ""),
        NOTHING if seed is None else str(seed),
        *(f"{number_text(measures.figures[f])} {interval_text(measures.intervals[f])}" for f in ("srcc", "plcc")),
        *(number_text(measures.figures[f]) for f in ("plcc_fit", "krcc", "rmse_fit", "pair_accuracy")),
        NOTHING if math.isnan(counts.score_std) else f"{counts.score_std:.3f}",
        *(NOTHING if math.isnan(each) else f"{each:.4g}" for each in (counts.tokens, counts.passes)),
        f"{counts.rated} of {counts.pictures}",
        str(counts.unreadable),
        shares,
        str(counts.missing),
        measures.scope,
        measures.resampled,
    ]


def _notes(lines: Sequence[Line], published: Sequence[Published]) -> list[str]:
    outcomes = [(name, o) for line in lines for name, runs in line.outcomes.items() for o in runs]
    notes = [
        f"Cells are SRCC / PLCC of the raw predictions; intervals are {100 * LEVEL:.0f} % percentile bootstrap.",
        "A picture's score is the mean of its readable answers, or by levels, comparison and votes of words' "
        "probabilities; one without a score enters no figure.",
    ]
    if published:
        notes.append("Rows marked published are the VisualQuality-R1 paper's (arXiv 2505.14460), not measured here.")
        notes.extend(f"{REMARKS[name]}." for name in dict.fromkeys(name for name, _ in outcomes) if name in REMARKS)
        notes.append("Avg is over the paper's eight sets and is given where all eight were evaluated.")
    if seen := [o.facts.part for _, o in outcomes if o.facts.trained_on]:
        splits = ["validation"] * any(VALIDATION in part for part in seen)
        splits += ["test"] * any(VALIDATION not in part for part in seen)
        notes.append(f"{TRAINED} The set was trained on; the figure is of its {' or '.join(splits)} split only.")
    if any(set(row.trained_sets) & set(TABLE2) for row in published):
        notes.append(f"{TRAINED} in a published row: the set was trained on, as the paper says; not on which pictures.")
    pseudo = list(dict.fromkeys(o.facts.title for _, o in outcomes if o.facts.pseudo_labels))
    if pseudo:
        notes.append(f"Labels of {', '.join(pseudo)} are pseudo-labels, which no person gave: no accuracy benchmark.")
    if any(len(runs) > 1 for line in lines for runs in line.outcomes.values()):
        notes.append("± is the sample standard deviation over runs; each run's interval is in the second table.")
    for line in lines:
        for runs in line.outcomes.values():
            notes.extend(f"{line.name}, {o.facts.title}: {remark}." for o in runs for remark in _remarks(o))
    return list(dict.fromkeys(notes))


def _remarks(outcome: Outcome) -> Iterator[str]:
    counts, facts = outcome.counts, outcome.facts
    if counts.pending:
        yield f"{counts.pending} of {counts.pictures} pictures are not rated yet; evaluate again to finish"
    if counts.missing:
        yield f"{counts.missing} pictures have no answer, see status missing in {outcome.evaluation.folder}"
    if facts.part not in ("all", "test"):
        yield f"{facts.part} only"
    if VALIDATION in facts.part and facts.trained_on:
        yield "the weights were chosen on its validation split, so this is no test"
    asked = outcome.evaluation.settings
    trained, asks = asked.get("objective"), asked.get("asks")
    if trained and asks and trained != asks:
        yield f"trained by objective={trained} and scored by method={asked['method']}, which objective={asks} trains"
    yield from outcome.measures.notes


def _pair(texts: Sequence[str]) -> str:
    return " / ".join(texts)


def _plain(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def number_text(value: float) -> str:
    return UNDEFINED if math.isnan(value) else f"{value:.3f}"


def _figure(figure: Figure) -> str:
    return number_text(figure.mean) + ("" if math.isnan(figure.spread) else f" ± {figure.spread:.3f}")


def interval_text(ends: tuple[float, float]) -> str:
    return NOTHING if math.isnan(ends[0]) else f"[{ends[0]:.3f}, {ends[1]:.3f}]"
