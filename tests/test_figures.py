"""The figures at a run's end: one that fails is told in a line, and fails nothing."""

import json

from vqr1.training.run import draw_figures


def test_a_figure_that_fails_is_a_warning_and_the_others_are_drawn(tmp_path):
    said = []
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "train/reward": 1.0}) + "\n")
    (tmp_path / "answers.jsonl").write_text("torn\n")
    draw_figures(tmp_path, said.append)
    (warning,) = said
    assert "warning: draw_reasoning failed" in warning and warning.count("UserError") == 1
    assert "answers.jsonl, line 1" in warning
    assert "\n" not in warning
    assert (tmp_path / "curves.png").is_file()


def test_the_curves_may_fail_too(tmp_path):
    said = []
    (tmp_path / "metrics.jsonl").write_text("torn\n")
    draw_figures(tmp_path, said.append)
    (warning,) = said
    assert "warning: draw_curves failed" in warning and "UserError: " in warning and "metrics.jsonl, line 1" in warning
