"""The same training, however it is laid over ranks and passes: answers come from a script, so nothing may differ."""

from __future__ import annotations

import pytest

from tests.support.runs import AGREE, rows, train, training_rows

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

LAYOUTS = {
    "one pass": {"ranks": 1, "trainer__answers_per_device": 24},
    "many passes": {"ranks": 1, "trainer__answers_per_device": 2},  # which cut a picture's three answers apart
    "TRL's own path": {"ranks": 1, "trainer__answers_per_device": 24, "trainer__shared_prefix": "false"},
    "TRL's own path on two ranks": {"ranks": 2, "trainer__answers_per_device": 6, "trainer__shared_prefix": "false"},
    "two ranks": {"ranks": 2, "trainer__answers_per_device": 6},
    "four ranks": {"ranks": 4, "trainer__answers_per_device": 6},
}


@pytest.fixture(scope="module", params=[6, pytest.param(20, marks=pytest.mark.full)])
def steps(request):
    """Each goes on from the weights the one before has left: what differs adds up."""
    return request.param


@pytest.fixture(scope="module")
def runs(tmp_path_factory, policy_folder, data_root, steps):
    folder = tmp_path_factory.mktemp("runs")
    return {
        name: train(
            folder / name.replace(" ", "-").replace("'", ""),
            policy__path=policy_folder,
            data__root=data_root,
            scripted=True,
            trainer__max_steps=steps,
            **settings,
        )
        for name, settings in LAYOUTS.items()
    }


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "one pass"])
def test_rewards_are_identical_and_gradients_agree(runs, steps, layout):
    plain, other = training_rows(runs["one pass"]), training_rows(runs[layout])
    assert len(plain) == len(other) == steps
    exact = [key for key in plain[0] if key.startswith(("reward/", "rollout/", "train/reward"))]
    assert {"reward/fidelity", "train/reward", "rollout/unreadable", "reward/pair_accuracy"} <= set(exact)
    for expected, found in zip(plain, other, strict=True):
        assert {key: found[key] for key in exact} == {key: expected[key] for key in exact}
        # Not policy/kl and policy/entropy: TRL logs the mean over passes of each pass's mean over tokens.
        for key in ("train/loss", "train/grad_norm"):
            assert found[key] == pytest.approx(expected[key], **AGREE), key


def test_a_run_that_learns_a_hundredth_differently_is_told_apart(runs, steps, tmp_path, policy_folder, data_root):
    """A guard on the test above: with a KL penalty that is 1 % larger, no step after the first has the same loss."""
    other = train(
        tmp_path / "penalty",
        policy__path=policy_folder,
        data__root=data_root,
        scripted=True,
        trainer__max_steps=steps,
        trainer__answers_per_device=24,
        trainer__beta=0.0101,
    )
    pairs = zip(training_rows(runs["one pass"]), training_rows(other), strict=True)
    same = [found["train/loss"] == pytest.approx(expected["train/loss"], **AGREE) for expected, found in pairs]
    assert same == [True] + [False] * (steps - 1)


def test_the_script_has_something_to_tell_apart(runs, steps):
    """A guard on the tests above: rewards differ from step to step and some answers cannot be read."""
    found = training_rows(runs["one pass"])
    assert len({row["reward/fidelity"] for row in found}) == steps
    assert any(row["rollout/unreadable"] > 0 for row in found)
    assert all(row["train/grad_norm"] > 1e-3 for row in found)


def test_evaluations_are_the_same_on_any_number_of_ranks(runs):
    def evaluations(folder):
        return [row for row in rows(folder) if "train/loss" not in row]

    assert evaluations(runs["two ranks"]) == evaluations(runs["one pass"])
    assert evaluations(runs["four ranks"]) == evaluations(runs["one pass"])


def test_every_metric_is_trls_where_the_passes_are_the_same(runs):
    for ranks, shared, own in ((1, "one pass", "TRL's own path"), (2, "two ranks", "TRL's own path on two ranks")):
        for expected, found in zip(training_rows(runs[own]), training_rows(runs[shared]), strict=True):
            assert found == pytest.approx(expected, **AGREE), ranks


@pytest.mark.full
def test_free_runs_agree_too(tmp_path, data_root):
    """The shipped policy draws its own answers: the second step's are drawn by the weights that the first has left."""
    shared, own = (
        train(tmp_path / f"shared_{word}", data__root=data_root, rollout__max_tokens=48, trainer__shared_prefix=word)
        for word in ("true", "false")
    )
    for expected, found in zip(training_rows(own), training_rows(shared), strict=True):
        assert found == pytest.approx(expected, **AGREE)
        assert found["train/grad_norm"] > 1e-3
