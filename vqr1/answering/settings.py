"""Settings of whoever asks a model for scores: which model, what it is asked, and by which engine it answers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeVar

from omegaconf import MISSING

from vqr1.answer import PROMPTS, build_prompt
from vqr1.comparison.words import QUESTION
from vqr1.config import LevelsConfig
from vqr1.config_checks import check_name
from vqr1.depiction import QUESTION as TAGGED_QUESTION
from vqr1.depiction import TAGS
from vqr1.errors import UserError
from vqr1.picture_prompts import Message, check_text, in_order, named
from vqr1.rating_statistics import StoppingRule
from vqr1.rollout_settings import ScoringEngine, settle_scoring_engine

BATCH = 192  # answers that transformers generates at once
# vLLM schedules by itself and wants much to choose from, but it prepares every picture of a batch at once: one of
# 786,432 pixels takes 19 MB.
VLLM_BATCH = 3072  # answers
VLLM_PICTURES = 512
MOST = 48  # answers to a picture at most, where they are drawn until its mean is known


class Method(Enum):
    """How a picture comes to its score."""

    greedy = "greedy"  # one answer, the likeliest token at every place
    mean = "mean"  # the mean of k drawn answers
    expected = "expected"  # the mean of the exact distributions of the score after k drawn reasonings
    levels = "levels"  # the expected level of the five words' probabilities, nothing being drawn
    comparison = "comparison"  # from the probabilities of the comparison words against fixed pictures of the set
    votes = "votes"  # the share of comparisons with the other pictures of its reference that it wins

    @property
    def draws(self) -> bool:
        """Whether answers are drawn; else the probabilities of the words that may answer are read."""
        return self in (Method.greedy, Method.mean, Method.expected)


OF_ONE_PICTURE = (Method.greedy, Method.mean, Method.expected, Method.levels)  # which need no other pictures
ANSWERS = {Method.mean: 6}  # to each picture, unless k says how many; by the other methods one
# What a policy is asked that was not trained to be asked otherwise, by the objective whose question it is.
USUAL_PROMPTS = {
    "rl2r": "paper",
    "levels": LevelsConfig.question,
    "comparison": QUESTION,
    "depict": TAGGED_QUESTION,
}


def objective_of(method: Method, learnt: str | None = None) -> str:
    """The objective that trains what a method reads, off a policy that has ``learnt`` by one.

    Two objectives teach which of two pictures is better: a policy is read by the answers that it was taught.
    """
    if method.draws:
        return "rl2r"
    if method is Method.levels:
        return "levels"
    return "depict" if learnt == "depict" else "comparison"


def pictures_shown(method: Method) -> int:
    """Pictures in a prompt."""
    return 2 if method in (Method.comparison, Method.votes) else 1


def conversation(method: Method, prompt: str, learnt: str | None = None) -> list[Message]:
    """What a policy is asked by a method: one user message, before whose text the picture comes unless it says where.

    ``prompt``: for drawn answers a name of vqr1.answer.PROMPTS or a text with answer tags, else a question in full.
    ``learnt``: the objective by which it has learnt. Raises UserError for another prompt.
    """
    if method.draws:
        return build_prompt(prompt)
    if prompt in PROMPTS:
        raise UserError(
            f"prompt={prompt} asks for an answer that is drawn, and method={method.value} reads the words after a "
            "question; leave prompt out, or give the question in full"
        )
    if pictures_shown(method) > 1:
        tagged = objective_of(method, learnt) == "depict"
        return named(TAGS, prompt) if tagged else in_order(pictures_shown(method), prompt)
    check_text(prompt)
    return [{"role": "user", "content": prompt}]


@dataclass
class AnswerSettings:
    """A model and how it is asked. Where a default is null, a run folder says what it was trained with."""

    model: str = MISSING  # tiny, a hub id, a folder of weights, or a run folder: its best/, else its final/
    method: Method = Method.mean  # greedy, mean, expected, levels (docs/rating.md); comparison, votes (docs/methods.md)
    k: int | None = None  # answers to each picture; null: 6 for a mean, 1 for expected
    until: float | None = None  # answers are drawn until the standard error of the mean is at most this; without k
    max_k: int | None = None  # answers at most, with until; null: 48
    temperature: float = 1.0  # of drawn answers
    seed: int = 0
    prompt: str | None = None  # paper, published, no_thinking, reference, or your own text; null: the run's, else usual
    reference: bool | None = None  # show each picture's reference before it, with a prompt for two; null: as the run
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
        """Answers to each picture; with ``until`` those of the first round."""
        rule = self.stopping_rule()
        return rule.least if rule else self.k or ANSWERS.get(self.method, 1)

    def stopping_rule(self) -> StoppingRule | None:
        """Raises UserError for numbers that are none."""
        return None if self.until is None else StoppingRule(self.until, most=self.max_k or MOST)


Settings = TypeVar("Settings", bound=AnswerSettings)


def settle(settings: Settings, gpus: int) -> Settings:
    """With the engine and the batch of this machine in place of ``auto`` and null.

    192 answers with transformers; with vLLM 3072, of 512 pictures at most. Raises UserError for an engine or GPUs
    that are not here.
    """
    engine = settings.engine
    if engine is ScoringEngine.auto and settings.method not in (Method.greedy, Method.mean):
        engine = ScoringEngine.transformers  # vLLM gives no pass over a tree
    engine = settle_scoring_engine(engine, gpus)
    if engine is ScoringEngine.vllm and settings.tensor_parallel > max(1, gpus):
        raise UserError(f"tensor_parallel={settings.tensor_parallel}: there are {gpus} GPUs; set it to that or less")
    usual = min(VLLM_BATCH, VLLM_PICTURES * settings.answers) if engine is ScoringEngine.vllm else BATCH
    return replace(settings, engine=engine, batch=settings.batch or usual)


def check_answers(settings: AnswerSettings) -> None:
    """Raises UserError naming the setting and the remedy."""
    if settings.name is not None:
        check_name(settings.name)
    for name in ("k", "max_k", "max_tokens", "batch", "tensor_parallel", "threads"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise UserError(f"{name}={value}: set it to 1 or more")
    if not 0 < settings.temperature < math.inf:
        raise UserError(f"temperature={settings.temperature}: set it above 0; method=greedy takes the likeliest")
    _check_method(settings)
    if not 0 < settings.memory_share < 1:
        raise UserError(f"memory_share={settings.memory_share}: it is a share, above 0 and under 1")
    for name, usual in (("memory_share", 0.9), ("tensor_parallel", 1)):
        value = getattr(settings, name)
        if settings.engine is ScoringEngine.transformers and value != usual:
            raise UserError(f"{name}={value} has no effect with engine=transformers: vLLM is not asked. Leave it out")
    if settings.seed < 0:
        raise UserError(f"seed={settings.seed}: set it to 0 or more")
    if settings.prompt is not None:
        conversation(settings.method, settings.prompt)


def _check_method(settings: AnswerSettings) -> None:
    method, rule = settings.method.value, settings.stopping_rule()
    if settings.max_k is not None and not rule:
        raise UserError(f"max_k={settings.max_k} has no effect without until; give k={settings.max_k}, or until=0.05")
    for name in ("k", "until"):
        value = getattr(settings, name)
        if settings.method is Method.greedy and value is not None:
            raise UserError(
                f"{name}={value} has no effect with method=greedy, which asks once; leave it out, or set "
                "method=mean or method=expected"
            )
    if rule and settings.k is not None:
        raise UserError(f"k={settings.k} and until={settings.until} both say how many answers are drawn; leave one out")
    if not settings.method.draws:
        usual = {"k": None, "until": None, "temperature": 1.0, "max_tokens": AnswerSettings.max_tokens}
        usual |= {"reference": None} if settings.method is Method.votes else {"reference": None, "seed": 0}
        for name, value in usual.items():
            if getattr(settings, name) != value:
                raise UserError(
                    f"{name}={getattr(settings, name)} has no effect with method={method}, which draws no answers; "
                    "leave it out"
                )
    if settings.method not in (Method.greedy, Method.mean) and settings.engine is ScoringEngine.vllm:
        raise UserError(
            f"method={method} reads distributions off the policy, which vLLM does not give; set engine=transformers or "
            "auto, or method=mean"
        )
