"""The demonstration data: two small rated datasets that need no download.

Contents are licensed photographs and drawn pictures; each picture is one content under one of KADID-10k's distortions
at one of its five levels, distorted at native resolution and then cropped, never scaled down. Its label is the mean
opinion score that people gave that type and level in KADID-10k, plus the noise of a small panel of raters.

These are PSEUDO-LABELS: people rated the type and level on other contents, never these pictures. The data prove that
the machinery learns to rank unseen photographs; they are no accuracy benchmark.

The two datasets have different scales (1-5 and 0-100) and partly different distortions, so training on both is
training on several datasets. Train, validation and test share no content, over both datasets; the test pictures are
photographs only.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from vqr1.data.sample import Sample, Splits
from vqr1.demo.distortions import DISTORTIONS, distort
from vqr1.demo.drawn_pictures import draw_picture
from vqr1.demo.photographs import photographs
from vqr1.errors import UserError, file_trouble

CROP = 112  # pixels: four by four language tokens
WINDOW = 160  # pixels that are distorted; the margin of 24 is the reach of the widest filter
DRAWN_SIDE = 224
RATER_STD = 0.25  # of the panel's mean, on the scale 1-5
RATING_STD = 0.6  # of single ratings, on the scale 1-5: the label's mos_std
HELD_OUT_SEED = 500  # of the drawn contents that are not trained on
VERSION = 2  # raise it when anything that changes a pixel or a label changes: the cache is then made again
REFERENCES = "references"  # folder of undistorted pictures, drawn when they are first shown
# Seconds after which an unfinished drawing is nobody's: where its folder is not locked, which comes just after its
# making, and where it cannot be locked, for a whole drawing takes a minute.
UNLOCKED, ABANDONED = 5.0, 3600.0

PHOTOGRAPHS = {
    "train": ("rocket", "hubble_deep_field", "retina", "ihc", "flower", "grace_hopper"),
    "validation": ("china",),
    "test": ("astronaut", "chelsea", "coffee"),
}


@dataclass(frozen=True)
class DemoDataset:
    """One demonstration dataset: its types and the linear map from KADID-10k's scale 1-5 to its own."""

    name: str
    types: tuple[str, ...]
    scale: float
    offset: float
    seed: int


DEMO_DATASETS = {
    dataset.name: dataset
    for dataset in (
        DemoDataset(
            "demo_five",
            ("gaussian_blur", "motion_blur", "jpeg", "white_noise", "pixelate", "color_saturation_lab", "high_sharpen"),
            scale=1.0,
            offset=0.0,
            seed=5,
        ),
        DemoDataset(
            "demo_hundred",
            ("lens_blur", "jpeg", "jpeg2000", "impulse_noise", "multiplicative_noise", "jitter", "high_sharpen"),
            scale=25.0,
            offset=-25.0,
            seed=100,
        ),
    )
}
# Every type the demonstration knows, in a fixed order.
TYPES = tuple(sorted({name for dataset in DEMO_DATASETS.values() for name in dataset.types}))

TRAIN_PICTURES = 900  # of each dataset, from these contents and the training photographs:
TRAIN_DRAWN = 150
VALIDATION_DRAWN = 3  # contents beside the photograph
VALIDATION_CROPS = 1  # of each content, type and level
TEST_CROPS = 2


@dataclass(frozen=True)
class Content:
    """A pristine picture."""

    name: str
    pixels: np.ndarray  # (H, W, 3) uint8
    drawn: bool


def drawn_contents(count: int, seed: int) -> Iterator[Content]:
    """``count`` drawn pictures; the i-th depends on ``seed`` and i only."""
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        yield Content(f"drawn_{seed}_{i:05d}", draw_picture(rng, DRAWN_SIDE, DRAWN_SIDE), True)


def photograph_contents(part: str) -> list[Content]:
    chosen = {photograph.name: photograph for photograph in photographs()}
    return [Content(name, chosen[name].pixels, False) for name in PHOTOGRAPHS[part]]


def render(content: Content, kind: str, level: int, rng: np.random.Generator) -> np.ndarray:
    """A random window of ``content``, distorted at native resolution and then cropped. (CROP, CROP, 3) uint8."""
    return render_both(content, kind, level, rng)[0]


def render_both(content: Content, kind: str, level: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """What :func:`render` gives, and the same crop undistorted.

    The window is wider than the crop on every side, so that no border effect of a filter is seen.
    """
    sides = content.pixels.shape[:2]
    height, width = (min(side, WINDOW) for side in sides)
    top, left = (int(rng.integers(side - min(side, WINDOW) + 1)) for side in sides)
    window = content.pixels[top : top + height, left : left + width].astype(np.float32) / 255
    distorted = distort(window, kind, level, rng)
    top, left = (height - CROP) // 2, (width - CROP) // 2

    def crop(pixels: np.ndarray) -> np.ndarray:
        return np.round(pixels[top : top + CROP, left : left + CROP] * 255).astype(np.uint8)

    return crop(distorted), crop(window)


def true_mos(kind: str, level: int) -> float:
    """The mean opinion score that people gave a type at a level in KADID-10k, 1 to 5."""
    return DISTORTIONS[kind].mos[level - 1]


@dataclass(frozen=True)
class Picture:
    """One row of a demonstration dataset, beside its pixels."""

    file: str
    part: str
    content: str
    kind: str
    level: int
    mos: float  # with the raters' noise, on the dataset's own scale
    noise_free_mos: float  # without; on the same scale
    mos_std: float


def make_dataset(dataset: DemoDataset) -> Iterator[tuple[Picture, np.ndarray]]:
    """Every picture of a dataset with its pixels, always the same."""
    for picture, pixels, _ in make_pairs(dataset):
        yield picture, pixels


def make_pairs(dataset: DemoDataset) -> Iterator[tuple[Picture, np.ndarray, np.ndarray]]:
    """As :func:`make_dataset`, with the pixels of each picture's reference, its own crop undistorted."""
    rng = np.random.default_rng([dataset.seed, VERSION])
    contents: list[Content] = [*drawn_contents(TRAIN_DRAWN, dataset.seed), *photograph_contents("train")]
    # A photograph holds several crops' worth of content, so it is drawn more often than a picture drawn by us.
    weights = np.array([1.0 if content.drawn else 8.0 for content in contents])
    for i in range(TRAIN_PICTURES):
        content = contents[rng.choice(len(contents), p=weights / weights.sum())]
        kind, level = str(rng.choice(dataset.types)), int(rng.integers(1, 6))
        yield _picture(dataset, f"train_{i:04d}.png", "train", content, kind, level, rng)
    held_out = list(drawn_contents(VALIDATION_DRAWN, HELD_OUT_SEED + dataset.seed))
    for part, crops, own in (("test", TEST_CROPS, []), ("validation", VALIDATION_CROPS, held_out)):
        for content in [*photograph_contents(part), *own]:
            for kind in dataset.types:
                for level in range(1, 6):
                    for crop in range(crops):
                        file = f"{part}_{content.name}_{kind}_{level}_{crop}.png"
                        yield _picture(dataset, file, part, content, kind, level, rng)


def _picture(
    dataset: DemoDataset, file: str, part: str, content: Content, kind: str, level: int, rng: np.random.Generator
) -> tuple[Picture, np.ndarray, np.ndarray]:
    pixels, undistorted = render_both(content, kind, level, rng)
    clean = true_mos(kind, level)
    noisy = float(np.clip(clean + rng.normal(0.0, RATER_STD), 1.0, 5.0))
    mos, noise_free = (round(dataset.scale * value + dataset.offset, 4) for value in (noisy, clean))
    picture = Picture(file, part, content.name, kind, level, mos, noise_free, dataset.scale * RATING_STD)
    return picture, pixels, undistorted


def fingerprint(dataset: DemoDataset) -> str:
    """Identifies what :func:`make_dataset` would make, so that a stale cache is not used."""
    settings = [asdict(dataset), VERSION, CROP, WINDOW, DRAWN_SIDE, RATER_STD, RATING_STD, TRAIN_PICTURES, TRAIN_DRAWN]
    settings += [VALIDATION_DRAWN, VALIDATION_CROPS, TEST_CROPS, PHOTOGRAPHS]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def load_pictures(name: str, folder: Path) -> list[Picture]:
    """The rows of a demonstration dataset, drawn into ``folder`` first unless they are there already.

    Raises UserError where ``folder`` holds something else, which is never deleted.
    """
    dataset = DEMO_DATASETS[name]
    before = _drawn_before(folder)
    _clear_abandoned(folder)
    if before and before["fingerprint"] == fingerprint(dataset):
        return [Picture(**row) for row in before["pictures"]]
    # Into a folder beside it, moved when complete: an interrupted run leaves nothing that looks finished.
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        with _held(unfinished):
            rows = _draw(dataset, unfinished)
            if before:
                _delete_drawn(folder, before)
            unfinished.rename(folder)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another process was first
            return load_pictures(name, folder)
        raise UserError(
            f"{name} cannot be drawn: {file_trouble(error, folder)}; data.root or VQR1_DATA is another place"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return rows


def _draw(dataset: DemoDataset, folder: Path) -> list[Picture]:
    rows = []
    for picture, pixels in tqdm(make_dataset(dataset), desc=f"drawing {dataset.name}", unit="picture", disable=None):
        Image.fromarray(pixels).save(folder / picture.file)
        rows.append(picture)
    stored = {"fingerprint": fingerprint(dataset), "pictures": [asdict(row) for row in rows]}
    (folder / "labels.json").write_text(json.dumps(stored, indent=0))
    return rows


def draw_references(name: str, folder: Path) -> None:
    """The undistorted crop of every picture in ``folder``, as ``references/`` there, unless they are there already.

    Everything is drawn once more, since the random numbers of a picture follow those of the one before it.
    """
    load_pictures(name, folder)
    whole, unfinished = folder / REFERENCES, folder.with_name(f".{folder.name}.{REFERENCES}.{os.getpid()}")
    if whole.is_dir():
        return
    try:
        with _held(unfinished):
            pairs = make_pairs(DEMO_DATASETS[name])
            for picture, _, pixels in tqdm(pairs, desc=f"drawing references of {name}", unit="picture", disable=None):
                Image.fromarray(pixels).save(unfinished / picture.file)
            unfinished.rename(whole)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # else another process was first
            raise UserError(f"the references of {name} cannot be drawn: {file_trouble(error, folder)}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """A new, empty ``folder``, locked until the block or the process ends."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a file system without locks; ABANDONED
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _clear_abandoned(folder: Path) -> None:
    """Delete what processes were drawing that have ended."""
    for path in folder.parent.glob(f".{folder.name}.*"):
        if path.suffix[1:].isdigit() and _is_abandoned(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_abandoned(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # another process was first
        return False
    try:
        since = UNLOCKED
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            since = ABANDONED
        return os.fstat(file).st_mtime < time.time() - since
    finally:
        os.close(file)


def _drawn_before(folder: Path) -> dict[str, Any] | None:
    """What the labels of an earlier drawing hold, or None for an empty folder. Raises UserError for other files."""
    try:
        stored = json.loads((folder / "labels.json").read_text())
    except (OSError, ValueError):  # not there, or not JSON
        stored = None
    if isinstance(stored, dict) and {"fingerprint", "pictures"} <= stored.keys():
        return stored
    if folder.is_symlink() or folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(_not_ours(folder))
    return None


def _delete_drawn(folder: Path, before: dict[str, Any]) -> None:
    """Delete the files of an earlier drawing and the folder. Raises UserError where other files are in it."""
    files = [row["file"] for row in before["pictures"]]
    for file in ("labels.json", *files, *(f"{REFERENCES}/{file}" for file in files)):
        (folder / file).unlink(missing_ok=True)
    try:
        if (folder / REFERENCES).is_dir():
            (folder / REFERENCES).rmdir()
        folder.rmdir()
    except OSError as error:
        raise UserError(_not_ours(folder)) from error


def _not_ours(folder: Path) -> str:
    return (
        f"{folder} holds other files, and the demonstration's pictures are to be drawn there; move them away, or name "
        "another root of the data"
    )


def read_demonstration(name: str, folder: Path) -> Splits:
    """A demonstration dataset as records, drawn into ``folder`` at first use."""
    splits = Splits()
    for picture in load_pictures(name, folder):
        splits.parts()[picture.part].append(
            Sample(
                image=str(folder / picture.file),
                mos=picture.mos,
                mos_std=picture.mos_std,
                dataset=name,
                group=picture.content,
                image_id=f"{name}/{picture.file}",
                reference=str(folder / REFERENCES / picture.file),
            )
        )
    return splits
