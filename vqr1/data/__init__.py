"""The datasets by name. ``read_dataset(name, root)`` returns a dataset's records, checked and split by content."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePath

from vqr1.data.kadid10k import KADID10K
from vqr1.data.koniq10k import KONIQ10K
from vqr1.data.orientation import check_orientation
from vqr1.data.references import CSIQ, LIVE, TID2013
from vqr1.data.restored import AGIQA3K, LIU13, MIN19, PIPAL, SRIQA
from vqr1.data.sample import Pair, Sample, Splits, check_samples
from vqr1.data.spec import DatasetSpec
from vqr1.data.splits import PAPER, SplitRule, check_split, split_by_group
from vqr1.data.wild import BID, CLIVE, FLIVE, SPAQ
from vqr1.errors import MissingFileError, UserError

__all__ = [
    "DATASETS",
    "DatasetSpec",
    "Pair",
    "Sample",
    "SplitRule",
    "Splits",
    "check_name",
    "check_size",
    "find_spec",
    "read_dataset",
    "register",
]


DATASETS = {
    spec.name: spec
    for spec in (
        KADID10K,
        *(SPAQ, KONIQ10K, CLIVE, BID, FLIVE),
        *(CSIQ, LIVE, TID2013, PIPAL),
        *(AGIQA3K, LIU13, SRIQA, MIN19),
    )
}


def register(spec: DatasetSpec) -> None:
    """Add a dataset to DATASETS. Raises ValueError where another one has its name."""
    if DATASETS.setdefault(spec.name, spec) is not spec:
        raise ValueError(f"a dataset is called {spec.name} already")


def find_spec(name: str, root: Path) -> DatasetSpec:
    """What is known of a dataset: one of DATASETS, or one that ``root/name/dataset.yaml`` declares.

    Raises UserError for an unknown name, one that is no folder's, or a wrong declaration.
    """
    check_name(name, root)
    from vqr1.data.declared import DECLARATION, declared_spec

    if name in DATASETS:
        declaration = root / name / DECLARATION
        if declaration.is_file():
            raise UserError(
                f"{declaration} would not be read: {name} is a published set with a reader of its own; move it, with "
                f"its label file, to a folder of another name such as {root / f'my_{name}'}, write its images: as a "
                f"path from there (../{name}/...), and name that folder"
            )
        return DATASETS[name]
    spec = declared_spec(name, root / name)
    if spec is None:
        _check_root(root)
        raise UserError(
            f"data: no dataset is called {name}; choose from {', '.join(DATASETS)}, or declare your own in "
            f"{root / name / DECLARATION}"
        )
    return spec


def check_name(name: str, root: Path | None = None) -> None:
    """Raises UserError for what is no folder below the root: results are kept by these names, and printed."""
    parts = PurePath(name.replace("\\", "/")).parts
    if len(parts) != 1 or parts[0] != name or name == "..":
        raise UserError(
            f"data: {name!r} is no name of a dataset, which is one folder below the root{f' {root}' if root else ''}"
            + (f"; write {parts[-1]}, with the folder that holds it as --root" if parts else "")
        )
    if not name.isprintable() or name != name.strip() or len(name.encode(errors="replace")) > 255:
        raise UserError(
            f"data: {name[:80]!r} is no name of a dataset: at most 255 bytes that can be printed, no blank at an end; "
            "rename its folder"
        )


def read_dataset(name: str, root: Path, rule: SplitRule = PAPER) -> Splits:
    """One dataset's records, checked. ``rule`` divides sets that have no official split.

    Raises UserError for an unknown name or labels that cannot be ranked, MissingFileError, saying what to fetch and
    where to put it, where the dataset is missing.
    """
    spec = find_spec(name, root)
    _check_root(root)
    folder = root / name
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{name}: {folder} is a file; {name} is read from a folder of this name")
    try:
        with _no_collection():
            splits = spec.read(folder)
    except MissingFileError as error:
        roots = "" if root.is_dir() else f"\n  The root {root} is missing: set VQR1_DATA, or give --root FOLDER"
        raise MissingFileError(f"{name}: {error}\n  To get it: {spec.fetch.format(folder=folder)}{roots}") from error
    if not splits.all():
        raise UserError(f"{name} in {folder}: no rows ({'; '.join(splits.notes)}); use the authors' label file")
    check_dataset(spec, splits, f"{name} in {folder}")
    if splits.division == "content" and rule != PAPER:
        splits = replace(split_by_group(splits.all(), rule), notes=splits.notes)
    return replace(splits, published=spec.size)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without the search for circles of objects: records form none, and it looks at a million of them ever again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _check_root(root: Path) -> None:
    if root.exists() and not root.is_dir():
        raise UserError(f"the root of the datasets, {root}, is a file; set VQR1_DATA, or give --root FOLDER")


def check_size(name: str, root: Path, splits: Splits, setting: str) -> None:
    """Raises UserError for more or fewer rated pictures than were published, unless ``setting`` is to allow it."""
    found = len(splits.all())
    if splits.published and found != splits.published:
        raise UserError(
            f"{name} in {root / name} has {found} rated pictures where {splits.published} were published; it is "
            f"another version, or a part is missing: get the whole set (vqr1 data check {name} says more), or use it "
            f"as it is with {setting}=true"
        )


def check_dataset(spec: DatasetSpec, splits: Splits, where: str) -> None:
    """Raises UserError for labels that cannot be ranked, a wrong orientation, leaking groups or too small scenes."""
    samples = splits.all()
    check_samples(samples, where)
    check_split(splits, where)
    check_orientation(samples, spec, where)
    if spec.per_group_scale:
        small = [group for group, count in Counter(sample.group for sample in samples).items() if count < 3]
        if small:
            raise UserError(
                f"{where}: {spec.group} {small[0]} has fewer than 3 pictures, and its scores compare with no others: "
                f"no correlation is defined; add its pictures or drop its rows ({len(small)} such in all)"
            )
