"""Faults of ranks, signals and data loading, for tests/support/fault_program.py and :func:`faulty`.

What is put in takes the rank that it harms as text, where there are several.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from tests.support import runs


def faulty(
    fault: str, notes: Path, ranks: int = 1, figures: bool = False, **settings: Any
) -> subprocess.CompletedProcess[str]:
    """A run with a fault of this file, FUNCTION[:ARGUMENT...], on ranks started as by tests/support/runs.py.

    ``notes``: the file for :func:`noted`.
    """
    return runs._forked(_program, ["vqr1", *runs.words(settings)], ranks, fault, str(notes), figures)


def _program(fault: str, notes: str, figures: bool) -> None:
    name, *given = fault.split(":")
    os.environ["FAULT_NOTES"] = notes
    globals()[name](*given)
    runs._command(True, figures, "")


def here(rank: str) -> bool:
    """Whether this is that rank; notes its process."""
    noted("begun")
    return os.environ.get("RANK", "0") == rank


def at(step: str, harm: Any) -> None:
    """``harm`` the loss of a step's first batch, which it is called with and replaces."""
    from trl import GRPOTrainer

    plain = GRPOTrainer._compute_loss
    done: list[int] = []

    def compute_loss(self: Any, *args: Any, **more: Any) -> Any:
        loss = plain(self, *args, **more)
        if self.state.global_step + 1 < int(step) or done:
            return loss
        done.append(1)
        return harm(loss)

    GRPOTrainer._compute_loss = compute_loss


def noted(what: str) -> None:
    """Append the time and this process to the file FAULT_NOTES."""
    with Path(os.environ["FAULT_NOTES"]).open("a") as file:
        file.write(f"{time.time():.2f} {os.getpid()} {what}\n")


def begun() -> None:
    """Note the process alone."""
    noted("begun")


def stopped_rank(rank: str, step: str) -> None:
    def stop(loss: Any) -> Any:
        noted("stopped")
        os.kill(os.getpid(), signal.SIGSTOP)
        return loss

    if here(rank):
        at(step, stop)


def standing_rank(rank: str, step: str) -> None:
    """Its process lives, and its main thread does not go on."""

    def a_file_that_does_not_come(_: Any) -> None:
        noted("standing")
        time.sleep(600)

    if here(rank):
        at(step, a_file_that_does_not_come)


def failing_rank(rank: str, step: str, kind: str) -> None:
    from vqr1.errors import UserError

    def fail(_: Any) -> None:
        noted(kind)
        if kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise {"user": UserError, "defect": ZeroDivisionError}[kind]("what the test has put in")

    if here(rank):
        at(step, fail)


def slow_end(seconds: str) -> None:
    """What a run is sent to takes so long to end, as wandb without its server."""
    from vqr1.training import run

    noted("begun")
    plain = run.open_sinks

    def open_sinks(config: Any, folder: Any, say: Any, ending: Any) -> Any:
        ending.callback(time.sleep, float(seconds))
        return plain(config, folder, say, ending)

    run.open_sinks = open_sinks


def slow_return(seconds: str) -> None:
    """The first rank goes on for so long after the last time that ranks meet."""
    from vqr1.training import run

    noted("begun")
    plain = run._train

    def train(*given: Any) -> Any:
        done = plain(*given)
        if os.environ["RANK"] == "0":
            time.sleep(float(seconds))
        return done

    run._train = train


def failing_rank_with_slow_end(rank: str, step: str, seconds: str) -> None:
    slow_end(seconds)
    failing_rank(rank, step, "defect")


def not_finite(rank: str, step: str) -> None:
    if here(rank):
        at(step, lambda loss: loss * float("nan"))


def signalled(*instants: str, number: str = "SIGTERM") -> None:
    """Rank i gets a signal so many seconds after it has begun step 2; each step takes some time."""
    from vqr1.training.trainer import RankingTrainer

    rank = int(os.environ.get("RANK", "0"))
    noted("begun")
    plain = RankingTrainer.training_step
    begun: list[int] = []

    def send() -> None:
        noted("signalled")
        os.kill(os.getpid(), signal.Signals[number])

    def training_step(self: Any, *args: Any, **more: Any) -> Any:
        if self.state.global_step >= 1 and not begun:
            begun.append(1)
            threading.Timer(float(instants[rank]), send).start()
        time.sleep(0.4)
        return plain(self, *args, **more)

    RankingTrainer.training_step = training_step  # type: ignore[method-assign]


def signalled_with_workers(step: str) -> None:
    """SIGTERM reaches the processes that load pictures, and then the rank, as where a queue signals all of a job.

    Not from the rank: torch's own handler would let them end as they do when a loader is done.
    """

    def send(loss: Any) -> Any:
        workers = [str(process.pid) for process in multiprocessing.active_children()]
        noted("signalled")
        subprocess.run(["/bin/kill", "-TERM", *workers], check=True)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        return loss

    noted("begun")
    at(step, send)


def stopped_worker(step: str) -> None:
    """One of the processes that load pictures is stopped."""

    def stop(loss: Any) -> Any:
        worker = next(process for process in multiprocessing.active_children() if process.pid)
        noted("stopped")
        with Path(os.environ["FAULT_NOTES"]).open("a") as file:
            file.write(f"{time.time():.2f} {worker.pid} begun\n")
        os.kill(worker.pid or 0, signal.SIGSTOP)
        return loss

    noted("begun")

    at(step, stop)


def lost_picture() -> None:
    """What the run folder has kept of one picture is removed, and another cut, before the figures are drawn."""
    from vqr1.training import run

    noted("begun")
    plain = run.draw_figures

    def draw_figures(folder: Path, *args: Any, **more: Any) -> None:
        noted("lost")
        first, second, *_ = sorted((folder / "pictures").iterdir())
        first.unlink()
        second.write_bytes(second.read_bytes()[:200])
        plain(folder, *args, **more)

    run.draw_figures = draw_figures
