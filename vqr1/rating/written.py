"""The files that ``vqr1 rate`` writes, and what it keeps beside them while it is not done.

The ratings go, as they come, into the folder FILE.unfinished; when all are there, FILE is written at once and the
folder is removed. A command that was killed and is given again goes on with the folder, and its FILE is the same as if
it had not been killed.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TextIO

from vqr1.command_options import written
from vqr1.errors import UserError
from vqr1.evaluation.scale import Scale
from vqr1.folder_writer import LOCK, FolderWriter, read_json_lines, remove, replaced
from vqr1.rating.rating import Rating
from vqr1.rating.scales import mos_of

ASKED, ROWS = "asked.json", "ratings.jsonl"
Rated = tuple[str, Rating]  # a path and its rating


class Unfinished:
    """The ratings so far of one command, held by one process at a time."""

    def __init__(self, option: str, target: Path):
        """``option`` names the target, for messages."""
        self.option, self.target = option, target
        self.path = target.with_name(target.name + ".unfinished")
        self._writer = FolderWriter(self.path, other=option)

    def open(self, asked: dict[str, Any]) -> dict[str, Rating]:
        """Hold the folder. Returns the ratings that are there, by path; pictures that failed are tried again.

        ``asked`` is what decides the ratings, as JSON. Raises UserError where the target is there and finished, where
        the folder holds the ratings of something else, is held by another process or cannot be written.
        """
        if self.target.exists() and not self.path.is_dir():
            raise UserError(f"{self.target} is there already; give another file, or delete it to rate again")

        def acquire() -> dict[str, Rating]:
            self._writer.refuse_held()
            self._check_same(asked)
            self._writer.acquire()
            self._writer.write_text(ASKED, json.dumps(asked, indent=2) + "\n")
            kept, whole = self._read()
            self._writer.write_text(ROWS, whole)
            return kept

        try:
            return written(self.option, self.path, acquire)
        except BaseException:
            self.close()
            raise

    def append(self, rated: Iterable[Rated]) -> None:
        """On the disk when this returns."""
        lines = [json.dumps({"path": path, "file": stamp(path), **asdict(rating)}) for path, rating in rated]
        self._writer.append(ROWS, "".join(f"{line}\n" for line in lines))

    def finish(self) -> None:
        """Remove the folder: the files are written."""
        remove(self.path)

    def close(self) -> None:
        self._writer.close()

    def _check_same(self, asked: dict[str, Any]) -> None:
        where = self.path / ASKED
        if not where.is_file():
            found = {file.name for file in self.path.iterdir()} if self.path.is_dir() else set()
            if found - {LOCK, f"{ASKED}.new"}:
                raise UserError(f"{self.path} holds other files; give another file to write, or move the folder away")
            return
        try:
            before = dict(json.loads(where.read_text()))
        except (ValueError, TypeError) as error:
            raise UserError(f"{where}: not what was asked ({error}); delete {self.path} to rate again") from error
        for key in dict.fromkeys([*asked, *before]):
            if before.get(key) != asked.get(key):
                raise UserError(
                    f"{self.path} holds ratings with {key} = {before.get(key)!r}, and now it is {asked.get(key)!r}; go "
                    "on with the same settings, give another file to write, or delete the folder to rate again"
                )

    def _read(self) -> tuple[dict[str, Rating], str]:
        """The ratings that hold, by path, and their lines."""
        kept: dict[str, Rating] = {}
        lines = []
        for number, row in enumerate(read_json_lines(self.path / ROWS), 1):
            try:
                path, file = row["path"], row["file"]
                rating = Rating(**{each.name: row[each.name] for each in fields(Rating)})
            except KeyError as error:
                where = f"{self.path / ROWS}, line {number}"
                raise UserError(f"{where}: no rating ({error} is missing); delete {self.path} to rate again") from error
            if file == stamp(path) and rating.status != "failed":
                kept[path] = rating
                lines.append(json.dumps(row) + "\n")
        return kept, "".join(lines)


def stamp(path: str) -> list[int]:
    """Size and time of change of a file, [] where there is none: a picture that has changed is rated again."""
    try:
        found = Path(path).stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]


def write_csv(path: Path, rated: Iterable[Rated], reasoning: bool, scale: Scale | None = None) -> None:
    """A line per picture: path, score, std, answers, status, MOS and reasoning if asked for; empty where is none."""

    def write(file: TextIO) -> None:
        table = csv.writer(file, lineterminator="\n")
        asked = [*["mos"] * bool(scale), *["reasoning"] * reasoning]
        table.writerow(["path", "score", "std", "answers", "status", *asked])
        for name, each in rated:
            more = [*([mos_of(scale, each)] if scale else []), *[each.reasoning] * reasoning]
            table.writerow([name, each.score, each.std, each.answers, each.status, *more])

    _write("--csv", path, write)


def write_jsonl(path: Path, rated: Iterable[Rated], scale: Scale | None = None) -> None:
    """An object per picture: path, the fields of :class:`vqr1.rating.rating.Rating` and, if asked for, the MOS."""

    def write(file: TextIO) -> None:
        for name, each in rated:
            mos = {"mos": mos_of(scale, each)} if scale else {}
            file.write(json.dumps({"path": name, **asdict(each), **mos}) + "\n")

    _write("--jsonl", path, write)


def _write(option: str, path: Path, write: Callable[[TextIO], None]) -> None:
    """At once or not at all. A name that is not UTF-8 is written as the bytes it is."""

    def whole() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as new, new.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            write(file)

    written(option, path, whole)
