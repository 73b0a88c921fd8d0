"""Label files as rows that record their file and line: csv and whitespace text; others: :mod:`vqr1.data.workbooks`.

Every complaint names file, row, value and remedy, as UserError.
"""

from __future__ import annotations

import csv
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vqr1.data.files import read_text
from vqr1.errors import UserError, printable

# A number as people write one. float() also takes 1_000 and the digits of every script.
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE)
NO_NUMBER = (TypeError, ValueError, OverflowError)
AUTHORS = "use the authors' own label file, whose scores are not rescaled, or correct the row"
ONE_RELEASE = "use label files of one release"
PUBLISHED_FILE = "use the label file as it was published"

csv.field_size_limit(sys.maxsize)  # a comment of any length is no reason to refuse a file
ROUNDING = 1e-9  # of a range, that a value may be beyond it


class LabelRow(NamedTuple):
    """One row of a label file."""

    values: Mapping[str, Any]
    where: str  # "path, line 3"
    decimal_comma: frozenset[str] = frozenset()  # columns whose numbers are written 3,5

    def text(self, column: str) -> str:
        """A value as text without blanks around it. A whole number of a spreadsheet has no decimals."""
        value = self.values[column]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if hasattr(value, "__len__") and not isinstance(value, str):  # a cell of several values
            raise UserError(f"{self.where}: {column} {shortened(repr(value))} is no text; correct or drop the row")
        text = "" if value is None else str(value).strip()
        if not text:
            raise UserError(f"{self.where}: {column} is empty; fill it in or drop the row")
        return text

    def numbers(self, *columns: str) -> list[float]:
        """The values of ``columns`` as numbers, NaN included: whoever knows the range refuses it."""
        try:
            return [self._number(column) for column in columns]
        except NO_NUMBER as error:
            raise self._refusal(columns) from error

    def number(self, column: str) -> float:
        try:
            return self._number(column)
        except NO_NUMBER as error:
            raise self._refusal((column,)) from error

    def _refusal(self, columns: Sequence[str]) -> UserError:
        values = [self.values[column] for column in columns]
        shown = " and ".join(
            f"{column} {shortened(repr(value))}" for column, value in zip(columns, values, strict=True)
        )
        kind = "numbers" if len(columns) > 1 else "a number"
        comma = any("," in str(value) for value in values)
        advice = ", with a decimal point in the whole column" if comma else ""
        return UserError(f"{self.where}: {shown} must be {kind}{advice}; correct or drop the row")

    def _number(self, column: str) -> float:
        value = self.values[column]
        if isinstance(value, bool):  # float(True) is 1, and a truth is no score
            raise TypeError
        if isinstance(value, str):
            value = value.strip().replace(",", ".") if column in self.decimal_comma else value.strip()
            if not NUMBER.fullmatch(value):
                raise ValueError
        return float(value)


def shortened(text: str, longest: int = 80) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def within(where: str, name: str, value: float, limits: tuple[float, float], remedy: str = AUTHORS) -> float:
    """``value``, refused where it is not finite or outside ``limits``.

    What float arithmetic leaves beyond an end (SRIQA-Bench has 100.00000000000001) is that end.
    """
    low, high = limits
    slack = ROUNDING * (high - low) if math.isfinite(high - low) else 0.0
    if not (low - slack <= value <= high + slack and math.isfinite(value)):
        raise UserError(f"{where}: {name} {value:g} is outside {low:g} to {high:g}; {remedy}")
    return min(max(value, low), high)


def csv_rows(path: Path, required: Sequence[str], *, exact: bool = False, remedy: str | None = None) -> list[LabelRow]:
    """The rows of a csv file with a header that has the ``required`` columns, and with ``exact`` no others.

    Values are separated by commas, or by semicolons or tabs where those give the required columns. Numbers may have a
    decimal comma where a column has no point and, unless semicolons separate, no number that may be thousands.
    ``remedy`` is the advice for other columns.
    """
    lines = [f"{line}\n" for line in read_text(path).split("\n")]
    declared = re.fullmatch(r'"?sep=([,;\t|])"?\n', lines[0])  # as Excel may begin a file
    skipped = 1 if declared else 0
    separator = declared[1] if declared else _separator(lines[0], required)
    records = _records(path, lines[skipped:], separator, skipped)
    _, header = next(records, (1, []))
    found = [name.strip() for name in header]
    repeated = [name for name in required if found.count(name) > 1]
    if not set(required) <= set(found) or (exact and found != list(required)) or repeated:
        advice = remedy or f"use the authors' {path.name}"
        raise UserError(f"{path}: columns {shortened(str(found), 300)}, expected {list(required)}; {advice}")
    rows = []
    for number, values in records:
        where = f"{path}, line {number}"
        if not any(map(str.strip, values)):
            continue
        if len(values) > len(found):
            raise UserError(
                f"{where}: more values than columns; put quotes around a name that holds a comma, and write numbers "
                "with a decimal point"
            )
        row: dict[str, str | None] = dict(zip(found, values, strict=False))
        if len(values) < len(found):
            row = dict.fromkeys(found) | row
        for name in required:
            if "\n" in (row[name] or ""):
                raise UserError(f"{where}: a quote that is opened here goes on over the end of the line; close it")
        rows.append((row, where))
    commas = frozenset(name for name in required if _has_decimal_comma([row[name] for row, _ in rows], separator))
    return [LabelRow(row, where, commas) for row, where in rows]


def _separator(header: str, required: Sequence[str]) -> str:
    for separator in ",;\t":
        names = next(csv.reader([header], delimiter=separator, skipinitialspace=True), [])
        if set(required) <= {name.strip() for name in names}:
            return separator
    return ","


def _records(path: Path, lines: Sequence[str], separator: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """Each record with the line that it begins on. Raises UserError for quotes that do not close."""
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    number = 1 + skipped
    try:
        for values in reader:
            yield number, values
            number = reader.line_num + 1 + skipped
    except csv.Error as error:
        raise UserError(
            f"{path}, line {number}: a quote that is opened here is not closed before a separator "
            f"({printable(str(error))}); correct the quotes of this line"
        ) from error


def _has_decimal_comma(values: Sequence[str | None], separator: str) -> bool:
    """Whether a column's commas can only be decimal ones: it has no point, and nothing like the thousands of 1,234.

    Semicolons are what programs write where the comma is a decimal one; tabs and commas, where it is one of thousands.
    """
    texts = [value.strip() for value in values if value and "," in value]
    return (
        any(re.fullmatch(r"[+-]?\d+,\d+", text) for text in texts)
        and not any("." in value for value in values if value)
        and not (separator != ";" and any(re.fullmatch(r"[+-]?[1-9]\d{0,2}(,\d{3})+", text) for text in texts))
    )


def text_rows(path: Path, columns: Sequence[str], remedy: str = PUBLISHED_FILE) -> list[LabelRow]:
    """The rows of a file without a header whose values are separated by blanks or commas."""
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        values = line.replace(",", " ").split()
        if not values or values == list(columns):
            continue
        where = f"{path}, line {number}"
        if len(values) != len(columns):
            raise UserError(f"{where}: {len(values)} values, expected {len(columns)} ({' '.join(columns)}); {remedy}")
        if re.search(r"\d,\d", line):
            raise UserError(
                f"{where}: {shortened(repr(line.strip()))} has a comma between digits, which may be in a number or "
                "between two; write numbers with a decimal point, and a blank behind a comma that separates values"
            )
        rows.append(LabelRow(dict(zip(columns, values, strict=True)), where))
    return rows


def same_length(where: str, **columns: Sequence[Any]) -> None:
    """Refuse columns that do not belong together."""
    if len({len(values) for values in columns.values()}) > 1:
        lengths = ", ".join(f"{name} {len(values)}" for name, values in columns.items())
        raise UserError(f"{where}: lengths differ ({lengths}); {ONE_RELEASE}")
