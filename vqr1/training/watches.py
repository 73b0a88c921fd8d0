"""What can go wrong while a run learns: answers that cannot be read, numbers that are none."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from vqr1.errors import UserError

SHOWN = 8  # pictures in a message
MOSTLY = 0.9  # of the answers


def all_finite(model: torch.nn.Module, gather: Callable[[torch.Tensor], torch.Tensor]) -> bool:
    """Whether every trained weight is a number, on all ranks; each looks at its share of them. Collective."""
    shares = [_own_share(weight) for weight in model.parameters() if weight.requires_grad]
    norm = torch.nn.utils.get_total_norm(shares)
    device = shares[0].device if shares else torch.device("cpu")
    return bool(gather(norm.detach().to(device).reshape(1)).isfinite().all())


def _own_share(weight: Any) -> torch.Tensor:
    """What of a weight is on this rank: ZeRO-3 keeps it beside the parameter, which is empty; FSDP2's is a DTensor."""
    if hasattr(weight, "ds_tensor"):
        return weight.ds_tensor
    return weight.to_local() if hasattr(weight, "to_local") else weight


class NonFiniteError(UserError):
    """A loss, gradient or weight is infinite or no number. Raised on every rank, before it reaches a checkpoint."""

    def __init__(self, step: int, what: str, pictures: Sequence[str] = ()):
        names = list(dict.fromkeys(pictures))
        more = f" and {len(names) - SHOWN} others" if len(names) > SHOWN else ""
        among = f" Its pictures: {', '.join(names[:SHOWN])}{more}." if names else ""
        super().__init__(
            f"step {step}: {what}.{among} No checkpoint was made of it; the last one "
            "and best/ are as they were. Lower trainer.learning_rate, lower trainer.max_grad_norm, or set policy.dtype "
            "to float32 (or bfloat16)"
        )


class UnreadableError(UserError):
    """No answer could be read for as many steps as ``rollout.stop_unreadable`` allows."""


class UnreadableWatch:
    """Warns of the first step without an answer to learn from, and stops a run after ``limit`` of them in a row.

    ``limit`` of None or 0 never stops. Both methods are called with the number of steps taken: :meth:`before` answers
    are drawn, so that a checkpoint can be made where it raises, and :meth:`after`.
    """

    def __init__(self, limit: int | None, say: Callable[[str], None]):
        self._limit = limit
        self._say = say
        self._since: int | None = None  # the steps taken before the first of those in a row
        self._cause = ""
        self._warned = False

    def before(self, step: int) -> None:
        """Raises UnreadableError where the steps in a row are as many as ``limit``."""
        if self._limit and self._since is not None and step - self._since >= self._limit:
            raise UnreadableError(
                f"no answer could be learnt from in {step - self._since} steps in a row (rollout.stop_unreadable): "
                f"{self._cause}"
            )

    def after(self, step: int, unreadable: float, clipped: float, cut_are_masked: bool) -> None:
        """``unreadable`` and ``clipped``: shares of the answers just drawn, on all ranks.

        ``cut_are_masked``: whether answers that were cut are not learnt from, readable or not.
        """
        if unreadable < 1 and not (cut_are_masked and clipped == 1):
            self._since = None
            return
        if self._since is None:
            self._since = step
        if clipped >= MOSTLY:
            self._cause = f"{clipped:.0%} of the answers were cut (rollout/clipped); raise rollout.max_tokens"
        else:
            self._cause = (
                "the policy does not give the form that is asked for; look at what it says (answers.jsonl), then at "
                "rollout.prompt, the policy's chat template and policy.path"
            )
        if not self._warned:
            self._warned = True
            self._say(f"warning: no answer of step {step + 1} can be learnt from: {self._cause}")


def equal_rewards(rewards_RF: torch.Tensor, weights_F: torch.Tensor, k: int, one_by_one: bool) -> torch.Tensor:
    """Which of R answers are to a picture whose ``k`` answers all earn the same, to float32's last digit: (R,) bool.

    Their advantages are exactly 0. TRL's are what float32 rounds of the mean, divided by 1e-4: some +-0.001 for K of
    3, 6 or 8, and alone in a batch that is a whole step for Adam. What is compared is the weighted sum; with
    ``one_by_one``, as where each reward is standardised by itself, every function's reward. NaN counts nowhere.
    """
    if one_by_one:
        compared = rewards_RF[:, weights_F != 0]
    else:
        compared = (rewards_RF * weights_F).nansum(1).masked_fill(rewards_RF.isnan().all(1), math.nan)[:, None]
    groups = compared.view(-1, k, compared.shape[1])
    low = torch.where(groups.isnan(), math.inf, groups).amin(1)
    high = torch.where(groups.isnan(), -math.inf, groups).amax(1)
    rounding = torch.finfo(groups.dtype).eps * torch.maximum(low.abs(), high.abs())
    return (high - low <= rounding).all(1).repeat_interleave(k)
