"""Twenty-four of KADID-10k's 25 distortion types, at its own five levels.

Each type is an operation of :mod:`vqr1.demo.distortion_operations`; `distort` checks its arguments, calls one of them
and clips. Parameters and the scores that people gave come from the table beside this file (KADID-10k: Lin, Hosu, Saupe,
"KADID-10k: A Large-scale Artificially Distorted IQA Database", QoMEX 2019). Left out: type 15 (denoise), which needs a
pretrained network.

Legend: H, W height and width; 3 the channels R, G, B. Images are gamma-encoded sRGB.
"""

import csv
from dataclasses import dataclass
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from vqr1.demo import distortion_operations as operations
from vqr1.demo.distortion_operations import Apply, Array

MIN_SIDE = 48  # pixels: a patch of type 20, 16 wide, keeps 16 from every edge


@dataclass(frozen=True)
class Distortion:
    """One type: its KADID-10k number, and at levels 1..5 its parameter and mean opinion score (5 best)."""

    name: str
    kadid_type: int
    levels: tuple[float, ...]
    mos: tuple[float, ...]
    apply: Apply


def distort(image_HW3: Array, name: str, level: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """One picture under one type and level.

    Args:
        image_HW3: floats in [0, 1], sides of at least 48 pixels; not changed.
        name: a key of `DISTORTIONS`.
        level: 1 (weakest, but for types 18 and 25) to 5.
        rng: its state decides every random choice; deterministic types draw nothing from it.

    Returns:
        float32 in [0, 1], of the same shape.

    Raises:
        ValueError: unknown name or level, wrong shape, dtype or range.
    """
    if name not in DISTORTIONS:
        raise ValueError(f"distortion {name!r} is unknown; choose from {', '.join(DISTORTIONS)}")
    if level not in (1, 2, 3, 4, 5):
        raise ValueError(f"level {level!r} is not one of 1, 2, 3, 4, 5")
    _check_image(image_HW3)
    kind = DISTORTIONS[name]
    out = kind.apply(np.asarray(image_HW3, dtype=np.float32), kind.levels[level - 1], rng)
    return np.clip(out, 0, 1, dtype=np.float32, casting="same_kind")


def _check_image(image: Array) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < MIN_SIDE:
        raise ValueError(f"image shape {image.shape}: expected (H, W, 3) with H, W >= {MIN_SIDE}")
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"image dtype {image.dtype}: expected floats in [0, 1]; divide 8-bit values by 255")
    if not (image.min() >= 0 and image.max() <= 1):
        raise ValueError(f"image range [{image.min()}, {image.max()}]: expected values within [0, 1]")


_TYPES: tuple[Apply, ...] = (
    operations.gaussian_blur,
    operations.lens_blur,
    operations.motion_blur,
    operations.color_diffusion,
    operations.color_shift,
    operations.color_quantization,
    operations.color_saturation_hsv,
    operations.color_saturation_lab,
    operations.jpeg2000,
    operations.jpeg,
    operations.white_noise,
    operations.white_noise_ycbcr,
    operations.impulse_noise,
    operations.multiplicative_noise,
    operations.brighten,
    operations.darken,
    operations.mean_shift,
    operations.jitter,
    operations.non_eccentricity_patch,
    operations.pixelate,
    operations.quantization,
    operations.color_block,
    operations.high_sharpen,
    operations.contrast_change,
)


def _read_table() -> dict[str, Distortion]:
    """The types above with their rows of the table; a parameter cell may start with the parameter's name."""
    lines = resources.files("vqr1.demo").joinpath("kadid10k_distortions.csv").read_text("utf-8").splitlines()
    rows = {row["name"]: row for row in csv.DictReader(line for line in lines if not line.startswith("#"))}
    return {function.__name__: _distortion(function, rows[function.__name__]) for function in _TYPES}


def _distortion(function: Apply, row: dict[str, str]) -> Distortion:
    return Distortion(
        name=row["name"],
        kadid_type=int(row["type"]),
        levels=tuple(float(word) for word in row["parameter_levels_1_to_5"].split()[-5:]),
        mos=tuple(float(row[f"mos_{level}"]) for level in range(1, 6)),
        apply=function,
    )


DISTORTIONS: dict[str, Distortion] = _read_table()
