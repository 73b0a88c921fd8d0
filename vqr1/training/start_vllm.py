"""What draws a run's answers: looked at before the policy is loaded, started once it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from transformers import AutoConfig

from vqr1.config import Config, Tuning
from vqr1.data.pictures import TOKEN_PIXELS
from vqr1.errors import UserError
from vqr1.estimate.memory import cache_bytes
from vqr1.estimate.sizes import read_sizes
from vqr1.machine_choices import MachineChoices
from vqr1.policy.load import find_weights, trains_in_bfloat16, weight_bytes
from vqr1.rollout.engine import Engine, vision_tokens
from vqr1.rollout.offline import text_tokens
from vqr1.rollout.server import check_server
from vqr1.rollout.synced import SyncedGeneration
from vqr1.rollout.vllm_engine import VllmEngine, check_pixels
from vqr1.rollout_settings import (
    Correction,
    LoraSync,
    TrainingEngine,
    check_memory,
    longest_sequence,
    sequence_limit,
)
from vqr1.training.canary import Canary
from vqr1.training.policy_checks import chat_template
from vqr1.training.trainer import RankingTrainer

MAX_VLLM_TEMPERATURE = 2.0  # temperature


def check_engine(config: Config, choices: MachineChoices, processor: Any) -> int | None:
    """vLLM's maximum length in tokens, or None where transformers answers.

    Raises ValueError for a length that is too short, a share of memory that is too small, a server that does not fit.
    """
    engine, settings = choices.engine, config.rollout.vllm
    if engine is TrainingEngine.transformers:
        return None
    if config.rollout.temperature > MAX_VLLM_TEMPERATURE:
        raise UserError(f"rollout.temperature={config.rollout.temperature}: vLLM takes at most {MAX_VLLM_TEMPERATURE}")
    policy = config.policy
    text = text_tokens(processor, config.rollout.prompt, chat_template(config), config.data.pictures)
    needed = longest_sequence(text, policy.max_pixels, TOKEN_PIXELS, config.rollout.max_tokens, config.data.pictures)
    length = sequence_limit(settings.max_length, needed)
    weights = choices.policy
    if engine is TrainingEngine.vllm_server:
        if choices.tuning is Tuning.lora and settings.lora is LoraSync.adapter:
            raise UserError("rollout.vllm.lora=adapter needs rollout=vllm_colocate: a server gets merged weights")
        check_server(settings.server, weights, settings.server_timeout, find_weights)
    elif torch.cuda.is_available():
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        model = AutoConfig.from_pretrained(str(weights), trust_remote_code=False)
        precision = torch.bfloat16 if trains_in_bfloat16(policy.dtype) else torch.float32
        size = weight_bytes(weights) * precision.itemsize // (model.dtype or precision).itemsize
        cache = cache_bytes(read_sizes(weights), length, precision.itemsize)
        check_memory(size, cache, settings.memory_share, total, settings.tensor_parallel)
    return length


def use_vllm(
    trainer: RankingTrainer,
    config: Config,
    choices: MachineChoices,
    processor: Any,
    max_length: int,
    pictures: Sequence[Image.Image],
    say: Callable[[str], None],
    engine: Callable[..., Engine] | None = None,
) -> None:
    """Start vLLM for ``trainer``, or connect to the server.

    ``engine`` is what is started; tests and measurements give another than :class:`VllmEngine`. Raises ValueError where
    it makes other patches of ``pictures`` than training does.
    """
    settings, args = config.rollout.vllm, trainer.args
    adapter_alone = choices.tuning is Tuning.lora and settings.lora is LoraSync.adapter
    answers = args.per_device_train_batch_size * args.steps_per_generation * settings.tensor_parallel

    def start() -> Engine:
        return (engine or VllmEngine)(
            choices.policy,
            processor,
            limits=(config.policy.min_pixels, config.policy.max_pixels),
            max_length=max_length,
            max_answers=answers,
            dtype="bfloat16" if args.bf16 else "float32",  # what training computes in
            memory_share=settings.memory_share,
            parallel=settings.tensor_parallel,
            sleep=settings.sleep,
            colocated=True,
            lora_rank=config.policy.lora.r if adapter_alone else None,
            pictures=config.data.pictures,
        )

    generation = SyncedGeneration(
        model=trainer.model,
        accelerator=trainer.accelerator,
        processing_class=processor,
        mode="server" if choices.engine is TrainingEngine.vllm_server else "colocate",
        start=start,
        adapter_alone=adapter_alone,
        stop=trainer.eos_token_ids,
        never=vision_tokens(processor.tokenizer),
        vision_trained=config.policy.train_vision and choices.tuning is Tuning.full,
        server_base_url=settings.server,
        server_timeout=settings.server_timeout,
        group_port=settings.group_port,
        tensor_parallel_size=settings.tensor_parallel,
        enable_sleep_mode=settings.sleep,
        temperature=config.rollout.temperature,
        max_completion_length=config.rollout.max_tokens,
    )
    if generation.mode == "colocate":
        check_pixels(generation.engine.image_processor(), processor.image_processor, pictures)
    watched = settings.correction is not Correction.none
    trainer.use(generation, Canary(settings.canary_limit, settings.canary_stop, say) if watched else None)
