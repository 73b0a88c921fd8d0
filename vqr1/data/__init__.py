"""The datasets by name. ``DATASETS[name].read(folder)`` gives a dataset's records, split by content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vqr1.data.sample import Sample, Splits, check_samples

__all__ = ["DATASETS", "DatasetSpec", "Sample", "Splits", "read_dataset"]


@dataclass(frozen=True)
class DatasetSpec:
    """What is known of a dataset before it is read."""

    name: str
    range: tuple[float, float]  # of its opinion scores, as published
    read: Callable[[Path], Splits]
    fetch: str  # where to get it and what to put where


def _demonstration(name: str) -> Callable[[Path], Splits]:
    def read(folder: Path) -> Splits:
        from vqr1.data.demonstration import read_demonstration

        return read_demonstration(name, folder)

    return read


def _kadid10k(folder: Path) -> Splits:
    from vqr1.data.kadid10k import read_kadid10k

    return read_kadid10k(folder)


_DRAWN_HERE = "made at first use, nothing to fetch"

DATASETS = {
    spec.name: spec
    for spec in (
        DatasetSpec("demo_five", (1.0, 5.0), _demonstration("demo_five"), _DRAWN_HERE),
        DatasetSpec("demo_hundred", (0.0, 100.0), _demonstration("demo_hundred"), _DRAWN_HERE),
        DatasetSpec(
            "kadid10k",
            (1.0, 5.0),
            _kadid10k,
            "download kadid10k.zip from the KADID-10k page of the University of Konstanz and unpack it, so that "
            "dmos.csv and the folder images lie in {folder}",
        ),
    )
}


def read_dataset(name: str, root: Path) -> Splits:
    """One dataset's records, checked.

    Raises ValueError for an unknown name or labels that cannot be ranked, FileNotFoundError, saying what to fetch and
    where to put it, where the dataset is missing.
    """
    if name not in DATASETS:
        raise ValueError(f"data: no dataset is called {name}; choose from {', '.join(DATASETS)}")
    spec = DATASETS[name]
    folder = root / name
    try:
        splits = spec.read(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name}: {error}\n  To get it: {spec.fetch.format(folder=folder)}") from error
    check_samples([*splits.train, *splits.validation, *splits.test], f"{name} in {folder}")
    return splits
