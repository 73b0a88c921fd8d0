"""The ranks of a run watch each other: one that stalls ends the run within ``trainer.ddp_timeout``, and is named.

gloo and NCCL know only that an operation took too long, and say so on the ranks that are well. So each rank tells the
others, through the store that they met at, that it lives and how many collective operations it has begun. The others
wait for the one that has begun the fewest.

Two threads, for the store may be on the rank that has stalled: one talks to it, the other looks at what was heard.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d

from vqr1.child_process import exit_code, report_failure, speaker
from vqr1.errors import OtherRankError, StoppedError, UserError, show

FRAMES = 8  # of a stack in a message, the innermost
# NCCL's words for what is of the rank that says them: its GPU's memory, a defect.
OWN = ("ncclUnhandledCudaError", "ncclInternalError", "ncclInvalidArgument", "ncclInvalidUsage")
LEFT = 10.0  # seconds in which a rank ends by itself once another has failed


@dataclass
class Heard:
    """What a rank has said last, and when it changed by the listener's clock, in seconds."""

    said: dict[str, Any]
    lived: float  # when it last said anything
    moved: float  # when it last said that it had begun another operation


def awaited(heard: Sequence[Heard], now: float, seconds: float) -> list[int]:
    """The ranks that the others have waited for ``seconds``; empty while nobody waits for anybody that long.

    Those that say nothing, otherwise, where none has gone on, those that have begun fewer operations than another.
    """
    if silent := [rank for rank, each in enumerate(heard) if now - each.lived >= seconds]:
        return silent
    if any(now - each.moved < seconds for each in heard):
        return []
    most = max(each.said["begun"] for each in heard)
    return [rank for rank, each in enumerate(heard) if each.said["begun"] < most]


def period(seconds: float) -> float:
    """Seconds between two looks, for ranks that wait ``seconds``."""
    return min(5.0, max(0.1, seconds / 20))


def operations_timeout(seconds: float) -> timedelta:
    """Of a group whose ranks wait ``seconds`` by what this module does: it is to speak first."""
    return timedelta(seconds=seconds + 6 * period(seconds) + 5)


def lost_connection(error: BaseException | None) -> bool:
    """Whether this says of another rank that it has ended or does not answer. gloo's errors are only text."""
    while error is not None:
        text = str(error)
        if isinstance(error, dist.DistError) and not any(word in text for word in OWN):
            return True
        if "/gloo/transport/" in text and "enforce fail" not in text:
            return True
        error = error.__cause__
    return False


def _connected() -> dist.Store:
    """The store that the ranks met at, by a connection of its own: another thread may wait for long in the first."""
    store = distributed_c10d._get_default_store()
    return dist.PrefixStore("vqr1/watch", store.clone())  # type: ignore[attr-defined]


class RankWatch:
    """Of a run on several ranks, while it is open; with one rank it does nothing.

    ``seconds``: how long ranks wait for each other. ``go_on``: what a message ends with; a text, for to look whether
    there is a folder could stall. ``step``: in which step this rank is, once there are any.
    """

    def __init__(self, seconds: float, go_on: str):
        self.go_on = go_on
        self.step: Callable[[], int] | None = None
        self._seconds = seconds
        self._several = dist.is_initialized() and dist.get_world_size() > 1
        self._closed = threading.Event()
        self._failed: float | None = None  # when another rank was heard to have failed
        self._threads: list[threading.Thread] = []
        if not self._several:
            return
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        self._store = _connected()
        self._own = {"host": socket.gethostname(), "process": os.getpid(), "parent": os.getppid()}
        self._main = threading.main_thread().ident
        self._beats = 0
        self._heard: dict[int, Heard] = {}
        self._talked = time.monotonic()  # when all was last heard
        self._timed: set[Any] = set()  # groups whose timeout has been set

    def __enter__(self) -> RankWatch:
        if self._several:
            self._threads = [threading.Thread(target=each, daemon=True) for each in (self._talk, self._look)]
            for thread in self._threads:
                thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._closed.set()
        for thread in self._threads:
            thread.join(2)  # the store may not answer

    def instead(self, error: Exception) -> Exception:
        """What this rank ends with for ``error``, so that each cause is told once, by the rank that has it."""
        if not self._several:
            return error
        if isinstance(error, OtherRankError):
            time.sleep(1)  # as below
            return error
        lost = lost_connection(error)
        if not self._failure():
            if isinstance(error, StoppedError):
                self._put("stopped", error.signal)
            elif lost and (signal := self._put("stopped")):  # it reached that one alone, or first
                return StoppedError(f"stopped by {signal} on another rank; {self.go_on}", signal)
        text = "another rank was lost" if lost else str(error)
        if isinstance(error, StoppedError):  # perhaps by a launcher that ends all because one has failed
            first = self._failure()
        else:
            first = self._failure(f"{self._rank} {text}")
        if first == f"{self._rank} {text}":
            if not lost:
                return error
            return UserError(
                "another rank has ended without a message: it was killed, for want of memory perhaps (what started the "
                f"ranks names the signal), or its machine is gone; {self.go_on}"
            )
        if lost or (first and (isinstance(error, StoppedError) or first.split(" ", 1)[1] == text)):
            time.sleep(1)  # the first says it before a launcher, which sees this one end, ends that
            return OtherRankError()
        return error

    def _failure(self, own: str = "") -> str:
        """Rank and words of the first that has failed, ``own`` if none has; empty where the store has ended too."""
        return self._put("failed", own)

    def _put(self, key: str, own: str = "") -> str:
        """What a rank has first put there, ``own`` if none has; empty where there is none, or no store any more."""
        try:
            if own:
                return self._store.compare_set(key, "", own).decode(errors="replace")
            return self._store.get(key).decode(errors="replace") if self._store.check([key]) else ""
        except dist.DistError:
            return ""

    def _talk(self) -> None:
        """Say that this rank lives, and hear the others, until the watch is closed or the store ends.

        The last word of a rank is that it has closed its watch: from then on the others wait for nobody, for it may
        have ended well before them.
        """
        talked = None
        try:
            while talked != self._talked:  # it was well, and a connection broke perhaps
                talked = self._talked
                try:
                    self._converse()
                    break
                except dist.DistError:
                    self._store = _connected()
            else:
                return
        except dist.DistError:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, the run is well
            self._closed.set()
            show(f"warning: rank {self._rank} watches the others no more: {error!r}", file=sys.stderr, flush=True)
        with suppress(dist.DistError):
            last = {**self._own, "beat": self._beats + 1, "begun": 0, "step": 0, "closed": True}
            self._store.set(str(self._rank), json.dumps(last))

    def _converse(self) -> None:
        keys = [str(rank) for rank in range(self._world)]
        wait = period(self._seconds)
        while not self._closed.wait(wait):
            self._store.set(keys[self._rank], json.dumps(self._words()))
            for rank, key in enumerate(keys):
                if rank in self._heard or self._store.check([key]):
                    self._hear(rank, json.loads(self._store.get(key)))
            if self._failed is None and self._store.check(["failed"]):
                self._failed = time.monotonic()
            self._talked = time.monotonic()

    def _words(self) -> dict[str, Any]:
        self._beats += 1
        begun = self._begun()
        words = {**self._own, "beat": self._beats, "begun": begun, "step": self.step() if self.step else 0}
        own = self._heard.get(self._rank)
        behind = any(each.said["begun"] > begun for each in list(self._heard.values()))
        if own and behind and time.monotonic() - own.moved >= self._seconds / 2:
            frame = sys._current_frames().get(self._main or 0)
            words["stack"] = "".join(traceback.format_stack(frame)[-FRAMES:])
        return words

    def _begun(self) -> int:
        """Collective operations of all groups of all ranks, DeepSpeed's too, which keep their own timeout otherwise.

        A backend that counts none (one put together of several, say) adds nothing: of its ranks only those are found
        that say nothing.
        """
        groups = [group for group in list(distributed_c10d._world.pg_map) if group.size() == self._world]
        for group in groups:
            if group not in self._timed:
                distributed_c10d._set_pg_timeout(operations_timeout(self._seconds), group)
                self._timed.add(group)
        begun = 0
        for group in groups:
            with suppress(RuntimeError):
                begun += group._get_sequence_number_for_group()  # type: ignore[attr-defined]
        return begun

    def _hear(self, rank: int, said: dict[str, Any]) -> None:
        now = time.monotonic()
        known = self._heard.get(rank)
        if known is None:
            self._heard[rank] = Heard(said, now, now)
            return
        if said["beat"] != known.said["beat"]:
            known.lived = now
        if said["begun"] != known.said["begun"]:
            known.moved = now
        known.said = said

    def _look(self) -> None:
        wait = period(self._seconds)
        before = time.monotonic()
        while not self._closed.wait(wait):
            now = time.monotonic()
            if now - before >= self._seconds / 2:  # this process was stopped itself: what it has heard is old
                self._talked = now
                for each in list(self._heard.values()):
                    each.lived = each.moved = now
            before = now
            if self._failed is not None and now - self._failed > LEFT:
                self._end()
            if len(self._heard) < self._world:
                continue
            heard = [self._heard[rank] for rank in range(self._world)]
            if any("closed" in each.said for each in heard):
                continue
            if late := awaited(heard, self._talked, self._seconds):
                self._end_for(late, heard)
            elif now - self._talked >= self._seconds + 2 * wait:
                self._end_without_store(heard, now - self._talked)

    def _end_for(self, late: list[int], heard: list[Heard]) -> None:
        """The first of those that wait speaks; the others let it, and what started them end them."""
        first = min(set(range(self._world)) - set(late), default=0)
        if self._rank != first:
            time.sleep(3 * period(self._seconds) + 1)
            if awaited(heard, self._talked, self._seconds):  # not so where one has just gone on
                self._end()
            return
        step = max(each.said["step"] for each in heard)
        self._end("\n".join(self._told(rank, heard[rank], step) for rank in late) + f"\n{self.go_on}", late)

    def _told(self, rank: int, heard: Heard, step: int) -> str:
        said = heard.said
        who = f"rank {rank} ({said['host']}, process {said['process']})"
        waited = f"the others waited for it{f' in step {step}' if step else ''} (trainer.ddp_timeout={self._seconds:g})"
        if self._talked - heard.lived >= self._seconds:
            return (
                f"{who} has not answered for {self._talked - heard.lived:.0f} s, and {waited}. It was stopped, or its "
                "machine hangs or swaps: look at it there"
            )
        stood = f"{who} has not gone on for {self._talked - heard.moved:.0f} s, and {waited}"
        return f"{stood}. It is at\n{said['stack'].rstrip()}" if said.get("stack") else stood

    def _end_without_store(self, heard: list[Heard], seconds: float) -> None:
        """The store does not answer, so that nothing is known of anyone."""
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            whose = f"the launcher at {place}, through which ranks hear of each other,"
            late: list[int] = []
        else:
            whose, late = f"rank 0 ({heard[0].said['host']}, process {heard[0].said['process']})", [0]
        if self._rank != len(late):  # the first of the others speaks
            time.sleep(3 * period(self._seconds) + 1)
            if time.monotonic() - self._talked < self._seconds:
                return
        self._end(
            f"{whose} has not answered for {seconds:.0f} s (trainer.ddp_timeout={self._seconds:g}). It was stopped, or "
            f"its machine hangs or swaps: look at it there\n{self.go_on}",
            late,
            tell=False,
        )

    def _end(self, message: str = "", late: Sequence[int] = (), tell: bool = True) -> None:
        """Say it and end this process from here: its main thread waits in a library. Ends those that stalled too.

        Without a message another rank has said why.
        """
        if self._closed.is_set():  # it has begun to end by itself
            return
        with suppress(OSError, ValueError):  # nobody reads it, it is closed
            show(f"\n{speaker('train')}: {message or OtherRankError()}", file=sys.stderr, flush=True)
        if message:
            report_failure(UserError.exit_code, message)
        if late and tell:
            self._failure(f"{self._rank} {message.splitlines()[0]}")
        for rank in late:
            self._kill(self._heard[rank].said)
        os._exit(exit_code(UserError.exit_code))

    def _kill(self, said: dict[str, Any]) -> None:
        """A rank that stalled here, of the same launcher; a process that is stopped takes no other signal."""
        if said["host"] != self._own["host"] or said["process"] == self._own["process"]:
            return
        with suppress(OSError):  # it has ended, or is in another container
            state = Path(f"/proc/{said['process']}/stat").read_text()
            parent = int(state.rpartition(")")[2].split()[1])
            if parent == said["parent"] == self._own["parent"]:
                os.kill(said["process"], signal.SIGKILL)
