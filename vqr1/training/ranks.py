"""The ranks of a run find each other, and see that they run the same code on the same data."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from trl import GRPOConfig

from vqr1.config import Config
from vqr1.errors import OtherRankError, UserError
from vqr1.meeting import meet_by_themselves
from vqr1.provenance import versions
from vqr1.training.rank_watch import operations_timeout


def waiting_seconds(config: Config) -> float:
    """How long ranks wait for each other."""
    return float(config.trainer.get("ddp_timeout", GRPOConfig.ddp_timeout))


def join(config: Config) -> PartialState:
    """accelerate's state of this process, once all ranks are here and run the same versions. Collective.

    The first call decides how long ranks wait for each other, then and in every step: ``trainer.ddp_timeout`` seconds.
    transformers takes that setting to be of the group that it would start itself, and finds this one.
    Raises UserError for a rank that does not come, a port that is taken, and other versions.
    """
    seconds = waiting_seconds(config)
    world = int(os.environ.get("WORLD_SIZE") or 1)
    met = torch.distributed.is_initialized()
    store = meet_by_themselves(world, seconds) if world > 1 and not met else None
    timeout = operations_timeout(seconds)
    try:
        state = PartialState(cpu=not torch.cuda.is_available(), timeout=timeout)  # CPUs: gloo
    except torch.distributed.DistError as error:
        raise UserError(
            f"not all {world} ranks have come within {timeout.total_seconds():.0f} s "
            f"(trainer.ddp_timeout={seconds:g}): {str(error).splitlines()[0]}. One has ended, hangs as it starts or "
            "needs longer: look at it there, or raise trainer.ddp_timeout"
        ) from error
    if not met and state.num_processes > 1:
        check_same(versions())
    del store  # until here: torch's start listens at the same port
    return state


def check_same(mine: Mapping[str, str | None]) -> None:
    """Raises UserError where one has another value of a name than the first rank, which says so. Collective.

    The others raise OtherRankError, once it has been said: a launcher ends all as soon as one has ended.
    """
    told = difference(gather_object([(socket.gethostname(), dict(mine))]))
    if told and PartialState().process_index:
        time.sleep(1)
        raise OtherRankError
    if told:
        raise UserError(told)


def difference(of_ranks: Sequence[tuple[str, Mapping[str, str | None]]]) -> str | None:
    """What the first two ranks that differ, each its host and its values by name, differ in. None counts too."""
    first_host, first = of_ranks[0]
    for rank, (host, theirs) in enumerate(of_ranks[1:], start=1):
        for name in first:
            if name in theirs and theirs[name] != first[name]:
                return (
                    f"{name} is {first[name]} on {first_host} (rank 0) and {theirs[name]} on {host} (rank {rank}): all "
                    "nodes of a run need the same; install the same versions, and give all the same files"
                )
    return None


def digests(
    splits: Mapping[str, Any],
    pictures: Sequence[Any],
    policy: Mapping[str, str],
    taught: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, str]:
    """What a run's nodes must have in common, by name: splits and pictures of its data, the policy's files, what is
    ``taught`` (vqr1.training.recipe.Recipe.taught)."""
    rows = hashlib.sha256(json.dumps(pictures).encode()).hexdigest()
    return {
        **{f"the split of {name}": split["hash"] for name, split in splits.items()},
        "the hash of the pictures and their scores": rows,
        **{f"the hash of {name} of the policy": value for name, value in policy.items()},
        **{f"the hash of {name} ({kind})": value for kind, of in (taught or {}).items() for name, value in of.items()},
    }
