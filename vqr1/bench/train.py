"""How fast answers that share their prompt are trained on:  make bench-train (or python -m vqr1.bench.train).

The same weights and the same batch go through TRL's own path, a row for each answer, and through shared prompts, in
turns in one process. Timed are the passes that score answers: forward (the reference's pass), forward + backward with
the trainer's loss, and a whole optimiser step (reference, policy, clipping, AdamW); generation and rewards have no part
in it. Printed besides are the tokens and patches of either path and the floating point operations that torch counts
in them: their ratio is what the times' ratio would be on a machine that is equally good at all of them.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.flop_counter import FlopCounterMode
from trl import GRPOConfig
from trl.trainer.utils import get_peak_flops

from vqr1.bench.shapes import DEVICE, SHAPES, random_policy
from vqr1.config import PolicyConfig
from vqr1.policy.load import TINY, load_processor
from vqr1.policy.shared_prefix import Packing
from vqr1.provenance import versions
from vqr1.training.build_trainer import share_work
from vqr1.training.trainer import RankingTrainer


@dataclass(frozen=True)
class Geometry:
    """What is asked about how large a picture, and how long the answers are."""

    grid: tuple[int, int]  # patches, high and wide; four of them are a token
    prompt: int  # tokens, the picture's among them
    answer: int
    k: int = 6
    pictures: int = 1  # in one pass
    idle: int = 0  # of them, whose answers all earn the same; with beta 0 our path may skip them


GEOMETRIES = {
    "demo": Geometry((8, 8), 56, 16, pictures=8),
    "demo-idle": Geometry((8, 8), 56, 16, pictures=8, idle=4),
    "kadid": Geometry((28, 36), 365, 80),
    "kadid-k4": Geometry((28, 36), 365, 80, k=4),
    "kadid-k8": Geometry((28, 36), 365, 80, k=8),
    "kadid-k16": Geometry((28, 36), 365, 80, k=16),
    "spaq": Geometry((62, 70), 1200, 120),
}


TIMED = ("forward", "forward_backward", "step")


def make_trainer(name: str, geometry: Geometry, folder: str, checkpointing: bool = False) -> RankingTrainer:
    """A trainer of a random policy, ready for passes over one batch of ``geometry``."""
    processor = load_processor(PolicyConfig(path="tiny", **TINY))
    rows = geometry.k * geometry.pictures
    dtype = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
    trainer = RankingTrainer(
        model=random_policy(SHAPES[name], processor.tokenizer, dtype),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=rows,
            num_generations=geometry.k,
            steps_per_generation=1,
            gradient_checkpointing=checkpointing,
            bf16=DEVICE.type == "cuda",
            use_cpu=DEVICE.type == "cpu",
            loss_type="grpo",
            report_to=[],
        ),
        train_dataset=Dataset.from_dict({"prompt": [""] * rows}),
        processing_class=processor,
        cohorts=range(rows),
        packing=Packing(),
        skip_zero_advantages=geometry.idle > 0,
    )
    share_work(trainer)
    trainer.current_gradient_accumulation_steps = 1  # the training loop would set it
    trainer.model.train()  # type: ignore[union-attr]
    return trainer


def make_batch(geometry: Geometry, model: Any) -> dict[str, Any]:
    """A micro-batch as TRL's trainer holds it: random tokens, pictures of noise, answers of full length."""
    generator = torch.Generator().manual_seed(0)
    rows, config = geometry.k * geometry.pictures, model.config
    patches = geometry.grid[0] * geometry.grid[1]
    seen = patches // config.vision_config.spatial_merge_size**2

    def tokens(*sizes: int) -> torch.Tensor:
        return torch.randint(300, config.text_config.vocab_size, sizes, generator=generator)

    prompt = tokens(geometry.pictures, geometry.prompt)
    prompt[:, 4 : 4 + seen] = config.image_token_id
    prompt = prompt.repeat_interleave(geometry.k, 0)
    answer = tokens(rows, geometry.answer)
    wide = 3 * config.vision_config.temporal_patch_size * config.vision_config.patch_size**2
    pixels = torch.randn(geometry.pictures, patches, wide, generator=generator).repeat_interleave(geometry.k, 0)
    is_picture = torch.cat([prompt == config.image_token_id, torch.zeros_like(answer, dtype=torch.bool)], 1)
    advantages = torch.randn(rows, generator=generator)
    advantages[: geometry.k * geometry.idle] = 0
    batch = {
        "prompt_ids": prompt,
        "prompt_mask": torch.ones_like(prompt),
        "completion_ids": answer,
        "completion_mask": torch.ones_like(answer),
        "advantages": advantages,
        "num_items_in_batch": torch.tensor(answer.numel()),
        "pixel_values": pixels.flatten(0, 1).to(model.dtype),
        "image_grid_thw": torch.tensor([[1, *geometry.grid]]).repeat(rows, 1),
        "mm_token_type_ids": is_picture.long(),
    }
    return {name: value.to(model.device) for name, value in batch.items()} | {"num_images": [1] * rows}


def passes(
    trainer: RankingTrainer, batch: dict[str, Any], timed: Sequence[str] = TIMED
) -> dict[str, Callable[[], Any]]:
    """What is timed. Without ``step`` no optimiser's moments are held: a 7B policy then fits one GPU."""
    model: Any = trainer.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    if "step" in timed:
        optimizer.step()  # its moments are there from the start

    def forward() -> None:
        with torch.no_grad():
            trainer.score(model, batch)

    def forward_backward() -> None:
        optimizer.zero_grad()
        trainer.compute_loss(model, batch).backward()

    def step() -> None:
        forward()
        forward_backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    runs = {"forward": forward, "forward_backward": forward_backward, "step": step}
    return {name: run for name, run in runs.items() if name in timed}


def measured(run: Callable[[], Any]) -> tuple[float, int]:
    """Seconds, and the most memory beyond what was held before.

    On a GPU by the clock and by its allocator. On a CPU they are the process's own (of one thread), so that others on
    the machine count for little, and the memory is the kernel's account of it (Linux).
    """
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before, began = torch.cuda.memory_allocated(), time.perf_counter()
        run()
        torch.cuda.synchronize()
        return time.perf_counter() - began, torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # give back what earlier passes left
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, began = _resident("VmRSS"), time.process_time()
    run()
    return time.process_time() - began, _resident("VmHWM") - before


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def kernel_operations(query: torch.Tensor, ends_q: torch.Tensor, ends_k: torch.Tensor, products: int) -> int:
    """Operations of ``products`` matrix products between each segment's queries and all its keys.

    ``query`` is (T, H, D), the ends are (N + 1,) cumulative lengths. Causality is not taken off, as torch does not for
    sdpa.
    """
    pairs = int((ends_q.diff().long() * ends_k.diff().long()).sum())
    return products * 2 * query.shape[1] * query.shape[2] * pairs


def _forward_operations(query: Any, key: Any, value: Any, ends_q: Any, ends_k: Any, *_: Any, **__: Any) -> int:
    return kernel_operations(query, ends_q, ends_k, 2)  # scores; weighted values


def _backward_operations(
    grad: Any, query: Any, key: Any, value: Any, out: Any, lse: Any, ends_q: Any, ends_k: Any, *_: Any, **__: Any
) -> int:
    return kernel_operations(query, ends_q, ends_k, 5)  # scores again, and the gradients of four operands


_forward_operations._get_raw = _backward_operations._get_raw = True  # type: ignore[attr-defined]  # tensors, not shapes
# torch counts its variable-length kernel from 2.13 on alone; with these every version counts alike.
KERNEL_OPERATIONS: dict[Any, Any] = {
    torch.ops.torch_attn._varlen_attn: _forward_operations,
    torch.ops.torch_attn._varlen_attn_backward: _backward_operations,
}


def counted(model: torch.nn.Module, run: Callable[[], Any]) -> dict[str, int]:
    """Tokens, padding among them, and patches that ``model`` is sent, and floating point operations."""
    sent = {"tokens": 0, "patches": 0}

    def look(_: Any, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        sent["tokens"] += inputs["input_ids"].numel()
        sent["patches"] += len(inputs["pixel_values"])

    hook = model.register_forward_pre_hook(look, with_kwargs=True)
    with FlopCounterMode(display=False, custom_mapping=KERNEL_OPERATIONS) as counter:
        run()
    hook.remove()
    return sent | {"operations": counter.get_total_flops()}


def measure(
    name: str, geometry: Geometry, rounds: int, checkpointing: bool, timed: Sequence[str] = TIMED
) -> dict[str, Any]:
    """Both paths over one batch: the best of ``rounds`` in turns, a step's peak of memory, tokens and operations."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(name, geometry, folder, checkpointing)
    policy: Any = trainer.model
    batch = make_batch(geometry, policy)
    runs = passes(trainer, batch, timed)
    paths: dict[str, Packing | None] = {"shared": Packing(), "trl": None}
    found: dict[str, dict[str, Any]] = {path: {} for path in paths}
    for path, packing in paths.items():
        trainer.packing = packing
        found[path] |= counted(policy, runs["forward_backward"])
    for path in list(paths) * rounds:
        trainer.packing = paths[path]
        for what, run in runs.items():
            spent, held = measured(run)
            found[path][what] = min(spent, found[path].get(what, math.inf))
            found[path][f"{what}_bytes"] = held
        found[path]["peak_bytes"] = held  # of the last of them
    peak = get_peak_flops(torch.cuda.get_device_name(), "bfloat16") if DEVICE.type == "cuda" else None
    for row in found.values():  # model operations: what checkpointing runs again does not count
        model_operations = row["operations"] * (3 / 4 if checkpointing else 1)
        row["utilisation"] = model_operations / row["forward_backward"] / peak if peak else None
    return {"model": name, "parameters": policy.num_parameters(), **asdict(geometry), **found}


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown: TRL's path over ours, a row for each geometry; above 1 is ours better."""
    some = next(iter(results.values()))["trl"]
    keys = ["tokens", "patches", "operations", *(name for name in TIMED if name in some), "peak_bytes"]
    lines = ["| geometry | K | " + " | ".join(keys) + " |", "|" + "---|" * (len(keys) + 2)]
    for name, row in results.items():
        ratios = (f"{row['trl'][key] / row['shared'][key]:.2f}" for key in keys)
        lines.append(f"| {name} | {row['k']} | " + " | ".join(ratios) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = "3b" if DEVICE.type == "cuda" else "48m"
    parser.add_argument("--model", choices=SHAPES, help=f"a shape (default: {default}; tiny for demo)")
    parser.add_argument("--geometries", nargs="+", choices=GEOMETRIES, default=list(GEOMETRIES))
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many counts")
    parser.add_argument("--passes", nargs="+", choices=TIMED, default=list(TIMED), help="forward_backward among them")
    parser.add_argument("--checkpointing", action="store_true", help="with gradient checkpointing")
    parser.add_argument("--output", type=Path, default=Path("runs/bench-train.json"))
    args = parser.parse_args()
    if DEVICE.type == "cpu":
        torch.set_num_threads(1)
    machine = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"one thread of {platform.processor()}"
    args.output.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    for name in args.geometries:
        shape_name = args.model or ("tiny" if name.startswith("demo") else default)
        results[name] = measure(shape_name, GEOMETRIES[name], args.rounds, args.checkpointing, args.passes)
        print(json.dumps({name: results[name]}), flush=True)
        report = {"machine": machine, "versions": versions(), "results": results}
        args.output.write_text(json.dumps(report, indent=2) + "\n")  # what is measured is kept if the next one fails
    print(table(results), f"\n{args.output}")


if __name__ == "__main__":
    main()
