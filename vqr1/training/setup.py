"""From settings to the parts of a run: TRL's configuration, the data, the order of pictures, rewards, trainer."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from tqdm import tqdm
from transformers import PrinterCallback
from trl import GRPOConfig

from vqr1.answer import build_prompt, expects_thinking
from vqr1.batches import BatchPlan, plan_batches
from vqr1.cohorts import CohortSampler
from vqr1.config import Config, Preference, RewardKind, Rivals, Tuning, trainer_settings
from vqr1.data import Sample, SplitRule, find_spec, read_dataset
from vqr1.data.pictures import Load, decoders, load_many
from vqr1.data.sample import some_of
from vqr1.data.splits import described
from vqr1.engines import Correction, Engine, check_untruncated
from vqr1.policy.load import base_model, load_policy, lora_config
from vqr1.policy.share import read_each_prompt_once
from vqr1.reward import FormatReward, RankingReward, RegressionReward
from vqr1.training import segments
from vqr1.training.shared_prefix import Packing
from vqr1.training.trainer import RankingTrainer, Script

# Where trainer.learning_rate is null: the paper's for all weights, ten times that for LoRA's few.
LEARNING_RATE = {Tuning.full: 1e-6, Tuning.lora: 1e-5}


@dataclass(frozen=True)
class Data:
    """The records of a run: all training sets as one list, the others set by set."""

    train: list[Sample]
    validation: dict[str, list[Sample]]
    test: dict[str, list[Sample]]
    splits: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # which groups are in which part, for the run folder


def grpo_config(config: Config, folder: Path, world_size: int) -> tuple[BatchPlan, GRPOConfig]:
    """TRL's configuration out of ours, every value checked."""
    trainer = dict(config.trainer)
    if trainer.get("learning_rate") is None:
        trainer["learning_rate"] = LEARNING_RATE[config.policy.tuning]
    settings = trainer_settings(trainer, typing.get_type_hints(GRPOConfig))
    plan = plan_batches(
        config.trainer["images_per_step"],
        config.rollout.k,
        world_size,
        config.trainer.get("answers_per_device"),
        settings.pop("steps_per_generation", None),
    )
    check_boundaries(settings, plan)
    if config.rollout.engine is not Engine.transformers:
        check_untruncated(settings)
    vllm = config.rollout.vllm
    on_gpu = torch.cuda.is_available()
    half = on_gpu and torch.cuda.is_bf16_supported() and config.policy.dtype != "float16"
    grpo = GRPOConfig(
        output_dir=str(folder),
        seed=config.seed,
        num_generations=config.rollout.k,
        temperature=config.rollout.temperature,
        max_completion_length=config.rollout.max_tokens,
        vllm_importance_sampling_correction=vllm.correction is not Correction.none,
        vllm_importance_sampling_clip_max=vllm.correction_max,
        **({"vllm_importance_sampling_mode": vllm.correction.value} if vllm.correction is not Correction.none else {}),
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
    """Checkpoints lie where a generation batch ends: TRL does not save a half-used one. Raises ValueError otherwise."""
    iterations = settings.get("num_iterations", 1)
    if iterations < 1:
        raise ValueError(f"trainer.num_iterations={iterations}: set it to 1 or more")
    reuse = plan.steps_per_generation * iterations
    updates = reuse // math.gcd(reuse, plan.accumulation)  # between two steps that end with a generation batch
    every = settings.get("save_steps", 500)
    if every % updates:
        raise ValueError(
            f"trainer.save_steps={every} would cut a generation batch in two, for one ends every {updates} steps; "
            f"set it to a multiple of {updates}"
        )


def read_data(config: Config) -> Data:
    """The records of every set that is named. Raises ValueError for a set too small to be ranked or correlated."""
    root = Path(config.data.root).expanduser()
    names = dict.fromkeys([*config.data.train, *config.data.validation, *config.data.test])
    rule = SplitRule(tuple(config.data.split_ratio), config.data.split_seed)
    splits = {name: read_dataset(name, root, rule) for name in names}
    limit = config.evaluation.max_pictures
    train = [sample for name in config.data.train for sample in splits[name].train]
    data = Data(
        train=shuffled_mos(train, config.seed) if config.data.shuffle_mos else train,
        validation={name: some_of(splits[name].validation, limit) for name in config.data.validation},
        test={name: some_of(splits[name].test, limit) for name in config.data.test},
        splits={name: described(split) for name, split in splits.items()},
    )
    for name in config.data.train:
        if len(splits[name].train) < 2:
            raise ValueError(f"{name} has {len(splits[name].train)} training pictures: ranking needs two or more")
    for part, sets in (("validation", data.validation), ("test", data.test)):
        for name, samples in sets.items():
            if len(samples) < 3:
                raise ValueError(
                    f"data.{part}: {name} has {len(samples)} {part} pictures, and a correlation needs three; "
                    f"take it out of data.{part}"
                )
    if config.reward.preference is Preference.thurstone:
        without = next((s for s in data.train if s.mos_std is None), None)
        if without is not None:
            raise ValueError(
                "reward.preference=thurstone needs the spread of the ratings, and "
                f"{without.image_id} has none; use hard"
            )
    return data


def shuffled_mos(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """The same pictures and the same opinion scores, dealt out anew within each dataset."""
    rng = np.random.default_rng(seed)
    places: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        places.setdefault(sample.dataset, []).append(i)
    dealt = list(samples)
    for own in places.values():
        for here, other in zip(own, rng.permutation(own), strict=True):
            dealt[here] = replace(samples[here], mos=samples[other].mos, mos_std=samples[other].mos_std)
    return dealt


def check_pictures(data: Data, load: Load) -> None:
    """Open every picture once, so that a broken one stops the run now and not in its third hour."""
    sets = [data.train, *data.validation.values(), *data.test.values()]
    paths = list(dict.fromkeys(sample.image for samples in sets for sample in samples))
    state = PartialState()
    own = paths[state.process_index :: state.num_processes]
    hidden = None if state.is_main_process else True  # None: hidden where nobody watches
    with decoders() as pool:
        opened = pool.map(load, own)
        for _ in tqdm(opened, total=len(own), desc="opening pictures", disable=hidden, leave=False):
            pass


def cohort_sampler(config: Config, samples: Sequence[Sample], plan: BatchPlan, iterations: int) -> CohortSampler:
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
    root = Path(config.data.root).expanduser()
    quality: RankingReward
    if reward.kind is RewardKind.regression:
        quality = RegressionReward(
            k,
            ranges={name: find_spec(name, root).range for name in config.data.train},
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
        pictures = load_many(load, batch["image"])
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
        packing=packing(config.trainer),
        skip_zero_advantages=config.trainer.get("skip_zero_advantages", False),
    )
    trainer.remove_callback(PrinterCallback)
    share_work(trainer)
    return trainer


def packing(trainer: dict[str, Any]) -> Packing | None:
    """How answers share their prompt; None where each is to be a row of its own."""
    if not trainer.get("shared_prefix", True):
        return None
    return Packing(trainer.get("shared_prefix_attention", "auto"), trainer.get("shared_prefix_tokens"))


def share_work(trainer: RankingTrainer) -> None:
    """The policy reads each prompt once for the answers it gives; it and the reference, once for those they score."""
    policy, reference = (
        model and base_model(trainer.accelerator.unwrap_model(model)) for model in (trainer.model, trainer.ref_model)
    )
    read_each_prompt_once(policy)
    if trainer.packing is not None:
        for model in filter(None, (policy, reference)):
            # The vision tower keeps its own. FlashAttention, which policy.attention may ask for, takes no such masks.
            model.set_attn_implementation({"text_config": segments.NAME})


def _script(name: str | None) -> Script | None:
    if name is None:
        return None
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)
