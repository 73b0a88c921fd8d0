"""What the machine is and what it can do at best:  python -m vqr1.bench.machine RESULT [--device cpu]

Card, driver, versions, free memory and disk; a matrix product and a copy as ceilings for what other parts measure.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vqr1.gpus import ask_driver
from vqr1.provenance import versions


def rate(run: Callable[[], Any], device: torch.device, rounds: int = 5) -> float:
    """Calls per second, the best of ``rounds`` after one that does not count."""

    def seconds() -> float:
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    seconds()
    return 1 / min(seconds() for _ in range(rounds))


def ceilings(device: torch.device) -> dict[str, float]:
    """A square matrix product in TFLOP/s and a copy in GB/s, read and written counted."""
    side, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (512, torch.float32)
    a = torch.randn(side, side, device=device, dtype=dtype)
    elements = 1 << (30 if device.type == "cuda" else 22)
    source = torch.zeros(elements, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return {
        "matrix_tflops": 2 * side**3 * rate(lambda: a @ a, device) / 1e12,
        "copy_gb_per_s": 2 * elements * rate(lambda: target.copy_(source), device) / 1e9,
    }


def measure(device: torch.device) -> dict[str, Any]:
    on_gpu = device.type == "cuda"
    free, total = torch.cuda.mem_get_info() if on_gpu else (0, 0)
    return {
        "card": torch.cuda.get_device_name() if on_gpu else None,
        "capability": torch.cuda.get_device_capability() if on_gpu else None,
        "driver": ask_driver().version,
        "cuda": torch.version.cuda,
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu_free_gb": free / 1e9,
        "gpu_total_gb": total / 1e9,
        "disk_free_gb": shutil.disk_usage(Path.cwd()).free / 1e9,
        **ceilings(device),
        "versions": versions(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    asked = parser.parse_args()
    asked.result.write_text(json.dumps(measure(torch.device(asked.device)), indent=1) + "\n")


if __name__ == "__main__":
    main()
