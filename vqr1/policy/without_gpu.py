"""What training costs without a GPU: the memory it needs at the least, and about how long a step takes."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vqr1.errors import UserError

LONG = 60.0  # seconds of a step that are worth a warning
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Cost:
    """Of one process. ``trained``: parameters that are learnt; ``total``: all that are loaded."""

    total: int
    trained: int
    itemsize: int  # bytes of a weight
    reference: bool  # whether the start policy is kept beside the trained one

    @property
    def memory(self) -> int:
        """Bytes of weights, gradients, Adam's two moments and the reference; activations come on top."""
        copies = self.total * (2 if self.reference else 1) + 3 * self.trained
        return copies * self.itemsize


def lora_parameters(model: Any, targets: list[str], rank: int) -> int:
    """Of adapters on the linear maps ``targets`` of ``model``."""
    return sum(rank * sum(model.get_submodule(name).weight.shape) for name in targets)


def memory_limit(groups: Path = CGROUPS, mine: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes that this process may use: the machine's memory, or less where its cgroup (a container, a job) says so."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    folders = [groups]
    for line in mine.read_text().splitlines() if mine.is_file() else []:
        if line.startswith("0::"):  # version 2: the group, which its parents limit too
            own = groups / line.removeprefix("0::").strip("/")
            folders += [own, *(parent for parent in own.parents if parent.is_relative_to(groups))]
    files = [folder / "memory.max" for folder in folders] + [groups / "memory" / "memory.limit_in_bytes"]
    words = [file.read_text().strip() for file in files if file.is_file()]
    return min(limits + [int(word) for word in words if word.isdigit()])


def check_memory(path: str, cost: Cost, processes: int, limit: int) -> None:
    """Raises UserError where ``processes`` that train do not fit into ``limit`` bytes."""
    needed = cost.memory * processes
    if needed <= limit:
        return
    parts = "weights, gradients, Adam's moments" + (" and the reference (trainer.beta)" if cost.reference else "")
    raise UserError(
        f"policy.path={path} needs at least {needed / 1e9:.1f} GB to be trained without a GPU ({parts} of "
        f"{cost.trained / 1e9:.2f} billion parameters), and there are {limit / 1e9:.1f} GB. Train it where there is a "
        "GPU, lower the need with policy.tuning=lora, or take a smaller policy (policy=tiny)"
    )


def step_seconds(cost: Cost, prompt_tokens: int, answer_tokens: int, checkpointing: bool, speed: float) -> float:
    """About, at ``speed`` multiplications and additions a second. The tokens are those of all prompts, all answers.

    Two operations a parameter and token, for: generation, the forward pass and twice that for the backward pass, one
    more where activations are recomputed, and one of the reference.
    """
    passes = 4 + checkpointing + cost.reference
    return 2 * cost.total * passes * (prompt_tokens + answer_tokens) / speed


def matmul_speed(size: int = 512, seconds: float = 0.03) -> float:
    """Multiplications and additions a second of float32 matrix products in this process, the best of several."""
    matrix = torch.ones(size, size)
    best, until = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < until or best == math.inf:
        began = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def step_warning(path: str, seconds: float) -> str | None:
    """What to say of a step this long; None where it is short."""
    if seconds < LONG:
        return None
    long = f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.0f} hours"
    return (
        f"warning: there is no GPU, and a step of policy.path={path} takes about {long} here, by its number of "
        "operations, the speed of a matrix product and answers of rollout.max_tokens tokens. Take a GPU, or policy=tiny"
    )
