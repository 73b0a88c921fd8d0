"""Scores read as the MOS of a set: by results on other pictures of the same weights, asked in the same way."""

import json
import math
import sys

import numpy as np
import pytest

from tests.support.results import rows_of, write_results
from tests.test_calibration_tables import curved
from vqr1 import cli
from vqr1.errors import UserError
from vqr1.evaluation.calibration_tables import calibrate, calibration_page
from vqr1.evaluation.mos_map import MosMap
from vqr1.evaluation.results import make_row, read_evaluation
from vqr1.evaluation.scale import Scale, fit_scale, options_of

SCALE = Scale(MosMap("set", 10.0, 90.0, 3.0, 0.5, 200, 1.0, 5.0, 4.0), "validation split", "mean of 3", False)


def result(folder, rows, facts=None, name="set", **settings):
    return read_evaluation(write_results(folder, {name: rows}, facts={name: facts or {}}, **settings))


def named(rows, prefix):
    """The same rows of other contents."""
    return [make_row(f"{prefix}{r.image_id}", "set", prefix + r.group, r.mos, r.scores, "so") for r in rows]


def on_curve(prefix, n=40, shift=0.0):
    """Rows whose opinion scores are on the curve of `SCALE` by construction, moved by ``shift``."""
    rows = []
    for i, score in enumerate(np.linspace(1.5, 4.5, n)):
        mos = 10 + 80 / (1 + math.exp(-(score - 3) / 0.5)) + shift
        rows.append(make_row(f"{prefix}{i}.png", "set", f"{prefix}{i}", mos, [score - 0.1, score, score + 0.1], "so"))
    return rows


def test_the_curve_that_the_opinion_scores_follow_is_found_and_survives_json(tmp_path):
    found = fit_scale(result(tmp_path / "v", on_curve("v"), {"part": "validation split"}), "set")
    assert (found.part, found.answers, found.pseudo_labels) == ("validation split", "mean of 3", False)
    assert [found.curve.low, found.curve.high, found.curve.centre, found.curve.width] == pytest.approx(
        [10, 90, 3, 0.5], abs=1e-4
    )
    assert Scale.from_record(json.loads(json.dumps(found.record()))) == found


@pytest.mark.parametrize("change", [{"part": None}, {"pseudo_labels": 1}, {"low": "x"}, {"more": 1}])
def test_what_is_no_scale_is_refused(change):
    with pytest.raises(UserError, match="not a map from scores to MOS"):
        Scale.from_record({**SCALE.record(), **change})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"k": 1, "temperature": 0.0}, "greedy"),
        ({"k": 6, "temperature": 1.0}, "mean of 6"),
        ({"k": 2, "temperature": 1.0, "method": "expected"}, "expected of 2"),
        ({"k": 48, "temperature": 1.0, "method": "mean", "until": 0.05}, "mean until 0.05"),
    ],
)
def test_what_a_score_is_is_said(tmp_path, settings, words):
    assert fit_scale(result(tmp_path / "v", on_curve("v"), **settings), "set").answers == words


@pytest.mark.parametrize(
    ("answers", "options"),
    [("greedy", ""), ("mean of 6", " --method mean -k 6"), ("expected until 0.05", " --method expected --until 0.05")],
)
def test_how_such_answers_are_asked_for(answers, options):
    assert options_of(answers) == options


def test_scores_that_compare_within_a_scene_have_no_scale(tmp_path):
    scenes = result(tmp_path / "v", on_curve("v"), {"per_group_scale": True, "group": "scene"})
    with pytest.raises(UserError, match=r"v: opinion scores of set compare within one scene only"):
        fit_scale(scenes, "set")


def test_the_curve_of_the_fit_is_the_one_that_errors_are_measured_by(tmp_path):
    """Fitted 7 lower than what is shown: every error is 7, where the halves of the shown set would leave none."""
    shown = result(tmp_path / "t", on_curve("t"))
    fit = result(tmp_path / "v", on_curve("v", shift=-7.0), {"part": "validation split"})
    (found,) = calibrate([shown], 10, [fit])
    assert found.stds is not None
    assert [each.error for each in found.stds.bins] == pytest.approx([7.0] * 5, abs=1e-3)
    (halves,) = calibrate([shown], 10)
    assert halves.stds is not None
    assert max(each.error for each in halves.stds.bins) < 0.01
    assert "the curve is of validation split: MOS of set = 3 + 80 / " in calibration_page([found])
    assert "the curve is that which fits the other half of the contents." in calibration_page([halves])


def test_a_curve_is_not_shown_on_a_content_that_it_was_fitted_to(tmp_path):
    shown, fit = result(tmp_path / "t", on_curve("t")), result(tmp_path / "v", [*on_curve("v"), *on_curve("t")[:3]])
    with pytest.raises(UserError, match=r"v and .*t are both on t0 of set \(and 2 contents more\).* part=validation"):
        calibrate([shown], 10, [fit])


@pytest.mark.parametrize("setting", [{"weights_sha256": "1"}, {"k": 4}, {"prompt": "other"}, {"method": "expected"}])
def test_a_curve_of_other_weights_or_answers_is_no_fit(tmp_path, setting):
    shown, fit = result(tmp_path / "t", on_curve("t")), result(tmp_path / "v", on_curve("v"), **setting)
    with pytest.raises(UserError, match=f"v differs in {next(iter(setting))}"):
        calibrate([shown], 10, [fit])


def test_one_fit_for_each_result(tmp_path):
    shown, other = result(tmp_path / "t", on_curve("t")), result(tmp_path / "o", rows_of("bid", 9), name="bid")
    newer = result(tmp_path / "n", on_curve("n"), method="mean")  # says what older ones leave to be told
    assert calibrate([shown], 10, [newer])[0].stds
    with pytest.raises(UserError, match=r"on set \(none is on that set\)"):
        calibrate([shown], 10, [other])
    fits = [result(tmp_path / each, on_curve(each)) for each in ("v", "w")]
    with pytest.raises(UserError, match=r"v and .*w both fit .*t on set; give one"):
        calibrate([shown], 10, fits)


def test_the_command_prints_the_page_and_writes_it_as_values(tmp_path, monkeypatch, capsys):
    shown = write_results(tmp_path / "t", {"set": curved(60)})
    fit = write_results(tmp_path / "v", {"set": named(curved(60), "v")}, facts={"set": {"part": "validation split"}})
    call = ["vqr1", "calibration", str(shown), "--fit", str(fit), "--rounds", "20", "--json", str(tmp_path / "c.json")]
    monkeypatch.setattr(sys, "argv", list(call))
    cli.main()
    page = capsys.readouterr().out
    assert page.startswith("| Model") and "the curve is of validation split: MOS of set = " in page
    (found,) = json.loads((tmp_path / "c.json").read_text())["calibration"]
    assert found["model"] == "model" and len(found["stds"]["bins"]) == 5
    monkeypatch.setattr(sys, "argv", [*call[:3], "--fit", str(shown)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2 and "both on 0 of set" in capsys.readouterr().err
