"""``vqr1 plan``: what a run would need on machines that are not here, before anything is loaded or started.

It takes the words of ``vqr1 train`` and needs neither GPU, data nor weights: the sizes of a policy are in its
config.json, and those of the published ones are known by name. It prints estimates; docs/scale.md says how they come
about.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from vqr1.cohorts import cohorts_per_epoch
from vqr1.config import Config, Launcher, Objective
from vqr1.config_checks import step_settings
from vqr1.data import DATASETS, read_dataset
from vqr1.errors import MissingFileError, UserError
from vqr1.estimate.memory import Memory, Question, checkpoint_bytes
from vqr1.estimate.sizes import PUBLISHED, Sizes, published, read_sizes
from vqr1.estimate.work import Speed, Traffic, seconds, step, traffic
from vqr1.fitting import (
    Devices,
    Method,
    largest_picture,
    needed,
    passes,
    question,
    scoring,
    training,
)
from vqr1.machine_choices import fitted
from vqr1.rollout_settings import TrainingEngine

TINY = Path(__file__).parent / "policy" / "tiny_policy"
# A card is sold by 2**30 bytes, of which its driver keeps about a hundredth.
SOLD = 0.99 * 2**30


@dataclass(frozen=True)
class PlanSettings:
    """The words of ``vqr1 plan`` beside those of ``vqr1 train``, each with ``plan.`` before it."""

    gpus: int = 8  # of a machine
    nodes: int = 1  # machines
    gpu_memory: float = 80  # GB of a GPU, as it is sold
    answer: int = 100  # tokens of an answer, on average
    picture: str | None = None  # WIDTHxHEIGHT of the pictures; None: of the published sets, else policy.max_pixels
    pictures: int | None = None  # training pictures; None: those of the published sets
    tflops: float = 989  # 1e12 operations a second of a GPU in bfloat16, at its best: an H100's
    utilisation: float = 0.35  # of that, in passes


def plan_words(words: Sequence[str]) -> tuple[PlanSettings, str | None, list[str]]:
    """The settings, the file of ``--json FILE``, and the words of ``vqr1 train``. Raises UserError naming the word."""
    file = None
    left = []
    rest = iter(words)
    for word in rest:
        if word in ("-m", "--multirun"):
            raise UserError(f"{word}: vqr1 plan plans one run; give one value to each setting")
        if word == "--json" or word.startswith("--json="):
            file = word.removeprefix("--json").removeprefix("=") or next(rest, "")
            if not file:
                raise UserError("--json needs a file: --json FILE")
            continue
        left.append(word)
    settings, left = plan_settings(left)
    return settings, file, left


def plan_settings(words: Sequence[str]) -> tuple[PlanSettings, list[str]]:
    """The settings, and the words that are left for ``vqr1 train``. Raises UserError naming the word."""
    given: dict[str, Any] = {}
    left = []
    kinds: dict[str, type] = {"gpus": int, "nodes": int, "answer": int, "pictures": int, "picture": str}
    known = [f.name for f in fields(PlanSettings)]
    for word in words:
        if not word.startswith("plan."):
            left.append(word)
            continue
        key, _, text = word.removeprefix("plan.").partition("=")
        if key not in known:
            raise UserError(f"{word}: vqr1 plan knows {', '.join(f'plan.{name}' for name in known)}")
        kind = kinds.get(key, float)
        try:
            value = kind(text)
        except ValueError:
            raise UserError(f"{word}: set it to a {'whole ' if kind is int else ''}number") from None
        if kind is not str and not 0 < value < float("inf"):
            what = " (without a GPU nothing needs a plan: vqr1 train says what it lacks)" if key == "gpus" else ""
            raise UserError(f"{word}: set it above 0{what}")
        given[key] = value
    settings = PlanSettings(**given)
    if settings.utilisation > 1:
        raise UserError(f"plan.utilisation={settings.utilisation}: it is a share, at most 1")
    _pixels(settings)
    return settings, left


def _pixels(settings: PlanSettings) -> tuple[int, int] | None:
    if settings.picture is None:
        return None
    wide, _, high = settings.picture.lower().partition("x")
    if not (wide.isdigit() and high.isdigit() and int(wide) and int(high)):
        raise UserError(f"plan.picture={settings.picture}: give width and height in pixels: plan.picture=512x384")
    return int(wide), int(high)


@dataclass(frozen=True)
class Plan:
    """What a run needs. Bytes, seconds and operations of one rank, of one step, unless they say otherwise."""

    policy: str
    objective: Objective
    sizes: Sizes
    from_file: str | None  # where the sizes are from; None: as published
    settings: PlanSettings
    memory_of_gpu: float
    method: Method
    ranks: int
    answers_per_device: int
    passes: int
    images_per_step: int
    trained: int
    memory: Memory
    usual: Question  # of an average answer
    longest: Question
    operations: dict[str, float]
    seconds: dict[str, float]
    sent: Traffic
    steps: int  # of the whole run
    checkpoint: float  # bytes on the disk

    @property
    def drawn(self) -> bool:
        """Whether answers are drawn; else one is shown with each example."""
        return self.objective is Objective.rl2r

    @property
    def step_seconds(self) -> float:
        return sum(self.seconds.values())

    @property
    def gpu_hours(self) -> float:
        return self.steps * self.step_seconds * self.ranks / 3600


def make_plan(config: Config, settings: PlanSettings) -> Plan:
    """Raises UserError for what cannot be: settings, sizes, a policy that does not fit; MissingFileError for a policy
    that is neither here nor published."""
    drawn = config.draws_answers
    if not drawn and settings.answer != PlanSettings.answer:
        raise UserError(
            f"plan.answer={settings.answer} has no effect with objective={config.objective.value}, whose answers are "
            "shown; leave it out"
        )
    sizes, found = policy_sizes(config.policy.path)
    ranks = settings.gpus * settings.nodes
    memory = settings.gpu_memory * SOLD
    devices = Devices(gpu=True, ranks=ranks, memory=memory)
    engine = config.rollout.engine
    if engine is TrainingEngine.auto:
        engine = TrainingEngine.vllm_colocate if drawn else TrainingEngine.transformers
    launcher = None if config.launcher is Launcher.auto else config.launcher
    if launcher is Launcher.none:
        devices, ranks = replace(devices, ranks=1), 1
    picture = _pixels(settings) or largest_picture(config)
    longest = question(config, sizes, picture)
    chosen = fitted(config, sizes, engine, devices, launcher, longest)
    method = Method(chosen["tuning"], chosen["launcher"].value, engine)
    batches = chosen["batches"]
    usual = replace(longest, answer=min(settings.answer, longest.answer)) if drawn else longest
    how, share = training(config, sizes, method, devices, usual), passes(config, batches, devices, usual)
    scored = scoring(config, method)
    vllm = {TrainingEngine.vllm_colocate: "colocate", TrainingEngine.vllm_server: "server"}.get(engine, "none")
    sent = traffic(how, share, share.count * (scored.old + scored.reference), vllm)
    operations = step(how, share, scored)
    speed = Speed(tflops=settings.tflops, utilisation=settings.utilisation)
    parallel = config.rollout.vllm.tensor_parallel
    total = sum(operations.values())
    spent = seconds(how, share, total, sent.total, longest.answer, settings.nodes, parallel, speed)
    if not drawn:
        del spent["generation"]
    return Plan(
        policy=config.policy.path,
        objective=config.objective,
        sizes=sizes,
        from_file=found,
        settings=settings,
        memory_of_gpu=memory,
        method=method,
        ranks=ranks,
        answers_per_device=batches.per_device,
        passes=batches.accumulation,
        images_per_step=step_settings(config.trainer).images_per_step,
        trained=how.trained,
        memory=needed(config, sizes, method, devices, batches, longest),
        usual=usual,
        longest=longest,
        operations=operations,
        seconds=spent,
        sent=sent,
        steps=run_steps(config, settings),
        checkpoint=checkpoint_bytes(how),
    )


def policy_sizes(path: str) -> tuple[Sizes, str | None]:
    """The sizes of ``policy.path``, and the file they are from; None where they are the published ones."""
    folder = TINY if path == "tiny" else Path(path).expanduser()
    if (folder / "config.json").is_file():
        return read_sizes(folder), str(folder / "config.json")
    known = published(path)
    if known is None:
        raise MissingFileError(
            f"policy.path={path}: {folder} holds no config.json, and it is none of the published "
            f"{', '.join(f'Qwen2.5-VL-{name}' for name in PUBLISHED)}; give the folder that holds it"
        )
    return known, None


def run_steps(config: Config, settings: PlanSettings) -> int:
    """Optimiser steps of the whole run. Raises UserError for a dataset that is neither published nor here.

    Pairs of one reference, and pairs of which each word is to come as often, may be fewer than are counted.
    """
    steps = config.trainer.get("max_steps", -1)
    if steps > 0:
        return int(steps)
    images, cohort = step_settings(config.trainer).images_per_step, config.together
    if settings.pictures is not None:
        counts = [settings.pictures]
    else:
        counts = [training_pictures(name, config) for name in config.data.train]
    if config.objective in (Objective.comparison, Objective.depict):
        most = config.comparison.pairs if config.objective is Objective.comparison else config.depict.pairs
        counts = [min(most, count * (count - 1) // 2) for count in counts]
        share = config.depict.content_share
        counts += [round(share / (1 - share) * sum(counts))] if share else []
    batches = sum(cohorts_per_epoch(counts, cohort, config.data.mix_temperature)) // max(1, images // cohort)
    return int(batches * config.trainer.get("num_train_epochs", 3) * config.trainer.get("num_iterations", 1))


def training_pictures(name: str, config: Config) -> int:
    """As published, where the authors' split or the ratio of the run says how many; else counted."""
    spec = DATASETS.get(name)
    if spec is None or not spec.size:
        return len(read_dataset(name, Path(config.data.root)).train)
    if spec.train is not None:
        return spec.train
    if spec.split == "content":
        ratio = config.data.split_ratio
        return round(spec.size * ratio[0] / sum(ratio))
    raise UserError(f"data.train={name}: its training part has no published size here; say plan.pictures=N")


def command(plan: Plan, words: Sequence[str]) -> list[str]:
    """What starts the run with ``words``: one line, or for several machines one under Slurm and one without."""
    chosen = _choice(plan)
    chosen.pop("rollout.engine", None)  # chosen again where the run starts
    given = [word for word in words if word.partition("=")[0].lstrip("+") not in chosen]
    run = shlex.join([*given, *(f"{key}={value}" for key, value in chosen.items())])
    nodes, gpus = plan.settings.nodes, plan.settings.gpus
    if nodes == 1:
        return [f"vqr1 train {run}"]
    place = "NODE_RANK=0 MASTER_ADDR=first-host"
    return [
        f"NODES={nodes} GPUS={gpus} launch/slurm.sbatch {run}",
        f"NODES={nodes} {place} GPUS={gpus} LAUNCHER={plan.method.launcher} launch/node.sh {run}",
    ]


def text(plan: Plan, words: Sequence[str]) -> str:
    """For people. Everything but the sizes is an estimate."""
    sizes, found, settings, usual = plan.sizes, plan.memory, plan.settings, plan.usual
    prompt, packed = usual.prompt(sizes), usual.packed(sizes, usual.k)
    with_them = "it" if usual.pictures == 1 else f"{usual.pictures} of them"
    where = plan.from_file or "as published"
    machines = f"{_count(settings.nodes, 'machine')} with {_count(settings.gpus, 'GPU')}"
    total = sum(plan.operations.values()) * plan.ranks
    done = {name: f"{part * plan.ranks / 1e15:.2f}" for name, part in plan.operations.items() if part}
    sent = {"gradients": plan.sent.gradients, "weights": plan.sent.weights}
    sent |= {"to vLLM": plan.sent.sync} if plan.drawn else {}
    examples = {Objective.levels: "pictures", Objective.comparison: "pairs"}.get(plan.objective, "examples")
    each = f"pictures with {usual.k} answers" if plan.drawn else f"{examples} with an answer"
    lines = {
        "policy": [f"{plan.policy}: {_parameters(sizes.parameters)}, {where}; trained: {_parameters(plan.trained)}"],
        "machine": [f"{machines} of {_gb(plan.memory_of_gpu)}; ranks: {plan.ranks}"],
        "choice": [" ".join(f"{key}={value}" for key, value in _choice(plan).items())],
        "command": command(plan, words),
        "step": [
            f"{plan.images_per_step} {each} each; on every GPU "
            f"{_count(plan.passes, 'pass', 'passes')} of {plan.answers_per_device} answers"
        ],
        "tokens": [
            f"{usual.patches} patches a picture; {prompt} tokens a prompt with {with_them}, {usual.answer} an answer "
            f"(at most {plan.longest.answer});",
            f"a picture with its answers {packed}",
        ]
        if plan.drawn
        else [
            f"{usual.patches} patches a picture; {prompt} tokens a prompt with {with_them} at most, {usual.answer} an "
            "answer at most"
        ],
        "memory": [
            f"{_gb(found.total)} of each GPU's {_gb(plan.memory_of_gpu)}, with the longest answers:",
            *(f"{name:12}{taken / 1e9:7.1f}" for name, taken in found.parts().items()),
        ],
        "operations": [f"{total / 1e15:.2f}e15 a step, all GPUs: {_listed(done)}"],
        "sent": [
            f"{_gb(plan.sent.total)} by each GPU a step: "
            + _listed({name: f"{part / 1e9:.1f}" for name, part in sent.items()})
        ],
        "seconds": [
            f"{plan.step_seconds:.1f} a step: " + _listed({n: f"{each:.1f}" for n, each in plan.seconds.items()}),
            f"(GPUs of {settings.tflops:g}e12 operations a second, {settings.utilisation:.0%} of that in passes; "
            "nothing overlaps)",
        ],
        "run": [
            f"{plan.steps} steps, {plan.steps * plan.step_seconds / 3600:.1f} hours, {plan.gpu_hours:.1f} GPU hours; "
            "evaluations come on top"
        ],
        "disk": [f"{_gb(plan.checkpoint)} a checkpoint"],
    }
    shown = [f"{name if not i else '':12}{line}" for name, found in lines.items() for i, line in enumerate(found)]
    return "\n".join([*shown, "", "All but the sizes are estimates (docs/scale.md)."]) + "\n"


def _choice(plan: Plan) -> dict[str, Any]:
    return {
        "policy.tuning": plan.method.tuning.value,
        "launcher": plan.method.launcher,
        **({"rollout.engine": plan.method.engine.value} if plan.drawn else {}),
        "trainer.answers_per_device": plan.answers_per_device,
    }


def _count(number: int, one: str, several: str | None = None) -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"


def _gb(number: float) -> str:
    return f"{number / 1e9:.1f} GB"


def _parameters(number: int) -> str:
    return f"{number / 1e9:.2f} billion parameters" if number >= 1e9 else f"{number / 1e6:.1f} million parameters"


def _listed(parts: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in parts.items())


def as_plain(plan: Plan, words: Sequence[str]) -> dict[str, Any]:
    """The same as plain values, for a file."""
    usual = plan.usual
    return {
        "policy": plan.policy,
        "parameters": plan.sizes.parameters,
        "trained": plan.trained,
        "ranks": plan.ranks,
        "settings": asdict(plan.settings),
        "choice": _choice(plan),
        "commands": command(plan, words),
        "passes_per_step": plan.passes,
        "tokens": {"prompt": usual.prompt(plan.sizes), "answer": usual.answer, "patches": usual.patches},
        "memory_bytes": {"of_gpu": plan.memory_of_gpu, "total": plan.memory.total, **plan.memory.parts()},
        "operations": plan.operations,
        "sent_bytes": asdict(plan.sent),
        "seconds": {"step": plan.step_seconds, **plan.seconds},
        "steps": plan.steps,
        "gpu_hours": plan.gpu_hours,
        "checkpoint_bytes": plan.checkpoint,
    }
