"""Results by the word of the command line: a folder of ``vqr1 evaluate``, or another model's scores as a csv file.

``MUSIQ:bid=musiq_bid.csv`` is a file with the columns ``picture`` and ``score``, higher = better, which is joined with
the records of the dataset ``bid`` by picture name. Needs neither torch nor a model.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from vqr1.data.files import check_file
from vqr1.data.labels import LabelRow, csv_rows
from vqr1.data.sample import Sample
from vqr1.errors import UserError
from vqr1.evaluation.results import Evaluation, ResultRow, make_row, read_evaluation
from vqr1.scoring.sets import EvaluatedSet, read_sets

COLUMNS = ("picture", "score")
_WORD = re.compile(r"(?:(?P<name>[^=:]+):)?(?P<dataset>[^=:/]+|[^=:]+(?==.*\.csv$))=(?P<file>.+)", re.DOTALL)


def load_result(word: str, root: Path, trained_on: Sequence[str] | None = None) -> Evaluation:
    """A result folder, or ``[NAME:]DATASET=FILE.csv``. Raises UserError for what is neither."""
    found = _WORD.fullmatch(word)
    if found is None or Path(word).is_dir():
        if Path(word).suffix == ".csv":
            raise UserError(f"{word}: which dataset is it of? write [NAME:]DATASET={word}")
        return read_evaluation(Path(word))
    file = Path(found["file"]).expanduser()
    return read_scores(file, found["dataset"], root, found["name"] or file.stem, trained_on)


def read_scores(file: Path, dataset: str, root: Path, name: str, trained_on: Sequence[str] | None) -> Evaluation:
    """Another model's scores as a result. A picture of the set that has none in the file is missing.

    Raises UserError, with file and line, for other columns, a score that is no finite number, a picture that appears
    twice or that the set does not have; MissingFileError where file or dataset is missing.
    """
    check_file(file, f"give the scores of {dataset} as [NAME:]{dataset}=FILE.csv")
    (rated,) = read_sets([dataset], root, trained_on or [])
    scores = _read(file, _Pictures(rated))
    rows: list[ResultRow] = []
    for s in rated.samples:
        score = scores.get(s.image_id)
        reason = "" if score is not None else f"no score in {file.name}"
        rows.append(make_row(s.image_id, s.dataset, s.group, s.mos, [] if score is None else [score], reason))
    settings = {"source": str(file), "weights_sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    seen = None if trained_on is None else list(trained_on)
    return Evaluation(str(file), name, settings, seen, {dataset: rated.facts}, {dataset: rows})


class _Pictures:
    """A set's pictures by name: as the dataset names them, with folders before that or without its folders.

    Upper and lower case and the form of composed letters make no difference unless two pictures differ in them only. A
    name without its ending (.png) is enough where no other picture has it.
    """

    def __init__(self, rated: EvaluatedSet):
        self.of = rated
        self._by_name: dict[str, list[Sample]] = {}
        self._by_stem: dict[str, list[Sample]] = {}
        for sample in rated.samples:
            name = PurePosixPath(sample.image_id).name
            self._by_name.setdefault(_key(name), []).append(sample)
            self._by_stem.setdefault(_key(PurePosixPath(name).stem), []).append(sample)

    def find(self, name: str, where: str) -> Sample | None:
        """None where the set has no such picture. Raises UserError where it has several."""
        name = name.replace("\\", "/").removeprefix(f"{self.of.name}/")
        for table in (self._by_name, self._by_stem):
            shared = [(self._shared(name, each), each) for each in table.get(_key(PurePosixPath(name).name), [])]
            most = max((folders for folders, _ in shared), default=-1)
            found = [each for folders, each in shared if folders == most >= 0]
            exact = [each for each in found if each.image_id == f"{self.of.name}/{name}"]
            if len(exact or found) > 1:
                raise UserError(
                    f"{where}: {name} may be {found[0].image_id} or {found[1].image_id}; give its folder and ending too"
                )
            if found:
                return (exact or found)[0]
        return None

    def _shared(self, name: str, sample: Sample) -> int:
        """How many folders a name and a picture's have in common at the end; -1 where both go on with others.

        Of another folder it is another picture, which need not be among those that are evaluated.
        """
        given = _folders(name)
        own = _folders(sample.image_id.removeprefix(f"{self.of.name}/"))
        count = min(len(given), len(own))
        return count if given[len(given) - count :] == own[len(own) - count :] else -1


def _read(file: Path, pictures: _Pictures) -> dict[str, float]:
    """Scores by image_id. A row of a picture in another split of the set is passed over; an empty score is none."""
    part_only = pictures.of.facts.part != "all"
    scores: dict[str, float] = {}
    for row in csv_rows(file, COLUMNS, remedy="name the columns so in the first line"):
        name = row.text("picture")
        sample = pictures.find(name, row.where)
        if sample is None:
            if part_only:
                continue
            raise UserError(f"{row.where}: {name!r} is no picture of {pictures.of.name}; drop the row")
        if sample.image_id in scores:
            raise UserError(f"{row.where}: {name} appears twice; keep one score per picture")
        if (row.values["score"] or "").strip():
            scores[sample.image_id] = _score(row)
    if not scores:
        raise UserError(f"{file}: no score of any picture of {pictures.of.name} ({pictures.of.facts.part})")
    return scores


def _score(row: LabelRow) -> float:
    number = row.number("score")
    if not math.isfinite(number):
        raise UserError(f"{row.where}: score {row.values['score']} is not finite; correct it or leave it empty")
    return number


def _folders(name: str) -> tuple[str, ...]:
    return PurePosixPath(_key(name)).parent.parts


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
