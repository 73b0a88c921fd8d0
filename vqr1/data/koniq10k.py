"""KonIQ-10k as its authors distribute it (Hosu, Lin, Sziranyi, Saupe, TIP 2020): either of two label files.

``koniq10k_scores_and_distributions.csv`` has MOS on 1 to 5 beside SD on 1 to 5. ``koniq10k_distributions_sets.csv`` has
the official split and SD on 1 to 5, but its column MOS is a z-score on 0 to 100, beside which SD is on another scale.
Both count the votes c1 to c5 for the grades 1 to 5. The MOS of a record is always their mean, so MOS and spread are on
one scale, and both files give the same records.
"""

from __future__ import annotations

from pathlib import Path

from vqr1.data.labels import LabelRow, csv_rows, within
from vqr1.data.reading import PictureFiles, Reading, find_file
from vqr1.data.sample import Splits
from vqr1.data.spec import DatasetSpec
from vqr1.errors import UserError

SETS = "koniq10k_distributions_sets.csv"
SCORES = "koniq10k_scores_and_distributions.csv"
VOTES = ["c1", "c2", "c3", "c4", "c5"]
PART_OF = {"training": "train", "validation": "validation", "test": "test"}
ROUNDING = 0.02  # what the SCORES file's MOS may differ from the mean of its own votes


def read_koniq10k(folder: Path) -> Splits:
    """10,073 photographs, at 1024x768 where that folder is there, else at 512x384.

    With the SETS file the split is the official one (7058, 1000, 2015); with the SCORES file alone it is by content.
    """
    labels = find_file(folder, SETS, f"metadata/{SETS}", SCORES, f"metadata/{SCORES}")
    pictures = find_file(folder, "1024x768", "512x384")
    has_sets = labels.name.casefold() == SETS
    extra = ["set"] if has_sets else ["MOS_zscore"]
    split = "official split" if has_sets else f"no {SETS}, so split by content"
    note = f"labels {labels.name}, MOS from c1..c5 on 1 to 5, pictures {pictures.name}/, {split}"
    reading = Reading(KONIQ10K, PictureFiles(pictures), note)
    for row in csv_rows(labels, ["image_name", *VOTES, "MOS", "SD", *extra]):
        mos = mean_of_votes(row)
        if not has_sets:
            _check_scale(row, mos)
        spread = within(row.where, "SD", row.number("SD"), (0, 4))
        reading.add(row.where, row.text("image_name"), mos, spread=spread, part=_part(row) if has_sets else "train")
    return reading.splits(official=has_sets)


def mean_of_votes(row: LabelRow) -> float:
    """Mean grade from the votes (numbers or shares) for the grades 1 to 5."""
    votes = row.numbers(*VOTES)
    total = sum(votes)
    if not (min(votes) >= 0 and total > 0):
        raise UserError(f"{row.where}: votes {votes} must not be negative and not all 0; use the authors' file")
    return sum(grade * count for grade, count in enumerate(votes, start=1)) / total


def _check_scale(row: LabelRow, mos: float) -> None:
    """The SCORES file's MOS is the votes' mean; a z-score there is the other file's column."""
    given = row.number("MOS")
    if not abs(given - mos) <= ROUNDING:
        raise UserError(
            f"{row.where}: MOS {given:g}, but the mean of the votes c1..c5 is {mos:.3f}; use the authors' file, whose "
            "MOS is on 1 to 5"
        )


def _part(row: LabelRow) -> str:
    name = row.text("set")
    if name not in PART_OF:
        raise UserError(f"{row.where}: set {name!r}, expected one of {', '.join(PART_OF)}; use the authors' file")
    return PART_OF[name]


KONIQ10K = DatasetSpec(
    name="koniq10k",
    title="KonIQ-10k",
    range=(1.0, 5.0),
    read=read_koniq10k,
    fetch="download koniq10k_1024x768.zip from the KonIQ-10k page of the University of Konstanz and "
    f"{SETS} from github.com/subpic/koniq, so that the folder 1024x768 and the csv are in {{folder}}",
    size=10073,
    group="image",
    licence="pictures from YFCC100M under their own Creative Commons licences; terms on the database's page",
    spread="std",
    split="official",
    train=7058,
    picture=(1024, 768),
)
