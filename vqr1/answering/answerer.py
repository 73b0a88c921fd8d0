"""A model that answers, by transformers or by vLLM as the settings say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vqr1.answer import build_prompt
from vqr1.answering.model import Model, Served, load_model, load_weights
from vqr1.answering.server import REQUESTS, ServerEngine, check_length
from vqr1.answering.settings import AnswerSettings, Method
from vqr1.data.pictures import TOKEN_PIXELS
from vqr1.errors import UserError
from vqr1.picture_prompts import Message, in_order, number_of_pictures
from vqr1.policy.load import check_grid, find_weights, load_generation_config, load_processor, resolve_dtype
from vqr1.rollout.engine import Engine, stop_tokens
from vqr1.rollout.offline import Policy, text_tokens
from vqr1.rollout.vllm_engine import VllmEngine, check_pixels
from vqr1.rollout.vllm_policy import VllmPolicy
from vqr1.rollout_settings import ScoringEngine, longest_sequence

AT_ONCE = 256  # answers that vLLM draws at the same time, at most; the others of a batch wait their turn


@dataclass(frozen=True)
class Answerer:
    """A policy that is ready to answer."""

    model: Model
    processor: Any
    policy: Policy | VllmPolicy
    engine: Engine | None  # vLLM's, where it answers in this process

    def check(self, pictures: Sequence[Image.Image]) -> None:
        """Raises UserError where the policy would see other pictures than these: once, before the first answer."""
        check_grid(self.processor, pictures[0], self.model.policy)
        if self.engine:
            check_pixels(self.engine.image_processor(), self.processor.image_processor, pictures)


def check_adapter(config: AnswerSettings, model: Model) -> None:
    """Raises UserError for LoRA weights that would have to be handed to several of vLLM's processes."""
    if config.engine is ScoringEngine.vllm and config.tensor_parallel > 1 and model.adapter:
        raise UserError(
            f"tensor_parallel={config.tensor_parallel} cannot take over the LoRA weights of {model.adapter}; set "
            "tensor_parallel=1 or engine=transformers"
        )


def load_answerer(
    config: AnswerSettings, model: Model, at_once: int = AT_ONCE, prompts: Sequence[list[Message]] = ()
) -> Answerer:
    """``model`` with the engine of settled settings (:func:`vqr1.answering.settings.settle`).

    ``prompts``: what will be asked in place of the model's own prompt, each with its number of pictures.
    """
    if model.served:
        return ask_server(config, model, model.served)
    asked: dict[str, Any] = {
        "max_tokens": config.max_tokens,
        "temperature": 0.0 if config.method is Method.greedy else config.temperature,
    }
    if config.engine is ScoringEngine.transformers:
        loaded, processor = load_model(model)
        return Answerer(model, processor, Policy(loaded, processor, **asked), None)
    assert config.engine is ScoringEngine.vllm, "the engine is settled before it is started"
    processor = load_processor(model.policy)
    stop = stop_tokens(load_generation_config(model.policy.path), processor.tokenizer)
    engine = start_vllm(config, model, processor, at_once, prompts)
    return Answerer(model, processor, VllmPolicy(engine, processor, stop, **asked), engine)


def ask_server(config: AnswerSettings, model: Model, served: Served) -> Answerer:
    """``model`` as its server answers for it. Raises UserError where the server has no room for its pictures."""
    processor = load_processor(model.policy)
    check_length(model, processor, config.max_tokens)
    prompt = str(build_prompt(model.prompt)[0]["content"])
    assert config.batch
    engine = ServerEngine(served, prompt, processor.image_token_id, min(config.batch, REQUESTS))
    stop = stop_tokens(load_generation_config(model.policy.path), processor.tokenizer)
    temperature = 0.0 if config.method is Method.greedy else config.temperature
    policy = VllmPolicy(engine, processor, stop, max_tokens=config.max_tokens, temperature=temperature)
    return Answerer(model, processor, policy, None)


def start_vllm(
    config: AnswerSettings, model: Model, processor: Any, at_once: int, prompts: Sequence[list[Message]] = ()
) -> Engine:
    """vLLM with the model's weights; with an adapter they are merged on the CPU and handed over."""
    if prompts:
        text, pictures = longest_text(processor, prompts), max(map(number_of_pictures, prompts))
    else:
        text, pictures = text_tokens(processor, model.prompt, pictures=model.pictures), model.pictures
    engine = VllmEngine(
        find_weights(model.policy.path),
        processor,
        limits=(model.policy.min_pixels, model.policy.max_pixels),
        max_length=longest_sequence(text, model.policy.max_pixels, TOKEN_PIXELS, config.max_tokens, pictures),
        max_answers=at_once,
        dtype=str(resolve_dtype(model.policy.dtype)).removeprefix("torch."),
        memory_share=config.memory_share,
        parallel=config.tensor_parallel,
        colocated=False,
        pictures=pictures,
    )
    if model.adapter:
        engine.load(load_weights(model).named_parameters())
        engine.forget(pictures=True)
    return engine


def longest_text(processor: Any, prompts: Iterable[list[Message]]) -> int:
    """Tokens of any of the prompts without those of its pictures, at most: none is of less than a byte of text."""
    prompts = list(prompts)
    pictures = max(map(number_of_pictures, prompts))
    longest = max(sum(len(part.get("text", "").encode()) for part in prompt[0]["content"]) for prompt in prompts)
    return text_tokens(processor, in_order(pictures, ""), pictures=pictures) + longest
