"""What draws answers: the questions it is asked, the answers it gives, and what ends an answer.

vLLM (:mod:`vqr1.rollout.vllm_engine`) is one engine; tests have others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from vqr1.errors import UserError

VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
MAX_SEED = 2**31 - 2**16  # room for k


class RolloutError(UserError, RuntimeError):
    """Answers cannot be drawn, or not be trusted. Raised on every rank; what was trained so far can be saved."""


@dataclass(frozen=True)
class Question:
    """A prompt with its pictures, and how many answers are wanted."""

    ids: list[int]  # as the trained model reads it: one image token for every 28 x 28 pixels
    pictures: Sequence[Image.Image]  # in the order of their tokens
    k: int
    seed: int  # the k-th answer's noise is a function of seed + k alone


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: never truncated, for that would bias the importance ratio. Temperature 0 is greedy."""

    temperature: float
    max_tokens: int
    stop: tuple[int, ...]  # an answer ends with one of these
    never: tuple[int, ...]  # a drawn image token would be one more picture to the trained model


@dataclass(frozen=True)
class Drawn:
    """An answer: its tokens, the last one a stop token unless it was cut, and the log-probability each was drawn at."""

    ids: list[int]
    logps: list[float]


class Asks(Protocol):
    """What answers questions."""

    def ask(self, questions: Sequence[Question], sampling: Sampling) -> list[list[Drawn]]: ...


class Engine(Asks, Protocol):
    """What draws answers with weights of its own, here."""

    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None: ...

    def load_adapter(self, folder: Path) -> None: ...

    def forget(self, pictures: bool) -> None: ...

    def sleep(self) -> None: ...

    def wake(self, part: str) -> None: ...

    def image_processor(self) -> Any: ...


def vision_tokens(tokenizer: Any) -> tuple[int, ...]:
    """The tokens that stand for pictures, which no answer may hold."""
    return tuple(sorted(tokenizer.convert_tokens_to_ids(name) for name in VISION_TOKENS))


def stop_tokens(generation_config: Any, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end an answer: the model's own and the tokenizer's, as GRPOTrainer has them."""
    own = generation_config.eos_token_id
    listed = [] if own is None else [own] if isinstance(own, int) else list(own)
    return tuple(listed if tokenizer.eos_token_id in listed else [tokenizer.eos_token_id, *listed])
