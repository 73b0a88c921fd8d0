"""What stops or changes a run while it learns: equal rewards."""

from __future__ import annotations

import math

import pytest
import torch
from datasets import Dataset
from PIL import Image
from trl import GRPOConfig

from vqr1.answer import build_prompt
from vqr1.config import PolicyConfig
from vqr1.policy.load import TINY, load_policy, load_processor
from vqr1.policy.shared_prefix import Packing
from vqr1.reward import FormatReward, RankingReward
from vqr1.training.build_trainer import share_work
from vqr1.training.trainer import RankingTrainer, equal_rewards

nan, inf = math.nan, math.inf
PICTURES = 2


def same(seed, image_id, k, step):
    return "<think>a</think><answer>3.00</answer>"


def different(seed, image_id, k, step):
    return f"<think>a</think><answer>{1 + k % 4}.{int(image_id[-1])}</answer>"


def trainer_of(folder, policy_folder, k, script=same, **settings):
    """A trainer over two pictures, whose answers are the script's."""
    policy = PolicyConfig(path=str(policy_folder), **TINY)
    rows = [
        {"image": Image.new("RGB", (56, 56), (90 * i, 90, 9)), "prompt": build_prompt("paper"), "image_id": f"p{i}"}
        | {"dataset": "made", "mos": float(i + 1), "mos_std": None}
        for i in range(PICTURES)
    ]
    defaults = {"beta": 0.0, "loss_type": "grpo", "learning_rate": 1e-3, "max_steps": 3, "save_strategy": "no"}
    trainer = RankingTrainer(
        model=load_policy(policy),
        reward_funcs=[RankingReward(k, cohort_size=None), FormatReward(thinking=True)],
        args=GRPOConfig(
            output_dir=str(folder),
            per_device_train_batch_size=k * PICTURES,
            num_generations=k,
            max_completion_length=16,
            use_cpu=True,
            bf16=False,
            report_to=[],
            disable_tqdm=True,
            **{**defaults, **settings},
        ),
        train_dataset=Dataset.from_list([{"row": i} for i in range(PICTURES)]).with_transform(
            lambda batch: {name: [rows[i][name] for i in batch["row"]] for name in rows[0]}
        ),
        processing_class=load_processor(policy),
        cohorts=[i for _ in range(8) for i in range(PICTURES) for _ in range(k)],
        script=script,
        packing=Packing(),
        skip_zero_advantages=settings.get("beta", 0.0) == 0,
    )
    share_work(trainer)
    return trainer


def weights_of(trainer):
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


def moved(trainer, before):
    return max(float((weight - before[name]).abs().max()) for name, weight in weights_of(trainer).items())


@pytest.mark.parametrize("k", [3, 6, 8])
def test_equal_rewards_move_no_weight(tmp_path, policy_folder, k):
    trainer = trainer_of(tmp_path, policy_folder, k)
    before = weights_of(trainer)
    trainer.train()
    assert trainer.state.global_step == 3
    assert moved(trainer, before) == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"scale_rewards": "none", "num_iterations": 2},
        {"scale_rewards": "batch"},
        {"multi_objective_aggregation": "normalize_then_sum"},
    ],
    ids=str,
)
def test_they_move_none_whatever_the_scale(tmp_path, policy_folder, settings):
    trainer = trainer_of(tmp_path, policy_folder, 3, max_steps=2, **settings)
    before = weights_of(trainer)
    trainer.train()
    assert moved(trainer, before) == 0


def test_other_rewards_still_move_them(tmp_path, policy_folder):
    trainer = trainer_of(tmp_path, policy_folder, 3, different, max_steps=1)
    before = weights_of(trainer)
    trainer.train()
    assert moved(trainer, before) > 0


ROOT = 0.5**0.5


@pytest.mark.parametrize("k", range(2, 17))
def test_a_group_of_equal_sums_is_found(k):
    rewards = torch.tensor([[ROOT, 1.0]] * k + [[ROOT, 1.0]] * (k - 1) + [[ROOT, 0.0]])
    for one_by_one in (False, True):
        assert equal_rewards(rewards, torch.ones(2), k, one_by_one).tolist() == [True] * k + [False] * k


def test_sums_and_single_rewards_are_told_apart():
    rewards, weights = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([1.0, 1.0])
    assert equal_rewards(rewards, weights, 2, one_by_one=False).tolist() == [True, True]
    assert equal_rewards(rewards, weights, 2, one_by_one=True).tolist() == [False, False]
    assert equal_rewards(rewards, torch.tensor([2.0, 1.0]), 2, one_by_one=False).tolist() == [False, False]
    # What has no weight counts nowhere.
    same_format = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    assert equal_rewards(same_format, torch.tensor([0.0, 1.0]), 2, one_by_one=True).tolist() == [True, True]


def test_a_reward_that_is_nan_counts_nowhere():
    rewards, weights = torch.tensor([[nan, nan], [0.5, 1.0], [0.5, 1.0]]), torch.ones(2)
    assert equal_rewards(rewards, weights, 3, one_by_one=False).all()
    assert equal_rewards(rewards, weights, 3, one_by_one=True).all()
    assert not equal_rewards(torch.tensor([[nan], [0.5], [0.6]]), torch.ones(1), 3, one_by_one=False).any()
    assert not equal_rewards(torch.tensor([[inf], [inf]]), torch.ones(1), 2, one_by_one=False).any()
