"""What all objectives have in common whose answers are shown: TRL's SFTTrainer, and words that are read, not drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from transformers import PrinterCallback

from vqr1.cohorts import CohortSampler
from vqr1.config import Config, EvaluationConfig, Tuning
from vqr1.data import Sample
from vqr1.data.pictures import Load
from vqr1.machine_choices import MachineChoices
from vqr1.policy import segments, windows
from vqr1.policy.level_scores import LevelAnswers
from vqr1.policy.load import base_model, load_policy, lora_config
from vqr1.policy.read_once import encode_each_picture_once, take_bytes
from vqr1.training.recipe import Recipe
from vqr1.training.run_log import SUPERVISED, Logger
from vqr1.training.supervised_settings import sft_config
from vqr1.training.supervised_trainer import WordTrainer

T = TypeVar("T", bound=WordTrainer)


class SupervisedRecipe(Recipe):
    """TRL's SFTTrainer over prompts with one answer each."""

    def __init__(self, config: Config, choices: MachineChoices, folder: Path):
        super().__init__(config, choices, folder)
        self.args = sft_config(config, choices, folder)

    @property
    def evaluation(self) -> EvaluationConfig:
        return replace(self.config.evaluation, k=1, test_k=1)

    def begin(self, order: CohortSampler, samples: Sequence[Sample], load: Load, logger: Logger) -> None:
        """Nothing: the trainer is enough."""

    def reported(self, args: Any) -> set[str]:
        return SUPERVISED

    def make(
        self,
        kind: type[T],
        rows: Any,
        order: CohortSampler,
        processor: Any,
        answers: LevelAnswers,
        collator: Callable[[Any], Any],
        **more: Any,
    ) -> T:
        """The trainer, of that ``kind``, of ``rows``, with the policy loaded. Pictures of a batch are encoded once."""
        config = self.config
        if self.args.ddp_find_unused_parameters is None:
            self.args.ddp_find_unused_parameters = False  # every example has a picture
        trainer = kind(
            model=load_policy(config.policy),
            args=self.args,
            train_dataset=rows,
            processing_class=processor,
            peft_config=lora_config(config.policy.lora) if self.choices.tuning is Tuning.lora else None,
            order=order,
            answers=answers,
            collator=collator,
            **more,
        )
        trainer.remove_callback(PrinterCallback)
        model = base_model(trainer.accelerator.unwrap_model(trainer.model))
        if config.pictures_in_prompt > 1:
            encode_each_picture_once(model.model.visual)
        take_bytes(model.model.visual, trainer.processor.image_processor)
        windows.attend_at_once(model)
        model.set_attn_implementation({"text_config": segments.NAME})
        return trainer
