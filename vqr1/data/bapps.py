"""BAPPS (Zhang et al., CVPR 2018): pairs of distorted patches, and which of them people found nearer to the original.

It has no scores of single pictures, so it is no entry of DATASETS: its records are pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tokenize import TokenError

import numpy as np
from tqdm import tqdm

from vqr1.data.files import check_file
from vqr1.data.labels import within
from vqr1.data.reading import is_nobodys
from vqr1.data.sample import Pair
from vqr1.data.workbooks import UNREADABLE
from vqr1.errors import MissingFileError, UserError

FETCH = (
    "download the 2AFC part of BAPPS (github.com/richzhang/PerceptualSimilarity) and unpack it, so that "
    "{folder}/2afc/train and {folder}/2afc/val hold folders with ref, p0, p1 and judge"
)
PARTS = {"train": "train", "val": "validation"}


def read_bapps(folder: Path) -> dict[str, list[Pair]]:
    """The pairs of the official parts, ``train`` and ``validation``.

    ``judge/*.npy`` is the share of people who preferred p1, 0 to 1. Raises MissingFileError where the folders are
    missing, UserError for a judgement outside 0 to 1 or a missing picture.
    """
    top = folder / "2afc"
    if not top.is_dir():
        raise MissingFileError(f"bapps: {top} is missing\n  To get it: {FETCH.format(folder=folder)}")
    judgements = {part: _judgements(top / name) for name, part in PARTS.items()}
    if not any(judgements.values()):
        raise MissingFileError(f"bapps: {top}/*/judge/*.npy is missing\n  To get it: {FETCH.format(folder=folder)}")
    return {part: list(_pairs(files, top)) for part, files in judgements.items()}


def _judgements(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*/**/judge/*.npy"))
    return [file for file in found if not any(map(is_nobodys, file.relative_to(folder).parts))]


def _pairs(judgements: list[Path], top: Path) -> Iterator[Pair]:
    for judge in tqdm(judgements, desc="reading bapps", unit="pair", disable=None, leave=False):
        kind = judge.parent.parent
        name = kind.relative_to(top).as_posix()
        pictures = [kind / side / f"{judge.stem}.png" for side in ("ref", "p0", "p1")]
        for picture in pictures:
            if not picture.is_file():
                raise UserError(f"{judge}: {picture} is missing; unpack the whole archive there")
        reference, first, second = map(str, pictures)
        pair_id = f"bapps/{name}/{judge.stem}"
        yield Pair(reference, first, second, _preference(judge), "bapps", name.partition("/")[2], pair_id)


def _preference(judge: Path) -> float:
    check_file(judge)
    try:
        value = float(np.load(judge, allow_pickle=False).ravel()[0])
    except (*UNREADABLE, TokenError) as error:  # numpy reads the file's header as Python's words
        raise UserError(f"{judge}: not a judgement ({error}); fetch it again") from error
    return within(str(judge), "judge", value, (0.0, 1.0))
