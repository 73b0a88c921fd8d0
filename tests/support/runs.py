"""Runs as a user starts them: ``vqr1 train`` in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

QUICK = {
    "experiment": "demo",
    "logger": "disabled",
    "reward.cohort_size": "4",
    "trainer.images_per_step": "8",
    "trainer.answers_per_device": "24",
    "trainer.max_steps": "2",
    "rollout.k": "3",
    "rollout.max_tokens": "12",
    "evaluation.every": "0",
    "evaluation.k": "2",
    "evaluation.test_k": "2",
    "evaluation.max_pictures": "4",
    "evaluation.probes": "1",
    "evaluation.proof": "false",
}


def command(ranks: int, settings: dict[str, str]) -> list[str]:
    words = [f"{key}={value}" for key, value in {**QUICK, **settings}.items()]
    launcher = [sys.executable, "-m"]
    if ranks > 1:
        launcher += ["torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "-m"]
    return [*launcher, "vqr1", "train", *words]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


def start(ranks: int = 1, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run to the end. Keys with two underscores stand for dots: ``trainer__beta=0.1``."""
    named = {key.replace("__", "."): str(value) for key, value in settings.items()}
    return subprocess.run(
        command(ranks, named), capture_output=True, text=True, env=environment(), timeout=600, check=False
    )


def train(folder: Path, ranks: int = 1, **settings: Any) -> Path:
    """A run that must succeed; gives its folder."""
    done = start(ranks, runs=folder.parent, name=folder.name, **settings)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def rows(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def training_rows(folder: Path) -> list[dict[str, Any]]:
    return [row for row in rows(folder) if "train/loss" in row]
