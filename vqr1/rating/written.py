"""The files that ``vqr1 rate`` writes, and a rating as a row of what it keeps while it is not done."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from pydantic import TypeAdapter

from vqr1.evaluation.scale import Scale
from vqr1.rating.rating import Rating
from vqr1.rating.scales import mos_of
from vqr1.unfinished import Unfinished, stamp, write_lines, write_whole

Rated = tuple[str, Rating]  # a path and its rating


def unfinished_ratings(option: str, target: Path, beside: Iterable[Path] = ()) -> Unfinished[Rating]:
    """The ratings so far of one command, by path; ``option`` names the target, for messages."""
    return Unfinished(option, target, what="ratings", again="rate", read=read_row, beside=beside)


def row_of(path: str, rating: Rating, file: list[int]) -> dict[str, Any]:
    """What is kept of a rating. ``file``: the picture's :func:`vqr1.unfinished.stamp` from before it was opened."""
    return {"path": path, "file": file, **asdict(rating)}


def read_row(row: dict[str, Any]) -> Rated | None:
    """A rating that is kept; None if the picture has changed or failed: it is rated again."""
    path, file = row["path"], row["file"]
    kept = json.dumps({each.name: row[each.name] for each in fields(Rating)})
    rating = _ratings().validate_json(kept)  # of Python's values the strict reader takes a Rating alone
    return (path, rating) if file == stamp(path) and rating.status != "failed" else None


@cache
def _ratings() -> TypeAdapter[Rating]:
    return TypeAdapter(Rating)


def write_csv(path: Path, rated: Iterable[Rated], reasoning: bool, scale: Scale | None = None) -> None:
    """A line per picture: path, score, std, answers, status, MOS and reasoning if asked for; empty where is none."""

    def write(file: TextIO) -> None:
        table = csv.writer(file, lineterminator="\n")
        asked = [*["mos"] * bool(scale), *["reasoning"] * reasoning]
        table.writerow(["path", "score", "std", "answers", "status", *asked])
        for name, each in rated:
            more = [*([mos_of(scale, each)] if scale else []), *[each.reasoning] * reasoning]
            table.writerow([name, each.score, each.std, each.answers, each.status, *more])

    write_whole("--csv", path, write)


def write_jsonl(path: Path, rated: Iterable[Rated], scale: Scale | None = None) -> None:
    """An object per picture: path, the fields of :class:`vqr1.rating.rating.Rating` and, if asked for, the MOS."""

    def row(name: str, each: Rating) -> dict[str, Any]:
        return {"path": name, **asdict(each), **({"mos": mos_of(scale, each)} if scale else {})}

    write_lines("--jsonl", path, (row(*each) for each in rated))
