"""The warning against one score for all pictures, on figures made up for the test."""

import pytest

from vqr1.training.run_log import CollapseWatch


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
