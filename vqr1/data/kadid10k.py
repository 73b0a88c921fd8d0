"""KADID-10k as its authors distribute it: ``dmos.csv`` and ``images/`` (Lin, Hosu, Saupe, QoMEX 2019).

Its column ``dmos`` is a mean opinion score: higher is better, 1 to 4.93. Its column ``var`` is the VARIANCE of the
ratings; others have read it as their standard deviation.
"""

from __future__ import annotations

import csv
import json
import math
from importlib.resources import files
from pathlib import Path

from vqr1.data.sample import Sample, Splits

COLUMNS = ["dist_img", "ref_img", "dmos", "var"]


def read_kadid10k(folder: Path) -> Splits:
    """All 10,125 pictures in the split 49/16/16 by reference that VisualQuality-R1's published labels use.

    Raises FileNotFoundError where the label file is missing, ValueError, with line and value, where it is not the
    authors' or names a picture that is not there.
    """
    labels = folder / "dmos.csv"
    if not labels.is_file():
        raise FileNotFoundError(f"{labels} is missing")
    split = json.loads(files("vqr1.data").joinpath("kadid10k_split.json").read_text())
    held_out = {"validation": set(split["val"]), "test": set(split["test"])}
    parts: dict[str, list[Sample]] = {"train": [], "validation": [], "test": []}
    with labels.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != COLUMNS:
            raise ValueError(f"{labels}: columns {reader.fieldnames}, expected {COLUMNS}; use the authors' dmos.csv")
        for row in reader:
            sample = _sample(row, folder, f"{labels}, line {reader.line_num}")
            part = next((name for name, groups in held_out.items() if sample.group in groups), "train")
            parts[part].append(sample)
    return Splits(**parts)


def _sample(row: dict[str, str], folder: Path, where: str) -> Sample:
    try:
        mos, variance = float(row["dmos"]), float(row["var"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: dmos {row['dmos']!r} and var {row['var']!r} must be numbers") from error
    if not (1 <= mos <= 5 and variance >= 0):
        raise ValueError(f"{where}: dmos {mos} is outside 1 to 5, or var {variance} is negative")
    image = folder / "images" / row["dist_img"]
    if not image.is_file():
        raise ValueError(f"{where}: {image} is missing; unpack the whole archive there")
    return Sample(
        image=str(image),
        mos=mos,
        mos_std=math.sqrt(variance),
        dataset="kadid10k",
        group=Path(row["ref_img"]).stem,
        image_id=f"kadid10k/{row['dist_img']}",
    )
