"""Pictures with the levels' words as examples: what is shown of a picture, and as the tensors that a step reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vqr1.config import Config, LevelLabels
from vqr1.data import Sample, find_spec
from vqr1.errors import UserError
from vqr1.levels import level_of, on_level_scale, soft_label
from vqr1.policy.level_scores import LevelAnswers
from vqr1.policy.read_once import of_rows
from vqr1.rollout.offline import encode_prompts
from vqr1.training.shown_examples import digests_by_set, with_answers


def build_question(text: str) -> list[dict[str, str]]:
    """The conversation that asks for a level: one user message, before whose text TRL puts the image."""
    return [{"role": "user", "content": text}]


@dataclass(frozen=True)
class Levels:
    """What is taught of N pictures, by their ``image_id``."""

    level: dict[str, int]  # 1 to 5
    soft: dict[str, np.ndarray] | None  # (5,) each; None where levels are hard
    std: dict[str, float]  # of the ratings, on the scale of the levels; empty where levels are hard
    mos: dict[str, float]  # on the scale of the levels
    number: dict[str, int]  # of the datasets

    @classmethod
    def of(cls, config: Config, samples: Sequence[Sample]) -> Levels:
        """Raises UserError for a set whose scale is open, or that has no spread where labels are soft."""
        root = Path(config.data.root).expanduser()
        ranges = {name: find_spec(name, root).range for name in config.data.train}
        for name, ends in ranges.items():
            if not np.isfinite(ends).all():
                raise UserError(
                    f"objective=levels cuts the scale of {name} into five, and one of its ends is open: give both in "
                    "its dataset.yaml"
                )
        soft = config.levels.labels is LevelLabels.soft
        without = next((s for s in samples if s.mos_std is None), None) if soft else None
        if without is not None:
            raise UserError(
                f"levels.labels=soft needs the spread of the ratings, and {without.image_id} has none; use hard"
            )
        low, high = np.array([ranges[s.dataset] for s in samples]).T
        names = [s.image_id for s in samples]
        mos = np.array([s.mos for s in samples])
        spread = np.array([s.mos_std or 0.0 for s in samples])
        on_scale, std = on_level_scale(mos, spread, low, high)
        return cls(
            level=dict(zip(names, level_of(mos, low, high).tolist(), strict=True)),
            soft=dict(zip(names, soft_label(on_scale, std), strict=True)) if soft else None,
            std=dict(zip(names, std.tolist(), strict=True)) if soft else {},
            mos=dict(zip(names, on_scale.tolist(), strict=True)),
            number={name: i for i, name in enumerate(config.data.train)},
        )

    def digests(self) -> dict[str, str]:
        """Of what is taught of each set's pictures. Labels are solved for: their last digits are the machine's."""
        return digests_by_set(
            (name.split("/")[0], [name, level] if self.soft is None else [name, self.soft[name].round(6).tolist()])
            for name, level in self.level.items()
        )


class LevelCollator:
    """Makes a batch of rows of the training set (``image``, ``prompt``, ``image_id``, ``dataset``).

    Hard labels: TRL's ``input_ids``, ``labels`` (-100 outside of the answer) and the pictures. Soft labels: the prompts
    alone, with ``soft_label`` (B, 5), and ``mos`` and ``mos_std`` on the scale of the levels.
    """

    def __init__(self, processor: Any, answers: LevelAnswers, levels: Levels):
        self._processor = processor
        self._answers = answers
        self._levels = levels

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        inputs = encode_prompts(self._processor, rows)
        grid = inputs["image_grid_thw"]
        pictures = of_rows(inputs["pixel_values"], grid, inputs.pop("picture").tolist())
        names = [row["image_id"] for row in rows]
        batch = {**inputs, "pixel_values": torch.cat(pictures), "image_id": names}
        levels = self._levels
        if levels.soft is not None:
            return {
                **batch,
                "soft_label": torch.tensor(np.stack([levels.soft[name] for name in names]), dtype=torch.float32),
                "mos": torch.tensor([levels.mos[name] for name in names]),
                "mos_std": torch.tensor([levels.std[name] for name in names]),
                "dataset": torch.tensor([levels.number[row["dataset"]] for row in rows]),
            }
        answers = [self._answers.answers[levels.level[name] - 1] for name in names]
        return with_answers(batch, answers, self._processor.tokenizer.pad_token_id)
