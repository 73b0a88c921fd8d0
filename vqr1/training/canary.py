"""The canary: do vLLM and the trained model agree on how probable the drawn tokens are?

Everything that can go wrong between the two (another picture, stale weights or encodings, other sampling, another
precision) shows as a difference of their log-probabilities on the same tokens, long before it shows in the scores.
"""

from __future__ import annotations

from collections.abc import Callable

from vqr1.rollout.engine import RolloutError

LOGP_DIFFERENCE = "sampling/sampling_logp_difference/mean"  # TRL's name of what is watched

CAUSES = (
    "vLLM answers as another policy than the one that is trained: other pictures or prompts, weights or encodings that "
    "were not renewed, or much lower precision. Compare versions with pyproject.toml and look at the processor files"
)


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
        found = (
            f"after step {step}: canary/logp_difference is {difference:.3f}, over "
            f"rollout.vllm.canary_limit={self._limit}. {CAUSES}"
        )
        if self._stop:
            raise RolloutError(f"{found}. rollout.vllm.canary_stop=false goes on")
        if not self._warned:
            self._warned = True
            self._say(f"warning: {found}")
