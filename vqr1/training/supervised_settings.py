"""TRL's configuration of a run that is shown answers (SFTConfig), out of ours, every value checked."""

from __future__ import annotations

import typing
from pathlib import Path

from trl import SFTConfig

from vqr1.config import Config, Tuning
from vqr1.config_checks import trainer_settings
from vqr1.machine_choices import MachineChoices
from vqr1.training.grpo_settings import made, shared

# Where trainer.learning_rate is null: Q-Align's for all weights, ten times that for LoRA's few.
LEARNING_RATE = {Tuning.full: 2e-5, Tuning.lora: 2e-4}


def sft_config(config: Config, choices: MachineChoices, folder: Path) -> SFTConfig:
    """TRL's configuration out of ours, every value checked. Raises UserError naming the setting and the remedy."""
    trainer = dict(config.trainer)
    if trainer.get("learning_rate") is None:
        trainer["learning_rate"] = LEARNING_RATE[choices.tuning]
    of = f"SFTConfig (objective={config.objective.value} goes with trainer=sft)"
    settings = trainer_settings(trainer, typing.get_type_hints(SFTConfig), of)
    ours = {
        **shared(config, choices, folder),
        "max_length": None,
        "remove_unused_columns": False,
        "include_num_input_tokens_seen": "all",
    }
    return made(SFTConfig, ours, settings)
