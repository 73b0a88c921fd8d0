"""A run from its configuration to its folder.

Everything that can be wrong with settings, labels, pictures or sizes is found before the first step: the data are
read and every picture is opened before the policy is loaded, and the policy's token grid is checked on a picture.
"""

from __future__ import annotations

import os
import time
import typing
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from PIL import Image
from transformers import (
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from trl import GRPOConfig

from vqr1.answer import build_prompt, expects_thinking
from vqr1.cohorts import CohortSampler
from vqr1.config import (
    BatchPlan,
    Config,
    Preference,
    RewardKind,
    Rivals,
    Tuning,
    plan_batches,
    trainer_settings,
)
from vqr1.data import DATASETS, Sample, Splits, read_dataset
from vqr1.data.pictures import picture_loader
from vqr1.policy.load import check_grid, check_precision, load_policy, load_processor, lora_config
from vqr1.report.curves import draw_curves
from vqr1.reward import FormatReward, RankingReward, RegressionReward
from vqr1.training.evaluator import Evaluator, Ratings
from vqr1.training.folder import RunFolder
from vqr1.training.metrics import Logger, StepCallback
from vqr1.training.trainer import RankingTrainer, Script

# Where trainer.learning_rate is null: the paper's for all weights, ten times that for LoRA's few.
LEARNING_RATE = {Tuning.full: 1e-6, Tuning.lora: 1e-5}

Load = Callable[[str], Image.Image]


def train(config: Config) -> Path:
    """Train as ``config`` says and leave the run folder. Gives the folder's path.

    Raises ValueError or FileNotFoundError before the first step for anything that is wrong with the configuration,
    the data or the policy's files.
    """
    began = time.perf_counter()
    if config.threads:
        torch.set_num_threads(config.threads)
    state = PartialState()
    folder = RunFolder(Path(config.runs) / run_name(config), writes=state.is_main_process)
    plan, grpo = grpo_config(config, folder.path, state.num_processes)
    reward_functions(config)  # its settings are checked before anything is read

    with state.main_process_first():
        data = read_data(config)
    load = picture_loader(config.policy.min_pixels, config.policy.max_pixels)
    check_pictures(data, load)
    sampler = cohort_sampler(config, data["train"], plan, grpo.num_iterations)
    check_precision(config.policy, sharded=os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true")
    processor = load_processor(config.policy)
    check_grid(processor, load(data["train"][0].image), config.policy)

    # Ranks look at the folder before the first of them writes into it.
    folder_error = _error(lambda: folder.open(config)) if not state.is_main_process else None
    state.wait_for_everyone()
    if state.is_main_process:
        folder_error = _error(lambda: folder.open(config))
    if folder_error is not None:
        raise folder_error
    state.wait_for_everyone()

    set_seed(config.seed)
    trainer = make_trainer(config, grpo, plan, sampler, data["train"], load, processor)
    wandb_run = start_wandb(config, folder) if state.is_main_process else None
    logger = Logger(folder, wandb_run, state.is_main_process)
    evaluator = Evaluator(
        trainer, load, build_prompt(config.rollout.prompt), batch=config.evaluation.batch, seed=config.seed
    )
    diary = Diary(config, evaluator, trainer, folder, logger, data)
    trainer.add_callback(StepCallback(logger, lambda: trainer.generation_seconds, config_answers(config)))
    trainer.add_callback(diary)
    prepared = time.perf_counter()

    checkpoint = folder.last_checkpoint() if config.resume else None
    if checkpoint is not None:
        folder.forget_after(int(checkpoint.name.rpartition("-")[2]))
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.save_model(str(folder.path / "final"))
    finished = time.perf_counter()

    seconds = {
        "prepare": prepared - began,
        "train": finished - prepared - diary.seconds,
        "evaluate": diary.seconds,
    }
    folder.write("summary.json", diary.summary(seconds))
    if state.is_main_process:
        draw_curves(folder.path)
        if wandb_run is not None:
            wandb_run.finish()
    logger.say(f"{folder.path}: summary.json, curves.png, metrics.jsonl, answers.jsonl, final/")
    state.wait_for_everyone()
    return folder.path


def _error(action: Callable[[], None]) -> ValueError | None:
    try:
        action()
    except ValueError as error:
        return error
    return None


def run_name(config: Config) -> str:
    """The run's folder name, the same on every rank."""
    name = [config.name or f"{config.experiment_name}-{datetime.now():%Y-%m-%d-%H%M%S}"]
    return str(broadcast_object_list(name)[0])


def grpo_config(config: Config, folder: Path, world_size: int) -> tuple[BatchPlan, GRPOConfig]:
    """TRL's configuration out of ours, every value checked."""
    settings = trainer_settings(config.trainer, typing.get_type_hints(GRPOConfig))
    plan = plan_batches(
        config.trainer["images_per_step"],
        config.rollout.k,
        world_size,
        config.trainer.get("answers_per_device"),
        settings.pop("steps_per_generation", None),
    )
    check_boundaries(settings, plan)
    if settings.get("learning_rate") is None:
        settings["learning_rate"] = LEARNING_RATE[config.policy.tuning]
    on_gpu = torch.cuda.is_available()
    half = on_gpu and torch.cuda.is_bf16_supported() and config.policy.dtype != "float16"
    grpo = GRPOConfig(
        output_dir=str(folder),
        seed=config.seed,
        num_generations=config.rollout.k,
        temperature=config.rollout.temperature,
        max_completion_length=config.rollout.max_tokens,
        per_device_train_batch_size=plan.per_device,
        gradient_accumulation_steps=plan.accumulation,
        steps_per_generation=plan.steps_per_generation,
        reward_weights=[config.reward.fidelity_weight, config.reward.format_weight],
        gradient_checkpointing=config.policy.gradient_checkpointing,
        bf16=half,
        use_cpu=not on_gpu,
        report_to=[],
        logging_strategy="steps",
        eval_strategy="no",
        **settings,
    )
    return plan, grpo


def check_boundaries(settings: dict[str, Any], plan: BatchPlan) -> None:
    """Checkpoints lie where a generation batch ends: TRL does not save a half-used one. Raises ValueError."""
    reuse = plan.steps_per_generation * settings.get("num_iterations", 1)
    if reuse <= plan.accumulation:
        return
    updates = reuse // plan.accumulation
    every = settings.get("save_steps", 500)
    if every % updates:
        raise ValueError(
            f"trainer.save_steps={every} would cut a generation batch of {updates} updates in two; set it to a multiple "
            f"of {updates}"
        )


def read_data(config: Config) -> dict[str, Any]:
    """``train`` as one list, ``validation`` and ``test`` as one list per set."""
    root = Path(config.data.root).expanduser()
    names = dict.fromkeys([*config.data.train, *config.data.validation, *config.data.test])
    splits: dict[str, Splits] = {name: read_dataset(name, root) for name in names}
    limit = config.evaluation.max_pictures
    data: dict[str, Any] = {
        "train": [sample for name in config.data.train for sample in splits[name].train],
        "validation": {name: splits[name].validation[:limit] for name in config.data.validation},
        "test": {name: splits[name].test[:limit] for name in config.data.test},
    }
    for name in config.data.train:
        if len(splits[name].train) < 2:
            raise ValueError(
                f"{name} has {len(splits[name].train)} training pictures: ranking needs two or more"
            )
    for part in ("validation", "test"):
        for name, samples in data[part].items():
            if len(samples) < 3:
                raise ValueError(
                    f"data.{part}: {name} has {len(samples)} {part} pictures, and a correlation needs three; take it out "
                    f"of data.{part}"
                )
    if config.reward.preference is Preference.thurstone:
        without = next((s for s in data["train"] if s.mos_std is None), None)
        if without is not None:
            raise ValueError(
                f"reward.preference=thurstone needs the spread of the ratings, and {without.image_id} has none; use hard"
            )
    return data


def check_pictures(data: dict[str, Any], load: Load) -> None:
    """Open every picture once, so that a broken one stops the run now and not in its third hour."""
    from concurrent.futures import ThreadPoolExecutor

    from tqdm import tqdm

    sets: list[Sequence[Sample]] = [data["train"], *data["validation"].values(), *data["test"].values()]
    paths = list(dict.fromkeys(sample.image for samples in sets for sample in samples))
    state = PartialState()
    own = paths[state.process_index :: state.num_processes]
    with ThreadPoolExecutor() as pool:
        opened = pool.map(load, own)
        for _ in tqdm(
            opened, total=len(own), desc="opening pictures", disable=not state.is_main_process, leave=False
        ):
            pass


def cohort_sampler(
    config: Config, samples: Sequence[Sample], plan: BatchPlan, iterations: int
) -> CohortSampler:
    return CohortSampler(
        [sample.dataset for sample in samples],
        images_per_batch=plan.images_per_generation,
        cohort_size=config.reward.cohort_size,
        answers_per_image=config.rollout.k,
        reuse=plan.steps_per_generation * iterations,
        temperature=config.data.mix_temperature,
        seed=config.seed,
    )


def reward_functions(config: Config) -> list[Callable[..., list[float | None]]]:
    """What TRL calls: the quality reward and the format reward, in the order of their weights."""
    reward, k = config.reward, config.rollout.k
    quality: RankingReward
    if reward.kind is RewardKind.regression:
        quality = RegressionReward(
            k,
            ranges={name: DATASETS[name].range for name in config.data.train if name in DATASETS},
            threshold=reward.regression_threshold,
            unreadable_reward=reward.unreadable_reward,
        )
    else:
        quality = RankingReward(
            k,
            cohort_size=reward.cohort_size if reward.rivals is Rivals.cohort else None,
            use_mos_std=reward.preference is Preference.thurstone,
            unreadable_reward=reward.unreadable_reward,
            opponent=reward.opponent.value,
            variance=reward.variance.value,
            agreement=reward.agreement.value,
            gamma=reward.gamma,
            root_epsilon=reward.root_epsilon,
        )
    return [quality, FormatReward(expects_thinking(config.rollout.prompt))]


def as_dataset(samples: Sequence[Sample], prompt: list[dict[str, str]], load: Load) -> Dataset:
    """The records as the columns that TRL and the reward read; pictures are opened as they are asked for."""
    rows = Dataset.from_list(
        [
            {
                "image": sample.image,
                "mos": sample.mos,
                "mos_std": sample.mos_std,
                "dataset": sample.dataset,
                "group": sample.group,
                "image_id": sample.image_id,
            }
            for sample in samples
        ]
    )

    def open_pictures(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        pictures = [load(path) for path in batch["image"]]
        return {**batch, "image": pictures, "prompt": [prompt] * len(pictures)}

    return rows.with_transform(open_pictures)


def make_trainer(
    config: Config,
    grpo: GRPOConfig,
    plan: BatchPlan,
    sampler: CohortSampler,
    samples: Sequence[Sample],
    load: Load,
    processor: Any,
) -> RankingTrainer:
    if grpo.ddp_find_unused_parameters is None:
        # Every sample has a picture, so every trained weight gets a gradient; looking for others costs a pass.
        grpo.ddp_find_unused_parameters = False
    trainer = RankingTrainer(
        model=load_policy(config.policy),
        reward_funcs=reward_functions(config),
        args=grpo,
        train_dataset=as_dataset(samples, build_prompt(config.rollout.prompt), load),
        processing_class=processor,
        peft_config=lora_config(config.policy.lora) if config.policy.tuning is Tuning.lora else None,
        cohorts=sampler,
        script=_script(config.rollout.script),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _script(name: str | None) -> Script | None:
    if name is None:
        return None
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)


def config_answers(config: Config) -> int:
    return int(config.trainer["images_per_step"]) * config.rollout.k


def start_wandb(config: Config, folder: RunFolder) -> Any:
    """A wandb run in the run folder, or None; offline unless asked otherwise."""
    if config.logger.wandb == "disabled":
        return None
    import wandb

    from vqr1.config import as_dict

    return wandb.init(
        project=config.logger.project,
        group=config.logger.group,
        name=folder.path.name,
        dir=str(folder.path),
        mode=config.logger.wandb,
        config=as_dict(config),
        settings=wandb.Settings(silent=True, console="off"),
    )


class Diary(TrainerCallback):
    """Evaluates at the start, every n steps and at the end, keeps the best weights, and sums the run up."""

    def __init__(
        self,
        config: Config,
        evaluator: Evaluator,
        trainer: RankingTrainer,
        folder: RunFolder,
        logger: Logger,
        data: dict[str, Any],
    ):
        self._settings = config.evaluation
        self._config = config
        self._evaluator = evaluator
        self._trainer = trainer
        self._folder = folder
        self._logger = logger
        self._data = data
        self.seconds = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step == 0:
            self._evaluate(0, tests=True)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        last = state.global_step >= state.max_steps
        due = self._settings.every > 0 and state.global_step % self._settings.every == 0
        if due or last:
            self._evaluate(state.global_step, tests=last)

    def _evaluate(self, step: int, tests: bool) -> None:
        began = time.perf_counter()
        sets = [(name, samples, self._settings.k) for name, samples in self._data["validation"].items()]
        if tests:
            sets += [
                (f"{name}_test", samples, self._settings.test_k)
                for name, samples in self._data["test"].items()
            ]
        values: dict[str, float] = {}
        for name, samples, k in sets:
            ratings = self._evaluator.rate(name, samples, k)
            figures = ratings.metrics()
            values.update({f"eval/{name}/{key}": value for key, value in figures.items()})
            self._keep_probes(step, name, ratings)
            self._logger.say(
                f"  {name}: SRCC {figures['srcc']:.3f}  PLCC {figures['plcc']:.3f}  score std "
                f"{figures['score_std']:.3f}  unreadable {figures['unreadable']:.3f}  ({len(samples)} pictures, {k} answers)"
            )
        self._logger.metrics(step, values)
        if step > 0 and self.best_step() == step:
            self._trainer.save_model(str(self._folder.path / "best"))
        spent = time.perf_counter() - began
        self.seconds += spent
        self._logger.timings(step, {"speed/evaluation_seconds": spent})

    def _keep_probes(self, step: int, name: str, ratings: Ratings) -> None:
        count = min(self._settings.probes, len(ratings.samples))
        chosen = [i * len(ratings.samples) // count for i in range(count)]
        for i in chosen:
            sample = ratings.samples[i]
            answers = {"step": step, "set": name, "image_id": sample.image_id, "mos": sample.mos}
            self._folder.append("answers.jsonl", {**answers, "answers": ratings.texts[i][:4]})

    def _evaluations(self) -> list[dict[str, Any]]:
        return [
            row for row in self._folder.rows("metrics.jsonl") if any(key.startswith("eval/") for key in row)
        ]

    def best_step(self) -> int | None:
        """The evaluated step with the best mean SRCC over the validation sets, the earliest of equals."""
        names = list(self._data["validation"])
        scored = []
        for row in self._evaluations():
            values = [row.get(f"eval/{name}/srcc") for name in names]
            if names and None not in values:
                scored.append((-sum(values), row["step"]))
        best = [min(scored)[1] if scored else None]
        return broadcast_object_list(best)[0]

    def summary(self, seconds: dict[str, float]) -> dict[str, Any]:
        rows = self._evaluations()

        def per_set(row: dict[str, Any]) -> dict[str, dict[str, float]]:
            sets: dict[str, dict[str, float]] = {}
            for key, value in row.items():
                if key.startswith("eval/"):
                    _, name, figure = key.split("/")
                    sets.setdefault(name, {})[figure] = value
            return sets

        best = self.best_step()
        return {
            "seed": self._config.seed,
            "steps": self._trainer.state.global_step,
            "seconds": seconds,
            "start": per_set(rows[0]) if rows else {},
            "final": per_set(rows[-1]) if rows else {},
            "best_step": best,
        }
