"""How figures look, here and on a page: colours, sizes, names.

The colours are those of Okabe and Ito (2008), which stay apart for the colour-blind, of which only those are taken that
stand out from white by 3:1 as WCAG 2.2 asks of graphics; on dark ground blue and black have lighter ones in their
place. What has no colour left of its own gets another line and marker.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vqr1.folder_writer import replaced

LIGHT = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000")  # blue, vermilion, green, purple, black
DARK = ("#56B4E9", "#D55E00", "#009E73", "#CC79A7", "#FFFFFF")  # the same ones on GROUND[1]
GROUND = ("#FFFFFF", "#16181D")  # what they are drawn on
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ((), (4.0, 1.5), (1.0, 1.5), (6.0, 1.5, 1.0, 1.5))  # widths of line on and off; () is solid

WIDTH = 7.2  # inches: a page's text, so that sizes in points are those on paper
DPI = 200
BAND = 0.18  # opacity of an interval or a spread
PALE = 0.3  # of single steps under their running mean
SMOOTH = 0.9  # what the running mean keeps of itself at each step

# matplotlib's settings; type 42 keeps a pdf's text as text.
RC: Any = {
    "font.size": 7,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3,
    "pdf.fonttype": 42,
}

STEP = "training step"
# The quality reward's mean is logged under the name of its kind, and a run has one kind.
QUALITY = {
    "reward/fidelity": "fidelity (best 1)",
    "reward/binary": "right order (share)",
    "reward/regression": "hits (share)",
}
LEVEL_STD = "score std of a drawn level"  # eval/{set}/score_std of a run that was shown levels
# What axes are called, by what is logged; {set} is any set's name.
AXES = {
    "train/reward": "reward",
    "train/reward_std": "reward std",
    **QUALITY,
    "reward/format": "format (share of answers)",
    "train/loss": "loss",
    "train/token_accuracy": "likeliest tokens (share)",
    "train/grad_norm": "norm of the gradient",
    "train/lr": "learning rate",
    "levels/cross_entropy": "cross-entropy of the levels",
    "levels/pair": "fidelity loss of pairs",
    "reward/pair_accuracy": "right order (share)",
    "eval/{set}/srcc": "SRCC",
    "eval/{set}/plcc": "PLCC",
    "eval/{set}/score_std": "score std over K answers",
    "eval/{set}/unreadable": "unreadable answers (share)",
    "rollout/score_std": "score std over K answers",
    "policy/kl": "KL to the start policy",
    "policy/entropy": "entropy of the policy",
}


@dataclass(frozen=True)
class Look:
    """Of one series: of no two among the first twenty it is the same."""

    colour: str  # hex
    marker: str
    dashes: tuple[float, ...]  # in widths of line

    @property
    def line(self) -> Any:
        """The dashes as matplotlib's linestyle."""
        return (0, self.dashes) if self.dashes else "solid"


def look(index: int, dark: bool = False) -> Look:
    """The look of the series number ``index``, from 0."""
    colours = DARK if dark else LIGHT
    return Look(
        colours[index % len(colours)], MARKERS[index % len(MARKERS)], DASHES[index // len(colours) % len(DASHES)]
    )


def axis_name(key: str) -> str:
    """What the axis of a logged figure is called; the figure's own name where it has no other."""
    return AXES.get(re.sub(r"^eval/.*/", "eval/{set}/", key), key)


V = TypeVar("V", float, float | None)


def running_mean(values: Sequence[V]) -> list[V]:
    """The exponential one of what is defined: m_1 = x_1, m_t = 0.9 m_(t-1) + 0.1 x_t. None stays None."""
    means: list[V] = []
    mean: float | None = None
    for value in values:
        if value is None:
            means.append(value)
        else:
            mean = value if mean is None else SMOOTH * mean + (1 - SMOOTH) * value
            means.append(mean)
    return means


def save(figure: Any, folder: Path, name: str) -> Path:
    """``name``.png and .pdf; two times the same figure makes the same bytes. Returns the png's path."""
    import matplotlib

    for kind, metadata in (("pdf", {"CreationDate": None}), ("png", {})):
        path = folder / f"{name}.{kind}"
        with replaced(path) as new, matplotlib.rc_context(RC):
            figure.savefig(new, format=kind, dpi=DPI, metadata=metadata)
    return path
