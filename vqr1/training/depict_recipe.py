"""Answers on pictures that are named by tags (objective=depict, after DepictQA)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vqr1.cohorts import CohortSampler
from vqr1.data import Sample
from vqr1.data.pictures import Load, PictureLoader, digest
from vqr1.depiction import TAGS, ask_which
from vqr1.training.build_trainer import cohort_sampler
from vqr1.training.content_rows import read_content
from vqr1.training.depict_examples import examples_of
from vqr1.training.pair_recipe import PairRecipe
from vqr1.training.shown_examples import as_rows, digests_by_set
from vqr1.training.supervised_trainer import WordTrainer
from vqr1.training.training_pairs import anchors_of, in_words, pairs_of


class DepictRecipe(PairRecipe):
    """Questions on tagged pictures with their answers, and rows of the user's."""

    prompt, words = ask_which(), TAGS

    def order(self, samples: Sequence[Sample]) -> CohortSampler:
        """The order of examples. Raises UserError, as a Recipe's, where a set cannot be paired, and for wrong rows."""
        settings = self.config.depict
        self._content = [] if settings.content is None else read_content(Path(settings.content))
        pairs = pairs_of(self.config, settings, samples)
        self._examples = examples_of(self.config, pairs, self._content)
        self._anchors = anchors_of(samples, settings.anchors)
        self.notes = in_words(pairs, samples, settings.anchors)
        return cohort_sampler(self.config, self._examples, self.choices.batches, 1)

    def pictures(self) -> list[str]:
        return [path for example in self._content for path in example.pictures]

    def taught(self, load: PictureLoader) -> dict[str, dict[str, str]]:
        examples = digests_by_set(
            (of.dataset, [of.name, of.prompt, of.answer, *map(load.expected, of.pictures)]) for of in self._examples
        )
        content = self.config.depict.content
        if content is None:
            return {"examples": examples}
        file = Path(content)
        shown = {os.path.relpath(path, file.parent): load.expected(path) for path in self.pictures()}
        return {"files": {file.name: digest(file), **shown}, "examples": examples}

    def trainer(self, order: CohortSampler, samples: Sequence[Sample], load: Load, processor: Any) -> WordTrainer:
        texts = [f"{tag}." for tag in TAGS]
        return self.make_of_words(as_rows(self._examples, load), order, processor, texts)
