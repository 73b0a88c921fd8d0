"""The figures at a run's end: one that fails is told in a line, and fails nothing."""

import json
import os

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


def test_of_a_finished_run_what_is_missing_or_of_an_earlier_end_is_drawn(tmp_path):
    said, curves, summary = [], tmp_path / "curves.png", tmp_path / "summary.json"
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "train/reward": 1.0}) + "\n")
    summary.write_text("{}")
    draw_figures(tmp_path, said.append, if_older=summary)
    drawn = curves.read_bytes()
    for content, seconds, now in ((b"of an earlier end", 1, drawn), (b"newer", -1, b"newer")):
        curves.write_bytes(content)
        changed = curves.stat().st_mtime + seconds
        os.utime(summary, (changed, changed))
        draw_figures(tmp_path, said.append, if_older=summary)
        assert curves.read_bytes() == now
    assert not said
