"""The figures that the VisualQuality-R1 paper (arXiv 2505.14460) printed, shown with ours as published."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

# Table 2's sets in its order, as the paper calls them; the keys are the names of the readers.
TABLE2 = {
    "bid": "BID",
    "clive": "CLIVE",
    "koniq10k": "KonIQ",
    "spaq": "SPAQ",
    "liu13": "Liu13",
    "sriqa": "SRIQA",
    "min19": "Min19",
    "agiqa3k": "AGIQA-3K",
}
TABLES = {
    "2": "table2_srcc_plcc.csv",  # methods, zero-shot
    "3": "table3_generations_plcc.csv",  # VisualQuality-R1 by K, PLCC only
    "4": "table4_reward_variants.csv",  # reward variants inside the same trainer
}
TRAINED_ON = {"none": "nothing", "zero-shot": "zero-shot", "kadid10k": "KADID-10k", "kadid10k+spaq": "KADID-10k + SPAQ"}

# The remarks needed where a published figure is compared with one of ours.
REMARKS = {
    "clive": "CLIVE: the published rows kept its 7 training pictures (1169 pictures); ours leaves them out (1162)",
    "sriqa": "SRIQA: ours is the mean over scenes, since its scores compare within a scene only; the paper does not "
    "say whether its figures are such means or pooled over scenes",
}

Pair = tuple[float | None, float | None]  # SRCC, PLCC


@dataclass(frozen=True)
class Published:
    """A published row."""

    method: str
    trained_on: str  # as printed
    cells: dict[str, Pair]
    average: Pair
    trained_sets: tuple[str, ...] = ()


def published(table: str) -> list[Published]:
    """The rows of Table 2, 3 or 4. Raises ValueError for another."""
    if table not in TABLES:
        raise ValueError(f"published table {table!r}: choose from {', '.join(TABLES)}")
    text = files("vqr1.evaluation").joinpath("published", TABLES[table]).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [_row(cells) for cells in csv.DictReader(lines)]


def _row(cells: Mapping[str, str]) -> Published:
    method = cells.get("method") or cells.get("variant") or f"VisualQuality-R1, K = {cells['k']}"
    train = cells.get("train", "kadid10k")
    return Published(
        method=method,
        trained_on=TRAINED_ON[train],
        cells={name: _pair(cells[name]) for name in TABLE2},
        average=_pair(cells["avg"]),
        trained_sets=tuple(train.split("+")),
    )


def _pair(text: str) -> Pair:
    """``0.790/0.806`` is SRCC and PLCC; a single number is a PLCC, as in Table 3."""
    first, _, second = text.rpartition("/")
    return (float(first) if first else None, float(second))
