"""The curves of one run as a picture: what to look at first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TITLES = ("reward", "fidelity (best 1)", "SRCC", "score std over K answers", "KL to the start policy")


def draw_curves(folder: Path) -> Path:
    """``curves.png`` from a run folder's ``metrics.jsonl``: reward, fidelity, SRCC and score std per set, KL."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    figure, axes = plt.subplots(1, 5, figsize=(22, 4), constrained_layout=True)
    for axis, title in zip(axes, TITLES, strict=True):
        axis.set_title(title)
        axis.set_xlabel("step")
    _curve(axes[0], rows, "train/reward")
    _curve(axes[1], rows, "reward/fidelity")
    _sets(axes[2], rows, "srcc")
    _sets(axes[3], rows, "score_std")
    _curve(axes[3], rows, "rollout/score_std", label="training")
    _curve(axes[4], rows, "policy/kl")
    for axis in axes[2:4]:
        if axis.lines:
            axis.legend(fontsize=8)
    path = folder / "curves.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


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
    axis.plot(steps, values, color=line.get_color(), alpha=0.25, linewidth=0.7)


def _sets(axis: Any, rows: list[dict[str, Any]], figure: str) -> None:
    names = sorted({key.split("/")[1] for row in rows for key in row if key.startswith("eval/")})
    for name in names:
        points = _points(rows, f"eval/{name}/{figure}")
        if points:
            steps, values = zip(*points, strict=True)
            axis.plot(
                steps,
                values,
                marker="o",
                markersize=3,
                label=name,
                linestyle="--" if len(points) == 2 else "-",
            )
