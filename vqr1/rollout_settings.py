"""Which engine draws the answers, its settings, and what of them can be wrong before anything is loaded.

transformers' ``generate`` runs everywhere. vLLM draws the K answers to a prompt together: in the training processes
(colocate), sharing their GPUs, or in a server of its own on other GPUs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import Enum
from importlib.util import find_spec
from typing import Any

from vqr1.errors import UserError


class TrainingEngine(Enum):
    auto = "auto"  # vllm_colocate where there is a GPU and vLLM is installed, else transformers
    transformers = "transformers"
    vllm_colocate = "vllm_colocate"
    vllm_server = "vllm_server"


class ScoringEngine(Enum):
    """What answers where nothing is trained. vLLM then has the GPU to itself, in the same process."""

    auto = "auto"  # vllm where there is a GPU and vLLM is installed, else transformers
    transformers = "transformers"
    vllm = "vllm"


class Correction(Enum):
    """What the difference between vLLM's probabilities and the trained model's is answered with (TRL's modes)."""

    none = "none"
    token_truncate = "token_truncate"  # noqa: S105 - a token of a text
    token_mask = "token_mask"  # noqa: S105
    sequence_truncate = "sequence_truncate"
    sequence_mask = "sequence_mask"


class LoraSync(Enum):
    """What vLLM gets of a policy with LoRA: weights with the adapters added, or the adapters beside its own weights."""

    merged = "merged"
    adapter = "adapter"


@dataclass
class VllmSettings:
    """How vLLM runs; without effect for transformers."""

    memory_share: float = 0.3  # colocate: of each GPU's memory, for vLLM's weights and cache
    tensor_parallel: int = 1  # colocate: GPUs that share one copy of the weights
    sleep: bool = False  # colocate: vLLM gives its memory back while the policy is trained
    max_length: int | None = None  # tokens of prompt and answer; null: as many as prompt and pixel limit can need
    server: str = "http://localhost:8000"  # started by launch/vllm_server.sh
    server_timeout: float = 240.0  # seconds to wait for it at the start
    group_port: int = 51216  # through which it gets the weights
    lora: LoraSync = LoraSync.merged
    correction: Correction = Correction.token_truncate  # importance sampling against the sampler's probabilities
    correction_max: float = 3.0  # the largest importance ratio
    canary_limit: float = 0.1  # mean |difference| of log-probabilities, vLLM's and the trained model's
    canary_stop: bool = True  # over the limit: stop, or false: warn


def vllm_installed() -> bool:
    return find_spec("vllm") is not None


def settle_engine(engine: TrainingEngine, gpus: int, scripted: bool = False) -> TrainingEngine:
    """What ``auto`` is on this machine. Raises UserError where vLLM is asked for and missing."""
    if engine is TrainingEngine.auto:
        return (
            TrainingEngine.vllm_colocate if gpus and vllm_installed() and not scripted else TrainingEngine.transformers
        )
    if engine is not TrainingEngine.transformers:
        need_vllm(f"rollout.engine={engine.value}", "rollout=transformers")
    return engine


def settle_scoring_engine(engine: ScoringEngine, gpus: int) -> ScoringEngine:
    """What ``auto`` is on this machine. Raises UserError where vLLM is asked for and missing."""
    if engine is ScoringEngine.auto:
        return ScoringEngine.vllm if gpus and vllm_installed() else ScoringEngine.transformers
    if engine is ScoringEngine.vllm:
        need_vllm("engine=vllm", "engine=transformers")
    return engine


def need_vllm(asked: str, instead: str) -> None:
    """Raises UserError where vLLM is not installed; ``asked`` is the setting that wants it, ``instead`` another."""
    if not vllm_installed():
        raise UserError(
            f"{asked} needs vLLM, which is not installed; install it with `make env EXTRAS=dev,gpu` (or pip install "
            f"'vqr1[gpu]'), or set {instead}"
        )


def check_vllm(settings: VllmSettings) -> None:
    """Raises UserError naming the setting and the remedy."""
    where = "rollout.vllm"
    if not 0 < settings.memory_share < 1:
        raise UserError(f"{where}.memory_share={settings.memory_share}: it is a share, above 0 and under 1")
    for name in ("tensor_parallel", "max_length"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise UserError(f"{where}.{name}={value}: set it to 1 or more")
    for name in ("server_timeout", "correction_max", "canary_limit"):
        value = getattr(settings, name)
        if not 0 < value < math.inf:
            raise UserError(f"{where}.{name}={value}: set it above 0")
    if not settings.server.startswith(("http://", "https://")):
        raise UserError(f"{where}.server={settings.server}: give an address such as http://localhost:8000")
    if settings.lora is LoraSync.adapter and settings.sleep:
        raise UserError(
            f"{where}.lora=adapter sends no weights, and {where}.sleep=true loses them; set one of them back"
        )
    if settings.correction is Correction.none and settings.canary_stop:
        raise UserError(
            f"{where}.correction=none leaves nothing to compare vLLM's probabilities with: the canary is blind. Keep a "
            f"correction, or say {where}.canary_stop=false"
        )


def idle_vllm(settings: VllmSettings) -> str | None:
    """The first of vLLM's settings that is not left as it is, where vLLM is not asked: it has no effect."""
    usual = VllmSettings()
    for field in fields(VllmSettings):
        value = getattr(settings, field.name)
        if value != getattr(usual, field.name):
            shown = value.value if isinstance(value, Enum) else str(value).lower()
            return f"rollout.vllm.{field.name}={shown}"
    return None


def check_vllm_is_asked(engine: TrainingEngine, settings: VllmSettings) -> None:
    """Raises UserError for a setting of vLLM's beside rollout=transformers."""
    idle = idle_vllm(settings)
    if engine is TrainingEngine.transformers and idle:
        raise UserError(f"{idle} has no effect with rollout=transformers: vLLM is not asked. Leave it out")


UNTRUNCATED: dict[str, tuple[Any, ...]] = {
    "top_p": (1.0,),
    "top_k": (0,),
    "min_p": (None, 0.0),
    "repetition_penalty": (1.0,),
}


def check_untruncated(trainer: dict[str, Any]) -> None:
    """vLLM reports probabilities after truncation: the importance ratio would be biased. Raises UserError."""
    for key, harmless in UNTRUNCATED.items():
        value = trainer.get(key, harmless[0])
        if value not in harmless:
            raise UserError(
                f"trainer.{key}={value} changes the distribution that vLLM draws from, and would bias the importance "
                f"ratio; set it to {'null' if harmless[0] is None else harmless[0]}, or set rollout=transformers"
            )


# Settings of GRPOConfig that nothing here reads: what each is when it is left alone, and why it cannot be another.
UNREAD: dict[str, tuple[Any, str]] = {
    "use_transformers_continuous_batching": (False, "transformers' continuous batching takes no pictures"),
    "use_transformers_paged": (False, "transformers' continuous batching takes no pictures"),
    "transformers_continuous_batching_config": (None, "transformers' continuous batching takes no pictures"),
    "max_tool_calling_iterations": (None, "answers call no tools"),
    "trust_remote_code": (False, "a Qwen2.5-VL needs no code but transformers' and vLLM's own"),
    "vllm_model_impl": ("vllm", "weights are given over under the names of vLLM's own implementation"),
    "vllm_structured_outputs_regex": (
        None,
        "it would forbid tokens that the trained model may draw, and bias the importance ratio; how an answer is "
        "written is the format reward's (reward.format_weight)",
    ),
}
# What only transformers' generate reads ...
UNREAD_BY_VLLM: dict[str, tuple[Any, str]] = {
    "generation_kwargs": (None, "they are transformers' settings, and truncated sampling would bias the ratio"),
    "cache_implementation": (None, "it is transformers' cache"),
    "ds3_gather_for_generation": (True, "weights are gathered for vLLM one at a time in any case"),
}
# ... and what only the correction of vLLM's probabilities reads.
READ_BY_THE_CORRECTION: dict[str, Any] = {"vllm_importance_sampling_clip_min": None}


def check_read(trainer: dict[str, Any], engine: TrainingEngine, correction: Correction) -> None:
    """A setting of GRPOConfig that would have no effect is a mistake. Raises UserError naming it and why."""
    vllm = engine is not TrainingEngine.transformers
    for key, (idle, why) in (UNREAD | (UNREAD_BY_VLLM if vllm else {})).items():
        value = trainer.get(key, idle)
        if value not in (idle, {}):
            which = f" with rollout={engine.value}" if key in UNREAD_BY_VLLM or key.startswith("vllm_") else ""
            reason = why if vllm or not key.startswith("vllm_") else "vLLM is not asked"
            instead = ", or set rollout=transformers" if key in UNREAD_BY_VLLM else ""
            raise UserError(f"trainer.{key}={value} has no effect{which}: {reason}. Leave it out{instead}")
    if vllm and correction is not Correction.none:
        return
    for key, idle in READ_BY_THE_CORRECTION.items():
        if trainer.get(key, idle) != idle:
            cause = "rollout.vllm.correction=none" if vllm else f"rollout={engine.value}"
            raise UserError(f"trainer.{key}={trainer[key]} has no effect with {cause}; leave it out")


def longest_sequence(text_tokens: int, max_pixels: int, token_pixels: int, max_tokens: int, pictures: int = 1) -> int:
    """Tokens of the longest prompt and answer: the text, the largest pictures, the longest answer."""
    return text_tokens + pictures * (max_pixels // token_pixels**2) + max_tokens


def sequence_limit(asked: int | None, needed: int) -> int:
    """vLLM's maximum model length. Raises UserError where what was asked for is too short for the longest prompt."""
    if asked is not None and asked < needed:
        raise UserError(
            f"rollout.vllm.max_length={asked} is too short: prompt, largest picture and longest answer take up to "
            f"{needed} tokens; set it to {needed} or more, leave it out, or lower policy.max_pixels or "
            "rollout.max_tokens"
        )
    return asked or needed


# Beside weights and cache: activations of a batch of 4096 tokens, and of the largest picture in the vision tower.
ACTIVATIONS = 2e9  # bytes, measured nowhere yet: generous for 7B in bfloat16


def check_memory(weight_bytes: int, cache_bytes: int, share: float, total: int, tensor_parallel: int = 1) -> None:
    """Whether a GPU's share holds vLLM's weights and the cache of one longest sequence.

    ``total``: bytes of the GPU. Raises UserError giving the share that is needed.
    """
    needed = (weight_bytes + cache_bytes) / tensor_parallel + ACTIVATIONS
    if needed <= share * total:
        return
    least = math.ceil(100 * needed / total) / 100
    remedy = f"set rollout.vllm.memory_share={least:.2f} or more" if least < 1 else "take a smaller policy"
    raise UserError(
        f"rollout.vllm.memory_share={share} of a GPU of {total / 1e9:.0f} GB is {share * total / 1e9:.1f} GB, and vLLM "
        f"needs {needed / 1e9:.1f} GB; {remedy}, or raise rollout.vllm.tensor_parallel (now {tensor_parallel})"
    )
