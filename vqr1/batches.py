"""How the answers of an optimiser step are divided into devices and forward passes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vqr1.errors import UserError


@dataclass(frozen=True)
class BatchPlan:
    """How a step's answers are divided into devices and forward passes."""

    per_device: int  # answers in one forward and backward pass of one device
    accumulation: int  # such passes to one optimiser step
    steps_per_generation: int  # such passes to one generation batch
    images_per_generation: int  # pictures of a generation batch, over all devices


def plan_batches(
    images_per_step: int,
    k: int,
    world_size: int,
    answers_per_device: int | None = None,
    steps_per_generation: int | None = None,
    cohort_size: int = 1,
) -> BatchPlan:
    """Divide ``images_per_step`` pictures with ``k`` answers each into ``world_size`` devices.

    ``answers_per_device`` bounds the answers in one pass (memory). A pass holds all answers to as many pictures as the
    bound allows and a device's share divides into, for answers to one picture share its prompt; where the bound is
    below ``k``, the largest number of answers that divides the share. ``steps_per_generation`` defaults to one
    generation batch per optimiser step. ``cohort_size``: pictures that stay together, of which sizes that are offered
    are multiples too.

    Raises UserError for an image count that does not divide over the devices (naming those that do), or a
    generation batch that would leave the answers to one picture on two devices.
    """
    for name, number in {
        "images_per_step": images_per_step,
        "answers_per_device": answers_per_device,
        "steps_per_generation": steps_per_generation,
    }.items():
        if number is not None and number < 1:
            raise UserError(f"trainer.{name}={number}: set it to 1 or more")
    if images_per_step % world_size:
        multiple = math.lcm(world_size, cohort_size)
        below = images_per_step // multiple * multiple
        fitting = " or ".join(str(n) for n in (below, below + multiple) if n > 0)
        raise UserError(
            f"trainer.images_per_step={images_per_step} cannot be shared by {world_size} devices; set it to {fitting}"
        )
    share = images_per_step // world_size * k
    limit = min(answers_per_device or share, share)
    whole = k if limit >= k else 1
    per_device = next(n for n in range(limit // whole * whole, 0, -whole) if share % n == 0)
    accumulation = share // per_device
    passes = steps_per_generation or accumulation
    if (per_device * passes) % k:
        step = k // math.gcd(per_device, k)
        raise UserError(
            f"trainer.steps_per_generation={passes} passes of {per_device} answers split the {k} answers to a picture "
            f"over devices; set it to a multiple of {step}"
        )
    if passes % accumulation and accumulation % passes:
        raise UserError(
            f"trainer.steps_per_generation={passes} and {accumulation} passes to an optimiser step do not divide each "
            "other; set one to a multiple of the other"
        )
    return BatchPlan(per_device, accumulation, passes, per_device * passes * world_size // k)
