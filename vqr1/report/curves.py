"""The curves of one run as a picture: what to look at first."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from vqr1.folder_reader import read_json
from vqr1.folder_writer import read_json_lines
from vqr1.report.fonts import drawable
from vqr1.report.style import (
    BAND,
    LEVEL_STD,
    PALE,
    QUALITY,
    RC,
    SMOOTH,
    STEP,
    WIDTH,
    Look,
    axis_name,
    look,
    running_mean,
    save,
)

HEIGHT = 3.9  # inches, of the panels
ASIDE = 0.02  # of the panel's steps: intervals of several sets lie beside each other
TRAINING = look(0)  # what is measured on training steps; sets follow
TEST = "_test"  # ends the name of a test set, which looks like the validation set of the same dataset
OUTLIER = 2.0  # times what 99 of 100 steps do not exceed: such steps are written, not drawn to scale
INTERVAL = "95 % interval"
# By their name in summary.json: dashes in widths of line, and what they are.
CEILINGS = {
    "supervised": ((3, 1.5), "ceiling: trained on the true scores"),
    "label": ((1, 1.5), "ceiling: noise of the labels"),
}
# What runs log beside the loss that were shown answers in place of being rewarded for their own.
SHOWN = ("train/token_accuracy", "levels/cross_entropy", "levels/pair")
GAP = 0.07  # of a panel's height, between the names of two ceilings

Rows = list[dict[str, Any]]


def draw_curves(folder: Path) -> Path:
    """``curves.png`` and ``curves.pdf`` of a run folder; returns the first.

    From ``metrics.jsonl``: reward, its quality part, share of answers in the asked form; KL, score std and SRCC per
    set. Of a run that was shown answers the loss, a figure beside it, gradient and learning rate in place of the first
    four, and where its scores have no spread PLCC in place of that. The ceilings of ``summary.json``'s proof, where it
    has one, are lines in their set's colour.
    """
    rows = read_json_lines(folder / "metrics.jsonl")
    summary = folder / "summary.json"
    proof = read_json(summary).get("proof", {}) if summary.is_file() else {}
    return save(curves(rows, proof), folder, "curves")


def curves(rows: Rows, proof: dict[str, Any] | None = None) -> Any:
    """The figure of these lines of ``metrics.jsonl``: six panels and, below them, what their lines are."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        FigureCanvasAgg(figure)  # measures texts
        axes = figure.subplots(2, 3).flat
        for axis, title in zip(axes, titles(rows), strict=True):
            axis.set_title(title)
            axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        for axis in axes[3:]:
            axis.set_xlabel(STEP)
        looks = _looks(rows, proof or {})
        first, *others = _of_training(rows)
        _training(axes[0], rows, first, spread="train/reward_std")
        for axis, key in zip(axes[1:4], others, strict=True):
            _training(axis, rows, key)
        _training(axes[4], rows, "rollout/score_std")
        _sets(axes[4], rows, _beside_srcc(rows), looks)
        _sets(axes[5], rows, "srcc", looks)
        _ceilings(axes[5], proof or {}, looks)
        _legend(figure)
    return figure


def titles(rows: Rows) -> tuple[str, ...]:
    """What the six panels of these ``metrics.jsonl`` rows are called."""
    beside = _beside_srcc(rows)
    name = LEVEL_STD if beside == "score_std" and _shown(rows) else axis_name(f"eval/{{set}}/{beside}")
    first, second, third, fourth = map(axis_name, _of_training(rows))
    return first, second, third, fourth, name, axis_name("eval/{set}/srcc")


def _beside_srcc(rows: Rows) -> str:
    """The figure of the sets that is drawn before SRCC."""
    spread = any(value is not None for row in rows for key, value in row.items() if key.endswith("/score_std"))
    return "plcc" if _shown(rows) and not spread else "score_std"


def _shown(rows: Rows) -> str | None:
    """Of a run that was shown answers the figure beside the loss."""
    return next((key for key in SHOWN if _points(rows, key)), None)


def _of_training(rows: Rows) -> tuple[str, str, str, str]:
    """The keys of the panels of training."""
    shown = _shown(rows)
    if shown is not None:
        return "train/loss", shown, "train/grad_norm", "train/lr"
    return "train/reward", _quality(rows), "reward/format", "policy/kl"


def _quality(rows: Rows) -> str:
    """The key of the run's quality reward; the fidelity's where none was logged."""
    return next((key for key in QUALITY if _points(rows, key)), "reward/fidelity")


def _points(rows: Rows, key: str) -> list[tuple[int, float]]:
    return [(row["step"], row[key]) for row in rows if row.get(key) is not None]


def _training(axis: Any, rows: Rows, key: str, spread: str | None = None) -> None:
    """The steps' figures, pale, under their running mean, with a band as wide as the running mean of ``spread``."""
    points = _points(rows, key)
    if not points:
        return
    steps, values = (list(side) for side in zip(*points, strict=True))
    mean = running_mean(values)
    axis.plot(
        steps,
        mean,
        color=TRAINING.colour,
        marker="o" if len(points) == 1 else None,
        label=f"training: running mean, {SMOOTH:g} of itself and {1 - SMOOTH:.1g} of each step",
    )
    axis.plot(steps, values, color=TRAINING.colour, alpha=PALE, linewidth=0.5, label="training: single steps", zorder=1)
    stds = dict(_points(rows, spread)) if spread else {}
    known = [(step, middle, stds[step]) for step, middle in zip(steps, mean, strict=True) if step in stds]
    if known:
        at, middle, std = (np.array(side) for side in zip(*known, strict=True))
        width = running_mean(std.tolist())
        label = "mean ± std of a step's rewards, both running"
        axis.fill_between(at, middle - width, middle + width, color=TRAINING.colour, alpha=BAND, lw=0, label=label)
    _name_outliers(axis, steps, values, mean)


def _name_outliers(axis: Any, steps: list[int], values: list[float], mean: list[float]) -> None:
    """Few steps far above all others would make the others a flat line: they are named at the panel's edge instead."""
    usual = max(float(np.quantile(values, 0.99)), max(mean))
    highest = max(values)
    if highest <= OUTLIER * usual or usual <= 0:
        return
    low, high = min(values), max(value for value in values if value <= OUTLIER * usual)
    above = sum(value > OUTLIER * usual for value in values)
    axis.set_ylim(low - 0.05 * (high - low), high + 0.15 * (high - low))  # with room for the words
    step = steps[values.index(highest)]
    late = step > (steps[0] + steps[-1]) / 2
    axis.annotate(
        f"{highest:.3g} in step {step}" + (f", {above - 1} more above" if above > 1 else ""),
        (step, 1),
        (-3 if late else 3, -1),
        ha="right" if late else "left",
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        va="top",
        fontsize=6,
    )


def _looks(rows: Rows, proof: dict[str, Any]) -> dict[str, Look]:
    """Of each set with a curve or a ceiling, by name: a dataset's validation and test pictures share a look."""
    times = Counter(key.split("/", 1)[1].rpartition("/")[0] for row in rows for key in row if key.endswith("/srcc"))
    names = sorted({name for name, count in times.items() if count > 1} | set(proof))  # once rated makes no curve
    datasets = list(dict.fromkeys(name.removesuffix(TEST) for name in names))
    return {name: look(1 + datasets.index(name.removesuffix(TEST))) for name in names}


def _sets(axis: Any, rows: Rows, figure: str, looks: dict[str, Look]) -> None:
    """Each set that was evaluated more than once: a line through more than two points, markers at two."""
    for place, (name, its) in enumerate(looks.items()):
        key = f"eval/{name}/{figure}"
        evaluated = sum(key in row for row in rows)
        points = _points(rows, key)
        if not points:
            continue
        steps, values = zip(*points, strict=True)
        ends = _interval(rows, key, points)
        if evaluated > 2:
            axis.plot(steps, values, color=its.colour, linestyle=its.line, marker=its.marker, label=name)
            if ends is not None:
                axis.fill_between(steps, *ends, color=its.colour, alpha=BAND, linewidth=0)
                axis.fill_between([], [], [], color="grey", alpha=2 * BAND, linewidth=0, label=INTERVAL)
        else:  # what was between two points is not known
            aside = ASIDE * (steps[-1] - steps[0]) * (place - (len(looks) - 1) / 2)
            axis.errorbar(
                [step + aside for step in steps],
                values,
                yerr=None if ends is None else np.abs(np.array(ends) - values),
                color=its.colour,
                fmt=its.marker,
                markerfacecolor="white",
                markersize=4,
                capsize=2,
                elinewidth=0.8,
                label=f"{name} (start and end)",
            )


def _interval(rows: Rows, key: str, points: list[tuple[int, float]]) -> tuple[list[float], list[float]] | None:
    """The lower and the upper ends of the points' 95 % intervals; None where one has none."""
    low, high = (dict(_points(rows, f"{key}_{end}")) for end in ("low", "high"))
    if not all(step in low and step in high for step, _ in points):
        return None
    return [low[step] for step, _ in points], [high[step] for step, _ in points]


def _ceilings(axis: Any, proof: dict[str, Any], looks: dict[str, Look]) -> None:
    """Both ceilings of each set as horizontal lines, each named at its end, right of the panel."""
    found: dict[tuple[float, str], list[Look]] = {}
    for name, row in proof.items():
        for ceiling, (dashes, _) in CEILINGS.items():
            value = row.get(f"{ceiling}_ceiling")
            if value is not None:
                axis.axhline(value, color=looks[name].colour, linestyle=(0, dashes), linewidth=0.8)
                found.setdefault((round(value, 2), ceiling), []).append(looks[name])
    for dashes, label in (CEILINGS[ceiling] for ceiling in dict.fromkeys(ceiling for _, ceiling in found)):
        axis.plot([], [], color="grey", linestyle=(0, dashes), linewidth=0.8, label=label)
    low, high = axis.get_ylim()
    axis.set_ylim(low, high)
    places = _apart([(value - low) / (high - low) for value, _ in sorted(found)])
    for (value, ceiling), place in zip(sorted(found), places, strict=True):
        of = {its.colour for its in found[value, ceiling]}
        axis.text(
            1.02,
            place,
            f"{ceiling} {value:.2f}",
            color=of.pop() if len(of) == 1 else "black",
            fontsize=6,
            va="center",
            transform=axis.transAxes,
        )


def _apart(places: list[float]) -> list[float]:
    """Rising places moved so far that no two are nearer than GAP, and none above 1 where there is room."""
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + GAP)
    for i in reversed(range(len(places))):
        places[i] = min(places[i], 1.0 - GAP * (len(places) - 1 - i))
    return places


def _legend(figure: Any) -> None:
    """What is drawn, each once, below the panels, in letters that are small enough for the figure's width."""
    named: dict[str, Any] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    if not named:
        return
    _, fonts = drawable("".join(named))
    names = [drawable(name, warn=False)[0] for name in named]
    for size, columns in ((7, 4), (7, 3), (7, 2), (7, 1), (6, 1), (5, 1), (4, 1), (3, 1), (2, 1)):
        made = figure.legend(
            named.values(),
            names,
            loc="outside lower center",
            ncols=columns,
            columnspacing=1.2,
            handlelength=2.4,
            prop={"size": size, "family": fonts},
        )
        for text in made.get_texts():
            text.set_parse_math(False)
        extent = made.get_window_extent(figure.canvas.get_renderer())
        if extent.width <= 0.98 * figure.bbox.width:
            break
        made.remove()
    figure.set_figheight(HEIGHT + extent.height / figure.dpi)
