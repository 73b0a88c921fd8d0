"""Words for the second of two pictures beside the first (objective=comparison, Compare2Score)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vqr1.cohorts import CohortSampler
from vqr1.comparison.words import ANSWER, QUESTION, WORDS
from vqr1.data import Sample
from vqr1.data.pictures import Load, PictureLoader
from vqr1.picture_prompts import in_order
from vqr1.training.build_trainer import cohort_sampler
from vqr1.training.pair_recipe import PairRecipe
from vqr1.training.shown_examples import Example, as_rows, digests_by_set
from vqr1.training.supervised_trainer import WordTrainer
from vqr1.training.training_pairs import anchors_of, in_words, pairs_of

PROMPT = in_order(2, QUESTION)
ANSWERS = tuple(f"{ANSWER} {word}." for word in WORDS)


class ComparisonRecipe(PairRecipe):
    """Pairs of pictures of one set each, with the word for the second beside the first."""

    prompt, words = PROMPT, WORDS

    def order(self, samples: Sequence[Sample]) -> CohortSampler:
        """The order of pairs. Raises UserError, as a Recipe's, and where a set cannot be paired or has no anchors."""
        settings = self.config.comparison
        self._pairs = pairs_of(self.config, settings, samples)
        self._anchors = anchors_of(samples, settings.anchors)
        self.notes = in_words(self._pairs, samples, settings.anchors)
        return cohort_sampler(self.config, self._pairs, self.choices.batches, 1)

    def taught(self, load: PictureLoader) -> dict[str, dict[str, str]]:
        return {"examples": digests_by_set((pair.dataset, [pair.name, pair.word]) for pair in self._pairs)}

    def trainer(self, order: CohortSampler, samples: Sequence[Sample], load: Load, processor: Any) -> WordTrainer:
        examples = [
            Example((pair.first.image, pair.second.image), PROMPT, ANSWERS[pair.word], pair.name, pair.dataset)
            for pair in self._pairs
        ]
        return self.make_of_words(as_rows(examples, load), order, processor, ANSWERS)
