"""Reinforcement learning to rank: rewards for the policy's own answers (objective=rl2r)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import TrainerCallback

from vqr1.answer import build_prompt
from vqr1.cohorts import CohortSampler
from vqr1.config import Config
from vqr1.data import Sample
from vqr1.data.pictures import Load, PictureLoader
from vqr1.machine_choices import MachineChoices
from vqr1.rollout.vllm_engine import COMPARED
from vqr1.training.build_trainer import make_trainer, reward_functions
from vqr1.training.evaluator import Evaluator
from vqr1.training.groups import FirstGroups, SampleCallback
from vqr1.training.grpo_settings import grpo_config, updates_per_draw
from vqr1.training.policy_checks import check_policy
from vqr1.training.recipe import Recipe
from vqr1.training.run_data import RunData
from vqr1.training.run_folder import RunFolder
from vqr1.training.run_log import Logger, expected_names
from vqr1.training.start_vllm import check_engine, use_vllm
from vqr1.training.trainer import RankingTrainer, Script
from vqr1.training.watches import UnreadableWatch


class RankingRecipe(Recipe):
    """TRL's GRPOTrainer over ranked pictures. ``script`` gives the answers in place of the policy."""

    generates = True

    def __init__(self, config: Config, choices: MachineChoices, folder: Path, script: Script | None = None):
        super().__init__(config, choices, folder)
        self.args = grpo_config(config, choices, folder)
        self._rewards = reward_functions(config)
        self._script = script
        self._max_length: int | None = None  # vLLM's; None where transformers answers

    @property
    def updates_per_draw(self) -> int:
        reuse = self.args.steps_per_generation * self.args.num_iterations
        return updates_per_draw(reuse, self.args.gradient_accumulation_steps)

    def check_policy(self, processor: Any, picture: Image.Image) -> list[str]:
        warnings = check_policy(self.config, self.choices, processor, picture)
        self._max_length = check_engine(self.config, self.choices, processor)
        return warnings

    def trainer(self, order: CohortSampler, samples: Sequence[Sample], load: Load, processor: Any) -> RankingTrainer:
        self._processor = processor
        self._trainer = make_trainer(
            self.config, self.choices, self.args, self._rewards, order, samples, load, processor, self._script
        )
        return self._trainer

    def begin(self, order: CohortSampler, samples: Sequence[Sample], load: Load, logger: Logger) -> None:
        config, trainer, processor = self.config, self._trainer, self._processor
        if self._max_length is not None:
            logger.screen.note("starting vLLM")
            # Cut before they are decoded: all training pictures at once would be gigabytes on every rank.
            first = [load(samples[i].image) for i in islice(dict.fromkeys(order), COMPARED)]
            use_vllm(trainer, config, self.choices, processor, self._max_length, first, logger.say)
        trainer.unreadable = UnreadableWatch(config.rollout.stop_unreadable, logger.say)
        decode = partial(processor.tokenizer.batch_decode, skip_special_tokens=True)
        trainer.groups = FirstGroups(config.logger.samples, config.rollout.k, decode)

    def rater(self, load: PictureLoader, before_batch: Callable[[], None]) -> Evaluator:
        return Evaluator(
            self._trainer,
            load,
            build_prompt(self.config.rollout.prompt),
            batch=self.config.evaluation.batch,
            seed=self.config.seed,
            before_batch=before_batch,
        )

    def callbacks(self, data: RunData, folder: RunFolder, logger: Logger) -> list[TrainerCallback]:
        files = {sample.image_id: sample.image for sample in data.train}
        assert self._trainer.groups is not None
        every = self.config.evaluation.every
        return [SampleCallback(every, self._trainer.groups, files, folder.keep_picture, logger.samples)]

    def reported(self, args: Any) -> set[str]:
        return expected_names(args, vllm=self._max_length is not None)
