"""The canary: do vLLM and the trained model agree on how probable the drawn tokens are?

Everything that can go wrong between the two (another picture, stale weights or encodings, other sampling, another
precision) shows as a difference of their log-probabilities on the same tokens, long before it shows in the scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from vqr1.rollout.engine import RolloutError

LOGP_DIFFERENCE, LARGEST = "canary/logp_difference", "canary/logp_difference_max"
RATIO = "sampling/importance_sampling_ratio/mean"  # TRL's name

CAUSES = (
    "vLLM answers as another policy than the one that is trained: other pictures or prompts, weights or encodings that "
    "were not renewed, or much lower precision. Compare versions with pyproject.toml and look at the processor files"
)


Gather = Callable[[torch.Tensor], torch.Tensor]  # of every rank's rows


def logp_difference(scored: dict[str, Any], gather: Gather) -> tuple[float, float]:
    """Mean and largest absolute difference of both log-probabilities over all ranks' tokens. Collective.

    0 where nothing was drawn, NaN where a token has none in vLLM or in the trained model. TRL's own figures leave such
    tokens out, and are 0 where no other is left.
    """
    return _mean_and_largest(gather(_differences(scored["old_per_token_logps"], scored)[None]))


def _differences(logps_RS: torch.Tensor, batch: dict[str, Any]) -> torch.Tensor:
    """Of the absolute differences from vLLM's log-probabilities of the tokens drawn: sum, number, largest. (3,)."""
    drawn = batch["completion_mask"].bool()
    difference = (logps_RS - batch["sampling_per_token_logps"])[drawn].abs()
    largest = difference.max() if len(difference) else difference.sum()
    return torch.stack([difference.sum(), drawn.sum(), largest])


def _mean_and_largest(differences_W3: torch.Tensor) -> tuple[float, float]:
    total, count = differences_W3[:, :2].sum(0).tolist()
    return (total / count if count else 0.0), float(differences_W3[:, 2].max())


def importance_ratio(
    logps_RS: torch.Tensor, batch: dict[str, Any], mode: str, low: float | None, high: float | None
) -> torch.Tensor:
    """The policy's probability of what was drawn over vLLM's: of each token, (R, S), or of each answer, (R, 1).

    ``mode`` is one of :class:`vqr1.rollout_settings.Correction`: a ratio out of ``low`` to ``high`` becomes the nearer
    of them (truncate), or 0 (mask). 1 where there is no token, or where vLLM gives it no probability. TRL's, which has
    no function for it.
    """
    level, remedy = mode.split("_")
    difference = ((logps_RS - batch["sampling_per_token_logps"]) * batch["completion_mask"]).nan_to_num(nan=0.0)
    ratio = (difference if level == "token" else difference.sum(-1, keepdim=True)).exp()
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    if remedy == "truncate":
        return ratio.clamp(low, high)
    return ratio.masked_fill((ratio < low) | (ratio > high), 0.0)


class PassByPass:
    """Difference and importance ratio of a generation batch, of which every training pass scores a part."""

    def __init__(self) -> None:
        self._parts: list[torch.Tensor] = []

    def add(self, logps_RS: torch.Tensor, batch: dict[str, Any], ratio: torch.Tensor) -> None:
        """Of a part: the policy's log-probabilities, TRL's micro-batch, and :func:`importance_ratio` of both."""
        kept = ratio[batch["completion_mask"].bool()] if ratio.shape == logps_RS.shape else ratio.flatten()
        self._parts.append(torch.stack([*_differences(logps_RS, batch), kept.sum(), kept.new_tensor(kept.numel())]))

    def take(self, gather: Gather) -> tuple[tuple[float, float], float]:
        """:func:`logp_difference` and TRL's mean ratio, of each rank and then of all. Forgets the batch. Collective."""
        parts_P5 = torch.stack(self._parts)
        own_5 = torch.cat([parts_P5[:, :2].sum(0), parts_P5[:, 2:3].amax(0), parts_P5[:, 3:].sum(0)])
        all_W5 = gather(own_5[None])
        self._parts.clear()
        return _mean_and_largest(all_W5[:, :3]), float((all_W5[:, 3] / all_W5[:, 4].clamp(min=1)).mean())


class Canary:
    """Watches the mean absolute difference of log-probabilities of every generation batch, from the first one on.

    Over ``limit`` it raises RolloutError, before the optimiser's step that the batch is for, or where ``stop`` is False
    warns, once. NaN counts as over the limit.
    """

    def __init__(self, limit: float, stop: bool, say: Callable[[str], None]):
        self._limit = limit
        self._stop = stop
        self._say = say
        self._warned = False

    def __call__(self, step: int, difference: float) -> None:
        if difference <= self._limit:
            return
        why = f", over rollout.vllm.canary_limit={self._limit}"
        if math.isnan(difference):
            why = ": there are tokens that vLLM or the trained model, whose weights may be NaN, gives no probability"
        found = f"after step {step}: canary/logp_difference is {difference:.3f}{why}. {CAUSES}"
        if self._stop:
            raise RolloutError(f"{found}. rollout.vllm.canary_stop=false goes on")
        if not self._warned:
            self._warned = True
            self._say(f"warning: {found}")
