"""The licensed photographs that scikit-image, scikit-learn and matplotlib ship inside their packages.

Read from disk only: nothing is downloaded, and the libraries themselves are not imported. Ten contents prove
that the machinery learns; they measure no accuracy.
"""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqr1.errors import MissingFileError, UserError

_SKIMAGE, _SKLEARN, _MATPLOTLIB = "skimage/data", "sklearn/datasets/images", "matplotlib/mpl-data/sample_data"

# file, licence, credit
_FILES = (
    (f"{_SKIMAGE}/astronaut.png", "public domain", "NASA Great Images"),
    (f"{_SKIMAGE}/chelsea.png", "CC0", "Stefan van der Walt"),
    (f"{_SKIMAGE}/coffee.png", "CC0", "Rachel Michetti, Pikolo Espresso Bar"),
    (f"{_SKIMAGE}/rocket.jpg", "public domain", "SpaceX"),
    (f"{_SKIMAGE}/hubble_deep_field.jpg", "public domain", "NASA, HubbleSite"),
    (f"{_SKIMAGE}/retina.jpg", "CC0 1.0", "Mikael Häggström, WikiJournal of Medicine 1 (2), 2014"),
    (f"{_SKIMAGE}/ihc.png", "no known copyright restrictions", "Center for Microscopy and Molecular Imaging"),
    (f"{_SKLEARN}/china.jpg", "CC BY 2.0", "danielbuechele, https://www.flickr.com/photos/danielbuechele/"),
    (f"{_SKLEARN}/flower.jpg", "CC BY 2.0", "vultilion, https://www.flickr.com/photos/vultilion/"),
    (f"{_MATPLOTLIB}/grace_hopper.jpg", "public domain", "US government"),
)
_LIBRARIES = {"skimage": "scikit-image", "sklearn": "scikit-learn", "matplotlib": "matplotlib"}


@dataclass(frozen=True, eq=False)
class Photograph:
    """One picture, the library that carries it, and its terms. pixels: uint8 (H, W, 3), sRGB, read-only."""

    name: str
    library: str
    licence: str
    credit: str
    pixels: NDArray[np.uint8]


def photographs() -> list[Photograph]:
    """All ten photographs, always in the same order, read once per process.

    JPEG sources come at half their size (box filter), which removes most of their compression; PNG sources at
    native size.

    Raises:
        MissingFileError: a library is missing or does not carry its picture.
        UserError: a file is not an RGB picture.
    """
    return list(_read_all())


@cache
def _read_all() -> tuple[Photograph, ...]:
    return tuple(_read(file, licence, credit) for file, licence, credit in _FILES)


def _read(file: str, licence: str, credit: str) -> Photograph:
    package, _, inside = file.partition("/")
    library = _LIBRARIES[package]
    spec = find_spec(package)
    path = Path(spec.origin).parent / inside if spec and spec.origin else None
    if path is None or not path.is_file():
        raise MissingFileError(f"{library} does not carry {inside} here; install the {library} package from PyPI")
    pixels = _pixels(path)
    pixels.setflags(write=False)
    return Photograph(name=path.stem, library=library, licence=licence, credit=credit, pixels=pixels)


def _pixels(path: Path) -> NDArray[np.uint8]:
    """A file as uint8 (H, W, 3); JPEG files at half size."""
    with Image.open(path) as picture:
        if picture.mode != "RGB":
            raise UserError(f"{path}: mode {picture.mode}; expected an 8-bit RGB picture")
        return np.array(picture.reduce(2) if picture.format == "JPEG" else picture)
