"""Which pictures of a run's sets are paired to learn from, and which are the anchors of its scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vqr1.comparison.anchors import Anchors, choose_anchors
from vqr1.config import ComparisonConfig, Config, DepictConfig
from vqr1.data import Sample, find_spec
from vqr1.errors import UserError
from vqr1.pairing import TrainingPairs, check_pairs, training_pairs


@dataclass(frozen=True)
class Compared:
    """Two pictures of one set, and what people's scores say of the second."""

    first: Sample
    second: Sample
    word: int  # index into vqr1.comparison.words.WORDS

    @property
    def dataset(self) -> str:
        return self.first.dataset

    @property
    def name(self) -> str:
        return f"{self.first.image_id} | {self.second.image_id}"


def pairs_of(config: Config, settings: ComparisonConfig | DepictConfig, samples: Sequence[Sample]) -> list[Compared]:
    """Pairs of the training pictures, never across two sets, nor across two references whose scores do not compare.

    Raises UserError for a set without the spread of its ratings, and for one with too few pictures for a pair.
    """
    section, root = config.objective.value, Path(config.data.root).expanduser()
    apart = {name for name in config.data.train if find_spec(name, root).per_group_scale}
    within = settings.same_reference
    references = [sample.group if within or sample.dataset in apart else "" for sample in samples]
    datasets = [sample.dataset for sample in samples]
    try:
        found = training_pairs(
            [sample.mos for sample in samples],
            [float("nan") if sample.mos_std is None else sample.mos_std for sample in samples],
            datasets,
            per_dataset=settings.pairs,
            seed=config.seed,
            spread=settings.spread,
            balanced=isinstance(settings, ComparisonConfig) and settings.balanced,
            reference_N=references,
            say=f"+{section}.spread.NAME=S",
        )
    except UserError as error:
        raise UserError(f"objective={section}: {error}") from error
    check_pairs(found.pairs_M2, datasets)
    check_pairs(found.pairs_M2, references, "reference")
    return [
        Compared(samples[i], samples[j], word)
        for (i, j), word in zip(found.pairs_M2.tolist(), found.word_M.tolist(), strict=True)
    ]


def anchors_of(samples: Sequence[Sample], intervals: int) -> Mapping[str, list[Sample]]:
    """The anchors of each training set, from worse to better. Raises UserError for a set with fewer than two."""
    anchors: dict[str, list[Sample]] = {}
    for name, own, chosen in _chosen(samples, intervals):
        anchors[name] = [own[i] for i in chosen.pictures]
        if len(chosen.pictures) < 2:
            raise UserError(f"{name}: {chosen.in_words()}; a score comes of comparisons with two or more: ask for more")
    return anchors


def in_words(pairs: Sequence[Compared], samples: Sequence[Sample], intervals: int) -> list[str]:
    """Lines on what a run learns from and scores by: how many pairs have which word, and the anchors of each set."""
    made = TrainingPairs(np.empty((len(pairs), 2), dtype=int), np.array([pair.word for pair in pairs]))
    return [made.in_words(), *(f"{name}: {chosen.in_words()}" for name, _, chosen in _chosen(samples, intervals))]


def _chosen(samples: Sequence[Sample], intervals: int) -> Iterator[tuple[str, list[Sample], Anchors]]:
    for name in dict.fromkeys(sample.dataset for sample in samples):
        own = [sample for sample in samples if sample.dataset == name]
        std = [float("nan") if sample.mos_std is None else sample.mos_std for sample in own]
        yield name, own, choose_anchors([one.mos for one in own], std, [one.image_id for one in own], intervals)
