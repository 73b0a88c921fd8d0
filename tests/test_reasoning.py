"""The reasoning over training as a picture, from answers made up for the test."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.support.faults_pictures import damaged_avif
from vqr1.report.fonts import drawable
from vqr1.report.reasoning import choose, draw_reasoning, reasoning, stories
from vqr1.report.style import LIGHT


def answer(text, score):
    return f"<think>{text}</think><answer>{score}</answer>"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Four small pictures, kept as a run folder keeps them."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "pictures").mkdir()
    for name, colour in zip("abcd", ((200, 30, 30), (30, 30, 200), (30, 160, 30), (200, 160, 0)), strict=True):
        Image.new("RGB", (40, 30), colour).save(folder / "pictures" / f"{name}.jpg", quality=95)
    return folder


def rows_of(scores, name="five", mos=(4.0, 3.0, 2.0, 1.0), steps=None):
    """Rows of answers.jsonl: ``scores`` are for each evaluation those of the pictures a, b, c and d."""
    return [
        {
            "step": step,
            "set": name,
            "image_id": f"{name}/{picture}",
            "image": f"/nowhere/{picture}.png",
            "picture": f"pictures/{picture}.jpg",
            "mos": opinion,
            "scores": its if isinstance(its, list) else [its, its],
            "answers": [answer(f"Costs $5, or $6: sharp. {step}", its), "unreadable"],
        }
        for step, at in zip(steps or range(0, 100, 10), scores, strict=False)
        for picture, opinion, its in zip("abcd", mos, at, strict=True)
    ]


WORSE_AND_BETTER = [[4, 1, 2, 3], [4, 1.5, 2, 3], [4, 3, 1, 2]]  # b: from last to where it belongs; c: away from it


def drawn(told):
    """The texts of the figure, and the axes of pictures and of scores."""
    figure = reasoning(told)
    return [text.get_text() for text in figure.texts], figure.axes[::2], figure.axes[1::2]


def told(rows, folder):
    return choose(stories(rows, folder))


def test_a_rank_is_counted_from_the_best_and_shared_by_equals(pictures):
    found = stories(rows_of([[4, 1, 3, 2], [2, 2, [None, None], 5]]), pictures)
    assert [[moment.rank for moment in story.moments] for story in found] == [[1, 2.5], [4, 2.5], [2, None], [3, 1]]
    # Among those that have a readable answer: c has none at the second evaluation.
    assert [story.moments[1].opinion_rank for story in found] == [1, 2, None, 3]
    assert [story.moments[1].rated for story in found] == [3, 3, 3, 3]
    assert [story.gain for story in found] == [0 - 1.5, 2 - 0.5, None, 1 - 2]
    assert [story.verdict for story in found] == ["worse", "better", "as before", "worse"]


def test_the_mean_is_of_all_readable_scores(pictures):
    (moment,) = stories(rows_of([[[1, 2, None, 4, 5], 0, 0, 0]]), pictures)[0].moments
    assert moment.mean == 3 and moment.scores == [1, 2, None, 4, 5]


def test_one_picture_that_got_better_and_one_that_got_worse_are_told(pictures):
    better, worse = told(rows_of(WORSE_AND_BETTER), pictures)
    assert (better.image_id, better.verdict) == ("five/b", "better")
    assert (worse.image_id, worse.verdict) == ("five/c", "worse")


def test_of_equal_ones_that_is_told_whose_score_moved_most(pictures):
    swapped = [[3, 4, 1, 2], [4, 3, 2, 1]]  # all four got better by one rank
    assert [story.image_id for story in told(rows_of(swapped), pictures)] == ["five/a"]
    assert [story.image_id for story in told(rows_of([[3, 4, 1, 2], [4, 3, 2, 0.5]]), pictures)] == ["five/d"]


@pytest.mark.parametrize("scores", [[[4, 3, 2, 1], [5, 4, 2, 1]], [[4, 3, 2, 1]], [[[None]] * 4] * 2])
def test_where_no_rank_changed_one_picture_is_told_as_before(pictures, scores):
    (story,) = told(rows_of(scores), pictures)
    assert story.verdict == "as before" and story.image_id == "five/a"
    texts, *_ = drawn([story])
    assert texts[0].startswith("As good as before: rank ")


def test_sets_that_were_evaluated_less_often_are_left_out(pictures):
    rows = [*rows_of([[4, 3, 2, 1]] * 3), *rows_of([[1, 2, 3, 4], [4, 3, 2, 1]], "five_test", steps=(0, 20))]
    assert {story.set_name for story in stories(rows, pictures)} == {"five"}
    assert {story.set_name for story in stories(rows[12:], pictures)} == {"five_test"}  # where there is no other


def test_a_resumed_run_with_other_probes_tells_of_those_that_were_always_there(pictures):
    rows = [row for row in rows_of(WORSE_AND_BETTER) if row["step"] or row["image_id"] != "five/b"]
    assert {story.image_id for story in stories(rows, pictures)} == {"five/a", "five/c", "five/d"}


def test_the_figure_shows_first_middle_and_last_with_all_scores_and_ranks(pictures):
    rows = rows_of([[[k, 1], 3, 2, 0] for k in (1.0, 2.5, 3.0, 3.5, 4.25)])  # a: rank 4 at first, and 2 in the end
    chosen = told(rows, pictures)
    assert [story.verdict for story in chosen] == ["better"]
    texts, (picture,), (strip,) = drawn(chosen)
    assert texts[0] == "Got better: rank 3 to 2 of 4 pictures of five; rank 1 by opinion score, 4"
    assert [label.get_text() for label in strip.get_yticklabels()] == ["step 0", "step 20", "step 40"]
    points = [line for line in strip.lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in points] == [[1, 1], [3, 1], [4.25, 1]]
    assert len(set(points[0].get_ydata())) == 2  # equal scores hide nothing
    means = [line.get_xdata()[0] for line in strip.lines if line.get_marker() != "o"]
    assert means == [1, 2, 2.625]
    assert strip.get_xlabel() == "score"
    assert [text.split("\n")[0] for text in texts[1:4]] == [
        "rank 3, mean 1.00 of 1.00 1.00",
        "rank 2.5, mean 2.00 of 3.00 1.00",
        "rank 2, mean 2.62 of 4.25 1.00",
    ]
    assert "Costs $5, or $6: sharp. 40" in texts[3]
    assert "Rank 1 is the highest mean score" in texts[4].replace("\n", " ")
    assert np.allclose(picture.images[0].get_array()[0, 0], (200, 30, 30), atol=8)


def test_a_score_that_was_read_is_no_mean_of_answers(pictures):
    texts, *_ = drawn(told(rows_of([[[4.5], [-0.00004], [2], [3]], [[4.5], [1], [0.5], [3]]]), pictures)[:1])
    said = [text.split("\n")[0] for text in texts[1:3]]
    assert said == ["rank 4, score -4e-05", "rank 3, score 1"]
    note = texts[3].replace("\n", " ")
    assert note.startswith("Point: the score.") and "mean" not in note and "answer" not in note


def test_unreadable_answers_are_counted_and_many_scores_are_points_alone(pictures):
    texts, _, (strip,) = drawn(
        told(rows_of([[[4, None, 2], 3, 2, 1], [[None], 3, 2, 1], [[5] * 40, 3, 2, 1]]), pictures)[:1]
    )
    assert [text.split("\n")[0] for text in texts[1:4]] == [
        "rank 1.5, mean 3.00 of 4.00 2.00, 1 of 3 unreadable",
        "no readable score",
        "rank 1, mean 5.00",
    ]
    assert [len(line.get_xdata()) for line in strip.lines if line.get_marker() == "o"] == [2, 0, 40]


def test_better_and_worse_have_their_colours_and_one_axis_of_scores(pictures):
    figure = reasoning(told(rows_of(WORSE_AND_BETTER), pictures))
    captions = {
        text.get_text().split(":")[0]: text.get_color() for text in figure.texts if text.get_text().startswith("Got")
    }
    assert captions == {"Got better": LIGHT[2], "Got worse": LIGHT[1]}
    assert figure.axes[1].get_xlim() == figure.axes[3].get_xlim()


def test_a_run_folder_gets_png_and_pdf_and_each_time_the_same(pictures, tmp_path):
    shutil.copytree(pictures / "pictures", tmp_path / "pictures")
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of(WORSE_AND_BETTER)))
    assert draw_reasoning(tmp_path) == tmp_path / "reasoning.png"
    first = [(tmp_path / f"reasoning.{kind}").read_bytes() for kind in ("png", "pdf")]
    assert first[0].startswith(b"\x89PNG") and first[1].startswith(b"%PDF")
    draw_reasoning(tmp_path)
    assert [(tmp_path / f"reasoning.{kind}").read_bytes() for kind in ("png", "pdf")] == first


def test_a_folder_of_an_earlier_version_is_drawn_from_its_answers_and_the_pictures_that_it_read(pictures):
    rows = rows_of(WORSE_AND_BETTER)
    for row in rows:
        del row["scores"]
        row["image"] = str(pictures / row.pop("picture"))
    better, worse = told(rows, pictures / "elsewhere")
    assert (better.image_id, worse.image_id) == ("five/b", "five/c")
    assert better.moments[0].scores == [1, None]
    assert drawn([better])[1][0].images


def test_pictures_that_cannot_be_read_are_left_out(pictures, tmp_path):
    shutil.copytree(pictures / "pictures", tmp_path / "pictures")
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of(WORSE_AND_BETTER)))
    (tmp_path / "pictures" / "b.jpg").unlink()
    (tmp_path / "pictures" / "a.jpg").write_bytes((tmp_path / "pictures" / "c.jpg").read_bytes()[:400])
    (tmp_path / "pictures" / "d.jpg").write_bytes(damaged_avif())
    with pytest.warns(UserWarning, match=r"leaves out pictures that cannot be read: five/a, five/b, five/d$"):
        assert draw_reasoning(tmp_path) == tmp_path / "reasoning.png"
    for each in (tmp_path / "pictures").iterdir():
        each.unlink()
    with pytest.warns(UserWarning, match="five/a, five/b, five/c, five/d$"):
        assert draw_reasoning(tmp_path) is None


def test_without_answers_there_is_no_picture(tmp_path):
    assert draw_reasoning(tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_a_picture_that_is_gone_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"pictures/a\.jpg"):
        drawn(told(rows_of([[4, 3, 2, 1]]), tmp_path))


def test_a_picture_is_drawn_upright_as_it_is_on_the_page(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "pictures").mkdir()
    for name in "abcd":
        Image.new("RGB", (40, 30)).save(tmp_path / "pictures" / f"{name}.jpg", exif=exif)
    _, pictures, _ = drawn(told(rows_of([[4, 3, 2, 1]]), tmp_path))
    assert pictures[0].images[0].get_array().shape == (40, 30, 3)


def test_long_reasoning_is_wrapped_and_cut(pictures):
    rows = rows_of([[4, 3, 2, 1]] * 3)
    plain = reasoning(told(rows, pictures))
    for row in rows:
        row["answers"] = [answer("word " * 2000, 2)]
    long = reasoning(told(rows, pictures))
    assert plain.get_figheight() < long.get_figheight() < 3 * plain.get_figheight()
    assert any(text.get_text().endswith("...") for text in long.texts)


def test_what_no_font_has_is_shown_by_its_code_and_warned_of_once(pictures, monkeypatch):
    """No empty boxes, and none of matplotlib's warnings, of which there is one for every character."""
    monkeypatch.setattr("vqr1.report.fonts._characters", lambda path: frozenset(range(32, 127)))
    rows = rows_of([[4, 3, 2, 1]], name="five中")
    for row in rows:
        row["answers"] = [answer("模糊 €", 3)]
    with pytest.warns(UserWarning, match="no installed font has 3 of the characters") as told_of:
        reasoning(told(rows, pictures)).draw_without_rendering()
    assert len(told_of) == 1
    with pytest.warns(UserWarning):
        assert drawable("a模\x1b")[0] == r"a\u6a21\x1b"


def test_another_font_is_taken_where_it_has_the_characters(monkeypatch):
    """DejaVu Sans has the face, its sibling of one width has not."""
    text, families = drawable("ok \u0531", "cmr10")
    assert text == "ok \u0531"
    assert families[0] == "cmr10" and len(families) == 2


@pytest.mark.parametrize("size", [(300, 40), (40, 40), (40, 300)])
@pytest.mark.parametrize("words", [1, 200])
def test_no_text_lies_over_another_or_over_a_picture_or_outside(tmp_path, size, words):
    rows = rows_of(WORSE_AND_BETTER, name="a_set_with_a_name_of_very_many_letters_indeed_" * 2)
    (tmp_path / "pictures").mkdir()
    for row in rows:
        Image.new("RGB", size).save(tmp_path / row["picture"])
        row["answers"] = [answer("word " * words, 2)]
    figure = reasoning(told(rows, tmp_path))
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.texts] + [axis.get_tightbbox() for axis in figure.axes]
    assert len(boxes) == 2 + 6 + 1 + 4
    for i, box in enumerate(boxes):
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_the_texts_column_is_as_wide_as_the_text(pictures):
    rows = rows_of([[4, 3, 2, 1]])
    for row in rows:
        row["answers"] = ["x" * 400]
    figure = reasoning(told(rows, pictures))
    assert max(text.get_window_extent().x1 for text in figure.texts) > 0.95 * figure.bbox.x1  # no empty third
