"""Faults of disks, and kills at places of a run, put in by tests/support/fault_program.py and ``runs.forked``.

A disk is filled by what lies beside: a small file system is mounted (``small_disk``); where nothing may be mounted no
file may grow beyond a size (RLIMIT_FSIZE), which is another word for the same end of a write.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from vqr1.folder_writer import OLD

BALLAST = "ballast"
FULL = "(No space left on device|File too large|could not be written)"


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A new ``folder`` that holds so much and no more, or an ordinary one where nothing may be mounted."""
    folder.mkdir()
    asked = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)]
    mounted = subprocess.run(asked, capture_output=True, check=False).returncode == 0
    try:
        yield folder
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, left: int) -> None:
    """Leave ``left`` bytes of the disk, or let no file grow beyond them."""
    if not os.path.ismount(disk):
        _written_by_another(sys.stderr.fileno())
        resource.setrlimit(resource.RLIMIT_FSIZE, (left, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return
    with (disk / BALLAST).open("ab", buffering=0) as ballast:
        try:
            while (more := shutil.disk_usage(disk).free - left) > 0:
                ballast.write(bytes(min(more, 1 << 20)))
        except OSError:
            pass


@cache
def _written_by_another(stream: int) -> None:
    """Let a process that has no limit yet write what goes to a stream, for that is a file too."""
    writer = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=stream)
    assert writer.stdin is not None
    os.dup2(writer.stdin.fileno(), stream)
    writer.stdin.close()

    def end() -> None:
        os.close(stream)
        writer.wait()

    Finalize(None, end, exitpriority=0)  # a process that multiprocessing has forked ends without atexit


def free(disk: Path) -> None:
    (disk / BALLAST).unlink(missing_ok=True)


def before(owner: Any, name: str, when: Callable[..., bool], harm: Callable[[], None]) -> None:
    """Let ``harm`` come before a call of ``owner``'s function ``name`` for whose arguments ``when`` is true."""
    usual = getattr(owner, name)

    def harmed(*args: Any, **kwargs: Any) -> Any:
        if when(*args, **kwargs):
            harm()
        return usual(*args, **kwargs)

    setattr(owner, name, harmed)


def at(place: str, step: int, harm: Callable[[], None]) -> None:
    """Let ``harm`` come at a place of a run, of step ``step`` or later."""
    from transformers.trainer_callback import TrainerState

    from vqr1.training import best_weights, checkpoint_folders, run
    from vqr1.training.run_folder import RunFolder
    from vqr1.training.run_trainer import RunTrainer

    def reached(trainer: Any, *_: Any, **__: Any) -> bool:
        return bool(trainer.state.global_step >= step)

    def weights(part: str) -> Callable[..., bool]:
        return lambda trainer, to=None, *_, **__: reached(trainer) and part in str(to)

    if place in ("metrics", "answers"):
        before(RunFolder, "append", lambda _, name, *rows: name == f"{place}.jsonl" and rows[0]["step"] >= step, harm)
    elif place == "summary":
        before(RunFolder, "write", lambda _, name, content: name == "summary.json", harm)
    elif place in ("weights", "best", "final"):
        part = {"weights": "checkpoint.new", "best": "best.new", "final": "final.new"}[place]
        before(RunTrainer, "save_model", weights(part), harm)
    elif place == "optimiser":
        before(RunTrainer, "_save_optimizer_and_scheduler", reached, harm)
    elif place == "random states":
        before(RunTrainer, "_save_rng_state", reached, harm)
    elif place == "state":
        before(TrainerState, "save_to_json", lambda state, path: state.global_step >= step, harm)
    elif place == "end":
        before(run, "draw_figures", lambda *_, **__: True, harm)
    elif place == "rename":  # all is written, and nothing has its name
        before(checkpoint_folders, "put_in_place", lambda path, *_: path.name == f"checkpoint-{step}", harm)
    elif place == "deletion":  # of an earlier checkpoint, one file of which is deleted
        before(shutil, "rmtree", lambda path, *_, **__: str(path).endswith(OLD) and _cut(Path(path)), harm)
    elif place == "best renamed":  # the earlier weights have another name, and the new ones none
        before(best_weights, "put_in_place", lambda path: (path.parent / f"checkpoint-{step}").is_dir(), harm)
    else:
        raise ValueError(place)


def _cut(folder: Path) -> bool:
    next(path for path in sorted(folder.iterdir()) if path.is_file()).unlink()
    return True


def full_at(place: str, step: str, left: str, disk: str) -> None:
    """The disk is full from a place of a run on."""
    at(place, int(step), lambda: fill(Path(disk), int(left)))


def kill_at(place: str, step: str, size: str = "", rank: str = "0") -> None:
    """SIGKILL at a place of a run; with ``size`` the kernel ends the process in the write that passes so many bytes."""
    if os.environ.get("RANK", "0") != rank:
        return

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it, to raise OSError
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), int(size)))

    at(place, int(step), limit if size else lambda: os.kill(os.getpid(), signal.SIGKILL))


def at_once(other: str) -> None:
    """The run waits before it takes its folder until another one does."""
    from vqr1.folder_writer import FolderWriter

    def meet() -> None:
        place = Path(other)
        (place / f"{os.getpid()}").touch()
        while len(list(place.iterdir())) < 2:
            time.sleep(0.001)

    before(FolderWriter, "acquire", lambda _: True, meet)


def replaced_pictures(step: str, folder: str) -> None:
    """From a step on the pictures are others, and none is remembered."""
    from vqr1.data import pictures
    from vqr1.training.run_trainer import RunTrainer

    pictures.PictureLoader.__init__.__defaults__ = (None, 1 << 14)  # type: ignore[misc]

    def replace() -> None:
        found = sorted(Path(folder).glob("train_*.png"))
        content = found[0].read_bytes()
        for path in found:
            path.write_bytes(content)

    before(RunTrainer, "training_step", lambda trainer, *_, **__: trainer.state.global_step >= int(step), replace)
