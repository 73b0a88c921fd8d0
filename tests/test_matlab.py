"""MATLAB's files of level 5, as MATLAB 5.3 to 8 and scipy wrote them, read as scipy reads them; and those that lie."""

from __future__ import annotations

import io
import struct
import time
import warnings
import zlib
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io.matlab
from scipy.io import loadmat, savemat
from scipy.sparse import eye

from vqr1.data.matlab import DamagedError, read_variables

WRITTEN = Path(str(files("scipy.io.matlab"))) / "tests" / "data"  # by MATLAB itself, most of them
# Of level 4 or 7.3, damaged, and a struct without fields, which scipy gives as a cell.
OTHERS = ("4.2c", "_4_", "mat4", "_m4", "hdf5", "malformed", "corrupted", "bad_", "broken", "empty_struct")
OPAQUE = (scipy.io.matlab.MatlabFunction, scipy.io.matlab.MatlabOpaque, scipy.io.matlab.MatlabObject)


def by_scipy(value: Any) -> Any:
    """What loadmat gives, in the terms of vqr1.data.matlab."""
    if isinstance(value, OPAQUE) or not isinstance(value, np.ndarray) or value.dtype.names or np.iscomplexobj(value):
        return None  # functions, sparse ones, structs
    if value.dtype.kind == "U":
        return value.ravel().tolist() or [""]
    return [by_scipy(each) for each in value.ravel("F")] if value.dtype.kind == "O" else value


def same(found: Any, meant: Any) -> bool:
    if isinstance(meant, np.ndarray):
        return np.array_equal(found, meant, equal_nan=True) or found.size == meant.size == 0
    if isinstance(meant, list):
        return isinstance(found, list) and len(found) == len(meant) and all(map(same, found, meant))
    return bool(found == meant)


def compared(content: bytes) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy's of functions and names that are there twice
        meant = {name: by_scipy(value) for name, value in loadmat(io.BytesIO(content)).items() if name[:2] != "__"}
    found = read_variables(content)
    assert found.keys() - {"None"} == meant.keys() - {"None"}
    for name in meant:
        assert same(found[name], meant[name]), (name, found[name], meant[name])
    return found


def test_what_matlab_wrote_is_read_as_scipy_reads_it():
    """Big-endian ones of Solaris, little-endian ones of Windows and Linux, compressed and not."""
    read = [path for path in sorted(WRITTEN.glob("*.mat")) if not any(other in path.name for other in OTHERS)]
    assert len(read) > 60
    for path in read:
        compared(path.read_bytes())


@pytest.mark.parametrize("compressed", [False, True])
def test_what_scipy_wrote_is_read_as_scipy_reads_it(compressed):
    kinds = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", "?")
    cells = np.empty((2, 3), dtype=object)
    cells.ravel()[:] = ["a.png", "bü.png", "", 3.5, np.arange(4.0), np.array(["ab", "cd"])]
    variables = {
        **{f"of_{i}": np.arange(6).reshape(2, 3).astype(kind) for i, kind in enumerate(kinds)},
        **{"cells": cells, "nan": [1.5, np.nan, np.inf], "three": np.arange(24).reshape(2, 3, 4), "empty": []},
        **{"rows": np.array(["ab", "cdé"]), "text": "日本", "complex": 1j, "sparse": eye(3), "struct": {"a": "b"}},
        **{"one": 3, "nested": np.array([[cells]], dtype=object)},
    }
    out = io.BytesIO()
    savemat(out, variables, do_compression=compressed)
    assert compared(out.getvalue()).keys() == variables.keys()


# --- Written by hand, from the definition of the format

DOUBLE, CHAR, OPAQUE_CLASS, CELL = 6, 4, 17, 1


def element(kind: int, body: bytes, order: str = "<") -> bytes:
    if 0 < len(body) <= 4:
        first = struct.pack(f"{order}I", len(body) << 16 | kind)
        return first + body.ljust(4, b"\0")
    return struct.pack(f"{order}II", kind, len(body)) + body + b"\0" * (-len(body) % 8)


def variable(
    name: str, kind: int, dims: list[int], *parts: bytes, order: str = "<", flags: bytes | None = None
) -> bytes:
    return element(14, b"".join([
        element(6, struct.pack(f"{order}II", kind, 0) if flags is None else flags, order),
        element(5, struct.pack(f"{order}{len(dims)}i", *dims), order),
        element(1, name.encode(), order),
        *parts,
    ]), order)  # fmt: skip


def file(*variables: bytes, order: str = "<") -> bytes:
    return b"MATLAB 5.0".ljust(124) + struct.pack(f"{order}HH", 0x0100, 0x4D49) + b"".join(variables)


@pytest.mark.parametrize("order", "<>")
def test_texts_of_every_coding_and_numbers_in_fewer_bytes(order):
    """MATLAB stores whole doubles as bytes, and a text as code units of UTF-16, of which some characters take two."""
    utf_16 = "utf-16-le" if order == "<" else "utf-16-be"
    content = file(
        variable("mos", DOUBLE, [1, 3], element(2, bytes([1, 2, 255]), order), order=order),
        variable("short", CHAR, [1, 2], element(4, "aé".encode(utf_16), order), order=order),
        variable("wide", CHAR, [1, 7], element(17, "😀a.png".encode(utf_16), order), order=order),
        variable("rows", CHAR, [2, 2], element(16, "aüb日".encode(), order), order=order),
        variable("bytes", CHAR, [1, 5], element(1, b"a.png", order), order=order),
        variable("none", CHAR, [0, 0], order=order),
        order=order,
    )
    found = read_variables(content)
    assert found.pop("mos").tolist() == [[1, 2, 255]]
    texts = {"short": ["aé"], "wide": ["😀a.png"], "rows": ["ab", "ü日"], "bytes": ["a.png"], "none": [""]}
    assert found == texts


def test_a_string_beside_the_labels_does_not_hide_them():
    """MATLAB's newer types have no size, and a variable without a name at the end of the file."""
    flags = element(6, struct.pack("<II", OPAQUE_CLASS, 0))
    words = [element(1, word) for word in (b"note", b"MCOS", b"string")]
    opaque = element(14, b"".join([flags, *words, variable("", 13, [1, 1], element(6, struct.pack("<I", 1)))]))
    workspace = variable("", 9, [1, 4], element(2, b"\0\1IM"))
    found = read_variables(file(opaque, variable("mos", DOUBLE, [1, 1], element(9, struct.pack("<d", 3.5))), workspace))
    assert found.pop("mos").tolist() == [[3.5]] and found == {"note": None}


NUMBER = element(9, struct.pack("<d", 3.5))


@pytest.mark.parametrize(
    "wrong",
    [
        variable("a", DOUBLE, [1, 1], NUMBER, flags=b""),
        variable("a", DOUBLE, [-1, -1], NUMBER),
        variable("a", DOUBLE, [], NUMBER),
        variable("a", DOUBLE, [0, 2**31 - 1, 2**31 - 1, 2**31 - 1], element(9, b"")),
        variable("a", DOUBLE, [1] * 100, NUMBER),
        variable("a", DOUBLE, [1, 2], NUMBER),
        variable("a", CHAR, [1, 8], NUMBER),
        variable("a", CHAR, [1, 1], element(17, "\ud800".encode("utf-16-le", "surrogatepass"))),
        variable("a", CELL, [1, 2], variable("", DOUBLE, [1, 1], NUMBER)),
        variable("a", DOUBLE, [1, 1], NUMBER)[:-9],
        element(14, element(6, bytes(8))),
        element(15, zlib.compress(bytes(16))[:-4]),
    ],
    ids=lambda wrong: f"{zlib.crc32(wrong):x}",
)  # fmt: skip
def test_what_lies_about_its_size_or_type_is_damaged(wrong):
    with pytest.raises(DamagedError):
        read_variables(file(wrong))


def test_cells_of_nothing_that_swell_are_read_or_refused_within_seconds():
    began = time.perf_counter()
    for share in (1, 8):
        count = share * (2**19 - 8)
        body = zlib.compress(variable("a", CELL, [1, count], element(14, b"") * count))
        content = file(struct.pack("<II", 15, len(body)) + body)
        if share == 1:
            assert len(read_variables(content)["a"]) == count
        else:
            with pytest.raises(DamagedError, match="over 4194304 bytes"):
                read_variables(content)
    assert time.perf_counter() - began < 5
