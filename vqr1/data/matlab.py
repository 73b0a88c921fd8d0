"""MATLAB's files of level 5 (MATLAB 5 to 7, ``save -v7``), as far as labels need them: numbers, texts and cells.

scipy.io reads them in compiled code, which damaged bytes end with a segmentation fault (seen with scipy 1.17).
Source: The MathWorks, MAT-File Format, chapter 1.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Container, Iterator
from typing import Any

import numpy as np

LARGEST = (
    2**22
)  # bytes of a variable that was compressed: cells of nothing take 8 each, so that this is half a million of them
HEADER = 128  # bytes, of which the last two say which byte of a number comes first
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
WHOLE, UNSIGNED, MATRIX, COMPRESSED = 5, 6, 14, 15  # types of elements
SIZES = (WHOLE, UNSIGNED)  # the latter by other programs than MATLAB
# Classes of variables, and a flag. Of strings, tables and dates only their names are known: what they hold is in a
# variable without a name at the end, which MATLAB does not describe.
CELL, CHAR, NUMERIC, OPAQUE, COMPLEX = 1, 4, range(6, 16), 17, 0x800
EMPTY = np.empty(0)


class DamagedError(Exception):
    """No such file, or not whole; says why, without its name. ``remedy``: where it is not to fetch it again."""

    def __init__(self, why: str, remedy: str = ""):
        super().__init__(why)
        self.remedy = remedy


def read_variables(content: bytes) -> dict[str, Any]:
    """Variables by name: an array of numbers, a list of texts (rows), a list of cells; None for what else there is.

    Raises DamagedError.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[HEADER - 2 : HEADER])
    if order is None:
        raise DamagedError("its header is not of level 5", "save it in MATLAB by save -v7")
    found = {}
    try:
        for kind, body in _elements(memoryview(content)[HEADER:], order):
            if kind == COMPRESSED:
                kind, body = next(_elements(memoryview(_inflated(body)), order), (0, body))
            if kind == MATRIX:
                name, value = _matrix(body, order)
                if name:
                    found[name] = value
    except (zlib.error, struct.error, ValueError, StopIteration) as error:  # ValueError: sizes that no array has
        raise DamagedError(str(error) or "a variable ends too early") from error
    except RecursionError as error:
        raise DamagedError("cells within cells, too many to read") from error
    return found


def _inflated(body: memoryview) -> bytes:
    reader = zlib.decompressobj()
    content = reader.decompress(body, LARGEST)
    if not reader.eof:
        if len(content) < LARGEST:
            raise DamagedError("a variable is cut short")
        raise DamagedError(f"a variable has over {LARGEST} bytes unpacked", "save it without compression, by save -v6")
    return content


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and content of the elements that stand one after the other."""
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start, step = at + 8, 8 + size + (0 if kind == COMPRESSED else -size % 8)
        if kind >> 16:  # a small one: its size, type and content in 8 bytes
            kind, size = kind & 0xFFFF, kind >> 16
            start, step = at + 4, 8
        if start + size > len(data) or (step == 8 and size > 4):
            raise DamagedError(f"an element of {size} bytes goes on behind its end")
        yield kind, data[start : start + size]
        at += step


def _matrix(body: memoryview, order: str) -> tuple[str, Any]:
    """Name and value of a variable, or of a cell, which has no name."""
    if not len(body):  # an empty cell
        return "", EMPTY
    parts = _elements(body, order)
    flags, *_ = _numbers(next(parts), order, (UNSIGNED,))
    kind = int(flags) & 0xFF
    dims = [] if kind == OPAQUE else _numbers(next(parts), order, SIZES).tolist()
    name, count = bytes(next(parts)[1]).decode("latin-1"), math.prod(dims)
    if kind == OPAQUE:
        return name, None
    if not dims or min(dims) < 0:
        raise DamagedError(f"a variable of size {dims}")
    if kind == CELL:
        cells = [_matrix(inner, order)[1] for type_, inner in parts if type_ == MATRIX]
        return name, _checked(cells, count)
    if kind == CHAR:
        text = _text(*next(parts, (16, memoryview(b""))), order)
        rows = dims[0] if len(dims) > 1 and count else 1
        if rows == 1 and len(text.encode("utf-16-le")) == 2 * count:  # some characters count as two there
            return name, [text]
        text = _checked(text, count)
        return name, [text[row::rows] for row in range(rows)]  # column by column, as all of MATLAB's
    if kind in NUMERIC and not int(flags) & COMPLEX:
        values = _checked(_numbers(next(parts), order), count)
        return name, values.reshape(dims, order="F")
    return name, None


def _text(kind: int, body: memoryview, order: str) -> str:
    if kind not in TEXTS:
        raise DamagedError(f"an element of type {kind} where text is meant")
    ends = {"<": "-le", ">": "-be"}[order] if TEXTS[kind] in ("utf-16", "utf-32") else ""
    return bytes(body).decode(TEXTS[kind] + ends)


def _numbers(element: tuple[int, memoryview], order: str, only: Container[int] = NUMBERS) -> np.ndarray:
    kind, body = element
    if kind not in only:
        raise DamagedError(f"an element of type {kind} where numbers are meant")
    if len(body) % np.dtype(NUMBERS[kind]).itemsize:
        raise DamagedError(f"{len(body)} bytes are not whole numbers of type {kind}")
    return np.frombuffer(body, dtype=order + NUMBERS[kind])


def _checked(values: Any, count: int) -> Any:
    if len(values) != count:
        raise DamagedError(f"{len(values)} values, where its size says {count}")
    return values
