"""The schema of conf/evaluate: every setting of ``vqr1 evaluate``, its type, its default, and what is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from omegaconf import MISSING, DictConfig, OmegaConf

from vqr1.answer import build_prompt
from vqr1.config import as_object
from vqr1.config_checks import check_name, expanded
from vqr1.errors import UserError
from vqr1.packaged import data_root
from vqr1.rollout_settings import ScoringEngine, settle_scoring_engine

BATCH = 192  # answers that transformers generates at once
# vLLM schedules by itself and wants much to choose from, but it prepares every picture of a batch at once: one of
# 786,432 pixels takes 19 MB.
VLLM_BATCH = 3072  # answers
VLLM_PICTURES = 512


@dataclass
class EvaluateConfig:
    """An evaluation. Where a default is null, a run folder says what it was trained with."""

    model: str = MISSING  # tiny, a hub id, a folder of weights, or a run folder: its best/, else its final/
    data: list[str] = field(default_factory=list)  # names of vqr1.data.DATASETS, each looked for in root/<name>
    root: str = field(default_factory=data_root)  # VQR1_DATA, else data
    partial: bool = False  # true: a published set may have other than its published number of pictures
    k: int = 6  # answers to each picture; the score is the mean of the readable ones
    temperature: float = 1.0
    greedy: bool = False  # one answer, the likeliest token at every place; then k and temperature do not count
    seed: int = 0
    prompt: str | None = None  # paper, published, no_thinking, or a text of your own; null: the run's, else paper
    max_tokens: int = 256
    engine: ScoringEngine = ScoringEngine.auto  # transformers, vllm, or auto: vllm where there are it and a GPU
    memory_share: float = 0.9  # vllm: of each GPU's memory, for weights and cache
    tensor_parallel: int = 1  # vllm: GPUs that share the weights
    batch: int | None = None  # answers asked for at once; with transformers part of what seeds them. null: see settle
    limit: int | None = None  # pictures of each set, spread over it; null = all
    name: str | None = None  # what the table calls the model; runs of one name are put together
    folder: str | None = None  # where the results go; null = evaluations/<name>, K or greedy, and seed
    trained_on: list[str] | None = None  # sets the weights have seen: evaluated on their test split; null: the run's
    dtype: str = "auto"
    attention: str = "auto"
    min_pixels: int | None = None  # null: the run's, else the policy's usual limits
    max_pixels: int | None = None
    threads: int | None = None  # torch threads; 1 is fastest for the tiny policy


def register() -> None:
    """Make :class:`EvaluateConfig` the schema that conf/evaluate/evaluate.yaml builds on."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="evaluate_schema", node=EvaluateConfig)


def from_hydra(composed: DictConfig) -> EvaluateConfig:
    """The composed configuration as a dataclass, checked."""
    if OmegaConf.is_missing(composed, "model"):
        raise UserError("model= is missing; give tiny, a hub id, a folder of weights, or a run folder")
    config = as_object(composed, EvaluateConfig)
    folder = config.folder
    config = replace(
        config,
        model=expanded(config.model, "model"),
        root=expanded(config.root, "root"),
        folder=folder and expanded(folder, "folder"),
    )
    check(config)
    return config


def settle(config: EvaluateConfig, gpus: int) -> EvaluateConfig:
    """With the engine and the batch of this machine in place of ``auto`` and null.

    192 answers with transformers; with vLLM 3072, of 512 pictures at most. Raises UserError for an engine or GPUs
    that are not here.
    """
    engine = settle_scoring_engine(config.engine, gpus)
    if engine is ScoringEngine.vllm and config.tensor_parallel > max(1, gpus):
        raise UserError(f"tensor_parallel={config.tensor_parallel}: there are {gpus} GPUs; set it to that or less")
    k = 1 if config.greedy else config.k
    usual = min(VLLM_BATCH, VLLM_PICTURES * k) if engine is ScoringEngine.vllm else BATCH
    return replace(config, engine=engine, batch=config.batch or usual)


def check(config: EvaluateConfig) -> None:
    """Raises UserError naming the setting and the remedy."""
    if config.name is not None:
        check_name(config.name)
    if not config.data:
        raise UserError("data= names no dataset; give data=[bid,clive,...], see vqr1 data list")
    if len(set(config.data)) < len(config.data):
        raise UserError(f"data={config.data} names a dataset twice; name each once")
    for name in ("k", "max_tokens", "batch", "limit", "tensor_parallel", "threads"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise UserError(f"{name}={value}: set it to 1 or more")
    if config.limit is not None and config.limit < 3:
        raise UserError(f"limit={config.limit}: a correlation needs three pictures")
    if not 0 < config.temperature < math.inf:
        raise UserError(f"temperature={config.temperature}: set it above 0; greedy=true takes the likeliest token")
    if not 0 < config.memory_share < 1:
        raise UserError(f"memory_share={config.memory_share}: it is a share, above 0 and under 1")
    for name, usual in (("memory_share", 0.9), ("tensor_parallel", 1)):
        value = getattr(config, name)
        if config.engine is ScoringEngine.transformers and value != usual:
            raise UserError(f"{name}={value} has no effect with engine=transformers: vLLM is not asked. Leave it out")
    if config.seed < 0:
        raise UserError(f"seed={config.seed}: set it to 0 or more")
    if config.prompt is not None:
        build_prompt(config.prompt)
