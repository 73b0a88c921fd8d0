"""What a configuration can get wrong although every value has its type, and which of TRL's settings follow from ours.

:mod:`vqr1.rollout_settings` and :mod:`vqr1.batches` check their own share. Nothing here loads a model, a picture or a
GPU library.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import fields, replace
from enum import Enum
from operator import attrgetter
from typing import Any, get_type_hints

from omegaconf import DictConfig

from vqr1.answer import build_prompt, check_pictures
from vqr1.config import (
    ComparisonConfig,
    Config,
    DepictConfig,
    EvaluationConfig,
    LevelLabels,
    LevelsConfig,
    LoggerConfig,
    Objective,
    RewardConfig,
    RewardKind,
    RolloutConfig,
    StepSettings,
    as_object,
)
from vqr1.errors import UserError
from vqr1.ranking_options import Agreement
from vqr1.rollout_settings import TrainingEngine, check_vllm, idle_vllm

# Settings of GRPOConfig that another setting of ours decides, and which.
OWNED = {
    "output_dir": "name",
    "run_name": "name",
    "seed": "seed",
    "data_seed": "seed",
    "resume_from_checkpoint": "resume",
    "num_generations": "rollout.k",
    "num_generations_eval": "evaluation.k",
    "temperature": "rollout.temperature",
    "max_completion_length": "rollout.max_tokens",
    "per_device_train_batch_size": "trainer.images_per_step and trainer.answers_per_device",
    "gradient_accumulation_steps": "trainer.images_per_step and trainer.answers_per_device",
    "generation_batch_size": "trainer.images_per_step",
    "per_device_eval_batch_size": "evaluation.batch",
    "reward_weights": "reward.fidelity_weight and reward.format_weight",
    "shuffle_dataset": "the cohort sampler",
    "eval_strategy": "evaluation.every",
    "eval_steps": "evaluation.every",
    "do_eval": "evaluation.every",
    "eval_on_start": "evaluation.every",
    "eval_delay": "evaluation.every",
    "do_train": "the command",
    "do_predict": "the command",
    "save_strategy": "trainer.save_steps",
    "save_on_each_node": "runs, one folder for all nodes",
    "enable_jit_checkpoint": "SIGTERM, at which every run saves",
    "logging_strategy": "trainer.logging_steps",
    "load_best_model_at_end": "data.validation",
    "metric_for_best_model": "data.validation",
    "greater_is_better": "data.validation",
    "report_to": "logger.wandb",
    "project": "logger.project",
    "gradient_checkpointing": "policy.gradient_checkpointing",
    "model_init_kwargs": "policy",
    "bf16": "policy.dtype",
    "fp16": "policy.dtype",
    "use_cpu": "CUDA_VISIBLE_DEVICES, which hides GPUs",
    "remove_unused_columns": "the reward, which reads every column",
    "push_to_hub": "vqr1, which sends nothing anywhere",
    "auto_find_batch_size": "trainer.images_per_step",
    "use_vllm": "rollout.engine",
    "vllm_mode": "rollout.engine",
    "vllm_gpu_memory_utilization": "rollout.vllm.memory_share",
    "vllm_tensor_parallel_size": "rollout.vllm.tensor_parallel",
    "vllm_enable_sleep_mode": "rollout.vllm.sleep",
    "vllm_max_model_length": "rollout.vllm.max_length",
    "vllm_server_base_url": "rollout.vllm.server",
    "vllm_server_host": "rollout.vllm.server",
    "vllm_server_port": "rollout.vllm.server",
    "vllm_server_timeout": "rollout.vllm.server_timeout",
    "vllm_group_port": "rollout.vllm.group_port",
    "vllm_importance_sampling_correction": "rollout.vllm.correction",
    "vllm_importance_sampling_mode": "rollout.vllm.correction",
    "vllm_importance_sampling_clip_max": "rollout.vllm.correction_max",
    "vllm_importance_sampling_cap": "rollout.vllm.correction_max",
}

# Settings of SFTConfig that another setting of ours decides, or that have no effect on pictures with one answer each.
OWNED_BY_SUPERVISED = {
    "include_num_input_tokens_seen": "the run, which logs their number",
    "max_length": "policy.max_pixels: nothing is cut off an answer",
    "truncation_mode": "policy.max_pixels: nothing is cut off an answer",
    "loss_type": "objective",
    "completion_only_loss": "objective",
    "assistant_only_loss": "objective",
    "label_smoothing_factor": "levels.labels",
    "packing": "objective: pictures are not packed",
    "packing_strategy": "objective: pictures are not packed",
    "padding_free": "objective: pictures are not packed",
    "pad_to_multiple_of": "objective: pictures are not packed",
    "eval_packing": "evaluation.batch",
    "dataset_text_field": "data",
    "dataset_kwargs": "data",
    "dataset_num_proc": "data",
    "chat_template_path": "policy.path",
    "eos_token": "policy.path",
    "pad_token": "policy.path",
}

# Words that GRPOConfig takes as any text and TRL refuses in the middle of the first step.
CHOICES = {
    "loss_type": ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "importance_sampling_level": ("token", "sequence"),
}

# Settings of ours that live beside GRPOConfig's under trainer. They are not handed on, so their values stay as given.
OURS: dict[str, Any] = get_type_hints(StepSettings)

LONGEST_PART = 255  # bytes of a folder's name, on Linux's file systems

ABOVE_ZERO = (
    "rollout.temperature",
    "rollout.max_tokens",
    "reward.regression_threshold",
    "data.mix_temperature",
    "evaluation.k",
    "evaluation.test_k",
    "evaluation.batch",
    "policy.lora.r",
    "policy.lora.alpha",
    "policy.min_pixels",
)
# Settings of GRPOConfig with which no run could be resumed, and why.
UNRESUMABLE = {
    "save_only_model": "a checkpoint without the optimiser cannot be resumed; best/ and final/ hold the weights",
    "ignore_data_skip": "a resumed run would begin again with the first pictures",
}
ZERO_OR_MORE = (
    "seed",
    "reward.fidelity_weight",
    "reward.format_weight",
    "reward.gamma",
    "reward.root_epsilon",
    "evaluation.every",
    "evaluation.probes",
    "logger.samples",
)


def check(config: Config) -> None:
    """What several settings together can get wrong. Raises UserError naming the setting and the remedy."""
    for name in ABOVE_ZERO + ZERO_OR_MORE:
        value = attrgetter(name)(config)
        if name in ABOVE_ZERO and not 0 < value < math.inf:
            raise UserError(f"{name}={value}: set it above 0")
        if not 0 <= value < math.inf:
            raise UserError(f"{name}={value}: set it to 0 or more")
    if config.name is not None:
        check_name(config.name)
    if config.threads is not None and config.threads < 1:
        raise UserError(f"threads={config.threads}: set it to 1 or more, or null")
    if config.resume not in (True, False, "auto"):
        raise UserError(f"resume={config.resume}: choose from true, false, auto")
    if config.reward.fidelity_weight == 0 and config.reward.format_weight == 0:
        raise UserError("reward.fidelity_weight and reward.format_weight are both 0: nothing would be learnt")
    build_prompt(config.rollout.prompt)
    if config.rollout.stop_unreadable is not None and config.rollout.stop_unreadable < 0:
        raise UserError(f"rollout.stop_unreadable={config.rollout.stop_unreadable}: set it to 0 or more, or null")
    if config.rollout.k < 2:
        raise UserError(f"rollout.k={config.rollout.k}: an advantage compares answers; set rollout.k to 2 or more")
    _check_objective_is_used(config)
    check_pictures(config.rollout.prompt, config.data.reference)
    if config.reward.cohort_size < 2:
        raise UserError(f"reward.cohort_size={config.reward.cohort_size}: a picture needs a rival; set it to 2 or more")
    if not config.data.train:
        raise UserError("data.train names no dataset; choose an experiment, or data=NAME, see vqr1 data list")
    for part in ("train", "validation", "test"):
        names = getattr(config.data, part)
        if len(set(names)) < len(names):
            raise UserError(f"data.{part}={names} names a dataset twice; name each once")
    if config.policy.min_pixels > config.policy.max_pixels:
        raise UserError("policy.min_pixels is above policy.max_pixels")
    for key in config.trainer:
        if key in (owned := OWNED if config.draws_answers else OWNED | OWNED_BY_SUPERVISED):
            raise UserError(f"trainer.{key} follows from another setting: use {owned[key]}")
    for key, why in UNRESUMABLE.items():
        if config.trainer.get(key):
            raise UserError(f"trainer.{key}=true: {why}; leave it out")
    if _typed("ddp_timeout", config.trainer.get("ddp_timeout", 1), int) < 1:
        raise UserError(f"trainer.ddp_timeout={config.trainer['ddp_timeout']}: set it to 1 second or more")
    check_vllm(config.rollout.vllm)
    _check_shared_prefix(config.trainer)
    _check_reward_is_used(config.reward)


# What of a section is read although the policy draws no answers while it trains.
READ_BY_SUPERVISED: dict[str, set[str]] = {
    "rollout": {"engine", "vllm"},  # looked at by themselves
    "reward": set(),
    "evaluation": {"every", "max_pictures", "batch", "probes"},
    "trainer": {"images_per_step", "answers_per_device", "dataloader_timeout"},
}


def _check_objective_is_used(config: Config) -> None:
    """A setting that would have no effect with this objective is a mistake. Raises UserError naming it."""

    def refuse(name: str, value: Any, because: str) -> None:
        shown = value.value if isinstance(value, Enum) else str(value).lower() if isinstance(value, bool) else value
        raise UserError(f"{name}={shown} has no effect with {because}; leave it out")

    def changed(section: str, settings: Any, usual: Any, read: set[str], because: str) -> None:
        for field in fields(usual):
            value = getattr(settings, field.name)
            if field.name not in read and value != getattr(usual, field.name):
                refuse(f"{section}.{field.name}", value, because)

    objective = f"objective={config.objective.value}"
    for other in (Objective.levels, Objective.comparison, Objective.depict):
        own = getattr(config, other.value)
        if config.objective is not other:
            changed(other.value, own, type(own)(), set(), objective)
    if config.draws_answers:
        return
    if config.data.reference:
        refuse("data.reference", True, objective)
    if idle := idle_vllm(config.rollout.vllm):
        raise UserError(f"{idle} has no effect with {objective}; leave it out")
    sections = {
        "rollout": (config.rollout, RolloutConfig()),
        "reward": (config.reward, RewardConfig()),
        "evaluation": (config.evaluation, EvaluationConfig()),
        "trainer": (step_settings(config.trainer), StepSettings()),
    }
    for section, (settings, usual) in sections.items():
        changed(section, settings, usual, READ_BY_SUPERVISED[section], objective)
    if config.logger.samples != LoggerConfig().samples:
        refuse("logger.samples", config.logger.samples, objective)
    if config.rollout.engine not in (TrainingEngine.auto, TrainingEngine.transformers):
        refuse("rollout", config.rollout.engine, objective)
    if config.objective is Objective.levels:
        _check_levels(config.levels, changed)
    else:
        _check_pairs(config, getattr(config, config.objective.value))


def _check_levels(levels: LevelsConfig, changed: Callable[..., None]) -> None:
    for name in ("level_weight", "text_weight", "pair_weight"):
        if not 0 <= getattr(levels, name) < math.inf:
            raise UserError(f"levels.{name}={getattr(levels, name)}: set it to 0 or more")
    if levels.labels is LevelLabels.hard:
        changed("levels", levels, LevelsConfig(), {"question", "labels"}, "levels.labels=hard")
    elif levels.closed_set and levels.level_weight == 0:
        raise UserError("levels.closed_set=true has no effect with levels.level_weight=0; leave it out")
    elif levels.level_weight == levels.pair_weight == 0:
        raise UserError("levels.level_weight and levels.pair_weight are both 0: no level would be learnt")
    if not levels.question.strip():
        raise UserError("levels.question is empty; leave it out, or ask for the quality of the picture")


def _check_pairs(config: Config, pairs: ComparisonConfig | DepictConfig) -> None:
    section = config.objective.value
    if pairs.pairs < 1:
        raise UserError(f"{section}.pairs={pairs.pairs}: set it to 1 or more")
    if pairs.anchors < 2:
        raise UserError(
            f"{section}.anchors={pairs.anchors}: a score comes of two comparisons or more; set it to 2 or more"
        )
    for name, spread in pairs.spread.items():
        if name not in config.data.train:
            raise UserError(
                f"{section}.spread names {name}, which is not in data.train={config.data.train}; leave it out"
            )
        if not 0 < spread < math.inf:
            raise UserError(
                f"{section}.spread of {name} is {spread}: give a positive number on the scale of its scores"
            )
    if isinstance(pairs, ComparisonConfig):
        return
    if not 0 <= pairs.short <= 1:
        raise UserError(f"depict.short={pairs.short}: it is a share, 0 to 1")
    if not 0 <= pairs.content_share < 1:
        raise UserError(f"depict.content_share={pairs.content_share}: it is a share, 0 to under 1")
    if (pairs.content is not None) != (pairs.content_share > 0):
        raise UserError(
            f"depict.content={pairs.content} and depict.content_share={pairs.content_share}: name a file of rows and "
            "the share of the examples that they are to be, or leave both out"
        )


def _check_shared_prefix(trainer: dict[str, Any]) -> None:
    """Which settings make sense beside each other where answers share their prompt."""
    ours = step_settings(trainer)
    for key in ("shared_prefix_tokens", "scoring_answers_per_device", "dataloader_timeout"):
        value = getattr(ours, key)
        if value is not None and value < 1:
            raise UserError(f"trainer.{key}={value}: set it to 1 or more, or null")
    if not ours.skip_zero_advantages:
        return
    if not ours.shared_prefix:
        raise UserError("trainer.skip_zero_advantages=true needs trainer.shared_prefix=true: TRL's own path skips none")
    # What gives an answer whose advantage is 0 a gradient, or a share in the mean, all the same.
    without = {"beta": 0.0, "entropy_coef": 0.0, "use_adaptive_entropy": False, "top_entropy_quantile": 1.0}
    found = [f"trainer.{key}={trainer[key]}" for key, value in without.items() if trainer.get(key, value) != value]
    found += ["trainer.loss_type=bnpo"] if trainer.get("loss_type") == "bnpo" else []
    if found:
        raise UserError(
            f"trainer.skip_zero_advantages=true would change the gradient with {found[0]}; leave one of them out"
        )


def _check_reward_is_used(reward: RewardConfig) -> None:
    """A setting that would have no effect is a mistake."""
    graded = ("variance", "gamma", "root_epsilon", "preference")  # what only the fidelity reads
    idle: dict[str, tuple[str, ...]] = {}
    if reward.kind is RewardKind.regression:
        idle["kind=regression"] = ("rivals", "opponent", "agreement", *graded)
    else:
        idle["kind=ranking"] = ("regression_threshold",)
        if reward.agreement is Agreement.binary:
            idle["agreement=binary"] = graded
    defaults = RewardConfig()
    for cause, keys in idle.items():
        for key in keys:
            value = getattr(reward, key)
            if value != getattr(defaults, key):
                shown = value.value if isinstance(value, Enum) else value
                raise UserError(f"reward.{key}={shown} has no effect with reward.{cause}; leave it out")


def step_settings(trainer: dict[str, Any]) -> StepSettings:
    """Our share of the ``trainer`` settings. Raises UserError naming the setting for a value of the wrong type."""
    return StepSettings(**{key: _typed(key, value, OURS[key]) for key, value in trainer.items() if key in OURS})


def trainer_settings(trainer: dict[str, Any], known: dict[str, Any], of: str = "GRPOConfig") -> dict[str, Any]:
    """TRL's share of the ``trainer`` settings, each value checked against the type that its configuration declares.

    ``known`` maps the fields of the configuration called ``of`` to their types. GRPOConfig itself refuses unknown names
    but takes ``learning_rate="abc"`` without a word.

    Raises UserError naming the setting for an unknown name or a value of the wrong type.
    """
    settings = {}
    for key, value in trainer.items():
        if key in OURS:
            continue
        if key not in known:
            raise UserError(f"trainer.{key} is no setting of {of}; see conf/trainer and TRL's documentation")
        settings[key] = _typed(key, value, known[key])
        if key in CHOICES and value not in CHOICES[key]:
            raise UserError(f"trainer.{key}={value!r}: choose from {', '.join(CHOICES[key])}")
    return settings


def _typed(key: str, value: Any, expected: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    # A type adapter takes no configuration for a dataclass or model; none of the fields is one at the top level.
    lenient = ConfigDict(arbitrary_types_allowed=True)
    try:
        return TypeAdapter(expected, config=lenient).validate_python(value, strict=key in OURS or None)
    except ValidationError as error:
        raise UserError(f"trainer.{key}={value!r}: {error.errors()[0]['msg']}") from error


def check_name(name: str, setting: str = "name") -> None:
    """A run's name is a path of folders below runs. Raises UserError where it is none, or cannot be seen whole."""
    parts = name.split("/")
    wrong = None
    if name.startswith("/"):
        wrong = "it is absolute; runs= sets the folder that runs are in"
    elif not all(parts):
        wrong = "a part of it is empty"
    elif any(part in (".", "..") for part in parts):
        wrong = "it must not lead out of the folder that runs= sets"
    elif not name.isprintable() or name != name.strip():
        wrong = "it has letters that are not seen"
    elif name.startswith("~"):
        wrong = "~ is no folder below runs; runs=~/FOLDER sets that"
    elif any(len(part.encode()) > LONGEST_PART for part in parts):
        wrong = f"a part of it is longer than the {LONGEST_PART} bytes that a folder's name can have"
    if wrong:
        raise UserError(f"{setting}={name!r}: {wrong}")


def expanded(path: str, setting: str) -> str:
    """``path`` with the home folder in place of ``~``. Raises UserError where there is no such home."""
    full = os.path.expanduser(path)  # noqa: PTH111 - Path.expanduser raises where there is none
    if full.startswith("~"):
        raise UserError(f"{setting}={path}: there is no home folder {path.split('/')[0]}; give the whole path")
    return full


def from_hydra(composed: DictConfig) -> Config:
    """The composed configuration as dataclasses, checked, with home folders in place of ``~``."""
    config = as_object(composed, Config)
    cache = config.data.cache
    config = replace(
        config,
        runs=expanded(config.runs, "runs"),
        data=replace(
            config.data,
            root=expanded(config.data.root, "data.root"),
            cache=cache and expanded(cache, "data.cache"),
        ),
        policy=replace(config.policy, path=expanded(config.policy.path, "policy.path")),
        depict=replace(
            config.depict, content=config.depict.content and expanded(config.depict.content, "depict.content")
        ),
    )
    check(config)
    return config
