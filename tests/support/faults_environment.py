"""Faults of what a run finds around it: no home, few files, a clock that is set back, a killed process of its own."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.support.faults_disk import before, fill

NOBODY = 65534


def homeless(disk: str) -> None:
    """No HOME, and a folder for temporary files without space."""
    os.environ.pop("HOME", None)
    os.environ["TMPDIR"] = tempfile.tempdir = disk
    fill(Path(disk), 0)


def few_files(most: str) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(most), int(most)))


def set_back(step: str, seconds: str) -> None:
    """The clock of the day is set back by so many seconds before a step."""
    from vqr1.training.run_trainer import RunTrainer

    plain = time.time

    def set_clock() -> None:
        time.time = lambda: plain() - float(seconds)

    before(RunTrainer, "training_step", lambda trainer, *_, **__: trainer.state.global_step + 1 == int(step), set_clock)


def killed_worker(step: str) -> None:
    """One of the processes that load pictures is killed."""
    from vqr1.training.run_trainer import RunTrainer

    done: list[int] = []

    def reached(trainer: Any, *_: Any, **__: Any) -> bool:
        return trainer.state.global_step + 1 >= int(step) and not done

    def kill() -> None:
        worker = next(process for process in multiprocessing.active_children() if process.pid)
        done.append(worker.pid or 0)
        os.kill(done[0], signal.SIGKILL)

    before(RunTrainer, "training_step", reached, kill)


def few_processes(most: str) -> None:
    """No more processes and threads than so many, as a user without privileges has it (RLIMIT_NPROC).

    Root has no limit, so that the user becomes another; what the files' permissions are for stays as it was.
    """
    resource.setrlimit(resource.RLIMIT_NPROC, (int(most), int(most)))
    os.setresuid(NOBODY, -1, -1)
    unlimited = 1 << 21 | 1 << 24  # CAP_SYS_ADMIN, CAP_SYS_RESOURCE
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # the version with 64 bits
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, of the lower 32 and of the upper
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    sets[0] &= ~unlimited
    sets[1] &= ~unlimited
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")
