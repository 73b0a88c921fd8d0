"""Runs as their folders tell them: read for reports, also where a run goes on, was killed or was copied in part.

Nothing here writes. What cannot be read is counted and left out, never guessed: a report says so beside the figures.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

from vqr1.errors import MissingFileError, UserError
from vqr1.folder_reader import OtherYamlError, read_yaml
from vqr1.folder_writer import is_held

CONFIG = "config.yaml"
SECTIONS = ("data", "policy", "rollout", "reward", "trainer")  # of every run's configuration
STEPS = 1 << 53  # more than any run has; figures and pages hold smaller ones exactly
DEPTH = 3  # folders below a given one in which runs are looked for: runs/, a sweep, its jobs

# Settings that say where and how a run is done and not what: runs that differ in these alone are one setting.
ASIDE = (
    *("name", "runs", "resume", "launcher", "threads", "seed", "logger", "data.root", "data.cache"),
    # How answers are laid over memory: the machine's choice, which differs with K.
    *("trainer.answers_per_device", "trainer.scoring_answers_per_device", "trainer.skip_zero_advantages"),
    *("trainer.shared_prefix", "trainer.shared_prefix_attention", "trainer.shared_prefix_tokens"),
    *(
        "trainer.dataloader_num_workers",
        "trainer.dataloader_timeout",
        "trainer.ddp_timeout",
        "trainer.save_steps",
        "trainer.save_total_limit",
    ),
)


class State(Enum):
    """How far a run has come."""

    finished = "finished"
    stopped = "stopped"  # by a signal; the same command goes on
    running = "running"  # a process of this machine holds its lock
    endless = "without an end"  # killed, failed, or running on another machine


Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What one run folder holds. Numbers that are not finite are None, as they are in the files."""

    folder: Path
    config: dict[str, Any]  # nested, as in config.yaml
    metrics: list[Row]  # a row per step and per evaluation, each with "step", in the order of the file
    timings: list[Row]
    answers: list[Row]  # of the probe pictures
    samples: list[Row]  # of training; none in folders of earlier versions
    summary: dict[str, Any] | None  # None until the run has ended
    versions: dict[str, Any]
    state: State
    resumed: list[int] = field(default_factory=list)  # from which steps it was gone on with
    torn: dict[str, int] = field(default_factory=dict)  # lines, by file, that could not be read and are left out

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def sweep(self) -> Path | None:
        """The folder of the sweep that the run is a job of."""
        above = self.folder.parent
        return above if (above / "multirun.yaml").is_file() or above.name.startswith("sweep-") else None

    @property
    def experiment(self) -> str:
        return str(self.config.get("experiment_name") or "without a name")

    @property
    def seed(self) -> Any:
        return self.config.get("seed")

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration by dotted names, as on the command line."""
        return flat(self.config)

    @property
    def steps(self) -> int:
        """The last step that was made."""
        return max((row["step"] for row in self.metrics), default=0)

    def series(self, name: str) -> tuple[list[int], list[float | None]]:
        """Steps, in their order, and values of a metric; None where it was not defined. Without steps that do not have
        it."""
        found = self._columns.get(name, {})
        steps = sorted(found)
        return steps, [found[step] for step in steps]

    def names(self) -> list[str]:
        """Of all metrics that were logged, in the order of the first time."""
        return list(self._columns)

    def sets(self) -> list[str]:
        """The names of the sets that were evaluated, in the order of the first time."""
        return list(dict.fromkeys(name.split("/")[1] for name in self._columns if name.startswith("eval/")))

    @cached_property
    def _columns(self) -> dict[str, dict[int, float | None]]:
        found: dict[str, dict[int, float | None]] = {}
        for row in self.metrics:
            step = row["step"]
            for name, value in row.items():
                found.setdefault(name, {})[step] = number(value)
        found.pop("step", None)
        return found

    def picture(self, row: Row) -> Path | None:
        """The file of a row's picture: the copy in the run folder, else where the run read it; None where neither is
        there any more."""
        kept, read = row.get("picture"), row.get("image")
        if isinstance(kept, str) and (path := _inside(self.folder, kept)) is not None:
            return path
        return Path(read) if isinstance(read, str) and os.path.isfile(read) else None  # noqa: PTH113 - any text


def read_run(folder: Path) -> Run:
    """The run in ``folder``. Raises UserError where there is none, or where its configuration cannot be read."""
    if not folder.is_dir():
        raise MissingFileError(f"{folder} is not a folder; give one of a run or of a sweep, such as runs/NAME")
    config = _config(folder)
    if config is None:
        raise UserError(f"{folder} holds no run: it has no {CONFIG} of one; give one of a run or of a sweep")
    torn: dict[str, int] = {}
    metrics, timings, answers, samples = (
        _rows(folder / name, torn) for name in ("metrics.jsonl", "timings.jsonl", "answers.jsonl", "samples.jsonl")
    )
    resumed = [row["step"] for row in _rows(folder / "resumed.jsonl", torn)]
    summary = _object(folder / "summary.json", torn)
    return Run(
        folder,
        config,
        metrics,
        timings,
        answers,
        samples,
        summary,
        _object(folder / "versions.json", torn) or {},
        _state(folder, summary, max((row["step"] for row in metrics), default=0)),
        resumed,
        torn,
    )


def find_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs that ``paths`` are or hold, each once, a folder's in the order of their names.

    Raises UserError for a path that is not there or holds none.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise MissingFileError(f"{path} is not a folder; give one of a run or of a sweep, such as runs/NAME")
        folders = list(_folders(path, DEPTH))
        if not folders:
            raise UserError(
                f"{path} holds no run: there is no {CONFIG} of one in it or in the folders below it; give the folder "
                "of a run or of a sweep, such as runs/NAME"
            )
        found.update(dict.fromkeys(folder.resolve() for folder in folders))
    return [read_run(folder) for folder in found]


def flat(settings: dict[str, Any], section: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found.update(flat(value, f"{section}{key}.") if isinstance(value, dict) else {f"{section}{key}": value})
    return found


def differing(runs: Sequence[Run]) -> list[str]:
    """The settings, without :data:`ASIDE`, of which these runs have more than one value. A setting that one version
    knows and another does not differs."""
    settings = [run.settings for run in runs]
    names = dict.fromkeys(name for each in settings for name in each if not _aside(name))
    return [name for name in names if any(each.get(name) != settings[0].get(name) for each in settings)]


def number(value: Any) -> float | None:
    """A finite number, or None for all else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number of hundreds of digits
        return None


def _aside(name: str) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in ASIDE)


def _folders(path: Path, depth: int) -> Iterator[Path]:
    if (path / CONFIG).is_file() and _config(path) is not None:
        yield path
    elif depth:
        for below in sorted(path.iterdir()):
            if below.is_dir() and not below.name.startswith("."):
                yield from _folders(below, depth - 1)


def _config(folder: Path) -> dict[str, Any] | None:
    """The configuration of the run in ``folder``; None where there is none, or that of something else."""
    path = folder / CONFIG
    if not path.is_file():
        return None
    try:
        found = read_yaml(path, "restore the file, or leave this run out")
    except OtherYamlError:
        return None
    is_run = all(isinstance(found.get(name), dict) for name in SECTIONS)
    if not is_run:
        return None
    for name in ("train", "validation", "test"):
        sets = found["data"].get(name) or []
        if not isinstance(sets, list) or not all(isinstance(each, str) for each in sets):
            raise UserError(f"{path}: data.{name} is {str(sets)[:80]!r}, no list of sets; restore the file")
    if not isinstance(found.get("seed"), (int, type(None))):
        raise UserError(f"{path}: seed is {found['seed']!r}, no whole number; restore the file")
    return found


def _inside(folder: Path, name: str) -> Path | None:
    """The file that ``folder`` holds by this name; None where it holds none, or no file can have the name."""
    try:
        path = (folder / name).resolve()
        return path if path.is_relative_to(folder.resolve()) and path.is_file() else None
    except (OSError, ValueError, RuntimeError):  # the last for links in a circle
        return None


def _rows(path: Path, torn: dict[str, int]) -> list[Row]:
    """The lines that are objects with a step; the others are counted in ``torn``."""
    rows = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        row = _read(line)
        if isinstance(row, dict) and type(step := row.get("step")) is int and 0 <= step < STEPS:
            rows.append(row)
        else:
            torn[path.name] = torn.get(path.name, 0) + 1
    return rows


def _object(path: Path, torn: dict[str, int]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    found = _read(path.read_bytes())
    if isinstance(found, dict):
        return found
    torn[path.name] = 1
    return None


def _read(content: bytes) -> Any:
    """JSON without NaN and infinity, which are None; None for what is no JSON."""
    try:
        return json.loads(content, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None


def _state(folder: Path, summary: dict[str, Any] | None, steps: int) -> State:
    if is_held(folder):
        return State.running
    if (folder / "stopped.json").is_file():
        return State.stopped
    done = number(summary.get("steps")) if summary is not None else None
    # One that was resumed for more steps keeps the summary of its first end until its next.
    return State.finished if done is not None and done >= steps else State.endless


def by_experiment(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs of different experiments are not compared with each other."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.experiment, []).append(run)
    return found
