"""What restoration and generation leave: PIPAL, Liu13, SRIQA-Bench, Min19, AGIQA-3K."""

from __future__ import annotations

import math
import re
from pathlib import Path, PurePosixPath

from vqr1.data.labels import csv_rows, text_rows
from vqr1.data.reading import PictureFiles, Reading, find_file, is_nobodys
from vqr1.data.sample import Splits
from vqr1.data.spec import DatasetSpec
from vqr1.errors import MissingFileError, UserError


def read_pipal(folder: Path) -> Splits:
    """PIPAL's training part (Gu et al., ECCV 2020): 23,200 pictures of 200 references, Elo 917 to 1836."""
    labels = find_file(folder, "Train_Label")
    reading = Reading(PIPAL, PictureFiles(folder, anywhere=True), f"labels {labels.name}/*.txt, Elo ratings")
    for file in _label_files(labels):
        for row in text_rows(file, ["name", "elo"]):
            name = row.text("name")
            group = name.split("_")[0]
            original = folder / "Train_Ref" / f"{group}.bmp"
            reading.add(row.where, name, row.number("elo"), group=group, column="elo", reference=original)
    return reading.splits()


def _label_files(folder: Path) -> list[Path]:
    files = _texts(folder)
    if not files:
        deeper = next(
            (file.parent for file in sorted(folder.glob("*/*.txt")) if not is_nobodys(file.parent.name)), None
        )
        there = f", but {deeper} has some: move the contents of {deeper} to {folder}" if deeper else ""
        raise MissingFileError(f"{folder}/*.txt is missing{there}")
    return files


def _texts(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.txt") if not is_nobodys(file.name))


PIPAL = DatasetSpec(
    name="pipal",
    title="PIPAL",
    range=(900.0, 1850.0),
    read=read_pipal,
    fetch="download PIPAL's training part (github.com/HaomingCai/PIPAL-dataset) and unpack it, so that the folders "
    "Train_Label, Train_Ref and Distortion_1 and so on are in {folder}",
    size=23200,
    group="reference",
    licence="terms with the authors",
)


def read_sriqa(folder: Path) -> Splits:
    """SRIQA-Bench (Chen et al., CVPR 2025): 100 scenes by 11 methods, scores 0 to 100 WITHIN each scene.

    ``MOS/xN.txt`` rates the pictures of scene N, which are in ``images/<method>/``. Scores of two scenes do not
    compare: correlate within scenes and average.
    """
    labels = find_file(folder, "MOS")
    pictures = PictureFiles(find_file(folder, "images"), anywhere=True)
    reading = Reading(SRIQA, pictures, f"labels {labels.name}/*.txt, one scale to each scene")
    for file in _label_files(labels):
        for row in text_rows(file, ["name", "score"]):
            name = row.text("name")
            if not PurePosixPath(name).name.startswith(f"{file.stem}_"):
                raise UserError(f"{row.where}: {name} is not of scene {file.stem}; use the authors' files")
            reading.add(row.where, name, row.number("score"), group=file.stem, column="score")
    return reading.splits()


SRIQA = DatasetSpec(
    name="sriqa",
    title="SRIQA-Bench",
    range=(0.0, 100.0),
    read=read_sriqa,
    fetch="download SRIQA-Bench through A-FINE's repository (github.com/ChrisDud0257/AFINE) and unpack it, so that the "
    "folders images and MOS are in {folder}",
    size=1100,
    group="scene",
    licence="terms with the authors",
    per_group_scale=True,
    split="test",
)


def _read_scenes(spec: DatasetSpec, folder: Path) -> Splits:
    """Rows of ``ref dist mos``: we have not seen the original packaging, so the file may have any of a few names.

    Or any name, where it is the only text that begins with such a row. Pictures may be anywhere below the folder.
    """
    names = (f"{spec.name}.txt", "labels.txt", "label.txt", "mos.txt")
    similar = [file for file in _texts(folder) if _begins_with_a_row(file)]
    named = [file for file in similar if file.name.casefold() in names]
    labels = similar[0] if len(similar) == 1 and not named else find_file(folder, *names)
    reading = Reading(spec, PictureFiles(folder, anywhere=True), f"labels {labels.name}, expected as `ref dist mos`")
    for row in text_rows(labels, ["ref", "dist", "mos"]):
        scene = PurePosixPath(row.text("ref")).stem
        reading.add(row.where, row.text("dist"), row.number("mos"), group=scene)
    return reading.splits()


def _begins_with_a_row(file: Path) -> bool:
    """Whether the first line is ``ref dist mos``: a readme's is not."""
    with file.open(encoding="utf-8-sig", errors="replace") as text:
        values = next((line.split() for line in text if line.strip()), [])
    return len(values) == 3 and re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", values[2], re.IGNORECASE) is not None


def read_liu13(folder: Path) -> Splits:
    """Liu13 (Liu et al., SIGGRAPH Asia 2013): 1199 deblurred pictures of 40 scenes, for testing."""
    return _read_scenes(LIU13, folder)


def read_min19(folder: Path) -> Splits:
    """Min19, or SHRQ (Min et al., TMM 2019): 600 dehazed pictures of 45 + 30 scenes, for testing."""
    return _read_scenes(MIN19, folder)


_SCENES = (
    "and put a whitespace label file of `ref dist mos` (VisualQuality-R1 publishes one) as {folder}/%s.txt, with the "
    "pictures anywhere below {folder}"
)
LIU13 = DatasetSpec(
    name="liu13",
    title="Liu13",
    range=(-math.inf, math.inf),
    read=read_liu13,
    fetch="get the deblurring study's pictures (A No-Reference Metric for Evaluating the Quality of Motion Deblurring) "
    + _SCENES % "liu13",
    size=1199,
    group="scene",
    licence="terms with the authors",
    split="test",
)
MIN19 = DatasetSpec(
    name="min19",
    title="Min19",
    range=(-math.inf, math.inf),
    read=read_min19,
    fetch="get SHRQ (Quality Evaluation of Image Dehazing Methods Using Synthetic Hazy Images) " + _SCENES % "min19",
    size=600,
    group="scene",
    licence="terms with the authors",
    split="test",
)


def read_agiqa3k(folder: Path) -> Splits:
    """AGIQA-3K (Li et al., TCSVT 2023): 2982 generated pictures, quality MOS 0 to 4.49 with std, grouped by prompt.

    The columns of alignment with the prompt (``mos_align``) are another question and are not read.
    """
    labels = find_file(folder, "data.csv")
    pictures = PictureFiles(folder, anywhere=True)
    reading = Reading(AGIQA3K, pictures, f"labels {labels.name}, columns mos_quality and std_quality")
    for row in csv_rows(labels, ["name", "prompt", "mos_quality", "std_quality"]):
        mos, std = row.numbers("mos_quality", "std_quality")
        prompt = re.sub(r"\s+", " ", row.text("prompt"))
        reading.add(row.where, row.text("name"), mos, spread=std, group=prompt, column="mos_quality")
    return reading.splits()


AGIQA3K = DatasetSpec(
    name="agiqa3k",
    title="AGIQA-3K",
    range=(0.0, 5.0),
    read=read_agiqa3k,
    fetch="download AGIQA-3K (github.com/lcysyzxdxc/AGIQA-3k-Database) and unpack it, so that data.csv and the "
    "pictures are in {folder}",
    size=2982,
    group="prompt",
    licence="terms with the authors",
    spread="std",
)
