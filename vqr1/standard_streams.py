"""Streams that end no run: what cannot be written to stderr, or to a run's stdout, is lost, and not the run.

A reader of stderr that goes away, a full disk behind it, streams that are closed from the start.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without what loading typing costs
if TYPE_CHECKING:
    from typing import Any


class LastingStream:
    """A text stream that can be lost: once something cannot be written, all that follows goes nowhere."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError:
            self._lose()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._lose()

    def _lose(self) -> None:
        """Under the stream, so that what it still holds, and what libraries write, goes the same way."""
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, self._stream.fileno())
        except OSError:  # a stream without a file
            self._stream = open(os.devnull, "w")  # noqa: PTH123, SIM115 - to the end of the process
        finally:
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def outlast_stderr() -> None:
    """From here on nothing that is written to stderr raises OSError."""
    if not isinstance(sys.stderr, LastingStream):
        sys.stderr = LastingStream(sys.stderr)


def outlast_stdout() -> None:
    """The same for stdout, where what a command makes goes elsewhere."""
    if not isinstance(sys.stdout, LastingStream):
        sys.stdout = LastingStream(sys.stdout)


def open_streams() -> None:
    """Let a closed stream be one that goes nowhere, so that no file gets its number, nor what libraries write to it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def stdout_is_written() -> bool:
    """False where stdout takes no more: on a full disk, or a pipe that nobody reads, as behind ``| head``.

    From then on it goes nowhere, what it still holds too, which the interpreter would fail with at its end.
    """
    import select

    waiting = select.poll()
    waiting.register(1, 0)
    try:
        sys.stdout.flush()
        lost = any(event & select.POLLERR for _, event in waiting.poll(0))
    except OSError:
        lost = True
    if lost:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return not lost
