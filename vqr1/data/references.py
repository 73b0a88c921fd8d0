"""Pictures distorted from a reference, in laboratories: CSIQ, LIVE release 2, TID2013."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from vqr1.data.files import read_text
from vqr1.data.labels import LabelRow, same_length, text_rows
from vqr1.data.reading import PictureFiles, Reading, find_file
from vqr1.data.sample import Splits
from vqr1.data.spec import DatasetSpec
from vqr1.data.workbooks import excel_rows, mat_columns
from vqr1.errors import UserError

# What CSIQ's label file calls a type: the folder and the word in its file names.
CSIQ_TYPES = {
    "noise": ("awgn", "AWGN"),
    "awgn": ("awgn", "AWGN"),
    "blur": ("blur", "BLUR"),
    "contrast": ("contrast", "contrast"),
    "fnoise": ("fnoise", "fnoise"),
    "jpeg": ("jpeg", "JPEG"),
    "jpeg2000": ("jpeg2000", "jpeg2000"),
}
CSIQ_COLUMNS = ["image", "dst_type", "dst_lev", "dmos_std", "dmos"]


def read_csiq(folder: Path) -> Splits:
    """CSIQ (Larson and Chandler, JEI 2010): 866 pictures of 30 references, DMOS 0 to 1 with std.

    LOWER is better in the file; a record's MOS is 1 - DMOS. Labels are ``csiq.beta.txt`` or ``csiq.DMOS.xlsx``.
    """
    labels = find_file(folder, "csiq.beta.txt", "csiq.DMOS.xlsx", "csiq_dmos.txt")
    rows = excel_rows(labels, CSIQ_COLUMNS) if labels.suffix == ".xlsx" else _csiq_text(labels)
    reading = Reading(CSIQ, PictureFiles(folder / "dst_imgs"), f"labels {labels.name}, DMOS turned into 1 - DMOS")
    for row in rows:
        kind = row.text("dst_type").replace(" ", "").casefold()
        if kind not in CSIQ_TYPES:
            raise UserError(
                f"{row.where}: type {kind!r}, expected one of {', '.join(CSIQ_TYPES)}; use the authors' file"
            )
        place, word = CSIQ_TYPES[kind]
        image = row.text("image")
        dmos, std = row.numbers("dmos", "dmos_std")
        name = f"{place}/{image}.{word}.{row.text('dst_lev')}.png"
        original = folder / "src_imgs" / f"{image}.png"
        reading.add(row.where, name, dmos, spread=std, group=image, column="dmos", reference=original)
    return reading.splits()


def _csiq_text(labels: Path) -> list[LabelRow]:
    """Rows of ``image type level dmos_std dmos``, with or without a header, a running number or ``jpeg 2000`` apart."""
    rows = []
    for number, line in enumerate(read_text(labels).split("\n"), start=1):
        values = re.sub(r"(?i)\bjpeg 2000\b", "jpeg2000", line).split()
        if not values or values[-1].casefold() == "dmos":
            continue
        if len(values) == 6:
            del values[1]
        where = f"{labels}, line {number}"
        if len(values) != 5:
            raise UserError(
                f"{where}: {len(values)} values, expected image type level dmos_std dmos; use the authors' file"
            )
        rows.append(LabelRow(dict(zip(CSIQ_COLUMNS, values, strict=True)), where))
    return rows


CSIQ = DatasetSpec(
    name="csiq",
    title="CSIQ",
    range=(0.0, 1.0),
    read=read_csiq,
    fetch="download the CSIQ image database (Oklahoma State University, now Shizuoka University) and unpack it, so "
    "that csiq.DMOS.xlsx or csiq.beta.txt and the folders src_imgs and dst_imgs are in {folder}",
    size=866,
    group="reference",
    licence="terms with the authors",
    higher_is_better_in_file=False,
    spread="std",
    level=re.compile(r"/(?P<kind>\w+)/[^/]+\.(?P<level>\d)\.png$"),
    kinds={
        "awgn": "white noise",
        "fnoise": "pink noise",
        "blur": "Gaussian blur",
        "contrast": "a loss of contrast",
        "jpeg": "JPEG compression",
        "jpeg2000": "JPEG 2000 compression",
    },
)

LIVE_FOLDERS = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}
LIVE_COLUMNS = ["dmos_new", "dmos_std", "orgs", "refnames_all"]  # the last one in a file of its own


def read_live(folder: Path) -> Splits:
    """LIVE release 2 (Sheikh, Sabir, Bovik, TIP 2006): 779 pictures of 29 references, realigned DMOS with std.

    LOWER is better in the file; a record's MOS is 100 - DMOS. The 982 entries run through the five folders in the
    order of LIVE_FOLDERS; 203 of them are copies of the references (``orgs`` is 1) and are left out.
    """
    labels = find_file(folder, "dmos_realigned.mat")
    scores, stds, copies = mat_columns(labels, *LIVE_COLUMNS[:3])
    (references,) = mat_columns(find_file(folder, "refnames_all.mat"), LIVE_COLUMNS[3])
    names = [f"{kind}/img{i}.bmp" for kind, count in LIVE_FOLDERS.items() for i in range(1, count + 1)]
    same_length(str(labels), pictures=names, dmos_new=scores, dmos_std=stds, orgs=copies, refnames_all=references)
    rows = [
        LabelRow(dict(zip(LIVE_COLUMNS, values, strict=True)), f"{labels}, entry {i}")
        for i, values in enumerate(zip(scores, stds, copies, references, strict=True), start=1)
    ]
    kept = [(name, row) for name, row in zip(names, rows, strict=True) if not _is_copy(row)]
    note = f"labels {labels.name}, {len(names) - len(kept)} copies of references left out, DMOS turned into 100 - DMOS"
    reading = Reading(LIVE, PictureFiles(folder), note)
    for name, row in kept:
        dmos, std = row.numbers("dmos_new", "dmos_std")
        reference = PurePosixPath(row.text("refnames_all"))
        original = folder / "refimgs" / reference.name
        reading.add(row.where, name, dmos, spread=std, group=reference.stem, column="dmos_new", reference=original)
    return reading.splits()


def _is_copy(row: LabelRow) -> bool:
    copy = row.number("orgs")
    if copy not in (0, 1):
        raise UserError(f"{row.where}: orgs {copy:g}, expected 0 or 1; use the authors' own label file")
    return copy == 1


LIVE = DatasetSpec(
    name="live",
    title="LIVE",
    range=(-15.0, 115.0),  # realigning leaves 0 to 100 at both ends
    read=read_live,
    fetch="ask the LIVE laboratory (live.ece.utexas.edu/research/quality) for release 2 and unpack it, so that "
    "refnames_all.mat and the folders jp2k, jpeg, wn, gblur, fastfading are in {folder}; dmos_realigned.mat is a "
    "separate download, which the archive does not hold (its dmos.mat is not realigned): put it there too",
    size=779,
    group="reference",
    licence="copyright of the University of Texas at Austin; use with its notice and citations",
    higher_is_better_in_file=False,
    spread="std",
)


def read_tid2013(folder: Path) -> Splits:
    """TID2013 (Ponomarenko et al., SPIC 2015): 3000 pictures of 25 references, MOS 0.24 to 7.2 with std.

    ``mos_std.txt`` has one number to each row of ``mos_with_names.txt``. The case of file names varies.
    """
    labels = find_file(folder, "mos_with_names.txt")
    rows = text_rows(labels, ["mos", "name"])
    stds = text_rows(find_file(folder, "mos_std.txt"), ["std"])
    same_length(str(labels.parent), mos_with_names=rows, mos_std=stds)
    pictures = find_file(folder, "distorted_images")
    reading = Reading(TID2013, PictureFiles(pictures), f"labels {labels.name}, pictures {pictures.name}/")
    for row, std in zip(rows, stds, strict=True):
        name = row.text("name")
        reference = name[:3].upper()
        original = folder / "reference_images" / f"{reference}.BMP"  # and i25.bmp
        mos = row.number("mos")
        reading.add(row.where, name, mos, spread=std.number("std"), group=reference, reference=original)
    return reading.splits()


TID2013 = DatasetSpec(
    name="tid2013",
    title="TID2013",
    range=(0.0, 9.0),
    read=read_tid2013,
    fetch="download TID2013 from its authors' page (ponomarenko.info/tid2013.htm) and unpack it, so that "
    "mos_with_names.txt, mos_std.txt and the folder distorted_images are in {folder}",
    size=3000,
    picture=(512, 384),
    group="reference",
    licence="terms on the authors' page",
    spread="std",
    level=re.compile(r"_(?P<kind>\d\d)_(?P<level>\d)\.", re.IGNORECASE),
)
