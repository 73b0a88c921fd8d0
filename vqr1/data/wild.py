"""Photographs as cameras took them, each its own content: SPAQ, CLIVE, BID, FLIVE."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from statistics import stdev

from vqr1.data.labels import ONE_RELEASE, LabelRow, csv_rows, same_length
from vqr1.data.reading import PictureFiles, Reading, find_file, fold
from vqr1.data.sample import Splits
from vqr1.data.spec import DatasetSpec
from vqr1.data.workbooks import excel_rows, mat_columns
from vqr1.errors import MissingFileError, UserError

SPAQ_LABELS = "MOS and Image attribute scores.xlsx"
SPAQ_STD_LABELS = "MOS Std and Image attribute scores.xlsx"  # given out later
SPAQ_STD = ("mosstd", "stdmos", "stdofmos", "std", "sd", "mossd", "standarddeviation", "mosstandarddeviation")


def read_spaq(folder: Path) -> Splits:
    """SPAQ (Fang et al., CVPR 2020): 11,125 smartphone photographs at full resolution, MOS 2 to 96.

    Without spread, unless the file with the standard deviations is there, which we have not seen: its column may have
    any of a few names.
    """
    places = [f"Annotations/{SPAQ_STD_LABELS}", SPAQ_STD_LABELS]
    try:
        labels, has_std = find_file(folder, *places), True
    except MissingFileError:
        labels, has_std = find_file(folder, f"Annotations/{SPAQ_LABELS}", SPAQ_LABELS), False
    pictures = find_file(folder, "TestImage")
    rows = excel_rows(labels, ["Image name", "MOS"])
    std = _spaq_std(labels, rows) if has_std else None
    columns = f"columns MOS and {std}, a std" if std else "column MOS"
    spec = replace(SPAQ, spread="std") if std else SPAQ
    reading = Reading(spec, PictureFiles(pictures), f"labels {labels.name}, {columns}, pictures {pictures.name}/")
    for row in rows:
        spread = row.number(std) if std else None
        reading.add(row.where, row.text("Image name"), row.number("MOS"), spread=spread, column="MOS")
    return reading.splits()


def _spaq_std(labels: Path, rows: Sequence[LabelRow]) -> str | None:
    """The name of the column of standard deviations; None without rows."""
    columns = list(rows[0].values) if rows else []
    found = [name for name in columns if re.sub(r"[^a-z]", "", name.casefold()) in SPAQ_STD]
    if columns and len(found) != 1:
        raise UserError(
            f"{labels}: columns {columns}, expected one of standard deviations, called MOS Std; give it this name, or "
            f"take {SPAQ_LABELS}, which has none"
        )
    return found[0] if found else None


SPAQ = DatasetSpec(
    name="spaq",
    title="SPAQ",
    range=(0.0, 100.0),
    read=read_spaq,
    fetch="download SPAQ through its repository (github.com/h4nwei/SPAQ) and unpack it, so that the folders TestImage "
    "and Annotations are in {folder}",
    size=11125,
    group="image",
    licence="terms with the authors",
)

TRAINING_PICTURES = {f"t{i}" for i in range(1, 8)}


def read_clive(folder: Path) -> Splits:
    """LIVE In the Wild Challenge (Ghadiyaram and Bovik, TIP 2016): 1162 photographs, MOS 3.4 to 92.4 with std.

    The release lists 1169 pictures. Its first seven, t1 to t7, trained the raters and are left out here.
    """
    folder = _clive_folder(folder)
    labels = find_file(folder, "Data/AllMOS_release.mat")
    (names,) = mat_columns(find_file(folder, "Data/AllImages_release.mat"), "AllImages_release")
    (scores,) = mat_columns(labels, "AllMOS_release")
    (stds,) = mat_columns(find_file(folder, "Data/AllStdDev_release.mat"), "AllStdDev_release")
    same_length(str(labels.parent), AllImages_release=names, AllMOS_release=scores, AllStdDev_release=stds)
    kept = [i for i, name in enumerate(names) if PurePosixPath(str(name)).stem not in TRAINING_PICTURES]
    dropped = len(names) - len(kept)
    reading = Reading(
        CLIVE, PictureFiles(folder / "Images"), f"labels Data/*.mat; {dropped} training pictures left out"
    )
    for i in kept:
        row = LabelRow({"name": names[i], "MOS": scores[i], "std": stds[i]}, f"{labels}, entry {i + 1}")
        score, std = row.numbers("MOS", "std")
        reading.add(row.where, row.text("name"), score, spread=std, column="MOS")
    return reading.splits()


def _clive_folder(folder: Path) -> Path:
    """The archive's own folder, where it was unpacked with it."""
    inner = folder / "ChallengeDB_release"
    return inner if inner.is_dir() else folder


CLIVE = DatasetSpec(
    name="clive",
    title="CLIVE",
    range=(0.0, 100.0),
    read=read_clive,
    fetch="ask the LIVE laboratory (live.ece.utexas.edu/research/ChallengeDB) for ChallengeDB_release.zip and unpack "
    "it, so that the folders Data and Images are in {folder}",
    size=1162,
    group="image",
    licence="copyright of the University of Texas at Austin; use with its notice and citations",
    spread="std",
)


def read_bid(folder: Path) -> Splits:
    """BID (Ciancio et al., TIP 2011): 586 photographs with natural blur, mean grade 0.16 to 4.92.

    The spread is the sample standard deviation (n - 1) of the single grades ``Grade #1`` and so on, an empty cell
    being a rater who did not see the picture. Picture numbers have gaps. Labels and pictures are in one folder, or the
    pictures in ``ImageDatabase`` beside the labels; others hand on the labels as an xlsx file.
    """
    names = ("DatabaseGrades.xls", "DatabaseGrades.xlsx")
    labels = find_file(folder, *names, *(f"ImageDatabase/{name}" for name in names))
    pictures = PictureFiles(folder, anywhere=True)
    reading = Reading(BID, pictures, f"labels {labels.name}, spread from the single grades")
    for row in excel_rows(labels, ["Image Number", "Average Subjective Grade"]):
        number, grade = row.numbers("Image Number", "Average Subjective Grade")
        if not number.is_integer():  # nor one that is not finite
            raise UserError(f"{row.where}: Image Number {number:g} is no whole number; correct or drop the row")
        name = f"DatabaseImage{int(number):04d}.JPG"
        reading.add(row.where, name, grade, spread=_bid_std(row), column="Average Subjective Grade")
    return reading.splits()


def _bid_std(row: LabelRow) -> float | None:
    given = [name for name, value in row.values.items() if name.startswith("Grade #") and value not in (None, "")]
    grades = row.numbers(*given)
    for name, grade in zip(given, grades, strict=True):
        if not math.isfinite(grade):
            raise UserError(f"{row.where}: {name} {grade} is not finite; correct it or leave it empty")
    return stdev(grades) if len(grades) > 1 else None


BID = DatasetSpec(
    name="bid",
    title="BID",
    range=(0.0, 5.0),
    read=read_bid,
    fetch="download the Blurred Image Database of the Federal University of Rio de Janeiro and unpack it, so that "
    "DatabaseGrades.xls is in {folder}, and DatabaseImage0001.JPG and so on there or in {folder}/ImageDatabase",
    size=586,
    group="image",
    licence="terms with the authors",
    spread="std",
)


def read_flive(folder: Path) -> Splits:
    """FLIVE, or PaQ-2-PiQ (Ying et al., CVPR 2020): 39,810 photographs, MOS 0 to 94, no spread.

    The official split: pictures that ``labels640.csv`` names are the test set, those that ``labels=640_padded.csv``
    marks ``is_valid`` the validation set, the others train. Without both files the split is by content, and a note
    says so.
    """
    labels = find_file(folder, "labels_image.csv", "database/labels_image.csv")
    parts = _flive_parts(folder)
    split = "official split" if parts else "no labels640.csv and labels=640_padded.csv, so split by content"
    reading = Reading(FLIVE, PictureFiles(folder / "database"), f"labels {labels.name}, pictures database/, {split}")
    # All names of the published labels640.csv have a label; whether those of the other file have is not known.
    unread = {key: row for key, (row, part) in parts.items() if part == "test"}
    for row in csv_rows(labels, ["name", "mos"]):
        name = row.text("name").removeprefix("database/")
        unread.pop(_flive_key(name), None)
        _, part = parts.get(_flive_key(name), (row, "train"))
        reading.add(row.where, name, row.number("mos"), part=part)
    for row in unread.values():
        raise UserError(
            f"{row.where}: {row.text('name_image')} is a test picture that {labels.name} does not have; {ONE_RELEASE}"
        )
    return reading.splits(official=bool(parts))


def _flive_parts(folder: Path) -> dict[str, tuple[LabelRow, str]]:
    """Row and part of each picture that is not a training one; empty without the official files."""
    try:
        test = find_file(folder, "labels640.csv", "database/labels640.csv", "labels>640.csv", "database/labels>640.csv")
        padded = find_file(folder, "labels=640_padded.csv", "database/labels=640_padded.csv")
    except MissingFileError:
        return {}
    valid = [row for row in csv_rows(padded, ["name_image", "is_valid"]) if _is_valid(row)]
    rows = [(row, "validation") for row in valid] + [(row, "test") for row in csv_rows(test, ["name_image"])]
    return {_flive_key(row.text("name_image")): (row, part) for row, part in rows}


def _is_valid(row: LabelRow) -> bool:
    word = row.text("is_valid").casefold()
    if word not in ("true", "false"):
        raise UserError(f"{row.where}: is_valid {row.text('is_valid')!r}, expected True or False; {ONE_RELEASE}")
    return word == "true"


def _flive_key(name: str) -> str:
    """Equal for the names that are found as one file."""
    return fold(str(PurePosixPath(name.replace("\\", "/")))).removeprefix("database/")


FLIVE = DatasetSpec(
    name="flive",
    title="FLIVE",
    range=(0.0, 100.0),
    read=read_flive,
    fetch="get the pictures as the notebook of the repository github.com/niu-haoran/FLIVE_Database does, and "
    "labels_image.csv, labels640.csv and labels=640_padded.csv from the folder database of the repository "
    "github.com/baidut/PaQ-2-PiQ, so that the label files and the folder database are in {folder}",
    size=39810,
    group="image",
    licence="terms with the authors; the pictures keep those of their sources",
    split="official",
)
