"""``GPUS=2 python tests/support/ranks_on_cpu.py train launcher=zero3 ...`` is a run on 2 ranks without a GPU.

accelerate shards no weights on CPUs. This program lets it believe in ``GPUS`` GPUs whose memory is the machine's and
whose collectives are gloo's; all else is the command that a user gives, from the choice of the launcher to the ranks
that accelerate starts, which run this file too. The answers are those of tests/support/scripted.py, or with
``ANSWERS=policy`` the policy's own. FAULT is put into every rank (MODULE:FUNCTION[:ARGUMENT...]).
"""

from __future__ import annotations

import os
from functools import partial
from importlib import import_module
from typing import Any

os.environ.update(DS_ACCELERATOR="cpu", ACCELERATE_TORCH_DEVICE="cpu")

import accelerate.state
import torch
from accelerate.utils import DistributedType
from trl import GRPOConfig

from tests.support.scripted import answer
from vqr1 import cli, launching
from vqr1.policy.without_gpu import memory_limit
from vqr1.training import ranks


def as_on_gpus() -> None:
    torch.set_num_threads(1)
    launching.visible_gpus = lambda: int(os.environ["GPUS"])
    launching.device_memory = lambda gpus: memory_limit() / int(os.environ["GPUS"])
    launching.has_bfloat16 = lambda gpus: False
    zero = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    if not zero and os.environ.get("ACCELERATE_USE_FSDP") != "true":
        return  # DDP needs no more
    if zero:
        import deepspeed.ops

        # Collectives in shared memory, which DeepSpeed would compile for minutes: gloo's do.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    state = accelerate.state.PartialState

    def prepared(self: Any, cpu: bool = False, sagemaker_dp: bool = False, backend: str | None = None) -> Any:
        return "gloo", DistributedType.MULTI_GPU

    state._prepare_backend = prepared
    # vqr1 asks for the CPU in words with which accelerate leaves sharding out.
    plain, settings = ranks.PartialState, GRPOConfig.__init__
    ranks.PartialState = lambda cpu=False, **more: plain(**more)
    GRPOConfig.__init__ = lambda self, **words: settings(self, **words | {"use_cpu": False})


if __name__ == "__main__":
    as_on_gpus()
    if "FAULT" in os.environ and "RANK" in os.environ:
        module, function, *given = os.environ["FAULT"].split(":")
        getattr(import_module(module), function)(*given)
    script = None if os.environ.get("ANSWERS") == "policy" else answer
    cli.main(partial(launching.start, hooks=launching.Hooks(program=(__file__,), script=script)))
