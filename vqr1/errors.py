"""What the command line reports in one message. Every other exception is a defect and keeps its stack."""

from __future__ import annotations

import errno
import os
import sys

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without what loading typing costs
if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import TextIO


LONGEST = 1500  # characters of a line of a message


def printable(text: str, kept: str = "") -> str:
    """``text`` with what is not printable as ``repr`` writes it, so that no name can steer a terminal.

    ``kept`` stays as it is.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else repr(c)[1:-1] for c in text)


def show(*lines: object, end: str = "\n", file: TextIO | None = None, flush: bool = False) -> None:
    """Print each of ``lines``. All that a command says goes through here or through vqr1.screen (ruff's T20).

    Names of pictures, sets, runs and models, titles, and what a chat template raises are others' texts: what of them is
    not printable is shown as an escape and steers no terminal. New lines and tabs stay.
    """
    text = "\n".join(printable(str(line), kept="\n\t") for line in lines)
    print(text, end=end, file=file, flush=flush)


def show_stack(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A defect's stack on stderr, in place of Python's own sys.excepthook, which writes messages as they are."""
    import traceback

    show("".join(traceback.format_exception(kind, error, trace)), end="", file=sys.stderr)


class UserError(ValueError):
    """What the user can put right: the message names the value that is wrong and the remedy.

    A value of a file may be of any length. Of a line of more than LONGEST characters the beginning, which is the place,
    and the end, the remedy, are kept. A library's words may name an object by its place in memory, which is another in
    each process: it is left out, for the files of several ranks are to be those of one.
    """

    exit_code = 2

    def __str__(self) -> str:
        return "\n".join(map(_fitting, printable(_placeless(super().__str__()), kept="\n\t").split("\n")))


def _placeless(text: str) -> str:
    if " at 0x" not in text:
        return text
    import re

    return re.sub(r" at 0x[0-9a-fA-F]+(?=>)", "", text)


def _fitting(line: str) -> str:
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 503]}...{line[-500:]}"


class MissingFileError(FileNotFoundError, UserError):
    """A file or folder that the user has to provide."""

    __str__ = UserError.__str__  # and not the error number's


class LaunchError(UserError, RuntimeError):
    """A process that was started has failed, and has said itself why; its exit code becomes the command's."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code if 0 < exit_code < 256 else 1


class StoppedError(UserError):
    """A signal has ended the run, which the same command goes on with. The code is EX_TEMPFAIL: try again later."""

    exit_code = 75

    def __init__(self, message: str, signal: str):
        super().__init__(message)
        self.signal = signal  # its name


class OtherRankError(UserError):
    """A rank of several that ends because another has, which reports why."""

    def __init__(self) -> None:
        super().__init__("another rank has ended; its message is above")


# What lowers the memory that a command needs, the cheapest first.
LESS_MEMORY = {
    "train": (
        "trainer.answers_per_device (fewer answers in one pass)",
        "policy.gradient_checkpointing=true",
        "rollout.vllm.memory_share (vLLM's part of each GPU) or rollout.vllm.sleep=true",
        "policy.max_pixels and rollout.max_tokens",
        "evaluation.batch (where it happens in an evaluation)",
        "policy.tuning=lora",
    ),
    "rate": ("--batch", "--max-pixels"),
    "ask": ("--batch", "--max-pixels"),
    "evaluate": ("batch", "memory_share (vLLM's part of the GPU)", "max_pixels", "tensor_parallel (with vLLM)"),
}
# As torch (GPU and CPU) and vLLM word it. The types are not imported: torch takes seconds.
_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "gpu memory utilization", "cache blocks")


def memory_advice(command: str, error: BaseException) -> str | None:
    """The settings that lower the memory of ``command``; None where ``error`` is not about memory."""
    cause: BaseException | None = error
    while cause is not None:
        names = {kind.__name__ for kind in type(cause).__mro__}
        if names & {"MemoryError", "OutOfMemoryError"} or (
            names & {"RuntimeError", "ValueError"} and any(word in str(cause).lower() for word in _WORDS)
        ):
            break
        cause = cause.__cause__ or cause.__context__
    settings = LESS_MEMORY.get(command)
    if cause is None or settings is None:
        return None
    return f"vqr1 {command}: memory ran out. Lower the need with\n  " + "\n  ".join(settings)


# As torch and safetensors word that a file could not be written. They do not say which, and raise no OSError.
_UNWRITTEN = ("inline_container", "PytorchStreamWriter", "(os error")
_FULL = (errno.ENOSPC, errno.EDQUOT)
# Of a write to a file, which names none. Others that name none are of connections, addresses, processes.
_UNNAMED = (*_FULL, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE)


def file_trouble(error: BaseException, folder: Path | str) -> str | None:
    """Which file could not be read or written and why, with the free space where it is; None for any other error.

    So is that no process or thread can be started, for one may read or write. ``folder`` is what was written to, for
    errors that name no file.
    """
    if _is_of_processes(error):
        import resource

        most = resource.getrlimit(resource.RLIMIT_NPROC)[0]
        limit = f"may have {most:,} (ulimit -u)" if most >= 0 else "may have any number (ulimit -u)"
        return (
            f"no more processes or threads can be started: the user {limit}, and a queue or container may allow fewer "
            "(pids.max of its control group); raise the limit, or end what else runs"
        )
    if isinstance(error, OSError):
        if error.errno == errno.ENOMEM:  # memory_advice
            return None
        if error.errno is None or (error.filename is None and error.errno not in _UNNAMED):  # a library's own words
            return str(error)
        path, why = str(error.filename or folder), error.strerror or str(error)
        full = error.errno in _FULL
    elif isinstance(error, Exception) and any(word in str(error) for word in _UNWRITTEN):
        path, why, full = str(folder), f"could not be written: {error}", True
    else:
        return None
    return f"{path}: {why} ({_free(path)}){'; free some space' if full else ''}"


def _is_of_processes(error: BaseException) -> bool:
    """Whether one could not be started, as Python words it for threads, and os.fork answers."""
    forked = isinstance(error, BlockingIOError) and error.errno == errno.EAGAIN and error.filename is None
    return forked or (isinstance(error, RuntimeError) and str(error) == "can't start new thread")


def _free(path: str) -> str:
    """The space that is left on the file system of ``path``, which may not be there itself."""
    import shutil

    try:
        place = os.path.abspath(path)  # noqa: PTH100 - pathlib takes long to import
    except FileNotFoundError:  # the working folder is gone
        return "free space unknown"
    while True:
        try:
            return f"{shutil.disk_usage(place).free:,} bytes free"
        except OSError:
            if place == os.path.dirname(place):  # noqa: PTH120
                return "free space unknown"
            place = os.path.dirname(place)  # noqa: PTH120
