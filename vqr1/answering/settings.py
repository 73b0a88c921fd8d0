"""Settings of whoever asks a model for scores: which model, what it is asked, and by which engine it answers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeVar

from omegaconf import MISSING

from vqr1.answer import build_prompt
from vqr1.config_checks import check_name
from vqr1.errors import UserError
from vqr1.rollout_settings import ScoringEngine, settle_scoring_engine

BATCH = 192  # answers that transformers generates at once
# vLLM schedules by itself and wants much to choose from, but it prepares every picture of a batch at once: one of
# 786,432 pixels takes 19 MB.
VLLM_BATCH = 3072  # answers
VLLM_PICTURES = 512


class Method(Enum):
    """How a picture comes to its score."""

    greedy = "greedy"  # one answer, the likeliest token at every place
    mean = "mean"  # the mean of k drawn answers
    expected = "expected"  # the mean of the exact distributions of the score after k drawn reasonings


@dataclass
class AnswerSettings:
    """A model and how it is asked. Where a default is null, a run folder says what it was trained with."""

    model: str = MISSING  # tiny, a hub id, a folder of weights, or a run folder: its best/, else its final/
    k: int = 6  # answers to each picture; the score is the mean of the readable ones
    temperature: float = 1.0
    greedy: bool = False  # one answer, the likeliest token at every place; then k and temperature do not count
    seed: int = 0
    prompt: str | None = None  # paper, published, no_thinking, or a text of your own; null: the run's, else paper
    max_tokens: int = 256
    engine: ScoringEngine = ScoringEngine.auto  # transformers, vllm, or auto: vllm where there are it and a GPU
    memory_share: float = 0.9  # vllm: of each GPU's memory, for weights and cache
    tensor_parallel: int = 1  # vllm: GPUs that share the weights
    batch: int | None = None  # answers asked for at once. null: see settle
    name: str | None = None  # what the model is called
    trained_on: list[str] | None = None  # sets the weights have seen; null: the run's
    dtype: str = "auto"
    attention: str = "auto"
    min_pixels: int | None = None  # null: the run's, else the policy's usual limits
    max_pixels: int | None = None
    threads: int | None = None  # torch threads; 1 is fastest for the tiny policy

    @property
    def answers(self) -> int:
        """Answers to each picture."""
        return 1 if self.greedy else self.k


Settings = TypeVar("Settings", bound=AnswerSettings)


def settle(settings: Settings, gpus: int) -> Settings:
    """With the engine and the batch of this machine in place of ``auto`` and null.

    192 answers with transformers; with vLLM 3072, of 512 pictures at most. Raises UserError for an engine or GPUs
    that are not here.
    """
    engine = settle_scoring_engine(settings.engine, gpus)
    if engine is ScoringEngine.vllm and settings.tensor_parallel > max(1, gpus):
        raise UserError(f"tensor_parallel={settings.tensor_parallel}: there are {gpus} GPUs; set it to that or less")
    usual = min(VLLM_BATCH, VLLM_PICTURES * settings.answers) if engine is ScoringEngine.vllm else BATCH
    return replace(settings, engine=engine, batch=settings.batch or usual)


def check_answers(settings: AnswerSettings) -> None:
    """Raises UserError naming the setting and the remedy."""
    if settings.name is not None:
        check_name(settings.name)
    for name in ("k", "max_tokens", "batch", "tensor_parallel", "threads"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise UserError(f"{name}={value}: set it to 1 or more")
    if not 0 < settings.temperature < math.inf:
        raise UserError(f"temperature={settings.temperature}: set it above 0; greedy=true takes the likeliest token")
    if not 0 < settings.memory_share < 1:
        raise UserError(f"memory_share={settings.memory_share}: it is a share, above 0 and under 1")
    for name, usual in (("memory_share", 0.9), ("tensor_parallel", 1)):
        value = getattr(settings, name)
        if settings.engine is ScoringEngine.transformers and value != usual:
            raise UserError(f"{name}={value} has no effect with engine=transformers: vLLM is not asked. Leave it out")
    if settings.seed < 0:
        raise UserError(f"seed={settings.seed}: set it to 0 or more")
    if settings.prompt is not None:
        build_prompt(settings.prompt)
