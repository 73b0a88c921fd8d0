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

LOGP_DIFFERENCE = "canary/logp_difference"

CAUSES = (
    "vLLM answers as another policy than the one that is trained: other pictures or prompts, weights or encodings that "
    "were not renewed, or much lower precision. Compare versions with pyproject.toml and look at the processor files"
)


def logp_difference(scored: dict[str, Any], gather: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Mean absolute difference of both log-probabilities over all ranks' tokens; 0 where nothing was drawn. Collective.

    NaN where a token has none in vLLM or in the trained model. TRL's own figure leaves such tokens out, and is 0 where
    no other is left.
    """
    drawn = scored["completion_mask"].bool()
    difference = (scored["old_per_token_logps"] - scored["sampling_per_token_logps"])[drawn].abs()
    total, count = gather(torch.stack([difference.sum(), drawn.sum()])[None]).sum(0).tolist()
    return total / count if count else 0.0


class Canary:
    """Watches the mean absolute difference of log-probabilities of every generation batch, from the first one on.

    Over ``limit`` it raises RolloutError, before anything is learnt from that batch, or where ``stop`` is False
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
