"""The photographs are there, with their terms, and cost no network."""

import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vqr1.demo import photographs as module
from vqr1.demo.photographs import photographs

SIZES = {
    "astronaut": (512, 512),
    "chelsea": (300, 451),
    "coffee": (400, 600),
    "rocket": (214, 320),
    "hubble_deep_field": (436, 500),
    "retina": (706, 706),
    "ihc": (512, 512),
    "china": (214, 320),
    "flower": (214, 320),
    "grace_hopper": (300, 256),
}


def test_sizes_and_form():
    assert {photo.name: photo.pixels.shape for photo in photographs()} == {n: (*s, 3) for n, s in SIZES.items()}
    for photo in photographs():
        assert photo.pixels.dtype == np.uint8
        assert photo.pixels.std() > 10
        assert np.ptp(photo.pixels.astype(int), axis=2).max() > 0


def test_terms_are_stated():
    terms = {photo.name: photo for photo in photographs()}
    known = {"public domain", "CC0", "CC0 1.0", "CC BY 2.0", "no known copyright restrictions"}
    assert {photo.licence for photo in terms.values()} == known
    assert all(photo.credit for photo in terms.values())
    attributed = {name: photo.credit for name, photo in terms.items() if photo.licence == "CC BY 2.0"}
    assert attributed.keys() == {"china", "flower"}
    assert "danielbuechele" in attributed["china"] and "vultilion" in attributed["flower"]
    assert {photo.library for photo in terms.values()} == {"scikit-image", "scikit-learn", "matplotlib"}


def test_read_once_and_protected():
    first, second = photographs(), photographs()
    assert all(a.pixels is b.pixels for a, b in zip(first, second, strict=True))
    first.clear()
    assert len(photographs()) == len(SIZES)
    with pytest.raises(ValueError, match="read-only"):
        second[0].pixels[0, 0, 0] = 1


def test_no_network(monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: object) -> None:
        raise AssertionError("a photograph asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    module._read_all.cache_clear()
    assert len(photographs()) == len(SIZES)


def test_jpeg_is_halved_by_a_box(tmp_path: Path):
    """Two by two flat blocks survive the halving; a PNG keeps its size."""
    small = np.random.default_rng(0).integers(0, 256, (3, 4, 1)).repeat(3, axis=2).astype(np.uint8)
    blocks = small.repeat(16, axis=0).repeat(16, axis=1)
    Image.fromarray(blocks).save(tmp_path / "a.jpg", quality=100, subsampling=0)
    Image.fromarray(blocks).save(tmp_path / "a.png")
    halved = module._pixels(tmp_path / "a.jpg")
    assert np.abs(halved.astype(int) - blocks[::2, ::2]).max() <= 2
    assert np.array_equal(module._pixels(tmp_path / "a.png"), blocks)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_other_modes_are_refused(mode: str, tmp_path: Path):
    path = tmp_path / "picture.png"
    Image.new(mode, (8, 8)).save(path)
    with pytest.raises(ValueError, match=rf"picture\.png: mode {mode}; expected an 8-bit RGB picture"):
        module._pixels(path)


@pytest.mark.parametrize("package", ["skimage", "no_such_package_here"])
def test_a_missing_picture_names_its_library(package: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(module._LIBRARIES, package, "the library")
    with pytest.raises(FileNotFoundError, match=r"the library does not carry data/moonlight\.png here"):
        module._read(f"{package}/data/moonlight.png", "CC0", "nobody")
