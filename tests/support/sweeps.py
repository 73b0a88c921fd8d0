"""Sweeps of fake runs, in processes of their own, and looking at what they do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.support import fake_run
from vqr1.sweep import NAME

PROGRAM = f"""
from functools import partial
from vqr1 import cli
from vqr1.launching import Hooks, start
cli.main(partial(start, hooks=Hooks(program=({fake_run.__file__!r},))))
"""


FOUR = [
    "-m",
    "data=demo",
    "policy=tiny",
    "runs=runs",
    f"trainer.max_steps={fake_run.STEPS}",
    "seed=0,1",
    "rollout.k=3,4",
]


def begin(folder, words=FOUR, program=("-c", PROGRAM), **environment):
    """A sweep of fake runs, or of ``program``'s, in a session of its own as in a terminal."""
    inherited = {key: value for key, value in os.environ.items() if key != NAME}
    pods = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "pod", "MASTER_PORT": "1"}  # as a cluster sets them
    return subprocess.Popen(
        [sys.executable, *program, "train", *words],
        cwd=folder, env={**inherited, **pods, "FAKE_PAUSE": str(folder / "go"), **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler), start_new_session=True,
    )  # fmt: skip


def job_at_its_second_step(folder, job):
    """The process of a job that waits there."""
    path = folder / job
    within(lambda: path.parent.is_dir() and len(steps(path)) == 2)
    return int((path / "process").read_text())


def steps(run):
    file = run / "metrics.jsonl"
    return [json.loads(line)["step"] for line in file.read_text().splitlines()] if file.is_file() else []


def within(true, seconds=30):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def gone(process):
    """Whether it has ended; what nobody has waited for counts as ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
