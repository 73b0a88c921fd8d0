"""TRL's configuration of a run out of ours, every value checked."""

from __future__ import annotations

import math
import typing
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import TrainingArguments
from trl import GRPOConfig

from vqr1.batches import BatchPlan
from vqr1.config import Config, Tuning
from vqr1.config_checks import trainer_settings
from vqr1.errors import UserError
from vqr1.machine_choices import MachineChoices
from vqr1.policy.load import trains_in_bfloat16
from vqr1.rollout_settings import Correction, TrainingEngine, check_read, check_untruncated

# Where trainer.learning_rate is null: the paper's for all weights, ten times that for LoRA's few.
LEARNING_RATE = {Tuning.full: 1e-6, Tuning.lora: 1e-5}


def grpo_config(config: Config, choices: MachineChoices, folder: Path) -> GRPOConfig:
    """TRL's configuration out of ours, every value checked.

    ``policy.dtype`` alone decides the precision: bfloat16 weights on a GPU train under bfloat16 autocast, float32
    weights without any, whatever accelerate's launch file says. float16 is refused before (``load.check_precision``).
    Raises UserError naming the setting and the remedy.
    """
    trainer = dict(config.trainer)
    if trainer.get("learning_rate") is None:
        trainer["learning_rate"] = LEARNING_RATE[choices.tuning]
    settings = trainer_settings(trainer, typing.get_type_hints(GRPOConfig))
    plan = choices.batches
    check_boundaries(settings, plan)
    if choices.engine is not TrainingEngine.transformers:
        check_untruncated(settings)
    vllm = config.rollout.vllm
    check_read(settings, choices.engine, vllm.correction)
    ours = dict(
        **shared(config, choices, folder),
        num_generations=config.rollout.k,
        temperature=config.rollout.temperature,
        max_completion_length=config.rollout.max_tokens,
        vllm_importance_sampling_correction=vllm.correction is not Correction.none,
        vllm_importance_sampling_clip_max=vllm.correction_max,
        **({"vllm_importance_sampling_mode": vllm.correction.value} if vllm.correction is not Correction.none else {}),
        steps_per_generation=plan.steps_per_generation,
        reward_weights=[config.reward.fidelity_weight, config.reward.format_weight],
    )
    return made(GRPOConfig, ours, settings)


def shared(config: Config, choices: MachineChoices, folder: Path) -> dict[str, Any]:
    """What TRL's configurations have in common of ours."""
    return {
        "output_dir": str(folder),
        "seed": config.seed,
        "per_device_train_batch_size": choices.batches.per_device,
        "gradient_accumulation_steps": choices.batches.accumulation,
        "gradient_checkpointing": config.policy.gradient_checkpointing,
        "bf16": trains_in_bfloat16(config.policy.dtype),
        "use_cpu": not torch.cuda.is_available(),
        "report_to": [],
        "logging_strategy": "steps",
        "eval_strategy": "no",
    }


C = TypeVar("C", bound=TrainingArguments)


def made(kind: type[C], ours: dict[str, Any], settings: dict[str, Any]) -> C:
    """The configuration of that ``kind``. Raises UserError for settings that do not go together."""
    try:
        args = kind(**ours, **settings)
    except ValueError as error:  # transformers' and TRL's words
        raise UserError(f"trainer: {error}") from error
    # Where bf16 is false this would be ACCELERATE_MIXED_PRECISION's, from the file the run was launched with.
    args.mixed_precision = "bf16" if ours["bf16"] else "no"
    return args


def check_boundaries(settings: dict[str, Any], plan: BatchPlan) -> None:
    """Checkpoints lie where a generation batch ends: TRL does not save a half-used one. Raises UserError otherwise."""
    iterations = settings.get("num_iterations", GRPOConfig.num_iterations)
    if iterations < 1:
        raise UserError(f"trainer.num_iterations={iterations}: set it to 1 or more")
    updates = updates_per_draw(plan.steps_per_generation * iterations, plan.accumulation)
    every = settings.get("save_steps", GRPOConfig.save_steps)
    if every % updates:
        raise UserError(
            f"trainer.save_steps={every} would cut a generation batch in two, for one ends every {updates} steps; "
            f"set it to a multiple of {updates}"
        )


def updates_per_draw(reuse: int, accumulation: int) -> int:
    """Steps from one that ends with a generation batch to the next.

    ``reuse``: passes that a generation batch is learnt in. ``accumulation``: passes of a step.
    """
    return reuse // math.gcd(reuse, accumulation)
