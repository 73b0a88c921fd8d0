"""The curves of one run as a picture: what to look at first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vqr1.folder_writer import read_json_lines, replaced
from vqr1.report.fonts import drawable
from vqr1.report.style import QUALITY

ASIDE = 0.02  # of the panel's steps: intervals of several sets lie beside each other


def draw_curves(folder: Path) -> Path:
    """``curves.png`` from ``metrics.jsonl``: reward, its quality part, SRCC and score std per set, KL.

    The ceilings of ``summary.json``'s proof, where it has one, are dotted lines in their set's colour.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    rows = read_json_lines(folder / "metrics.jsonl")
    summary = folder / "summary.json"
    proof = json.loads(summary.read_text()).get("proof", {}) if summary.is_file() else {}
    figure, grid = plt.subplots(2, 3, figsize=(12, 6.4), constrained_layout=True)
    *axes, legend = grid.flat
    for axis, title in zip(axes, titles(rows), strict=True):
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    _curve(axes[0], rows, "train/reward")
    _curve(axes[1], rows, _quality(rows))
    _ceilings(axes[2], _sets(axes[2], rows, "srcc"), proof)
    _sets(axes[3], rows, "score_std")
    _curve(axes[3], rows, "rollout/score_std", label="training")
    _curve(axes[4], rows, "policy/kl")
    legend.axis("off")  # the sixth panel: a legend in another one would hide lines
    named = {label: line for axis in axes[2:4] for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    if named:
        _fit_legend(figure, legend, named)
    path = folder / "curves.png"
    with replaced(path) as new:
        figure.savefig(new, format="png", dpi=110)
    plt.close(figure)
    return path


def _fit_legend(figure: Any, panel: Any, named: dict[str, Any]) -> None:
    """The legend in letters that are small enough for the panel, and for the figure where even these are not."""
    _, fonts = drawable("".join(named))
    names = [drawable(name, warn=False)[0] for name in named]
    figure.draw_without_rendering()  # gives the panel its place
    outer = panel.get_window_extent()
    for size in (10, 9, 8, 7, 6, 5, 4):
        made = panel.legend(
            named.values(), names, loc="center", frameon=False, prop={"size": size, "family": fonts}, borderpad=0
        )
        for text in made.get_texts():
            text.set_parse_math(False)
        made.set_in_layout(False)  # the panels keep their places, whatever a set is called
        inner = made.get_window_extent(figure.canvas.get_renderer())
        if inner.width <= outer.width and inner.height <= outer.height:
            return


def titles(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """What the five panels of these ``metrics.jsonl`` rows are called."""
    return ("reward", QUALITY[_quality(rows)], "SRCC", "score std over K answers", "KL to the start policy")


def _quality(rows: list[dict[str, Any]]) -> str:
    """The key of the run's quality reward; the fidelity's where none was logged."""
    return next((key for key in QUALITY if _points(rows, key)), "reward/fidelity")


def _points(rows: list[dict[str, Any]], key: str) -> list[tuple[int, float]]:
    return [(row["step"], row[key]) for row in rows if row.get(key) is not None]


def _curve(axis: Any, rows: list[dict[str, Any]], key: str, label: str | None = None) -> None:
    """The raw figures, pale, under their running mean."""
    points = _points(rows, key)
    if not points:
        return
    steps, values = zip(*points, strict=True)
    smooth, mean = [], values[0]
    for value in values:
        mean = 0.9 * mean + 0.1 * value
        smooth.append(mean)
    (line,) = axis.plot(steps, smooth, label=label)
    if len(points) == 1:
        line.set_marker("o")
    axis.plot(steps, values, color=line.get_color(), alpha=0.25, linewidth=0.7)


def _sets(axis: Any, rows: list[dict[str, Any]], figure: str) -> dict[str, Any]:
    """A line for each set that was evaluated more than once, by name, through what is defined of it."""
    names = sorted({key.split("/")[1] for row in rows for key in row if key.startswith("eval/")})
    lines = {}
    for place, name in enumerate(names):
        evaluated = sum(f"eval/{name}/{figure}" in row for row in rows)
        points = _points(rows, f"eval/{name}/{figure}")
        if evaluated > 1 and points:  # a set that was rated once makes no curve
            steps, values = zip(*points, strict=True)
            if evaluated > 2:
                (lines[name],) = axis.plot(steps, values, marker="o", markersize=3, label=name)
            else:  # what was between two points is not known
                aside = ASIDE * (steps[-1] - steps[0]) * (place - (len(names) - 1) / 2)
                lines[name] = axis.errorbar(
                    [step + aside for step in steps],
                    values,
                    yerr=_interval(rows, name, figure, points),
                    fmt="s",
                    markersize=4,
                    capsize=3,
                    label=name,
                )
    return lines


def _colour(line: Any) -> Any:
    return line.lines[0].get_color() if hasattr(line, "lines") else line.get_color()


def _interval(rows: list[dict[str, Any]], name: str, figure: str, points: list[tuple[int, float]]) -> Any:
    """How far the 95 % interval reaches below and above each point, (2, N); None where there is none."""
    if figure != "srcc":
        return None
    low, high = (dict(_points(rows, f"eval/{name}/srcc_{end}")) for end in ("low", "high"))
    if not all(step in low and step in high for step, _ in points):
        return None
    below = [max(0.0, value - low[step]) for step, value in points]
    return [below, [max(0.0, high[step] - value) for step, value in points]]


def _ceilings(axis: Any, lines: dict[str, Any], proof: dict[str, Any]) -> None:
    """Both ceilings of each set as horizontal lines, also of a set without a line of its own."""
    for name, row in proof.items():
        for ceiling, style in (("supervised", ":"), ("label", (0, (1, 4)))):
            value = row.get(f"{ceiling}_ceiling")
            if value is not None:
                colour = _colour(lines[name]) if name in lines else None  # None: the next of the usual ones
                line = axis.axhline(value, color=colour, linestyle=style, label=f"{name}, {ceiling} ceiling")
                lines.setdefault(name, line)
