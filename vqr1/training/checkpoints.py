"""Whether a checkpoint is whole: all that a resumed run reads is there and can be read.

Headers and tables of contents are looked at, not the tensors, so gigabytes take milliseconds. What transformers does
not find it leaves out without a word: without ``optimizer.pt`` or ``scheduler.pt`` a run goes on at another learning
rate, without the random states with other draws.
"""

from __future__ import annotations

import functools
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers.trainer_pt_utils import safe_globals

from vqr1.config import Launcher
from vqr1.policy.weight_files import INDEX, SINGLE, DamagedError, whole_shapes
from vqr1.training.checkpoint_folders import PREFIX, STATE

# The optimiser's state, and what else is read back, by what wrote it.
STATES = {
    "no sharding": ("optimizer.pt",),
    "fsdp2": ("optimizer.bin", "pytorch_model_fsdp.bin"),
    "zero2": (),
    "zero3": (),
}


def checkpoint_fault(checkpoint: Path, processes: int, launcher: Launcher) -> str | None:
    """The first file of ``checkpoint`` that is missing or damaged, and how; None where it can be resumed from.

    ``processes`` are those that will read it, under ``launcher``: DDP and a single process have the optimiser's state
    in one file, FSDP2 in one beside another copy of the weights, DeepSpeed in files for every process.
    """
    try:
        return next(_faults(checkpoint, processes, launcher), None)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        return f"{checkpoint} cannot be read ({type(error).__name__}: {error})"


def _faults(checkpoint: Path, processes: int, launcher: Launcher) -> Iterator[str]:
    if f"{PREFIX}{json.loads((checkpoint / STATE).read_text())['global_step']}" != checkpoint.name:
        yield f"{checkpoint / STATE} is of another step"
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
    if (writer := _written_under(checkpoint)) not in (None, _kind(launcher)):
        yield (
            f"{checkpoint} was written under {writer}, whose optimiser's state {_kind(launcher)} cannot take over: "
            f"resume with the launcher that wrote it (launcher=)"
        )
        return
    states += [checkpoint / name for name in (*STATES[_kind(launcher)], "scheduler.pt")]
    yield from (f"{path} is missing" for path in states if not path.is_file())
    yield from (why for path in states if (why := _torch_fault(path)))
    if launcher.of_deepspeed:
        yield from _deepspeeds_faults(checkpoint, processes, launcher)


def _kind(launcher: Launcher) -> str:
    return launcher.value if launcher.value in STATES else "no sharding"


def _written_under(checkpoint: Path) -> str | None:
    """The kind that left files in ``checkpoint`` which no other leaves; None where there are none of any."""
    for name, kind in (
        ("optimizer.pt", "no sharding"),
        ("optimizer.bin", "fsdp2"),
        ("pytorch_model_fsdp.bin", "fsdp2"),
    ):
        if (checkpoint / name).is_file():
            return kind
    weights = [path.name for path in checkpoint.glob("global_step*/*_model_states.pt")]
    return ("zero3" if any("zero_pp_rank" in name for name in weights) else "zero2") if weights else None


def _deepspeeds_faults(checkpoint: Path, processes: int, launcher: Launcher) -> Iterator[str]:
    """ZeRO's files: the optimiser's share of every process, and of the weights its share (3) or one copy (2)."""
    latest = checkpoint / "latest"
    folder = checkpoint / latest.read_text().strip() if latest.is_file() else None
    if folder is None or not folder.is_dir():
        yield f"{latest}, or the folder of DeepSpeed's states that it names, is missing"
        return
    ranks = [f"zero_pp_rank_{rank}_mp_rank_00" for rank in range(processes)]
    needed = [f"{rank}_optim_states.pt" for rank in ranks]
    needed += [f"{rank}_model_states.pt" for rank in (ranks if launcher is Launcher.zero3 else ["mp_rank_00"])]
    for name in needed:
        if not any(folder.glob(f"*{name}")):  # bf16_zero_pp_... where the weights are half precision
            yield f"{folder / name} is missing"
    yield from (
        f"{path} is damaged: it has no end" for path in sorted(folder.glob("*.pt")) if not zipfile.is_zipfile(path)
    )


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


@functools.cache  # torch keeps them in a list, and cannot order two of one priority
def map_numbered_cpus() -> None:
    """Let torch.load map to ``cpu:N``, which is the memory of this machine."""
    torch.serialization.register_package(
        0, lambda tensor: None, lambda storage, location: storage if location.startswith("cpu:") else None
    )
