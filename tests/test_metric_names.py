"""The list of what runs log is complete, has nothing that no run logs, and is the one in docs/logging.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from trl import GRPOConfig

from vqr1.data import Sample
from vqr1.metric_names import MEDIA, METRICS, TIMINGS, described
from vqr1.reward import FormatReward, RankingReward, RegressionReward
from vqr1.training.canary import LARGEST, LOGP_DIFFERENCE
from vqr1.training.evaluator import Ratings
from vqr1.training.run_log import NAMES, OF_SHOWN, StepCallback
from vqr1.training.supervised_trainer import LEVEL_LOSSES

DOCUMENT = Path(__file__).parents[1] / "docs" / "logging.md"


def rewards():
    """The names that each reward gives its figures."""
    answer = "<think>.</think><answer>{}</answer>"
    rows = {
        "completions": [answer.format(score) for score in (1, 2, 3, 4)],
        "image_id": ["a", "a", "b", "b"],
        "dataset": ["x"] * 4,
        "mos": [1.0, 1.0, 2.0, 2.0],
    }
    found = {}
    for reward in (
        RankingReward(2, cohort_size=None),
        RankingReward(2, cohort_size=None, agreement="binary"),
        RegressionReward(2, ranges={"x": (1.0, 5.0)}, threshold=0.35),
        FormatReward(thinking=True),
    ):
        reward(**rows, log_metric=found.__setitem__)
    return set(found)


def evaluation():
    """The names that an evaluation gives its figures."""
    samples = [
        Sample(image=name, mos=mos, mos_std=None, dataset="x", group=name, image_id=name)
        for name, mos in (("a", 1), ("b", 2))
    ]
    ratings = Ratings(samples, [["1"], ["2"]], np.array([[1.0], [2.0]]))
    return {f"eval/{{set}}/{figure}" for figure in ratings.metrics()}


def timings(tmp_path):
    """The names that a step gives its timings."""
    found = {}
    logger = SimpleNamespace(
        screen=SimpleNamespace(step=lambda *_: None), say=lambda line: None, metrics=lambda *_: None,
        timings=lambda step, values: found.update(values), seconds=0.0,
    )  # fmt: skip
    callback = StepCallback(logger, lambda: 0.0, answers_per_step=6)
    args = GRPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    state = SimpleNamespace(global_step=1, max_steps=1, num_input_tokens_seen=1)
    callback.on_step_begin(args, state, None)
    callback.on_step_end(args, state, None)
    callback.on_log(args, state, None, logs={"reward": 1.0})
    return set(found)


def test_the_list_is_what_the_parts_of_a_run_log():
    shown = {*OF_SHOWN.values(), *(f"levels/{name}" for name in LEVEL_LOSSES)}
    assert set(METRICS) == {*NAMES.values(), *shown, *rewards(), *evaluation(), LOGP_DIFFERENCE, LARGEST}


def test_timings_are_apart(tmp_path):
    assert set(TIMINGS) == {*timings(tmp_path), "speed/evaluation_seconds"}  # the last: tests/test_run.py
    assert not set(METRICS) & set(TIMINGS)


@pytest.mark.parametrize("name", ["eval/demo_five_test_at_0.3/srcc", "train/reward"])
def test_a_figure_is_found_by_its_name(name):
    assert described(name, METRICS) in METRICS.values()
    assert described(name, TIMINGS) is None


@pytest.mark.parametrize("name", ["eval/srcc", "eval/a/b/srcc", "eval//srcc", "train/rewards", "train/reward/", "x"])
def test_other_names_are_not_found(name):
    assert described(name, METRICS) is None


def test_figures_sum_a_run_up_as_they_mean():
    assert {name for name, metric in METRICS.items() if metric.best} == {"eval/{set}/srcc", "eval/{set}/plcc"}


def rows(known):
    """Of a table of the document."""
    summed_up = {None: "last", "max": "largest", "min": "smallest"}
    for name, metric in known.items():
        yield f"| `{name}` | {metric.meaning} | {metric.unit} | {summed_up[metric.best]} |"


def test_the_document_has_the_same_list():
    expected = [*rows(METRICS), *rows(TIMINGS), *(f"| `{name}` | {meaning} |" for name, meaning in MEDIA.items())]
    found = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `") and "/" in line.split("`")[1]]
    assert found == expected, "\n".join(expected)


def test_the_list_needs_no_torch():
    words = "import sys, vqr1.metric_names; assert not {'torch', 'numpy', 'wandb'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", words], check=True)
