"""Reads the files of offline wandb runs: records of protocol buffers in the log format of LevelDB."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK, HEADER, BEGINNING = 32768, 7, 7  # bytes: of a block, before each piece of a record, before all
WHOLE, FIRST, _MIDDLE, LAST = 1, 2, 3, 4


def records(fragment: Path) -> list[Any]:
    """The records of an offline run, in order. wandb's own process may write the last ones after the run's end."""
    end = time.monotonic() + 30
    while not (found := list(_written(fragment))) or not found[-1].HasField("exit"):
        assert time.monotonic() < end, f"{fragment} has no end"
        time.sleep(0.05)
    return found


def _written(fragment: Path) -> Iterator[Any]:
    """To the first that is torn."""
    (file,) = fragment.glob("*.wandb")
    data = file.read_bytes()
    place, record = BEGINNING, b""
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:  # too little for a piece: zeros
            place += BLOCK - place % BLOCK
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        piece = data[place + HEADER : place + HEADER + length]
        if len(piece) < length:
            return
        place += HEADER + length
        record = piece if kind in (WHOLE, FIRST) else record + piece
        if kind in (WHOLE, LAST):
            yield wandb_internal_pb2.Record.FromString(record)


def history(fragment: Path) -> list[dict[str, Any]]:
    """The rows that were logged; a text or pictures as what wandb says of its files."""
    rows = []
    for record in records(fragment):
        row: dict[str, Any] = {}
        for item in record.history.item:
            first, *inner = item.nested_key or [item.key]
            if inner:
                row.setdefault(first, {})[inner[0]] = json.loads(item.value_json)
            else:
                row[first] = json.loads(item.value_json)
        if row:
            rows.append(row)
    return rows


def config(fragment: Path) -> dict[str, Any]:
    return {
        item.key: json.loads(item.value_json)
        for record in records(fragment)
        if record.HasField("run")
        for item in record.run.config.update
    }
