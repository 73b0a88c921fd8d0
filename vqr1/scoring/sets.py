"""Which pictures are evaluated: all of a set that the model never saw, the test split of one that it did.

Or, of every set, the validation split or the test split alone, so that what is fitted on the one is shown on the other.
No split that was trained on is ever evaluated.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vqr1.data import Sample, check_size, find_spec, read_dataset
from vqr1.data.reference_pictures import with_references, without_references
from vqr1.data.sample import some_of
from vqr1.data.spec import DatasetSpec
from vqr1.data.splits import PAPER, Seen, split_hash
from vqr1.errors import UserError
from vqr1.evaluation.results import SetFacts
from vqr1.scoring.settings import Part


@dataclass(frozen=True)
class EvaluatedSet:
    name: str
    facts: SetFacts
    samples: list[Sample]


def read_sets(
    names: Sequence[str],
    root: Path,
    trained_on: Sequence[str],
    limit: int | None = None,
    training: Seen | None = None,
    whole_unless: str = "",
    part: Part | None = None,
    reference: bool = False,
) -> list[EvaluatedSet]:
    """The sets to evaluate, or one ``part`` of each; with ``reference``, pictures with their references.

    A published set must be whole where ``whole_unless`` names the setting that allows a part.

    Raises what :func:`vqr1.data.read_dataset` raises, and UserError for an empty split or one that is not the split
    the model was trained by, or a reference that is not there.
    """
    sets = [_read(name, root, name in trained_on, limit, training or Seen(), whole_unless, part) for name in names]
    if not reference:
        return [replace(each, samples=without_references(each.samples)) for each in sets]
    return [
        replace(each, samples=with_references(find_spec(each.name, root), root / each.name, each.samples, "reference"))
        for each in sets
    ]


def _read(
    name: str, root: Path, seen: bool, limit: int | None, training: Seen, whole_unless: str, asked: Part | None
) -> EvaluatedSet:
    spec = find_spec(name, root)
    splits = read_dataset(name, root, training.rule if seen else PAPER)
    if whole_unless:
        check_size(name, root, splits, whole_unless)
    if seen and training.hashes.get(name, split_hash(splits)) != split_hash(splits):
        raise UserError(
            f"{name} is divided otherwise than when the model was trained (splits.json of the run), so its splits "
            "may hold pictures it learnt from; restore the label file of that time, or leave the set out"
        )
    test_only = seen or spec.evaluate_test_only
    chosen = asked or (Part.test if test_only else None)
    samples = splits.parts()[chosen.value] if chosen else splits.all()
    if len(samples) < 3:
        raise UserError(
            f"{name} has {len(samples)} {f'{chosen.value} ' if chosen else ''}pictures, and a correlation needs three; "
            f"take it out of data{' or leave out part' if asked else ''}"
        )
    kept = _limited(samples, limit, spec)
    # Where "test" and "all" are the usual pictures of a set, a split that was asked for is told from them.
    part = "all" if chosen is None else "test" if test_only and chosen is Part.test else f"{chosen.value} split"
    if splits.published not in (0, len(splits.all())):
        of = f"{chosen.value} split of " if chosen else ""
        part = f"{of}{len(splits.all())} of {splits.published} published pictures"
    facts = SetFacts(
        title=spec.title,
        pictures=len(kept),
        part=part if len(kept) == len(samples) else f"{len(kept)} of {len(samples)} pictures ({part})",
        group=spec.group,
        per_group_scale=spec.per_group_scale,
        trained_on=seen,
        pseudo_labels=spec.pseudo_labels,
        labels_sha256=labels_hash(kept),
    )
    return EvaluatedSet(name, facts, kept)


def labels_hash(samples: Sequence[Sample]) -> str:
    """SHA-256 of what must be the same for two results to be on the same pictures."""
    lines = [json.dumps([sample.image_id, sample.mos, sample.group]) for sample in samples]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _limited(samples: list[Sample], limit: int | None, spec: DatasetSpec) -> list[Sample]:
    """A share of the pictures; whole groups where scores compare within a group only."""
    if limit is None or not spec.per_group_scale:
        return some_of(samples, limit)
    groups = list(dict.fromkeys(sample.group for sample in samples))
    average = len(samples) / len(groups)
    first = {group: next(sample for sample in samples if sample.group == group) for group in groups}
    kept = {sample.group for sample in some_of(list(first.values()), max(1, round(limit / average)))}
    return [sample for sample in samples if sample.group in kept]
