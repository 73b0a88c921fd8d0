"""TensorBoard: a run's figures, texts and pictures as event files in ``tensorboard/`` of its folder."""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from vqr1.config import Config, as_dict
from vqr1.picture_errors import open_content
from vqr1.provenance import versions
from vqr1.training.run_folder import RunFolder
from vqr1.training.sinks import Say, Table


class TensorboardSink:
    def __init__(self, writer: Any):
        self._writer = writer  # torch's SummaryWriter

    def figures(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def table(self, step: int, name: str, table: Table) -> None:
        self._writer.add_text(name, as_markdown(table), step)

    def pictures(self, step: int, name: str, captioned: Sequence[tuple[Path, str]]) -> None:
        """Each by itself, for they differ in size, as its file is; the captions as a text of the same name."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        for i, (path, _) in enumerate(captioned):
            content = path.read_bytes()
            with open_content(content) as picture:
                size = dict(zip(("width", "height"), picture.size, strict=True))
            encoded = Summary.Image(**size, colorspace=3, encoded_image_string=content)
            value = Summary.Value(tag=f"{name}/{i}", image=encoded)
            self._writer.file_writer.add_summary(Summary(value=[value]), step)
        said = Table(("picture", "caption"), [[f"{name}/{i}", text] for i, (_, text) in enumerate(captioned)])
        self._writer.add_text(name, as_markdown(said), step)


def as_markdown(table: Table) -> str:
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    rows = "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)
    return f"{_cell(table.note)}\n\n{rows}" if table.note else rows


def _cell(value: Any) -> str:
    """A value as a cell: no markup of a policy's answer has a meaning in it."""
    text = "" if value is None else html.escape(str(value))
    return "".join({"|": "&#124;", "\n": "<br>"}.get(letter, letter) for letter in text)


def _without_told(usual: Callable[[threading.ExceptHookArgs], Any]) -> Callable[[threading.ExceptHookArgs], None]:
    """Threads' ``usual`` stack, but not of TensorBoard's: it keeps the exception for the next call of its writer."""

    def hook(args: threading.ExceptHookArgs) -> None:
        if getattr(args.thread, "exception", None) is not args.exc_value:
            usual(args)

    return hook


def open_tensorboard(config: Config, folder: RunFolder, say: Say, ending: ExitStack) -> TensorboardSink:
    """A resumed run's figures are all written again: lines that it repeats would be in its event files twice."""
    from torch.utils.tensorboard import SummaryWriter

    place = folder.path / "tensorboard"
    for old in place.glob("events.out.tfevents.*"):
        old.unlink()
    writer = SummaryWriter(str(place))
    usual, threading.excepthook = threading.excepthook, _without_told(threading.excepthook)
    ending.callback(setattr, threading, "excepthook", usual)
    ending.callback(writer.close)
    for name, facts in {"run/config": as_dict(config), "run/versions": versions()}.items():
        indented = "".join(f"    {line}\n" for line in yaml.safe_dump(facts, sort_keys=False).splitlines())
        writer.add_text(name, indented, 0)
    return TensorboardSink(writer)
