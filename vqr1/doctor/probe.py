"""Looks that load a library, each in a process of its own: a damaged one may end it, and a slow disk takes minutes.

:class:`Probe` starts this file's module, ``python -m vqr1.doctor.probe NAME``, which prints what it found as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from vqr1 import child_process

PATIENCE = 120.0  # seconds; torch takes a minute to import from a cold network disk


class Probe:
    """Begins when it is made, so that several run at the same time."""

    def __init__(self, name: str, patience: float = PATIENCE, program: Sequence[str] = ("-m", "vqr1.doctor.probe")):
        self.until = time.monotonic() + patience
        self.patience = patience
        self.process = subprocess.Popen(
            # Through this file it ends with us.
            [sys.executable, "-I", child_process.__file__, str(os.getpid()), sys.executable, *program, name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )

    def result(self) -> dict[str, Any]:
        """What was found, or ``{"trouble": why nothing was}``."""
        try:
            out, errors = self.process.communicate(timeout=max(self.until - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            return {"trouble": f"not loaded within {self.patience:g} seconds"}
        code = self.process.returncode
        if code:
            last = [line.strip() for line in errors.splitlines() if line.strip()][-1:]
            return {
                "trouble": last[0] if last and code > 0 else child_process.killed_by(code if code > 0 else 128 - code)
            }
        found: dict[str, Any] = json.loads(out.splitlines()[-1])  # libraries may have printed before
        return found


def _torch() -> dict[str, Any]:
    import warnings

    warnings.simplefilter("ignore")  # an old driver's: told by why_unusable
    import torch
    import torchvision
    from torch.nn.attention import varlen

    from vqr1.errors import UserError
    from vqr1.packaged import packaged
    from vqr1.policy.load import find_weights
    from vqr1.policy.without_gpu import memory_limit

    policies: dict[str, str | None] = {}
    for file in sorted((packaged("conf") / "policy").glob("*.yaml")):
        path = _path_in(file.read_text())
        try:
            find_weights(path)
            policies[path] = None
        except UserError as error:
            policies[path] = str(error)
    usable, counted = torch.cuda.is_available(), torch.cuda.device_count()
    return {
        "version": torch.__version__,
        "torchvision": torchvision.__version__,
        "cuda": torch.version.cuda,
        "counted": counted,
        "usable": usable,
        "capabilities": [torch.cuda.get_device_capability(i) for i in range(counted)] if usable else [],
        "varlen": hasattr(varlen, "varlen_attn"),
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if torch.distributed.is_nccl_available() else None,
        "memory": memory_limit(),
        "policies": policies,
    }


def _path_in(text: str) -> str:
    import yaml

    return str(yaml.safe_load(text)["path"])


def _wandb() -> dict[str, Any]:
    from vqr1.prerequisites import has_wandb_key

    return {"key": has_wandb_key()}


def _loads(name: str) -> Callable[[], dict[str, Any]]:
    def load() -> dict[str, Any]:
        from importlib import import_module

        import_module(name)
        return {}

    return load


PROBES = {"torch": _torch, "wandb": _wandb} | {name: _loads(name) for name in ("flash_attn", "vllm", "deepspeed")}


if __name__ == "__main__":
    print("\n" + json.dumps(PROBES[sys.argv[1]]()))
