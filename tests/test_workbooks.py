"""Spreadsheets and MATLAB files as other programs write them, and files under the name of another kind."""

from __future__ import annotations

import io
import re
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openpyxl
import pytest
import xlwt
from scipy.io import savemat

from tests.support.miniatures import bid, clive, csiq, spaq, xls, xlsx
from vqr1.data import read_dataset
from vqr1.data.wild import read_bid
from vqr1.data.workbooks import excel_rows, mat_columns
from vqr1.errors import UserError

SPAQ_LABELS = "Annotations/MOS and Image attribute scores.xlsx"


def rewritten(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change the XML of a workbook's first sheet."""
    out = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, change(data) if name.endswith("sheet1.xml") else data)
    path.write_bytes(out.getvalue())


def declares(path: Path, dimension: str) -> None:
    """Make the first sheet of a workbook say that it is of another size than it is."""
    rewritten(path, lambda data: re.sub(rb'<dimension ref="[^"]*"', f'<dimension ref="{dimension}"'.encode(), data))


@pytest.mark.parametrize("dimension", ["A1:C7", "A1", "A1:XFD1048576", "B2:B3"])
def test_what_a_sheet_says_of_its_own_size_is_worth_nothing(dimension, tmp_path):
    labels = spaq(tmp_path / "spaq", count=12) / SPAQ_LABELS
    declares(labels, dimension)
    assert len(read_dataset("spaq", tmp_path).all()) == 12


def test_one_stray_cell_in_the_last_column_and_row_costs_nothing(tmp_path):
    path = tmp_path / "labels.xlsx"
    book = openpyxl.Workbook(write_only=False)
    for row in [["name", "MOS"], *([f"{i}.jpg", i] for i in range(2000))]:
        book.active.append(row)
    book.active["XFD7"] = "stray"
    book.active["XFD1048576"] = "stray"
    book.save(path)
    rows = excel_rows(path, ["name"])
    assert [row.text("name") for row in rows] == [f"{i}.jpg" for i in range(2000)]
    assert all(len(row.values) == 2 for row in rows)


def test_a_column_that_stands_twice_is_refused(tmp_path):
    path = xlsx(tmp_path / "labels.xlsx", ["name", "MOS", "mos "], ["a", 1, 2])
    with pytest.raises(ValueError, match=r"labels.xlsx, sheet Sheet1, row 1: 2 columns are called MOS"):
        excel_rows(path, ["name", "MOS"])


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_workbook_that_was_cut_short_is_named(share, tmp_path):
    path = xlsx(tmp_path / "labels.xlsx", ["name", "MOS"], *([f"{i}", i] for i in range(500)))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"labels.xlsx: not a readable xlsx file.*; fetch it again"):
        excel_rows(path, ["name"])


def test_a_sheet_that_was_cut_short_within_a_sound_archive_is_named(tmp_path):
    path = xlsx(tmp_path / "labels.xlsx", ["name", "MOS"], *([f"{i}", i] for i in range(500)))
    out = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data[: len(data) // 2] if name.endswith("sheet1.xml") else data)
    path.write_bytes(out.getvalue())
    with pytest.raises(ValueError, match=r"labels.xlsx: not a readable xlsx file, after row \d+"):
        excel_rows(path, ["name"])


# A file of one kind under the name of another


def test_an_xlsx_called_xls_is_named_with_the_name_it_needs(tmp_path):
    folder = bid(tmp_path / "bid")
    xlsx(tmp_path / "x.xlsx", ["Image Number"]).replace(folder / "DatabaseGrades.xls")
    with pytest.raises(ValueError, match=r"DatabaseGrades.xls: .*newer kind, xlsx.*give it the name .*Grades.xlsx$"):
        read_dataset("bid", tmp_path)


def test_an_xls_called_xlsx_is_named_with_what_converts_it(tmp_path):
    folder = csiq(tmp_path / "csiq", excel=True)
    xls(tmp_path / "x.xls", ["image"]).replace(folder / "csiq.DMOS.xlsx")
    with pytest.raises(ValueError, match=r"DMOS.xlsx: .*older kind, xls.*; open it in a spreadsheet .* as xlsx$"):
        read_dataset("csiq", tmp_path)


@pytest.mark.parametrize("name", ["labels.xlsx", "labels.xls"])
def test_a_csv_file_under_the_name_of_a_workbook_is_named(name, tmp_path):
    (tmp_path / name).write_text("name,MOS\na,1\n")
    with pytest.raises(ValueError, match=rf"{name}: .*it is a text file.; open it in a spreadsheet program and save"):
        excel_rows(tmp_path / name, ["name"])


def test_a_matlab_file_of_version_7_3_is_named_with_what_converts_it(tmp_path):
    labels = clive(tmp_path / "clive") / "Data" / "AllMOS_release.mat"
    text = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jan 1 00:00:00 2024 HDF5 schema 1.00 ."
    labels.write_bytes(text.ljust(512) + b"\x89HDF\r\n\x1a\n" + bytes(512))
    with pytest.raises(ValueError, match=r"AllMOS_release.mat: .*MATLAB 7.3.*HDF5.*save\('AllMOS.*'-v7'\)$"):
        read_dataset("clive", tmp_path)
    labels.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(512))
    with pytest.raises(ValueError, match=r"AllMOS_release.mat: .*HDF5.*'-v7'\)$"):
        read_dataset("clive", tmp_path)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
def test_a_matlab_file_that_was_cut_short_is_named(share, tmp_path):
    path = tmp_path / "labels.mat"
    savemat(path, {"scores": np.arange(500.0)})
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"labels.mat: not a readable MATLAB file.*; fetch it again"):
        mat_columns(path, "scores")


@pytest.mark.parametrize(("place", "value"), [(145, 0x08), (172, 14), (184, 0), (185, 1)])
def test_a_matlab_file_with_a_changed_byte_is_named(place, value, tmp_path):
    """Each of these ends a process that reads it by scipy (1.17): a flag, the length of a name, the type of numbers."""
    path = tmp_path / "labels.mat"
    savemat(path, {"dmos_new": np.arange(6.0)[None]})
    content = bytearray(path.read_bytes())
    content[place] = value
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"labels.mat: .*; (fetch it again|use the authors' labels.mat)$"):
        mat_columns(path, "dmos_new")


@pytest.mark.parametrize("compressed", [False, True])
def test_what_is_read_of_a_matlab_file(compressed, tmp_path):
    path = tmp_path / "labels.mat"
    cells = np.empty((2, 1), dtype=object)
    cells[:, 0] = ["a.png", "bü.png"]
    numbers = {"doubles": np.array([[1.5, -2]]), "bytes": np.array([[7], [255]], dtype=np.uint8), "one": 3}
    savemat(
        path, {"cells": cells, "rows": np.array(["ab", "cd"]), "more": {"a": 1}, **numbers}, do_compression=compressed
    )
    found = mat_columns(path, "cells", "rows", "doubles", "bytes", "one")
    assert found == [["a.png", "bü.png"], ["ab", "cd"], [1.5, -2], [7, 255], [3]]
    with pytest.raises(ValueError, match=r"variables .*'more'.*, expected \['more'\]"):
        mat_columns(path, "more")


def test_a_compressed_variable_that_swells_is_refused(tmp_path):
    path = tmp_path / "labels.mat"
    body = zlib.compress(b"\0" * (2**22 + 1))
    path.write_bytes(
        b"MATLAB 5.0".ljust(124) + struct.pack("<H", 0x0100) + b"IM" + struct.pack("<II", 15, len(body)) + body
    )
    with pytest.raises(ValueError, match=r"labels.mat: .*over 4194304 bytes unpacked\); save it without compression"):
        mat_columns(path, "scores")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"labels.mat: .*\(.*goes on behind its end\); fetch it again"):
        mat_columns(path, "scores")
    path.write_bytes(bytes(200))  # level 4 has no header
    with pytest.raises(ValueError, match=r"labels.mat: .*not of level 5\); save it in MATLAB by save -v7"):
        mat_columns(path, "scores")


def test_a_workbook_that_swells_is_refused(tmp_path):
    path = xlsx(tmp_path / "labels.xlsx", ["Image name", "MOS"], ["a.png", 50])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/sharedStrings.xml", b" " * (2**27 + 1))
    with pytest.raises(ValueError, match=r"labels.xlsx: unpacked it has 1342\d+ bytes, and 134217728 are the most"):
        excel_rows(path, ["Image name", "MOS"])


def cell(place: str) -> str:
    return f'<c r="{place}" t="str"><v>x</v></c>'


@pytest.mark.parametrize(
    ("rows", "at"),
    [
        ('<row r="20000000"/>', 1048577),
        (f'<row r="99999999999">{cell("A99999999999")}</row>', 1048577),
        ("".join(f'<row r="{i}">{cell(f"ZZZ{i}")}</row>' for i in range(3, 20000)), 3),
        ("".join(f'<row r="{i}">{cell(f"XFD{i}")}</row>' for i in range(3, 20000)), 258),
    ],
)
def test_a_sheet_that_swells_by_its_empty_cells_is_refused_at_once(rows, at, tmp_path):
    path = xlsx(tmp_path / "labels.xlsx", ["Image name", "MOS"], ["a.png", 50])
    rewritten(path, lambda data: data.replace(b"</sheetData>", rows.encode() + b"</sheetData>"))
    excel_rows(xlsx(tmp_path / "b.xlsx", ["MOS"]), ["MOS"])  # imports openpyxl
    started = time.monotonic()
    with pytest.raises(UserError, match=rf"labels.xlsx: row {at} is beyond the 1048576 rows and 16384"):
        excel_rows(path, ["Image name", "MOS"])
    assert time.monotonic() - started < 3


def test_a_stray_cell_of_an_xls_costs_nothing(tmp_path):
    book = xlwt.Workbook()
    sheet = book.add_sheet("Sheet1")
    for row, values in enumerate([["name", "MOS"], *([f"{i}.jpg", i] for i in range(500))]):
        for column, value in enumerate(values):
            sheet.write(row, column, value)
    sheet.write(65535, 255, "stray")
    book.save(str(tmp_path / "labels.xls"))
    started = time.monotonic()
    assert [row.number("MOS") for row in excel_rows(tmp_path / "labels.xls", ["MOS"])] == list(range(500))
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(("write", "shown"), [("set_cell_error", "'#NULL!'"), ("set_cell_boolean", "True")])
def test_an_error_or_a_truth_in_an_xls_is_no_number(write, shown, tmp_path):
    """xlrd gives them as numbers: #NULL! as 0, which would be a grade."""
    book = xlwt.Workbook()
    sheet = book.add_sheet("Sheet1")
    for column, name in enumerate(["Image Number", "Average Subjective Grade"]):
        sheet.write(0, column, name)
    sheet.write(1, 0, 1)
    getattr(sheet.row(1), write)(1, "#NULL!" if "error" in write else True)
    book.save(str(tmp_path / "DatabaseGrades.xls"))
    (tmp_path / "DatabaseImage0001.JPG").touch()
    with pytest.raises(ValueError, match=rf"row 2: .*Average Subjective Grade {shown} must be numbers"):
        read_bid(tmp_path)
