"""What pictures and prompts cost before the policy reads them:  make bench-preparation

(or python -m vqr1.bench.preparation). The same scripted answers to the same pictures of noise go through TRL's own
trainer and through ours, in turns in one process, from the opened pictures to the tensors that the policy is called
with; the policy is not run. A third way is ours with what the policy's device would do next, normalising, done here.
Qwen2.5-VL's image processor and its sizes of patches; the tiny policy's tokenizer. Times are the process's own, memory
is the peak beyond what was held before.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from trl import GRPOConfig, GRPOTrainer

from vqr1.answer import build_prompt
from vqr1.bench.shapes import SHAPES, random_policy
from vqr1.bench.train import measured
from vqr1.config import PolicyConfig
from vqr1.data.pictures import fit_to_grid
from vqr1.policy.load import TINY, load_processor
from vqr1.policy.shared_prefix import Packing
from vqr1.provenance import versions
from vqr1.training.trainer import RankingTrainer

SIZES = {"kadid": (512, 384), "spaq": (1024, 768)}  # width and height, before they are fitted to the grid
LIMITS = {"min_pixels": 3136, "max_pixels": 1 << 20}
PATHS = ("trl", "ours", "ours, normalised here")
K = 6
PER_PASS = 4  # pictures
ANSWER = "<think>" + "The picture is blurred and its colours are faded. " * 3 + "</think><answer>2.70</answer>"

Step = Callable[[], torch.Tensor]


class ScriptedGRPO(GRPOTrainer):
    """TRL's trainer, which is told the answers."""

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        ids = self._tokenizer(ANSWER, add_special_tokens=False)["input_ids"]
        return [[*ids, self._tokenizer.eos_token_id] for _ in prompt_ids], None


def noise(size: str, pictures: int) -> list[dict[str, Any]]:
    """What the trainer is given for a step: each picture K times."""
    rng = np.random.default_rng(0)
    width, height = SIZES[size]
    rows = []
    for i in range(pictures):
        picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        fitted = fit_to_grid(picture, LIMITS["min_pixels"], LIMITS["max_pixels"])
        rows += [{"image": fitted, "prompt": build_prompt("paper"), "image_id": str(i)}] * K
    return rows


def make_step(path: str, rows: list[dict[str, Any]], folder: str) -> Step:
    """A new trainer's step over ``rows``, which ends at the policy's door; returns the pixels of the last pass."""
    processor = load_processor(PolicyConfig(path="tiny", **{**TINY, **LIMITS}))
    passes = len(rows) // (K * PER_PASS)
    given: dict[str, Any] = {
        "model": random_policy(SHAPES["tiny"], processor.tokenizer, torch.float32),
        "reward_funcs": lambda completions, **_: [float(i % K) for i in range(len(completions))],
        "args": GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=K * PER_PASS,
            num_generations=K,
            steps_per_generation=passes,
            gradient_accumulation_steps=passes,
            use_cpu=True,
            report_to=[],
        ),
        "train_dataset": Dataset.from_dict({"prompt": [""] * len(rows)}),
        "processing_class": processor,
    }
    trainer: Any
    if path == "trl":
        trainer = ScriptedGRPO(**given)
    else:
        trainer = RankingTrainer(**given, cohorts=range(len(rows)), packing=Packing(), script=lambda *_: ANSWER)
    trainer.current_gradient_accumulation_steps = passes  # the training loop would set it
    seen: list[torch.Tensor] = []

    def forward(input_ids: torch.Tensor, pixel_values: torch.Tensor, **_: Any) -> SimpleNamespace:
        normalise = path == PATHS[2]
        seen[:] = [trainer.processor.image_processor.as_read(pixel_values) if normalise else pixel_values]
        nothing = torch.zeros(input_ids.shape, requires_grad=True)
        return SimpleNamespace(log_probs=nothing, entropy=nothing)

    trainer.model.forward = forward

    def step() -> torch.Tensor:
        for _ in range(passes):
            trainer.training_step(trainer.model, rows, None)
        return seen[0]

    return step


def measure(size: str, pictures: int, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds and bytes of each path: the best of ``rounds`` steps in turns, after one that warms up."""
    rows = noise(size, pictures)
    spent: dict[str, list[tuple[float, int]]] = {path: [] for path in PATHS}
    for path in PATHS * (rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            spent[path].append(measured(make_step(path, rows, folder)))
    return {
        path: {"seconds": min(s for s, _ in all_of[1:]), "bytes": min(held for _, held in all_of[1:])}
        for path, all_of in spent.items()
    }


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown: TRL's way over ours; above 1 is ours better."""
    heads = [f"{what}, TRL / {path}" for path in PATHS[1:] for what in ("CPU time", "memory")]
    lines = ["| pictures | " + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|"]
    for size, row in results.items():
        ratios = (f"{row['trl'][what] / row[path][what]:.1f}" for path in PATHS[1:] for what in ("seconds", "bytes"))
        lines.append(f"| {size} | " + " | ".join(ratios) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--pictures", type=int, default=16, help=f"in a step, {K} answers to each")
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many counts")
    parser.add_argument("--output", type=Path, default=Path("runs/bench-preparation.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for size in args.sizes:
        results[size] = measure(size, args.pictures, args.rounds)
        print(json.dumps({size: results[size]}), flush=True)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    machine = platform.processor() or platform.machine()
    report = {"machine": f"one torch thread of {machine}", "versions": versions(), "results": results}
    args.output.write_text(json.dumps(report, indent=2) + "\n")
    print(table(results), f"\n{args.output}")


if __name__ == "__main__":
    main()
