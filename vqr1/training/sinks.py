"""Where what a run logs goes beside its files, under the same names, and how its answers are laid out there.

Figures that are not finite reach no sink.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from vqr1.config import Config, Wandb
from vqr1.training.run_folder import RunFolder

Say = Callable[[str], None]


@dataclass(frozen=True)
class Table:
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]  # None: an empty cell
    note: str = ""


class Sink(Protocol):
    def figures(self, step: int, values: dict[str, float]) -> None: ...

    def table(self, step: int, name: str, table: Table) -> None: ...

    def pictures(self, step: int, name: str, captioned: Sequence[tuple[Path, str]]) -> None:
        """Pictures with a caption each."""


Opener = Callable[[Config, RunFolder, Say, ExitStack], Sink]


class LastingSink:
    """A sink that the run can do without: what it fails with is said, and it gets nothing more.

    ``name`` is what the sink is called.
    """

    def __init__(self, name: str, say: Say):
        self._name = name
        self._say = say
        self._sink: Sink | None = None
        self._ending = ExitStack()

    def open(self, opener: Opener, config: Config, to: RunFolder) -> None:
        """Raises what ``opener`` raises: nothing is learnt yet."""
        self._sink = opener(config, to, self._say, self._ending)

    def figures(self, step: int, values: dict[str, float]) -> None:
        self._send(lambda sink: sink.figures(step, values))

    def table(self, step: int, name: str, table: Table) -> None:
        self._send(lambda sink: sink.table(step, name, table))

    def pictures(self, step: int, name: str, captioned: Sequence[tuple[Path, str]]) -> None:
        self._send(lambda sink: sink.pictures(step, name, captioned))

    def end(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """What ended the run, for :meth:`contextlib.ExitStack.push`."""
        try:
            self._ending.__exit__(kind, error, trace)
        except Exception as failure:  # noqa: BLE001 - as in _send
            if self._sink is not None:  # else it has been told of
                self._tell(failure)

    def _send(self, send: Callable[[Sink], None]) -> None:
        if self._sink is None:
            return
        try:
            send(self._sink)
        except Exception as failure:  # noqa: BLE001 - whatever it is, all that it was sent is in the run folder
            self._sink = None
            self._tell(failure)

    def _tell(self, failure: Exception) -> None:
        why = " ".join(f"{type(failure).__name__}: {failure}".split())
        self._say(f"warning: {self._name} failed and gets nothing more; the run folder has all of it ({why})")


def open_sinks(config: Config, folder: RunFolder, say: Say, ending: ExitStack) -> list[Sink]:
    """The sinks that ``config.logger`` asks for, whose ends are left to ``ending``.

    Raises UserError where one does not start. None that fails later ends the run.
    """
    from vqr1.training.tensorboard_sink import open_tensorboard
    from vqr1.training.wandb_sink import open_wandb

    asked: dict[str, tuple[bool, Opener]] = {
        "wandb": (config.logger.wandb is not Wandb.disabled, open_wandb),
        "TensorBoard": (config.logger.tensorboard, open_tensorboard),
    }
    sinks: list[Sink] = []
    for name, (wanted, opener) in asked.items():
        if wanted:
            sink = LastingSink(name, say)
            ending.push(sink.end)
            sink.open(opener, config, folder)
            sinks.append(sink)
    return sinks


def pictures_logged(config: Config) -> bool:
    """A dataset's pictures may not be ours to send: unless asked for, they are logged where they stay in the folder."""
    asked = config.logger.pictures
    return config.logger.wandb is not Wandb.online if asked is None else asked


def answer_table(rows: Iterable[dict[str, Any]]) -> Table:
    """A line for each answer in rows of samples.jsonl or answers.jsonl."""
    rows = list(rows)
    found = []
    for row in rows:
        for k, text in enumerate(row["answers"]):
            figures = [_of_answer(row, name, k) for name in ("scores", "rewards", "advantages")]
            found.append([row["set"], row["image_id"], _short(row["mos"]), k + 1, *figures, text])
    columns = ("set", "picture", "opinion", "answer", "score", "reward", "advantage", "text")
    return Table(columns, found, note=next((row["prompt"] for row in rows if "prompt" in row), ""))


def captioned(folder: Path, rows: Iterable[dict[str, Any]]) -> list[tuple[Path, str]]:
    """The pictures in rows of samples.jsonl or answers.jsonl, with all that was said of them."""
    found = []
    for row in rows:
        lines = [f"{row['image_id']}, opinion {_short(row['mos'])}", *([row["prompt"]] if "prompt" in row else [])]
        for k, text in enumerate(row["answers"]):
            names = {"score": "scores", "reward": "rewards", "advantage": "advantages"}
            said = [f"{name} {_of_answer(row, key, k)}" for name, key in names.items() if _of_answer(row, key, k)]
            lines.append(f"{', '.join(said) or 'unreadable'}: {text}")
        found.append((folder / row["picture"], "\n".join(lines)))
    return found


def final_table(summary: dict[str, Any]) -> Table:
    """Start and end of each set of ``summary.json``."""
    figures = ["srcc", "srcc_low", "srcc_high", "plcc", "score_std", "unreadable", "n"]
    ends = [(name, end) for name in summary["final"] for end in ("start", "final") if name in summary[end]]
    figures = [key for key in figures if any(key in summary[end][name] for name, end in ends)]
    return Table(
        ("set", "end", *figures),
        [[name, end, *(_short(summary[end][name].get(key)) for key in figures)] for name, end in ends],
    )


def _of_answer(row: dict[str, Any], name: str, k: int) -> str | None:
    return _short(row[name][k]) if name in row else None


def _short(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"
