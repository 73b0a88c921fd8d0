"""What the policy says of a picture as training goes on: the paper's Figure 4, from any run."""

from __future__ import annotations

import textwrap
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vqr1.answer import read_score
from vqr1.folder_writer import read_json_lines, replaced
from vqr1.report.fonts import drawable

WIDTH = 84  # characters of a line
CHARACTER = 0.0669  # inches: 8 points, 0.602 of them wide
MARGIN = 0.3  # inches, between picture and text and at the right
LONGEST = 600  # characters shown of an answer
LINE = 0.14  # inches
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
    # All texts at once: what no font has is warned of once.
    text, fonts = drawable("\0".join("\n".join(_said(row) for row in rows) for rows in stories), "DejaVu Sans Mono")
    texts = [_wrapped(each) for each in text.split(r"\x00")]
    pictures = []
    for rows in stories:
        with Image.open(rows[0]["image"]) as file:
            pictures.append(file.convert("RGB"))
    titles = [f"{_title(rows[0]['set'])}\nopinion score {rows[0]['mos']:g}" for rows in stories]
    heights = [
        LINE * (title.count("\n") + 2)
        + max(PICTURE * min(1.0, picture.height / picture.width), LINE * len(text.split("\n")))
        for picture, title, text in zip(pictures, titles, texts, strict=True)
    ]
    said = WIDTH * CHARACTER
    figure, axes = plt.subplots(
        len(stories),
        2,
        squeeze=False,
        figsize=(PICTURE + said + 2 * MARGIN, sum(heights) + 0.1 * len(stories)),
        gridspec_kw={"width_ratios": [PICTURE, said + MARGIN], "height_ratios": heights},
        constrained_layout=True,
    )
    for (left, right), picture, title, text in zip(axes, pictures, titles, texts, strict=True):
        left.imshow(np.asarray(picture))
        left.set_anchor("N")
        # No mathematics: a dollar sign in a name or an answer is a dollar sign.
        left.set_title(title, fontsize=8, parse_math=False, family=drawable(title, warn=False)[1])
        right.text(0, 1, text, va="top", family=fonts, fontsize=8, parse_math=False, transform=right.transAxes)
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
    score = "no readable score" if mean is None else f"mean score {mean:.2f}"
    return f"step {row['step']}, {score}\n{shown}"


def _wrapped(text: str) -> str:
    """A story's lines, each answer cut at the width of the column and indented."""
    lines = text.split("\n")
    made = []
    for heading, answer in zip(lines[::2], lines[1::2], strict=True):
        cells = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in answer)
        width = max(WIDTH * len(answer) // max(cells, 1), 20)
        made += [heading, *textwrap.wrap(answer, width, initial_indent="  ", subsequent_indent="  ")]
    return "\n".join(made)


def _title(name: str) -> str:
    """A set's name over its picture, in lines that are no wider."""
    return "\n".join(textwrap.wrap(drawable(name, warn=False)[0], 34))
