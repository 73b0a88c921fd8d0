"""From settings to a trainer: the order of pictures, the rewards, how prompts are shared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from transformers import PrinterCallback
from trl import GRPOConfig

from vqr1.answer import build_prompt, expects_thinking
from vqr1.batches import BatchPlan
from vqr1.cohorts import CohortSampler
from vqr1.config import Config, Preference, RewardKind, Rivals, StepSettings, Tuning
from vqr1.config_checks import step_settings
from vqr1.data import Sample, find_spec
from vqr1.data.pictures import Load
from vqr1.machine_choices import MachineChoices
from vqr1.policy import segments, windows
from vqr1.policy.load import base_model, load_policy, lora_config
from vqr1.policy.read_once import encode_each_picture_once, read_each_prompt_once, take_bytes
from vqr1.policy.shared_prefix import Packing
from vqr1.reward import FormatReward, RankingReward, RegressionReward
from vqr1.training.run_data import as_dataset
from vqr1.training.trainer import RankingTrainer, Script

Reward = Callable[..., list[float | None]]


class OfDataset(Protocol):
    """Whatever is of one dataset: a picture, a pair."""

    @property
    def dataset(self) -> str: ...


def cohort_sampler(config: Config, samples: Sequence[OfDataset], plan: BatchPlan, iterations: int) -> CohortSampler:
    return CohortSampler(
        [sample.dataset for sample in samples],
        images_per_batch=plan.images_per_generation,
        cohort_size=config.together,
        answers_per_image=config.answers_to_each,
        # TRL reads a generation batch once for every pass over a part of it; answers that are shown have none.
        reuse=plan.steps_per_generation * iterations if config.draws_answers else 1,
        temperature=config.data.mix_temperature,
        seed=config.seed,
    )


def reward_functions(config: Config) -> list[Reward]:
    """What TRL calls: the quality reward and the format reward, in the order of their weights."""
    reward, k = config.reward, config.rollout.k
    root = Path(config.data.root).expanduser()
    quality: RankingReward
    if reward.kind is RewardKind.regression:
        quality = RegressionReward(
            k,
            ranges={name: find_spec(name, root).range for name in config.data.train},
            threshold=reward.regression_threshold,
            unreadable_reward=reward.unreadable_reward,
        )
    else:
        quality = RankingReward(
            k,
            cohort_size=reward.cohort_size if reward.rivals is Rivals.cohort else None,
            use_mos_std=reward.preference is Preference.thurstone,
            unreadable_reward=reward.unreadable_reward,
            opponent=reward.opponent,
            variance=reward.variance,
            agreement=reward.agreement,
            gamma=reward.gamma,
            root_epsilon=reward.root_epsilon,
        )
    return [quality, FormatReward(expects_thinking(config.rollout.prompt))]


def make_trainer(
    config: Config,
    choices: MachineChoices,
    grpo: GRPOConfig,
    rewards: Sequence[Reward],
    sampler: CohortSampler,
    samples: Sequence[Sample],
    load: Load,
    processor: Any,
    script: Script | None = None,
) -> RankingTrainer:
    """The trainer of ``samples``. ``script`` gives the answers in place of the policy."""
    step = step_settings(config.trainer)
    if grpo.ddp_find_unused_parameters is None:
        # Every sample has a picture, so every trained weight gets a gradient; looking for others costs a pass.
        grpo.ddp_find_unused_parameters = False
    trainer = RankingTrainer(
        model=load_policy(config.policy),
        reward_funcs=list(rewards),
        args=grpo,
        train_dataset=as_dataset(samples, build_prompt(config.rollout.prompt), load),
        processing_class=processor,
        peft_config=lora_config(config.policy.lora) if choices.tuning is Tuning.lora else None,
        cohorts=sampler,
        script=script,
        packing=packing(step),
        skip_zero_advantages=step.skip_zero_advantages,
    )
    text = base_model(trainer.accelerator.unwrap_model(trainer.model)).config.get_text_config()
    trainer.scoring_answers = step.scoring_answers_per_device or scoring_answers(
        grpo.per_device_train_batch_size, text, config.policy.gradient_checkpointing
    )
    trainer.remove_callback(PrinterCallback)
    share_work(trainer, references=config.data.reference)
    return trainer


def scoring_answers(training_answers: int, text: Any, checkpointing: bool) -> int:
    """How many answers a pass without gradients scores in no more memory than a training pass of ``training_answers``.

    Numbers that are held for a token at once, in a language model ``text`` of L layers, H and I wide: in the layer at
    work about W = 4 I + 6 H. A training pass holds as much for the layer's gradients, and with checkpointing the inputs
    of all layers, L H + 2 W together; without, all layers, (L + 1) W. The vision tower's needs stay below that.
    """
    layers, working = text.num_hidden_layers, 4 * text.intermediate_size + 6 * text.hidden_size
    training = layers * text.hidden_size + 2 * working if checkpointing else (layers + 1) * working
    return training_answers * training // working


def packing(step: StepSettings) -> Packing | None:
    """How answers share their prompt; None where each is to be a row of its own."""
    return Packing(step.shared_prefix_attention, step.shared_prefix_tokens) if step.shared_prefix else None


def share_work(trainer: RankingTrainer, references: bool = False) -> None:
    """The policy reads each prompt once for the answers it gives; it and the start policy, once for those they score.

    Both take pictures as the trainer's processor cuts them, and their vision towers attend to all windows at once.
    ``references``: a picture that several prompts of a pass show is encoded once.
    """
    policy, reference = (
        model and base_model(trainer.accelerator.unwrap_model(model)) for model in (trainer.model, trainer.ref_model)
    )
    read_each_prompt_once(policy, in_step=trainer.is_fsdp_enabled)
    for model in filter(None, (policy, reference)):
        if references:
            encode_each_picture_once(model.model.visual)
        take_bytes(model.model.visual, trainer.processor.image_processor)
        windows.attend_at_once(model)
        if trainer.packing is not None:
            # FlashAttention, which policy.attention may ask for, takes no such masks.
            model.set_attn_implementation({"text_config": segments.NAME})
