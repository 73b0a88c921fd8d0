"""Pictures with what was said of them: the probes of evaluations and samples of training, for the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vqr1.answer import read_score
from vqr1.report.arms import Arm, spread_out
from vqr1.report.runs import Row, Run, number

SIDE, QUALITY = 224, 75  # pixels; of the JPEG
PICTURES = 24  # probe pictures of an experiment
STEPS = 6  # evaluations shown of each
GROUPS = 2  # groups of answers shown of a step's samples
SAMPLED = 3  # of the steps
ARMS = 12  # whose samples are shown
LONGEST = 600  # letters of an answer
SCALE = (1.0, 5.0)  # what the prompt asks for, and levels are on
STRIP = (180, 44)  # pixels


class Pictures:
    """Thumbnails as data URIs, each file read once."""

    def __init__(self) -> None:
        self._made: dict[Path, dict[str, Any] | None] = {}

    def __call__(self, runs: Sequence[Run], row: Row) -> dict[str, Any] | None:
        """Of the first of ``runs`` that has the row's picture, with its width and height; None where none does."""
        for run in runs:
            path = run.picture(row)
            if path is not None:
                if path not in self._made:
                    self._made[path] = _thumbnail(path)
                return self._made[path]
        return None


def probes(arms: Sequence[Arm], pictures: Pictures) -> list[dict[str, Any]]:
    """Each probe picture with the answers of every arm over training: those of the arm's first run that has any."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for i, arm in enumerate(arms):
        run = next((run for run in arm.runs if run.answers), None)
        often = _often(run.answers) if run else set()
        for row in run.answers if run else []:
            if str(row.get("set")) not in often:
                continue
            key = (str(row.get("set")), str(row.get("image_id")))
            told = found.setdefault(key, {"row": row, "arms": {}})
            told["arms"].setdefault(i, (arm.name, run, []))[2].append(row)
    return [
        {
            "set": name,
            "image_id": image_id,
            "mos": number(told["row"].get("mos")),
            "image": pictures([run for _, run, _ in told["arms"].values()], told["row"]),
            "arms": [
                {"name": arm, "run": run.name, "steps": steps, "strip": strip(steps, mos, _scale(run))}
                for arm, run, rows in told["arms"].values()
                for steps in [[_said(row) for row in spread_out(sorted(rows, key=lambda r: r["step"]), STEPS)]]
                for mos in [number(told["row"].get("mos"))]
            ],
        }
        for (name, image_id), told in list(found.items())[:PICTURES]
    ]


def samples(arms: Sequence[Arm], pictures: Pictures) -> list[dict[str, Any]]:
    """Groups of training answers with their rewards, of each arm's first run that kept any."""
    made = []
    for arm in arms[:ARMS]:
        run = next((run for run in arm.runs if run.samples), None)
        if run is None:
            continue
        steps: dict[int, list[Row]] = {}
        for row in run.samples:
            steps.setdefault(row["step"], []).append(row)
        groups = [
            {
                "step": step,
                "image_id": str(row.get("image_id")),
                "mos": number(row.get("mos")),
                "image": pictures([run], row),
                "answers": [
                    {"text": cut(answer), **{key: _at(row, key, k) for key in ("scores", "rewards", "advantages")}}
                    for k, answer in enumerate(_texts(row))
                ],
            }
            for step in spread_out(sorted(steps), SAMPLED)
            for row in steps[step][:GROUPS]
        ]
        made.append({"name": arm.name, "run": run.name, "groups": groups})
    return made


def cut(answer: str) -> str:
    """An answer on one line, at most :data:`LONGEST` letters of it."""
    told = " ".join(answer.split())
    return told if len(told) <= LONGEST else told[:LONGEST] + " …"


def _scale(run: Run) -> tuple[float, float] | None:
    """That of the run's scores; None where they have none but their own range, which says nothing of a MOS."""
    compares = run.settings.get("objective") in ("comparison", "depict")
    return None if compares else SCALE


def strip(
    steps: Sequence[dict[str, Any]], mos: float | None, scale: tuple[float, float] | None = SCALE
) -> dict[str, Any]:
    """Where K scores a step lie in a drawing of :data:`STRIP` pixels: left to right the steps, upwards the score.

    Without a ``scale`` they fill the drawing, and the opinion score is not in it.
    """
    width, height = STRIP
    if scale is None:
        known = [score for step in steps for score in step["scores"] if score is not None] or [0.0]
        mos, scale = None, (min(known), max(known)) if max(known) > min(known) else (known[0] - 1, known[0] + 1)
    low, high = scale

    def y(value: float) -> float:
        return round(height - 4 - (height - 8) * (min(max(value, low), high) - low) / (high - low), 1)

    def x(i: int) -> float:
        return round(6 + (width - 12) * (i / (len(steps) - 1) if len(steps) > 1 else 0.5), 1)

    return {
        "width": width,
        "height": height,
        "dots": [(x(i), y(score)) for i, step in enumerate(steps) for score in step["scores"] if score is not None],
        "means": [(x(i), y(step["mean"])) for i, step in enumerate(steps) if step["mean"] is not None],
        "mos": y(mos) if mos is not None and low <= mos <= high else None,
    }


def _often(rows: Sequence[Row]) -> set[str]:
    """The sets that were evaluated at the most steps: the others have no more than their start and end."""
    steps: dict[str, set[int]] = {}
    for row in rows:
        steps.setdefault(str(row.get("set")), set()).add(row["step"])
    longest = max(map(len, steps.values()), default=0)
    return {name for name, found in steps.items() if len(found) == longest}


def _said(row: Row) -> dict[str, Any]:
    answers = _texts(row)
    kept = row.get("scores")
    scores = [number(score) for score in kept] if isinstance(kept, list) else [read_score(text) for text in answers]
    known = [score for score in scores if score is not None]
    return {
        "step": row["step"],
        "scores": scores,
        "mean": sum(known) / len(known) if known else None,
        "unreadable": len(scores) - len(known),
        "answer": cut(answers[0]) if answers else "",
    }


def _texts(row: Row) -> list[str]:
    answers = row.get("answers")
    return [str(answer) for answer in answers] if isinstance(answers, list) else []


def _at(row: Row, key: str, k: int) -> float | None:
    values = row.get(key)
    return number(values[k]) if isinstance(values, list) and k < len(values) else None


def _thumbnail(path: Path) -> dict[str, Any] | None:
    """None for a file that is no picture."""
    from vqr1.report.pictures import read_picture

    picture = read_picture(path, SIDE)
    if picture is None:
        return None
    picture.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    picture.save(content, format="JPEG", quality=QUALITY)
    return {
        "uri": f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}",
        "width": picture.width,
        "height": picture.height,
    }
