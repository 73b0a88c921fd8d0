"""Result files for tests, written as ``vqr1 evaluate`` writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vqr1.evaluation.results import ROWS, SETTINGS, ResultRow, SetFacts, make_row


def rows_of(
    dataset: str, n: int, *, noise: float = 1.0, seed: int = 0, groups: int | None = None, k: int = 3
) -> list[ResultRow]:
    """n rows whose scores follow the opinion scores with ``noise``; the opinion scores depend on n alone."""
    mos = np.random.default_rng(n).normal(size=n).round(3)
    scores = mos[:, None] + noise * np.random.default_rng([n, seed]).normal(size=(n, k))
    return [
        make_row(f"{dataset}/{i:05d}.png", dataset, str(i % (groups or n)), float(mos[i]), s.round(2).tolist(), "so")
        for i, s in enumerate(scores)
    ]


def plain_facts(name: str, rows: Sequence[ResultRow]) -> dict[str, Any]:
    return {"title": name.upper(), "pictures": len(rows), "part": "all"}


def write_results(
    folder: Path,
    sets: dict[str, Sequence[ResultRow]],
    *,
    name: str = "model",
    seed: int = 0,
    trained_on: list[str] | None = None,
    facts: dict[str, dict[str, Any]] | None = None,
    **settings: Any,
) -> Path:
    """A result folder that holds ``sets``."""
    folder.mkdir(parents=True)
    described = {
        each: asdict(SetFacts(**{**plain_facts(each, rows), **(facts or {}).get(each, {})}))
        for each, rows in sets.items()
    }
    asked = {"k": 3, "temperature": 1.0, "prompt": "rate", "seed": seed, "weights_sha256": "0", **settings}
    record = {"name": name, "settings": asked, "trained_on": trained_on, "sets": described, "versions": {}}
    (folder / SETTINGS).write_text(json.dumps(record))
    (folder / ROWS).write_text("".join(row.line() for rows in sets.values() for row in rows))
    return folder
