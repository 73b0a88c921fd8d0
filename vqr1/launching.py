"""How a run is started: here, under accelerate, or as the jobs of a sweep.

The process that reads the command line looks whether the data are there and chooses what depends on the machine
(:mod:`vqr1.machine_choices`). With one device it trains itself; with
several it starts accelerate, which starts this command again on every device; in a sweep each job is a process of its
own, so no job inherits another's memory or random state.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from vqr1.command_words import quoted
from vqr1.config import Config, Launcher, Tuning
from vqr1.data import check_size, read_dataset
from vqr1.errors import LaunchError
from vqr1.machine_choices import MachineChoices, choose, launched
from vqr1.packaged import packaged

if TYPE_CHECKING:
    from vqr1.training.trainer import Script


@dataclass(frozen=True)
class Hooks:
    """What a program of its own, a test's, puts in place of parts of a run. No setting names code."""

    program: tuple[str, ...] = ("-m", "vqr1")  # of this interpreter: what is started on every device, or for every job
    script: Script | None = None  # gives the answers, in place of the policy


def start(config: Config, hooks: Hooks = Hooks()) -> None:
    """Train, in this process or in others. Raises what :func:`vqr1.training.run.train` raises."""
    scripted = hooks.script is not None
    gpus = visible_gpus()
    if launched():
        choices = choose(config, gpus, scripted)
        if not config.name:
            choices = replace(choices, name=of_first_rank(choices.name))
        _train(config, choices, hooks)
        return
    # Before anything that takes long: a set that is missing stops the run at once, and says so before all else.
    root = Path(config.data.root).expanduser()
    for name in config.data.train:
        splits = read_dataset(name, root)
        if not config.data.partial:
            check_size(name, root, splits, "data.partial")
    hydra = HydraConfig.get()
    overrides = list(hydra.overrides.task)
    sweep = os.environ["VQR1_SWEEP"] if hydra.mode is RunMode.MULTIRUN else None
    if sweep:
        config = replace(config, name=f"{sweep}/{job_name(overrides, sys.argv)}")
    choices = choose(config, gpus, scripted)
    if not sweep and choices.launcher is Launcher.none:
        _announce(config, choices, gpus, None)
        _train(config, choices, hooks)
        return
    passed_on = choices.words() | ({"logger.group": sweep} if sweep else {})
    # The command line's own words first, then what was chosen: Hydra takes the last word of a key.
    words = [word for word in overrides if word.split("=")[0].lstrip("+") not in passed_on]
    words += [f"{key}={quoted(value)}" for key, value in passed_on.items()]
    command = [*launch_command(choices.launcher, gpus, hooks.program), "train", *words]
    _announce(config, choices, gpus, command)
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise LaunchError(f"{choices.name} ended with exit code {done.returncode}", done.returncode)


def job_name(overrides: list[str], command_line: list[str]) -> str:
    """What sets a job of a sweep apart: the overrides that the command line does not give word for word."""
    swept = [word for word in overrides if word not in command_line]
    return ",".join(swept).replace("/", "_") or "job"


def _train(config: Config, choices: MachineChoices, hooks: Hooks) -> None:
    from vqr1.training.run import train

    proof = None
    if config.evaluation.proof:
        from vqr1.demo.proof import DemonstrationProof

        proof = DemonstrationProof()
    train(config, choices, proof=proof, script=hooks.script)


def of_first_rank(name: str) -> str:
    """The first rank's ``name``, on every rank: their clocks may differ."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    PartialState(cpu=not torch.cuda.is_available())
    return str(broadcast_object_list([name])[0])


def visible_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def launch_command(launcher: Launcher, gpus: int, program: Sequence[str] = Hooks.program) -> list[str]:
    """The words before ``train``: this interpreter, under accelerate where a launcher is asked for."""
    if launcher is Launcher.none:
        return [sys.executable, *program]
    configuration = packaged("launch") / "accelerate" / f"{launcher.value}.yaml"
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(configuration)]
    return [*accelerate, "--num_processes", str(max(gpus, 1)), *program]


def _announce(config: Config, choices: MachineChoices, gpus: int, command: list[str] | None) -> None:
    """On a GPU: what was chosen, and whether it will fit."""
    if not gpus:
        return
    from vqr1.policy.load import weight_bytes

    sharing = choices.processes if choices.launcher is Launcher.zero3 else 1
    size = weight_bytes(choices.policy)
    tuning = choices.tuning.value
    print(f"policy: {config.policy.path}, {size / 1e9:.1f} GB of weights; tuning: {tuning}; GPUs: {gpus}")
    print(f"rollouts: {choices.engine.value}")
    print(f"memory: about {memory_estimate(size, tuning, sharing):.0f} GB per GPU, plus activations and the cache")
    if command:
        print("command: " + shlex.join(command), flush=True)


def memory_estimate(weight_bytes: int, tuning: str, sharing: int) -> float:
    """GB per GPU for weights, gradients, optimiser and reference, without activations.

    ``weight_bytes`` are of bfloat16 weights, 2 a parameter. LoRA keeps those, with the reference being the same
    weights without the adapters, whose own share is below 5 %. Training all weights takes 2 + 2 bytes for weights and
    gradients, 12 for float32 weights and AdamW's two moments, and 2 for the reference, spread over ``sharing`` GPUs.
    """
    parameters = weight_bytes / 2
    total = 2.1 * parameters if tuning == Tuning.lora.value else 18 * parameters / sharing
    return total / 1e9
