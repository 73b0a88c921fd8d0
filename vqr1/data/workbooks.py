"""Label files of spreadsheet programs and of MATLAB, which say of themselves what they are.

Every complaint names file, sheet, row and remedy, as UserError.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, LargeZipFile, ZipFile

from vqr1.data.files import check_file
from vqr1.data.labels import LabelRow, shortened
from vqr1.errors import UserError

# What the libraries raise of a file that is cut short or was changed, and no more.
UNREADABLE = (BadZipFile, LargeZipFile, zlib.error, struct.error, OSError, EOFError, SyntaxError, NotImplementedError,
              MemoryError, RecursionError, AssertionError, AttributeError, IndexError, KeyError, OverflowError,
              TypeError, ValueError)  # fmt: skip
FETCH = "fetch it again"
LARGEST = 2**27  # bytes of an unpacked xlsx; SPAQ's has 2 million
# Excel's rows and columns, and cells of a sheet: openpyxl fills up with empty ones what a few bytes leave out.
MOST_ROWS, MOST_COLUMNS, MOST_CELLS = 2**20, 2**14, 2**22
SAVE_AS = "open it in a spreadsheet program and save it as {}"
OLDER = "an Excel file of the older kind, xls, or one with a password"
# How a file begins, what it is, and what to do; {0} is the kind that was expected, {1} the file's name.
KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"\xd0\xcf\x11\xe0", OLDER, SAVE_AS),
    (
        b"MATLAB 7.3",
        "a MATLAB 7.3 file, that is HDF5",
        "in MATLAB: x = load('{1}'); save('{1}', '-struct', 'x', '-v7')",
    ),
    (b"\x89HDF", "HDF5, as MATLAB 7.3 writes it", "in MATLAB: x = load('{1}'); save('{1}', '-struct', 'x', '-v7')"),
    (b"version https://git-lfs", "a pointer to a file in git's large file storage", "fetch it with git lfs pull"),
    (b"<", "a web page or other markup", FETCH),
)


def excel_rows(path: Path, required: Sequence[str]) -> list[LabelRow]:
    """The rows below the first row, of any sheet, that holds the names of all ``required`` columns.

    The case of a column's name and blanks around it do not matter; rows that hold nothing below a name are left out.
    """
    wanted = {plain(name): name for name in required}
    seen: dict[str, list[str]] = {}  # the first row of each sheet
    for sheet, rows in _sheets(path):
        columns: list[tuple[int, str]] = []
        found: list[LabelRow] = []
        for number, values in rows:
            where = f"{path}, sheet {sheet}, row {number}"
            if columns:
                row = {name: values[i] if i < len(values) else None for i, name in columns}
                if any(value not in (None, "") for value in row.values()):
                    found.append(LabelRow(row, where))
                continue
            names = [plain(value) for value in values]
            if set(wanted) <= set(names):
                columns = [(i, wanted.get(name, str(values[i]).strip())) for i, name in enumerate(names) if name]
                _refuse_repeated(where, [name for _, name in columns if name in required])
            elif sheet not in seen:
                seen[sheet] = [str(value) for value in values if value not in (None, "")]
        if columns:
            return found
    raise UserError(f"{path}: columns {[*seen.values()]}, expected {list(required)}; use the authors' {path.name}")


def _refuse_repeated(where: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{where}: {names.count(name)} columns are called {name}; keep the one that holds it")


def plain(value: Any) -> str:
    """A column's name without what people write differently; empty for an empty cell."""
    return "" if value is None else " ".join(str(value).split()).casefold()


Rows = Iterator[tuple[int, Sequence[Any]]]


def _sheets(path: Path) -> Iterator[tuple[str, Rows]]:
    """Every sheet's name and its rows that hold something, numbered as a spreadsheet program does, one after the other.

    By the library for the ending of the file's name.
    """
    kind = "xls" if path.suffix.casefold() == ".xls" else "xlsx"
    check_kind(path, kind)
    try:
        yield from _xls(path) if kind == "xls" else _xlsx(path)
    except UserError:
        raise
    except UNREADABLE as error:
        raise UserError(f"{path}: not a readable {kind} file ({error}); {FETCH}") from error


def _xls(path: Path) -> Iterator[tuple[str, Rows]]:
    import xlrd

    try:
        with xlrd.open_workbook(path, logfile=io.StringIO(), ragged_rows=True) as book:
            for sheet in book.sheets():
                yield sheet.name, _filled(path, "xls", (map(_xls_value, sheet.row(i)) for i in range(sheet.nrows)))
    except (xlrd.XLRDError, xlrd.compdoc.CompDocError) as error:
        raise UserError(f"{path}: not a readable xls file ({error}); {FETCH}") from error


def _xls_value(cell: Any) -> Any:
    """A cell's value: xlrd gives a truth as 0 or 1, and an error as its number, 0 for #NULL! and 42 for #N/A."""
    import xlrd

    if cell.ctype == xlrd.XL_CELL_BOOLEAN:
        return bool(cell.value)
    return xlrd.error_text_from_code.get(cell.value, "#") if cell.ctype == xlrd.XL_CELL_ERROR else cell.value


def _xlsx(path: Path) -> Iterator[tuple[str, Rows]]:
    import openpyxl

    with ZipFile(path) as archive:
        size = sum(inner.file_size for inner in archive.infolist())
    if size > LARGEST:
        raise UserError(f"{path}: unpacked it has {size} bytes, and {LARGEST} are the most; {FETCH}")
    workbook = openpyxl.load_workbook(path, read_only=True, data_only=True)
    try:
        for sheet in workbook.worksheets:
            # A sheet says how large it is, and some programs write it wrongly. Too small, rows would be lost; too
            # large, by one stray cell in the last column, every row would be filled up to 16,384 cells.
            sheet.reset_dimensions()
            yield sheet.title, _filled(path, "xlsx", sheet.iter_rows(values_only=True))
    finally:
        workbook.close()


def _filled(path: Path, kind: str, rows: Iterator[Iterable[Any]]) -> Rows:
    """The rows that hold something, numbered from 1. A sheet is read as its rows are asked for, errors included."""
    number = cells = 0
    try:
        for number, row in enumerate(rows, start=1):
            values = tuple(row)
            cells += len(values)
            if number > MOST_ROWS or len(values) > MOST_COLUMNS or cells > MOST_CELLS:
                raise UserError(
                    f"{path}: row {number} is beyond the {MOST_ROWS} rows and {MOST_COLUMNS} columns a sheet has, or "
                    f"the {MOST_CELLS} cells that are read of one; {FETCH}"
                )
            # Counting takes no time, and there may be many empty rows.
            if values.count(None) < len(values) and any(value is not None and value != "" for value in values):
                yield number, values
    except UserError:
        raise
    except UNREADABLE as error:
        raise UserError(f"{path}: not a readable {kind} file, after row {number} ({error}); {FETCH}") from error


def mat_columns(path: Path, *names: str) -> list[list[Any]]:
    """Variables of a MATLAB file as lists of texts or numbers."""
    from vqr1.data.matlab import DamagedError, read_variables

    check_kind(path, "MATLAB")
    try:
        variables = read_variables(path.read_bytes())
    except DamagedError as error:
        raise UserError(f"{path}: not a readable MATLAB file ({error}); {error.remedy or FETCH}") from error
    found = sorted(variables)
    if not {name for name in names if variables.get(name) is not None} >= set(names):
        raise UserError(
            f"{path}: variables {shortened(str(found), 300)}, expected {list(names)}, of numbers, texts or cells; use "
            f"the authors' {path.name}"
        )
    columns = (variables[name] for name in names)
    return [[_item(value) for value in (each if isinstance(each, list) else each.ravel())] for each in columns]


def _item(value: Any) -> Any:
    """A cell of one value, however deep, as a plain text or number."""
    if isinstance(value, list):
        return _item(value[0]) if len(value) == 1 else value
    return value.item() if hasattr(value, "item") and value.size == 1 else value


def check_kind(path: Path, kind: str) -> None:
    """Refuse a file that its first bytes show not to be of ``kind`` (xls, xlsx or MATLAB), saying what it is."""
    check_file(path)
    try:
        with path.open("rb") as file:
            start = file.read(1024)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a file that can be read") from error
    found = _other_kind(start, kind, path)
    if found is not None:
        what, remedy = found
        raise UserError(f"{path}: not a readable {kind} file (it is {what}); {remedy.format(kind, path.name)}")


def _other_kind(start: bytes, kind: str, path: Path) -> tuple[str, str] | None:
    """What a file is and what to do about it, unless it may be of ``kind``."""
    if not start:
        return "an empty file", FETCH
    if start.startswith(b"PK"):
        if kind == "xlsx":
            return None
        newer = f"give it the name {path.stem}.xlsx" if kind == "xls" else "use the authors' file"
        return "an Excel file of the newer kind, xlsx, or another zip archive", newer
    for mark, what, remedy in KINDS:
        if start.lstrip().startswith(mark) and (what, kind) != (OLDER, "xls"):
            return what, remedy
    if kind != "MATLAB" and b"\0" not in start:
        return "a text file", SAVE_AS
    return None
