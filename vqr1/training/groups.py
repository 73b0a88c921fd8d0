"""The answers of a generation batch, K to a picture in a row: another order for them, and a few of them to look at."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vqr1.answer import read_score

TIMES = 100  # a run at most
LETTERS = 24_000  # of the answers to a picture


def shuffled_groups(batch: dict[str, Any], k: int) -> dict[str, Any]:
    """Rows in another order, every ``k`` in a row together as they were. Draws from torch's global generator."""
    groups = torch.randperm(len(batch["prompt_ids"]) // k)
    order = (groups[:, None] * k + torch.arange(k)).flatten()

    def shuffled(values: Any) -> Any:
        if isinstance(values, torch.Tensor):
            return values[order] if values.ndim else values
        return [values[i] for i in order.tolist()]

    return {name: shuffled(values) for name, values in batch.items()}


class FirstGroups:
    """The first pictures of this rank's newest generation batch, with all that was made of their answers.

    ``count`` pictures with ``k`` answers each; ``decode`` makes texts of rows of token ids.
    """

    def __init__(self, count: int, k: int, decode: Callable[[Any], list[str]]):
        self._rows = count * k
        self._k = k
        self._decode = decode
        self._newest: tuple[list[dict[str, Any]], torch.Tensor, list[float], list[float]] | None = None

    def take(self, examples: list[dict[str, Any]], ids_RS: torch.Tensor, reward_R: Any, advantage_R: Any) -> None:
        """Keep the first rows of a batch of R answers: the dataset's, token ids, rewards in all, advantages."""
        n = self._rows
        fields = ("dataset", "image_id", "mos", "prompt")
        kept = [{name: example[name] for name in fields} for example in examples[:n]]
        self._newest = kept, ids_RS[:n], reward_R[:n].tolist(), advantage_R[:n].tolist()

    def samples(self) -> list[dict[str, Any]]:
        """A row for each of these pictures, as samples.jsonl has it but for step and picture. Empty before a batch.

        Texts are cut where a picture's would be longer than LETTERS together.
        """
        if self._newest is None:
            return []
        examples, ids, rewards, advantages = self._newest
        texts = self._decode(ids)
        found = []
        for first in range(0, len(examples), self._k):
            group = slice(first, first + self._k)
            example = examples[first]
            found.append(
                {
                    "set": example["dataset"],
                    "image_id": example["image_id"],
                    "prompt": example["prompt"][-1]["content"],
                    "mos": example["mos"],
                    "answers": [text[: LETTERS // self._k] for text in texts[group]],
                    "scores": [read_score(text) for text in texts[group]],
                    "rewards": rewards[group],
                    "advantages": advantages[group],
                }
            )
        return found


class SampleCallback(TrainerCallback):
    """Logs answers of the steps that are evaluated and of the last one, with the step's other lines.

    ``every``: steps between evaluations, 0 for none before the last step; some are left out where there would be more
    than TIMES. ``pictures``: the file of each picture by its ``image_id``. ``keep`` copies one into the run folder and
    says where; ``log`` takes step and rows.
    """

    def __init__(
        self,
        every: int,
        groups: FirstGroups,
        pictures: Mapping[str, str | Path],
        keep: Callable[[str | Path], str],
        log: Callable[[int, list[dict[str, Any]]], None],
    ):
        self._every = every
        self._groups = groups
        self._pictures = pictures
        self._keep = keep
        self._log = log

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        step, steps = state.global_step, state.max_steps
        every = self._every * math.ceil(steps / self._every / TIMES) if self._every else steps
        if step % every == 0 or step == steps:
            rows = self._groups.samples()
            self._log(
                step, [{"step": step, **row, "picture": self._keep(self._pictures[row["image_id"]])} for row in rows]
            )
