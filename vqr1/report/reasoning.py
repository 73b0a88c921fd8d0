"""What the policy says of a picture as training goes on: the paper's Figure 4, from any run."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vqr1.answer import read_score

WIDTH = 100  # characters of a line
LONGEST = 600  # characters shown of an answer
LINE = 0.19  # inches
PICTURE = 2.2  # inches


def draw_reasoning(folder: Path) -> Path | None:
    """``reasoning.png``: of every validation set one probe picture of ``answers.jsonl`` and its first answer at each
    evaluation, with the mean of the readable scores kept there. None where there are no answers to validation pictures.

    Raises:
        FileNotFoundError: a picture is no longer where the run read it.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    stories = _stories([json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()])
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
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _stories(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """For each set that was evaluated more often than at the start and the end, the first picture's rows by step.

    Where no set was, the sets that were evaluated twice.
    """
    pictures: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        pictures.setdefault((row["set"], row["image_id"]), []).append(row)
    firsts: dict[str, list[dict[str, Any]]] = {}
    for (name, _), story in pictures.items():
        firsts.setdefault(name, story)
    longest = max((len(story) for story in firsts.values()), default=0)
    return [story for story in firsts.values() if len(story) == longest]


def _said(row: dict[str, Any]) -> str:
    scores = [score for score in map(read_score, row["answers"]) if score is not None]
    mean = f"mean score {sum(scores) / len(scores):.2f}" if scores else "no readable score"
    text = " ".join(row["answers"][0].split())
    shown = text if len(text) <= LONGEST else text[:LONGEST] + " ..."
    return "\n".join(
        [f"step {row['step']}, {mean}", *textwrap.wrap(shown, WIDTH, initial_indent="  ", subsequent_indent="  ")]
    )
