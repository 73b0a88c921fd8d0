"""Whose rivals share a batch: the order in which training visits its pictures.

A cohort is a handful of pictures of one dataset (eight in the paper); a generation batch is one or more whole cohorts,
so every picture in it meets rivals whose opinion scores are on its own scale. The order is a pure function of seed and
epoch: it knows nothing of ranks, and a run resumed in a later epoch sees the order it would have seen.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np

from vqr1.errors import UserError


def cohorts_per_epoch(sizes: Sequence[int], cohort_size: int, temperature: float = 1.0) -> list[int]:
    """How many cohorts an epoch takes from each dataset.

    At temperature 1 the datasets are mixed by their size and each is passed through once. A higher temperature draws
    dataset d in proportion to size_d ** (1 / temperature), equally at infinity; the epoch then ends when the dataset
    drawn most often for its size is used up, so no picture is seen twice in an epoch.
    """
    whole = np.array([size // cohort_size for size in sizes])
    wanted = np.array(sizes, dtype=float) ** (1.0 / temperature)
    scale = (whole / wanted).min() if temperature != 1.0 else np.inf
    return [int(n) for n in np.minimum(whole, np.floor(wanted * scale + 1e-9))]


class CohortSampler:
    """Yields indices into the training set, each K times in a row, batch by batch.

    ``dataset_of`` names the dataset of every index. A batch of ``images_per_batch`` pictures is repeated
    ``reuse`` times (TRL reads a generation batch once for every time it trains on a part of it). Pictures that fill no
    whole cohort, and cohorts that fill no whole batch, are left out of this epoch; the next epoch shuffles again.

    Raises UserError for a dataset smaller than a cohort, sizes that do not divide, or fewer pictures than a batch.
    """

    def __init__(
        self,
        dataset_of: Sequence[Hashable],
        *,
        images_per_batch: int,
        cohort_size: int,
        answers_per_image: int,
        reuse: int = 1,
        temperature: float = 1.0,
        seed: int = 0,
    ):
        if images_per_batch % cohort_size:
            raise UserError(
                f"reward.cohort_size={cohort_size} does not divide a generation batch of {images_per_batch} images; "
                f"set trainer.images_per_step to a multiple of {cohort_size} or change reward.cohort_size"
            )
        self._members: dict[Hashable, list[int]] = {}
        for index, name in enumerate(dataset_of):
            self._members.setdefault(name, []).append(index)
        for name, members in self._members.items():
            if len(members) < cohort_size:
                raise UserError(
                    f"dataset {name} has {len(members)} training pictures, under reward.cohort_size={cohort_size}: "
                    "they would never meet rivals; add pictures or lower reward.cohort_size (2 at least)"
                )
        sizes = [len(members) for members in self._members.values()]
        self._counts = cohorts_per_epoch(sizes, cohort_size, temperature)
        self._cohorts_per_batch = images_per_batch // cohort_size
        self.batches_per_epoch = sum(self._counts) // self._cohorts_per_batch
        if self.batches_per_epoch == 0 and cohort_size == 1:
            raise UserError(
                f"{sum(sizes)} to learn from, and a step takes {images_per_batch}; lower trainer.images_per_step"
            )
        if self.batches_per_epoch == 0:
            raise UserError(
                f"{sum(sizes)} training pictures give {sum(self._counts)} cohorts of {cohort_size}, but a generation "
                f"batch takes {self._cohorts_per_batch}; lower trainer.images_per_step or reward.cohort_size"
            )
        self.images_per_batch = images_per_batch
        self._cohort_size = cohort_size
        self._repeats = answers_per_image
        self._reuse = reuse
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def batches(self, epoch: int) -> list[list[int]]:
        """The generation batches of an epoch: lists of distinct indices, cohort after cohort."""
        rng = np.random.default_rng([self._seed, epoch])
        cohorts: list[np.ndarray] = []
        for members, count in zip(self._members.values(), self._counts, strict=True):
            order = rng.permutation(members)[: count * self._cohort_size]
            cohorts.extend(order.reshape(count, self._cohort_size))
        mixed = [cohorts[i] for i in rng.permutation(len(cohorts))]
        per_batch = self._cohorts_per_batch
        return [
            np.concatenate(mixed[i * per_batch : (i + 1) * per_batch]).tolist() for i in range(self.batches_per_epoch)
        ]

    def __iter__(self) -> Iterator[int]:
        for batch in self.batches(self._epoch):
            for _ in range(self._reuse):
                for index in batch:
                    yield from [index] * self._repeats

    def __len__(self) -> int:
        return self.batches_per_epoch * self._reuse * self.images_per_batch * self._repeats
