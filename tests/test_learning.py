"""The shipped policy learns from opinion scores and from nothing else, by means of 12 answers to test pictures."""

from __future__ import annotations

import json

import pytest

from tests.support.runs import train, training_rows
from vqr1.training.watches import CollapseWatch

pytestmark = pytest.mark.slow

SHORT = {
    "trainer__images_per_step": 8,
    "trainer__answers_per_device": 48,
    "trainer__max_steps": 90,
    "reward__cohort_size": 8,
    "rollout__k": 6,
    "rollout__max_tokens": 48,
    "evaluation__k": 4,
    "evaluation__test_k": 12,
    "evaluation__max_pictures": 90,
}
RUNS = {
    "opinion scores": {},
    "shuffled scores": {"data__shuffle_mos": "true"},
    "format alone": {"reward__fidelity_weight": 0},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data_root):
    folder = tmp_path_factory.mktemp("learning")
    return {
        name: train(folder / name.replace(" ", "-"), data__root=data_root, **SHORT, **settings)
        for name, settings in RUNS.items()
    }


@pytest.fixture(scope="module")
def rises(runs):
    """By run, the mean rise of the two test sets' SRCC."""
    found = {}
    for name, run in runs.items():
        summary = json.loads((run / "summary.json").read_text())
        start, final = (
            [summary[end][f"{s}_test"]["srcc"] for s in ("demo_five", "demo_hundred")] for end in ("start", "final")
        )
        found[name] = sum(final) / 2 - sum(start) / 2
    return found


def test_opinion_scores_teach(rises):
    assert rises["opinion scores"] > 0.12, rises


@pytest.mark.parametrize("control", ["shuffled scores", "format alone"])
def test_nothing_else_does(rises, control):
    assert rises[control] < 0.08, rises
    assert rises[control] < rises["opinion scores"] - 0.1, rises


@pytest.mark.parametrize("name", RUNS)
def test_the_collapse_to_one_score_is_announced_where_it_comes(runs, name):
    watch = CollapseWatch()
    rows = training_rows(runs[name])
    warned = next((row["step"] for row in rows if watch(row)), None)
    assert (warned is not None) == (name == "shuffled scores"), warned
    if warned is not None:  # while there is a spread left to save
        assert rows[warned - 1]["rollout/score_std"] > 0.1
