"""Runs as a user starts them: ``vqr1 train`` in processes of its own.

The ranks of a run are forked from a process that has imported everything already: importing takes longer than many of
these runs. Where the command itself is what is tested, ``command`` starts it anew.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from tests.support import scripted as scripted_program
from tests.support.ports import free_port
from vqr1 import cli

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as the command line does, before the forks' torch is loaded
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["vqr1.training.run", "vqr1.demo.datasets"])

STRANGE = "warning: of TRL's figures"  # vqr1.training.run_log: names that are missing or not known

QUICK = {
    "experiment": "demo",
    "logger": "disabled",
    "reward.cohort_size": "4",
    "trainer.images_per_step": "8",
    "trainer.answers_per_device": "24",
    "trainer.max_steps": "2",
    "rollout.k": "3",
    "rollout.max_tokens": "12",
    "evaluation.every": "0",
    "evaluation.k": "2",
    "evaluation.test_k": "2",
    "evaluation.max_pictures": "4",
    "evaluation.probes": "1",
    "evaluation.proof": "false",
}


# What of these does not apply where answers are shown is refused there.
QUICK_SHOWN = {
    **{key: QUICK[key] for key in ("logger", "trainer.images_per_step", "trainer.max_steps")},
    **{key: QUICK[key] for key in ("evaluation.every", "evaluation.max_pictures", "evaluation.probes")},
}
SHOWN = ("demo_levels", "demo_comparison", "demo_depict")


def words(settings: dict[str, Any]) -> list[str]:
    """Keys with two underscores stand for dots: ``trainer__beta=0.1``."""
    named = {key.replace("__", "."): value for key, value in settings.items()}
    experiment = named.get("experiment")
    quick = QUICK_SHOWN | {"experiment": experiment} if experiment in SHOWN else QUICK
    return ["train", *(f"{key}={value}" for key, value in {**quick, **named}.items())]


def command(settings: dict[str, Any], ranks: int = 1, scripted: bool = False) -> list[str]:
    """The words that start a run, on several ranks by torchrun. ``scripted``: as for ``start``."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    program = [scripted_program.__file__] if scripted else ["-m", "vqr1"]
    return [sys.executable, *launcher, *program, *words(settings)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


def start(
    ranks: int = 1, scripted: bool = False, figures: bool = False, **settings: Any
) -> subprocess.CompletedProcess[str]:
    """Run to the end, with settings as for ``words``. ``scripted``: its answers are tests/support/scripted.py's.

    Without ``figures`` none is drawn at the end, which takes as long as the rest of a short run.
    """
    return forked(words(settings), scripted, ranks, figures)


def forked(
    asked: list[str],
    scripted: bool = False,
    ranks: int = 1,
    figures: bool = True,
    fault: str = "",
    meanwhile: Callable[[list[int]], None] = lambda processes: None,
) -> subprocess.CompletedProcess[str]:
    """``vqr1 ASKED``, or each of its ``ranks`` as torchrun starts them, of which the first that fails ends all.

    In processes that have imported everything already. ``figures``: as for ``start``. ``fault``: as for
    tests/support/fault_program.py. ``meanwhile`` is called with the numbers of the processes when they are started.
    """
    return _forked(_command, ["vqr1", *asked], ranks, scripted, figures, fault, meanwhile=meanwhile)


def forked_script(script: Path, *asked: str, ranks: int) -> subprocess.CompletedProcess[str]:
    """``python SCRIPT ASKED`` on each rank, started and ended as by ``forked``."""
    return _forked(_script, [str(script), *asked], ranks)


def _forked(
    program: Callable[..., None],
    argv: list[str],
    ranks: int,
    *how: bool | str,
    meanwhile: Callable[[list[int]], None] = lambda processes: None,
) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        outputs = [[Path(folder) / f"{stream}{rank}" for rank in range(ranks)] for stream in ("stdout", "stderr")]
        processes = [
            _FORKS.Process(target=_main, args=(program, argv, how, Path.cwd(), place, stdout, stderr))
            for place, stdout, stderr in zip(_places(ranks), *outputs, strict=True)
        ]
        for process in processes:
            process.start()
        meanwhile([process.pid for process in processes])
        code = _ended(processes)
        stdout, stderr = ("".join(path.read_text() for path in paths if path.exists()) for paths in outputs)
        assert code is not None, f"not done after ten minutes\n{stderr[-4000:]}"
        return subprocess.CompletedProcess(argv, code, stdout, stderr)


def _ended(processes: list[Any]) -> int | None:
    """The exit code, when all have ended or the first has failed; None after ten minutes. None is left."""
    end = time.monotonic() + 600
    running = list(processes)
    while running and not any(process.exitcode for process in processes):
        if not wait([process.sentinel for process in running], end - time.monotonic()):
            break
        running = [process for process in running if process.exitcode is None]
    failed = next((process.exitcode for process in processes if process.exitcode), None)
    for process in running:
        process.terminate() if failed else process.kill()
        process.join(30)
        process.kill()
    return failed or (None if running else 0)


def _places(ranks: int) -> list[dict[str, str]]:
    """What torchrun tells each rank. One is started without."""
    if ranks == 1:
        return [{}]
    shared = {"WORLD_SIZE": f"{ranks}", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{free_port()}"}
    return [{**shared, "RANK": f"{rank}", "LOCAL_RANK": f"{rank}"} for rank in range(ranks)]


def _main(
    program: Callable[..., None],
    argv: list[str],
    how: tuple[bool | str, ...],
    here: Path,
    place: dict[str, str],
    stdout: Path,
    stderr: Path,
) -> None:
    for stream, path in ((sys.stdout, stdout), (sys.stderr, stderr)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.chdir(here)
    os.environ.update({**environment(), **place})
    sys.argv = argv
    torch.set_num_threads(1)  # OMP_NUM_THREADS counts at import only
    program(*how)


def _command(scripted: bool, figures: bool, fault: str) -> None:
    if fault:
        module, function, *given = fault.split(":")
        getattr(import_module(module), function)(*given)
    if not figures:
        from vqr1.training import run  # here, where it has been imported

        run.draw_figures = lambda *_, **__: None
    (scripted_program if scripted else cli).main()


def _script() -> None:
    runpy.run_path(sys.argv[0], run_name="__main__")


def train(folder: Path, ranks: int = 1, scripted: bool = False, figures: bool = False, **settings: Any) -> Path:
    """A run that must succeed; gives its folder. Its words are those of ``start``."""
    done = start(ranks, scripted, figures, runs=folder.parent, name=folder.name, **settings)
    assert done.returncode == 0, done.stderr[-4000:]
    assert STRANGE not in done.stderr  # a run only warns of it
    return folder


# How far two runs that do the same sums in another order lie apart, by measurement at most a tenth of this. A loss is a
# mean of terms of size 1 (advantages) that all but cancel, to 1e-6 in a first step: what is left of them is compared to
# what float32 rounds of a 1, and no more.
AGREE = {"rel": 1e-4, "abs": 1e-7}


def rows(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def training_rows(folder: Path) -> list[dict[str, Any]]:
    return [row for row in rows(folder) if "train/loss" in row]
