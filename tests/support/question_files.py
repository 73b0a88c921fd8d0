"""Published files of questions in miniature, as their authors distribute them, with their pictures beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

SIDE = 56


def grey(path: Path, light: int) -> Path:
    """A picture of one grey, 0 to 255."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIDE, SIDE), (light, light, light)).save(path)
    return path


def written(folder: Path, name: str, rows: list[dict[str, Any]], lines: bool = False) -> Path:
    """The rows as a JSON list or as JSON lines, and grey pictures p0.png to p4.png, each lighter than the last."""
    for i in range(5):
        grey(folder / f"p{i}.png", 20 + 50 * i)
    path = folder / name
    path.write_text("\n".join(map(json.dumps, rows)) + "\n" if lines else json.dumps(rows))
    return path


def llvisionqa(**fields: Any) -> dict[str, Any]:
    return {
        "img_path": "p0.png",
        "question": "How is the light?",
        "candidates": ["Dark", "Bright", "Even"],
        "correct_ans": "Bright",
        "type": 2,
        "concern": 0,
        **fields,
    }


def qbench2(**fields: Any) -> dict[str, Any]:
    return {
        "id": 7,
        "image1": "p0.png",
        "image2": "p3.png",
        "question": "Which image is brighter?",
        "option0": "The first",
        "option1": "The second",
        "option2": "N/A",
        "option3": "N/A",
        "question_type": 1,
        "question_concern": 1,
        "correct_choice": "B",
        **fields,
    }


def micbench(**fields: Any) -> dict[str, Any]:
    return {
        "img_paths": ["p0.png", "p1.png", "p2.png"],
        "question": "Which is the brightest?",
        "candidates": ["The first image", "The second image", "The third image"],
        "correct_ans": "The third image",
        "type": 1,
        "concern": 0,
        **fields,
    }


def depictqa(**fields: Any) -> dict[str, Any]:
    return {
        "id": "a1",
        "image_ref": "p4.png",
        "image_A": "p1.png",
        "image_B": "p3.png",
        "query": "Which image is better?",
        "answer": "Image B",
        **fields,
    }


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}
