"""Words for the quality, shown with every picture (objective=levels)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vqr1.cohorts import CohortSampler
from vqr1.config import Config, LevelLabels
from vqr1.data import Sample
from vqr1.data.pictures import Load, PictureLoader
from vqr1.errors import UserError
from vqr1.machine_choices import MachineChoices
from vqr1.policy.level_scores import LevelAnswers
from vqr1.rollout.prompt_checks import check_message
from vqr1.training.level_examples import LevelCollator, Levels, build_question
from vqr1.training.level_rater import LevelRater
from vqr1.training.policy_checks import check_files
from vqr1.training.run_data import as_dataset
from vqr1.training.run_log import SUPERVISED
from vqr1.training.supervised_recipe import SupervisedRecipe
from vqr1.training.supervised_trainer import LevelTrainer, loss_weights


class LevelRecipe(SupervisedRecipe):
    """Pictures with the word of their level (Q-Align), or a probability for each (DeQA-Score)."""

    def __init__(self, config: Config, choices: MachineChoices, folder: Path):
        super().__init__(config, choices, folder)
        self._question = build_question(config.levels.question)
        if config.together > 1 and choices.batches.per_device % config.together:
            raise UserError(
                f"levels.pair_weight={config.levels.pair_weight} compares the pictures of a forward pass, which holds "
                f"{choices.batches.per_device}; set trainer.answers_per_device and trainer.images_per_step to even "
                "numbers"
            )

    def order(self, samples: Sequence[Sample]) -> CohortSampler:
        """As a Recipe's. Raises UserError for a scale that is open, or ratings without spread for soft labels, too."""
        self._levels = Levels.of(self.config, samples)
        return super().order(samples)

    def taught(self, load: PictureLoader) -> dict[str, dict[str, str]]:
        return {"examples": self._levels.digests()}

    def check_policy(self, processor: Any, picture: Image.Image) -> list[str]:
        check_message(processor, self._question)
        self._answers = LevelAnswers.of(processor.tokenizer)
        return check_files(self.config, self.choices, processor, picture)

    def trainer(self, order: CohortSampler, samples: Sequence[Sample], load: Load, processor: Any) -> LevelTrainer:
        answers, levels = self._answers, self._levels
        self._trainer = self.make(
            LevelTrainer,
            as_dataset(samples, self._question, load),
            order,
            processor,
            answers,
            lambda once: LevelCollator(once, answers, levels),
            levels=self.config.levels,
        )
        return self._trainer

    def rater(self, load: PictureLoader, before_batch: Callable[[], None]) -> LevelRater:
        batch = self.config.evaluation.batch
        return LevelRater(self._trainer, load, self._question, batch=batch, before_batch=before_batch)

    def reported(self, args: Any) -> set[str]:
        settings = self.config.levels
        if settings.labels is LevelLabels.hard:
            return SUPERVISED
        return {"loss", "learning_rate", "grad_norm", *(f"levels/{name}" for name in loss_weights(settings))}
