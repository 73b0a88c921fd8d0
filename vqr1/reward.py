"""The rewards as TRL calls them: read the answers, gather small rows over the ranks, rank, keep this rank's rows.

TRL calls a reward function once per generation batch and rank, on that rank's answers. A ranking reward needs the
rivals on the other ranks too, so each rank contributes one small row per answer (no picture, no text) and every rank
ranks all of them: the rewards do not depend on how many ranks there are. Nothing here raises on one rank alone.

Policy for answers that cannot be read:

- they count in no mean and no variance, and are no rivals of others;
- an unreadable answer to a picture that can be compared earns ``unreadable_reward``;
- where there is no comparison (fewer than two readable answers, or no rival) all answers get None, which TRL counts as
  0 beside the format reward. Their advantages then come from the format alone.

One unreadable answer among K dominates its group's spread: with five answers near 0.8 and one at 0, the five share an
advantage of about +0.41 whatever their order. ``trainer.multi_objective_aggregation=normalize_then_sum`` standardises
each reward by itself before they are added. That keeps the order of answers of which one can be read but breaks the
format; beside an unreadable answer it changes next to nothing, for the 0 that this answer earns spreads the fidelity
by itself. With ``reward.unreadable_reward=null`` as well, such an answer is left out of the fidelity's comparison and
punished by the format alone, and the order of the others is kept.

Legend: B pictures, K answers to each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from vqr1.answer import follows_format, read_score
from vqr1.ranking import fidelity_reward, pair_accuracy
from vqr1.regression import regression_reward

LogMetric = Callable[[str, float], None]
AnswerRow = tuple[str, str, float, float | None, float | None]  # image_id, dataset, mos, mos_std, score


@dataclass(frozen=True)
class Answers:
    """A whole generation batch, picture by picture in the order of the sampler."""

    scores_BK: torch.Tensor  # float64; NaN where the answer cannot be read
    mos_B: torch.Tensor  # float64
    mos_std_B: torch.Tensor | None  # None where a picture has none
    dataset_B: torch.Tensor  # int64, one number per dataset
    dataset_names: tuple[str, ...]  # by that number

    @property
    def readable_BK(self) -> torch.Tensor:
        return ~self.scores_BK.isnan()


def as_answers(rows: Sequence[AnswerRow], k: int) -> Answers:
    """Rows of all ranks, in rank order, as tensors. The K rows of a picture are found by its ``image_id``."""
    by_image: dict[str, list[AnswerRow]] = {}
    for row in rows:
        by_image.setdefault(row[0], []).append(row)
    assert all(len(group) == k for group in by_image.values()), "a picture's K answers are not in one generation batch"
    names = tuple(dict.fromkeys(group[0][1] for group in by_image.values()))
    firsts = [group[0] for group in by_image.values()]
    stds = [row[3] for row in firsts]
    scores = [[math.nan if row[4] is None else row[4] for row in group] for group in by_image.values()]
    return Answers(
        scores_BK=torch.tensor(scores, dtype=torch.float64),
        mos_B=torch.tensor([row[2] for row in firsts], dtype=torch.float64),
        mos_std_B=None if None in stds else torch.tensor(stds, dtype=torch.float64),
        dataset_B=torch.tensor([names.index(row[1]) for row in firsts]),
        dataset_names=names,
    )


def texts_of(completions: Sequence[Any]) -> list[str]:
    """What was answered: TRL hands over conversations, one assistant message each."""
    return [c if isinstance(c, str) else c[-1]["content"] for c in completions]


class RankingReward:
    """The fidelity reward over all rivals of a generation batch (or one of its variants, by ``settings``).

    ``settings`` is the keyword arguments of :func:`vqr1.ranking.fidelity_reward`; ``cohort_size`` limits a picture's
    rivals to its cohort of that many consecutive pictures, as in the paper, and None makes all pictures of its dataset
    in the batch its rivals; ``use_mos_std`` derives the preference from the MOS and their spread.

    ``__name__`` is what TRL calls it, and its mean is logged as ``reward/<name>``: "fidelity" or "binary", by the
    settings' ``agreement``, and "regression" for :class:`RegressionReward`.
    """

    def __init__(
        self,
        k: int,
        *,
        cohort_size: int | None,
        use_mos_std: bool = False,
        unreadable_reward: float | None = 0.0,
        **settings: Any,
    ):
        self._k = k
        self._cohort_size = cohort_size
        self._use_mos_std = use_mos_std
        self._unreadable_reward = unreadable_reward
        self._settings = settings
        self.__name__ = str(settings.get("agreement", "fidelity"))

    def __call__(
        self,
        *,
        completions: Sequence[Any],
        image_id: Sequence[str],
        dataset: Sequence[str],
        mos: Sequence[float],
        mos_std: Sequence[float | None] | None = None,
        log_metric: LogMetric | None = None,
        **_: Any,
    ) -> list[float | None]:
        """This rank's rewards, one per answer, None where there is none. Collective.

        ``completions`` and the dataset's columns have an entry for each answer of this rank, the K of a picture
        together: ``image_id``, unique for a picture; ``dataset``, its set's name; ``mos``, on any scale, higher is
        better; ``mos_std``, which only ``use_mos_std`` needs. Raises ValueError where that is missing.
        """
        if mos_std is None:
            if self._use_mos_std:
                raise ValueError(
                    "use_mos_std=True needs a mos_std column in the dataset: add it, or leave use_mos_std out"
                )
            mos_std = [None] * len(mos)
        scores = [read_score(text) for text in texts_of(completions)]
        own = list(zip(image_id, dataset, mos, mos_std, scores, strict=True))
        rows: list[AnswerRow] = gather_object(own)
        answers = as_answers(rows, self._k)
        reward_BK = self.rank(answers)
        if log_metric is not None:
            for name, value in self.metrics(answers, reward_BK).items():
                log_metric(name, value)
        start = PartialState().process_index * len(own)
        return self._by_row(rows, answers, reward_BK)[start : start + len(own)]

    def rank(self, answers: Answers) -> torch.Tensor:
        """Rewards (B, K), NaN where there is no reward."""
        rivals_B = answers.dataset_B
        if self._cohort_size is not None:
            cohort_B = torch.arange(len(rivals_B)) // self._cohort_size
            rivals_B = cohort_B * len(answers.dataset_names) + rivals_B
        return fidelity_reward(
            answers.scores_BK,
            answers.mos_B,
            readable_BK=answers.readable_BK,
            dataset_B=rivals_B,
            mos_std_B=answers.mos_std_B if self._use_mos_std else None,
            **self._settings,
        )

    def _by_row(self, rows: Sequence[AnswerRow], answers: Answers, reward_BK: torch.Tensor) -> list[float | None]:
        """Rewards in the order of the rows, None where there is none."""
        comparable_B1 = ~reward_BK.isnan().all(dim=1, keepdim=True)
        unread = math.nan if self._unreadable_reward is None else self._unreadable_reward
        filled_BK = torch.where(answers.readable_BK, reward_BK, unread).masked_fill(~comparable_B1, math.nan)
        images = dict.fromkeys(row[0] for row in rows)  # in the order of the first dimension
        left = {name: iter(rewards) for name, rewards in zip(images, filled_BK.tolist(), strict=True)}
        return [None if math.isnan(reward := next(left[row[0]])) else reward for row in rows]

    def metrics(self, answers: Answers, reward_BK: torch.Tensor) -> dict[str, float]:
        """Figures of the whole batch, the same on every rank. NaN where there is nothing to measure."""
        readable_BK = answers.readable_BK
        known = answers.scores_BK[readable_BK]
        count_B = readable_BK.sum(1)
        # As distances from the largest score, so that equal scores have a spread of exactly zero.
        gap_BK = answers.scores_BK - answers.scores_BK.nan_to_num(nan=-math.inf).amax(1, keepdim=True)
        mean_B = gap_BK.nan_to_num().sum(1) / count_B
        square_B = ((gap_BK - mean_B[:, None]) ** 2).nan_to_num().sum(1)
        std_B = (square_B / (count_B - 1)).sqrt()[count_B > 1]
        means = answers.scores_BK.nanmean(1)[count_B > 0]
        pairs = pair_accuracy(answers.scores_BK, answers.mos_B, readable_BK=readable_BK, dataset_B=answers.dataset_B)
        return {
            f"reward/{self.__name__}": reward_BK[~reward_BK.isnan()].mean().item(),
            "reward/pair_accuracy": float(pairs),
            "reward/zero_spread": (std_B == 0).double().mean().item(),
            "reward/no_rival": reward_BK.isnan().all(dim=1).double().mean().item(),
            "rollout/score_mean": known.mean().item(),
            "rollout/score_std": std_B.mean().item(),
            "rollout/score_std_between": means.std().item() if len(means) > 1 else math.nan,
            "rollout/unreadable": (~readable_BK).double().mean().item(),
        }


class RegressionReward(RankingReward):
    """Q-Insight's baseline under the same interface: 1 within ``threshold`` of the rescaled MOS, else 0."""

    def __init__(
        self,
        k: int,
        *,
        ranges: dict[str, tuple[float, float]],
        threshold: float,
        unreadable_reward: float | None = 0.0,
    ):
        super().__init__(k, cohort_size=None, unreadable_reward=unreadable_reward)
        self.__name__ = "regression"
        self._ranges = ranges
        self._threshold = threshold

    def rank(self, answers: Answers) -> torch.Tensor:
        low_high = torch.tensor([self._ranges[name] for name in answers.dataset_names], dtype=torch.float64)
        low_B, high_B = low_high[answers.dataset_B].unbind(1)
        return regression_reward(
            answers.scores_BK,
            answers.mos_B,
            mos_low_B=low_B,
            mos_high_B=high_B,
            threshold=self._threshold,
            readable_BK=answers.readable_BK,
        )


class FormatReward:
    """1 where the answer has the form that was asked for and a score that can be read, else 0."""

    __name__ = "format"

    def __init__(self, thinking: bool):
        self._thinking = thinking

    def __call__(
        self, *, completions: Sequence[Any], log_metric: LogMetric | None = None, **_: Any
    ) -> list[float | None]:
        rewards = [float(follows_format(text, self._thinking)) for text in texts_of(completions)]
        if log_metric is not None:
            everywhere = gather_object(rewards)  # the mean of all, so that rounding does not depend on the ranks
            log_metric("reward/format", sum(everywhere) / len(everywhere))
        return list(rewards)
