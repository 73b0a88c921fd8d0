"""KADID-10k as its authors distribute it: ``dmos.csv`` and ``images/`` (Lin, Hosu, Saupe, QoMEX 2019).

Its column ``dmos`` is a mean opinion score: higher is better, 1 to 4.93. Its column ``var`` is the VARIANCE of the
ratings; others have read it as their standard deviation.
"""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

from vqr1.data.labels import csv_rows
from vqr1.data.reading import PictureFiles, Reading, find_file, path_below
from vqr1.data.sample import Splits
from vqr1.data.spec import DatasetSpec
from vqr1.errors import UserError

KINDS = (  # Lin, Hosu and Saupe, QoMEX 2019, in the order of their numbers
    *("Gaussian blur", "lens blur", "motion blur"),
    *(
        "colour diffusion",
        "colour shift",
        "colour quantisation",
        "colour saturation in HSV",
        "colour saturation in Lab",
    ),
    *("JPEG 2000 compression", "JPEG compression"),
    *("white noise", "white noise in a colour component", "impulse noise", "multiplicative noise", "denoising"),
    *("brightening", "darkening", "mean shift"),
    *("jitter", "non-eccentricity patches", "pixelation", "quantisation", "colour blocks"),
    *("high sharpening", "contrast change"),
)
REFERENCES = {f"I{number:02}" for number in range(1, 82)}
COLUMNS = ["dist_img", "ref_img", "dmos", "var"]


def read_kadid10k(folder: Path) -> Splits:
    """All 10,125 pictures in the split 49/16/16 by reference that VisualQuality-R1's published labels use.

    Raises MissingFileError where the label file is missing, UserError, with line and value, where it is not the
    authors' or names a picture that is not there.
    """
    labels = find_file(folder, "dmos.csv")
    rows = csv_rows(labels, COLUMNS, exact=True)
    reading = Reading(KADID10K, PictureFiles(folder / "images"), f"labels {labels.name}, pictures images/")
    part_of = _published_split()
    for row in rows:
        dmos, variance = row.numbers("dmos", "var")
        if variance < 0:
            raise UserError(f"{row.where}: var {variance} is negative; use the authors' dmos.csv")
        reference = path_below(folder / "images", row.text("ref_img"), row.where)
        group = reference.stem.upper()  # in whatever case it is written it is one reference, of one part
        if group not in REFERENCES:
            raise UserError(f"{row.where}: ref_img {reference}, expected I01.png to I81.png; use the authors' dmos.csv")
        reading.add(
            row.where,
            row.text("dist_img"),
            dmos,
            spread=variance,
            group=group,
            part=part_of.get(group, "train"),
            column="dmos",
            reference=folder / "images" / reference,
        )
    return reading.splits()


def _published_split() -> dict[str, str]:
    """The part of each reference that is not a training one."""
    split = json.loads(files("vqr1.data").joinpath("kadid10k_split.json").read_text())
    return {reference: part for part, key in (("validation", "val"), ("test", "test")) for reference in split[key]}


KADID10K = DatasetSpec(
    name="kadid10k",
    title="KADID-10k",
    range=(1.0, 5.0),
    read=read_kadid10k,
    fetch="download kadid10k.zip from the KADID-10k page of the University of Konstanz and unpack it, so that "
    "dmos.csv and the folder images are in {folder}",
    size=10125,
    group="reference",
    licence="originals from Pixabay; terms on the database's page",
    spread="variance",
    split="official",
    train=6125,
    picture=(512, 384),
    level=re.compile(r"_(?P<kind>\d\d)_(?P<level>\d\d)\."),
    kinds={f"{number:02}": name for number, name in enumerate(KINDS, 1)},
)
