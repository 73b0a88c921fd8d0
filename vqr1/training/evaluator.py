"""Evaluation: named sets of pictures, rated by the current weights.

It changes nothing: answers are drawn from a forked random state that depends only on the seed, the set and the place
in the set, so the same weights give the same ratings, on one rank or several, and training goes on as if it had not
been there. TRL's own evaluation is left alone: it wraps batches round and repeats pictures.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from PIL import Image

from vqr1.answer import read_score
from vqr1.data.pictures import load_shown
from vqr1.data.sample import Sample
from vqr1.evaluation.bootstrap import correlation_intervals
from vqr1.evaluation.correlation import plcc, srcc


@dataclass(frozen=True)
class Ratings:
    """K answers to each of N pictures. A score is NaN where the answer cannot be read; none is imputed."""

    samples: Sequence[Sample]
    texts: list[list[str]] = field(repr=False)  # N lists of K
    scores_NK: np.ndarray

    @property
    def rated(self) -> np.ndarray:
        """Which pictures have a readable answer, (N,) bool; the others enter no correlation."""
        return ~np.isnan(self.scores_NK).all(axis=1)

    @property
    def predictions(self) -> np.ndarray:
        """The mean readable score of each rated picture."""
        return np.nanmean(self.scores_NK[self.rated], axis=1)

    @property
    def mos(self) -> np.ndarray:
        """The opinion scores of the rated pictures."""
        return np.array([sample.mos for sample in self.samples])[self.rated]

    def score_std(self) -> float:
        """Mean over pictures of the standard deviation of their readable scores (the paper's Figure 3)."""
        several = (~np.isnan(self.scores_NK)).sum(axis=1) > 1
        return float(np.nanstd(self.scores_NK[several], axis=1, ddof=1).mean()) if several.any() else float("nan")

    def metrics(self) -> dict[str, float]:
        """The figures of a set, with the correlations' 95 % intervals from 1,000 bootstrap rounds over pictures."""
        (srcc_low, srcc_high), (plcc_low, plcc_high) = correlation_intervals(self.predictions, self.mos)
        return {
            "srcc": srcc(self.predictions, self.mos),
            "srcc_low": srcc_low,
            "srcc_high": srcc_high,
            "plcc": plcc(self.predictions, self.mos),
            "plcc_low": plcc_low,
            "plcc_high": plcc_high,
            "score_std": self.score_std(),
            "unreadable": float(np.isnan(self.scores_NK).mean()),
            "n": len(self.samples),
        }


@dataclass(frozen=True)
class ReadRatings(Ratings):
    """One score of each of N pictures, of probabilities that are read: no answer is drawn, so none is unreadable."""

    std_N: np.ndarray | None = None  # of the words that could be drawn; None where a score is no word's

    def metrics(self) -> dict[str, float]:
        """As of answers, less the figures that only drawn ones have."""
        figures = super().metrics()
        del figures["score_std"], figures["unreadable"]
        return figures if self.std_N is None else {**figures, "score_std": float(self.std_N.mean())}


class AnswerSource(Protocol):
    """Anything that answers: the trainer with its current weights, or a policy by itself."""

    def answer(self, examples: Sequence[dict[str, Any]], temperature: float | None = None) -> list[str]: ...


class Rater(Protocol):
    """Anything that rates named sets of pictures. Collective: all ranks call it and get all ratings."""

    def rate(
        self,
        name: str,
        samples: Sequence[Sample],
        k: int,
        temperature: float | None = None,
        advance: Callable[[int], None] = lambda pictures: None,
    ) -> Ratings: ...


class Evaluator:
    """Rates sets of pictures with whatever answers."""

    def __init__(
        self,
        answerer: AnswerSource,
        load: Callable[[str], Image.Image],
        prompt: list[dict[str, str]],
        *,
        batch: int,
        seed: int,
        before_batch: Callable[[], None] = lambda: None,
    ):
        """``before_batch`` is called before every batch, on every rank, and may raise on all."""
        self._answerer = answerer
        self._load = load
        self._prompt = prompt
        self._batch = batch
        self._seed = seed
        self._before_batch = before_batch

    def rate(
        self,
        name: str,
        samples: Sequence[Sample],
        k: int,
        temperature: float | None = None,
        advance: Callable[[int], None] = lambda pictures: None,
    ) -> Ratings:
        """``k`` answers to each picture of the set ``name``. Collective: all ranks call it and get all ratings.

        ``advance`` is told how many more pictures are done.
        """
        pictures = max(1, self._batch // k)

        def answers(batch: int, indices: range) -> list[list[str]]:
            return self._answers(f"{name}/{batch}", [samples[i] for i in indices], k, temperature)

        texts = in_batches(len(samples), pictures, answers, self._before_batch, advance)
        scores = [[np.nan if (s := read_score(text)) is None else s for text in answers] for answers in texts]
        return Ratings(samples, texts, np.array(scores, dtype=float).reshape(len(samples), k))

    def _answers(self, name: str, samples: Sequence[Sample], k: int, temperature: float | None) -> list[list[str]]:
        pictures = load_shown(self._load, [sample.pictures for sample in samples])
        examples: list[dict[str, Any]] = [
            {"images": shown, "prompt": self._prompt, "image_id": sample.image_id}
            for sample, shown in zip(samples, pictures, strict=True)
            for _ in range(k)
        ]
        own_device = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices=own_device):
            torch.manual_seed(zlib.crc32(f"{self._seed}/{name}".encode()))
            texts = self._answerer.answer(examples, temperature)
        return [texts[n * k : (n + 1) * k] for n in range(len(samples))]


T = TypeVar("T")


def in_batches(
    count: int,
    size: int,
    found: Callable[[int, range], list[T]],
    before_batch: Callable[[], None],
    advance: Callable[[int], None],
) -> list[T]:
    """What is ``found`` of each of ``count`` pictures, in order, in batches of ``size`` that the ranks share.

    ``found`` is given a batch's number and pictures; ``advance`` is told how many more are done. Collective.
    """
    state = PartialState()
    batches = [range(i, min(i + size, count)) for i in range(0, count, size)]
    own: list[tuple[int, T]] = []
    # Every rank asks as often as every other (ZeRO-3 and vLLM wait for one another): who runs out of batches repeats
    # the last one, and only the batch's owner keeps what is found.
    for first in range(0, len(batches), state.num_processes):
        before_batch()
        mine = first + state.process_index
        batch = min(mine, len(batches) - 1)
        values = found(batch, batches[batch])
        if mine < len(batches):
            own.extend(zip(batches[batch], values, strict=True))
        advance(sum(map(len, batches[first : first + state.num_processes])))
    return [value for _, value in sorted(gather_object(own), key=lambda pair: pair[0])]
