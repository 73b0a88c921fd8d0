"""The one record of the project: a picture and what people thought of it.

Every label file becomes a list of :class:`Sample`. With ``prompt`` added, its fields are the columns of the training
dataset and, unchanged, the keyword arguments that TRL hands to the reward.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sample:
    """One rated picture."""

    image: str  # path of the picture file
    mos: float  # mean opinion score on the dataset's own scale, higher = better
    mos_std: float | None  # standard deviation of the ratings on the same scale; None where none was released
    dataset: str  # pictures are ranked against pictures of the same dataset only: scales differ
    group: str  # what splits must keep together: the reference, the scene, the prompt
    image_id: str  # unique over all datasets


@dataclass(frozen=True)
class Splits:
    """One dataset, split by content: no group is in two of the parts."""

    train: list[Sample] = field(default_factory=list)
    validation: list[Sample] = field(default_factory=list)
    test: list[Sample] = field(default_factory=list)


def check_samples(samples: Sequence[Sample], where: str) -> None:
    """Refuse labels that cannot be ranked.

    Raises ValueError, naming the picture and the value, for a MOS that is not finite, a negative or non-finite spread,
    or an ``image_id`` that stands twice.
    """
    for sample in samples:
        if not math.isfinite(sample.mos):
            raise ValueError(f"{where}: {sample.image_id} has MOS {sample.mos}; give a finite number or drop the row")
        if sample.mos_std is not None and not (math.isfinite(sample.mos_std) and sample.mos_std >= 0):
            raise ValueError(
                f"{where}: {sample.image_id} has spread {sample.mos_std}; a std is finite and not negative"
            )
    repeated = [name for name, count in Counter(sample.image_id for sample in samples).items() if count > 1]
    if repeated:
        raise ValueError(f"{where}: {repeated[0]} stands more than once; keep one row per picture")
