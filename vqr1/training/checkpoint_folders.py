"""The folders of a run's checkpoints: how one gets its name, and how it is deleted.

A checkpoint is written below ``checkpoint.new``, brought to the disk, and moved to its place when every rank has
written; it is moved away before it is deleted. So a folder ``checkpoint-N`` has never been a part of one.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from vqr1.folder_writer import NEW, OLD, put_in_place, remove

PREFIX = "checkpoint-"
UNFINISHED = f"checkpoint{NEW}"  # the folder that one is written in
STATE = "trainer_state.json"


def numbered(run: Path) -> dict[int, Path]:
    """What a run folder has under the names of checkpoints, by step, from the first."""
    found = {path.name.removeprefix(PREFIX): path for path in run.glob(f"{PREFIX}*")}
    return {int(step): found[step] for step in sorted(filter(str.isdecimal, found), key=int)}


def put_checkpoint(run: Path, step: int, limit: int | None) -> None:
    """Move the checkpoint of ``step`` to its place, and delete the earliest beyond ``limit`` (None or 0: none)."""
    put_in_place(run / f"{PREFIX}{step}", run / UNFINISHED / f"{PREFIX}{step}")
    found = list(numbered(run).values())
    for path in found[:-limit] if limit and limit > 0 else ():
        old = path.with_name(path.name + OLD)
        remove(old)
        path.rename(old)
        shutil.rmtree(old, ignore_errors=True)  # a resumed run clears what is left of it
    shutil.rmtree(run / UNFINISHED, ignore_errors=True)  # empty but for what a file system keeps there (.nfs0001)


def unfinished(run: Path) -> list[Path]:
    """What was being written when the run ended."""
    return sorted((run / UNFINISHED).glob(f"{PREFIX}*"))
