"""Every figure, text and picture that a run logs: its name, what it means, and which of its values sums a run up.

``{set}`` in a name stands for an evaluated set: a dataset's validation pictures have its name, its test pictures
``<dataset>_test``, and the demonstration's start policy rates these as ``<dataset>_test_at_0.3`` once more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar


@dataclass(frozen=True)
class Metric:
    """``best``: the largest or the smallest value sums a run up; None: the last one does."""

    meaning: str
    unit: str
    best: Literal["max", "min"] | None = None


# metrics.jsonl: the same for two runs with one seed.
METRICS: dict[str, Metric] = {
    "train/reward": Metric("mean over answers of the weighted sum of rewards", "reward"),
    "train/reward_std": Metric("standard deviation of that sum over the answers of a step", "reward"),
    "train/loss": Metric("the loss; where answers are drawn near 0 by construction, so no measure of progress", "loss"),
    "train/token_accuracy": Metric(
        "share of shown answers' tokens that were the likeliest; not with soft levels", "share"
    ),
    "train/lr": Metric("learning rate", "rate"),
    "train/grad_norm": Metric("norm of the gradient before it is clipped", "norm"),
    "reward/fidelity": Metric("mean fidelity reward (1 is best); with reward.agreement=fidelity", "reward"),
    "reward/binary": Metric("share of comparisons in the right order; with reward.agreement=binary", "share"),
    "reward/regression": Metric("share of answers near the opinion score; with reward.kind=regression", "share"),
    "reward/format": Metric("share of answers in the form that was asked for", "share"),
    "reward/pair_accuracy": Metric("share of pairs of pictures whose mean scores are in the right order", "share"),
    "reward/zero_spread": Metric("share of pictures whose answers all give one score", "share"),
    "reward/no_rival": Metric("share of pictures without a picture to compare them with", "share"),
    "levels/cross_entropy": Metric("cross-entropy of the soft label of the level's word", "nats"),
    "levels/text": Metric("mean negative log-probability of the answer's other tokens; soft levels", "nats"),
    "levels/pair": Metric("fidelity loss of pairs of pictures; with levels.pair_weight", "loss"),
    "rollout/score_mean": Metric("mean of the readable scores", "score"),
    "rollout/score_std": Metric("mean over pictures of the standard deviation of their scores", "score"),
    "rollout/score_std_between": Metric("standard deviation of the pictures' mean scores", "score"),
    "rollout/unreadable": Metric("share of answers without a readable score", "share"),
    "rollout/length": Metric("mean length of an answer", "tokens"),
    "rollout/length_max": Metric("length of the longest answer", "tokens"),
    "rollout/clipped": Metric("share of answers that end at rollout.max_tokens", "share"),
    "policy/kl": Metric("mean over tokens of the KL divergence from the start policy, unless beta is 0", "nats"),
    "policy/entropy": Metric("mean entropy of the next token", "nats"),
    "policy/clip": Metric("share of tokens whose ratio is clipped; 0 with one update to a generation", "share"),
    "policy/clip_low": Metric("share of tokens clipped from below", "share"),
    "policy/clip_high": Metric("share of tokens clipped from above", "share"),
    "canary/logp_difference": Metric("mean difference between vLLM's and the trainer's log-probabilities", "nats"),
    "canary/logp_difference_max": Metric("the largest such difference of a token", "nats"),
    "canary/importance_ratio": Metric("mean ratio of the trainer's to vLLM's probabilities", "ratio"),
    "eval/{set}/srcc": Metric("rank correlation (Spearman) of mean scores with opinion scores", "correlation", "max"),
    "eval/{set}/plcc": Metric("linear correlation (Pearson) of mean scores with opinion scores", "correlation", "max"),
    "eval/{set}/srcc_low": Metric("lower end of the SRCC's 95 % interval", "correlation"),
    "eval/{set}/srcc_high": Metric("upper end of the SRCC's 95 % interval", "correlation"),
    "eval/{set}/plcc_low": Metric("lower end of the PLCC's 95 % interval", "correlation"),
    "eval/{set}/plcc_high": Metric("upper end of the PLCC's 95 % interval", "correlation"),
    "eval/{set}/score_std": Metric(
        "mean over pictures of the standard deviation of their scores, or of a drawn level; not of comparisons", "score"
    ),
    "eval/{set}/unreadable": Metric("share of answers without a readable score; where answers are drawn", "share"),
    "eval/{set}/n": Metric("number of pictures", "pictures"),
}

# timings.jsonl: what differs from run to run.
TIMINGS: dict[str, Metric] = {
    "speed/step_seconds": Metric("duration of a step, without its evaluation", "s"),
    "speed/answers_per_second": Metric("answers of a step by its duration", "1/s"),
    "speed/tokens_per_second": Metric("tokens of prompts and answers of a step by its duration", "1/s"),
    "speed/generate_share": Metric("share of a step's duration in which answers are generated", "share"),
    "speed/logging_share": Metric("share that logging takes: seconds since the line before by the step's", "share"),
    "speed/evaluation_seconds": Metric("duration of an evaluation", "s"),
}

# Texts, tables and pictures of wandb and TensorBoard; the pictures only where logger.pictures is on.
MEDIA: dict[str, str] = {
    "samples/answers": "pictures of a training step with their answers, scores, rewards and advantages",
    "samples/pictures": "these pictures",
    "probes/answers": "the probe pictures of an evaluation with their answers",
    "probes/pictures": "the probe pictures, at the end of the run",
    "figures/curves": "curves.png, at the end of the run",
    "figures/reasoning": "reasoning.png, at the end of the run, where pictures are logged",
    "tables/final": "figures of each evaluated set at the start and at the end",
}

T = TypeVar("T")


def described(name: str, known: Mapping[str, T]) -> T | None:
    """What ``known`` (METRICS, TIMINGS) says of the figure ``name``; None where it has no such figure."""
    return next((said for pattern, said in known.items() if as_regex(pattern).fullmatch(name)), None)


def as_regex(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(re.escape("{set}"), "[^/]+"))
