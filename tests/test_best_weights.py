"""``best/`` beside what was evaluated: put, kept for checkpoints, restored for a resumed run."""

import math

import pytest

from vqr1.training.best_weights import BestWeights, best_step


def row(step, *srccs):
    return {"step": step, **{f"eval/{name}/srcc": value for name, value in zip("ab", srccs, strict=False)}}


def put(best, step, *kept):
    new = best.path.with_name("best.new")
    new.mkdir()
    (new / "weights").write_text(str(step))
    best.put(step, kept)


def weights(run):
    return {path.name: (path / "weights").read_text() for path in run.iterdir()}


def test_the_best_step_is_the_earliest_of_the_highest_mean():
    rows = [row(0, 0.1, 0.1), row(5, 0.2, 0.4), row(10, 0.4, 0.2), row(15, None, 0.9), row(20, 0.9), {"step": 25}]
    assert best_step(rows, ["a", "b"]) == 5
    assert best_step(rows, ["a", "b"], until=4) == 0
    assert best_step(rows, ["a"]) == 20
    assert best_step([], ["a"]) is best_step(rows, []) is None


def test_better_weights_replace_the_best_ones(tmp_path):
    best = BestWeights(tmp_path)
    assert best.step() is None
    for step in (5, 10, 10):
        put(best, step)
        assert best.step() == step
        assert weights(tmp_path) == {"best": str(step)}


def test_weights_that_a_checkpoint_may_need_are_kept_until_it_is_gone(tmp_path):
    best = BestWeights(tmp_path)
    put(best, 5)
    put(best, 20, 5)
    put(best, 25, 5)  # 20 was never the best at a checkpoint
    assert weights(tmp_path) == {"best": "25", "best-5": "5"}
    best.prune({5})
    assert weights(tmp_path) == {"best": "25", "best-5": "5"}
    best.prune({25})
    assert weights(tmp_path) == {"best": "25"}


@pytest.mark.parametrize(
    ("wanted", "kept", "found"),
    [
        (25, {5, 25}, {"best": "25", "best-5": "5"}),
        (25, {25}, {"best": "25"}),
        (5, {5}, {"best": "5"}),
        (None, {}, {}),
    ],
)
def test_a_resumed_run_gets_the_weights_of_its_best_step(tmp_path, wanted, kept, found):
    best = BestWeights(tmp_path)
    put(best, 5)
    put(best, 25, 5)
    assert best.restore(wanted, kept)
    assert weights(tmp_path) == found
    assert best.step() == wanted


def test_lost_weights_are_told_and_no_others_take_their_place(tmp_path):
    best = BestWeights(tmp_path)
    put(best, 25)
    assert not best.restore(5, {5})
    assert weights(tmp_path) == {}


def test_killed_while_the_best_is_replaced_nothing_that_is_kept_is_lost(tmp_path):
    best = BestWeights(tmp_path)
    put(best, 5)
    best.path.rename(tmp_path / "best-5")  # and not yet best.new to best
    assert best.restore(5, {5})
    assert weights(tmp_path) == {"best": "5"}


def test_an_undefined_srcc_is_no_best(tmp_path):
    assert best_step([row(5, None), row(10, -0.5)], ["a"]) == 10
    assert best_step([row(5, -math.inf)], ["a"]) == 5
