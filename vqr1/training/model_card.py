"""The README.md beside saved weights: what they are, what they were trained on, what was measured, how to load them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vqr1.comparison.words import QUESTION
from vqr1.config import Config, DepictConfig, LevelLabels, Objective, RewardKind
from vqr1.config_checks import step_settings
from vqr1.next_steps import READ_BY
from vqr1.policy.load import SHIPPED
from vqr1.provenance import versions
from vqr1.training.run_data import RunData, set_names

FILE = "README.md"
LOAD_FULL = """\
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

model = Qwen2_5_VLForConditionalGeneration.from_pretrained("FOLDER")
processor = AutoProcessor.from_pretrained("FOLDER", min_pixels={min_pixels}, max_pixels={max_pixels})
"""
LOAD_LORA = """\
from peft import PeftModel
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

base = Qwen2_5_VLForConditionalGeneration.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "FOLDER")
processor = AutoProcessor.from_pretrained("FOLDER", min_pixels={min_pixels}, max_pixels={max_pixels})
"""


@dataclass(frozen=True)
class CardFacts:
    """What the card says that does not change while a run trains."""

    config: Config  # settled
    run: str  # the run's name
    pictures: dict[str, dict[str, int]]  # by set: how many in train, validation and test
    lora: bool
    learning_rate: float
    versions: dict[str, Any] = field(default_factory=dict)


def card_facts(config: Config, run: str, data: RunData, *, lora: bool, rate: float) -> CardFacts:
    pictures = {
        name: {
            "train": sum(sample.dataset == name for sample in data.train),
            "validation": len(data.validation.get(name, ())),
            "test": len(data.test.get(name, ())),
        }
        for name in set_names(config)
    }
    return CardFacts(config, run, pictures, lora, rate, versions())


def model_card(facts: CardFacts, step: int, rows: Sequence[dict[str, Any]]) -> str:
    """The card of the weights after ``step`` steps. ``rows``: the evaluations so far, as in metrics.jsonl."""
    config = facts.config
    return "\n".join(
        [
            _front_matter(facts),
            f"# {facts.run}, step {step}",
            "",
            f"{_policy(facts)} trained to rate the quality of pictures {_method(config)} with vqr1. "
            f"These are the weights after {step} optimiser steps"
            + (" (LoRA adapters, to be laid on the base model)." if facts.lora else "."),
            "",
            "## Trained on",
            "",
            "| Set | Pictures trained on | chosen by (validation) | held out (test) |",
            "|---|---|---|---|",
            *(_set(name, config, sizes) for name, sizes in facts.pictures.items()),
            "",
            *(
                ["The opinion scores were shuffled among the pictures: a control.", ""]
                if config.data.shuffle_mos
                else []
            ),
            "## Settings",
            "",
            *(f"- {name}: {value}" for name, value in _settings(facts).items()),
            "",
            "## Measured",
            "",
            *_measured(step, rows, facts.config.draws_answers),
            "",
            "## Load",
            "",
            *_loaded(config),
            "",
            "```python",
            (LOAD_LORA if facts.lora else LOAD_FULL).format(
                base=_base(config),
                min_pixels=config.policy.min_pixels,
                max_pixels=config.policy.max_pixels,
            )
            + "```",
            "",
            _prompt(config),
            "",
            "## Limits",
            "",
            *_limits(config),
            "",
            "## Made with",
            "",
            *(f"- {name} {version}" for name, version in facts.versions.items() if version),
            "",
        ]
    )


def _loaded(config: Config) -> list[str]:
    """What stands before the lines of Python: the command that rates datasets."""
    return [
        "Rate the pictures of datasets, with `FOLDER` the place of this file, inside its run folder:",
        "",
        f"    vqr1 evaluate model=FOLDER data=[SET,SET]{READ_BY[config.objective]}",
        "",
        "In a program" + (" (`vqr1.load_rater` does all of it):" if config.objective is Objective.levels else ":"),
    ]


def _front_matter(facts: CardFacts) -> str:
    """Without ``license``: that of the base model and of the datasets' labels decides, and none is claimed here."""
    path = facts.config.policy.path
    known = {
        **({"base_model": path} if path.count("/") == 1 and not path.startswith(tuple("./~")) else {}),  # on the hub
        "library_name": "peft" if facts.lora else "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": [
            "image-quality-assessment",
            "grpo" if facts.config.draws_answers else "sft",
            "trl",
            "vqr1",
            *(["lora"] if facts.lora else []),
        ],
        "datasets": list(facts.config.data.train),
    }
    return f"---\n{yaml.safe_dump(known, sort_keys=False, allow_unicode=True)}---\n"


def _base(config: Config) -> str:
    return str(SHIPPED) if config.policy.path == "tiny" else config.policy.path


def _policy(facts: CardFacts) -> str:
    path = facts.config.policy.path
    return "The tiny policy shipped with vqr1 (a small Qwen2.5-VL)," if path == "tiny" else f"`{path}`,"


def _method(config: Config) -> str:
    if config.draws_answers:
        return "by reinforcement learning to rank (VisualQuality-R1's method)"
    if config.objective is Objective.comparison:
        return "by comparisons of two pictures (Compare2Score's method)"
    if config.objective is Objective.depict:
        return "by answers on pictures named by tags (after DepictQA)"
    return "in the words of five levels (Q-Align's method" + (
        ")" if config.levels.labels is LevelLabels.hard else ", with soft labels as in DeQA-Score)"
    )


def _prompt(config: Config) -> str:
    if config.objective is Objective.comparison:
        return f"Its prompt shows two pictures by their order and asks: `{QUESTION}`"
    if config.objective is Objective.depict:
        return "Its prompts show pictures by their tags, Image A and Image B, in several phrasings (`docs/methods.md`)."
    if config.draws_answers:
        where, text = "rollout.prompt", config.rollout.prompt
    else:
        where, text = "levels.question", config.levels.question
    beside = " Each picture was shown after its undistorted reference." if config.data.reference else ""
    return f"The prompt it was trained with is `{where}` of `config.yaml` in the run folder: `{text}`.{beside}"


def _set(name: str, config: Config, sizes: dict[str, int]) -> str:
    data = config.data
    used = (("train", data.train), ("validation", data.validation), ("test", data.test))
    return f"| {name} | " + " | ".join(str(sizes[part]) if name in sets else "-" for part, sets in used) + " |"


def _settings(facts: CardFacts) -> dict[str, Any]:
    config = facts.config
    return {
        **_learnt(config),
        ("pictures" if config.objective in (Objective.rl2r, Objective.levels) else "examples")
        + " in a step": step_settings(config.trainer).images_per_step,
        "learning rate": f"{facts.learning_rate:g}",
        "tuning": ("LoRA" if facts.lora else "all weights")
        + ("" if config.policy.train_vision else " but the vision tower's"),
        "seed": config.seed,
    }


def _learnt(config: Config) -> dict[str, Any]:
    if config.draws_answers:
        return _ranking(config)
    return _levels(config) if config.objective is Objective.levels else _pairs(config)


def _ranking(config: Config) -> dict[str, Any]:
    reward, trainer = config.reward, config.trainer
    how = f"{reward.kind.value}"
    if reward.kind is RewardKind.ranking:
        how += f" ({reward.agreement.value}, opponent {reward.opponent.value}, variance {reward.variance.value})"
    return {
        "reward": f"{how}; weights: quality {reward.fidelity_weight:g}, format {reward.format_weight:g}",
        "answers to each picture (rollout.k)": config.rollout.k,
        "temperature": config.rollout.temperature,
        "KL penalty (trainer.beta)": trainer.get("beta"),
    }


def _levels(config: Config) -> dict[str, Any]:
    levels = config.levels
    found: dict[str, Any] = {"labels (levels.labels)": levels.labels.value}
    if levels.labels is LevelLabels.soft:
        found["weights of the loss"] = (
            f"label {levels.level_weight:g}, other words {levels.text_weight:g}, pairs {levels.pair_weight:g}"
        )
    return found


def _pairs(config: Config) -> dict[str, Any]:
    section = config.objective.value
    settings = config.comparison if config.objective is Objective.comparison else config.depict
    found: dict[str, Any] = {
        f"pairs of each set, at most ({section}.pairs)": settings.pairs,
        f"anchors of a score ({section}.anchors)": settings.anchors,
        f"orders of a comparison ({section}.both_orders)": 2 if settings.both_orders else 1,
    }
    if isinstance(settings, DepictConfig):
        found["share of questions with a short answer (depict.short)"] = f"{settings.short:g}"
        found["with references (depict.reference)"] = "where a set names them" if settings.reference else "never"
        if settings.content is not None:
            of = f"{Path(settings.content).name}, a share of {settings.content_share:g}"
            found["rows on what pictures show (depict.content)"] = of
    elif settings.balanced:
        found["each word as often (comparison.balanced)"] = "yes"
    if settings.spread:
        found[f"spread of ratings ({section}.spread)"] = settings.spread
    return found


def _measured(step: int, rows: Sequence[dict[str, Any]], drawn: bool) -> list[str]:
    """The evaluation of this step, else the last before it, which the text says; ``drawn``: of answers."""
    if not rows:
        return ["Nothing has been evaluated."]
    row = max((row for row in rows if row["step"] <= step), key=lambda row: row["step"], default=None)
    if row is None:
        return ["Nothing was evaluated up to this step."]
    figures = {"score_std": "score std over the answers", "unreadable": "unreadable"} if drawn else {}
    if not drawn and any(key.endswith("/score_std") for key in row):
        figures = {"score_std": "score std of a drawn level"}
    text = [
        f"SRCC and PLCC of the scores{' (of several answers their mean)' if drawn else ''} against the opinion scores"
        + (
            "."
            if row["step"] == step
            else f", **at step {row['step']}**: this step had not been evaluated when it was saved."
        )
        + " Validation sets chose the best weights; names that end in `_test` are held-out pictures.",
        "",
        f"| Set | SRCC | 95 % interval | PLCC | {''.join(f'{name} | ' for name in figures.values())}pictures |",
        "|---" * (5 + len(figures)) + "|",
    ]
    sets = dict.fromkeys(key.split("/", 1)[1].rpartition("/")[0] for key in row if key.startswith("eval/"))
    for name in sets:

        def shown(figure: str, name: str = name) -> str:
            value = row.get(f"eval/{name}/{figure}")
            return "-" if value is None or value != value else f"{value:.3f}"

        low, high = shown("srcc_low"), shown("srcc_high")
        interval = "-" if "-" in (low, high) else f"{low} to {high}"
        cells = [shown("srcc"), interval, shown("plcc"), *map(shown, figures)]
        text.append(f"| {name} | {' | '.join(cells)} | {row[f'eval/{name}/n']:.0f} |")
    return text


def _limits(config: Config) -> list[str]:
    if config.objective in (Objective.comparison, Objective.depict):
        return [
            "- Its scores say how a picture does in comparisons with a few training pictures; they have no unit and no "
            "ends, and order the pictures of a set.",
            "- The figures hold for the pictures named above; other kinds of content or damage were not measured.",
        ]
    if not config.draws_answers:
        return [
            "- Its scores are expected levels, 1 (bad) to 5 (excellent), each a fifth of its dataset's scale: sets "
            "whose scales differ in meaning share the words.",
            "- The figures hold for the pictures named above; other kinds of content or damage were not measured.",
        ]
    scale = (
        "- Its scores are numbers on the scale that its prompt asks for, not on a dataset's own scale."
        if config.reward.kind is RewardKind.ranking
        else "- Its scores were trained towards the opinion scores, brought to the scale that its prompt asks for."
    )
    return [
        scale,
        "- Pictures of one set were compared with each other only: scores order the pictures of a set, and are not "
        "comparable between sets.",
        "- The figures hold for the pictures named above; other kinds of content or damage were not measured.",
    ]


def write_card(folder: Path, text: str) -> None:
    (folder / FILE).write_text(text, encoding="utf-8")
