"""Whether a checkpoint is whole: all that a resumed run reads is there and can be read.

Headers and tables of contents are looked at, not the tensors, so gigabytes take milliseconds. What transformers does
not find it leaves out without a word: without ``optimizer.pt`` or ``scheduler.pt`` a run goes on at another learning
rate, without the random states with other draws.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers.trainer_pt_utils import safe_globals

from vqr1.policy.weight_files import INDEX, SINGLE, DamagedError, whole_shapes


def checkpoint_fault(checkpoint: Path, processes: int, sharded: bool) -> str | None:
    """The first file of ``checkpoint`` that is missing or damaged, and how; None where it can be resumed from.

    ``processes`` are those that will read it; ``sharded`` says whether DeepSpeed wrote the optimiser's state.
    """
    return next(_faults(checkpoint, processes, sharded), None)


def _faults(checkpoint: Path, processes: int, sharded: bool) -> Iterator[str]:
    weights = sorted(checkpoint.glob("*.safetensors"))
    index = checkpoint / INDEX
    if index.is_file():
        try:
            named = {checkpoint / name for name in json.loads(index.read_text())["weight_map"].values()}
        except (ValueError, KeyError, AttributeError) as error:
            yield f"{index} cannot be read ({type(error).__name__}: {error})"
            return
        yield from (f"{path} is missing" for path in sorted(named - set(weights)))
    elif not weights:
        yield f"{checkpoint / SINGLE} is missing"
    yield from (f"{path} is damaged: {why}" for path in weights if (why := _safetensors_fault(path)))
    states = [checkpoint / f"rng_state_{rank}.pth" for rank in range(processes)]
    written = len(list(checkpoint.glob("rng_state_*.pth"))) or 1
    if processes == 1:
        states = [checkpoint / "rng_state.pth"]
    if written != processes and any(checkpoint.glob("rng_state*.pth")):
        yield (
            f"{checkpoint} was written by {written} process{'es' * (written > 1)}, whose random states {processes} "
            f"cannot take over: resume on as many devices as before"
        )
        return
    if not sharded:
        states += [checkpoint / "optimizer.pt", checkpoint / "scheduler.pt"]
    yield from (f"{path} is missing" for path in states if not path.is_file())
    yield from (why for path in states if (why := _torch_fault(path)))
    if sharded:
        latest = checkpoint / "latest"
        shards = sorted((checkpoint / latest.read_text().strip()).glob("*.pt")) if latest.is_file() else []
        if not shards:
            yield f"{latest}, or the folder of DeepSpeed's states that it names, is missing"
        yield from (f"{path} is damaged: it has no end" for path in shards if not zipfile.is_zipfile(path))


def _safetensors_fault(path: Path) -> str | None:
    try:
        whole_shapes(path)
    except DamagedError as error:
        return str(error)
    return None


def _torch_fault(path: Path) -> str | None:
    """Why torch could not read a file of tensors and numbers, none of whose code is run."""
    if not zipfile.is_zipfile(path):
        return f"{path} is damaged or not one that a run wrote"
    try:
        with safe_globals():
            torch.load(path, map_location="meta", mmap=True, weights_only=True)
    except Exception as error:  # noqa: BLE001 - torch has many words for what it cannot read, none of them for users
        return f"{path} is damaged or not one that a run wrote ({type(error).__name__})"
    return None
