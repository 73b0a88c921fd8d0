"""The reasoning over training as a picture, from answers made up for the test."""

import json

import numpy as np
import pytest
from PIL import Image

from vqr1.report.fonts import drawable
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


def test_what_no_font_has_is_shown_by_its_code_and_warned_of_once(tmp_path, story, monkeypatch):
    """No empty boxes, and none of matplotlib's warnings, of which there is one for every character."""
    monkeypatch.setattr("vqr1.report.fonts._characters", lambda path: frozenset(range(32, 127)))
    for row in story:
        row["answers"] = [answer("模糊 €", 3)]
        row["set"] += "中"
    with pytest.warns(UserWarning, match="no installed font has 3 of the characters") as told:
        draw(tmp_path, story)
    assert len(told) == 1
    with pytest.warns(UserWarning):
        assert drawable("a模\x1b")[0] == r"a\u6a21\x1b"


def test_another_font_is_taken_where_it_has_the_characters(monkeypatch):
    """DejaVu Sans has the face, its sibling of one width has not."""
    text, families = drawable("ok \u0531", "cmr10")
    assert text == "ok \u0531"
    assert families[0] == "cmr10" and len(families) == 2


@pytest.mark.parametrize("size", [(300, 40), (40, 40), (40, 300)])
def test_no_text_lies_over_another_or_outside(tmp_path, story, monkeypatch, size):
    from matplotlib import pyplot as plt

    monkeypatch.setattr(plt, "close", lambda figure: None)
    for row in story:
        Image.new("RGB", size).save(row["image"])
        row["answers"] = [answer("word " * 200, 2)]
        row["set"] = "a_set_with_a_name_of_very_many_letters_indeed_" + row["set"]
    draw(tmp_path, story)
    figure = plt.figure(plt.get_fignums()[-1])
    renderer = figure.canvas.get_renderer()
    boxes = [
        text.get_window_extent(renderer)
        for axis in figure.axes
        for text in (axis.title, *axis.texts)
        if text.get_text()
    ]
    assert len(boxes) == 4
    for i, box in enumerate(boxes):
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
        assert not any(box.overlaps(other) for other in boxes[:i])
    # The text's column is as wide as the text: no empty third.
    assert max(box.x1 for box in boxes) > 0.9 * figure.bbox.x1
    monkeypatch.undo()
    plt.close("all")
