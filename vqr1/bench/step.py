"""Where the seconds of a training step go:  python -m vqr1.bench.step RESULT --folder FOLDER [--shape 3b] [--steps 8]

A real run, ``vqr1.training.run.train``, of a random policy of a published size with LoRA on pictures of noise, with
vLLM in the process where it is installed and transformers elsewhere. What the policy says is noise and nothing is
learnt from it; what a step costs is real. The first step warms up and does not count.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from vqr1.bench.shapes import SHAPES, kept_policy
from vqr1.config import Config, DataConfig, EvaluationConfig, LoggerConfig, PolicyConfig, RolloutConfig, Tuning, Wandb
from vqr1.fitting import Devices
from vqr1.machine_choices import MachineChoices, choose, estimated
from vqr1.provenance import versions
from vqr1.rollout.synced import SyncedGeneration
from vqr1.rollout_settings import TrainingEngine, VllmSettings, vllm_installed
from vqr1.training.run import train
from vqr1.training.run_log import StepCallback
from vqr1.training.trainer import STEP_PARTS, RankingTrainer

DATASET = "noise"
PICTURES = 64
SIZE = (512, 384)  # KADID-10k's


def write_dataset(root: Path, size: tuple[int, int] = SIZE) -> None:
    """Pictures of noise with scores from 0 to 100, declared as one's own ratings are; kept if they are there."""
    folder = root / DATASET
    if (folder / "dataset.yaml").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(PICTURES):
        # Noise in blocks: it compresses, and no two pictures are alike.
        blocks = rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(folder / f"{i:03d}.png")
        rows.append((f"{i:03d}.png", i * 100 / (PICTURES - 1), "train"))
    with (folder / "ratings.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "score", "part"), *rows])
    declaration = {
        "form": "csv",
        "labels": "ratings.csv",
        "images": ".",
        "higher_is_better": True,
        "range": [0, 100],
        "spread": "none",
        "group": "image",
        "columns": {"image": "file", "mos": "score", "part": "part"},
    }
    (folder / "dataset.yaml").write_text(yaml.safe_dump(declaration, sort_keys=False))


class Stopwatch:
    """Seconds by name; a watched function that calls another is charged its own share alone."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._running: list[list[Any]] = []  # name, when its share began
        self.seconds: dict[str, float] = {}

    def clear(self) -> None:
        self.seconds = {}
        now = self._clock()
        for entry in self._running:
            entry[1] = now

    def _charge(self) -> float:
        now = self._clock()
        if self._running:
            name, since = self._running[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - since
        return now

    def watch(self, owner: Any, method: str, name: str | Callable[[], str]) -> None:
        """Charge every call of ``owner.method`` to ``name``."""
        original = getattr(owner, method)

        @wraps(original)
        def watched(*args: Any, **kwargs: Any) -> Any:
            _finish_device()
            now = self._charge()
            self._running.append([name if isinstance(name, str) else name(), now])
            try:
                return original(*args, **kwargs)
            finally:
                _finish_device()
                now = self._charge()
                self._running.pop()
                if self._running:
                    self._running[-1][1] = now

        setattr(owner, method, watched)


def _finish_device() -> None:
    """A GPU works on after a call has returned: wait for it, so that its time is charged where it belongs."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def watched_step(watch: Stopwatch) -> Callable[[], int]:
    """Watch the trainer's parts of a step; returns a function that counts the steps that were measured."""
    steps = 0

    def scoring() -> str:
        return "training" if torch.is_grad_enabled() else "old and reference passes"

    for part, method in STEP_PARTS.items():
        watch.watch(RankingTrainer, method, scoring if part == "scoring" else part)
    watch.watch(SyncedGeneration, "sync_weights", "sync")
    end_of_step = StepCallback.on_step_end

    def on_step_end(self: StepCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        nonlocal steps
        end_of_step(self, args, state, control, **kwargs)
        if state.global_step == 1:
            watch.clear()
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
        else:
            steps += 1

    StepCallback.on_step_end = on_step_end  # type: ignore[method-assign]
    return lambda: steps


def configuration(root: Path, policy: Path, runs: Path, steps: int, tiny: bool) -> Config:
    on_gpu = torch.cuda.is_available()
    engine = TrainingEngine.vllm_colocate if vllm_installed() else TrainingEngine.transformers
    k, pictures, tokens = (2, 8, 8) if tiny else (6, 16, 80)
    return Config(
        data=DataConfig(root=str(root), train=[DATASET]),
        policy=PolicyConfig(
            path=str(policy),
            tuning=Tuning.lora,
            dtype="auto" if on_gpu else "float32",
            attention="sdpa",
            gradient_checkpointing=not tiny,
        ),
        rollout=RolloutConfig(
            k=k, max_tokens=tokens, engine=engine, vllm=VllmSettings(memory_share=0.4, canary_stop=False)
        ),
        evaluation=EvaluationConfig(every=0, probes=0),
        logger=LoggerConfig(wandb=Wandb.disabled),
        trainer={
            "images_per_step": pictures,
            "answers_per_device": k * (pictures if tiny else 4),
            "beta": 0.04,
            "loss_type": "grpo",
            "use_bias_correction_kl": False,
            "max_steps": steps,
            "save_steps": steps,
            "logging_steps": 1,
            "disable_tqdm": True,
            "log_multimodal": False,
        },
        name="step",
        runs=str(runs),
        threads=None if on_gpu else 1,
    )


def measure(folder: Path, shape: str, steps: int) -> dict[str, Any]:
    """A run in ``folder``, where the random policy is kept for other parts."""
    tiny = shape == "tiny"
    write_dataset(folder / "data", (112, 84) if tiny else SIZE)
    policy = kept_policy(shape, folder)
    runs = folder / f"runs-{time.time_ns()}"  # another name than that of a run that failed there before
    config = configuration(folder / "data", policy, runs, steps, tiny)
    watch = Stopwatch()
    counted = watched_step(watch)
    gpus = min(1, torch.cuda.device_count())
    choices = choose(config, gpus)
    run = train(config, choices)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timings = [json.loads(line) for line in (run / "timings.jsonl").read_text().splitlines()]
    later = [row for row in timings if row["step"] > 1 and "speed/step_seconds" in row]
    step_seconds = fmean(row["speed/step_seconds"] for row in later)
    parts = {name: spent / counted() for name, spent in watch.seconds.items()}
    canary = [row["canary/logp_difference"] for row in rows if "canary/logp_difference" in row]
    on_gpu = torch.cuda.is_available()
    return {
        "shape": shape,
        "engine": config.rollout.engine.value,
        "vllm": vllm_installed(),
        "k": config.rollout.k,
        "images_per_step": config.trainer["images_per_step"],
        "answer_tokens": fmean(row["rollout/length"] for row in rows if "rollout/length" in row),
        "steps": counted(),
        "step_seconds": step_seconds,
        "seconds_by_part": {**parts, "other": step_seconds - sum(parts.values())},
        "answers_per_second": fmean(row["speed/answers_per_second"] for row in later),
        "canary_mean": fmean(canary) if canary else None,
        "canary_max": max(canary) if canary else None,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None,
        "estimated_gb": estimated_gb(config, choices, (112, 84) if tiny else SIZE),
        "reserved_gb": torch.cuda.max_memory_reserved() / 1e9 if on_gpu else None,
        "versions": versions(),
    }


def estimated_gb(config: Config, choices: MachineChoices, picture: tuple[int, int]) -> float:
    """What the peak is estimated at, without what torch does not count of a GPU: CUDA's own."""
    on_gpu = torch.cuda.is_available()
    memory = float(torch.cuda.get_device_properties(0).total_memory) if on_gpu else None
    devices = Devices(on_gpu, 1, memory, on_gpu and torch.cuda.is_bf16_supported())
    found = estimated(config, choices, devices, picture)
    return (found.total - found.runtime) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--folder", type=Path, required=True, help="for the policy, the pictures and the run")
    parser.add_argument("--shape", choices=SHAPES, default="3b")
    parser.add_argument("--steps", type=int, default=8)
    asked = parser.parse_args()
    found = measure(asked.folder, asked.shape, asked.steps)
    asked.result.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
