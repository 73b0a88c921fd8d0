"""What a machine would choose for a configuration, whatever this one is and has."""

from __future__ import annotations

from dataclasses import replace

from vqr1.config import Config
from vqr1.machine_choices import MachineChoices, choose
from vqr1.rollout_settings import TrainingEngine


def choices_for(config: Config, processes: int = 1, gpus: int = 0) -> MachineChoices:
    """For ``processes`` that a launcher started, on several GPUs under ZeRO-3, where vLLM is installed.

    The shipped policy stands for any other.
    """
    here = replace(
        config,
        policy=replace(config.policy, path="tiny"),
        rollout=replace(config.rollout, engine=TrainingEngine.transformers),
    )
    environment = {"LOCAL_RANK": "0", "WORLD_SIZE": str(processes)}
    if gpus and processes > 1:
        environment |= {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}
    choices = choose(here, gpus, environment=environment)
    asked = config.rollout.engine
    return choices if asked is TrainingEngine.auto else replace(choices, engine=asked)
