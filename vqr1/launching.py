"""How a run is started: here, under accelerate, or as the jobs of a sweep.

The process that reads the command line looks whether the data and what else a run needs are there, and chooses what
depends on the machine (:mod:`vqr1.machine_choices`). With one device it trains itself; with several it starts
accelerate, which starts this command again on every device. In a sweep it only starts each job, this command again, in
a process of its own, so no job inherits another's memory or random state.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig

from vqr1.child_process import INTERRUPTED, PLACE, STOPPED, Starter, started_by_us
from vqr1.command_words import quoted
from vqr1.config import Config, Launcher, ScreenKind
from vqr1.data import check_size, read_dataset
from vqr1.errors import LaunchError, UserError, show
from vqr1.estimate.sizes import read_sizes
from vqr1.fitting import Devices, summed
from vqr1.machine_choices import MachineChoices, choose, estimated, launched, tells
from vqr1.next_steps import going_on
from vqr1.prerequisites import check_chosen, check_disk, check_driver, check_settings
from vqr1.rollout_settings import TrainingEngine, check_vllm_is_asked, idle_vllm
from vqr1.sharing import PROGRAM, launch_command
from vqr1.sweep import NAME, Sweep, parsed
from vqr1.training.run_folder import is_finished

if TYPE_CHECKING:
    from vqr1.training.trainer import Script


@dataclass(frozen=True)
class Hooks:
    """What a program of its own, a test's, puts in place of parts of a run. No setting names code."""

    program: tuple[str, ...] = PROGRAM  # of this interpreter: what is started on every device, or for every job
    script: Script | None = None  # gives the answers, in place of the policy


def start(config: Config, hooks: Hooks = Hooks(), sweep: Sweep | None = None) -> None:
    """Train, in this process or in others; in a ``sweep`` start the job. Raises what vqr1.training.run.train raises."""
    under_launcher = launched()
    if sweep is not None:
        if under_launcher:
            raise UserError("a sweep starts a process for every job itself; start it without a launcher (torchrun)")
        _start_job(config, hooks, sweep)
        return
    scripted = hooks.script is not None
    check_settings(config)
    if not (under_launcher and started_by_us()):  # ranks are told the engine that was chosen
        check_vllm_is_asked(config.rollout.engine, config.rollout.vllm)
    # Before anything that takes long, torch too: a set that is missing stops the run at once.
    if not under_launcher:
        root = Path(config.data.root).expanduser()
        for name in config.data.train:
            splits = read_dataset(name, root)
            if not config.data.partial:
                check_size(name, root, splits, "data.partial")
    _starting(config)
    gpus = visible_gpus()
    memory, half = device_memory(gpus), has_bfloat16(gpus)
    choices = choose(config, gpus, scripted, memory=memory, bfloat16=half)
    check_chosen(config, choices, gpus)
    devices = Devices(gpus > 0, choices.processes, memory, half)
    if os.environ.get("RANK", "0") == "0":
        check_disk(config, choices, devices)
    if under_launcher:
        if not tells():
            os.environ.update(told_by_accelerate(choices.launcher, choices.processes))
        if not started_by_us():  # else it was told
            choices = of_first_rank(choices, config)
        if not started_by_us() and os.environ.get("RANK", "0") == "0":
            _announce(config, choices, gpus, devices, None, _why(choices.processes, gpus))
        _train(config, choices, hooks)
        return
    why = _why(choices.processes, gpus)
    for name in PLACE:  # a pod's, of no meaning here, that libraries would read
        os.environ.pop(name, None)
    if choices.launcher is Launcher.none:
        _announce(config, choices, gpus, devices, None, why)
        _train(config, choices, hooks)
        return
    passed_on = choices.words()
    # The command line's own words first, then what was chosen: Hydra takes the last word of a key.
    words = _without(HydraConfig.get().overrides.task, passed_on)
    words += [f"{key}={value}" for key, value in passed_on.items()]
    words += [word for word in HydraConfig.get().overrides.hydra if word.startswith("hydra.mode=")]  # a study's job
    command = [*launch_command(choices.launcher, gpus, hooks.program), "train", *words]
    _announce(config, choices, gpus, devices, command, why)
    with Starter() as starter:
        ended = starter.run(command, ranks=True)
    if ended.code == INTERRUPTED:
        raise KeyboardInterrupt(going_on(config, choices.name))
    if ended.code == STOPPED:
        raise LaunchError(f"stopped; {going_on(config, choices.name)}", STOPPED)
    if ended.code:
        raise LaunchError(f"{choices.name} failed: {ended.line}", ended.code)


def _start_job(config: Config, hooks: Hooks, sweep: Sweep) -> None:
    """One job of a sweep, from start to end, unless its run has ended or a signal has come."""
    overrides = list(HydraConfig.get().overrides.task)
    resume: bool | str = config.resume
    if not any(override.key_or_group == "resume" for override in parsed(overrides)):
        resume = "auto"
    if resume and is_finished(sweep.folder, config):
        sweep.note(0)
        return
    if sweep.starter.received is not None:
        return
    group = os.environ[NAME]
    told = {
        "name": quoted(f"{group}/{sweep.folder.name}"),
        "logger.group": quoted(group),
        "logger.tags": f"[{','.join(map(quoted, sweep.tags))}]",
    }
    words = [*_without(overrides, told), *(f"{key}={value}" for key, value in told.items())]
    # A study's file says that it is a sweep; its job is none.
    words = [*_without(words, {"resume": ""}), f"resume={str(resume).lower()}", "hydra.mode=RUN"]
    command = [*launch_command(Launcher.none, 0, hooks.program), "train", *words]
    ended = sweep.starter.run(command, output=sweep.output)
    sweep.note(ended.code, ended.line)


def _without(words: Sequence[str], keys: dict[str, str]) -> list[str]:
    return [word for word in words if word.split("=")[0].lstrip("+") not in keys]


def _why(processes: int, gpus: int) -> str | None:
    """What the environment says of other processes, and what was made of it."""
    found = [f"{key}={os.environ[key]}" for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE") if key in os.environ]
    if not found:
        return None
    started = "a launcher started this process" if launched() else "no LOCAL_RANK, so no launcher started this process"
    return f"processes: {processes} for {gpus} GPUs ({' '.join(found)}: {started})"


def _starting(config: Config) -> None:
    """The first word, before torch is imported."""
    if config.logger.screen is not ScreenKind.quiet and os.environ.get("RANK", "0") == "0":
        show("starting: loading torch, transformers and TRL", file=sys.stderr, flush=True)


def _train(config: Config, choices: MachineChoices, hooks: Hooks) -> None:
    from vqr1.training.run import train

    proof = None
    if config.evaluation.proof:
        from vqr1.demo.proof import DemonstrationProof

        proof = DemonstrationProof()
    try:
        train(config, choices, proof=proof, script=hooks.script)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(going_on(config, choices.name)) from stop


def of_first_rank(choices: MachineChoices, config: Config) -> MachineChoices:
    """The first rank's name, tuning and batches, on every rank: their clocks may differ, and their memory."""
    from accelerate.utils import broadcast_object_list

    from vqr1.training.ranks import join

    join(config)
    name, tuning, batches = broadcast_object_list([choices.name, choices.tuning, choices.batches])
    return replace(choices, name=name, tuning=tuning, batches=batches)


def visible_gpus() -> int:
    """Raises UserError where there are some that cannot be used."""
    import torch

    gpus = torch.cuda.device_count()
    if gpus:
        check_driver()
    return gpus


def device_memory(gpus: int) -> float:
    """Bytes that each process may use: of the smallest GPU, or its share of the machine's memory."""
    if gpus:
        import torch

        return float(min(torch.cuda.get_device_properties(i).total_memory for i in range(gpus)))
    from vqr1.policy.without_gpu import memory_limit

    here = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE") or 1)
    return memory_limit() / here


def has_bfloat16(gpus: int) -> bool:
    import torch

    return bool(gpus) and torch.cuda.is_bf16_supported()


def told_by_accelerate(launcher: Launcher, processes: int) -> dict[str, str]:
    """The variables in which accelerate would tell its ranks how they share the work. Slurm's srun tells nothing."""
    if launcher is Launcher.none:
        return {}
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    words = launch_command(launcher, processes)
    parsed_words = launch_command_parser().parse_args(words[words.index("--config_file") :])
    asked, file, precise = _validate_launch_command(parsed_words)
    asked.main_process_port = 0  # the ranks have another
    if asked.use_deepspeed:
        fields = [*file.deepspeed_config, *(["mixed_precision"] if precise else [])]
        asked.deepspeed_fields_from_accelerate_config = ",".join(fields)
        told = prepare_deepspeed_cmd_env(asked)[1]
    else:
        told = prepare_multi_gpu_env(asked)
    return {key: value for key, value in told.items() if key.startswith(("ACCELERATE_", "FSDP_"))}


def _announce(
    config: Config,
    choices: MachineChoices,
    gpus: int,
    devices: Devices,
    command: list[str] | None,
    why: str | None = None,
) -> None:
    """On a GPU: what was chosen, and whether it will fit."""
    if not gpus:
        return
    if why:
        show(why)
    sizes = read_sizes(choices.policy)
    found = estimated(config, choices, devices)
    tuning = f"{choices.tuning.value}, launcher: {choices.launcher.value}"
    show(f"policy: {config.policy.path}, {sizes.parameters / 1e9:.2f} billion weights; tuning: {tuning}; GPUs: {gpus}")
    if config.draws_answers:
        idle = choices.engine is TrainingEngine.transformers and idle_vllm(config.rollout.vllm)
        show(f"rollouts: {choices.engine.value}" + (f"; {idle} has no effect" if idle else ""))
    show(f"passes: {choices.batches.per_device} answers each, {choices.batches.accumulation} to a step on every device")
    assert devices.memory is not None
    of_each = f"{found.total / 1e9:.1f} GB of each GPU's {devices.memory / 1e9:.1f}"
    show(f"memory: about {of_each}, estimated: {summed(found)}")
    if command:
        show("command: " + shlex.join(command), flush=True)
