"""Every dataset in miniature, in its authors' format: label files of the same columns, pictures of a few pixels.

``MINIATURES[name](folder)`` writes one. Opinion scores fall as the distortion level grows, in each file's own sense.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import openpyxl
import xlwt
from PIL import Image
from scipy.io import savemat

SIDE = 32


def picture(path: Path, seed: int | None = None) -> Path:
    """A small picture of noise, of its own unless seeded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(path.as_posix().encode()) if seed is None else seed)
    Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)
    return path


def lines(path: Path, *rows: str, end: str = "\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(row + end for row in rows).encode())
    return path


def xlsx(path: Path, *rows: list, sheet: str = "Sheet1") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    book.active.title = sheet
    for row in rows:
        book.active.append(row)
    book.save(path)
    return path


def xls(path: Path, *rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    book = xlwt.Workbook()
    sheet = book.add_sheet("Sheet1")
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            if value is not None:
                sheet.write(i, j, value)
    book.save(str(path))
    return path


def cells(values: list[str]) -> np.ndarray:
    """A column of MATLAB cells."""
    array = np.empty((len(values), 1), dtype=object)
    array[:, 0] = values
    return array


def kadid10k(folder: Path, references: int = 3) -> Path:
    rows = []
    for ref in range(1, references + 1):
        for kind in (1, 2):
            for level in range(1, 6):
                name = f"I{ref:02}_{kind:02}_{level:02}.png"
                picture(folder / "images" / name)
                rows.append(f"{name},I{ref:02}.png,{5 - 0.7 * level - 0.1 * kind:.2f},0.25")
    lines(folder / "dmos.csv", "dist_img,ref_img,dmos,var", *rows, end="\r\n")
    return folder


def spaq(folder: Path, count: int = 10) -> Path:
    header = ["Image name", "MOS", "Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness"]
    rows = [[f"{i:05}.jpg", 10 + 7.5 * i, 50, 50, 50, 50, 50] for i in range(1, count + 1)]
    xlsx(folder / "Annotations" / "MOS and Image attribute scores.xlsx", header, *rows)
    for row in rows:
        picture(folder / "TestImage" / row[0])
    return folder


KONIQ_VOTES = [(0, 0, 25, 73, 7), (50, 50, 0, 0, 0), (0, 0, 0, 0, 100), (20, 20, 20, 20, 20)]
KONIQ_MEANS = [402 / 105, 1.5, 5.0, 3.0]


def koniq10k(folder: Path, sets: bool = True) -> Path:
    """With ``sets`` the file of the official split, whose MOS is a z-score; else the file whose MOS is on 1 to 5."""
    parts = ["training", "training", "validation", "test"]
    rows = []
    for i, (votes, mean, part) in enumerate(zip(KONIQ_VOTES, KONIQ_MEANS, parts, strict=True)):
        start = f'"{i}.jpg",{",".join(map(str, votes))},{sum(votes)}'
        rows.append(f"{start},{20 * mean - 5},0.5,{part}" if sets else f"{start},{mean:.6f},0.5,{20 * mean - 5}")
        picture(folder / "1024x768" / f"{i}.jpg")
    start = "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,"
    name = "koniq10k_distributions_sets.csv" if sets else "koniq10k_scores_and_distributions.csv"
    lines(folder / name, start + ("set" if sets else "MOS_zscore"), *rows)
    return folder


def clive(folder: Path, count: int = 5) -> Path:
    names = [f"t{i}.bmp" for i in range(1, 8)] + [f"{i}.bmp" for i in range(3, 3 + count)]
    scores = np.linspace(10, 90, len(names))
    (folder / "Data").mkdir(parents=True)
    savemat(folder / "Data" / "AllImages_release.mat", {"AllImages_release": cells(names)})
    savemat(folder / "Data" / "AllMOS_release.mat", {"AllMOS_release": scores[None]})
    savemat(folder / "Data" / "AllStdDev_release.mat", {"AllStdDev_release": np.full((1, len(names)), 18.5)})
    for name in names:
        picture(folder / "Images" / ("trainingImages" if name.startswith("t") else "") / name)
    return folder


def bid(folder: Path) -> Path:
    grades = {1: [4.0, 5.0, None, 3.0], 2: [1.0, 1.0, 1.0, None], 590: [2.5, None, 3.5, None]}
    header = ["Image Number", "Average Subjective Grade", "Number of Grades"] + [f"Grade #{i}" for i in range(1, 5)]
    rows = []
    for number, row in grades.items():
        given = [grade for grade in row if grade is not None]
        rows.append([number, sum(given) / len(given), len(given), *row])
        picture(folder / f"DatabaseImage{number:04}.JPG")
    xls(folder / "DatabaseGrades.xls", header, *rows)
    return folder


CSIQ_TYPES = {
    "noise": "awgn/{0}.AWGN.{1}.png",
    "jpeg 2000": "jpeg2000/{0}.jpeg2000.{1}.png",
    "contrast": "contrast/{0}.contrast.{1}.png",
}


def csiq(folder: Path, excel: bool = False) -> Path:
    """The Excel sheet has a title above its header and a first column that is empty, as the authors' has."""
    rows = []
    for image in ("1600", "aerial_city"):
        for index, (kind, name) in enumerate(CSIQ_TYPES.items(), start=1):
            for level in (1, 2, 3):
                picture(folder / "dst_imgs" / name.format(image, level))
                # Excel stores the name 1600 as a number.
                rows.append(
                    [int(image) if image.isdigit() else image, index, kind, level, 0.05, 0.26 * level - 0.01 * index]
                )
    if excel:
        header = [None, "image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos"]
        above = [[None, "DMOS"], []]
        xlsx(folder / "csiq.DMOS.xlsx", *above, header, *([None, *row] for row in rows), sheet="all_by_image")
    else:
        text = [f"{image}\t{kind}\t{level}\t{std}\t{dmos}" for image, _, kind, level, std, dmos in rows]
        lines(folder / "csiq.beta.txt", *text)
    return folder


LIVE_COUNTS = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}
LIVE_COPIES = 203


def live(folder: Path) -> Path:
    """All 982 entries, 203 of them copies of references with DMOS 0, over the five folders; the files are empty."""
    names = [f"{kind}/img{i}.bmp" for kind, count in LIVE_COUNTS.items() for i in range(1, count + 1)]
    rng = np.random.default_rng(0)
    copies = np.zeros(982)
    copies[rng.choice(982, LIVE_COPIES, replace=False)] = 1
    dmos = np.where(copies == 1, 0.0, np.linspace(20, 110, 982))
    folder.mkdir(parents=True)
    stds = np.full((1, 982), 9.0)
    savemat(folder / "dmos_realigned.mat", {"dmos_new": dmos[None], "dmos_std": stds, "orgs": copies[None]})
    references = [f"ref{i % 29:02}.bmp" for i in range(982)]
    savemat(folder / "refnames_all.mat", {"refnames_all": cells(references).T})
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    return folder


def tid2013(folder: Path) -> Path:
    """One file name is in another case than its label, as in the release."""
    names = [f"I{ref:02}_{kind:02}_{level}.bmp" for ref in (1, 25) for kind in (1, 24) for level in range(1, 6)]
    scores = [7 - 1.1 * int(name[7]) - 0.01 * int(name[4:6]) for name in names]
    rows = [f"{score:.5f} {name}" for score, name in zip(scores, names, strict=True)]
    lines(folder / "mos_with_names.txt", *rows, end="\r\n")
    lines(folder / "mos_std.txt", *(f"0.1{name[7]}" for name in names))
    for name in names:
        picture(folder / "distorted_images" / (name.lower() if name.startswith("I25") else name))
    return folder


def pipal(folder: Path) -> Path:
    for ref in ("A0001", "A0002"):
        rows = [f"{ref}_00_{i:02}.bmp,{1500 - 100.5 * i}" for i in range(4)]
        lines(folder / "Train_Label" / f"{ref}.txt", *rows)
        for row in rows:
            picture(folder / f"Distortion_{1 + int(ref[-1]) % 2}" / row.split(",")[0])
    return folder


def agiqa3k(folder: Path) -> Path:
    header = "name,prompt,adj1,adj2,style,mos_quality,std_quality,mos_align,std_align"
    rows = []
    for i, prompt in enumerate(["a cat", "a cat", '"a dog, sitting"', '"a dog, sitting"', "a tree", "a hill"]):
        name = f"AttnGAN_normal_{i:03}.jpg"
        picture(folder / name)
        rows.append(f"{name},{prompt},,,,{0.5 + 0.6 * i:.3f},0.4,{4 - 0.5 * i},0.9")
    lines(folder / "data.csv", header, *rows)
    return folder


def scenes(name: str):
    def write(folder: Path) -> Path:
        rows = []
        for scene in (1, 2):
            for i in range(4):
                picture(folder / "images" / f"s{scene}" / f"{scene}_{i}.png")
                rows.append(f"s{scene}.png {scene}_{i}.png {1.5 * i - 3}")
        lines(folder / f"{name}.txt", *rows)
        return folder

    return write


def sriqa(folder: Path) -> Path:
    """Two scenes whose scales have nothing to do with each other."""
    for scene, base in ((1, 0), (2, 60)):
        rows = []
        for i, method in enumerate(["BSRGAN", "SeeSR", "SwinIR"]):
            name = f"x{scene}_{method}x4.png"
            picture(folder / "images" / method / name)
            rows.append(f"{name},{base + 10 * i}")
        lines(folder / "MOS" / f"x{scene}.txt", *rows)
    return folder


def flive(folder: Path, official: bool = True) -> Path:
    names = [f"voc_emotic_ava/{i}.jpg" for i in range(6)]
    lines(folder / "labels_image.csv", "name,mos", *(f"{name},{10 + 12.5 * i}" for i, name in enumerate(names)))
    for name in names:
        picture(folder / "database" / name)
    if official:
        lines(folder / "labels640.csv", "name_image,mos_image", f"{names[5]},72.5", f"{names[4]},60")
        rows = [f"{name},{i == 3}" for i, name in enumerate(names[:4])]
        lines(folder / "labels=640_padded.csv", "name_image,is_valid", *rows)
    return folder


def bapps(folder: Path) -> Path:
    for part, kind in (("train", "traditional"), ("val", "cnn")):
        place = folder / "2afc" / part / kind
        for i, judge in enumerate((0.0, 0.4, 1.0)):
            for side in ("ref", "p0", "p1"):
                picture(place / side / f"{i:06}.png")
            (place / "judge").mkdir(exist_ok=True)
            np.save(place / "judge" / f"{i:06}.npy", np.array([judge], dtype=np.float32))
    return folder


MINIATURES = {
    "kadid10k": kadid10k,
    "spaq": spaq,
    "koniq10k": koniq10k,
    "clive": clive,
    "bid": bid,
    "csiq": csiq,
    "live": live,
    "tid2013": tid2013,
    "pipal": pipal,
    "agiqa3k": agiqa3k,
    "liu13": scenes("liu13"),
    "sriqa": sriqa,
    "min19": scenes("min19"),
    "flive": flive,
}


def json_rows(path: Path, *rows: tuple[str, str, object]) -> Path:
    """VisualQuality-R1's training rows: (dataset, image, mos)."""
    question = {"from": "human", "value": "rate the picture"}
    texts = [
        json.dumps(
            {
                "id": i,
                "dataset_name": dataset,
                "image": [image],
                "conversations": [question, {"from": "gpt", "value": mos}],
            }
        )
        for i, (dataset, image, mos) in enumerate(rows)
    ]
    return lines(path, *texts)
