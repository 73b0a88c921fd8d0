"""Answers per second by transformers and by vLLM: one policy, the same prompts and pictures, in turn in one process.

    python -m vqr1.bench.rollout [--policy tiny|3b|7b] [--k 1 4 6 16] [--rounds 5] [--out FILE]

transformers is what vqr1 runs without vLLM: ``generate`` with each picture encoded once and each prompt read once,
however many answers are asked for (:mod:`vqr1.policy.read_once`). vLLM is asked for a prompt's K answers in one
question, as vqr1 asks it, and with K copies of the prompt, as TRL's colocate mode asks it. The time is that of the
whole call: pictures to patches, prompts to tokens, drawing; without a GPU it is processor time, for the machine may
have other things to do. Every call has pictures that differ in a pixel from all others, so that no cache of vLLM's
stands in for work that is to be measured.

Afterwards: how many answers change with what else is in the batch, everything else being equal.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import date
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from vqr1.answer import build_prompt
from vqr1.answering.answerer import Answerer, load_answerer
from vqr1.answering.model import Model, find_model
from vqr1.bench.shapes import SHAPES, kept_policy, write_random
from vqr1.data import read_dataset
from vqr1.data.pictures import fit_to_grid, load_fitted
from vqr1.data.sample import some_of
from vqr1.demo.specs import register_demonstration
from vqr1.evaluation.render import markdown_grid
from vqr1.evaluation.table import Grid
from vqr1.packaged import data_root
from vqr1.policy.load import resolve_dtype
from vqr1.provenance import versions
from vqr1.rollout_settings import ScoringEngine, vllm_installed
from vqr1.scoring.settings import EvaluateConfig

CLOCKS = {"processor time": time.process_time, "wall time": time.perf_counter}
TRANSFORMERS, VLLM, COPIES = "transformers", "vLLM", "vLLM, K copies"
SIZE = (512, 384)  # of the pictures for policies with random weights: KADID-10k's
DIFFER_K = 6

Draw = Callable[[Sequence[Image.Image], int, int], list[list[int]]]  # pictures, K, seed -> tokens of every answer


@dataclass
class Measurement:
    """One way to answer at one K, round by round."""

    k: int
    way: str
    seconds: list[float] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    peak_gb: float | None = None  # beyond what was held before, on a GPU

    def rate(self, what: str) -> float:
        """Median over rounds of ``answers`` or ``tokens`` per second."""
        return median(n / spent for n, spent in zip(getattr(self, what), self.seconds, strict=True))


def over(one: Measurement, other: Measurement, what: str) -> float:
    """Median over rounds of ``one``'s rate over ``other``'s in the same round, so that a busy machine slows both."""
    pairs = zip(getattr(one, what), one.seconds, getattr(other, what), other.seconds, strict=True)
    return median((n / spent) / (m / taken) for n, spent, m, taken in pairs)


def measure(
    ways: dict[str, Draw],
    pictures: Sequence[Image.Image],
    ks: Sequence[int],
    rounds: int,
    clock: Callable[[], float],
) -> list[Measurement]:
    """Every way in every round, in alternating order; a round before the first warms up and does not count."""
    rows = {(k, way): Measurement(k, way) for k in ks for way in ways}
    call = count()
    for k in ks:
        for number in range(rounds + 1):
            for way in list(ways)[:: 1 if number % 2 else -1]:
                shown = [marked(picture, next(call)) for picture in pictures]
                row, held = rows[k, way], _held()
                began = clock()
                drawn = ways[way](shown, k, number)
                spent = clock() - began
                if number:
                    row.seconds.append(spent)
                    row.answers.append(len(drawn))
                    row.tokens.append(sum(map(len, drawn)))
                    row.peak_gb = None if held is None else max(row.peak_gb or 0.0, _peak() - held)
    return list(rows.values())


def marked(picture: Image.Image, number: int) -> Image.Image:
    """The picture with a corner that no other number gives it."""
    copy = picture.copy()
    copy.putpixel((0, 0), (number >> 16 & 255, number >> 8 & 255, number & 255))
    return copy


def _held() -> float | None:
    """GB of GPU memory in use now, from where the peak is counted; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated() / 1e9


def _peak() -> float:
    return torch.cuda.max_memory_allocated() / 1e9


# What is measured


def examples_of(pictures: Sequence[Image.Image], k: int, seed: int) -> list[dict[str, Any]]:
    """K examples of each picture, with a seed of its own."""
    prompt = build_prompt("paper")
    return [
        {"image": picture, "prompt": prompt, "image_id": str(i), "seed": 1000 * seed + 16 * k * i}
        for i, picture in enumerate(pictures)
        for _ in range(k)
    ]


def as_copies(examples: Sequence[dict[str, Any]], k: int) -> list[dict[str, Any]]:
    """The same answers asked for one by one: each copy's noise is that of its place among the K."""
    return [
        {**example, "image_id": f"{example['image_id']}/{n % k}", "seed": example["seed"] + n % k}
        for n, example in enumerate(examples)
    ]


def ways_of(answerers: dict[ScoringEngine, Answerer]) -> dict[str, Draw]:
    """The ways to answer that these allow."""

    def transformers(pictures: Sequence[Image.Image], k: int, seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        return answerers[ScoringEngine.transformers].policy.draw(examples_of(pictures, k, seed))

    def vllm(pictures: Sequence[Image.Image], k: int, seed: int) -> list[list[int]]:
        return answerers[ScoringEngine.vllm].policy.draw(examples_of(pictures, k, seed))

    def copies(pictures: Sequence[Image.Image], k: int, seed: int) -> list[list[int]]:
        return answerers[ScoringEngine.vllm].policy.draw(as_copies(examples_of(pictures, k, seed), k))

    if ScoringEngine.vllm not in answerers:
        return {TRANSFORMERS: transformers}
    return {TRANSFORMERS: transformers, VLLM: vllm, COPIES: copies}


def differ(answerer: Answerer, pictures: Sequence[Image.Image], k: int, temperature: float) -> tuple[int, int]:
    """Answers that change when each picture is asked about alone instead of all of them together, and all answers."""
    examples = examples_of(pictures, k, seed=0)
    together = _forgotten(answerer).policy.draw(examples, temperature)
    alone = [
        ids
        for first in range(0, len(examples), k)
        for ids in _forgotten(answerer).policy.draw(examples[first : first + k], temperature)
    ]
    return sum(one != other for one, other in zip(together, alone, strict=True)), len(together)


def _forgotten(answerer: Answerer) -> Answerer:
    if answerer.engine:
        answerer.engine.forget(pictures=True)
    return answerer


def all_differing(
    answerers: dict[ScoringEngine, Answerer], pictures: Sequence[Image.Image]
) -> dict[str, tuple[int, int]]:
    """:func:`differ` by engine. transformers' sampled answers are those of their batch, by design: only greedy."""
    found = {}
    for engine, answerer in answerers.items():
        found[f"{engine.value}, greedy"] = differ(answerer, pictures, 1, 0.0)
        if engine is ScoringEngine.vllm:
            found[f"{engine.value}, K = {DIFFER_K} sampled"] = differ(answerer, pictures, DIFFER_K, 1.0)
    return found


# What is written


def table(rows: Sequence[Measurement]) -> str:
    """Markdown, a line per K."""
    by = {(row.k, row.way): row for row in rows}
    lines = [["K", "transformers answers/s", "vLLM answers/s", "vLLM / transformers: answers/s", "tokens/s",
              "vLLM with K copies answers/s", "one question / K copies"]]  # fmt: skip
    for k in dict.fromkeys(row.k for row in rows):
        plain, vllm, copies = (by.get((k, way)) for way in (TRANSFORMERS, VLLM, COPIES))
        assert plain
        line = [str(k), f"{plain.rate('answers'):.1f}"]
        if vllm and copies:
            line += [f"{vllm.rate('answers'):.1f}", f"{over(vllm, plain, 'answers'):.2f}",
                     f"{over(vllm, plain, 'tokens'):.2f}", f"{copies.rate('answers'):.1f}",
                     f"{over(vllm, copies, 'answers'):.2f}"]  # fmt: skip
        lines.append(line + ["-"] * (len(lines[0]) - len(line)))
    return markdown_grid(Grid(lines[0], lines[1:]))


def as_json(
    rows: Sequence[Measurement], differing: dict[str, tuple[int, int]], facts: dict[str, Any]
) -> dict[str, Any]:
    """Everything, round by round, with medians."""
    medians = [
        {**asdict(row), "answers_per_second": row.rate("answers"), "tokens_per_second": row.rate("tokens")}
        for row in rows
    ]
    return {**facts, "rows": medians, "answers_that_differ_when_asked_alone": differing}


def machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{len(os.sched_getaffinity(0))} cores {platform.processor() or platform.machine()}, no GPU"


# The run


@contextmanager
def policy_folder(name: str, kept: Path | None) -> Iterator[str]:
    """``tiny`` itself, or random weights: in ``kept``, where a later call finds them, or for as long as needed."""
    if kept is not None:
        yield str(kept_policy(name, kept))
        return
    if name == "tiny":
        yield name
        return
    if not torch.cuda.is_available():
        raise SystemExit(f"--policy {name} needs a CUDA device; --policy tiny runs without one")
    with tempfile.TemporaryDirectory() as folder:
        write_random(SHAPES[name], Path(folder), torch.bfloat16)
        yield folder


def pictures_of(model: Model, root: Path | None, number: int) -> list[Image.Image]:
    """Demonstration pictures from ``root``, or else noise of KADID-10k's size."""
    limits = {"min_pixels": model.policy.min_pixels, "max_pixels": model.policy.max_pixels}
    if root:
        register_demonstration()
        samples = read_dataset("demo_five", root).test
        return [load_fitted(sample.image, **limits) for sample in some_of(samples, number)]
    noise = np.random.default_rng(0).integers(0, 256, (number, *SIZE[::-1], 3), dtype=np.uint8)
    return [fit_to_grid(Image.fromarray(pixels), **limits) for pixels in noise]


def load_all(folder: str, asked: argparse.Namespace) -> dict[ScoringEngine, Answerer]:
    """The policy under each engine that is here, vLLM first: it takes its share of a GPU that is still empty."""
    found = {}
    for engine in (ScoringEngine.vllm, ScoringEngine.transformers):
        if engine is ScoringEngine.vllm and not vllm_installed():
            print("vLLM is not installed: transformers alone", flush=True)
            continue
        config = EvaluateConfig(
            model=folder, engine=engine, max_tokens=asked.max_tokens, memory_share=asked.memory_share, dtype=asked.dtype
        )
        found[engine] = load_answerer(config, find_model(config), at_once=asked.pictures * max(asked.k))
    return found


def bench(asked: argparse.Namespace) -> dict[str, Any]:
    """Measure, print the table, write the JSON and give its content."""
    if asked.threads:
        torch.set_num_threads(asked.threads)
    with policy_folder(asked.policy, asked.keep) as folder:
        answerers = load_all(folder, asked)
        model = answerers[ScoringEngine.transformers].model
        shipped = asked.policy == "tiny" and asked.keep is None
        shown = pictures_of(model, asked.root if shipped else None, max(asked.pictures, asked.alone))
        pictures = shown[: asked.pictures]
        clock = "wall time" if torch.cuda.is_available() else "processor time"
        rows = measure(ways_of(answerers), pictures, asked.k, asked.rounds, CLOCKS[clock])
        facts = _facts(asked, clock, pictures, model)
        _write(asked.out, as_json(rows, {}, facts))  # kept, should what follows not come to its end
        differing = all_differing(answerers, shown[: asked.alone])
    written = as_json(rows, differing, facts)
    _write(asked.out, written)
    print(f"policy {asked.policy}, {len(pictures)} pictures a call, on {facts['machine']}")
    print(f"medians of {asked.rounds} rounds, {clock}; transformers: {facts['transformers']}\n\n{table(rows)}")
    for way, (differ, answers) in differing.items():
        print(f"{way}: {differ} of {answers} answers differ when a picture is asked about alone")
    print(asked.out)
    return written


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def _facts(asked: argparse.Namespace, clock: str, pictures: Sequence[Image.Image], model: Model) -> dict[str, Any]:
    return {
        "command": shlex.join(["python", "-m", "vqr1.bench.rollout", *sys.argv[1:]]),
        "date": date.today().isoformat(),
        "machine": machine(),
        "policy": f"{asked.policy}, random weights" if asked.keep else asked.policy,
        "transformers": "generate, each picture encoded once and each prompt read once",
        "pictures": len(pictures),
        "picture_size": pictures[0].size,
        "max_tokens": asked.max_tokens,
        "dtype": str(resolve_dtype(model.policy.dtype)),
        "rounds": asked.rounds,
        "seconds": clock,
        "versions": versions(),
    }


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="answers per second by transformers and by vLLM")
    parser.add_argument("--policy", choices=SHAPES, default="tiny", help="3b, 7b: random weights, on a GPU")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="random weights are kept there and used again")
    parser.add_argument("--k", type=int, nargs="+", default=[1, 4, 6, 16], help="answers to each picture")
    parser.add_argument("--pictures", type=int, default=16, help="in one call")
    parser.add_argument("--rounds", type=int, default=5, help="that count, after one that does not")
    parser.add_argument(
        "--max-tokens", type=int, default=80, help="of an answer; random weights hardly ever end sooner"
    )
    parser.add_argument("--memory-share", type=float, default=0.5, help="of the GPU, for vLLM")
    parser.add_argument("--alone", type=int, default=96, help="pictures that are asked about alone as well")
    parser.add_argument("--dtype", default="auto", help="of the policy: float32, bfloat16; auto is the policy's own")
    parser.add_argument("--threads", type=int, help="torch threads; 1 is fastest for the tiny policy")
    parser.add_argument(
        "--root", type=Path, default=Path(data_root()), help="where the demonstration data are, or are drawn"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/bench_rollout.json"))
    return parser.parse_args(words)


if __name__ == "__main__":
    bench(arguments())
