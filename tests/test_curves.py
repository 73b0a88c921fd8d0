"""The curves of a run, from figures made up for the test."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from vqr1.report.curves import curves, draw_curves, titles


def steps(count=40):
    for step in range(1, count + 1):
        yield {
            "step": step,
            "train/reward": 1 + 0.5 * step / count,
            "reward/fidelity": 0.6 + 0.3 * step / count,
            "reward/format": 1 - 0.1 * (step % 2),
            "rollout/score_std": 0.5 * math.exp(-step / count),
            "policy/kl": 0.001 * step,
        }


def evaluations(*at):
    for step in at:
        for name in ("demo_five", "demo_hundred"):
            yield {"step": step, f"eval/{name}/srcc": 0.02 * step, f"eval/{name}/score_std": 0.4}
    for step in (0, max(at)):
        yield {"step": step, "eval/demo_five_test/srcc": 0.5, "eval/demo_five_test/score_std": None}


TITLES = (
    *("reward", "fidelity (best 1)", "format (share of answers)"),
    *("KL to the start policy", "score std over K answers", "SRCC"),
)
REWARD, QUALITY, FORMAT, KL, STD, SRCC = range(6)


def test_a_run_that_was_shown_answers_has_its_loss_in_place_of_rewards():
    rows = [
        {"step": step, "train/loss": 1 / step, "train/token_accuracy": 0.5, "train/grad_norm": 1.0, "train/lr": 0.1}
        for step in (1, 2, 3)
    ]
    of_training = ("loss", "likeliest tokens (share)", "norm of the gradient", "learning rate")
    plain = [{"step": step, "eval/demo_five/srcc": 0.1, "eval/demo_five/plcc": 0.2} for step in (0, 2, 3)]
    assert titles([*rows, *plain]) == (*of_training, "PLCC", "SRCC")  # comparisons have no std
    assert all(lines(axis) for axis in drawn([*rows, *plain]))
    levels = [{**row, "eval/demo_five/score_std": 0.5} for row in plain]
    assert titles([*rows, *levels]) == (*of_training, "score std of a drawn level", "SRCC")
    (line,) = lines(drawn([*rows, *levels])[STD]).values()
    assert list(line.get_ydata()) == [0.5, 0.5, 0.5]


def drawn(rows, proof=None):
    """The axes of the figure."""
    return curves(list(rows), proof).axes


def placed(axes):
    """The axes once more, when everything is in its place; this takes time."""
    axes[0].figure.draw_without_rendering()
    return axes


def lines(axis):
    """By label, without the empty ones that stand in the legend; those with a label of matplotlib's own are none."""
    return {
        line.get_label(): line for line in axis.lines if len(line.get_xdata()) and not line.get_label().startswith("_")
    }


def bands(axis):
    """Lower and upper ends by step, of each filled area."""
    found = []
    for area in axis.collections:
        if type(area).__name__ == "FillBetweenPolyCollection" and area.get_paths() and len(area.get_paths()[0]):
            points = area.get_paths()[0].vertices
            steps = sorted(set(points[:, 0]))
            found.append([(x, points[points[:, 0] == x, 1].min(), points[points[:, 0] == x, 1].max()) for x in steps])
    return found


def legend(axes):
    (made,) = axes[0].figure.legends
    return [text.get_text() for text in made.get_texts()]


def test_a_run_folder_gets_its_curves_as_png_and_pdf_and_each_time_the_same(tmp_path):
    rows = [*steps(), *evaluations(0, 20, 40)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert draw_curves(tmp_path) == tmp_path / "curves.png"
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG"
        assert 1 < picture.width / picture.height < 2  # to be read at a page's width
    first = [(tmp_path / f"curves.{kind}").read_bytes() for kind in ("png", "pdf")]
    assert first[1].startswith(b"%PDF")
    draw_curves(tmp_path)
    assert [(tmp_path / f"curves.{kind}").read_bytes() for kind in ("png", "pdf")] == first


def test_the_six_panels_and_their_names():
    axes = drawn([*steps(), *evaluations(0, 20, 40)])
    assert tuple(axis.get_title(loc="left") for axis in axes) == TITLES
    assert {axis.get_xlabel() for axis in axes[3:]} == {"training step"}
    training = {"training: running mean, 0.9 of itself and 0.1 of each step", "training: single steps"}
    assert all(set(lines(axes[i])) == training for i in (REWARD, QUALITY, FORMAT, KL))
    assert set(lines(axes[STD])) == {*training, "demo_five", "demo_hundred"}
    assert set(lines(axes[SRCC])) == {"demo_five", "demo_hundred"}


def test_the_bold_line_is_the_running_mean_that_the_legend_says():
    axes = drawn([{"step": step, "train/reward": value} for step, value in ((1, 1.0), (2, 2.0), (3, 0.0))])
    mean, single = (line.get_ydata() for line in lines(axes[REWARD]).values())
    assert mean == pytest.approx([1.0, 1.1, 0.99])
    assert list(single) == [1.0, 2.0, 0.0]
    assert "training: running mean, 0.9 of itself and 0.1 of each step" in legend(axes)


def test_the_reward_has_a_band_of_its_standard_deviation():
    rows = [{"step": 1, "train/reward": 1.0, "train/reward_std": 0.5}, {"step": 2, "train/reward": 2.0}]
    rows.append({"step": 3, "train/reward": 1.1, "train/reward_std": 0.4})
    axes = drawn(rows)
    (band,) = bands(axes[REWARD])  # of the steps where it is defined: its running mean, by hand
    assert np.allclose(band, [(1, 0.5, 1.5), (3, 1.1 - 0.49, 1.1 + 0.49)])
    assert "mean ± std of a step's rewards, both running" in legend(axes)
    assert bands(drawn(steps())[REWARD]) == []


@pytest.mark.parametrize(
    ("missing", "empty"),
    [
        ("train/reward", {REWARD}),
        ("reward/fidelity", {QUALITY}),
        ("reward/format", {FORMAT}),
        ("eval/", {SRCC}),
        ("policy/kl", {KL}),
        ("", {*range(6)}),
    ],
)
def test_a_figure_that_was_not_measured_leaves_its_panel_empty(missing, empty):
    rows = [
        {key: value for key, value in row.items() if key == "step" or not key.startswith(missing)}
        for row in [*steps(), *evaluations(0, 20, 40)]
    ]
    assert {i for i, axis in enumerate(drawn(rows)) if not lines(axis)} == empty


@pytest.mark.parametrize(
    ("name", "title"),
    [("fidelity", "fidelity (best 1)"), ("binary", "right order (share)"), ("regression", "hits (share)")],
)
def test_the_second_panel_is_the_reward_of_the_run_under_its_name(name, title):
    rows = [{key.replace("reward/fidelity", f"reward/{name}"): value for key, value in row.items()} for row in steps()]
    axis = drawn(rows)[QUALITY]
    assert titles(rows)[1] == axis.get_title(loc="left") == title
    assert len(lines(axis)) == 2


def test_ceilings_are_lines_of_their_sets_colour_named_at_their_end():
    rows = [*steps(), *evaluations(0, 20, 40)]
    axes = drawn(rows, {"demo_five_test": {"supervised_ceiling": None, "label_ceiling": None}})
    assert not axes[SRCC].texts and not [name for name in legend(axes) if "ceiling" in name]
    ceilings = {"supervised_ceiling": 0.6, "label_ceiling": 0.95}
    axes = drawn(rows, {"demo_five_test": ceilings, "demo_hundred_test": {**ceilings, "supervised_ceiling": 0.61}})
    flat = [line for line in axes[SRCC].lines if list(line.get_xdata()) == [0, 1]]
    assert sorted(line.get_ydata()[0] for line in flat) == [0.6, 0.61, 0.95, 0.95]
    named = lines(axes[SRCC])
    colours = {text.get_text(): text.get_color() for text in axes[SRCC].texts}
    assert colours == {
        "supervised 0.60": named["demo_five"].get_color(),
        "supervised 0.61": named["demo_hundred"].get_color(),
        "label 0.95": "black",  # of both
    }
    boxes = [text.get_window_extent() for text in placed(axes)[SRCC].texts]
    panel = axes[SRCC].get_window_extent()
    assert all(box.x0 > panel.x1 and box.x1 <= axes[0].figure.bbox.x1 for box in boxes)
    assert not any(boxes[i].overlaps(boxes[j]) for i in range(3) for j in range(i))
    assert {name for name in legend(axes) if "ceiling" in name} == {
        "ceiling: trained on the true scores",
        "ceiling: noise of the labels",
    }


def test_undefined_figures_are_left_out():
    rows = [{**row, "policy/kl": None, "train/reward": None if row["step"] % 2 else 1.0} for row in steps()]
    axes = drawn(rows)
    assert not lines(axes[KL])
    assert all(len(line.get_xdata()) == 20 for line in lines(axes[REWARD]).values())


@pytest.mark.parametrize("defined", [[None, None], [None, 0.5]])
def test_a_set_without_a_defined_srcc_does_not_spoil_the_others(defined):
    """All pictures got the same score at one end or both; the proof's ceilings are there all the same."""
    rows = [*steps(), *evaluations(0, 20, 40)][:-2]
    rows += [{"step": 40 * end, "eval/flat_test/srcc": srcc} for end, srcc in enumerate(defined)]
    axis = drawn(rows, {"flat_test": {"supervised_ceiling": 0.6, "label_ceiling": 0.95}})[SRCC]
    assert set(lines(axis)) == {"demo_five", "demo_hundred"}
    assert len(axis.texts) == 2
    assert len(axis.containers) == sum(srcc is not None for srcc in defined)


def test_one_step_is_a_dot():
    axes = drawn([*steps(1), *evaluations(0)])
    mean = next(iter(lines(axes[REWARD]).values()))
    assert mean.get_marker() == "o"


def test_nothing_is_drawn_between_two_evaluations():
    rows = [*steps(), *evaluations(0, 20, 40)][:-2]
    rows += [
        {
            "step": step,
            "eval/a_test/srcc": srcc,
            "eval/a_test/srcc_low": srcc - 0.1,
            "eval/a_test/srcc_high": srcc + 0.3,
        }
        for step, srcc in ((0, 0.2), (40, 0.5))
    ]
    axes = drawn(rows)
    (ends,) = axes[SRCC].containers
    assert ends.get_label() == "a_test (start and end)"
    points, _, (bars,) = ends.lines
    assert points.get_linestyle() == "None"
    assert points.get_marker() not in (None, "None")
    reach = [(low, high) for (_, low), (_, high) in bars.get_segments()]
    assert np.allclose(reach, [(0.1, 0.5), (0.4, 0.8)])
    # Beside the point of another set, and by little.
    assert 0 < abs(points.get_xdata()[0]) < 2
    assert "a_test (start and end)" in legend(axes)


def test_a_curve_through_more_evaluations_has_the_intervals_as_a_band():
    rows = [
        {"step": step, "eval/a/srcc": 0.5, "eval/a/srcc_low": 0.4 - step / 100, "eval/a/srcc_high": 0.6}
        for step in (0, 10, 20)
    ]
    axes = drawn(rows)
    assert np.allclose(bands(axes[SRCC]), [[(0, 0.4, 0.6), (10, 0.3, 0.6), (20, 0.2, 0.6)]])
    assert lines(axes[SRCC])["a"].get_marker() not in (None, "None")
    assert "95 % interval" in legend(axes)
    del rows[1]["eval/a/srcc_low"]
    assert bands(drawn(rows)[SRCC]) == []


def test_a_set_and_its_test_pictures_look_alike_and_a_set_that_was_rated_once_takes_no_look():
    rows = [*steps(), *evaluations(0, 20, 40), {"step": 0, "eval/a_at_0.3/srcc": 0.3}]
    axes = drawn(rows)
    five, hundred = lines(axes[SRCC])["demo_five"], lines(axes[SRCC])["demo_hundred"]
    (test,) = axes[SRCC].containers
    assert test.lines[0].get_color() == five.get_color() != hundred.get_color()
    assert test.lines[0].get_marker() == five.get_marker() != hundred.get_marker()
    assert [lines(drawn(rows[:-1])[SRCC])[name].get_color() for name in ("demo_five", "demo_hundred")] == [
        five.get_color(),
        hundred.get_color(),
    ]


def test_one_step_far_above_the_others_is_named_and_does_not_flatten_them():
    rows = [{"step": step, "policy/kl": 50.0 if step == 70 else 0.3 + step / 1000} for step in range(1, 201)]
    axis = drawn(rows)[KL]
    assert axis.get_ylim()[1] < 10 and [text.get_text() for text in axis.texts] == ["50 in step 70"]
    rows[9]["policy/kl"] = 60.0
    axis = drawn(rows)[KL]
    assert [text.get_text() for text in axis.texts] == ["60 in step 10, 1 more above"]
    rows = [row for row in rows if row["policy/kl"] < 10]
    assert not drawn(rows)[KL].texts


@pytest.mark.parametrize("names", [["five"], ["a_set_with_a_name_of_very_many_letters_indeed" * 2], [*"abcdefghijkl"]])
def test_the_legend_lies_over_no_panel_and_within_the_figure(names):
    axes = drawn(
        [
            *steps(),
            *({"step": s, f"eval/{n}/srcc": 0.1, f"eval/{n}/score_std": 0.2} for s in (0, 20, 40) for n in names),
        ],
        {names[0]: {"supervised_ceiling": 0.6, "label_ceiling": 0.95}},
    )
    figure = placed(axes)[0].figure
    extent = figure.legends[0].get_window_extent()
    assert not any(extent.overlaps(axis.get_tightbbox()) for axis in axes)
    assert figure.bbox.x0 <= extent.x0 and extent.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= extent.y0 and extent.height <= figure.bbox.height / 2
    boxes = [axis.get_tightbbox() for axis in axes]
    assert not any(boxes[i].overlaps(boxes[j]) for i in range(6) for j in range(i))
    assert min(text.get_fontsize() for text in figure.legends[0].get_texts()) >= 6


def test_steps_are_whole_numbers():
    for axis in drawn([*steps(2), *evaluations(0, 2)]):
        assert all(float(tick).is_integer() for tick in axis.get_xticks())
