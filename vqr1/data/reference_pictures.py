"""The undistorted pictures beside which others are rated: which there are, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vqr1.data.reading import PictureFiles
from vqr1.data.sample import Sample
from vqr1.data.spec import DatasetSpec
from vqr1.errors import UserError


def with_references(
    spec: DatasetSpec, folder: Path, samples: Sequence[Sample], setting: str, *, optional: bool = False
) -> list[Sample]:
    """Records of one set whose references are files, found in whatever case of letters the labels name them.

    Raises UserError, naming set and picture, where one has none, unless that is ``optional``, or it is not there.
    ``setting`` asked for them.
    """
    if spec.draw_references is not None:
        spec.draw_references(folder)
    files: dict[Path, PictureFiles] = {}
    found: dict[str, str] = {}
    for sample in samples:
        named = sample.reference
        if named is None and optional:
            continue
        if named is None:
            raise UserError(
                f"{setting}=true: {spec.name} names no reference picture of {sample.image_id}; {_none(spec)}"
            )
        if named in found:
            continue
        path = Path(named)
        inside = files.setdefault(path.parent, PictureFiles(path.parent))
        file = inside.find(path.name, f"the reference of {sample.image_id}")
        if file is None:
            raise UserError(
                f"{setting}=true: {named}, the reference of {sample.image_id}, is missing from {spec.name}; put it "
                f"there, or leave the set out, or set {setting}=false"
            )
        found[named] = str(file)
    return [
        sample if sample.reference is None else replace(sample, reference=found[sample.reference]) for sample in samples
    ]


def without_references(samples: Sequence[Sample]) -> list[Sample]:
    """Records whose pictures are shown alone."""
    return [sample if sample.reference is None else replace(sample, reference=None) for sample in samples]


def _none(spec: DatasetSpec) -> str:
    if spec.own:
        return "name it in the row and the column as columns.reference in dataset.yaml, or leave the set out"
    return "take a set of pictures that were distorted from references (docs/data.md), or leave the set out"
