"""The answers so far of one command, in the folder FILE.unfinished beside the file that they become.

A command that was killed and is given again goes on with the folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vqr1.asking.prompts import Prompt
from vqr1.command_options import written
from vqr1.errors import UserError
from vqr1.folder_writer import LOCK, FolderWriter, read_json_lines, remove, replaced

ASKED, ROWS = "asked.json", "answers.jsonl"
OPTION = "--jsonl"


class Unfinished:
    """Answers by the keys of their prompts, held by one process at a time."""

    def __init__(self, target: Path):
        self.target = target
        self.path = target.with_name(target.name + ".unfinished")
        self._writer = FolderWriter(self.path, other=OPTION)

    def open(self, asked: dict[str, Any], prompts: Mapping[str, Prompt]) -> dict[str, str]:
        """Hold the folder. Returns the answers that are there, but for those whose pictures have changed.

        ``asked`` is what decides the answers, as JSON. Raises UserError where the target is there and finished, where
        the folder holds other answers, is held by another process or cannot be written.
        """
        if self.target.exists() and not self.path.is_dir():
            raise UserError(f"{self.target} is there already; give another file, or delete it to ask again")

        def acquire() -> dict[str, str]:
            self._writer.refuse_held()
            self._check_same(asked)
            self._writer.acquire()
            self._writer.write_text(ASKED, json.dumps(asked, indent=2) + "\n")
            kept, whole = self._read(prompts)
            self._writer.write_text(ROWS, whole)
            return kept

        try:
            return written(OPTION, self.path, acquire)
        except BaseException:
            self.close()
            raise

    def append(self, answered: Iterable[tuple[Prompt, str]]) -> None:
        """On the disk when this returns."""
        lines = [
            json.dumps({"key": prompt.key, "answer": answer, "files": stamps(prompt.pictures)})
            for prompt, answer in answered
        ]
        self._writer.append(ROWS, "".join(f"{line}\n" for line in lines))

    def finish(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write the file, and remove the folder."""
        write_lines(OPTION, self.target, rows)
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
            raise UserError(f"{where}: not what was asked ({error}); delete {self.path} to ask again") from error
        for key in dict.fromkeys([*asked, *before]):
            if before.get(key) != asked.get(key):
                raise UserError(
                    f"{self.path} holds answers with {key} = {before.get(key)!r}, and now it is {asked.get(key)!r}; go "
                    "on with the same settings, give another file to write, or delete the folder to ask again"
                )

    def _read(self, prompts: Mapping[str, Prompt]) -> tuple[dict[str, str], str]:
        """The answers that hold, and their lines."""
        kept: dict[str, str] = {}
        lines = []
        for number, row in enumerate(read_json_lines(self.path / ROWS), 1):
            try:
                key, answer, files = row["key"], row["answer"], row["files"]
                pictures = prompts[key].pictures
            except KeyError as error:
                where = f"{self.path / ROWS}, line {number}"
                raise UserError(f"{where}: no answer ({error}); delete {self.path} to ask again") from error
            if files == stamps(pictures):
                kept[key] = answer
                lines.append(json.dumps(row) + "\n")
        return kept, "".join(lines)


def write_lines(option: str, path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """A file of JSON lines, at once or not at all. ``option`` names it, for messages."""

    def whole() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as new, new.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    written(option, path, whole)


def stamps(pictures: Sequence[str]) -> list[list[int]]:
    """Size and time of change of files, [] for one that is missing."""

    def stamp(path: str) -> list[int]:
        try:
            found = Path(path).stat()
        except OSError:
            return []
        return [found.st_size, found.st_mtime_ns]

    return [stamp(path) for path in pictures]
