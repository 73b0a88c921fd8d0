"""The curves of a run, from figures made up for the test."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from vqr1.report.curves import draw_curves, titles


def steps(count=40):
    for step in range(1, count + 1):
        yield {
            "step": step,
            "train/reward": 1 + 0.5 * step / count,
            "reward/fidelity": 0.6 + 0.3 * step / count,
            "rollout/score_std": 0.5 * math.exp(-step / count),
            "policy/kl": 0.001 * step,
        }


def evaluations(*at):
    for step in at:
        for name in ("demo_five", "demo_hundred"):
            yield {"step": step, f"eval/{name}/srcc": 0.02 * step, f"eval/{name}/score_std": 0.4}
    for step in (0, max(at)):
        yield {"step": step, "eval/demo_five_test/srcc": 0.5, "eval/demo_five_test/score_std": None}


def draw(folder, rows):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = draw_curves(folder)
    assert path == folder / "curves.png"
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def ink(pixels, panel):
    """Coloured pixels (lines are; axes and words are grey) in one of the five panels, of three and two in a row."""
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 3
    row, column = divmod(panel, 3)
    part = pixels[row * height : (row + 1) * height, column * width : (column + 1) * width]
    return int(((part.max(-1) - part.min(-1)) > 40).sum())


def test_every_panel_has_its_lines(tmp_path):
    pixels = draw(tmp_path, [*steps(), *evaluations(0, 20, 40)])
    assert 1 < pixels.shape[1] / pixels.shape[0] < 2.5  # to be read at a page's width
    assert all(ink(pixels, panel) > 200 for panel in range(5))


@pytest.mark.parametrize(
    ("missing", "empty"),
    [("train/reward", {0}), ("reward/fidelity", {1}), ("eval/", {2}), ("policy/kl", {4}), ("", {0, 1, 2, 3, 4})],
)
def test_a_figure_that_was_not_measured_leaves_its_panel_empty(tmp_path, missing, empty):
    rows = [
        {key: value for key, value in row.items() if key == "step" or not key.startswith(missing)}
        for row in [*steps(), *evaluations(0, 20, 40)]
    ]
    pixels = draw(tmp_path, rows)
    assert {panel for panel in range(5) if ink(pixels, panel) < 50} == empty


@pytest.mark.parametrize(
    ("name", "title"),
    [("fidelity", "fidelity (best 1)"), ("binary", "right order (share)"), ("regression", "hits (share)")],
)
def test_the_second_panel_is_the_reward_of_the_run_under_its_name(tmp_path, name, title):
    rows = [{key.replace("reward/fidelity", f"reward/{name}"): value for key, value in row.items()} for row in steps()]
    assert titles(rows)[1] == title
    assert ink(draw(tmp_path, rows), 1) > 200


def test_ceilings_are_lines_among_the_srccs(tmp_path):
    rows = [*steps(), *evaluations(0, 20, 40)]
    rows.append({"step": 40, "eval/demo_five_test/srcc": 0.7})
    plain = draw(tmp_path, rows)
    unmeasured = {"supervised_ceiling": None, "label_ceiling": None}
    (tmp_path / "summary.json").write_text(json.dumps({"proof": {"demo_five_test": unmeasured}}))
    assert np.array_equal(draw(tmp_path, rows), plain)
    (tmp_path / "summary.json").write_text(
        json.dumps({"proof": {"demo_five_test": {"supervised_ceiling": 0.6, "label_ceiling": 0.95}}})
    )
    pixels = draw(tmp_path, rows)
    assert ink(pixels, 2) > ink(plain, 2) + 100
    assert [ink(pixels, panel) for panel in (0, 1)] == [ink(plain, panel) for panel in (0, 1)]


def test_undefined_figures_are_left_out(tmp_path):
    rows = [{**row, "policy/kl": None, "train/reward": None if row["step"] % 2 else 1.0} for row in steps()]
    pixels = draw(tmp_path, rows)
    assert ink(pixels, 0) > 200
    assert ink(pixels, 4) < 50


@pytest.mark.parametrize("defined", [[None, None], [None, 0.5]])
def test_a_set_without_a_defined_srcc_does_not_spoil_the_others(tmp_path, defined):
    """All pictures got the same score at one end or both; the proof's ceilings are there all the same."""
    rows = [*steps(), *evaluations(0, 20, 40)][:-2]
    rows += [{"step": 40 * end, "eval/flat_test/srcc": srcc} for end, srcc in enumerate(defined)]
    plain = draw(tmp_path, rows)
    ceilings = {"supervised_ceiling": 0.6, "label_ceiling": 0.95}
    (tmp_path / "summary.json").write_text(json.dumps({"proof": {"flat_test": ceilings}}))
    assert ink(draw(tmp_path, rows), 2) > ink(plain, 2) + 100


def test_one_step_is_enough(tmp_path):
    assert draw(tmp_path, [*steps(1), *evaluations(0)]).size


def test_drawn_again_it_is_the_same(tmp_path):
    rows = [*steps(), *evaluations(0, 40)]
    assert np.array_equal(draw(tmp_path, rows), draw(tmp_path, rows))


@pytest.fixture
def drawn(monkeypatch):
    """The figure that was drawn last, still open."""
    from matplotlib import pyplot as plt

    monkeypatch.setattr(plt, "close", lambda figure: None)
    yield lambda: plt.figure(plt.get_fignums()[-1])
    monkeypatch.undo()
    plt.close("all")


def test_nothing_is_drawn_between_two_evaluations(tmp_path, drawn):
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
    draw(tmp_path, rows)
    axis = drawn().axes[2]
    (ends,) = [container for container in axis.containers if container.get_label() == "a_test"]
    points, _, (bars,) = ends.lines
    assert points.get_linestyle() == "None"
    reach = [(low, high) for (_, low), (_, high) in bars.get_segments()]
    assert np.allclose(reach, [(0.1, 0.5), (0.4, 0.8)])
    # Beside the point of another set, and by little.
    assert 0 < abs(points.get_xdata()[0]) < 2


@pytest.mark.parametrize("names", [["five"], ["a_set_with_a_name_of_very_many_letters_indeed" * 2], [*"abcdefghijkl"]])
def test_the_legend_lies_over_no_panel_and_within_the_figure(tmp_path, drawn, names):
    rows = [
        *steps(),
        *({"step": s, f"eval/{n}/srcc": 0.1, f"eval/{n}/score_std": 0.2} for s in (0, 20, 40) for n in names),
    ]
    draw(tmp_path, rows)
    figure = drawn()
    *panels, last = figure.axes
    extent = last.get_legend().get_window_extent()
    assert not any(extent.overlaps(panel.get_tightbbox()) for panel in panels)
    assert figure.bbox.x0 <= extent.x0 and extent.x1 <= figure.bbox.x1 and extent.height <= figure.bbox.height / 2


def test_steps_are_whole_numbers(tmp_path, drawn):
    draw(tmp_path, [*steps(2), *evaluations(0, 2)])
    for axis in drawn().axes[:5]:
        assert all(float(tick).is_integer() for tick in axis.get_xticks())


def test_one_point_is_a_dot(tmp_path):
    assert ink(draw(tmp_path, [*steps(1)]), 0) > 20
