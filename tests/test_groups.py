"""Samples of training: which pictures and steps, and that neither rows nor texts grow without bound."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from vqr1.training.groups import LETTERS, TIMES, FirstGroups, SampleCallback

WORDS = {1: "<answer>2.5</answer>", 2: "no score", 3: "x" * 2 * LETTERS}


def taken(count, ids=(1, 2, 1, 1)):
    """After two batches of two pictures with two answers each, of which the second is the newest."""
    groups = FirstGroups(count, 2, lambda rows: [WORDS[int(row[0])] for row in rows])
    prompt = [{"role": "user", "content": "How good?"}]
    for mos, rows in ((1.0, (2, 2, 2, 2)), (3.0, ids)):
        examples = [{"image_id": name, "dataset": "five", "mos": mos, "prompt": prompt} for name in "aabb"]
        rewards = torch.tensor([1.5, 0.0, 1.0, 1.0])
        groups.take(examples, torch.tensor(rows)[:, None], rewards, torch.tensor([0.7, -0.7, 0.0, 0.0]))
    return groups


def test_a_sample_is_all_that_was_made_of_a_pictures_answers():
    first, second = taken(5).samples()
    assert first == {
        "set": "five", "image_id": "a", "prompt": "How good?", "mos": 3.0, "answers": [WORDS[1], WORDS[2]],
        "scores": [2.5, None], "rewards": [1.5, 0.0], "advantages": pytest.approx([0.7, -0.7]),
    }  # fmt: skip
    assert second["image_id"] == "b"


@pytest.mark.parametrize(("count", "found"), [(0, ""), (1, "a"), (2, "ab")])
def test_there_are_no_more_than_asked_for(count, found):
    assert "".join(row["image_id"] for row in taken(count).samples()) == found


def test_before_a_batch_there_is_none():
    assert FirstGroups(4, 2, list).samples() == []


def test_long_answers_are_cut():
    (row,) = taken(1, ids=(3, 3, 3, 3)).samples()
    assert [len(text) for text in row["answers"]] == [LETTERS // 2] * 2


@pytest.mark.parametrize(
    ("every", "steps", "expected"),
    [
        (2, 5, [2, 4, 5]),
        (0, 5, [5]),
        (10, 5, [5]),
        (1, TIMES, [*range(1, TIMES + 1)]),
        (1, TIMES + 1, [*range(2, TIMES + 1, 2), TIMES + 1]),
        (50, 100 * 50 * 3, [*range(150, 100 * 50 * 3 + 1, 150)]),
    ],
)
def test_steps_that_are_evaluated_are_sampled_up_to_a_number(every, steps, expected):
    logged = []
    callback = SampleCallback(
        every, taken(1), {"a": "a.png"}, lambda path: f"kept {path}", lambda step, rows: logged.append((step, rows))
    )
    for step in range(1, steps + 1):
        callback.on_step_end(None, SimpleNamespace(global_step=step, max_steps=steps), None)
    assert [step for step, _ in logged] == expected and len(expected) <= TIMES
    assert all(row["step"] == step and row["picture"] == "kept a.png" for step, (row,) in logged)
