"""The label files of published sets in miniature: where a score is, the same content written otherwise, and spoilt."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import xlrd
import xlwt
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from tests.support.faults_fuzz import encoded, spoilt

NO_NUMBERS = ["", "abc", "nan", "-inf", "1e999", "1_0", "0x3", "３", "--3", "1.2.3", "1/2"]
NO_CELLS: list[Any] = ["abc", None, True, "nan", "-inf", "#N/A", "1_0", "1e999", 1e9, -1e9]


@dataclass(frozen=True)
class TextLabels:
    """A label file in text."""

    file: str
    separator: str
    column: int  # of a score, or what else is a number in a known range
    header: int = 0  # lines above the first row
    limits: bool = True  # whether a number may be out of range

    @property
    def is_csv(self) -> bool:
        return self.header > 0

    def rows(self, content: bytes) -> list[list[str]]:
        text = content.decode().replace("\r\n", "\n").splitlines()
        return list(csv.reader(text)) if self.is_csv else [line.split(self.separator) for line in text]

    def lines(self, rows: list[list[str]], separator: str, all_quoted: bool = False) -> list[str]:
        if not self.is_csv:
            return [separator.join(row) for row in rows]
        out = io.StringIO()
        quoting = csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL
        csv.writer(out, delimiter=separator, quoting=quoting, lineterminator="\n").writerows(rows)
        return out.getvalue().splitlines()

    def otherwise(self, content: bytes) -> st.SearchStrategy[bytes]:
        """The same rows, written otherwise."""

        @st.composite
        def made(draw: st.DrawFn) -> bytes:
            separators = ",;\t" if self.is_csv else {",": [",", ", ", " "]}.get(self.separator, [self.separator, "\t"])
            lines = self.lines(self.rows(content), draw(st.sampled_from(separators)), draw(st.booleans()))
            for at in draw(st.lists(st.integers(1, len(lines)), max_size=3)):
                lines.insert(at, draw(st.sampled_from(["", "  "])) if not self.is_csv else "")
            return draw(encoded(lines))

        return made()

    def with_a_wrong_number(self, content: bytes) -> st.SearchStrategy[tuple[bytes, str]]:
        """One number is none or out of range; the words that name the line."""
        rows, wrong = self.rows(content), [*NO_NUMBERS, *(["1e9", "-1e9"] if self.limits else [])]

        def made(at: int, text: str) -> tuple[bytes, str]:
            changed = [
                [*row[: self.column], text, *row[self.column + 1 :]] if i == at else row for i, row in enumerate(rows)
            ]
            return "\n".join([*self.lines(changed, self.separator), ""]).encode(), f"{self.file}, line {at + 1}:"

        return st.builds(made, st.integers(self.header, len(rows) - 1), st.sampled_from(wrong))


TEXTS = {
    "kadid10k": TextLabels("dmos.csv", ",", 2, header=1),
    "koniq10k": TextLabels("koniq10k_distributions_sets.csv", ",", 8, header=1),
    "agiqa3k": TextLabels("data.csv", ",", 5, header=1),
    "flive": TextLabels("labels_image.csv", ",", 1, header=1),
    "csiq": TextLabels("csiq.beta.txt", "\t", 4),
    "tid2013": TextLabels("mos_with_names.txt", " ", 0),
    "pipal": TextLabels("Train_Label/A0001.txt", ",", 1),
    "sriqa": TextLabels("MOS/x1.txt", ",", 1),
    "liu13": TextLabels("liu13.txt", " ", 2, limits=False),
    "min19": TextLabels("min19.txt", " ", 2, limits=False),
}


@dataclass(frozen=True)
class Workbook:
    """A label file of a spreadsheet program."""

    file: str
    score: str  # the name of its column

    def cells(self, content: bytes) -> list[list[Any]]:
        if self.file.endswith(".xls"):
            sheet = xlrd.open_workbook(file_contents=content).sheet_by_index(0)
            return [[None if value == "" else value for value in sheet.row_values(i)] for i in range(sheet.nrows)]
        return [
            list(row) for row in openpyxl.load_workbook(io.BytesIO(content)).worksheets[0].iter_rows(values_only=True)
        ]

    def written(self, *sheets: list[list[Any]]) -> bytes:
        out = io.BytesIO()
        if self.file.endswith(".xls"):
            book = xlwt.Workbook()
            for s, cells in enumerate(sheets):
                sheet = book.add_sheet(f"sheet {s}")
                for i, row in enumerate(cells):
                    for j, value in enumerate(row):
                        if value is not None:
                            sheet.write(i, j, value)
            book.save(out)
            return out.getvalue()
        made = openpyxl.Workbook()
        made.remove(made.active)
        for s, cells in enumerate(sheets):
            sheet = made.create_sheet(f"sheet {s}")
            for row in cells:
                sheet.append(row)
        made.save(out)
        return out.getvalue()

    def _header(self, cells: list[list[Any]]) -> int:
        return next(i for i, row in enumerate(cells) if self.score in row)

    def otherwise(self, content: bytes) -> st.SearchStrategy[bytes]:
        cells = self.cells(content)
        top = self._header(cells)

        @st.composite
        def made(draw: st.DrawFn) -> bytes:
            header, *rows = cells[top:]
            order = draw(st.permutations(range(len(header))))
            as_text = draw(st.booleans())
            at = header.index(self.score)
            rows = [[str(v) if as_text and i == at else v for i, v in enumerate(row)] for row in rows]
            upper = draw(st.booleans())
            header = [name if name is None or not upper else f" {name.upper()}" for name in header]
            if upper and self.file.endswith(".xls"):
                header = cells[top]  # the single grades are known by how their names begin
            table = [[row[i] for i in order] for row in (header, *rows)]
            table = [[]] * draw(st.integers(0, 2)) + table
            for place in draw(st.lists(st.integers(3, len(table)), max_size=2)):
                table.insert(place, [])
            others = [[["a note"], ["of another sheet", 3.5]]] * draw(st.integers(0, 1))
            return self.written(*(draw(st.permutations([table, *others]))))

        return made()

    def with_a_wrong_number(self, content: bytes) -> st.SearchStrategy[tuple[bytes, str]]:
        cells = self.cells(content)
        top = self._header(cells)
        at = cells[top].index(self.score)

        def made(row: int, value: Any) -> tuple[bytes, str]:
            changed = [[value if (i, j) == (row, at) else v for j, v in enumerate(r)] for i, r in enumerate(cells)]
            return self.written(changed), f"row {row + 1}:"

        return st.builds(made, st.integers(top + 1, len(cells) - 1), st.sampled_from(NO_CELLS))


@dataclass(frozen=True)
class Matlab:
    """A label file of MATLAB."""

    file: str
    score: str  # the variable

    def otherwise(self, content: bytes) -> st.SearchStrategy[bytes]:
        variables = self._variables(content)

        def made(turned: bool, compressed: bool, more: bool) -> bytes:
            kept = {name: value.T if turned else value for name, value in variables.items()}
            return self._written(kept | ({"more": np.eye(3)} if more else {}), compressed)

        return st.builds(made, st.booleans(), st.booleans(), st.booleans())

    def with_a_wrong_number(self, content: bytes) -> st.SearchStrategy[tuple[bytes, str]]:
        variables = self._variables(content)
        kept = [i for i in range(variables[self.score].size) if self._counts(variables, i)]

        def made(at: int, value: float) -> tuple[bytes, str]:
            changed = variables[self.score].copy()
            changed.ravel()[at] = value
            return self._written(variables | {self.score: changed}), f"entry {at + 1}:"

        return st.builds(made, st.sampled_from(kept), st.sampled_from([np.nan, np.inf, -np.inf, 1e9, -1e9]))

    def _counts(self, variables: dict[str, Any], i: int) -> bool:
        """Whether an entry is read: not a copy of a reference, nor a training picture."""
        return not variables["orgs"].ravel()[i] if "orgs" in variables else i >= 7

    def _variables(self, content: bytes) -> dict[str, Any]:
        return {name: value for name, value in loadmat(io.BytesIO(content)).items() if not name.startswith("__")}

    def _written(self, variables: dict[str, Any], compressed: bool = False) -> bytes:
        out = io.BytesIO()
        savemat(out, variables, do_compression=compressed)
        return out.getvalue()


TABLES: dict[str, Workbook | Matlab] = {
    "spaq": Workbook("Annotations/MOS and Image attribute scores.xlsx", "MOS"),
    "csiq.xlsx": Workbook("csiq.DMOS.xlsx", "dmos"),
    "bid": Workbook("DatabaseGrades.xls", "Average Subjective Grade"),
    "clive": Matlab("Data/AllMOS_release.mat", "AllMOS_release"),
    "live": Matlab("dmos_realigned.mat", "dmos_new"),
}


def spoilt_inside(content: bytes) -> st.SearchStrategy[bytes]:
    """An xlsx, one of whose files is spoilt and which is a sound archive all the same."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        inner = {name: archive.read(name) for name in archive.namelist()}
    deep = [
        b"<c>",
        b"</row>",
        b'r="XFD1048576"',
        b't="s"',
        b't="d"',
        b't="e"',
        b"&amp;",
        b"<!DOCTYPE x>",
        b"99999999999",
    ]

    def made(name: str) -> st.SearchStrategy[bytes]:
        return spoilt(inner[name], [*deep, b"<", b'"', b"\0", b"-1", b"nan", b"1e999", b"\xff", b""]).map(
            lambda changed: zipped({**inner, name: changed})
        )

    return st.sampled_from([name for name in inner if name.endswith(".xml")]).flatmap(made)


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def unchanged(folder: Path, file: str) -> tuple[bytes, Callable[[bytes], object]]:
    """What a file holds, and what writes another content into it."""
    path = folder / file
    return path.read_bytes(), path.write_bytes
