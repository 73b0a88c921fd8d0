"""What the policy says of a picture as training goes on: the paper's Figure 4, from any run."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vqr1.answer import read_score
from vqr1.folder_writer import read_json_lines, replaced

WIDTH = 100  # characters of a line
LONGEST = 600  # characters shown of an answer
LINE = 0.19  # inches
PICTURE = 2.2  # inches


def draw_reasoning(folder: Path) -> Path | None:
    """``reasoning.png``: of every validation set the probe picture of ``answers.jsonl`` whose score moved most, and its
    first answer at each evaluation, with the mean of the readable scores kept there. None where nothing was answered.

    Raises:
        FileNotFoundError: a picture is no longer where the run read it.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    stories = _stories(
        read_json_lines(folder / "answers.jsonl")
    )  # not there in a run without validation sets or probes
    if not stories:
        return None
    texts = ["\n".join(_said(row) for row in rows) for rows in stories]
    heights = [max(PICTURE, LINE * (text.count("\n") + 1)) for text in texts]
    figure, axes = plt.subplots(
        len(stories),
        2,
        squeeze=False,
        figsize=(11, sum(heights) + 0.5 * len(stories)),
        gridspec_kw={"width_ratios": [PICTURE, 11 - PICTURE], "height_ratios": heights},
        constrained_layout=True,
    )
    for (left, right), rows, text in zip(axes, stories, texts, strict=True):
        with Image.open(rows[0]["image"]) as picture:
            left.imshow(np.asarray(picture.convert("RGB")))
        left.set_title(f"{rows[0]['set']}\nopinion score {rows[0]['mos']:g}", fontsize=8)
        # No mathematics: a dollar sign in an answer is a dollar sign.
        right.text(0, 1, text, va="top", family="monospace", fontsize=8, parse_math=False, transform=right.transAxes)
        left.axis("off")
        right.axis("off")
    path = folder / "reasoning.png"
    with replaced(path) as new:
        figure.savefig(new, format="png", dpi=110)
    plt.close(figure)
    return path


def _stories(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """For each of the sets that were evaluated most often, the rows by step of the picture whose score moved most."""
    sets: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        sets.setdefault(row["set"], {}).setdefault(row["image_id"], []).append(row)
    chosen = [max(pictures.values(), key=_moved) for pictures in sets.values()]
    longest = max((len(story) for story in chosen), default=0)
    return [story for story in chosen if len(story) == longest]


def _moved(story: list[dict[str, Any]]) -> float:
    first, last = _mean_score(story[0]), _mean_score(story[-1])
    return 0.0 if first is None or last is None else abs(last - first)


def _mean_score(row: dict[str, Any]) -> float | None:
    scores = [score for score in map(read_score, row["answers"]) if score is not None]
    return sum(scores) / len(scores) if scores else None


def _said(row: dict[str, Any]) -> str:
    mean = _mean_score(row)
    text = " ".join(row["answers"][0].split())
    shown = text if len(text) <= LONGEST else text[:LONGEST] + " ..."
    return "\n".join(
        [
            f"step {row['step']}, " + ("no readable score" if mean is None else f"mean score {mean:.2f}"),
            *textwrap.wrap(shown, WIDTH, initial_indent="  ", subsequent_indent="  "),
        ]
    )
