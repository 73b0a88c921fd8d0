"""What the objectives have in common that learn to compare: a word is read for a pair, and anchors give scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from PIL import Image

from vqr1.cohorts import CohortSampler
from vqr1.data import Sample
from vqr1.data.pictures import PictureLoader
from vqr1.picture_prompts import Message
from vqr1.policy.comparison_scores import pair_form
from vqr1.rollout.prompt_checks import check_message
from vqr1.training.anchor_rater import AnchorRater
from vqr1.training.policy_checks import check_files
from vqr1.training.shown_examples import ShownCollator
from vqr1.training.supervised_recipe import SupervisedRecipe
from vqr1.training.supervised_trainer import WordTrainer


class PairRecipe(SupervisedRecipe):
    """Shown answers on two pictures. A subclass sets ``_anchors`` in its ``order``."""

    prompt: ClassVar[list[Message]]  # that asks about two pictures
    words: ClassVar[Sequence[str]]  # one of which the answer holds, as an evaluation shows them
    _anchors: Mapping[str, Sequence[Sample]]

    def check_policy(self, processor: Any, picture: Image.Image) -> list[str]:
        check_message(processor, self.prompt, pictures=2)
        self._form = pair_form(self.config.objective.value)
        self._answers = self._form.answers(processor.tokenizer)
        return check_files(self.config, self.choices, processor, picture)

    def make_of_words(self, rows: Any, order: CohortSampler, processor: Any, texts: Sequence[str]) -> WordTrainer:
        """The trainer of ``rows``; ``texts`` are the answers that hold a word, in the order of the words."""
        told = dict(zip(texts, self._answers.answers, strict=True))
        self._trainer = self.make(
            WordTrainer, rows, order, processor, self._answers, lambda once: ShownCollator(once, told)
        )
        return self._trainer

    def rater(self, load: PictureLoader, before_batch: Callable[[], None]) -> AnchorRater:
        settings = getattr(self.config, self.config.objective.value)
        return AnchorRater(
            self._trainer,
            load,
            self._anchors,
            self.prompt,
            self.words,
            self._form.second,
            batch=self.config.evaluation.batch,
            orders=2 if settings.both_orders else 1,
            before_batch=before_batch,
        )
