"""The record of the project: a picture and its opinion score.

Every label file becomes a list of :class:`Sample`. With ``prompt`` added, its fields are the columns of the training
dataset and, unchanged, the keyword arguments that TRL hands to the reward.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from vqr1.errors import UserError


@dataclass(frozen=True, slots=True)
class Sample:
    """One rated picture."""

    image: str  # path of the picture file
    mos: float  # mean opinion score on the dataset's own scale, higher = better
    mos_std: float | None  # standard deviation of the ratings on the same scale; None where none was released
    dataset: str  # pictures are ranked against pictures of the same dataset only: scales differ
    group: str  # what splits must keep together: the reference, the scene, the prompt
    image_id: str  # unique over all datasets
    reference: str | None = None  # path of the undistorted picture; None where there is none, or it is not shown

    @property
    def pictures(self) -> list[str]:
        """Paths of what is shown for it: the reference, where there is one, and the picture."""
        return [self.image] if self.reference is None else [self.reference, self.image]


@dataclass(frozen=True)
class Splits:
    """One dataset, split by content: no group is in two of the parts."""

    train: list[Sample] = field(default_factory=list)
    validation: list[Sample] = field(default_factory=list)
    test: list[Sample] = field(default_factory=list)
    division: str = "official"  # by the authors, by "content" (ours), or all for "test"
    published: int = 0  # rated pictures of the whole set; 0 where its users declare it
    notes: tuple[str, ...] = ()  # what the reader found: label file, folder of pictures, what it left out and why

    def parts(self) -> dict[str, list[Sample]]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def all(self) -> list[Sample]:
        return [*self.train, *self.validation, *self.test]


@dataclass(frozen=True)
class Pair:
    """Two pictures of one content, and which of them people chose. There is no score of a single picture."""

    reference: str  # path of the original
    first: str
    second: str
    preference: float  # share of people who preferred the second, 0..1
    dataset: str
    group: str  # kind of distortion
    pair_id: str  # unique over all datasets


def check_samples(samples: Sequence[Sample], where: str) -> None:
    """Refuse labels that cannot be ranked.

    Raises UserError, naming the picture and the value, for a MOS that is not finite, a negative or non-finite spread,
    or an ``image_id`` that appears twice.
    """
    for sample in samples:
        if not math.isfinite(sample.mos):
            raise UserError(f"{where}: {sample.image_id} has MOS {sample.mos}; give a finite number or drop the row")
        if sample.mos_std is not None and not (math.isfinite(sample.mos_std) and sample.mos_std >= 0):
            raise UserError(f"{where}: {sample.image_id} has spread {sample.mos_std}; a std is finite and not negative")
    repeated = [name for name, count in Counter(sample.image_id for sample in samples).items() if count > 1]
    if repeated:
        raise UserError(f"{where}: {repeated[0]} appears more than once; keep one row per picture")


def some_of(samples: list[Sample], limit: int | None) -> list[Sample]:
    """At most ``limit`` records, drawn over the whole list and in its order, the same in every run.

    Label files are sorted by content and level: the first ones, or every n-th, would be no fair share.
    """
    import numpy as np

    if limit is None or limit >= len(samples):
        return samples
    chosen = np.random.default_rng(0).choice(len(samples), size=limit, replace=False)
    return [samples[i] for i in sorted(chosen)]
