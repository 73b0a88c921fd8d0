"""An nvidia-smi of our own, first on PATH."""

from __future__ import annotations

import os
from pathlib import Path

CARD = "NVIDIA H100 80GB HBM3, 81559, 80994"  # name, MiB of memory, and free


def put_nvidia_smi(folder: Path, monkeypatch, *cards: str, driver: str = "580.95.05", says: str = "", code: int = 0):
    """An nvidia-smi that lists ``cards`` (NAME, TOTAL, FREE), or ``says`` what went wrong and ends with ``code``."""
    rows = "\n".join(f"{driver}, {card}" for card in cards)
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<END\n{says or rows}\nEND\nexit {code}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
