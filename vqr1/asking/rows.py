"""Rows of a published file of questions, and their fields: each refusal names file, row and remedy."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from vqr1.data.files import read_text, trouble
from vqr1.data.reading import path_below
from vqr1.errors import UserError


@dataclass(frozen=True)
class Row:
    """One row of a file."""

    file: Path
    number: int  # from 1
    fields: dict[str, Any]

    @property
    def where(self) -> str:
        return f"{self.file}, row {self.number}"

    def wrong(self, what: str) -> UserError:
        return UserError(f"{self.where}: {what}")

    def text(self, name: str) -> str:
        """A field that is a text. Raises UserError where it is missing, null, empty or another kind of thing."""
        value = self.fields.get(name)
        if not _is_text(value) or not value.strip():
            raise self.wrong(f"{name} is {_shown(self.fields, name)}; give a text, or leave the row out")
        return value

    def texts(self, name: str) -> list[str]:
        """A field that is a list of texts. Raises UserError for anything else."""
        value = self.fields.get(name)
        if not isinstance(value, list) or not all(map(_is_text, value)):
            raise self.wrong(f"{name} is {_shown(self.fields, name)}; give a list of texts, or leave the row out")
        return value


@dataclass(frozen=True)
class Pictures:
    """Where the pictures of a file are."""

    folder: Path

    def find(self, row: Row, name: str, value: Any) -> str:
        """The path of the picture that field ``name`` of a row names. Raises UserError where there is none."""
        if isinstance(value, dict):  # a picture of a table of the hub: its bytes, and perhaps a path
            value = value.get("path")
        if not isinstance(value, str) or not value.strip():
            raise row.wrong(f"{name} is {value!r} and names no picture; give its path, or leave the row out")
        path = self.folder / value
        if Path(value).parts and not Path(value).is_absolute():  # a whole path says nothing of the folder
            path_below(self.folder, value, f"{row.where}: {name}")
        if why := trouble(path):
            raise row.wrong(
                f"{name} names {value}, and {path} {why}; unpack the pictures there, or name the folder that "
                "holds them with --images"
            )
        return str(path)


def read_rows(path: Path) -> list[Row]:
    """The rows of a file: a JSON list of objects, or an object a line. Raises UserError."""
    content = read_text(
        path,
        remedy="give as --file a file of questions as its authors distribute it",
        as_text="export a table of the hub by its to_json first",
    )
    rows = _of_list(path, content) if content.lstrip().startswith("[") else _of_lines(path, content)
    if not rows:
        raise UserError(f"{path}: no rows; fetch it again")
    for number, fields in enumerate(rows, 1):
        if not isinstance(fields, dict):
            raise UserError(f"{path}, row {number}: {str(fields)[:80]!r} is no object; fetch the file again")
    return [Row(path, number, fields) for number, fields in enumerate(rows, 1)]


def _of_list(path: Path, content: str) -> list[Any]:
    try:
        return list(json.loads(content))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); fetch it again") from error


def _of_lines(path: Path, content: str) -> list[Any]:
    rows = []
    for number, line in enumerate(content.split("\n"), 1):  # not at U+2028, which JSON has in texts
        try:
            rows += [json.loads(line)] if line.strip() else []
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not JSON ({error}); fetch it again") from error
    return rows


def _is_text(value: Any) -> TypeGuard[str]:
    """Whether a value is a text that can be written: JSON may hold half a surrogate pair."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _shown(fields: dict[str, Any], name: str) -> str:
    return f"{str(fields[name])[:80]!r}" if name in fields else "missing"
