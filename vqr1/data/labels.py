"""Label files as rows that record their file and line: csv, whitespace text, Excel and MATLAB files.

Every complaint names file, row, value and remedy, as UserError.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqr1.errors import UserError


@dataclass(frozen=True)
class LabelRow:
    """One row of a label file."""

    values: Mapping[str, Any]
    where: str  # "path, line 3"

    def text(self, column: str) -> str:
        """A value as text without blanks around it. A whole number of a spreadsheet has no decimals."""
        value = self.values[column]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        text = "" if value is None else str(value).strip()
        if not text:
            raise UserError(f"{self.where}: {column} is empty; fill it in or drop the row")
        return text

    def numbers(self, *columns: str) -> list[float]:
        """The values of ``columns`` as numbers, NaN included: whoever knows the range refuses it."""
        try:
            return [float(self.values[column]) for column in columns]
        except (TypeError, ValueError) as error:
            shown = " and ".join(f"{column} {self.values[column]!r}" for column in columns)
            kind = "numbers" if len(columns) > 1 else "a number"
            raise UserError(f"{self.where}: {shown} must be {kind}; correct or drop the row") from error

    def number(self, column: str) -> float:
        return self.numbers(column)[0]


def within(where: str, name: str, value: float, limits: tuple[float, float]) -> float:
    """``value``, refused where it is not finite or outside ``limits``."""
    low, high = limits
    if not (low <= value <= high and math.isfinite(value)):
        raise UserError(
            f"{where}: {name} {value:g} is outside {low:g} to {high:g}; use the authors' own label file, whose scores "
            "are not rescaled, or correct the row"
        )
    return value


def csv_rows(path: Path, required: Sequence[str], *, exact: bool = False) -> list[LabelRow]:
    """The rows of a csv file with a header that has the ``required`` columns, and with ``exact`` no others."""
    reader = csv.DictReader(io.StringIO(_text(path), newline=""))
    found = [name.strip() for name in reader.fieldnames or []]
    repeated = [name for name, count in Counter(found).items() if count > 1]
    if not set(required) <= set(found) or (exact and found != list(required)) or repeated:
        raise UserError(f"{path}: columns {found}, expected {list(required)}; use the authors' {path.name}")
    reader.fieldnames = found
    rows = []
    for values in reader:
        where = f"{path}, line {reader.line_num}"
        if None in values:
            raise UserError(f"{where}: more values than columns; put quotes around a name that holds a comma")
        rows.append(LabelRow(values, where))
    return rows


def text_rows(path: Path, columns: Sequence[str]) -> list[LabelRow]:
    """The rows of a file without a header whose values are separated by blanks or commas."""
    rows = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        values = line.replace(",", " ").split()
        if not values or values == list(columns):
            continue
        where = f"{path}, line {number}"
        if len(values) != len(columns):
            raise UserError(
                f"{where}: {len(values)} values, expected {len(columns)} ({' '.join(columns)}); use the label file as "
                "it was published"
            )
        rows.append(LabelRow(dict(zip(columns, values, strict=True)), where))
    return rows


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not text in UTF-8 ({error.reason}); save it as UTF-8") from error


def excel_rows(path: Path, required: Sequence[str]) -> list[LabelRow]:
    """The rows below the first row, of any sheet, that holds the names of all ``required`` columns.

    The case of a column's name and blanks around it do not matter; rows that are empty are left out.
    """
    wanted = {_plain(name): name for name in required}
    seen: list[list[str]] = []
    for sheet, cells in _sheets(path):
        for number, header in enumerate(cells):
            names = [_plain(value) for value in header]
            if set(wanted) <= set(names):
                columns = [wanted.get(name, str(header[i]).strip()) for i, name in enumerate(names)]
                return list(_excel_rows(columns, cells[number + 1 :], f"{path}, sheet {sheet}, row", number + 2))
        seen += [[str(value) for value in row if value not in (None, "")] for row in cells[:1]]
    raise UserError(f"{path}: columns {seen}, expected {list(required)}; use the authors' {path.name}")


def _excel_rows(columns: Sequence[str], cells: Sequence[Sequence[Any]], where: str, first: int) -> Iterable[LabelRow]:
    for number, values in enumerate(cells, start=first):
        if any(value not in (None, "") for value in values):
            yield LabelRow(dict(zip(columns, values, strict=False)), f"{where} {number}")


def _plain(value: Any) -> str:
    return " ".join(str(value).split()).casefold()


def _sheets(path: Path) -> list[tuple[str, list[list[Any]]]]:
    """Every sheet's name and cells, by the library for the kind of file."""
    if path.suffix.casefold() == ".xls":
        import xlrd

        try:
            with xlrd.open_workbook(path) as book:
                return [(sheet.name, [sheet.row_values(i) for i in range(sheet.nrows)]) for sheet in book.sheets()]
        except (xlrd.XLRDError, ValueError) as error:
            raise UserError(f"{path}: not a readable xls file ({error}); fetch it again") from error
    from zipfile import BadZipFile

    import openpyxl
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        workbook = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (BadZipFile, InvalidFileException, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a readable xlsx file ({error}); fetch it again") from error
    sheets = [(sheet.title, [list(row) for row in sheet.iter_rows(values_only=True)]) for sheet in workbook.worksheets]
    workbook.close()
    return sheets


def mat_columns(path: Path, *names: str) -> list[list[Any]]:
    """Variables of a MATLAB file as lists of texts or numbers."""
    import numpy as np
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        variables = loadmat(path, squeeze_me=True)
    except (MatReadError, NotImplementedError, ValueError, TypeError, OSError) as error:
        raise UserError(f"{path}: not a readable MATLAB file ({error}); fetch it again") from error
    found = sorted(name for name in variables if not name.startswith("__"))
    if not set(names) <= set(found):
        raise UserError(f"{path}: variables {found}, expected {list(names)}; use the authors' {path.name}")
    return [[_item(value) for value in np.atleast_1d(variables[name]).ravel()] for name in names]


def _item(value: Any) -> Any:
    """A cell of one value, however deep, as a plain text or number."""
    return value.item() if hasattr(value, "item") else value


def same_length(where: str, **columns: Sequence[Any]) -> None:
    """Refuse columns that do not belong together."""
    if len({len(values) for values in columns.values()}) > 1:
        lengths = ", ".join(f"{name} {len(values)}" for name, values in columns.items())
        raise UserError(f"{where}: lengths differ ({lengths}); use label files of one release")
