"""The vision tower's windows in one call of torch's kernel, and by sdpa one by one:  python -m vqr1.bench.vision RESULT

The tower of a shape encodes a picture, and the gradient of its weights is computed, in turns by either way, in half
precision on a GPU. Reported are the seconds of both, and how far the encoding is from float32's. On a CPU, where there
is no such kernel, both are sdpa.
"""

from __future__ import annotations

import argparse
import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vqr1.bench.machine import rate
from vqr1.bench.shapes import DEVICE, SHAPES, random_policy
from vqr1.bench.train import GEOMETRIES
from vqr1.config import PolicyConfig
from vqr1.policy.load import TINY, load_processor
from vqr1.policy.segments import has_kernel
from vqr1.policy.windows import attend_at_once


def measure(shape: str, geometries: list[str], rounds: int) -> dict[str, Any]:
    """By geometry: ``seconds`` forward and backward, and ``error``, root mean square over that of the encoding."""
    tokenizer = load_processor(PolicyConfig(path="tiny", **TINY)).tokenizer
    tower_alone = replace(SHAPES[shape], layers=1, vocabulary=1024)
    model = random_policy(tower_alone, tokenizer, torch.bfloat16 if DEVICE.type == "cuda" else torch.float32)
    visual = model.model.visual
    exact = copy.deepcopy(visual).float()  # before the attention changes, and with a configuration of its own
    attend_at_once(model)
    results = {}
    for name in geometries:
        high, wide = GEOMETRIES[name].grid
        grid = torch.tensor([[1, high, wide]], device=DEVICE)
        pixels = torch.randn(high * wide, 1176, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(0))

        def encode(tower: Any, pixels: torch.Tensor = pixels, grid: torch.Tensor = grid) -> torch.Tensor:
            return tower(pixels.to(tower.dtype), grid_thw=grid).pooler_output

        def learn() -> None:
            visual.zero_grad()
            encode(visual).float().square().mean().backward()

        found: dict[str, dict[str, float]] = {"seconds": {}, "error": {}}
        with torch.no_grad():
            true = encode(exact)
        for way in ("one_by_one", "at_once"):
            model.set_attn_implementation({"vision_config": "sdpa"})
            if way == "at_once":
                attend_at_once(model)
            with torch.no_grad():
                error = (encode(visual).float() - true).square().mean().sqrt() / true.square().mean().sqrt()
            found["error"][way] = float(error)
            found["seconds"][way] = 1 / rate(learn, DEVICE, rounds)
        results[name] = found
    return {"shape": shape, "kernel": has_kernel(DEVICE), "results": results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="3b" if DEVICE.type == "cuda" else "tiny")
    parser.add_argument("--geometries", nargs="+", choices=GEOMETRIES, default=["kadid", "spaq"])
    parser.add_argument("--rounds", type=int, default=5, help="the best of so many counts")
    asked = parser.parse_args()
    asked.result.write_text(json.dumps(measure(asked.shape, asked.geometries, asked.rounds), indent=1) + "\n")


if __name__ == "__main__":
    main()
