"""How far a run has come, by its lines in metrics.jsonl."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reached:
    """The last step that has a line in metrics.jsonl, and the last that was evaluated; -1 for none."""

    step: int = -1
    evaluation: int = -1

    @staticmethod
    def of(rows: Sequence[dict[str, Any]]) -> Reached:
        evaluated = [row["step"] for row in rows if is_evaluation(row)]
        trained = [row["step"] for row in rows if not is_evaluation(row)]
        return Reached(max(trained, default=-1), max(evaluated, default=-1))

    def or_later(self, other: Reached) -> Reached:
        return Reached(max(self.step, other.step), max(self.evaluation, other.evaluation))

    def at_most(self, step: int) -> Reached:
        return Reached(min(self.step, step), min(self.evaluation, step))


def is_evaluation(row: dict[str, Any]) -> bool:
    """Whether a line of metrics.jsonl is an evaluation's."""
    return any(key.startswith("eval/") for key in row)
