"""A study: finished runs that differ in swept words, put together over seeds and compared with the default.

Nothing is averaged that is not there: a run that has not finished is listed and left out, and a figure that is
undefined in one run (constant predictions have no correlation) is undefined for its setting.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import Any, Literal

from vqr1.config import Config, as_dict
from vqr1.errors import UserError
from vqr1.evaluation.paired_seeds import SeedTest, holm, paired_seeds
from vqr1.evaluation.paper import TABLE2, Published, published
from vqr1.evaluation.summary import Figure, over_runs
from vqr1.report.runs import Run, State, by_experiment, differing, flat

Step = Literal["final", "best"]  # whose figures: the last step's, or those of the best mean validation SRCC
Value = float | None  # NaN: undefined; None: not evaluated

REWARD = "reward"
REWARD_WORDS = ("reward.kind", "reward.agreement", "reward.opponent", "reward.variance")
# The files of conf/reward that the paper's Table 4 compares, in its order, by these words; of a regression by its kind.
REWARDS: dict[str, tuple[str, ...]] = {
    "regression": ("regression",),
    "binary": ("ranking", "binary", "mean", "sample"),
    "probability_average": ("ranking", "fidelity", "each", "sample"),
    "fixed_variance": ("ranking", "fidelity", "each", "unit"),
    "ranking": ("ranking", "fidelity", "mean", "sample"),
}
BETA = "trainer.beta"
PAPER = {"rollout.k": 6, BETA: 0.04, REWARD: "ranking"}
MEAN = "mean"  # the column of the mean over the sets
NO_TEST = paired_seeds([])


@dataclass(frozen=True)
class Setting:
    """Finished runs that differ in their seed alone, by seed; none where no run of the setting has finished."""

    values: dict[str, Any]  # by axis
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> list[Any]:
        return [run.seed for run in self.runs]


@dataclass(frozen=True)
class Cell:
    """A figure of one setting, one value per run, in the order of the runs."""

    values: tuple[Value, ...] = ()

    @property
    def figure(self) -> Figure | None:
        """Mean, sample standard deviation and number of runs; NaN where one is undefined, None where none has it."""
        found = [value for value in self.values if value is not None]
        return over_runs(found) if found else None

    @property
    def undefined(self) -> int:
        return sum(value is not None and math.isnan(value) for value in self.values)


@dataclass(frozen=True)
class Study:
    """The runs of one experiment."""

    experiment: str
    axes: list[str]  # the settings that differ; the rewards of Table 4 are one, REWARD
    settings: list[Setting]
    default: Setting | None  # what the others are compared with
    left_out: list[tuple[Run, str]]  # and why

    @property
    def runs(self) -> list[Run]:
        return [run for setting in self.settings for run in setting.runs]

    @property
    def figures(self) -> tuple[str, ...]:
        """What its layout shows: the PLCC alone where K is swept, as the paper's Table 3."""
        return ("plcc",) if self.axes == ["rollout.k"] else ("srcc", "plcc")


@dataclass(frozen=True)
class Layout:
    """A row per setting and a column per set, as the paper's Tables 3 and 4."""

    sets: list[str]
    figures: tuple[str, ...]  # srcc, plcc
    step: Step
    rows: list[tuple[Setting, dict[str, tuple[Cell, ...]]]]  # by set, and MEAN; a cell per figure
    published: list[Published]  # rows of the paper, where it has one of the sets


@dataclass(frozen=True)
class Cross:
    """One metric over two swept words. ``fixed`` are the values of the other ones."""

    metric: str
    step: Step
    row: str
    column: str
    row_values: list[Any]
    column_values: list[Any]
    cells: list[list[Cell]]  # without values where there is no finished run
    fixed: dict[str, Any]


@dataclass(frozen=True)
class Compared:
    """A setting less the default on one column of a layout, seed by seed."""

    setting: Setting
    column: str
    figure: str
    test: SeedTest
    undefined: int  # seeds that both have, of which one figure is undefined: then there is no test
    t_holm: float  # adjusted over the settings of this column
    sign_holm: float

    @property
    def p_values(self) -> tuple[float, ...]:
        """Of the t test and of the sign-flip test, each as it is and adjusted."""
        return self.test.t_p, self.t_holm, self.test.sign_p, self.sign_holm


def studies(runs: Sequence[Run], against: Mapping[str, str] | None = None) -> list[Study]:
    """One study for each experiment. ``against``: values, as text, of the setting that the others are compared with,
    where it is not the paper's or the schema's. Raises UserError where no setting has them.
    """
    return [_study(experiment, members, against or {}) for experiment, members in by_experiment(runs).items()]


def _study(experiment: str, runs: Sequence[Run], against: Mapping[str, str]) -> Study:
    axes = axes_of(runs)
    left_out: list[tuple[Run, str]] = []
    groups: dict[str, tuple[dict[str, Any], dict[Any, Run]]] = {}
    for run in runs:
        values = {axis: value_of(run, axis) for axis in axes}
        _, by_seed = groups.setdefault(", ".join(map(text, values.values())), (values, {}))
        if run.state is not State.finished:
            left_out.append((run, f"{run.state.value}, last step {run.steps}"))
        elif run.seed in by_seed:
            left_out.append((run, f"a second run with seed {run.seed}, beside {by_seed[run.seed].folder}"))
        else:
            by_seed[run.seed] = run
    settings = [
        Setting(values, tuple(run for _, run in sorted(by_seed.items(), key=lambda pair: order_of("", pair[0]))))
        for values, by_seed in groups.values()
    ]
    settings.sort(key=lambda setting: [order_of(axis, setting.values[axis]) for axis in axes])
    return Study(experiment, axes, settings, _default(settings, axes, against), left_out)


def axes_of(runs: Sequence[Run]) -> list[str]:
    """The settings that differ; the words of Table 4's rewards are one, REWARD."""
    names = differing(runs)
    words = [name for name in names if name in REWARD_WORDS]
    if words and all(reward_of(run) for run in runs):
        names[names.index(words[0])] = REWARD
        names = [name for name in names if name not in REWARD_WORDS]
    return names


def reward_of(run: Run) -> str | None:
    """Which of Table 4's rewards the run has; None for another."""
    settings = run.settings
    words = tuple(settings.get(name) for name in REWARD_WORDS)
    return next((name for name, known in REWARDS.items() if words[: len(known)] == known), None)


def value_of(run: Run, axis: str) -> Any:
    return reward_of(run) if axis == REWARD else run.settings.get(axis)


def _default(settings: Sequence[Setting], axes: Sequence[str], against: Mapping[str, str]) -> Setting | None:
    for axis in against:
        if axis not in axes:
            raise UserError(f"{axis}={against[axis]}: these runs differ in {', '.join(axes) or 'nothing'} only")
    schema = {**flat(as_dict(Config())), **PAPER}
    asked = {axis: against.get(axis, text(schema.get(axis))) for axis in axes}
    for setting in settings:
        if axes and all(text(setting.values[axis]) == asked[axis] for axis in axes):
            return setting
    if against:
        said = ", ".join(f"{axis}={value}" for axis, value in asked.items())
        raise UserError(f"no run has {said}; compare with a setting that there is")
    return None


def order_of(axis: str, value: Any) -> tuple[int, float, str]:
    """Table 4's rewards as there, numbers by size, then all else by its text."""
    if axis == REWARD:
        return (0, list(REWARDS).index(value), "")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (0, float(value), "")
    return (1, 0.0, text(value))


def text(value: Any) -> str:
    """A setting's value as on the command line."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(text, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def sets_of(study: Study, step: Step) -> list[str]:
    """The sets whose figures tell settings apart: the test pictures, where there are any at the step, else the
    validation pictures. The best step is chosen by the latter, and evaluates them alone."""
    names = dict.fromkeys(name for run in study.runs for name in run.sets())
    tests = {f"{name}_test" for run in study.runs for name in run.config["data"].get("test") or ()}
    validation = {name for run in study.runs for name in run.config["data"].get("validation") or ()}
    chosen = [name for name in names if name in tests] if step == "final" else []
    return chosen or [name for name in names if name in validation] or [name for name in names if name not in tests]


def value(run: Run, metric: str, step: Step) -> Value:
    """What the run logged of ``metric`` at its last or best step: NaN where it was undefined, None where it was not
    measured, or where the run has no best step."""
    summary = run.summary or {}
    at = run.steps if step == "final" else summary.get("best_step")
    steps, values = run.series(metric)
    if at not in steps:
        return None
    found = values[steps.index(at)]
    return math.nan if found is None else found


def _mean(values: Sequence[Value]) -> Value:
    """None unless all sets were evaluated, NaN where one is undefined."""
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def cell(setting: Setting, metric: str, step: Step) -> Cell:
    return Cell(tuple(value(run, metric, step) for run in setting.runs))


def column_cell(setting: Setting, column: str, figure: str, sets: Sequence[str], step: Step) -> Cell:
    """``figure`` of the set ``column``, or of the mean over ``sets`` of each run."""
    names = sets if column == MEAN else [column]
    per_run = ([value(run, f"eval/{name}/{figure}", step) for name in names] for run in setting.runs)
    return Cell(tuple(_mean(values) for values in per_run))


def layout(study: Study, figures: Sequence[str] = ("srcc", "plcc"), step: Step = "final") -> Layout:
    """Settings against sets, with the mean over the sets last. Table 3 has PLCC alone: ``figures=("plcc",)``."""
    sets = sets_of(study, step)
    rows = [
        (
            setting,
            {
                column: tuple(column_cell(setting, column, figure, sets, step) for figure in figures)
                for column in (*sets, MEAN)
            },
        )
        for setting in study.settings
    ]
    return Layout(sets, tuple(figures), step, rows, _published(study, sets))


def _published(study: Study, sets: Sequence[str]) -> list[Published]:
    """The paper's rows of the swept word, where it has a figure of one of the sets."""
    tables = {"rollout.k": "3", REWARD: "4"}
    if len(study.axes) != 1 or study.axes[0] not in tables or not {paper_set(name) for name in sets} & set(TABLE2):
        return []
    return published(tables[study.axes[0]])


def paper_set(name: str) -> str:
    """The dataset of an evaluated set: ``bid_test`` are pictures of ``bid``."""
    return name.removesuffix("_test")


def crosses(study: Study, metric: str, step: Step = "final", words: tuple[str, str] | None = None) -> list[Cross]:
    """``metric`` over two swept ``words`` (rows, columns), K and beta by default: a table for each combination of the
    other ones. None where fewer than two are swept. Raises UserError for a word that is not swept."""
    if words is None:
        first = [axis for axis in ("rollout.k", BETA) if axis in study.axes]
        both = [*first, *(axis for axis in study.axes if axis not in first)][:2]
        if len(both) < 2:
            return []
        words = (both[0], both[1])
    for word in words:
        if word not in study.axes:
            raise UserError(
                f"{word} is the same in all these runs; they differ in {', '.join(study.axes) or 'nothing'}"
            )
    values = {axis: _values(study, axis) for axis in study.axes}
    others = [axis for axis in study.axes if axis not in words]
    by_values = {_key(setting.values): setting for setting in study.settings}
    found = []
    for combination in product(*(values[axis] for axis in others)):
        fixed = dict(zip(others, combination, strict=True))

        def at(row: Any, column: Any, fixed: dict[str, Any] = fixed) -> Cell:
            setting = by_values.get(_key({**fixed, words[0]: row, words[1]: column}))
            return cell(setting, metric, step) if setting else Cell()

        rows, columns = values[words[0]], values[words[1]]
        cells = [[at(row, column) for column in columns] for row in rows]
        if any(each.values for line in cells for each in line):
            found.append(Cross(metric, step, *words, rows, columns, cells, fixed))
    return found


def _values(study: Study, axis: str) -> list[Any]:
    known = {text(setting.values[axis]): setting.values[axis] for setting in study.settings}
    return sorted(known.values(), key=lambda value: order_of(axis, value))


def _key(values: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    return frozenset((axis, text(value)) for axis, value in values.items())


def compared(study: Study, figure: str = "srcc", step: Step = "final") -> list[Compared]:
    """Each setting against the default on each set and on their mean, over the seeds that both were run with; Holm's
    correction is over the settings of a column. Empty where there is no default or nothing to compare."""
    default = study.default
    others = [setting for setting in study.settings if setting is not default and setting.runs]
    if default is None or not default.runs:
        return []
    sets = sets_of(study, step)
    found: list[Compared] = []
    for column in (*([] if len(sets) == 1 else [MEAN]), *sets):

        def values(setting: Setting, column: str = column) -> dict[Any, float]:
            made = column_cell(setting, column, figure, sets, step).values
            return {seed: value for seed, value in zip(setting.seeds, made, strict=True) if value is not None}

        base = values(default)
        tests, undefined = [], []
        for setting in others:
            gaps = [value - base[seed] for seed, value in values(setting).items() if seed in base]
            undefined.append(sum(map(math.isnan, gaps)))
            tests.append(NO_TEST if undefined[-1] else paired_seeds(gaps))
        t_holm, sign_holm = (holm([getattr(test, p) for test in tests]) for p in ("t_p", "sign_p"))
        found += [
            Compared(setting, column, figure, tests[i], undefined[i], t_holm[i], sign_holm[i])
            for i, setting in enumerate(others)
        ]
    return found
