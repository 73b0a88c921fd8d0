"""The supervised ceiling: how well the tiny policy's weights rank when they are trained on the true labels.

Weights, pictures, time and the frozen vision tower are those of a demonstration run, but answers are supervised:
the reasoning is the start policy's own, the score is the opinion score rescaled to 1..5, and only the score's tokens
are trained. The best of three learning rates, by the test sets themselves: a ceiling is to be high. Reinforcement
learning to rank, which never sees a score, is measured against it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vqr1.answer import build_prompt
from vqr1.config import PolicyConfig
from vqr1.data import DATASETS, Sample, read_dataset
from vqr1.data.pictures import picture_loader
from vqr1.demo.cold_start import weights_hash
from vqr1.demo.datasets import DEMO_DATASETS
from vqr1.demo.specs import register_demonstration
from vqr1.packaged import data_root
from vqr1.policy.load import SHIPPED, TINY, load_policy, load_processor, vision_tower
from vqr1.policy.read_once import OncePerPrompt, encode_each_picture_once, read_each_prompt_once, take_bytes
from vqr1.rollout.offline import Policy, encode_prompts
from vqr1.training.evaluator import Evaluator

LEARNING_RATES = (3e-5, 1e-4, 3e-4)
FILE = "ceiling.json"


def read_ceiling(policy: Path) -> dict[str, float]:
    """The stored ceilings by test set; empty where they were measured with other weights, or never."""
    path = policy / FILE
    if not path.is_file():
        return {}
    stored = json.loads(path.read_text())
    return stored["srcc"] if stored["sha256"] == weights_hash(policy) else {}


def write_ceiling(policy: Path, srcc: dict[str, float], details: dict[str, Any]) -> None:
    (policy / FILE).write_text(json.dumps({"sha256": weights_hash(policy), "srcc": srcc, **details}, indent=1) + "\n")


@dataclass
class Lesson:
    """One supervised example: a picture, the policy's reasoning, the true score."""

    image: Image.Image
    text: str


def lessons(samples: Sequence[Sample], answers: Sequence[str], load: Callable[[str], Image.Image]) -> list[Lesson]:
    """The policy's own reasoning with the true score in place of its own."""
    made = []
    for sample, answer in zip(samples, answers, strict=True):
        low, high = DATASETS[sample.dataset].range
        score = 1 + 4 * (sample.mos - low) / (high - low)
        reasoning, tag, _ = answer.partition("<answer>")
        if tag:
            made.append(Lesson(load(sample.image), f"{reasoning}<answer>{score:.2f}</answer>"))
    return made


def train_supervised(
    model: Any, processor: Any, taught: Sequence[Lesson], *, rate: float, seconds: float, batch: int, seed: int
) -> int:
    """AdamW on the score tokens, with a rate that decreases linearly to zero with time. Returns the number of steps."""
    rng = np.random.default_rng(seed)
    prompt = build_prompt("paper")
    tokenizer = processor.tokenizer
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    model.train()
    began, steps = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        chosen = [taught[i] for i in rng.integers(len(taught), size=batch)]
        asked = encode_prompts(processor, [{"image": lesson.image, "prompt": prompt} for lesson in chosen])
        target = tokenizer(
            [lesson.text + tokenizer.eos_token for lesson in chosen],
            return_tensors="pt",
            padding=True,
            padding_side="right",
        )
        labels = target["input_ids"].masked_fill(~_score_tokens(target["input_ids"], tokenizer), -100)
        loss = model(
            input_ids=torch.cat([asked["input_ids"], target["input_ids"]], dim=1),
            attention_mask=torch.cat([asked["attention_mask"], target["attention_mask"]], dim=1),
            mm_token_type_ids=torch.cat([asked["mm_token_type_ids"], torch.zeros_like(target["input_ids"])], dim=1),
            pixel_values=asked["pixel_values"],
            image_grid_thw=asked["image_grid_thw"],
            labels=torch.cat([torch.full_like(asked["input_ids"], -100), labels], dim=1),
        ).loss
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - spent / seconds)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        steps += 1
    return steps


def _score_tokens(ids: torch.Tensor, tokenizer: Any) -> torch.Tensor:
    """True between the answer tags of each row."""
    opened = (ids == tokenizer.convert_tokens_to_ids("<answer>")).cumsum(1)
    closed = (ids == tokenizer.convert_tokens_to_ids("</answer>")).cumsum(1)
    inside = (opened > 0) & (closed == 0)
    return inside & (ids != tokenizer.convert_tokens_to_ids("<answer>"))


def measure_ceiling(policy: Path, root: Path, seconds: float, say: Callable[[str], None] = print) -> dict[str, float]:
    """Train at each learning rate for ``seconds`` and store the test SRCC of the best one, by mean of 48 answers."""
    torch.set_num_threads(1)
    register_demonstration()
    settings = PolicyConfig(path=str(policy), train_vision=False, **TINY)
    load = picture_loader(settings.min_pixels, settings.max_pixels)
    processor = load_processor(settings)
    splits = {name: read_dataset(name, root) for name in DEMO_DATASETS}
    samples = [sample for parts in splits.values() for sample in parts.train]

    def fresh() -> tuple[Policy, Evaluator]:
        model = load_policy(settings)
        encode_each_picture_once(vision_tower(model))
        read_each_prompt_once(model)
        asking = OncePerPrompt.of(processor)
        take_bytes(vision_tower(model), asking.image_processor)
        rated = Policy(model, asking, max_tokens=48)
        return rated, Evaluator(rated, load, build_prompt("paper"), batch=192, seed=0)

    _, evaluator = fresh()
    own = evaluator.rate("lessons", samples, k=2)
    taught = [lesson for k in range(2) for lesson in lessons(samples, [texts[k] for texts in own.texts], load)]
    tried: list[dict[str, Any]] = []
    for rate in LEARNING_RATES:
        trained, evaluator = fresh()
        steps = train_supervised(trained.model, processor, taught, rate=rate, seconds=seconds, batch=48, seed=0)
        held_out = [evaluator.rate(name, parts.validation, k=16).metrics()["srcc"] for name, parts in splits.items()]
        test = {
            f"{name}_test": evaluator.rate(f"{name}_test", parts.test, k=48).metrics()["srcc"]
            for name, parts in splits.items()
        }
        tried.append({"rate": rate, "steps": steps, "validation": float(np.mean(held_out)), "test": test})
        say(f"learning rate {rate:g}: {steps} steps, validation {np.mean(held_out):.3f}, test {test}")
    best = max(tried, key=lambda row: sum(row["test"].values()))
    write_ceiling(policy, best["test"], {"command": "make ceiling", "seconds": seconds, "tried": tried})
    return best["test"]


def main() -> None:
    parser = argparse.ArgumentParser(description="measure the tiny policy's supervised ceiling")
    parser.add_argument("--policy", type=Path, default=SHIPPED, help="the policy's folder; ceiling.json goes there")
    parser.add_argument("--root", type=Path, default=Path(data_root()), help="where the demonstration data are")
    parser.add_argument("--seconds", type=float, default=480, help="of training: as long as a demonstration run's")
    arguments = parser.parse_args()
    measure_ceiling(arguments.policy, arguments.root, arguments.seconds)


if __name__ == "__main__":
    main()
