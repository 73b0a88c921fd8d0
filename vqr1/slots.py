"""What each of the jobs that run at a time on one machine has for itself, and how a signal reaches all of them.

Hydra's joblib launcher runs the jobs of a sweep in worker processes. It knows nothing of GPUs, and kills its workers
where a signal interrupts it. Here the sweep's own process divides what there is into as many slots as jobs run at a
time, and tells the workers to end by a file and a signal; a worker takes a free slot for each job.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from vqr1.child_process import end_with
from vqr1.errors import UserError
from vqr1.gpus import ask_driver

VISIBLE = "CUDA_VISIBLE_DEVICES"
TOLD = signal.SIGUSR1  # to workers, whatever came: Ctrl-C reaches them by the terminal too, and they ignore it


@dataclass(frozen=True)
class Slots:
    folder: Path  # of the sweep's process, for as long as it runs
    number: int  # of jobs at a time
    gpus: tuple[str, ...]  # as CUDA_VISIBLE_DEVICES names them
    cores: tuple[int, ...]
    parent: int  # the sweep's process

    def share(self, slot: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """GPUs and cores of a slot: as many as of every other, none of them another's. Cores are shared if few."""
        gpus, cores = (len(each) // self.number for each in (self.gpus, self.cores))
        mine = self.cores[slot * cores : (slot + 1) * cores] or (self.cores[slot % len(self.cores)],)
        return self.gpus[slot * gpus : (slot + 1) * gpus], mine

    def join(self) -> None:
        """In a worker that handles TOLD by now: end with the sweep's process, and be told when that is to stop."""
        end_with(self.parent)
        (self.folder / f"worker-{os.getpid()}").touch()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """In a worker, around a job: with a slot of its own, which processes that are started inherit."""
        with ExitStack() as held:
            slot = next(slot for slot in range(self.number) if self._lock(slot, held))
            gpus, cores = self.share(slot)
            if self.gpus:
                os.environ[VISIBLE] = ",".join(gpus)
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, cores)
            yield

    def _lock(self, slot: int, held: ExitStack) -> bool:
        """The kernel takes the lock back from a worker that is killed."""
        file = held.enter_context((self.folder / f"slot-{slot}").open("a"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def stop(self) -> None:
        """In the sweep's process: jobs that run are told to stop, and no other begins."""
        (self.folder / "stop").touch()
        for file in self.folder.glob("worker-*"):
            try:
                os.kill(int(file.name.removeprefix("worker-")), TOLD)
            except ProcessLookupError:
                continue  # it has nothing to do any more

    @property
    def stopped(self) -> bool:
        return (self.folder / "stop").exists()


def divided(number: int, folder: Path) -> Slots:
    """This machine for ``number`` jobs at a time. Raises UserError where there are too few GPUs, or no number."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    if number < 1:
        raise UserError(
            f"hydra.launcher.n_jobs={number}: say how many jobs run at a time, 1 or more; each has its share of the "
            "GPUs or cores"
        )
    gpus = visible_gpus()
    if gpus and number > len(gpus):
        raise UserError(
            f"hydra.launcher.n_jobs={number}: {len(gpus)} GPUs are visible, and every job needs one of its own; give "
            f"{len(gpus)} or less"
        )
    return Slots(folder, number, tuple(gpus), tuple(cores), os.getpid())


def visible_gpus() -> list[str]:
    """Those that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get(VISIBLE)
    if named is None:
        return [str(index) for index in range(len(ask_driver().cards))]
    names = [name.strip() for name in named.split(",")]
    return names[: next((index for index, name in enumerate(names) if name in ("", "-1")), None)]  # as CUDA reads it
