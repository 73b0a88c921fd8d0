"""Result files: a folder with ``evaluation.json`` (what was asked of whom) and ``results.jsonl`` (a line per picture).

A line::

    {"image_id": "bid/DatabaseImage0001.JPG", "dataset": "bid", "group": "DatabaseImage0001.JPG", "mos": 3.1,
     "score": 3.42, "std": 0.2, "scores": [3.2, 3.6, null], "reasoning": "<think>...", "status": "ok",
     "stds": null, "weights": null, "tokens": 48, "passes": 3}

``mos`` is on the dataset's own scale, higher = better; ``scores`` are the K answers in order, null where unreadable;
``score`` is the mean of the readable ones and ``std`` their sample standard deviation (null for fewer than two);
``status`` is ok, unreadable (K answers and no score) or missing (no answer at all; ``reasoning`` then says why);
``tokens`` is how many the answers took and ``passes`` how many sequences the policy read or wrote for the picture, one
for each answer that is drawn and one for each distribution that is read, half of it where two pictures share it (null
where nobody counted). By the methods "expected" and "levels" ``scores`` are the means of exact distributions, ``stds``
their standard deviations and ``weights`` the probabilities of a readable score, else null; ``score`` and ``std`` are
then those of :class:`vqr1.rating_statistics.Moments`. A file of an older version does without the last four.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from vqr1.errors import MissingFileError, UserError
from vqr1.folder_writer import whole_lines
from vqr1.rating_statistics import score_and_std

SETTINGS = "evaluation.json"
ROWS = "results.jsonl"
LARGEST = 1e100  # of numbers in a row and of pictures: sums and squares of them stay finite
STATUSES = ("ok", "unreadable", "missing")
Read = TypeVar("Read")
# Of what is read from files: nothing is converted, no number is NaN or infinite, and nothing else is there.
_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class ResultRow:
    """One picture's result; the fields are those of a line."""

    __pydantic_config__ = _STRICT
    image_id: str
    dataset: str
    group: str
    mos: float
    score: float | None
    std: float | None
    scores: list[float | None]
    reasoning: str
    status: str
    stds: list[float | None] | None = None
    weights: list[float] | None = None
    tokens: int | None = None
    passes: float | None = None

    def line(self) -> str:
        return json.dumps(asdict(self), allow_nan=False) + "\n"


@dataclass(frozen=True)
class SetFacts:
    """What the table must know of an evaluated set, since it does without the dataset."""

    __pydantic_config__ = _STRICT
    title: str
    pictures: int  # that were to be rated
    part: str  # "all", "test", or what else was evaluated
    group: str = "image"  # the word for what belongs together: image, reference, scene, prompt
    per_group_scale: bool = False  # opinion scores are comparable within a group only
    trained_on: bool = False
    pseudo_labels: bool = False
    labels_sha256: str = ""  # of image_id, MOS and group of every picture in order


@dataclass(frozen=True)
class Evaluation:
    """One result file: a model's answers to the pictures of some sets."""

    folder: str
    name: str  # the model, as the table calls it
    settings: dict[str, Any]  # k, temperature, seed, prompt, weights_sha256, ...
    trained_on: list[str] | None  # None: not stated
    sets: dict[str, SetFacts]
    rows: dict[str, list[ResultRow]] = field(repr=False)  # by set, in the order of the file


def make_row(
    image_id: str,
    dataset: str,
    group: str,
    mos: float,
    scores: Sequence[float | None],
    reasoning: str,
    *,
    stds: Sequence[float | None] | None = None,
    weights: Sequence[float] | None = None,
    tokens: int | None = None,
    passes: float | None = None,
) -> ResultRow:
    """A row from its K scores, None where an answer could not be read. No score at all, K = 0, is a missing picture."""
    mean, std = score_and_std(scores, stds, weights)
    status = "ok" if mean is not None else "unreadable" if scores else "missing"
    kept = None if stds is None else list(stds), None if weights is None else list(weights)
    return ResultRow(image_id, dataset, group, mos, mean, std, list(scores), reasoning, status, *kept, tokens, passes)


def read_evaluation(folder: Path) -> Evaluation:
    """A result folder, checked.

    Raises MissingFileError where a file is missing, UserError, with file, line and remedy, where one is damaged. A
    last line that was torn by an interruption is left out.
    """
    where = folder / SETTINGS
    for path in (where, folder / ROWS):
        if not path.is_file():
            raise MissingFileError(f"{path} is missing; give a folder that vqr1 evaluate wrote")
    record = _checked(_Record, where.read_bytes(), f"{where}: not a record of vqr1 evaluate", "evaluate again")
    sets = record.sets
    evaluation = Evaluation(
        str(folder), record.name, dict(record.settings), record.trained_on, sets, {name: [] for name in sets}
    )
    for row in read_rows(folder / ROWS):
        if row.dataset not in sets:
            raise UserError(f"{folder / ROWS}: {row.image_id} is of {row.dataset}, which {SETTINGS} does not name")
        evaluation.rows[row.dataset].append(row)
    for name, rows in evaluation.rows.items():
        if not len(rows) <= sets[name].pictures <= LARGEST:
            found = f"{folder / ROWS} has {len(rows)} pictures of {name}, and {SETTINGS} says"
            raise UserError(f"{found} {str(sets[name].pictures)[:80]}; restore the files or evaluate again")
    return evaluation


def read_rows(path: Path) -> list[ResultRow]:
    """The rows of a results.jsonl. Raises UserError, with the line, for what is no row or appears twice."""
    rows = [_row(line, f"{path}, line {i}") for i, line in enumerate(whole_lines(path.read_bytes()), 1)]
    twice = [name for name, count in Counter(row.image_id for row in rows).items() if count > 1]
    if twice:
        raise UserError(f"{path}: {twice[0]} appears more than once; keep one line per picture")
    return rows


def _row(line: bytes, where: str) -> ResultRow:
    row = _checked(ResultRow, line, f"{where}: not a result", "restore the file or evaluate again")
    given = [each for each in (row.stds, row.weights) if each is not None]
    if not all(len(each) == len(row.scores) for each in given):
        raise UserError(f"{where}: {row.image_id} has stds or weights, but not one for each score; evaluate again")
    if any(each < 0 for each in (row.std, *(row.stds or ()), *(row.weights or ())) if each is not None):
        raise UserError(f"{where}: {row.image_id} has a negative std or weight; restore the file or evaluate again")
    numbers = (
        row.mos,
        row.score,
        *row.scores,
        row.std,
        *(row.stds or ()),
        *(row.weights or ()),
        row.tokens,
        row.passes,
    )
    if large := [each for each in numbers if each is not None and abs(each) > LARGEST]:
        raise UserError(
            f"{where}: {row.image_id} has {str(large[0])[:80]}, over {LARGEST:g}; restore the file or evaluate again"
        )
    if row.status not in STATUSES or (row.score is not None) != (row.status == "ok"):
        raise UserError(f"{where}: {row.image_id} has status {row.status!r} and score {row.score!r}; ok has a score")
    return row


class _Record(BaseModel):
    """An evaluation.json: of the settings, those that others than the evaluation itself look at."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    name: str
    settings: dict[str, str | bool | int | float | list[str] | dict[str, Any] | None]
    trained_on: list[str] | None
    sets: dict[str, SetFacts]


@cache
def _reader(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _checked(kind: type[Read], content: bytes, what: str, remedy: str) -> Read:
    """What the JSON ``content`` holds. Raises UserError where it is none, or of other types than ``kind`` has."""
    try:
        reader: TypeAdapter[Read] = _reader(cast(Any, kind))  # mypy takes a class for something without a hash
        return reader.validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{what} ({place}{': ' if place else ''}{first['msg']}); {remedy}") from error
