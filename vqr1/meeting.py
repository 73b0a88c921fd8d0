"""The parts of a run that are started each by itself meet before it begins, and one that does not come is named.

torch too waits for all of them, but says only how many it has counted. ``python -m vqr1.meeting NODE NODES HOST PORT
SECONDS`` is the meeting of a run's nodes (launch/node.sh); where ranks are started without torchrun (srun), they meet
in :func:`meet_by_themselves`.
"""

from __future__ import annotations

import os
import socket
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

from vqr1.errors import UserError, show

if TYPE_CHECKING:
    from torch.distributed import TCPStore


def meet(number: int, of: int, host: str, port: int, seconds: float, part: str) -> TCPStore:
    """Wait until all ``of`` parts are here, of which this is the one with ``number``; the first listens at the port.

    ``part`` is what they are called, node or rank. Returns the store that they met at; as long as it lives, torch's
    own start in this process listens at the same port with it. Raises UserError for a port that is taken, and
    where after ``seconds`` some part has not come.
    """
    from torch.distributed import DistError, TCPStore

    place, wait = f"{host}:{port}", timedelta(seconds=seconds)
    keys = [f"vqr1/{part}/{i}" for i in range(of)]
    try:
        store = TCPStore(host, port, is_master=number == 0, timeout=wait, wait_for_workers=False, multi_tenant=True)
    except DistError as error:
        if number == 0:
            raise UserError(
                f"MASTER_PORT={port} cannot be listened at on {socket.gethostname()}: another process, of an earlier "
                "run perhaps, has it; end that or give another MASTER_PORT (to every node)"
            ) from error
        raise UserError(
            f"{part} 0 of {of} did not come to {place} within {seconds:g} s; start it, or put MASTER_ADDR and "
            "MASTER_PORT right"
        ) from error
    try:
        store.set(keys[number], socket.gethostname())
        store.wait(keys, wait)
    except DistError as error:
        raise UserError(_who_is_late(store, keys, place, seconds, part)) from error
    return store


def _who_is_late(store: TCPStore, keys: list[str], place: str, seconds: float, part: str) -> str:
    from torch.distributed import DistError

    try:
        late = [str(i) for i, key in enumerate(keys) if not store.check([key])]
    except DistError:
        return f"the {part}s lost each other at {place}: {part} 0 has ended; it says why"
    return (
        f"{part} {', '.join(late)} of {len(keys)} did not come to {place} within {seconds:g} s (trainer.ddp_timeout; "
        "TIMEOUT of launch/node.sh); the others wait no longer. Start all with the same MASTER_ADDR and MASTER_PORT, "
        "and let no firewall be between"
    )


def meet_by_themselves(world: int, seconds: float) -> TCPStore | None:
    """The meeting of ``world`` ranks that srun, say, has started; None where torchrun has brought them together.

    Raises UserError for a place that is not told, and as :func:`meet`.
    """
    if "LOCAL_RANK" not in os.environ or "TORCHELASTIC_RUN_ID" in os.environ:
        return None
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]:
        raise UserError(
            f"WORLD_SIZE={world} and LOCAL_RANK without {' and '.join(missing)}: ranks that are started without "
            "torchrun need all five (launch/slurm.sbatch sets them)"
        )
    if wrong := [name for name in ("RANK", "MASTER_PORT") if not os.environ[name].isdecimal()]:
        raise UserError(f"{wrong[0]}={os.environ[wrong[0]]}: it is a whole number (launch/slurm.sbatch sets it)")
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return meet(int(os.environ["RANK"]), world, *place, seconds, "rank")


def part_again(store: TCPStore, number: int, of: int, part: str) -> None:
    """Let the first listen until the others have seen that all are here; then the port is free."""
    store.set(f"vqr1/{part}/{number}/seen", "")
    if number == 0:
        store.wait([f"vqr1/{part}/{i}/seen" for i in range(of)])


def main() -> None:
    number, of, host, port, seconds = sys.argv[1:]
    try:
        store = meet(int(number), int(of), host, int(port), float(seconds), "node")
    except UserError as error:
        show(f"vqr1: {error}", file=sys.stderr)
        sys.exit(2)
    part_again(store, int(number), int(of), "node")


if __name__ == "__main__":
    main()
