"""Whether a run's policy can be trained here, before it is loaded: its files, its prompt, its adapters, its speed."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import torch
from PIL import Image

from vqr1.answer import prompt_warning
from vqr1.config import Config, LoraSettings, Tuning
from vqr1.errors import UserError
from vqr1.estimate.sizes import read_sizes
from vqr1.estimate.work import generation, step
from vqr1.fitting import Devices, passes, question, scoring, training
from vqr1.machine_choices import MachineChoices
from vqr1.policy.weight_files import check_folder
from vqr1.policy.without_gpu import matmul_speed, step_warning
from vqr1.rollout.offline import text_tokens
from vqr1.rollout.prompt_checks import check_prompt


def check_policy(config: Config, choices: MachineChoices, processor: Any, picture: Image.Image) -> list[str]:
    """Raises UserError for what can be put right; returns what to warn of. ``picture`` is one of the run's."""
    warnings = [prompt_warning(config.rollout.prompt)]
    check_prompt(processor, config.rollout.prompt, chat_template(config), config.data.pictures)
    return [warning for warning in [*warnings, *check_files(config, choices, processor, picture)] if warning]


def check_files(config: Config, choices: MachineChoices, processor: Any, picture: Image.Image) -> list[str]:
    """What of :func:`check_policy` does not depend on what is asked."""
    model = check_folder(choices.policy)
    if choices.tuning is Tuning.lora:
        lora_targets(model, config.policy.lora)
    if torch.cuda.is_available():
        return []
    sizes = read_sizes(choices.policy)
    asked = question(config, sizes, picture.size)
    if config.draws_answers:
        text = text_tokens(processor, config.rollout.prompt, chat_template(config), config.data.pictures)
        asked = replace(asked, text=text)
    devices = Devices(gpu=False, ranks=choices.processes)
    method = choices.method
    how, share = training(config, sizes, method, devices, asked), passes(config, choices.batches, devices, asked)
    operations = sum(step(how, share, scoring(config, method)).values())
    answers = share.answers * share.count
    if config.draws_answers:
        operations += generation(sizes, asked, answers, asked.k)
    warning = step_warning(config.policy.path, operations / matmul_speed())
    return [warning] if warning else []


def chat_template(config: Config) -> dict[str, Any] | None:
    """What a chat template is given besides, as TRL reads ``trainer.chat_template_kwargs``."""
    template = config.trainer.get("chat_template_kwargs")
    return json.loads(template) if isinstance(template, str) else template


def lora_targets(model: Any, settings: LoraSettings) -> list[str]:
    """The linear maps that ``target_modules`` names in ``model``. Raises UserError where there is none."""
    setting = f"policy.lora.target_modules={settings.target_modules}"
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    if settings.target_modules == "all-linear":  # PEFT's word, for all but the head
        return [name for name in linear if name != "lm_head"]
    try:
        matched = [name for name, _ in model.named_modules() if re.fullmatch(settings.target_modules, name)]
    except re.error as error:
        raise UserError(f"{setting} is not a regular expression: {error}") from error
    if matched and set(matched) <= set(linear):
        return matched
    kinds = sorted({re.sub(r"\.\d+\.", ".*.", name) for name in linear})
    what = f"names {sorted(set(matched) - set(linear))[0]}, which is no linear map" if matched else "names no module"
    raise UserError(f"{setting} {what} of the policy. Its linear maps, * being a number:\n  " + "\n  ".join(kinds))
