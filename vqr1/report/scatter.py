"""Predictions against opinion scores, one picture per model and set, with the fitted curve."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vqr1.evaluation.logistic import fit_logistic
from vqr1.evaluation.summary import Line, Outcome, rated
from vqr1.folder_writer import replaced
from vqr1.report.fonts import drawable
from vqr1.report.style import DPI, LIGHT, RC, WIDTH


def draw_scatters(lines: Sequence[Line], folder: Path) -> list[Path]:
    """``<model>_<set>[_<run>].png`` for every run of every line; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for i, line in enumerate(lines, 1):
        for name, outcomes in line.outcomes.items():
            for run, outcome in enumerate(outcomes, 1):
                parts = [f"{i:02d}", line.name, name, *([f"run{run}"] if len(outcomes) > 1 else [])]
                path = folder / (re.sub(r"[^\w.-]+", "-", "_".join(parts)) + ".png")
                _draw(outcome, name, line.name, path)
                made.append(path)
    return made


def _draw(outcome: Outcome, name: str, model: str, path: Path) -> None:
    import matplotlib

    with matplotlib.rc_context(RC):
        figure = _figure(outcome, name, model)
        with replaced(path) as new:
            figure.savefig(new, format="png", dpi=DPI)


def _figure(outcome: Outcome, name: str, model: str) -> Any:
    from matplotlib.figure import Figure

    x, y = (np.array(side) for side in rated(outcome.evaluation.rows[name])[:2])
    figure = Figure(figsize=(WIDTH / 2, 3.1), layout="constrained")
    axis = figure.subplots()
    axis.plot(x, y, ".", color=LIGHT[0], alpha=max(0.15, min(1.0, 400 / max(len(x), 1))))
    if outcome.facts.per_group_scale:
        within, fonts = drawable(f"comparable within a {outcome.facts.group} only")
        axis.text(0.02, 0.98, within, transform=axis.transAxes, va="top", family=fonts)
    else:
        _curve(axis, x, y)
    figures = outcome.measures.figures
    title, fonts = drawable(
        f"{model} on {outcome.facts.title}\nSRCC {figures['srcc']:.3f}, PLCC {figures['plcc']:.3f} "
        f"({outcome.measures.scope}), {outcome.counts.rated} of {outcome.counts.pictures} pictures"
    )
    axis.set_title(title, fontsize=7, parse_math=False, family=fonts)
    axis.set_xlabel("predicted")
    axis.set_ylabel("mean opinion score")
    return figure


def _curve(axis: Any, x: np.ndarray, y: np.ndarray) -> None:
    fit = fit_logistic(x, y)
    if fit.reason:
        axis.text(0.02, 0.98, f"no curve: {fit.reason}", transform=axis.transAxes, va="top")
        return
    along = np.linspace(x.min(), x.max(), 200)
    label = f"logistic fit: PLCC {fit.plcc:.3f}, RMSE {fit.rmse:.3g}"
    axis.plot(along, fit.curve(along), color=LIGHT[1], label=label)
    axis.figure.legend(loc="outside lower center")
