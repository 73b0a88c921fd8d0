"""The regression baseline: a hit is a score within the threshold of the rescaled MOS."""

import math
from typing import Any

import pytest
import torch

from vqr1.regression import regression_reward

nan, inf = math.nan, math.inf


def test_equals_the_loop():
    generator = torch.Generator().manual_seed(0)
    scores_BK = 1 + 4 * torch.rand(40, 6, generator=generator, dtype=torch.float64)
    low_B = torch.tensor([1.0, 0.0] * 20, dtype=torch.float64)
    high_B = torch.tensor([5.0, 100.0] * 20, dtype=torch.float64)
    mos_B = low_B + (high_B - low_B) * torch.rand(40, generator=generator, dtype=torch.float64)
    expected = [
        [float(abs(q - (1 + 4 * (mos - low) / (high - low))) < 0.35) for q in row]
        for row, mos, low, high in zip(scores_BK.tolist(), mos_B.tolist(), low_B.tolist(), high_B.tolist(), strict=True)
    ]
    reward_BK = regression_reward(scores_BK, mos_B, low_B, high_B)
    assert reward_BK.tolist() == expected
    assert 0 < reward_BK.mean() < 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_by_hand_on_two_scales(dtype):
    scores_BK = torch.tensor([[3.0, 3.3, 3.4, 2.7], [1.0, 1.2, 5.0, 1.5]], dtype=dtype)
    mos_B, low_B, high_B = torch.tensor([50.0, 0.25]), torch.tensor([0.0, 0.25]), torch.tensor([100.0, 1.0])
    reward_BK = regression_reward(scores_BK, mos_B, low_B, high_B)
    assert reward_BK.dtype == dtype
    assert reward_BK.tolist() == [[1, 1, 0, 1], [1, 1, 0, 0]]


def test_the_threshold_is_not_itself_a_hit():
    args = torch.tensor([[3.5, 2.5, 3.4375]]), torch.tensor([3.0]), torch.tensor([1.0]), torch.tensor([5.0])
    assert regression_reward(*args, threshold=0.5).tolist() == [[0, 0, 1]]


def test_rescaling_opinions_and_their_scale_changes_nothing():
    generator = torch.Generator().manual_seed(1)
    scores_BK = 1 + 4 * torch.rand(20, 4, generator=generator, dtype=torch.float64)
    mos_B = 1 + 4 * torch.rand(20, generator=generator, dtype=torch.float64)
    low_B, high_B = torch.full_like(mos_B, 1), torch.full_like(mos_B, 5)
    rescaled = regression_reward(scores_BK, 8 * mos_B - 3, 8 * low_B - 3, 8 * high_B - 3)
    assert torch.equal(regression_reward(scores_BK, mos_B, low_B, high_B), rescaled)
    mirrored = regression_reward(6 - scores_BK, -mos_B, -high_B, -low_B)
    assert torch.equal(regression_reward(scores_BK, mos_B, low_B, high_B), mirrored)


def test_unreadable_earns_nan_and_nothing_else_does():
    scores_BK = torch.tensor([[3.0, nan, inf, 3.0], [1.0, 3.0, -inf, 1.0]])
    readable_BK = torch.tensor([[True, True, True, False], [True] * 4])
    ends = torch.ones(2), torch.full((2,), 5.0)
    reward_BK = regression_reward(scores_BK, torch.full((2,), 3.0), *ends, readable_BK=readable_BK)
    expected = torch.tensor([[1, nan, nan, nan], [0, 1, nan, 0]])
    torch.testing.assert_close(reward_BK, expected, equal_nan=True, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("scores_BK", {"scores_BK": torch.ones(3)}),
        ("scores_BK", {"scores_BK": torch.ones(3, 2, dtype=torch.int64)}),
        ("mos_B", {"mos_B": torch.ones(2)}),
        ("mos_B", {"mos_B": torch.tensor([1.0, 2.0, 5.1])}),
        ("mos_B", {"mos_B": torch.tensor([1.0, 2.0, nan])}),
        ("mos_low_B", {"mos_low_B": torch.ones(3, 1)}),
        ("mos_low_B", {"mos_low_B": torch.full((3,), 5.0)}),
        ("mos_high_B", {"mos_high_B": torch.ones(3, dtype=torch.int64)}),
        ("readable_BK", {"readable_BK": torch.ones(3, 2)}),
        ("threshold", {"threshold": 0.0}),
        ("threshold", {"threshold": nan}),
    ],
)
def test_wrong_arguments_are_named(name, change):
    arguments: dict[str, Any] = {
        "scores_BK": torch.ones(3, 2),
        "mos_B": torch.full((3,), 2.0),
        "mos_low_B": torch.ones(3),
        "mos_high_B": torch.full((3,), 5.0),
    }
    regression_reward(**arguments)
    with pytest.raises(ValueError, match=name):
        regression_reward(**(arguments | change))
