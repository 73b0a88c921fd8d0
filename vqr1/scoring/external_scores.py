"""Results by the word of the command line: a folder of ``vqr1 evaluate``, or another model's scores as a csv file.

``MUSIQ:bid=musiq_bid.csv`` is a file with the columns ``picture`` and ``score``, higher = better, which is joined with
the records of the dataset ``bid`` by picture name. Needs neither torch nor a model.
"""

from __future__ import annotations

import csv
import hashlib
import math
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from vqr1.data.sample import Sample
from vqr1.errors import MissingFileError, UserError
from vqr1.evaluation.results import Evaluation, ResultRow, make_row, read_evaluation
from vqr1.scoring.sets import EvaluatedSet, read_sets

COLUMNS = ("picture", "score")
_WORD = re.compile(r"(?:(?P<name>[^=:]+):)?(?P<dataset>\w+)=(?P<file>.+)")


def load_result(word: str, root: Path, trained_on: Sequence[str] | None = None) -> Evaluation:
    """A result folder, or ``[NAME:]DATASET=FILE.csv``. Raises UserError for what is neither."""
    found = _WORD.fullmatch(word)
    if found is None or Path(word).is_dir():
        if Path(word).suffix == ".csv":
            raise UserError(f"{word}: which dataset is it of? write [NAME:]DATASET={word}")
        return read_evaluation(Path(word))
    file = Path(found["file"])
    return read_scores(file, found["dataset"], root, found["name"] or file.stem, trained_on)


def read_scores(file: Path, dataset: str, root: Path, name: str, trained_on: Sequence[str] | None) -> Evaluation:
    """Another model's scores as a result. A picture of the set that has none in the file is missing.

    Raises UserError, with file and line, for other columns, a score that is no finite number, a picture that appears
    twice or that the set does not have; MissingFileError where file or dataset is missing.
    """
    if not file.is_file():
        raise MissingFileError(f"{file} is missing")
    (rated,) = read_sets([dataset], root, trained_on or [])
    try:
        scores = _read(file, _Pictures(rated))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: not a csv file in UTF-8 ({error}); save it as one") from error
    rows: list[ResultRow] = []
    for s in rated.samples:
        score = scores.get(s.image_id)
        reason = "" if score is not None else f"no score in {file.name}"
        rows.append(make_row(s.image_id, s.dataset, s.group, s.mos, [] if score is None else [score], reason))
    settings = {"source": str(file), "weights_sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    seen = None if trained_on is None else list(trained_on)
    return Evaluation(str(file), name, settings, seen, {dataset: rated.facts}, {dataset: rows})


class _Pictures:
    """A set's pictures by name: as the dataset names them, or the file's name alone where that is enough.

    Upper and lower case and the form of composed letters make no difference unless two pictures differ in them only.
    """

    def __init__(self, rated: EvaluatedSet):
        self.of = rated
        self._by_name: dict[str, list[Sample]] = {}
        for sample in rated.samples:
            name = sample.image_id.removeprefix(f"{rated.name}/")
            for key in {_key(name), _key(PurePosixPath(name).name)}:
                self._by_name.setdefault(key, []).append(sample)

    def find(self, name: str, where: str) -> Sample | None:
        """None where the set has no such picture. Raises UserError where it has several."""
        name = name.replace("\\", "/").removeprefix(f"{self.of.name}/")
        found = self._by_name.get(_key(name)) or self._by_name.get(_key(PurePosixPath(name).name), [])
        exact = [sample for sample in found if sample.image_id == f"{self.of.name}/{name}"]
        if len(exact or found) > 1:
            raise UserError(f"{where}: {name} may be {found[0].image_id} or {found[1].image_id}; give its folder too")
        return next(iter(exact or found), None)


def _read(file: Path, pictures: _Pictures) -> dict[str, float]:
    """Scores by image_id. A row of a picture in another split of the set is passed over; an empty score is none."""
    part_only = pictures.of.facts.part != "all"
    scores: dict[str, float] = {}
    with file.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        if not set(COLUMNS) <= set(reader.fieldnames or []):
            raise UserError(f"{file}: columns {reader.fieldnames}, expected {', '.join(COLUMNS)} in the first line")
        for row in reader:
            where = f"{file}, line {reader.line_num}"
            sample = pictures.find((row["picture"] or "").strip(), where)
            if sample is None:
                if part_only:
                    continue
                raise UserError(f"{where}: {row['picture']!r} is no picture of {pictures.of.name}; drop the row")
            if sample.image_id in scores:
                raise UserError(f"{where}: {row['picture']} appears twice; keep one score per picture")
            if (row["score"] or "").strip():
                scores[sample.image_id] = _number(row["score"], where)
    if not scores:
        raise UserError(f"{file}: no score of any picture of {pictures.of.name} ({pictures.of.facts.part})")
    return scores


def _number(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise UserError(f"{where}: score {text!r} is no number; correct it or leave it empty") from error
    if not math.isfinite(number):
        raise UserError(f"{where}: score {text} is not finite; correct it or leave it empty")
    return number


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
