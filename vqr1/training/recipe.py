"""What of a run depends on what its policy learns from; all else is the same for every objective.

A recipe makes TRL's settings, the order of pictures, the trainer, what is evaluated by and what is logged. A run
(:mod:`vqr1.training.run`) asks it in this order. Pictures are checked, folders opened, figures written, checkpoints and
best weights kept, runs stopped and resumed outside of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import TrainerCallback

from vqr1.cohorts import CohortSampler
from vqr1.config import Config, EvaluationConfig
from vqr1.data import Sample
from vqr1.data.pictures import Load, PictureLoader
from vqr1.machine_choices import MachineChoices
from vqr1.training.build_trainer import cohort_sampler
from vqr1.training.evaluator import Rater
from vqr1.training.run_data import RunData
from vqr1.training.run_folder import RunFolder
from vqr1.training.run_log import Logger
from vqr1.training.run_trainer import RunTrainer


class Recipe(ABC):
    """How a policy is trained by one objective. Making one checks the settings, before anything is read."""

    args: Any  # TRL's configuration
    generates = False  # whether the policy answers while it trains
    notes: Sequence[str] = ()  # lines on what is learnt from; after order()

    def __init__(self, config: Config, choices: MachineChoices, folder: Path):
        """Raises UserError naming the setting and the remedy."""
        self.config = config
        self.choices = choices
        self.folder = folder

    @property
    def updates_per_draw(self) -> int:
        """Steps between two that a checkpoint may follow."""
        return 1

    @property
    def evaluation(self) -> EvaluationConfig:
        """What is evaluated when, and by how many answers."""
        return self.config.evaluation

    def pictures(self) -> list[str]:
        """Paths of what is shown beside the sets' pictures. After :meth:`order`."""
        return []

    def taught(self, load: PictureLoader) -> dict[str, dict[str, str]]:
        """What is learnt from beside the sets' scores and pictures, by digests: a resumed run has to find it again.

        ``files`` by their names in the setting that names them, and ``examples`` by set. After :meth:`order`, and after
        ``load`` has opened all :meth:`pictures`.
        """
        return {}

    @abstractmethod
    def check_policy(self, processor: Any, picture: Image.Image) -> list[str]:
        """Raises UserError where the policy's files do not do; returns what to warn of. ``picture``: one of the run."""

    @abstractmethod
    def trainer(self, order: CohortSampler, samples: Sequence[Sample], load: Load, processor: Any) -> RunTrainer:
        """The trainer of ``samples``, which are visited in ``order``. Loads the policy. Called once."""

    @abstractmethod
    def begin(self, order: CohortSampler, samples: Sequence[Sample], load: Load, logger: Logger) -> None:
        """Start what the trainer needs beside it."""

    @abstractmethod
    def rater(self, load: PictureLoader, before_batch: Callable[[], None]) -> Rater:
        """What rates pictures by the trainer's current weights."""

    def callbacks(self, data: RunData, folder: RunFolder, logger: Logger) -> list[TrainerCallback]:
        """What else looks at steps, before they are evaluated."""
        return []

    @abstractmethod
    def reported(self, args: Any) -> set[str]:
        """TRL's names of what every step reports."""

    def order(self, samples: Sequence[Sample]) -> CohortSampler:
        """The order of pictures. Raises UserError for sets that are too small for a step."""
        return cohort_sampler(self.config, samples, self.choices.batches, getattr(self.args, "num_iterations", 1))
