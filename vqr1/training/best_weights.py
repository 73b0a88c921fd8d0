"""``best/``: the weights of the best evaluated step, also after a run was killed and resumed.

A run resumed from a checkpoint goes back behind later evaluations, and the best weights with it. So where better ones
are found, those in ``best/`` are kept as ``best-N/`` for as long as there is a checkpoint at which they were the best.
A folder of weights says in ``step.json`` which step it is of.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from vqr1.folder_reader import read_json
from vqr1.folder_writer import NEW, put_in_place, remove, replaced


def best_step(rows: Iterable[dict[str, Any]], validation: Collection[str], until: float = float("inf")) -> int | None:
    """The evaluated step up to ``until`` with the best mean SRCC over the validation sets, the earliest of equals."""
    scored = []
    for row in rows:
        values = [row[key] for name in validation if row.get(key := f"eval/{name}/srcc") is not None]
        if values and len(values) == len(validation) and row["step"] <= until:
            scored.append((-sum(values), row["step"]))
    return min(scored)[1] if scored else None


class BestWeights:
    """The folders ``best`` and ``best-N`` of a run folder. One rank calls this."""

    def __init__(self, run: Path):
        self.path = run / "best"

    def step(self) -> int | None:
        """The step that ``best/`` is of; None where there is none."""
        return _step(self.path)

    def put(self, step: int, kept: Collection[int]) -> None:
        """Let ``best.new/``, the weights of ``step``, become ``best/``, whose own are kept if of a step in ``kept``."""
        new = self.path.with_name(self.path.name + NEW)
        with replaced(new / "step.json") as file:
            file.write_text(json.dumps({"step": step}) + "\n")
        before = self.step()
        if before is not None and before in kept and before != step:
            remove(self._of(before))
            self.path.rename(self._of(before))
        put_in_place(self.path)

    def restore(self, step: int | None, kept: Collection[int]) -> bool:
        """Let ``best/`` be of ``step``, or of none. Returns False where these weights are gone."""
        if self.step() != step or step is None:
            remove(self.path)
            if step is not None and _step(self._of(step)) == step:
                self._of(step).rename(self.path)
        self.prune(kept)
        return self.step() == step

    def prune(self, kept: Collection[int]) -> None:
        """Remove every ``best-N/`` but those of the steps ``kept``."""
        for path in self._earlier():
            if _step(path) not in kept:
                remove(path)

    def _of(self, step: int) -> Path:
        return self.path.with_name(f"best-{step}")

    def _earlier(self) -> Sequence[Path]:
        return sorted(self.path.parent.glob("best-*"))


def _step(weights: Path) -> int | None:
    file = weights / "step.json"
    remedy = f"restore the file, or delete {weights}"
    return int(read_json(file, remedy, step=int)["step"]) if file.is_file() else None
