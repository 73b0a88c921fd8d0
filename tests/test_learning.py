"""The shipped policy learns from opinion scores and from nothing else, by means of 12 answers to test pictures."""

from __future__ import annotations

import json
from functools import cache

import pytest

from tests.support.runs import train, training_rows
from vqr1.collapse import CollapseWatch

pytestmark = pytest.mark.slow

SHORT = {
    "trainer__images_per_step": 8,
    "trainer__answers_per_device": 48,
    "trainer__max_steps": 90,
    "reward__cohort_size": 8,
    "rollout__k": 6,
    "rollout__max_tokens": 48,
    "data__validation": "[]",  # what is learnt does not depend on it
    "evaluation__test_k": 12,
    "evaluation__max_pictures": 90,
}
RUNS = {
    "opinion scores": {},
    "shuffled scores": {"data__shuffle_mos": "true"},
    "format alone": {"reward__fidelity_weight": 0},
}


CONTROLS = [pytest.param(name, marks=pytest.mark.full) for name in RUNS if name != "opinion scores"]


@pytest.fixture(scope="module")
def run_of(tmp_path_factory, data_root):
    """The folder of the run of this name, which the first to ask for it starts."""
    folder = tmp_path_factory.mktemp("learning")
    return cache(lambda name: train(folder / name.replace(" ", "-"), data__root=data_root, **SHORT, **RUNS[name]))


def rise(run):
    """The mean rise of the two test sets' SRCC."""
    summary = json.loads((run / "summary.json").read_text())
    start, final = (
        [summary[end][f"{s}_test"]["srcc"] for s in ("demo_five", "demo_hundred")] for end in ("start", "final")
    )
    return sum(final) / 2 - sum(start) / 2


def test_opinion_scores_teach(run_of):
    assert rise(run_of("opinion scores")) > 0.12


@pytest.mark.parametrize("control", CONTROLS)
def test_nothing_else_does(run_of, control):
    assert rise(run_of(control)) < 0.08
    assert rise(run_of(control)) < rise(run_of("opinion scores")) - 0.1


@pytest.mark.parametrize("name", ["opinion scores", *CONTROLS])
def test_the_collapse_to_one_score_is_announced_where_it_comes(run_of, name):
    watch = CollapseWatch()
    rows = training_rows(run_of(name))
    warned = next((row["step"] for row in rows if watch(row)), None)
    assert (warned is not None) == (name == "shuffled scores"), warned
    if warned is not None:  # while there is a spread left to save
        assert rows[warned - 1]["rollout/score_std"] > 0.1
