"""``vqr1.reward_model``: called as trainers of generators call their rewards."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

import vqr1
from vqr1.errors import UserError
from vqr1.rating.generator_reward import RewardModel, reward_model
from vqr1.rating.rater import load_rater


@pytest.fixture(scope="module")
def reward():
    return reward_model("tiny", unreadable=1.0)


@pytest.fixture(scope="module")
def drawn():
    """Pictures as diffusers gives them with output_type="pt"."""
    return torch.rand(3, 3, 56, 84, generator=torch.Generator().manual_seed(0))


def test_it_is_called_as_ddpo_and_flow_grpo_call_rewards(reward, drawn):
    assert vqr1.reward_model is reward_model
    expected = reward.rater.score(drawn)
    prompts, metadata = ("a cat", "a dog", "a cow"), ({}, {}, {})
    with ThreadPoolExecutor(2) as pool:  # both trainers ask from threads
        both = [pool.submit(reward, drawn, prompts, metadata) for _ in range(2)]
        for scores, info in (each.result() for each in both):
            assert torch.equal(scores, expected) and not scores.requires_grad and scores.dtype == torch.float32
            assert [rating.score for rating in info["ratings"]] == pytest.approx(expected.tolist())
            assert info["unreadable"] == 0
    assert torch.as_tensor([0.5 * score for score in scores]).tolist() == pytest.approx((expected / 2).tolist())
    bytes_ = (drawn * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert torch.equal(reward(bytes_, prompts, metadata)[0], expected)
    assert torch.equal(reward([Image.fromarray(each) for each in bytes_])[0], expected)
    assert reward(drawn[:0])[0].shape == (0,)


def test_a_trainers_autocast_does_not_reach_the_policy(reward, drawn):
    computed = []
    head = reward.rater._answerer.policy.model.lm_head
    hook = head.register_forward_hook(lambda _, given, made: computed.append((given[0].dtype, made.dtype)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reward(drawn)
    hook.remove()
    assert set(computed) == {(torch.float32, torch.float32)}


def test_an_unreadable_answer_has_the_reward_that_was_chosen(policy_folder, drawn):
    rater = load_rater(policy_folder, max_tokens=4)
    scores, info = RewardModel(rater, 1.0)(drawn)
    assert scores.tolist() == [1.0, 1.0, 1.0] and info["unreadable"] == 3
    assert [each.status for each in info["ratings"]] == ["unreadable"] * 3
    assert RewardModel(rater, math.nan)(drawn)[0].isnan().all()


@pytest.mark.parametrize("unreadable", [None, True, "1", math.inf])
def test_what_an_unreadable_answer_is_worth_is_a_number(unreadable):
    with pytest.raises(UserError, match="is a number"):
        reward_model("tiny", unreadable=unreadable)


def test_a_number_of_numpy_is_one():
    assert reward_model("tiny", unreadable=np.float32(1.5)).unreadable == 1.5


def test_it_has_to_be_chosen():
    with pytest.raises(TypeError, match="unreadable"):
        reward_model("tiny")


def spoilt(value):
    pictures = torch.full((2, 3, 56, 56), 0.5)
    pictures[1, 2, 3, 4] = value
    return pictures


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        (spoilt(math.nan), "a tensor with NaN"),
        (spoilt(1.01), "give values in"),
        (spoilt(-0.1), "give values in"),
        (torch.zeros(2, 4, 56, 56), "a tensor of shape"),
        (torch.zeros(2, 5, 3, 56, 56), "a tensor of shape"),
        (torch.zeros(2, 3, 56, 56, dtype=torch.uint8), "give floating-point values"),
        (np.zeros((2, 3, 56, 56), np.uint8), "an array of shape"),
        (torch.zeros(3, 56, 56), "a reward is of a batch"),
        (torch.zeros(2, 3, 56, 56, requires_grad=True), "carry a gradient.*ReFL"),
        ([torch.zeros(3, 56, 56), torch.zeros(3, 56, 56, requires_grad=True)], "carry a gradient.*ReFL"),
        (["nothing.png"], "nothing.png"),
    ],
)
def test_batches_that_are_none_are_refused(reward, pictures, message):
    with pytest.raises(UserError, match=message):
        reward(pictures)
