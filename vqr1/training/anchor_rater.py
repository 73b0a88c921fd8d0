"""Evaluation by comparisons: a picture's score from what the policy says of it beside each of a few anchors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, Protocol

import numpy as np
from PIL import Image

from vqr1.comparison.anchors import check_no_anchor, score_against_anchors
from vqr1.comparison.scores import comparison_matrix, map_scores
from vqr1.comparison.words import both_orders
from vqr1.data.pictures import load_many
from vqr1.data.sample import Sample
from vqr1.picture_prompts import Message
from vqr1.training.evaluator import ReadRatings, in_batches


class WordSource(Protocol):
    """Anything that knows the probabilities of words: the trainer with its current weights."""

    def word_log_probabilities(self, examples: Sequence[dict[str, Any]]) -> list[list[float]]: ...


class AnchorRater:
    """Rates sets of pictures by comparisons with anchors. Nothing is drawn, so nothing depends on a seed.

    The anchors' own scores are solved anew at each evaluation, from comparisons by the same weights.
    """

    def __init__(
        self,
        source: WordSource,
        load: Callable[[str], Image.Image],
        anchors: Mapping[str, Sequence[Sample]],
        prompt: list[Message],
        words: Sequence[str],
        preference: Callable[[np.ndarray], np.ndarray],
        *,
        batch: int,
        orders: int,
        before_batch: Callable[[], None] = lambda: None,
    ):
        """
        Args:
            anchors: of each set that is learnt from. Other sets are compared with the first set's.
            prompt: of two pictures, whose answer holds one of ``words``.
            preference: P(second better) from the words' log-probabilities, (..., W).
            batch: prompts that are read at once.
            orders: 2, or 1 for the anchor first alone.
            before_batch: called before every batch, on every rank, and may raise on all.
        """
        self._source = source
        self._load = load
        self._anchors = anchors
        self._prompt = prompt
        self._words = words
        self._preference = preference
        self._batch = batch
        self._orders = orders
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
        anchors = self._anchors.get(samples[0].dataset) or next(iter(self._anchors.values()))
        check_no_anchor((sample.image_id for sample in samples), (anchor.image_id for anchor in anchors))
        own = self._solved(anchors)

        def compared(batch: int, indices: range) -> list[tuple[list[float], str]]:
            return self._compared([samples[i].image for i in indices], [anchor.image for anchor in anchors])

        pictures = max(1, self._batch // (self._orders * len(anchors)))
        found = in_batches(len(samples), pictures, compared, self._before_batch, advance)
        scores = score_against_anchors(np.array([better for better, _ in found]), own)
        return ReadRatings(samples, [[text] for _, text in found], scores[:, None])

    def _solved(self, anchors: Sequence[Sample]) -> np.ndarray:
        """The anchors' scores (A,), from all comparisons among them in both orders."""
        pairs = list(combinations(range(len(anchors)), 2))
        shown = [(anchors[i].image, anchors[j].image) for i, j in pairs]
        log_MW = self._log_probabilities([*shown, *((second, first) for first, second in shown)])
        forth, back = np.split(self._preference(log_MW), 2)
        first, second = zip(*pairs, strict=True)
        return map_scores(comparison_matrix(len(anchors), first, second, both_orders(forth, back))).scores

    def _compared(self, pictures: Sequence[str], anchors: Sequence[str]) -> list[tuple[list[float], str]]:
        """Of each picture the probabilities that it is better than each anchor, and the likeliest words in their order.

        With both orders the words are those with the anchor first.
        """
        shown = [(anchor, picture) for picture in pictures for anchor in anchors]
        asked = shown if self._orders == 1 else [*shown, *((picture, anchor) for anchor, picture in shown)]
        log_MW = self._log_probabilities(asked)
        forth = self._preference(log_MW[: len(shown)])
        better = forth if self._orders == 1 else both_orders(forth, self._preference(log_MW[len(shown) :]))
        words = [self._words[i] for i in log_MW[: len(shown)].argmax(1)]
        n = len(anchors)
        return [
            (better[i * n : (i + 1) * n].tolist(), ", ".join(words[i * n : (i + 1) * n])) for i in range(len(pictures))
        ]

    def _log_probabilities(self, shown: Sequence[tuple[str, str]]) -> np.ndarray:
        """(M, W) of M pairs of paths, the picture shown first first."""
        pictures = iter(load_many(self._load, [path for pair in shown for path in pair]))
        examples = [{"images": [next(pictures), next(pictures)], "prompt": self._prompt} for _ in shown]
        found: list[list[float]] = []
        for first in range(0, len(examples), self._batch):
            found += self._source.word_log_probabilities(examples[first : first + self._batch])
        return np.array(found)
