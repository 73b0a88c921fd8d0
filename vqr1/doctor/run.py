"""What one run needs: its settings, data, policy and choices, by the checks that the run itself begins with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from vqr1.config import Config
from vqr1.data import SplitRule, check_size, find_spec, read_dataset
from vqr1.doctor.finding import Finding, found_by
from vqr1.errors import UserError
from vqr1.fitting import Devices
from vqr1.launching import device_memory, has_bfloat16, visible_gpus
from vqr1.machine_choices import choose
from vqr1.prerequisites import OF_CHOICES, OF_SETTINGS, check_disk
from vqr1.rollout_settings import TrainingEngine, check_vllm_is_asked

GB = 1e9


def run_findings(config: Config, probes: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    """Where torch loads: what follows from settings and data alone, then what depends on the machine."""
    from vqr1.policy.load import find_weights

    for what, check_setting in OF_SETTINGS.items():
        yield from found_by(what, partial(check_setting, config))
    yield from found_by("rollout", lambda: check_vllm_is_asked(config.rollout.engine, config.rollout.vllm))
    for name in dict.fromkeys([*config.data.train, *config.data.validation, *config.data.test]):
        yield from found_by("data", partial(_dataset, config, name))
    try:
        gpus = visible_gpus()
    except UserError:
        return  # told of torch
    try:
        find_weights(config.policy.path)
    except UserError as error:
        yield Finding("policy", "missing", str(error))
        # Nothing else that is chosen depends on the weights; the shipped ones stand in.
        config = replace(config, policy=replace(config.policy, path="tiny"))
    else:
        yield from found_by("policy", partial(_policy, config.policy.path))
    try:
        memory, half = device_memory(gpus), has_bfloat16(gpus)
        choices = choose(config, gpus, memory=memory, bfloat16=half)
    except UserError as error:
        yield Finding("choices", "missing", str(error))
        return
    yield Finding("engine", "ok", choices.engine.value)
    if choices.engine is not TrainingEngine.transformers:
        yield from _loads("vllm", choices.engine.value, probes)
    if choices.launcher.of_deepspeed:
        yield from _loads("deepspeed", choices.launcher.value, probes)
    for what, check_choice in OF_CHOICES.items():
        yield from found_by(what, partial(check_choice, config, choices, gpus))
    devices = Devices(gpus > 0, choices.processes, memory, half)
    yield from found_by("disk", partial(check_disk, config, choices, devices))


def _loads(library: str, asked_by: str, probes: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    if trouble := probes.get(library, {}).get("trouble"):
        text = f"{asked_by} needs {library}, which does not load: {trouble}"
        yield Finding(library, "missing", text, f"install it again: uv pip install --reinstall {library}")


def _dataset(config: Config, name: str) -> str:
    """What is drawn at first use is not drawn to look at it."""
    root = Path(config.data.root).expanduser()
    if find_spec(name, root).made_at_first_use and not (root / name).exists():
        return f"{name} is drawn at first use into {(root / name).absolute()}"
    rule = SplitRule(tuple(config.data.split_ratio), config.data.split_seed)
    splits = read_dataset(name, root, rule)
    if not config.data.partial:
        check_size(name, root, splits, "data.partial")
    parts = ", ".join(f"{len(samples)} {part}" for part, samples in splits.parts().items())
    return f"{name} in {(root / name).absolute()}: {parts} (its pictures: vqr1 data check {name})"


def _policy(path: str) -> str:
    from vqr1.policy.load import SHIPPED, find_weights, weight_bytes
    from vqr1.policy.weight_files import check_folder

    folder = find_weights(path)
    if folder != SHIPPED:  # which is as it was released, and a check takes seconds
        check_folder(folder)
    return f"{path} in {folder}: {weight_bytes(folder) / GB:.2f} GB of weights"
