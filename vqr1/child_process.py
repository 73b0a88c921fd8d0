"""Processes that a command starts: signals reach them, they end with their parent, and they say why they failed.

- Each is a session of its own, so that Ctrl-C in a terminal reaches it once, through its parent.
- A parent that is killed takes them along (Linux: PR_SET_PDEATHSIG). This file, run as a script, sets that and becomes
  the program; a hook between fork and exec would be unsafe beside threads. The ranks of a launcher, which are its
  children, set it themselves as they start.
- A command that fails writes its exit code and one line into a file, for launchers turn every exit code into 1.

Only the standard library is imported, and little of it: this file runs before every process that is started.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without what loading typing costs
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import FrameType, TracebackType
    from typing import Any

PARENT = "VQR1_PARENT"  # the process whose end is that of the processes it starts
FAILURE = "VQR1_FAILURE"  # the file that a failing command writes into
SHARED = "VQR1_SHARED"  # set for processes that tell each other when one fails (vqr1.sharing)
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
INTERRUPTED = 130  # as shells have it for SIGINT
STOPPED = 75  # EX_TEMPFAIL: stopped by a signal, the same command goes on
# What tells a process its place among others: a launcher's to its ranks, a cluster's to its pods.
PLACE = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK"),
    *("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"),
)


class Ended:
    """How a process ended: its exit code (128 + N where signal N killed it), and the line it left where it failed.

    The line is empty where nobody needs to be told, since the process has ended by itself (:func:`exit_code`).
    """

    def __init__(self, code: int, line: str):
        self.code = code
        self.line = line


class Starter:
    """Starts one process at a time and, while it is open, passes SIGTERM, SIGINT and SIGUSR1 on to it.

    ``received`` is the first signal that came, also where no process was running.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._running: int | None = None
        self._ranks = False
        self.told: Callable[[], None] | None = None  # called for each signal, too
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Starter:
        for each in PASSED_ON:
            if signal.getsignal(each) is not signal.SIG_IGN:  # nohup, or a shell's background
                self._before[each] = signal.signal(each, self._pass_on)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def take(self, number: signal.Signals) -> None:
        """Pass ``number``, which processes of ours do not know, on as SIGUSR1."""
        self._before[number] = signal.signal(number, self._pass_on)

    def run(self, command: Sequence[str], ranks: bool = False, output: Path | None = None) -> Ended:
        """Start ``command`` and wait for its end. ``ranks``: it is a launcher, and signals are for its children.

        A launcher gives its ranks 30 seconds to end when it is told to; they may need longer to save. ``output``: the
        file that what it says is appended to.
        """
        import subprocess
        import tempfile
        from contextlib import ExitStack
        from pathlib import Path

        with tempfile.TemporaryDirectory(prefix="vqr1-") as folder, ExitStack() as opened:
            said = opened.enter_context(output.open("ab")) if output else None
            failure = Path(folder) / "failure"
            environment = {key: value for key, value in os.environ.items() if key not in PLACE}
            environment[FAILURE] = str(failure)
            words = [sys.executable, "-I", __file__, str(os.getpid()), *command]
            process = subprocess.Popen(words, env=environment, start_new_session=True, stdout=said, stderr=said)
            self._running, self._ranks = process.pid, ranks
            if self.received is not None:  # while it was being started
                self._pass_on(self.received, None)
            code = process.wait()
            self._running = None
            code = code if code >= 0 else 128 - code
            left = failure.read_text(errors="replace").split(" ", 1) if failure.is_file() else []
        if len(left) == 2 and left[0].isdecimal():  # a full disk, or a kill, leaves less
            return Ended(int(left[0]), left[1] if code else "")  # 0: it has said all itself
        if code and self.received is not None:
            return Ended(INTERRUPTED if self.received is signal.SIGINT else STOPPED, "")
        return Ended(code, killed_by(code) if code else "")

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number)
        if self.told is not None:
            self.told()
        if self._running is None:
            return
        number = number if number in PASSED_ON else signal.SIGUSR1
        ranks = _children(self._running) if self._ranks else []
        for process in ranks or [self._running]:
            try:
                os.kill(process, number if ranks or not self._ranks else signal.SIGTERM)
            except ProcessLookupError:
                continue  # it has ended by itself


def _children(process: int) -> list[int]:
    """Empty where the system has no /proc."""
    from pathlib import Path

    found = []
    for file in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            found += [int(word) for word in file.read_text().split()]
        except OSError:  # the thread, or the process, has just ended
            continue
    return found


def killed_by(code: int) -> str:
    """What an exit code says by itself."""
    try:
        return f"killed by {signal.Signals(code - 128).name}"
    except ValueError:
        return f"exit code {code}"


def started_by_us() -> bool:
    return FAILURE in os.environ


def speaker(command: str) -> str:
    """What a message of ``vqr1 COMMAND`` begins with: of several ranks, which it is."""
    several = os.environ.get("WORLD_SIZE", "1") not in ("", "1") and "RANK" in os.environ
    return f"vqr1 {command} (rank {os.environ['RANK']})" if several else f"vqr1 {command}"


def report_failure(code: int, message: str) -> None:
    """Leave exit code and first line for the process that started this one. The first of several ranks is the cause.

    Nothing is left where the disk is full: what the command says itself is not to be lost for it.
    """
    from contextlib import suppress

    path = os.environ.get(FAILURE)
    if not path:
        return
    line = next((line for line in message.splitlines() if line.strip()), "").strip()
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError:  # another rank was first, or the parent is gone
        return
    with suppress(OSError):
        os.write(file, f"{code} {line}".encode(errors="replace"))
    os.close(file)


def end_with_parent() -> None:
    """In a process that vqr1 or a launcher of ranks started: be killed when the parent is. Without effect in any other.

    Ranks of torchrun and accelerate launch would train on unwatched, and a queue take their devices for free.
    """
    parent = os.environ.pop(PARENT, "") or (str(os.getppid()) if "TORCHELASTIC_RUN_ID" in os.environ else "")
    if parent and int(parent) != os.getpid():
        end_with(int(parent))


def end_with(parent: int) -> None:
    """Be killed when the thread that started this process ends. Linux only."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() == parent:
        return
    try:
        os.kill(parent, 0)
    except ProcessLookupError:  # it ended before the call above
        sys.exit(128 + signal.SIGKILL)


def exit_code(code: int) -> int:
    """What a command ends with that has failed with ``code`` and left that for its parent (:func:`report_failure`).

    0 for one of several processes that end together (:data:`SHARED`): their launcher would add a stack of its own.
    """
    return 0 if SHARED in os.environ and started_by_us() else code


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    # submitit's process takes it, but Slurm may send it to all of the job.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    os.environ[PARENT] = str(os.getpid())
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - the words that the Starter above gave
