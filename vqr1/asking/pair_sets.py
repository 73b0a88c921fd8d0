"""Pairs of pictures that a policy is asked about: of rated datasets, of BAPPS, and of files of comparisons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from vqr1.data import Sample, read_dataset
from vqr1.data.bapps import read_bapps
from vqr1.data.sample import Pair, some_of
from vqr1.data.splits import SplitRule, split_hash
from vqr1.errors import UserError
from vqr1.pairing import (
    all_pairs,
    count_all,
    count_rounds,
    count_same_reference,
    round_pairs,
    same_reference_pairs,
)

PARTS = ("train", "validation", "test", "all")


class Pairing(StrEnum):
    """Which pictures of a dataset are paired.

    >>> Pairing("all") is Pairing.all
    True
    """

    rounds = "rounds"  # rounds of disjoint random pairs
    all = "all"
    reference = "reference"  # all pairs of one reference


@dataclass(frozen=True)
class PairSet:
    """P pairs of n pictures of one set, and what people say of them."""

    name: str
    pictures: Sequence[str]  # (n,) paths
    mos: np.ndarray  # (n,) higher = better; of pairs without scores: the share of people who prefer each to the other
    pairs: np.ndarray  # (P, 2) integers
    references: Sequence[str]  # (P,) paths, "" without one
    pair_ids: Sequence[str]  # (P,)
    groups: Sequence[str] | None = None  # (n,) the references within which scores compare; None: all compare
    judge: np.ndarray | None = None  # (P,) the share of people who prefer the pair's second; None: rated pictures


@dataclass(frozen=True)
class Planned:
    """Pairs that are not made yet."""

    name: str
    count: int
    make: Callable[[], PairSet]


def plan_rated(name: str, samples: Sequence[Sample], pairing: Pairing, rounds: int, seed: int) -> Planned:
    """Pairs of rated pictures of one dataset. Raises UserError for too few of them, or more rounds than there are."""
    groups = [sample.group for sample in samples]
    counted = {
        Pairing.rounds: lambda: count_rounds(len(samples), rounds),
        Pairing.all: lambda: count_all(len(samples)),
        Pairing.reference: lambda: count_same_reference(groups),
    }
    try:
        count = counted[pairing]()
    except UserError as error:
        raise UserError(f"{name}: {error}") from error

    def make() -> PairSet:
        pairs = {
            Pairing.rounds: lambda: round_pairs(len(samples), rounds, seed),
            Pairing.all: lambda: all_pairs(len(samples), seed),
            Pairing.reference: lambda: same_reference_pairs(groups, seed),
        }[pairing]()
        ids = [f"{samples[i].image_id} | {samples[j].image_id}" for i, j in pairs.tolist()]
        mos = np.array([sample.mos for sample in samples])
        within = groups if pairing is Pairing.reference else None
        return PairSet(name, [sample.image for sample in samples], mos, pairs, [""] * len(pairs), ids, within)

    return Planned(name, count, make)


def plan_judged(name: str, pairs: Sequence[Pair]) -> Planned:
    """Pairs that people have judged: of each the better is the picture that most prefer."""

    def make() -> PairSet:
        judge = np.array([pair.preference for pair in pairs])
        return PairSet(
            name=name,
            pictures=[picture for pair in pairs for picture in (pair.first, pair.second)],
            mos=np.stack([1 - judge, judge], axis=1).ravel(),
            pairs=np.arange(2 * len(pairs)).reshape(-1, 2),
            references=[pair.reference for pair in pairs],
            pair_ids=[pair.pair_id for pair in pairs],
            judge=judge,
        )

    return Planned(name, len(pairs), make)


def read_samples(
    name: str, root: Path, part: str | None, limit: int | None, rule: SplitRule, split: str | None
) -> list[Sample]:
    """A dataset's rated pictures: of a part of it, the test part unless given.

    ``rule`` divides sets without an official split; ``split`` is the hash of the division that the model was trained
    by, where it was trained on this set. Raises UserError for another division, and for a part without pictures.
    """
    splits = read_dataset(name, root, rule)
    if split is not None and split != split_hash(splits):
        raise UserError(
            f"{name} is divided otherwise than when the model was trained (splits.json of the run), so its test part "
            "may hold pictures it learnt from; restore the label file of that time, or leave the set out"
        )
    samples = splits.all() if part == "all" else splits.parts()[part or "test"]
    if not samples:
        raise UserError(f"{name} has no {part or 'test'} part; give another with --part {', '.join(PARTS)}")
    return some_of(samples, limit)


def read_judged(root: Path, part: str | None, limit: int | None) -> list[Pair]:
    """BAPPS' pairs: of its validation part unless given, as papers report."""
    if part == "test":
        raise UserError("bapps has no test part; give --part validation, train or all")
    parts = read_bapps(root / "bapps")
    pairs = [pair for each in parts.values() for pair in each] if part == "all" else parts[part or "validation"]
    if not pairs:
        raise UserError(f"bapps has no {part or 'validation'} part; unpack the whole archive, or give another --part")
    if limit is None or limit >= len(pairs):
        return pairs
    return [pairs[i] for i in sorted(np.random.default_rng(0).choice(len(pairs), size=limit, replace=False))]
