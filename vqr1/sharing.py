"""A command's pictures shared out over processes, one on each GPU: all rate, and the first alone speaks and writes.

On a machine with several GPUs the command starts itself again on each by accelerate, as ``vqr1 train`` does; under a
launcher (torchrun, accelerate launch, srun) it takes the ranks that it is given. Ranks meet at a store of torch and
form no process group, which vLLM forms for itself in each.
"""

from __future__ import annotations

import math
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vqr1.child_process import PLACE, SHARED, Starter, exit_code, report_failure, started_by_us
from vqr1.config import Launcher
from vqr1.errors import LaunchError, UserError
from vqr1.machine_choices import launched
from vqr1.packaged import packaged
from vqr1.slots import VISIBLE, visible_gpus

if TYPE_CHECKING:
    from torch.distributed import Store

PROGRAM = ("-m", "vqr1")  # of this interpreter: what is started on every GPU
FEW = 32  # pictures that are not worth another process, which loads the weights first
PATIENCE = 1800.0  # seconds that ranks wait for each other
ENDED = "ended"  # the key under which a rank that fails says so

T = TypeVar("T")
B = TypeVar("B")


def launch_command(launcher: Launcher, gpus: int, program: Sequence[str] = PROGRAM) -> list[str]:
    """The words before the command's: this interpreter, under accelerate where a launcher is asked for."""
    if launcher is Launcher.none:
        return [sys.executable, *program]
    configuration = packaged("launch") / "accelerate" / f"{launcher.value}.yaml"
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(configuration)]
    # 0: a free port, for another run may be on this machine.
    return [*accelerate, "--main_process_port", "0", "--num_processes", str(max(gpus, 1)), *program]


def start_ranks(
    command: str, words: Sequence[str], option: str, asked: int | None, each: int = 1, pictures: int | None = None
) -> int | None:
    """Do ``command`` with ``words`` in a process on each GPU and return its exit code; None: it is to be done here.

    ``asked``: the GPUs that the user wants, by an ``option`` such as ``gpus=``; None: all, but no more processes than
    ``pictures`` are worth. ``each``: GPUs of one process. Raises UserError for a number of GPUs that are not here,
    LaunchError where a process has failed.
    """
    if launched():
        if asked is not None and not started_by_us():
            raise UserError(
                f"{option}{asked}: a launcher has started this process and says how many there are; leave it out"
            )
        return None
    if asked is None and pictures is not None and pictures <= FEW:
        return None
    here = len(visible_gpus())
    if asked is not None and asked > here:
        raise UserError(f"{option}{asked}: there are {here} GPUs; give that or less, or leave it out to use all")
    if asked is not None and asked % each:
        raise UserError(f"{option}{asked}: tensor_parallel={each} GPUs share the weights; give a multiple of it")
    processes = (asked or here) // each
    if asked is None and pictures is not None:
        processes = min(processes, math.ceil(pictures / FEW))
    if processes <= 1:
        return None
    os.environ[SHARED] = "1"
    try:
        with Starter() as starter:
            ended = starter.run([*launch_command(Launcher.ddp, processes, PROGRAM), command, *words], ranks=True)
    finally:
        del os.environ[SHARED]
    if ended.line:
        raise LaunchError(
            f"one of {processes} processes has failed: {ended.line}; the same command goes on", ended.code
        )
    if starter.received is not None and ended.code:
        return 128 + starter.received
    return ended.code


@dataclass
class Ranks:
    """The processes that share a command. All must call the same methods in the same order; alone it is any process."""

    number: int = 0
    of: int = 1
    store: Store | None = None  # where they meet, with several
    calls: int = 0

    @property
    def first(self) -> bool:
        return self.number == 0

    def by_first(self, do: Callable[[], T]) -> T:
        """What ``do`` gives on the first, told to the others. Where it raises, they end."""
        key = self._key()
        if self.store is None:
            return do()
        if self.first:
            value = do()
            self._put(key, value)
            return value
        return pickle.loads(self._wait(key))  # noqa: S301 - of a process of this command, as torch gathers objects

    def first_before_others(self, do: Callable[[], T]) -> T:
        """What ``do`` gives on each, the first being done before the others begin. Where it raises there, they end."""
        if not self.first:
            self.by_first(lambda: None)
            return do()
        value = do()
        self.by_first(lambda: None)
        return value

    def gathered(self, value: T) -> list[T]:
        """On the first the values of all in order, as soon as they are there; empty on the others, which go on."""
        key = self._key()
        if self.store is None:
            return [value]
        if not self.first:
            self._put(f"{key}/{self.number}", value)
            self._raise_if_ended()
            return []
        values = [value]
        for other in range(1, self.of):
            values.append(pickle.loads(self._wait(f"{key}/{other}")))  # noqa: S301 - as above
            self.store.delete_key(f"{key}/{other}")
        return values

    def at_once(self, pictures: int, most: int) -> int:
        """Pictures of a batch: ``most``, or fewer so that every process has a part."""
        return max(1, min(most, math.ceil(pictures / self.of)))

    def shared(self, batches: Sequence[B], work: Callable[[Sequence[B]], Iterator[T]]) -> Iterator[T]:
        """On the first what ``work`` makes of each batch, in order, as it comes; nothing on the others.

        ``work`` is given this process's batches, every ``of``-th, and makes something of one after the other.
        """
        made = work(batches[self.number :: self.of])
        for start in range(0, len(batches), self.of):
            mine = next(made) if start + self.number < len(batches) else None
            yield from self.gathered(mine)[: len(batches) - start]  # type: ignore[misc]

    def exit_code(self, code: int) -> int:
        """What this process ends with after its work: the command that started it is told ``code``, its launcher 0.

        A launcher would take 1 (some pictures have no score) for a failure.
        """
        if not self.first:
            return 0
        if code:
            report_failure(code, "")
        return exit_code(code)

    def _key(self) -> str:
        self.calls += 1
        return f"call {self.calls}"

    def _put(self, key: str, value: object) -> None:
        assert self.store is not None
        self.store.set(key, pickle.dumps(value))  # type: ignore[arg-type]  # it takes bytes, too

    def _wait(self, key: str) -> bytes:
        """What is under ``key``, once it is. Asks again and again: torch's own waiting would not hear of Ctrl-C."""
        assert self.store is not None
        end = time.monotonic() + PATIENCE
        while not self.store.check([key]):
            self._raise_if_ended()
            if time.monotonic() > end:
                raise LaunchError(f"another process has not come within {PATIENCE:g} s; the same command goes on", 1)
            time.sleep(0.02)
        return self.store.get(key)

    def _raise_if_ended(self) -> None:
        """Where another process has failed: LaunchError on the first, the end on the others."""
        assert self.store is not None
        if not self.store.check([ENDED]):
            return
        if not self.first:
            sys.exit(exit_code(1))
        who = self.store.get(ENDED).decode()
        raise LaunchError(f"{who} of {self.of} has failed and says why; the same command goes on", 1)


@contextmanager
def joined(each: int = 1) -> Iterator[Ranks]:
    """The ranks of this command, once all are here; each sees ``each`` GPUs of its own, and only the first is heard.

    Raises UserError for a rank that does not come, a port that is taken, and a rank without a GPU where there are some.
    """
    world = int(os.environ.get("WORLD_SIZE") or 1) if launched() else 1
    if world == 1:
        yield Ranks()
        return
    from torch.distributed import DistError

    number, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    with ExitStack() as quiet:
        if number:
            nowhere = quiet.enter_context(Path(os.devnull).open("w"))
            quiet.enter_context(redirect_stdout(nowhere))
            quiet.enter_context(redirect_stderr(nowhere))
        take_gpus(local, each)
        ranks = Ranks(number, world, _store(number, world))
        _forget_place()
        try:
            yield ranks
            ranks.gathered(None)  # the first, which may have the store, stays until the others have done with it
        except DistError:
            if ranks.first:
                raise
            sys.exit(exit_code(1))  # the first has ended, and has said why
        except BaseException:
            _say_ended(ranks)
            raise


def take_gpus(local: int, each: int) -> None:
    """Leave this process, the ``local``-th on its machine, ``each`` GPUs: all there are to it, for any library.

    Before torch looks at any. Without effect where there is none.
    """
    gpus = visible_gpus()
    mine = gpus[local * each : (local + 1) * each]
    if gpus and len(mine) < each:
        raise UserError(
            f"LOCAL_RANK={local} needs {each} of its own of {len(gpus)} visible GPUs; start {len(gpus) // each} "
            "processes on this machine, and let each see all its GPUs"
        )
    if gpus:
        os.environ[VISIBLE] = ",".join(mine)


def _store(number: int, world: int) -> Any:
    from datetime import timedelta

    from torch.distributed import PrefixStore, rendezvous

    from vqr1.meeting import meet_by_themselves

    store = meet_by_themselves(world, PATIENCE)
    if store is None:  # torchrun's, which is at its agent
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=PATIENCE)))
    return PrefixStore("vqr1", store)


def _forget_place() -> None:
    """Take away what tells of ranks, but for RANK: vLLM would join them, or look for its own ranks at torchrun's."""
    for name in list(os.environ):
        if (name in PLACE and name != "RANK") or name.startswith("TORCHELASTIC_"):
            del os.environ[name]


def _say_ended(ranks: Ranks) -> None:
    from torch.distributed import DistError

    assert ranks.store is not None
    try:
        if not ranks.store.check([ENDED]):
            ranks.store.set(ENDED, f"process {ranks.number}")
    except DistError:  # the one that has the store is gone
        return
