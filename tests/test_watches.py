"""What stops or changes a run while it learns: equal rewards, numbers that are none, answers that cannot be read."""

from __future__ import annotations

import math
from functools import partial

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
from vqr1.training.trainer import RankingTrainer
from vqr1.training.watches import NonFiniteError, UnreadableError, UnreadableWatch, all_finite, equal_rewards

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


def spoil(trainer, name, change):
    """Let the trainer's own method of that name give ``change`` of what it gives, from the second step on."""
    plain = getattr(trainer, name)

    def spoilt(*args, **kwargs):
        found = plain(*args, **kwargs)
        return change(found) if trainer.state.global_step == 1 else found

    setattr(trainer, name, spoilt)


def log_probabilities_of(value, found):
    logps, entropies, rest = found
    return logps * value, entropies, rest


@pytest.mark.parametrize("value", [nan, inf])
def test_a_loss_that_is_no_number_stops_before_the_update(tmp_path, policy_folder, value):
    trainer = trainer_of(tmp_path, policy_folder, 3, different, save_strategy="steps", save_steps=1)
    spoil(trainer, "_get_per_token_logps_and_entropies", partial(log_probabilities_of, value))
    with pytest.raises(NonFiniteError, match="step 2: the loss is nan.*pictures: p0, p1.*learning_rate") as error:
        trainer.train()
    assert error.value.exit_code == 2
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-1"]
    assert all(weight.isfinite().all() for weight in trainer.model.parameters())


def test_a_gradient_that_is_no_number_stops_before_the_update(tmp_path, policy_folder):
    trainer = trainer_of(tmp_path, policy_folder, 3, different, save_strategy="steps", save_steps=1)
    weight = next(trainer.model.parameters())
    weight.register_hook(lambda gradient: gradient * (nan if trainer.state.global_step == 1 else 1.0))
    kept = {}
    spoil(trainer, "_compute_loss", lambda loss: (kept.update(weights_of(trainer)), loss)[1])
    with pytest.raises(NonFiniteError, match="step 2: the gradient's norm is nan.*p0, p1.*max_grad_norm"):
        trainer.train()
    assert moved(trainer, kept) == 0
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-1"]


def test_lost_weights_are_neither_saved_nor_asked(tmp_path, policy_folder):
    trainer = trainer_of(tmp_path, policy_folder, 3)
    with torch.no_grad():
        next(trainer.model.parameters()).view(-1)[0] = inf
    for act in (lambda: trainer.save_model(str(tmp_path / "best")), trainer.train):
        with pytest.raises(NonFiniteError, match="step 0: a weight is not finite"):
            act()
    assert not (tmp_path / "best").exists()


@pytest.mark.parametrize("value", [nan, inf])
def test_a_lost_weight_is_seen_in_any_ranks_share_of_it(value):
    """Under ZeRO-3 a parameter is empty, and this rank's share of the weight beside it."""
    model = torch.nn.Linear(2, 2)
    model.weight.ds_tensor, model.weight.data = torch.ones(2), torch.empty(0)
    assert all_finite(model, gather=lambda norm: norm)
    assert not all_finite(model, gather=lambda norm: torch.cat([norm, torch.tensor([value])]))  # another rank's
    model.weight.ds_tensor[1] = value
    assert not all_finite(model, gather=lambda norm: norm)
    model.weight.requires_grad_(False)
    assert all_finite(model, gather=lambda norm: norm)


def watched(limit, shares, clipped=0.0, masked=False):
    """What a watch says of the shares of unreadable answers, a step each, and after how many steps it stops."""
    said = []
    watch = UnreadableWatch(limit, said.append)
    for step, share in enumerate(shares):
        try:
            watch.before(step)
        except UnreadableError as error:
            return said, step, str(error)
        watch.after(step, share, clipped, masked)
    return said, None, ""


def test_unreadable_answers_are_warned_of_at_once_and_stop_in_the_end():
    said, step, message = watched(3, [0.5, 1.0, 1.0, 1.0, 1.0])
    assert len(said) == 1 and said[0].startswith("warning: no answer of step 2 can be learnt from")
    assert step == 4 and "3 steps in a row (rollout.stop_unreadable)" in message and "rollout.prompt" in message


def test_one_readable_answer_begins_the_count_anew():
    assert watched(3, [1.0, 1.0, 0.99, 1.0, 1.0, 1.0])[1] is None
    for never in (None, 0):
        said, step, _ = watched(never, [1.0] * 50)
        assert len(said) == 1 and step is None


def test_answers_that_are_cut_point_to_their_length():
    said, _, message = watched(2, [1.0] * 3, clipped=1.0)
    assert "100% of the answers were cut (rollout/clipped); raise rollout.max_tokens" in said[0]
    assert "raise rollout.max_tokens" in message
    assert watched(2, [0.0] * 3, clipped=1.0)[1] is None
    assert watched(2, [0.0] * 3, clipped=1.0, masked=True)[1] == 2


def test_a_run_without_a_readable_answer_stops_where_a_checkpoint_fits(tmp_path, policy_folder):
    trainer = trainer_of(tmp_path, policy_folder, 2, lambda *_: "I cannot tell", max_steps=6, num_iterations=2)
    said = []
    trainer.unreadable = UnreadableWatch(3, said.append)
    with pytest.raises(UnreadableError, match="4 steps in a row"):  # the first even number of them
        trainer.train()
    assert len(said) == 1
    assert (trainer.save_checkpoint() / "model.safetensors").is_file()


def test_an_answer_of_a_script_is_cut_where_the_policys_would_be(tmp_path, policy_folder):
    def long(seed, image_id, k, step):
        return different(seed, image_id, k, step) if k else "<think>" + "1" * 500

    trainer = trainer_of(tmp_path, policy_folder, 2, long, max_steps=1)
    trainer.train()
    (row,) = (row for row in trainer.state.log_history if "completions/max_length" in row)
    assert (row["completions/max_length"], row["completions/clipped_ratio"]) == (16, 0.5)
