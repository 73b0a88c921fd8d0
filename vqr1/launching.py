"""How a run is started: here, under accelerate, or as the jobs of a sweep.

The process that reads the command line settles what depends on the machine (LoRA or all weights, DDP or ZeRO-3, vLLM
or transformers, the run's name) and looks whether data and weights are there. With one device it trains itself; with
several it starts accelerate, which starts this command again on every device; in a sweep each job is a process of its
own, so no job inherits another's memory or random state.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from vqr1.command_words import quoted
from vqr1.config import Config, Launcher, Tuning
from vqr1.errors import LaunchError, UserError
from vqr1.packaged import packaged
from vqr1.rollout_settings import TrainingEngine, settle_engine

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
    if "LOCAL_RANK" in os.environ or "RANK" in os.environ:  # a launcher started us, ours or the user's own
        devices = int(os.environ.get("WORLD_SIZE", "1")) if visible_gpus() else 0
        _train(config, settle(config, devices, scripted), hooks)
        return
    hydra = HydraConfig.get()
    sweeping = hydra.mode is RunMode.MULTIRUN
    overrides = list(hydra.overrides.task)
    gpus = visible_gpus()
    settled = settle(config, gpus, scripted)
    if sweeping:
        sweep = os.environ["VQR1_SWEEP"]
        settled["name"] = f"{sweep}/{job_name(overrides, sys.argv)}"
        settled["logger.group"] = sweep
    launcher = Launcher(settled["launcher"])
    if not sweeping and launcher is Launcher.none:
        config.launcher = launcher
        _announce(config, gpus, settled, None)
        _train(config, settled, hooks)
        return
    # The command line's own words first, then what was settled: Hydra takes the last word of a key.
    words = [word for word in overrides if word.split("=")[0].lstrip("+") not in settled]
    words += [f"{key}={quoted(value)}" for key, value in settled.items()]
    command = [*launch_command(launcher, gpus, hooks.program), "train", *words]
    _announce(config, gpus, settled, command)
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise LaunchError(f"{settled['name']} ended with exit code {done.returncode}", done.returncode)


def job_name(overrides: list[str], command_line: list[str]) -> str:
    """What sets a job of a sweep apart: the overrides that the command line does not give word for word."""
    swept = [word for word in overrides if word not in command_line]
    return ",".join(swept).replace("/", "_") or "job"


def _train(config: Config, settled: dict[str, str], hooks: Hooks) -> None:
    from vqr1.training.run import train

    config.policy.tuning = Tuning(settled["policy.tuning"])
    config.rollout.engine = TrainingEngine(settled["rollout.engine"])
    proof = None
    if config.evaluation.proof:
        from vqr1.demo.proof import DemonstrationProof

        proof = DemonstrationProof()
    train(config, proof=proof, script=hooks.script)


def visible_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def settle(config: Config, gpus: int, scripted: bool = False) -> dict[str, str]:
    """What depends on the machine, as overrides.

    One GPU holds a 7B policy only with LoRA; several share all its weights under ZeRO-3. Without a GPU the policy is
    small and everything is trained. vLLM answers where there is a GPU and it is installed, unless a script does.
    """
    tuning = config.policy.tuning
    if tuning is Tuning.auto:
        tuning = Tuning.lora if gpus == 1 else Tuning.full
    launcher = config.launcher
    if launcher is Launcher.auto:
        launcher = Launcher.none if gpus <= 1 else Launcher.ddp if tuning is Tuning.lora else Launcher.zero3
    if gpus == 0 and launcher is not Launcher.none:
        raise UserError(f"launcher={launcher.value} needs a GPU and none is visible; leave launcher out")
    name = config.name or f"{config.experiment_name}-{datetime.now():%Y-%m-%d-%H%M%S}"
    engine = settle_engine(config.rollout.engine, gpus, scripted)
    return {
        "policy.tuning": tuning.value,
        "rollout.engine": engine.value,
        "launcher": launcher.value,
        "name": name,
    }


def launch_command(launcher: Launcher, gpus: int, program: Sequence[str] = Hooks.program) -> list[str]:
    """The words before ``train``: this interpreter, under accelerate where a launcher is asked for."""
    if launcher is Launcher.none:
        return [sys.executable, *program]
    configuration = packaged("launch") / "accelerate" / f"{launcher.value}.yaml"
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(configuration)]
    return [*accelerate, "--num_processes", str(max(gpus, 1)), *program]


def _announce(config: Config, gpus: int, settled: dict[str, str], command: list[str] | None) -> None:
    """On a GPU: what was chosen, and whether it will fit. Stops at once where data or weights are missing."""
    from vqr1.data import read_dataset
    from vqr1.policy.load import find_weights, weight_bytes

    for name in config.data.train:
        read_dataset(name, Path(config.data.root).expanduser())
    weights = find_weights(config.policy.path)
    if not gpus:
        return
    tuning = settled["policy.tuning"]
    sharing = gpus if settled["launcher"] == Launcher.zero3.value else 1
    size = weight_bytes(weights)
    print(f"policy: {config.policy.path}, {size / 1e9:.1f} GB of weights; tuning: {tuning}; GPUs: {gpus}")
    print(f"rollouts: {settled['rollout.engine']}")
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
