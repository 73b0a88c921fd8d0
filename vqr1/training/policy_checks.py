"""Whether a run's policy can be trained here, before it is loaded: its files, its prompt, its adapters, its memory."""

from __future__ import annotations

import json
import re
from typing import Any

import torch
from PIL import Image
from trl import GRPOConfig

from vqr1.answer import prompt_warning
from vqr1.config import Config, LoraSettings, Tuning
from vqr1.config_checks import step_settings
from vqr1.data.pictures import TOKEN_PIXELS
from vqr1.errors import UserError
from vqr1.machine_choices import MachineChoices
from vqr1.policy.load import resolve_dtype
from vqr1.policy.weight_files import check_folder, parameter_count
from vqr1.policy.without_gpu import (
    Cost,
    check_memory,
    lora_parameters,
    matmul_speed,
    memory_limit,
    step_seconds,
    step_warning,
)
from vqr1.rollout.offline import text_tokens
from vqr1.rollout.prompt_checks import check_prompt


def check_policy(
    config: Config, choices: MachineChoices, grpo: GRPOConfig, processor: Any, picture: Image.Image
) -> list[str]:
    """Raises UserError for what can be put right; returns what to warn of. ``picture`` is one of the run's."""
    warnings = [prompt_warning(config.rollout.prompt)]
    template = chat_template(config)
    check_prompt(processor, config.rollout.prompt, template)
    model = check_folder(choices.policy)
    targets = lora_targets(model, config.policy.lora) if choices.tuning is Tuning.lora else []
    if torch.cuda.is_available():
        return [warning for warning in warnings if warning]
    policy, step = config.policy, step_settings(config.trainer)
    total = parameter_count({name: tuple(weight.shape) for name, weight in model.named_parameters()})
    vision = sum(weight.numel() for weight in model.model.visual.parameters())
    full = choices.tuning is Tuning.full
    cost = Cost(
        total=total,
        trained=total - vision * (not policy.train_vision) if full else lora_parameters(model, targets, policy.lora.r),
        itemsize=resolve_dtype(policy.dtype).itemsize,
        reference=full and grpo.beta != 0,
    )
    check_memory(policy.path, cost, choices.processes, memory_limit())
    prompt = text_tokens(processor, config.rollout.prompt, template) + picture.width * picture.height // TOKEN_PIXELS**2
    images = step.images_per_step
    answers = images * config.rollout.k
    seconds = step_seconds(
        cost,
        prompt_tokens=prompt * (images if step.shared_prefix else answers),
        answer_tokens=answers * config.rollout.max_tokens,
        checkpointing=policy.gradient_checkpointing,
        speed=matmul_speed(),
    )
    warnings.append(step_warning(policy.path, seconds / choices.processes))
    return [warning for warning in warnings if warning]


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
