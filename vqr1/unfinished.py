"""What a command keeps of its rows while its file is not done: the folder FILE.unfinished beside it.

When all rows are there, FILE is written at once and the folder is removed. A command that was killed and is given again
goes on with the folder, and its FILE is the same as if it had not been killed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, TextIO, TypeVar

from vqr1.command_options import written
from vqr1.errors import UserError
from vqr1.folder_reader import read_json
from vqr1.folder_writer import LOCK, OLD, FolderWriter, read_json_lines, remove, replaced

ASKED = "asked.json"
Kept = TypeVar("Kept")
ReadRow = Callable[[dict[str, Any]], tuple[str, Kept] | None]


class Unfinished(Generic[Kept]):
    """The rows so far of one command, held by one process at a time."""

    def __init__(
        self, option: str, target: Path, *, what: str, again: str, read: ReadRow[Kept], beside: Iterable[Path] = ()
    ):
        """
        Args:
            option: of the command line that names ``target``, for messages.
            beside: the other files that the command writes when all rows are there.
            what: the rows are called, such as ``ratings``; the folder's file of them is WHAT.jsonl.
            again: what the command does, such as ``rate``.
            read: the key and the content of a row, None for one that holds no more; raises KeyError, TypeError or
                ValueError for a row that is none.
        """
        self.option, self.target = option, target
        self.path = target.with_name(target.name + ".unfinished")
        self._old = self.path.with_name(self.path.name + OLD)
        self._what, self._again, self._read_row = what, again, read
        self._targets = [target, *beside]
        self._rows = f"{what}.jsonl"
        self._writer = FolderWriter(self.path, other=option)

    def open(self, asked: dict[str, Any]) -> dict[str, Kept]:
        """Hold the folder. Returns what is there and holds, by keys.

        ``asked`` is what decides the rows, as JSON. Raises UserError where nothing is unfinished and a target is there,
        where the folder holds the rows of something else, is held by another process or cannot be written.
        """
        remove(self._old)  # of a command that was killed when it had finished
        if not self.path.is_dir():
            refuse_finished(self._targets, self._again)

        def acquire() -> dict[str, Kept]:
            self._writer.refuse_held()
            self._check_same(asked)
            self._writer.acquire()
            self._writer.write_text(ASKED, json.dumps(asked, indent=2) + "\n")
            kept, whole = self._read()
            self._writer.write_text(self._rows, whole)
            return kept

        try:
            return written(self.option, self.path, acquire)
        except BaseException:
            self.close()
            raise

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """On the disk when this returns."""
        self._writer.append(self._rows, "".join(f"{json.dumps(row)}\n" for row in rows))

    def finish(self) -> None:
        """Remove the folder: the file is written. It loses its name first: half of it could not be gone on with."""
        remove(self._old)
        self.path.rename(self._old)
        remove(self._old)

    def close(self) -> None:
        self._writer.close()

    def _check_same(self, asked: dict[str, Any]) -> None:
        where = self.path / ASKED
        if not where.is_file():
            found = {file.name for file in self.path.iterdir()} if self.path.is_dir() else set()
            if found - {LOCK, f"{ASKED}.new"}:
                raise UserError(f"{self.path} holds other files; give another file to write, or move the folder away")
            return
        before = read_json(where, f"delete {self.path} to {self._again} again")
        for key in dict.fromkeys([*asked, *before]):
            if before.get(key) != asked.get(key):
                raise UserError(
                    f"{self.path} holds {self._what} with {key} = {before.get(key)!r}, and now it is "
                    f"{asked.get(key)!r}; go on with the same settings, give another file to write, or delete the "
                    f"folder to {self._again} again"
                )

    def _read(self) -> tuple[dict[str, Kept], str]:
        """What holds, and its lines."""
        kept: dict[str, Kept] = {}
        lines = []
        for number, row in enumerate(read_json_lines(self.path / self._rows), 1):
            try:
                found = self._read_row(row)
            except (KeyError, TypeError, ValueError) as error:
                where, why = f"{self.path / self._rows}, line {number}", " ".join(str(error).split())[:300]
                raise UserError(
                    f"{where}: not one of the {self._what} ({why}); delete {self.path} to {self._again} again"
                ) from error
            if found is not None:
                kept[found[0]] = found[1]
                lines.append(json.dumps(row) + "\n")
        return kept, "".join(lines)


def refuse_finished(targets: Iterable[Path], again: str) -> None:
    """Raises UserError for a file that is there: another command's, which may have taken hours. ``again``: as above."""
    for target in targets:
        if os.path.exists(target):  # noqa: PTH110 - Path.exists raises for a name that no file can have
            raise UserError(f"{target} is there already; give another file, or delete it to {again} again")


def stamp(path: str) -> list[int]:
    """Size and time of change of a file, [] where there is none: what was made of a changed picture holds no more."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError):  # the latter for a name that no file can have
        return []
    return [found.st_size, found.st_mtime_ns]


def write_whole(option: str, path: Path, write: Callable[[TextIO], None]) -> None:
    """A file at once or not at all. A name that is not UTF-8 is written as the bytes it is.

    ``option`` names the file, for the UserError where it cannot be written.
    """

    def whole() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as new, new.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            write(file)

    written(option, path, whole)


def write_lines(option: str, path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """JSON lines, as `write_whole`."""
    write_whole(option, path, lambda file: file.writelines(json.dumps(row) + "\n" for row in rows))
