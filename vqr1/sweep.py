"""A sweep: how its folder and its jobs are named, and what became of each job.

The same command is the same sweep, whatever the order of its words, so it goes on where it was interrupted: jobs whose
run has ended are left alone, the others are resumed.

Hydra's own launcher runs the jobs in turn, in this process. Its submitit launcher sends each, with its Sweep, to a
process of its own, on this machine or as a job of Slurm's, and its joblib launcher to one of several workers on this
machine (:mod:`vqr1.slots`); both take what the job returns back.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, read_write

from vqr1.child_process import INTERRUPTED, STOPPED, Starter
from vqr1.config import register
from vqr1.config_checks import check_name
from vqr1.errors import UserError, show
from vqr1.slots import TOLD, Slots, divided

NAME = "VQR1_SWEEP"  # names the sweep's folder below runs; conf/train.yaml reads it
LONGEST = 100  # letters of a job's name
LONGEST_TAG = 64  # wandb's
LOST = -1  # the exit code of a job that returned nothing: its folder says how far it came


@dataclass
class Job:
    folder: Path
    code: int  # 0 where it has finished
    line: str = ""  # why it failed

    @property
    def state(self) -> str:
        """``missing``: not begun."""
        if self.code == 0 or (self.code == LOST and (self.folder / "summary.json").is_file()):
            return "finished"
        if self.code in (STOPPED, INTERRUPTED, LOST):
            return "stopped" if self.folder.is_dir() else "missing"
        return "failed"

    def __str__(self) -> str:
        return f"{self.state:<8} {self.folder}" + (f": {self.line}" if self.state == "failed" else "")

    def __reduce__(self) -> tuple[Callable[..., Job], tuple[str, int, str]]:
        return returned, (str(self.folder), self.code, self.line)


RETURNED: list[Job] = []


def returned(folder: str, code: int, line: str) -> Job:
    """A job that another process has returned. Noted as it is unpickled, for Hydra drops what jobs return."""
    RETURNED.append(Job(Path(folder), code, line))
    return RETURNED[-1]


@dataclass
class Sweep:
    """The jobs that have ended so far, and what starts the next. Used as a context, which ends with the exit code."""

    jobs: list[Job] = field(default_factory=list)
    starter: Starter = field(default_factory=Starter)
    folder: Path = Path()  # of the job in progress
    tags: list[str] = field(default_factory=list)  # what sets it apart, "rollout.k=4"
    output: Path | None = None  # where it speaks, if not here
    words: list[str] = field(default_factory=list)  # of the command line
    planned: list[Path] = field(default_factory=list)  # folders of all jobs, where Hydra's own sweeper makes them
    slots: Slots | None = None  # with joblib's launcher
    _opened: bool = False

    current: ClassVar[Sweep | None] = None  # of this process, which Hydra's callback has no other way to

    def __enter__(self) -> Sweep:
        Sweep.current = self
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {"words": self.words, "slots": self.slots, NAME: os.environ[NAME]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In the process of a job that was sent to it: what the command line has set up in its own."""
        vars(self).update(vars(Sweep(words=state["words"], slots=state["slots"])))
        os.environ[NAME] = state[NAME]
        register()

    def begin(self, config: DictConfig) -> None:
        """Before the first job: which there will be, and what each has of the machine. Raises UserError."""
        params = config.hydra.sweeper.get("params") or {}
        overrides = parsed([*(f"{key}={values}" for key, values in params.items()), *config.hydra.overrides.task])
        # What a glob stands for is Hydra's to know, and what another sweeper tries is its own.
        known = all(not o.is_sweep_override() or o.is_choice_sweep() or o.is_range_sweep() for o in overrides)
        if known and config.hydra.runtime.choices["hydra/sweeper"] == "basic":
            (jobs,) = BasicSweeper.split_arguments(overrides, None)
            self.planned = [self._folder(config.runs, job_name(job, self.words, params)) for job in jobs]
        if config.hydra.runtime.choices["hydra/launcher"] == "joblib":
            with read_write(config):  # joblib's auto would put jobs one behind the other in one worker
                config.hydra.launcher.batch_size = "1"
            self._shared = TemporaryDirectory(prefix="vqr1-sweep-")
            self.slots = divided(config.hydra.launcher.n_jobs, Path(self._shared.name))
            self.starter.told = self.slots.stop
            self.starter.__enter__()
            self._opened = True

    @staticmethod
    def _folder(runs: str, job: str) -> Path:
        return Path(runs).expanduser() / os.environ[NAME] / job

    @contextmanager
    def job(self, runs: str) -> Iterator[None]:
        """Around a job. From the first on, signals go to the job that runs; one that fails stops no other."""
        hydra = HydraConfig.get()
        sent = hydra.runtime.choices["hydra/launcher"] != "basic"
        # Submitit's, in its processes: requeues the job and ends the process.
        requeue = signal.getsignal(signal.SIGUSR2) if sent else None
        if self.slots:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's, which the sweep's process tells by TOLD
        if not self._opened:
            self._opened = True
            self.starter.__enter__()
        if callable(requeue):
            self.starter.take(signal.SIGUSR2)
        params = hydra.sweeper.get("params") or {}
        name = job_name(hydra.overrides.task, self.words, params)
        self.tags = [f"{key}={value}"[:LONGEST_TAG] for key, value in apart(hydra.overrides.task, self.words, params)]
        self.folder = self._folder(runs, name)
        where = ""
        if self.slots:
            self.slots.join()
            if self.slots.stopped:
                self.starter.received = TOLD
            self.output = self.folder.with_name(f"{name}.log")
            where = f", which speaks in {self.output}"
        show(f"job {hydra.job.num + 1}: {self.folder}{where}", flush=True)
        try:
            with self.slots.taken() if self.slots else nullcontext():
                yield
        except UserError as error:
            show(f"vqr1 train: {error}", file=sys.stderr)
            self.note(error.exit_code, str(error).splitlines()[0])
        if sent and self._returns(requeue):
            show(self.jobs[-1], flush=True)
            return
        if self.starter.received is not None:
            sys.exit(self.exit_code())

    def _returns(self, requeue: Any) -> bool:
        """Whether a job that was sent has a result, and is not left to submitit to be started again."""
        if not self.jobs:  # a signal came before it was begun
            self.note(STOPPED)
        if self.slots:  # whose worker takes signals until it ends
            return True
        self.starter.__exit__(None, None, None)
        if self.starter.received is None or self.jobs[-1].code != STOPPED:
            return True
        if self.starter.received is not signal.SIGUSR2 or not callable(requeue):
            return False
        try:
            requeue(signal.SIGUSR2, None)
        except RuntimeError as why:  # as often as hydra.launcher.max_num_timeout allows
            show(f"vqr1 train: {why}", file=sys.stderr)
        return True

    def note(self, code: int, line: str = "") -> None:
        """How the job in progress has ended."""
        self.jobs.append(Job(self.folder, code, line))

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        Sweep.current = None
        if self._opened:
            self.starter.__exit__(None, None, None)
        if self.slots:
            self._shared.cleanup()
        self.jobs += RETURNED
        # A job that returned nothing: its worker, or its job of Slurm's, is gone.
        lost = kind is not None and kind.__module__.startswith(("submitit.", "joblib."))
        if not (self._opened or self.jobs or lost):
            return
        if kind is not None and not issubclass(kind, SystemExit) and not lost:
            return
        jobs = self.table()
        count = Counter(job.state for job in jobs)
        states = [state for state in ("finished", "failed", "stopped", "missing") if count[state]]
        show(
            f"{len(jobs)} jobs: " + ", ".join(f"{count[state]} {state}" for state in states),
            *jobs,
            flush=True,
        )
        code = self.exit_code() or int(bool(lost))
        if code:
            why = "the sweep was stopped" if code in (STOPPED, INTERRUPTED) else "not all jobs have finished"
            if lost:
                show(f"vqr1 train: {error}", file=sys.stderr)
                why = "a job was lost"
            show(f"vqr1 train: {why}; the same command goes on:\n{self.command()}", file=sys.stderr)
        sys.exit(code)

    def table(self) -> list[Job]:
        """All jobs, each as it was left: those that have ended here, and what their folders say of the others."""
        left = {folder: Job(folder, LOST) for folder in self.planned}
        return list((left | {job.folder: job for job in self.jobs}).values())

    def command(self) -> str:
        """What was called, with the sweep's name where it is not what its words make it."""
        name = os.environ[NAME]
        return ("" if name == sweep_name(self.words) else f"{NAME}={name} ") + shlex.join(
            ["vqr1", "train", *self.words]
        )

    def exit_code(self) -> int:
        """75 (130 after Ctrl-C) where something was stopped and goes on with the same command, else the largest."""
        if self.starter.received is signal.SIGINT:
            return INTERRUPTED
        if self.starter.received is not None or any(job.code == STOPPED for job in self.jobs):
            return STOPPED
        return max((job.code for job in self.jobs), default=0)


class Beginning(Callback):
    """What Hydra calls before the first job of a sweep; it makes a warning of an exception."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        if Sweep.current is None:  # of another command than vqr1 train
            return
        try:
            Sweep.current.begin(config)
        except UserError as error:
            show(f"vqr1 train: {error}", file=sys.stderr)
            sys.exit(error.exit_code)


def sweep_name(words: Sequence[str]) -> str:
    """``sweep-<experiment>-<8 hex digits of the words>``, the same for words that mean the same sweep.

    The order of words counts only where one of them overrides another. Left out are ``resume``, which says how to go
    on, and Hydra's own settings. Raises Hydra's OverrideParseException for a word that cannot be read.
    """
    overrides = [o for o in parsed(words) if o.key_or_group != "resume" and not o.key_or_group.startswith("hydra")]
    texts = [f"{o.get_key_element()}={_meaning(o)}" for o in overrides]
    keys = [f"{o.key_or_group}." for o in overrides]
    independent = not any(one.startswith(other) for one, other in permutations(keys, 2))
    named = [o.value() for o in overrides if o.key_or_group == "experiment" and not o.is_sweep_override()]
    last = named[-1] if named else "run"
    together = "-".join(map(_text, last if isinstance(last, list) else [last]))
    experiment = re.sub(r"[^\w.-]", "-", together, flags=re.ASCII)[:LONGEST]
    return f"sweep-{experiment}-{_digest(*(sorted(texts) if independent else texts))}"


def job_name(overrides: Sequence[str], words: Sequence[str], params: Iterable[str] = ()) -> str:
    """What sets a job of a sweep apart: the swept settings and this job's values, ``rollout.k-4_seed-0``.

    ``overrides`` are the job's, ``words`` the command line's, ``params`` the keys that hydra.sweeper.params sweeps. The
    order of words does not count, and a later command line takes the name without quotes. Where letters or length do
    not allow the values as they are, 8 digits of their hash make the name the job's own.
    """
    pairs = apart(overrides, words, params)
    plain = "_".join(f"{_plain(key)}-{_plain(value)}" for key, value in pairs) or "job"
    ambiguous = any(f"_{_plain(key)}-" in value for key, _ in pairs for _, value in pairs)
    if ambiguous or len(plain) > LONGEST or any(_plain(value) != value for _, value in pairs):
        digest = _digest(*(f"{key}={value}" for key, value in pairs))
        plain = f"{plain[: LONGEST - len(digest) - 1]}-{digest}"
    return plain


def apart(overrides: Sequence[str], words: Sequence[str], params: Iterable[str] = ()) -> list[tuple[str, str]]:
    """The swept settings and a job's values of them, in order; the arguments are those of :func:`job_name`."""
    swept = {o.get_key_element() for o in parsed(words) if o.is_sweep_override()} | set(params)
    return sorted((o.key_or_group, _meaning(o)) for o in parsed(overrides) if o.get_key_element() in swept)


def parsed(words: Sequence[str]) -> list[Override]:
    """The settings among the words of a command line; Hydra's options are left out."""
    return OverridesParser.create().parse_overrides([word for word in words if re.match(r"~|[^-].*=", word)])


def _meaning(override: Override) -> str:
    """The value as text; of several that are tried, whatever their order. Quotes do not count."""
    value = override.value()
    return ",".join(sorted(map(_text, value.list))) if isinstance(value, ChoiceSweep) else _text(value)


def _text(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value.text if isinstance(value, QuotedString) else value)


def _plain(text: str) -> str:
    """With letters alone that Hydra's grammar takes without quotes."""
    return re.sub(r"[^\w.+-]+", "-", text, flags=re.ASCII) or "-"


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]


def set_name(words: Sequence[str]) -> None:
    """Name the sweep for Hydra's own folder, unless VQR1_SWEEP does so already."""
    if not os.environ.get(NAME):
        os.environ[NAME] = sweep_name(words)
    check_name(os.environ[NAME], NAME)
