"""Figures by TRL's names and by ours, and the warning against one score for all pictures; all made up for the tests."""

from functools import partial
from types import SimpleNamespace

import pytest
from trl import GRPOConfig

from vqr1.collapse import CollapseWatch, EqualAnswersWatch
from vqr1.training.run_log import NAMES, StepCallback, expected_names, progress_line, strange_names

# What a step of a run with vLLM and a KL penalty reports besides NAMES. Runs compare it with TRL's (support/runs.py).
BESIDES = {
    "rewards/quality_reward/mean": 0.5, "frac_reward_zero_std": 0.0, "num_tokens": 10, "step_time": 0.1, "epoch": 0.1,
    "completions/min_length": 3, "completions/mean_terminated_length": 3, "clip_ratio/low_min": 0.0,
    "sampling/sampling_logp_difference/mean": 0.0, "sampling/importance_sampling_ratio/min": 1.0,
    "reward/fidelity": 0.7, "rollout/score_std": 0.5, "canary/logp_difference": 0.0,
}  # fmt: skip


def reported():
    return {**dict.fromkeys(NAMES, 1.0), **BESIDES}


def names(**settings):
    args = {"beta": 0.04, "loss_type": "grpo", "vllm_importance_sampling_correction": True, **settings}
    return expected_names(SimpleNamespace(**args), vllm=settings.get("vllm", True))


def test_the_names_of_a_step_are_known():
    assert strange_names(reported(), names()) is None


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_figure_that_trl_renames_is_missed(name):
    logs = reported()
    logs[f"new_{name}"] = logs.pop(name)
    assert f"missing: {name}; not known: new_{name}." in strange_names(logs, names())


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ({"beta": 0.0}, "kl"),
        ({"loss_type": "cispo"}, "clip_ratio/region_mean"),
        ({"vllm": False}, "sampling/importance_sampling_ratio/mean"),
        ({"vllm_importance_sampling_correction": False}, "sampling/importance_sampling_ratio/mean"),
    ],
)
def test_a_figure_is_missed_only_where_there_is_one(setting, name):
    logs = {key: value for key, value in reported().items() if key != name}
    assert f"missing: {name};" in strange_names(logs, names())
    assert strange_names(logs, names(**setting)) is None


def test_a_run_says_so_once_and_goes_on(tmp_path):
    said, rows = [], []
    logger = SimpleNamespace(
        screen=SimpleNamespace(step=lambda step, steps, line: said.append(line)),
        say=said.append,
        metrics=lambda step, values: rows.append(values),
        timings=lambda *_: None,
        seconds=0.0,
    )
    callback = StepCallback(logger, lambda: 0.0, answers_per_step=6, reported=partial(expected_names, vllm=True))
    args = GRPOConfig(output_dir=str(tmp_path), beta=0.04, loss_type="grpo", use_cpu=True, report_to=[])
    state = SimpleNamespace(global_step=1, max_steps=2, num_input_tokens_seen=1)
    logs = reported()
    del logs["loss"]  # the one that a step was told from the summary by
    for _ in range(2):
        callback.on_step_begin(args, state, None)
        callback.on_step_end(args, state, None)
        callback.on_log(args, state, None, logs=logs)
    callback.on_log(args, state, None, logs={"train_runtime": 1.0, "train_loss": 0.1})
    assert [line.startswith("warning: of TRL's figures, missing: loss;") for line in said] == [True, False, False]
    assert len(rows) == 2


def fired(series):
    """The steps (from 0) at which the watch spoke."""
    watch = CollapseWatch()
    spoken = [watch({"rollout/score_std_between": value}) for value in series]
    return [step for step, warning in enumerate(spoken) if warning]


def test_it_fires_once_when_ten_steps_are_under_half_of_the_first_ten():
    # One high step among the last ten keeps the mean above: 0.9 * 0.29 + 0.06 is over 0.3.
    assert fired([0.6] * 10 + [0.6] * 10 + [0.29] * 30) == [29]
    assert fired([0.6] * 10 + [0.1] * 30) == [19]
    # mean of n values 0.1 and 10 - n values 0.6 under 0.3 from n = 7 on
    assert fired([0.6] * 20 + [0.1] * 30) == [26]


@pytest.mark.parametrize(
    "series",
    [
        [0.6] * 100,
        [0.6] * 10 + [0.31] * 100,  # noise leaves the answers
        [0.6] * 10 + ([0.9] * 3 + [0.1]) * 30,  # a batch of like pictures now and then
        [0.0] * 100,  # it was so from the start
        [0.6] * 10 + [0.1] * 9,  # too early to say
    ],
)
def test_it_keeps_still_otherwise(series):
    assert fired(series) == []


def test_steps_without_the_figure_do_not_count():
    watch = CollapseWatch()
    assert [watch({"reward/fidelity": 0.7}) for _ in range(50)] == [None] * 50


def test_the_warning_says_what_was_seen_and_what_to_look_at():
    watch = CollapseWatch()
    warning = [watch({"rollout/score_std_between": value}) for value in [0.6] * 10 + [0.12] * 10][-1]
    for word in ("rollout/score_std_between", "0.600", "0.120", "labels", "answers.jsonl", "learning_rate"):
        assert word in warning


def equal_answers(shares, between=0.4):
    watch = EqualAnswersWatch()
    said = [watch({"reward/zero_spread": share, "rollout/score_std_between": between}) for share in shares]
    return [(step, warning) for step, warning in enumerate(said) if warning]


def test_equal_answers_for_ten_steps_are_warned_of_once():
    ((step, warning),) = equal_answers([1.0] * 40)
    assert step == 9 and "given one score for 10 steps (reward/zero_spread is 1)" in warning
    ((_, warning),) = equal_answers([1.0] * 10, between=0.0)
    assert "given one score, the same for all pictures, for 10 steps" in warning
    assert [step for step, _ in equal_answers([1.0] * 9 + [0.99] + [1.0] * 10)] == [19]


@pytest.mark.parametrize("shares", [[0.99] * 100, ([1.0] * 9 + [0.5]) * 10, [1.0] * 9])
def test_answers_that_differ_somewhere_are_not(shares):
    assert equal_answers(shares) == []


def test_answers_that_nobody_can_read_are_anothers_warning():
    watch = EqualAnswersWatch()
    assert [watch({"rollout/unreadable": 1.0}) for _ in range(50)] == [None] * 50


@pytest.mark.parametrize("name", ["fidelity", "binary", "regression"])
def test_the_line_of_a_step_names_the_reward_by_what_it_is(name):
    values = {"train/reward": 1.5, f"reward/{name}": 0.7, "reward/format": 0.8, "policy/kl": 0.01}
    assert (
        progress_line(9, 10, values, 60.0, "about 60 s left")
        == f"step  9/10  reward 1.500  {name} 0.700  kl 0.010  60.0 s  about 60 s left"
    )


@pytest.mark.parametrize(
    ("evaluating", "left"), [(90.0, "about 3 min left"), (None, "about 80 s left without evaluations")]
)
def test_the_time_left_counts_the_evaluations_to_come(tmp_path, monkeypatch, evaluating, left):
    """Four steps of 20 s are to come."""
    said = []
    logger = SimpleNamespace(
        screen=SimpleNamespace(step=lambda step, steps, line: said.append(line)),
        say=lambda line: None, metrics=lambda *_: None, timings=lambda *_: None, seconds=0.0,
    )  # fmt: skip
    asked = []

    def seconds(step, steps):
        asked.append((step, steps))
        return evaluating

    callback = StepCallback(logger, lambda: 0.0, answers_per_step=6, evaluation_seconds=seconds)
    clock = iter([100.0, 120.0])
    monkeypatch.setattr("vqr1.training.run_log.time.perf_counter", lambda: next(clock))
    args = GRPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    state = SimpleNamespace(global_step=6, max_steps=10, num_input_tokens_seen=1)
    callback.on_step_begin(args, state, None)
    callback.on_step_end(args, state, None)
    callback.on_log(args, state, None, logs={"reward": 1.0, "reward_std": 0.25})
    assert said == [f"step  6/10  reward 1.000  reward std 0.250  20.0 s  {left}"]
    assert asked == [(6, 10)]
