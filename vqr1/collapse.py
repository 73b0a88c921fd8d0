"""Scores that collapse: what a run warns of while it learns, and a report afterwards."""

from __future__ import annotations

import math
from collections import deque
from statistics import fmean

ROUNDING = 1e-9  # of the deviation of equal scores


class CollapseWatch:
    """Warns, once, when all pictures begin to get the same score.

    Where opinion scores say nothing about the answers (shuffled labels, a policy that sees nothing), the reward's best
    is one score for every picture: every comparison is 1/2 then, and the fidelity sqrt(1/2). The spread between
    pictures falls first: to half of its start some twenty to fifty steps before all answers are one (docs/log.md).
    """

    METRIC = "rollout/score_std_between"
    WINDOW = 10  # steps of the means that are compared
    SHARE = 0.5

    def __init__(self) -> None:
        self._start: list[float] = []
        self._latest: deque[float] = deque(maxlen=self.WINDOW)
        self._warned = False

    def __call__(self, values: dict[str, float]) -> str | None:
        """The warning where the last steps' mean is under half of the first steps', else None."""
        between = values.get(self.METRIC)
        if between is None or self._warned:
            return None
        if len(self._start) < self.WINDOW:
            self._start.append(between)
            return None
        self._latest.append(between)
        first, now = fmean(self._start), fmean(self._latest)
        if len(self._latest) < self.WINDOW or now >= self.SHARE * first:
            return None
        self._warned = True
        return (
            f"warning: all pictures are coming to get the same score ({self.METRIC} was {first:.3f}, is "
            f"{now:.3f}). Look at the labels (orientation, shuffled rows), then at what the policy sees (its reasoning "
            "in answers.jsonl), then try a lower trainer.learning_rate"
        )


class EqualAnswersWatch:
    """Warns, once, when every picture got one score in all its answers for several steps: their advantages are all 0.

    A policy may begin so, and :class:`CollapseWatch`, which compares with the start, keeps still.
    """

    METRIC = "reward/zero_spread"
    STEPS = 10  # in a row, of those that are logged

    def __init__(self) -> None:
        self._count = 0
        self._warned = False

    def __call__(self, values: dict[str, float]) -> str | None:
        """The warning at the last of the steps, else None."""
        share = values.get(self.METRIC)
        if share is None or self._warned:
            return None
        self._count = self._count + 1 if share == 1 else 0
        if self._count < self.STEPS:
            return None
        self._warned = True
        same = values.get(CollapseWatch.METRIC, math.inf) < ROUNDING
        everywhere = ", the same for all pictures," if same else ""
        return (
            f"warning: the answers to each picture have all given one score{everywhere} for {self.STEPS} steps "
            f"({self.METRIC} is 1), so their scores teach nothing. Look at what the policy says (answers.jsonl), raise "
            "rollout.temperature, or begin with a policy whose answers differ"
        )
