"""What NVIDIA's driver says of this machine, by nvidia-smi: neither torch nor a GPU is needed to ask."""

from __future__ import annotations

import csv
import shutil
import subprocess
from dataclasses import dataclass

MIB = 1 << 20
PATIENCE = 20.0  # seconds for nvidia-smi, which hangs where a GPU has failed
FIELDS = ("driver_version", "name", "memory.total", "memory.free")
# The oldest driver for each major version of CUDA, whatever the minor one: CUDA's release notes, "minimum required
# driver version for CUDA minor version compatibility".
OLDEST_DRIVER = {"12": 525, "13": 580}


@dataclass(frozen=True)
class Card:
    name: str
    total: int  # bytes of memory
    free: int


@dataclass(frozen=True)
class Driver:
    """``version`` and ``cards`` where nvidia-smi answers; else ``trouble``: its own words, None where there is none."""

    version: str | None = None
    cards: tuple[Card, ...] = ()
    trouble: str | None = None


def ask_driver(patience: float = PATIENCE) -> Driver:
    """What nvidia-smi answers within ``patience`` seconds; an empty Driver where there is no nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return Driver()
    command = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=patience)
    except subprocess.TimeoutExpired:
        return Driver(trouble=f"nvidia-smi did not answer within {patience:g} seconds")
    except OSError as error:
        return Driver(trouble=f"nvidia-smi: {error.strerror}")
    rows = [row for row in csv.reader(done.stdout.splitlines(), skipinitialspace=True) if len(row) == len(FIELDS)]
    if done.returncode or not rows:
        words = " ".join((done.stdout + done.stderr).split())
        return Driver(trouble=f"nvidia-smi: {words or f'no GPU (exit code {done.returncode})'}")
    cards = tuple(Card(name, _bytes(total), _bytes(free)) for _, name, total, free in rows)
    return Driver(rows[0][0], cards)


def _bytes(mebibytes: str) -> int:
    """0 for what a card does not tell ([N/A])."""
    return int(mebibytes) * MIB if mebibytes.isdigit() else 0


def why_unusable(driver: Driver, torch: str, cuda: str | None) -> str:
    """Why torch, of the version ``torch`` and built for ``cuda``, cannot use GPUs that are there, and the remedy."""
    if cuda is None:
        return f"torch {torch} is built without CUDA; install PyPI's: uv pip install --reinstall torch torchvision"
    oldest = OLDEST_DRIVER.get(cuda.partition(".")[0])
    major = (driver.version or "").partition(".")[0]
    if oldest and major.isdecimal() and int(major) < oldest:
        return (
            f"NVIDIA's driver {driver.version} is too old: torch {torch} is built for CUDA {cuda}, which needs "
            f"{oldest} or later; update the driver (as root), or run on a node that has a newer one"
        )
    found = driver.trouble or f"driver {driver.version or 'unknown'}"
    return (
        f"torch {torch} (CUDA {cuda}) cannot use the GPUs of this machine ({found}); look what nvidia-smi says and "
        "whether a container was started with its GPUs (--gpus all); restart a machine whose driver was just updated"
    )
