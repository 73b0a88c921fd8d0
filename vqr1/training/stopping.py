"""SIGTERM and SIGUSR1 in a training process, as queues send them: what was learnt is saved, and the run can go on.

- Until the first step begins, and once training has ended, nothing can be lost: the process ends at once.
- In a step: it is finished and saved, with those that learn from the same generation batch.
- In an evaluation: it is left before its next batch, and a resumed run repeats it. One between steps that learn from
  one generation batch is finished.

Steps and batches are the places where all ranks agree, for the signal reaches them at different times, or one only.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vqr1.errors import StoppedError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# A queue may signal all processes of a job, and a launcher among them passes it on: one stop, sent more than once.
REPEATED = 5.0  # seconds


class StopNow(BaseException):
    """Raised by the handler wherever the process is. No Exception, which libraries catch."""

    def __init__(self, number: int):
        self.signal = signal.Signals(number)
        super().__init__(self.signal.name)


class StopSignals:
    """While it is open, a signal raises :class:`StopNow` or, from ``defer`` to ``at_once``, waits to be asked for.

    A second SIGTERM, more than 5 seconds after the first, ends the process at once, as it does without a handler.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._deferred = False
        self._terminated: float | None = None  # when the first SIGTERM came
        self._process = os.getpid()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # Python allows no other to do so
            for each in SIGNALS:
                if signal.getsignal(each) is not signal.SIG_IGN:
                    self._before[each] = signal.signal(each, self._receive)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def defer(self) -> None:
        """From now on there is something to save."""
        self._deferred = True

    def at_once(self) -> None:
        """From now on there is nothing to save. Raises StopNow where a signal is waiting."""
        self._deferred = False
        if self.received is not None:
            raise StopNow(self.received)

    def agreed(self) -> signal.Signals | None:
        """The signal that any rank has received, while they are deferred. Collective."""
        if not self._deferred:
            return None
        state = PartialState()
        if state.num_processes == 1:
            return self.received
        number = torch.tensor(self.received or 0, device=state.device)
        torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
        return signal.Signals(found) if (found := int(number)) else None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a worker that was forked: its parent decides, and may end it
            if number == signal.SIGTERM:
                _end(number)
            return
        first = self.received is None
        if number == signal.SIGTERM:
            now = time.monotonic()
            if self._terminated is not None and now - self._terminated > REPEATED:
                _end(number)
            self._terminated = self._terminated or now
        self.received = self.received or signal.Signals(number)
        if first and not self._deferred:
            raise StopNow(number)


def _end(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def begin_worker(begin: Callable[[int], None] | None, number: int) -> None:
    """First in a process that loads pictures: a signal to all of a job is its rank's, which needs it until it saves."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    if begin is not None:
        begin(number)


def end_workers() -> None:
    """Kill the processes that load pictures: one that is stopped, or waits for a file, ends by nothing else."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise that they were killed
    for process in multiprocessing.active_children():
        process.kill()


class StopCallback(TrainerCallback):
    """Ends training where :class:`StopSignals` say so, by StoppedError. To be the first of a trainer's callbacks."""

    def __init__(self, signals: StopSignals, updates: int):
        """``updates``: steps that learn from one generation batch. TRL saves no half-used one: a run that is resumed
        within would draw other answers, and learn from each batch in other steps than before."""
        self._signals = signals
        self._updates = updates
        self._may_save = True
        self._stopping: signal.Signals | None = None

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._stop_if_saved()
        self._signals.defer()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._may_save = state.global_step % self._updates == 0
        self._stopping = self._signals.agreed() if self._may_save else None
        if self._stopping is not None:
            control.should_save = True

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._stop_if_saved()
        self._may_save = True

    def before_batch(self) -> None:
        """Of an evaluation. Collective."""
        if self._may_save and (found := self._signals.agreed()) is not None:
            raise StoppedError(f"stopped by {found.name} in an evaluation, which is repeated", found.name)

    def _stop_if_saved(self) -> None:
        if self._stopping is not None:
            raise StoppedError(f"stopped by {self._stopping.name}", self._stopping.name)
