"""What a run leaves to the machine it is started on, decided once.

:func:`choose` is the only place where ``auto`` and null become something definite; whoever needs one of these reads
:class:`MachineChoices` and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from vqr1.batches import BatchPlan
from vqr1.command_words import quoted
from vqr1.config import Config, Launcher, Tuning
from vqr1.config_checks import check_name
from vqr1.errors import UserError
from vqr1.estimate.memory import Memory, Question
from vqr1.estimate.sizes import Sizes, read_sizes
from vqr1.fitting import Devices, Method, check_fits, choose_method, largest_picture, needed, question
from vqr1.rollout_settings import TrainingEngine, settle_engine

# What accelerate's FSDP must be, in the words it tells its ranks. Sharded checkpoints have no weights that others read;
# with cpu_ram_efficient_loading only the first rank's reference policy has weights.
FSDP = {"FSDP_VERSION": "2", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT", "FSDP_CPU_RAM_EFFICIENT_LOADING": "false"}


@dataclass(frozen=True)
class MachineChoices:
    name: str  # of the run's folder, below config.runs
    tuning: Tuning  # never auto
    engine: TrainingEngine  # never auto
    launcher: Launcher  # never auto
    processes: int  # one to each GPU, or one
    batches: BatchPlan  # over those processes
    policy: Path  # the folder of the weights that are trained

    @property
    def method(self) -> Method:
        return Method(self.tuning, self.launcher.value, self.engine)

    def words(self) -> dict[str, str]:
        """What another process needs to be told, to choose the same, as values of its command line."""
        return {
            "policy.tuning": self.tuning.value,
            "trainer.answers_per_device": str(self.batches.per_device),
            "rollout.engine": self.engine.value,
            "launcher": self.launcher.value,
            "name": quoted(self.name),
        }

    def written_into(self, config: Config) -> Config:
        """``config`` with nothing left open, for the run folder."""
        return replace(
            config,
            name=self.name,
            launcher=self.launcher,
            trainer={**config.trainer, "answers_per_device": self.batches.per_device},
            policy=replace(config.policy, tuning=self.tuning),
            rollout=replace(config.rollout, engine=self.engine),
        )


def choose(
    config: Config,
    gpus: int,
    scripted: bool = False,
    environment: Mapping[str, str] = os.environ,
    memory: float | None = None,
    bfloat16: bool = True,
) -> MachineChoices:
    """What to train with how, on a machine with ``gpus`` GPUs.

    One GPU trains a policy with LoRA; several share all its weights under ZeRO-3 where they fit, else each trains with
    LoRA under DDP. Without a GPU the policy is small and everything is trained. vLLM answers where there is a GPU and
    it is installed, unless a script does. A pass has as many answers as ``memory`` allows, the bytes of each device;
    where it is None, every policy fits. ``environment`` shows whether a launcher has started this process already; then
    its number of processes counts. ``bfloat16``: whether the GPUs have it.

    Raises UserError for an engine or launcher that cannot be here, a step that does not divide over the devices, what
    does not fit their memory, or resume without a name; MissingFileError, saying what to fetch, where the policy is
    missing.
    """
    from vqr1.policy.load import find_weights

    if config.resume and not config.name:
        raise UserError(f"resume={str(config.resume).lower()} needs name=, the run's folder below {config.runs}")
    started = launched(environment)
    processes = int(environment.get("WORLD_SIZE", "1")) if started else gpus
    launcher: Launcher | None = None if config.launcher is Launcher.auto else config.launcher
    if started and (tells(environment) or launcher is Launcher.none):
        launcher = running(environment, processes if gpus else 0, asked=config.launcher)
    if gpus == 0 and launcher not in (None, Launcher.none):
        raise UserError(f"launcher={config.launcher.value} needs a GPU and none is visible; leave launcher out")
    if not started and launcher is Launcher.none:
        processes = 1
    devices = Devices(gpus > 0, max(processes, 1), memory, bfloat16)
    name = config.name or f"{config.experiment_name}-{datetime.now():%Y-%m-%d-%H%M%S}"
    check_name(name, "name" if config.name else "experiment_name")
    weights = find_weights(config.policy.path)
    engine = settle_engine(config.rollout.engine, devices.ranks if gpus else 0, scripted or not config.draws_answers)
    sizes = read_sizes(weights)
    asked = question(config, sizes, largest_picture(config))
    return MachineChoices(name=name, policy=weights, **fitted(config, sizes, engine, devices, launcher, asked))


def fitted(
    config: Config,
    sizes: Sizes,
    engine: TrainingEngine,
    devices: Devices,
    launcher: Launcher | None,
    asked: Question,
) -> dict[str, Any]:
    """``tuning``, ``engine``, ``launcher``, ``processes`` and ``batches`` that fit ``devices``; imports no torch.

    ``launcher``: None where it is to be chosen; ``asked``: the longest question. Raises UserError as :func:`choose`.
    """
    method = choose_method(config, sizes, engine, devices, launcher and launcher.value, asked)
    if method.launcher == Launcher.fsdp2.value and method.tuning is Tuning.lora:
        # peft generates by the model inside, whose layers FSDP2 would take for roots of their own.
        raise UserError("launcher=fsdp2 trains all weights; with policy.tuning=lora set launcher=ddp, or zero3")
    return {
        "tuning": method.tuning,
        "engine": engine,
        "launcher": Launcher(method.launcher),
        "processes": devices.ranks,
        "batches": check_fits(config, sizes, method, devices, asked),
    }


def estimated(
    config: Config, choices: MachineChoices, devices: Devices, picture: tuple[int, int] | None = None
) -> Memory:
    """Memory of a rank at its peak, with pictures of so many pixels, else the largest of the training sets."""
    sizes = read_sizes(choices.policy)
    asked = question(config, sizes, picture or largest_picture(config))
    return needed(config, sizes, choices.method, devices, choices.batches, asked)


def running(environment: Mapping[str, str], devices: int, asked: Launcher = Launcher.auto) -> Launcher:
    """How the launcher that started this process shares the work, as accelerate tells its ranks.

    torchrun says nothing: DDP where there are several devices. Raises UserError where ``asked`` is another, and
    for what no Launcher is: other stages of ZeRO, FSDP of version 1 or with the weights of checkpoints in shards.
    """
    if environment.get("ACCELERATE_USE_DEEPSPEED") == "true":
        stage = environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "")
        try:
            found = {"2": Launcher.zero2, "3": Launcher.zero3}[stage]
        except KeyError:
            raise UserError(
                f"accelerate started DeepSpeed with zero_stage={stage or '(not said)'}: start it with zero_stage 2 or "
                "3 in accelerate's own file, not in DeepSpeed's (launch/accelerate/zero3.yaml)"
            ) from None
    elif environment.get("ACCELERATE_USE_FSDP") == "true":
        for name, needed in FSDP.items():
            if (value := environment.get(name, "")).lower() != needed.lower():
                raise UserError(
                    f"accelerate started FSDP with {name.lower()}={value or '(not said)'}, and vqr1 needs {needed}: "
                    "start it with launch/accelerate/fsdp2.yaml"
                )
        found = Launcher.fsdp2
    else:
        found = Launcher.ddp if devices > 1 else Launcher.none
    if asked in (Launcher.auto, found) or (asked is Launcher.ddp and found is Launcher.none):  # on one device
        return found
    file = f"accelerate launch --config_file launch/accelerate/{asked.value}.yaml"
    raise UserError(
        f"launcher={asked.value}, but what started this process runs {found.value}; leave launcher out, or start it "
        + ("without a launcher" if asked is Launcher.none else f"with {file}")
    )


def tells(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether what started this rank tells how the ranks share the work. torchrun and accelerate do, srun does not."""
    return "TORCHELASTIC_RUN_ID" in environment or any(key.startswith("ACCELERATE_USE_") for key in environment)


def launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher started this process as one of its ranks: ours, or the user's own.

    Launchers say which device of the machine is this process's (LOCAL_RANK). Pods of a cluster have RANK=0 and
    WORLD_SIZE=1 without it, on any number of GPUs. Raises UserError for several ranks of which none has a device.
    """
    if "LOCAL_RANK" in environment or "TORCHELASTIC_RUN_ID" in environment:
        return True
    if environment.get("WORLD_SIZE", "1") not in ("", "1"):
        raise UserError(
            f"WORLD_SIZE={environment['WORLD_SIZE']} without LOCAL_RANK: start the ranks with torchrun or accelerate "
            "launch, which set both, or unset WORLD_SIZE (and RANK) to use this machine alone"
        )
    return False
