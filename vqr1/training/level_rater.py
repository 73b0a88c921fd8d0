"""Evaluation by levels: a picture's score and spread from the probabilities of the five words, one pass a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from vqr1.data.pictures import load_many
from vqr1.data.sample import Sample
from vqr1.levels import ENDING, LEVELS, OPENING, level_score
from vqr1.training.evaluator import ReadRatings, in_batches


class LevelSource(Protocol):
    """Anything that knows the probabilities of the five words: the trainer with its current weights."""

    def level_log_probabilities(
        self, prompt: list[dict[str, str]], pictures: Sequence[Image.Image]
    ) -> list[list[float]]: ...


class LevelRater:
    """Rates sets of pictures by the words' probabilities. Nothing is drawn, so nothing depends on a seed."""

    def __init__(
        self,
        source: LevelSource,
        load: Callable[[str], Image.Image],
        prompt: list[dict[str, str]],
        *,
        batch: int,
        before_batch: Callable[[], None] = lambda: None,
    ):
        """``before_batch`` is called before every batch, on every rank, and may raise on all."""
        self._source = source
        self._load = load
        self._prompt = prompt
        self._batch = batch
        self._before_batch = before_batch

    def rate(
        self,
        name: str,
        samples: Sequence[Sample],
        k: int,
        temperature: float | None = None,
        advance: Callable[[int], None] = lambda pictures: None,
    ) -> ReadRatings:
        """One rating of each picture of the set ``name``; ``k`` is 1, and there is no temperature. Collective."""
        assert k == 1 and temperature is None

        def words(batch: int, indices: range) -> list[list[float]]:
            pictures = load_many(self._load, [samples[i].image for i in indices])
            return self._source.level_log_probabilities(self._prompt, pictures)

        found = level_score(np.array(in_batches(len(samples), self._batch, words, self._before_batch, advance)))
        texts = [[f"{OPENING} {LEVELS[best]}{ENDING}"] for best in found.probabilities.argmax(1)]
        return ReadRatings(samples, texts, found.score[:, None], found.std)
