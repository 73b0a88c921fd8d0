"""What the command line reports in one message. Every other exception is a defect and keeps its stack."""

from __future__ import annotations


def printable(text: str, kept: str = "") -> str:
    """``text`` with what is not printable as ``repr`` writes it, so that no name can steer a terminal.

    ``kept`` stays as it is.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else repr(c)[1:-1] for c in text)


class UserError(ValueError):
    """What the user can put right: the message names the value that is wrong and the remedy."""

    exit_code = 2

    def __str__(self) -> str:
        return printable(super().__str__(), kept="\n\t")


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
