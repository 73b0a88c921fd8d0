"""The reasoning over training as a picture, from answers made up for the test."""

import json

import numpy as np
import pytest
from PIL import Image

from vqr1.report.reasoning import draw_reasoning


def answer(text, score):
    return f"<think>{text}</think><answer>{score}</answer>"


@pytest.fixture
def story(tmp_path):
    """Three evaluations of two sets' pictures, and two of a test set."""
    colours = {"five/a": (200, 30, 30), "five/b": (30, 30, 200), "hundred/c": (30, 160, 30), "test/d": (200, 160, 0)}
    for name, colour in colours.items():
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), colour).save(path)
    return [
        {
            "step": step,
            "set": name.split("/")[0],
            "image_id": name,
            "image": str(tmp_path / f"{name}.png"),
            "mos": 3.5,
            "answers": [answer("Costs $5, or $6: sharp.", 3.25 if name == "five/b" else 2 + step / 10), "unreadable"],
        }
        for step in (0, 10, 20)
        for name in colours
        if not (name == "test/d" and step == 10)
    ]


def draw(folder, rows):
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = draw_reasoning(folder)
    if path is None:
        return None
    assert path == folder / "reasoning.png"
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def holds(pixels, colour):
    return bool((np.abs(pixels - colour).max(-1) < 12).any())


def test_it_shows_the_picture_of_each_followed_set_whose_score_moved_most(tmp_path, story):
    pixels = draw(tmp_path, story)
    assert holds(pixels, (200, 30, 30))
    assert holds(pixels, (30, 160, 30))
    assert not holds(pixels, (30, 30, 200))
    assert not holds(pixels, (200, 160, 0))
    for row in story:  # now the other one's does
        if row["image_id"] == "five/b":
            row["answers"] = [answer("", 1 + row["step"] / 5)]
    assert holds(draw(tmp_path, story), (30, 30, 200))


def test_sets_seen_at_both_ends_only_are_shown_where_there_is_no_other(tmp_path, story):
    assert holds(draw(tmp_path, [row for row in story if row["set"] == "test"]), (200, 160, 0))


def test_every_evaluation_adds_lines(tmp_path, story):
    def ink(rows):
        return int((draw(tmp_path, rows).max(-1) < 100).sum())

    assert (
        ink(story) > ink([row for row in story if row["step"] != 20]) > ink([row for row in story if not row["step"]])
    )


def test_long_reasoning_is_wrapped_and_cut(tmp_path, story):
    plain = draw(tmp_path, story)
    for row in story:
        row["answers"] = [answer("word " * 2000, 2)]
    long = draw(tmp_path, story)
    assert long.shape[1] == plain.shape[1]
    assert plain.shape[0] < long.shape[0] < 3 * plain.shape[0]


def test_without_answers_there_is_no_picture(tmp_path):
    assert draw(tmp_path, []) is None
    assert not (tmp_path / "reasoning.png").exists()


def test_a_picture_that_is_gone_is_named(tmp_path, story):
    story[0]["image"] = str(tmp_path / "gone.png")
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        draw(tmp_path, story)
