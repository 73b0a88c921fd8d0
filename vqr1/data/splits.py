"""Splits by content group: the same on every machine and in every version of Python, and known by a hash."""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vqr1.data.sample import Sample, Splits
from vqr1.errors import UserError


@dataclass(frozen=True)
class SplitRule:
    """How sets without an official split are divided: the paper's 6 : 2 : 2 by content."""

    ratio: tuple[float, ...] = (6, 2, 2)  # train, validation, test
    seed: int = 0

    def __post_init__(self) -> None:
        fitting = len(self.ratio) == 3 and all(math.isfinite(share) and share >= 0 for share in self.ratio)
        if not (fitting and self.ratio[0] > 0):
            raise UserError(
                f"split ratio {list(self.ratio)}: give three shares, train validation test, none negative and the "
                "first above 0, such as 6 2 2"
            )


PAPER = SplitRule()


@dataclass(frozen=True)
class Seen:
    """How a model's training divided its sets."""

    rule: SplitRule = PAPER
    hashes: dict[str, str] = field(default_factory=dict)  # of the splits, where the run left them


def split_by_group(samples: Sequence[Sample], rule: SplitRule = PAPER) -> Splits:
    """``samples`` in three parts, each group in one of them.

    Groups are ordered by SHA-256 of seed, dataset and name: adding a group moves few others, and neither the order of
    the label file nor a random generator enters. Parts take their share of the groups, rounded by largest remainder.
    """
    groups = {sample.group for sample in samples}
    dataset = samples[0].dataset if samples else ""
    order = sorted(groups, key=lambda group: _digest(f"{rule.seed}:{dataset}:{group}") + group)
    train, validation, _ = shares(len(order), rule.ratio)
    splits = Splits(division="content")
    part_of = dict.fromkeys(order[:train], splits.train)
    part_of |= dict.fromkeys(order[train : train + validation], splits.validation)
    part_of |= dict.fromkeys(order[train + validation :], splits.test)
    for sample in samples:
        part_of[sample.group].append(sample)
    return splits


def shares(total: int, ratio: Sequence[float]) -> list[int]:
    """``total`` whole things divided in proportion to ``ratio``, by largest remainder; ties go to the first."""
    exact = [total * share / sum(ratio) for share in ratio]
    counts = [math.floor(value) for value in exact]
    by_remainder = sorted(range(len(ratio)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def split_hash(splits: Splits) -> str:
    """Sixteen hexadecimal digits that name a split: which picture is in which part, whatever the order."""
    lines = sorted(f"{part}\t{sample.image_id}" for part, samples in splits.parts().items() for sample in samples)
    return _digest("\n".join(lines))[:16]


def check_split(splits: Splits, where: str) -> None:
    """Raises UserError where a group is in two parts: what is trained on would be tested on."""
    part_of: dict[str, str] = {}
    for part, samples in splits.parts().items():
        for sample in samples:
            other = part_of.setdefault(sample.group, part)
            if other != part:
                raise UserError(
                    f"{where}: group {sample.group} is in {other} and in {part} ({sample.image_id}); put all its "
                    "pictures into one of them"
                )


def described(splits: Splits) -> dict[str, Any]:
    """A split as plain values, to be stored beside what was made with it."""
    parts = {
        part: {"pictures": len(samples), "groups": sorted({sample.group for sample in samples})}
        for part, samples in splits.parts().items()
    }
    return {"hash": split_hash(splits), **parts}


def _digest(text: str) -> str:
    return hashlib.sha256(unicodedata.normalize("NFC", text).encode()).hexdigest()
