"""What a command says on the screen while it works: stages, progress, figures. It goes to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from vqr1.config import ScreenKind
from vqr1.errors import printable

EVERY = 20.0  # seconds between the lines of a stage that has no bar


class Screen:
    """Lines and bars. ``shown``: whether this process is the one that speaks, of several."""

    def __init__(self, kind: ScreenKind, shown: bool):
        self._shown = shown
        self._quiet = kind is ScreenKind.quiet
        self._bars = kind is ScreenKind.bar or (kind is ScreenKind.auto and sys.stderr.isatty())
        self._training: Any = None  # the bar of the steps

    def say(self, line: str) -> None:
        """A warning or a result, however quiet. What is not printable in it, a name's escape sequence, is shown."""
        if self._shown:
            tqdm.write(printable(line, kept="\n"), file=sys.stderr)
            sys.stderr.flush()

    def note(self, line: str) -> None:
        """What is going on."""
        if not self._quiet:
            self.say(line)

    @contextmanager
    def count(self, stage: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """Say that a stage begins; the function that it gives is told how many more of ``total`` are done."""
        if not self._shown or self._quiet:
            yield lambda more: None
        elif self._bars:
            with tqdm(total=total, desc=printable(stage), unit=f" {unit}", file=sys.stderr, leave=False) as bar:
                yield lambda more: (bar.update(more), None)[1]
        else:
            self.say(stage)
            yield self._lines(total, unit)

    def _lines(self, total: int, unit: str) -> Callable[[int], None]:
        began = said = time.perf_counter()
        done = 0

        def advance(more: int) -> None:
            nonlocal done, said
            done += more
            now = time.perf_counter()
            if now - said >= EVERY and done < total:
                said, rate = now, done / (now - began)
                self.say(f"  {done} of {total} {unit}, {rate:.1f} a second, {duration((total - done) / rate)} left")

        return advance

    def step(self, step: int, steps: int, line: str) -> None:
        """What a training step came to: the state of the one bar, or a line."""
        if not (self._bars and self._shown and not self._quiet):
            self.note(line)
            return
        if self._training is None:
            self._training = tqdm(total=steps, file=sys.stderr, bar_format="|{bar:16}| {desc}", leave=True)
        self._training.set_description_str(line, refresh=False)
        self._training.n = step
        self._training.refresh()

    def close(self) -> None:
        """Leave the bar of the steps as it is."""
        if self._training is not None:
            self._training.close()
            self._training = None


def duration(seconds: float) -> str:
    """``40 s``, ``12 min`` or ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
