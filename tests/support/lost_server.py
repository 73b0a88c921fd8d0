"""Started on two ranks by test_synced.py: syncs with servers that are lost, and how each of them ends on each rank.

With FOLDER as its one word.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from trl.generation.vllm_generation import VLLMGeneration

from vqr1.rollout.synced import SyncedGeneration

SECONDS = 20  # a collective that one rank waits for alone

accelerator = Accelerator(cpu=True, kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=SECONDS))])
rank = accelerator.process_index
folder = Path(sys.argv[1])


class Sharded:
    """TRL's DistributedBackend under ZeRO-3: every weight is a collective. ``fails``: here, at the third of them."""

    is_zero3, is_fsdp = True, False

    def __init__(self, fails=False):
        self.left = 3 if fails else -1

    @contextmanager
    def gather_params(self, params):
        self.left -= 1
        if self.left == 0:
            raise MemoryError("no room to gather")
        torch.distributed.all_reduce(torch.zeros(1))
        yield


class Whole(Sharded):
    """Under DDP."""

    is_zero3 = False

    @contextmanager
    def gather_params(self, params):
        self.left -= 1
        if self.left == 0:
            raise MemoryError("no room to add adapters")
        yield


class Client:
    """A server that is lost at the weight numbered ``at``, or at the call named so."""

    base_url = "http://localhost:8000"

    def __init__(self, at):
        self.at = at
        self.session = SimpleNamespace(post=self._post)

    def _fail(self, here):
        if here == self.at:
            raise ConnectionError(f"gone at {here}")

    def update_named_params(self, metadata, weights):
        self._fail("start")
        for i, _ in enumerate(weights):
            self._fail(i)
        self._fail("end")

    def reset_prefix_cache(self):
        self._fail("reset")

    def _post(self, url):
        self._fail("forget")
        return SimpleNamespace(raise_for_status=lambda: None)


def connects(at):
    """VLLMGeneration's start: the first rank connects, and all meet at the end."""

    def start(self):
        if rank == 0:
            self.vllm_client = Client(at)
            self.vllm_client._fail("connect")
        accelerator.wait_for_everyone()

    return start


def end_of(name, at=None, backend=Sharded, fails_on=None):
    """Two syncs, for the first one walks the weights twice. What it ended with is written down and raised."""
    found = "synced"
    try:
        VLLMGeneration._init_vllm = connects(at)
        ours = SyncedGeneration(
            model=torch.nn.Sequential(*[torch.nn.Linear(2, 2) for _ in range(4)]),
            accelerator=accelerator, processing_class=None, mode="server", server_base_url=Client.base_url,
            stop=[1], never=[2], vision_trained=True,
        )  # fmt: skip
        ours._dist = backend(fails=rank == fails_on)
        for _ in range(2):
            ours.sync_weights()
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
        raise
    finally:
        with (folder / str(rank)).open("a") as file:
            file.write(json.dumps([name, found]) + "\n")


for place in (None, "connect", "start", 0, 4, 7, "end", "reset", "forget"):
    try:
        end_of(f"at {place}", place)
    except RuntimeError:
        accelerator.wait_for_everyone()  # as a run that saves what it has learnt
for culprit in (0, 1):
    try:
        end_of(f"rank {culprit}", backend=Whole, fails_on=culprit)
    except RuntimeError:
        accelerator.wait_for_everyone()
end_of("unmet", fails_on=1)
