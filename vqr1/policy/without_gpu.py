"""What training has without a GPU: so much memory, so fast a processor; and what to say where that is slow."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

LONG = 60.0  # seconds of a step that are worth a warning
CGROUPS = Path("/sys/fs/cgroup")


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


def matmul_speed(size: int = 512, seconds: float = 0.03) -> float:
    """Multiplications and additions a second of float32 matrix products in this process, the best of several."""
    import torch

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
