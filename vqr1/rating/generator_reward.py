"""A reward for generators of pictures: how good each looks to the policy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from pathlib import Path
from typing import Any

import torch

from vqr1.errors import UserError
from vqr1.rating.inputs import FORMS, Picture, as_list
from vqr1.rating.rater import Rater, load_rater


class RewardModel:
    """Called as the trainers of DDPO and of Flow-GRPO call their rewards. Safe to call from several threads."""

    def __init__(self, rater: Rater, unreadable: float):
        self.rater = rater
        self.unreadable = unreadable

    def __call__(
        self, images: Iterable[Picture], prompts: Any = None, metadata: Any = None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """The scores (N,) of N pictures, float32 without a gradient, and what the policy said.

        Args:
            images: a tensor (N, 3, H, W) in [0, 1], an array (N, H, W, 3) of uint8, or a list of what a rater takes.
            prompts, metadata: not looked at. The score is of how a picture looks, not of what it shows.

        The scores are on the device of the tensor. ``info["ratings"]`` has the N ratings, ``info["unreadable"]`` how
        many of them are without a score: these are rewarded by what was chosen for them. Raises UserError for pictures
        of another shape, type or range, with NaN among them or with a gradient, and for one that cannot be opened.
        """
        tensor = images if isinstance(images, torch.Tensor) else None
        listed, alone = as_list(images)
        if any(isinstance(each, torch.Tensor) and each.requires_grad for each in listed):
            raise UserError(
                "the pictures carry a gradient, and a score has none: a reward that is differentiated (ReFL, "
                "AlignProp) is not to be had here. For DDPO or Flow-GRPO draw them under torch.no_grad()"
            )
        if alone:
            raise UserError(f"a reward is of a batch, and this is one picture: {FORMS}")
        ratings = self.rater(listed)
        for rating in ratings:
            if rating.status == "failed":
                raise UserError(rating.reasoning)
        scores = [self.unreadable if rating.score is None else rating.score for rating in ratings]
        info = {"ratings": ratings, "unreadable": sum(rating.score is None for rating in ratings)}
        return torch.tensor(scores, dtype=torch.float32, device=None if tensor is None else tensor.device), info


def reward_model(
    model: str | Path | None = None, *, unreadable: float, engine: str | None = None, **settings: Any
) -> RewardModel:
    """A reward for trainers of generators: ``reward(images, prompts, metadata) -> (scores, info)``.

    Args:
        model: as for :func:`vqr1.load_rater`. It is loaded on the process's current GPU, beside the generator.
        unreadable: the reward of a picture without a readable answer, of which there is no usual one: 1.0 is the worst
            score. NaN spoils the whole batch of a trainer that does not leave it out.
        engine: transformers unless given; vllm takes a share of the GPU (``memory_share``) that the generator needs.
        settings: of :func:`vqr1.load_rater`, such as ``k``, ``batch`` and ``server``, which answers in its stead.

    Raises what :func:`vqr1.load_rater` raises, and UserError for ``unreadable`` that is no number.

        reward = vqr1.reward_model("runs/NAME", unreadable=1.0)
        scores, info = reward(torch.rand(2, 3, 112, 112))
    """
    if isinstance(unreadable, bool) or not isinstance(unreadable, Real) or math.isinf(unreadable):
        raise UserError(f"unreadable={unreadable!r}: the reward of a picture without a readable answer is a number")
    engine = engine or ("auto" if settings.get("server") else "transformers")
    return RewardModel(load_rater(model, engine=engine, **settings), float(unreadable))
