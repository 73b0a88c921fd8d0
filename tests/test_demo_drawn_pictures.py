"""The drawn pictures have the statistics of clean photographs."""

import math

import numpy as np
import pytest

from vqr1.demo import drawn_pictures
from vqr1.demo.drawn_pictures import draw_picture

COUNT = 40


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return [draw_picture(np.random.default_rng(seed), 128, 128) for seed in range(COUNT)]


def spectrum_slope(picture: np.ndarray) -> float:
    """The exponent of the radial power spectrum of luma between 4 and 32 cycles per picture (Hann window)."""
    luma = picture.mean(axis=2) / 255
    side = len(luma)
    window = np.outer(np.hanning(side), np.hanning(side))
    power = np.abs(np.fft.fft2((luma - luma.mean()) * window)) ** 2
    frequency = side * np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    rings = range(4, 33)
    mean = [power[(frequency >= ring - 0.5) & (frequency < ring + 0.5)].mean() for ring in rings]
    return float(np.polyfit(np.log(rings), np.log(mean), 1)[0])


def test_the_slope_measure_knows_its_answer():
    """On noise made with 1 / f^2 it finds -2."""
    noise = [drawn_pictures._one_over_f(np.random.default_rng(seed), (128, 128)) for seed in range(20)]
    slopes = [spectrum_slope(np.repeat(plane[..., None], 3, axis=2)) for plane in noise]
    assert np.mean(slopes) == pytest.approx(-2, abs=0.15)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (97, 131), (16, 200)])
def test_form_and_determinism(height: int, width: int):
    first, again, other = (draw_picture(np.random.default_rng(seed), height, width) for seed in (1, 1, 2))
    assert first.shape == (height, width, 3) and first.dtype == np.uint8
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_spectra_are_those_of_photographs(pictures: list[np.ndarray]):
    slopes = [spectrum_slope(picture) for picture in pictures]
    assert -3.2 < np.mean(slopes) < -2
    assert min(slopes) > -4 and max(slopes) < -1.4


def test_brightness_and_colour_vary_between_pictures(pictures: list[np.ndarray]):
    luma = [picture.mean() / 255 for picture in pictures]
    assert min(luma) < 0.25 and max(luma) > 0.6
    spread = [np.ptp(picture.astype(int), axis=2).mean() / 255 for picture in pictures]
    assert min(spread) < 0.03 and max(spread) > 0.12


def test_pictures_are_not_washed_out(pictures: list[np.ndarray]):
    for picture in pictures:
        assert picture.std() > 5
        assert (picture == 255).mean() < 0.35 and (picture == 0).mean() < 0.35


def test_edges_are_soft(pictures: list[np.ndarray]):
    """Second differences have twice the energy of first ones at a step one pixel wide, less at soft ones."""
    first, second = (
        sum(float((np.diff(picture.astype(float), n, axis=1) ** 2).mean()) for picture in pictures) for n in (1, 2)
    )
    assert second / first < 1.45


def test_radii_follow_the_cubic_law():
    """P(R > r) = (r^-2 - r_max^-2) / (r_min^-2 - r_max^-2), and the leaves' area is _COVER canvases."""
    shape = (200, 200_000)  # long, for many leaves of one law
    radii = drawn_pictures._radii(np.random.default_rng(0), shape).astype(float)
    low, high = radii.min(), 0.6 * 200
    for r in (1.5 * low, 2 * low, 4 * low):
        expected = (r**-2 - high**-2) / (low**-2 - high**-2)
        assert (radii > r).mean() == pytest.approx(expected, rel=0.02)
    assert math.pi * (radii**2).sum() / math.prod(shape) == pytest.approx(drawn_pictures._COVER, rel=0.02)


def test_too_small():
    with pytest.raises(ValueError, match="picture of 15x64 pixels: sides of at least 16 are needed"):
        draw_picture(np.random.default_rng(0), 15, 64)
