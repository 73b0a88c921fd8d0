"""Whether a run fits the memory of its devices: what is trained how, the answers of a pass, or why it cannot be.

The arithmetic is :mod:`vqr1.estimate`'s; here it meets the settings. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from vqr1.answer import build_prompt
from vqr1.batches import BatchPlan, plan_batches
from vqr1.config import Config, LevelLabels, Objective, Tuning
from vqr1.config_checks import step_settings
from vqr1.data import DATASETS
from vqr1.errors import UserError
from vqr1.estimate.memory import (
    MASKED_TOKENS,
    Attention,
    Memory,
    Passes,
    Question,
    Rollouts,
    Training,
    cache_bytes,
    memory,
)
from vqr1.estimate.sizes import Sizes, picture_patches
from vqr1.estimate.work import Scoring
from vqr1.levels import LEVELS
from vqr1.rollout_settings import Correction, TrainingEngine, check_memory

# A prompt's turns and tags, the system's turn among them, and letters to a token of English (Qwen's vocabulary).
TURNS, LETTERS = 21, 4.6
PAIR_LETTERS = 220  # of a question on two or three pictures and of their names, at most
# Of the longest answer that is shown, the end of the turn among them. Descriptions of content are as long as their
# authors made them.
ANSWER_TOKENS = {Objective.levels: 12, Objective.comparison: 12, Objective.depict: 52}
# Of the memory, that a choice may fill: estimates are no measurements, and a machine's is used by others.
SPARE, SPARE_WITHOUT_GPU = 0.95, 0.5
MOST_GPUS = 4096  # a message that names a number tries no more


@dataclass(frozen=True)
class Devices:
    """Where the ranks of a run are."""

    gpu: bool
    ranks: int
    memory: float | None = None  # bytes that each rank may use; None: not known, and everything fits
    bfloat16: bool = True  # whether a GPU has it


@dataclass(frozen=True)
class Method:
    """What is trained, and by which launcher's means."""

    tuning: Tuning
    launcher: str
    engine: TrainingEngine


def itemsize(dtype: str, devices: Devices) -> int:
    """Bytes of a loaded weight."""
    return 2 if dtype in ("bfloat16", "float16") or (dtype == "auto" and devices.gpu and devices.bfloat16) else 4


def question(config: Config, sizes: Sizes, picture: tuple[int, int] | None = None) -> Question:
    """The longest that is asked and answered, with a ``picture`` of so many pixels, else the largest allowed."""
    policy = config.policy
    pictures = config.pictures_in_prompt
    # The first picture's begin and end are counted among the turns.
    text = TURNS + 2 * (pictures - 1) + round(_letters(config) / LETTERS)
    answer = config.rollout.max_tokens if config.draws_answers else ANSWER_TOKENS[config.objective]
    if config.objective is Objective.levels and config.levels.labels is LevelLabels.soft:
        answer *= len(LEVELS)  # behind one copy of the prompt hang the answers with all five words
    patches = policy.max_pixels // sizes.patch**2
    if picture is not None:
        patches = picture_patches(*picture, policy.min_pixels, policy.max_pixels, sizes)
    return Question(text, patches, answer, config.answers_to_each, picture is None, pictures)


def _letters(config: Config) -> int:
    """Of what is asked."""
    if config.draws_answers:
        return len(build_prompt(config.rollout.prompt)[0]["content"])
    return len(config.levels.question) if config.objective is Objective.levels else PAIR_LETTERS


def largest_picture(config: Config) -> tuple[int, int] | None:
    """Width and height of the largest training picture, where the sets' pictures have one published size each."""
    specs = [DATASETS.get(name) for name in config.data.train]
    sizes = [spec.picture for spec in specs if spec is not None and spec.picture is not None]
    return max(sizes, key=lambda size: size[0] * size[1]) if sizes and len(sizes) == len(specs) else None


def training(config: Config, sizes: Sizes, method: Method, devices: Devices, asked: Question) -> Training:
    lora, policy = method.tuning is Tuning.lora, config.policy
    return Training(
        sizes=sizes,
        itemsize=itemsize(policy.dtype, devices),
        lora=policy.lora.r if lora else None,
        targets=policy.lora.target_modules,
        train_vision=policy.train_vision,
        reference=not lora and bool(config.trainer.get("beta")),
        checkpointing=policy.gradient_checkpointing,
        gpu=devices.gpu,
        launcher=method.launcher,
        ranks=devices.ranks,
        attention=_attention(config, sizes, devices, asked),
    )


def _attention(config: Config, sizes: Sizes, devices: Devices, asked: Question) -> Attention:
    step = step_settings(config.trainer)
    if not step.shared_prefix or not config.draws_answers:
        return "rows"
    if step.shared_prefix_attention == "mask":
        return "mask"
    if devices.gpu and itemsize(config.policy.dtype, devices) == 2:
        return "kernel"
    long = devices.gpu or asked.packed(sizes, asked.k) > MASKED_TOKENS
    return "segments" if long or step.shared_prefix_attention == "segments" else "mask"


def scoring(config: Config, method: Method) -> Scoring:
    """The passes without gradients over a step's answers.

    Where the answers are the present policy's, its probabilities before the step are those of the training pass.
    """
    trainer, vllm = config.trainer, method.engine is not TrainingEngine.transformers
    lora = method.tuning is Tuning.lora
    reused = trainer.get("num_iterations", 1) > 1 or step_settings(trainer).steps_per_generation is not None
    differs = lora and config.policy.lora.dropout > 0
    corrected = vllm and config.rollout.vllm.correction is not Correction.none
    return Scoring(reference=bool(trainer.get("beta")), old=reused or (corrected and differs))


def passes(config: Config, plan: BatchPlan, devices: Devices, asked: Question) -> Passes:
    return Passes(asked, plan.per_device, plan.accumulation, plan.images_per_generation // devices.ranks)


def rollouts(config: Config, method: Method, devices: Devices, plan: BatchPlan) -> Rollouts:
    vllm = config.rollout.vllm
    if not config.draws_answers:
        return Rollouts()
    if method.engine is TrainingEngine.vllm_colocate and devices.gpu and devices.memory is not None:
        return Rollouts(vllm.memory_share * devices.memory, vllm.sleep)
    if method.engine is TrainingEngine.transformers:
        share = plan.images_per_generation * config.rollout.k // devices.ranks
        return Rollouts(own=max(share, config.evaluation.batch))
    return Rollouts()


def needed(config: Config, sizes: Sizes, method: Method, devices: Devices, plan: BatchPlan, asked: Question) -> Memory:
    """Memory of a rank, with the ``asked`` question."""
    how = training(config, sizes, method, devices, asked)
    return memory(how, passes(config, plan, devices, asked), rollouts(config, method, devices, plan))


def plans(config: Config, ranks: int) -> Iterator[BatchPlan]:
    """Ways to divide a step into passes, the largest pass first; one, where answers_per_device is set.

    Raises UserError for sizes that do not divide.
    """
    step, k, cohort = step_settings(config.trainer), config.answers_to_each, config.together
    asked = step.answers_per_device
    if asked is None and step.steps_per_generation is not None:
        raise UserError(
            f"trainer.steps_per_generation={step.steps_per_generation} counts passes, whose size would follow from the "
            "devices' memory, and so would the pictures that are compared; set trainer.answers_per_device as well"
        )
    plan = plan_batches(step.images_per_step, k, ranks, asked, step.steps_per_generation, cohort)
    yield plan
    while asked is None and plan.per_device > 1:
        plan = plan_batches(step.images_per_step, k, ranks, plan.per_device - 1, None, cohort)
        yield plan


def fitting_plan(config: Config, sizes: Sizes, method: Method, devices: Devices, asked: Question) -> BatchPlan | None:
    """The division of a step with the largest pass that fits the memory; None where none does."""
    divisions = list(plans(config, devices.ranks))
    if devices.memory is None:
        return divisions[0]
    found = [needed(config, sizes, method, devices, plan, asked) for plan in divisions]
    # Estimates are no measurements: what is chosen leaves some room, what is set or the last resort need not.
    room = devices.memory * (SPARE if devices.gpu else SPARE_WITHOUT_GPU)
    fitting = [plan for plan, each in zip(divisions, found, strict=True) if each.total <= room]
    if fitting:
        return fitting[0]
    # Pictures may be smaller than they could be: that alone is no reason to refuse a run.
    least = found[-1].without_pictures if asked.at_most else found[-1].total
    return divisions[-1] if least <= devices.memory else None


def check_fits(config: Config, sizes: Sizes, method: Method, devices: Devices, asked: Question) -> BatchPlan:
    """:func:`fitting_plan`. Raises UserError with the arithmetic and the remedies where nothing fits."""
    plan = fitting_plan(config, sizes, method, devices, asked)
    if method.engine is TrainingEngine.vllm_colocate and devices.gpu and devices.memory is not None:
        each, vllm = itemsize(config.policy.dtype, devices), config.rollout.vllm
        cache = cache_bytes(sizes, asked.longest(sizes), each)
        check_memory(sizes.parameters * each, cache, vllm.memory_share, int(devices.memory), vllm.tensor_parallel)
    if plan is not None:
        return plan
    assert devices.memory is not None  # else everything fits
    *_, smallest = plans(config, devices.ranks)
    found = needed(config, sizes, method, devices, smallest, asked)
    device = "GPU" if devices.gpu else "process"
    remedies = list(_remedies(config, sizes, method, devices, asked))
    raise UserError(
        f"policy.path={config.policy.path} with policy.tuning={method.tuning.value} launcher={method.launcher} does "
        f"not fit: a {device} needs about {found.total / 1e9:.1f} GB of {devices.memory / 1e9:.1f} GB, with "
        f"{smallest.per_device} answers in a pass: {summed(found)}. "
        + (f"Set {', or '.join(remedies)}" if remedies else "Take a smaller policy (policy=tiny)")
    )


def summed(found: Memory) -> str:
    return " + ".join(f"{name} {taken / 1e9:.1f}" for name, taken in found.parts().items())


def _remedies(config: Config, sizes: Sizes, method: Method, devices: Devices, asked: Question) -> Iterator[str]:
    """Settings of which each alone would make it fit."""

    def fits(config: Config = config, method: Method = method, devices: Devices = devices) -> bool:
        return fitting_plan(config, sizes, method, devices, asked) is not None

    def with_policy(**values: Any) -> Config:
        return replace(config, policy=replace(config.policy, **values))

    step = step_settings(config.trainer)
    if step.answers_per_device is not None and step.steps_per_generation is None:
        free = replace(config, trainer={**config.trainer, "answers_per_device": None})
        if plan := fitting_plan(free, sizes, method, devices, asked):
            yield f"trainer.answers_per_device={plan.per_device}"
    if not config.policy.gradient_checkpointing and fits(with_policy(gradient_checkpointing=True)):
        yield "policy.gradient_checkpointing=true"
    if method.engine is TrainingEngine.vllm_colocate and not config.rollout.vllm.sleep:
        sleeping = replace(config, rollout=replace(config.rollout, vllm=replace(config.rollout.vllm, sleep=True)))
        if fits(sleeping):
            yield "rollout.vllm.sleep=true"
    if method.tuning is not Tuning.lora:
        launcher = method.launcher if method.launcher in ("none", "ddp") else "ddp"
        if fits(method=replace(method, tuning=Tuning.lora, launcher=launcher)):
            yield "policy.tuning=lora" + (f" launcher={launcher}" if launcher != method.launcher else "")
    if devices.gpu and method.launcher not in ("none", "ddp"):
        more = next(
            (n for n in _more(devices.ranks) if fits(_divided(config, n), method, replace(devices, ranks=n))), 0
        )
        if more:
            yield f"{more} GPUs or more"
    elif devices.gpu and devices.ranks > 1:
        sharded = replace(method, launcher="zero3")
        if fits(method=sharded):
            yield "launcher=zero3"


def _more(ranks: int) -> Iterator[int]:
    while (ranks := 2 * ranks) <= MOST_GPUS:
        yield ranks


def _divided(config: Config, ranks: int) -> Config:
    """With as many pictures a rank as now, or one: what is asked is the memory."""
    images = step_settings(config.trainer).images_per_step
    return replace(config, trainer={**config.trainer, "images_per_step": ranks * max(1, images // ranks)})


def choose_method(
    config: Config, sizes: Sizes, engine: TrainingEngine, devices: Devices, launcher: str | None, asked: Question
) -> Method:
    """LoRA or all weights, and the launcher: all weights where they fit several GPUs that share them.

    ``launcher``: what is asked for or has started this process; None: to be chosen. Without a GPU the policy is small.
    """
    tuning = config.policy.tuning
    if tuning is Tuning.auto:
        if not devices.gpu:
            tuning = Tuning.full
        elif devices.ranks == 1 or (launcher in ("none", "ddp") and itemsize(config.policy.dtype, devices) == 2):
            tuning = Tuning.lora  # without shares, bfloat16 weights have no float32 copy to be trained by
        else:
            shared = Method(Tuning.full, launcher or "zero3", engine)
            tuning = Tuning.full if _groups_fit(config, sizes, shared, devices, asked) else Tuning.lora
    if launcher is None:
        alone = devices.ranks == 1 or not devices.gpu
        launcher = "none" if alone else "ddp" if tuning is Tuning.lora else "zero3"
        if launcher == "ddp":  # a whole copy of the weights on each, or, where that is too much, a share
            ways = [Method(tuning, way, engine) for way in ("ddp", "zero3")]
            fitting = (way for way in ways if fitting_plan(config, sizes, way, devices, asked))
            launcher = next(fitting, ways[0]).launcher
    return Method(tuning, launcher, engine)


def _groups_fit(config: Config, sizes: Sizes, method: Method, devices: Devices, asked: Question) -> bool:
    """Whether it fits with all answers to a picture in one pass, or with as many as are set."""
    plan = fitting_plan(config, sizes, method, devices, asked)
    set_by_hand = step_settings(config.trainer).answers_per_device is not None
    return plan is not None and (set_by_hand or plan.per_device >= config.answers_to_each)
