"""A study as Markdown that reads well on a terminal too."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from vqr1.errors import printable
from vqr1.evaluation.paired_seeds import LEVEL, least_p, pairs_needed, student_interval
from vqr1.evaluation.paper import Published, published
from vqr1.evaluation.render import markdown_grid
from vqr1.evaluation.table import Grid
from vqr1.report.study import (
    MEAN,
    REWARD,
    REWARDS,
    Cell,
    Compared,
    Cross,
    Layout,
    Setting,
    Step,
    Study,
    compared,
    crosses,
    layout,
    paper_set,
    text,
)

NOTHING = "-"
WIDTH = 120  # of a line of text
SEEDS = 3  # the fewest that an interval is shown of: Student's of two is 9 standard deviations to each side
STEPS: dict[Step, str] = {
    "final": "of the last step",
    "best": "of the step with the best mean validation SRCC, and so a little too high on these sets",
}
TITLES = {
    "regression": "Q-Insight's regression",
    "binary": "binary reward",
    "probability_average": "probability average (Eq. 7)",
    "fixed_variance": "fixed variance of one",
    "ranking": "VisualQuality-R1",
}


def study_text(study: Study, step: Step = "final") -> str:
    """Everything of the study: the layouts, the crosses, the paired tests, and what is not in them."""
    finished = len(study.runs)
    differ = ", ".join(study.axes) or "their seed only"
    parts = [
        f"{printable(study.experiment)}: {finished} of {finished + len(study.left_out)} runs, which differ in "
        f"{printable(differ)}. Figures {STEPS[step]} ({_steps(study)}); ± is the sample standard deviation over seeds."
    ]
    if finished:
        made = layout(study, study.figures, step)
        parts.append(layout_text(made, study.axes))
        if made.sets:
            parts += [cross_text(each) for name in made.sets for each in crosses(study, f"eval/{name}/srcc", step)]
        parts += tests_text(study, compared(study, "srcc", step))
        if study.axes == [REWARD]:
            parts += _order_text(made)
    if study.left_out:
        parts.append(
            "\n".join(["Left out:", *(f"- {printable(f'{run.folder}: {why}')}" for run, why in study.left_out)])
        )
    return "\n\n".join(map(_wrapped, parts)) + "\n"


def _wrapped(part: str) -> str:
    """Lines of at most :data:`WIDTH` letters, but those of a table."""
    lines = []
    for line in part.splitlines():
        indent = "  " if line.startswith("- ") else ""
        wrapped = textwrap.wrap(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        lines += [line] if line.startswith("|") else wrapped or [""]
    return "\n".join(lines)


def _steps(study: Study) -> str:
    steps = sorted({run.steps for run in study.runs})
    return f"runs of {' and '.join(map(str, steps)) or 'no'} steps"


def layout_text(made: Layout, axes: Sequence[str]) -> str:
    """Settings against sets: a line of means, below it one of 95 % intervals over seeds where there are several."""
    columns = [*made.sets, *([MEAN] if len(made.sets) > 1 else [])]
    header = [*(axes or ["runs"]), "seeds", *columns]
    rows, ours = [], []
    for row in made.published:
        cells = [joined(published_texts(made, row, name)) for name in made.sets]
        average = [NOTHING] if len(columns) > len(made.sets) else []
        rows.append([f"{row.method} (published)", *[""] * (max(1, len(axes)) - 1), "", *cells, *average])
    for setting, cells_by in made.rows:
        cells_of = [cells_by[column] for column in columns]
        ours.append(
            [
                *(_labels(setting) or ["all"]),
                str(len(setting.runs)),
                *(joined(map(cell_text, cells)) for cells in cells_of),
            ]
        )
        ends = [joined(map(_interval, cells)) for cells in cells_of]
        if any(set(end) - set(" /-") for end in ends):
            ours.append(["95 % interval", *[""] * max(1, len(axes)), *ends])
    figures = " / ".join(name.upper() for name in made.figures)
    shown = markdown_grid(Grid(header, rows + ours, frozenset(range(len(rows)))))
    said = (
        f"{figures}; an undefined figure of one run leaves its setting undefined. Intervals are Student's, of the mean "
        f"over {SEEDS} seeds or more, and may pass 1."
        + (" Published rows are the paper's, on whole sets." if rows else "")
    )
    return f"{said}\n\n{shown}"


def cross_text(made: Cross) -> str:
    fixed = "".join(f", {axis}={text(value)}" for axis, value in made.fixed.items())
    header = [f"{made.row} \\ {made.column}", *map(text, made.column_values)]
    rows = [
        [text(value), *((cell_text(each) or NOTHING) + count_text(each) for each in line)]
        for value, line in zip(made.row_values, made.cells, strict=True)
    ]
    return f"{printable(made.metric + fixed)}, (number of seeds)\n\n{markdown_grid(Grid(header, rows))}"


def tests_text(study: Study, tests: Sequence[Compared]) -> list[str]:
    """The paired tests, and in words what they cannot say."""
    if len(study.settings) < 2:
        return []
    if study.default is None:
        return ["No setting has the default value of all that differs, so none is tested; name one with --against."]
    name = name_of(study.default)
    if not tests:
        return [f"No test: {name} or all others have no finished run."]
    header = ["less " + name, "set", "seeds", "difference", "95 % interval", "t: p", "Holm", "sign flip: p", "Holm"]
    rows = [[name_of(each.setting), each.column, str(each.test.pairs), *_numbers(each)] for each in tests]
    title = f"Paired over seeds, SRCC less that of {name}; Holm's correction over the settings of a set."
    return [f"{title}\n\n{markdown_grid(Grid(header, rows))}", "\n".join(f"- {line}" for line in _limits(tests))]


def _numbers(each: Compared) -> list[str]:
    if each.undefined:
        return [f"undefined in {each.undefined}", *[NOTHING] * 5]
    test = each.test
    if not test.pairs:
        return [NOTHING] * 6
    interval = NOTHING if math.isnan(test.low) else f"[{test.low:+.3f}, {test.high:+.3f}]"
    return [f"{test.mean:+.3f}", interval, *(p_text(p) or NOTHING for p in each.p_values)]


def _limits(tests: Sequence[Compared]) -> Iterator[str]:
    """What so few seeds cannot show."""
    settings = len({id(each.setting) for each in tests})
    needed = pairs_needed(settings)
    for pairs in sorted({each.test.pairs for each in tests if not each.undefined}):
        if pairs < 2:
            yield f"{pairs or 'no'} seed in common: no test; differences of single runs say nothing of settings."
        elif settings * least_p(pairs) > LEVEL:
            yield (
                f"{pairs} seeds in common: too few for the sign-flip test, whose p is at least {least_p(pairs):.4g} "
                f"({min(1.0, settings * least_p(pairs)):.4g} with Holm's correction of {settings}) and so never "
                f"below {LEVEL}; it takes {needed} seeds. The t test can, if differences are normally distributed, "
                "which so few cannot show."
            )
    if any(each.undefined for each in tests):
        yield "Where a figure is undefined in a run, the setting is not tested."


def _order_text(made: Layout) -> list[str]:
    """The order that the means give, beside the paper's."""
    means = [(setting.values[REWARD], cells[MEAN][0].figure) for setting, cells in made.rows]
    known = sorted(
        ((figure.mean, name) for name, figure in means if figure and not math.isnan(figure.mean)), reverse=True
    )
    if len(known) < 2:
        return []
    ours = ", ".join(f"{TITLES[name]} {mean:.3f}" for mean, name in known)
    paper = [(row.average[0] or math.nan, name) for name, row in zip(REWARDS, published("4"), strict=True)]
    theirs = ", ".join(f"{TITLES[name]} {mean:.3f}" for mean, name in sorted(paper, reverse=True))
    return [f"By mean SRCC, best first: {ours}.\nThe paper's Table 4 (KADID-10k, mean of eight test sets): {theirs}."]


def _labels(setting: Setting) -> list[str]:
    return [TITLES[value] if axis == REWARD else text(value) for axis, value in setting.values.items()]


# What the page's tables say in the same words; None where there is nothing to say.


def name_of(setting: Setting) -> str:
    words = zip(setting.values, _labels(setting), strict=True)
    return ", ".join(label if axis == REWARD else f"{axis}={label}" for axis, label in words)


def cell_text(cell: Cell) -> str | None:
    figure = cell.figure
    if figure is None:
        return None
    if cell.undefined:
        return f"undefined in {cell.undefined} of {figure.runs}"
    return f"{figure.mean:.3f}" + ("" if math.isnan(figure.spread) else f" ± {figure.spread:.3f}")


def count_text(cell: Cell) -> str:
    return f" ({cell.figure.runs})" if cell.figure else ""


def _interval(cell: Cell) -> str | None:
    figure = cell.figure
    if figure is None or figure.runs < SEEDS or math.isnan(figure.spread):
        return None
    low, high = student_interval(figure.mean, figure.spread, figure.runs)
    return f"[{low:.3f}, {high:.3f}]"


def published_texts(made: Layout, row: Published, name: str) -> list[str | None]:
    """A published row's figures of set ``name``."""
    found = dict(zip(("srcc", "plcc"), row.cells.get(paper_set(name)) or (None, None), strict=True))
    return [None if (value := found[figure]) is None else f"{value:.3f}" for figure in made.figures]


def joined(texts: Iterable[str | None], nothing: str = NOTHING) -> str:
    """Figures of one cell; ``nothing`` for what is not there, once where none is."""
    found = list(texts)
    return " / ".join(each or nothing for each in found) if any(found) else nothing


def p_text(p: float) -> str | None:
    return None if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"
