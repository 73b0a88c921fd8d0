"""Drawn pictures with the statistics of clean photographs, as many as one likes, free of any licence.

The dead leaves model: opaque shapes of power-law sizes fall on the canvas and hide each other, which gives
edges at all scales and a power spectrum between 1 / f^2 and 1 / f^3, as photographs have (Lee, Mumford and
Huang, "Occlusion Models for Natural Images", IJCV 2001). Colours, textured leaves and shading are ours. Drawn
at twice the size and reduced, so that edges are as soft as a lens makes them.

Legend: H, W the drawn size (twice the asked one), N the leaves.
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

Array = NDArray[np.floating]

_SCALE = 2
_COVER = 3.0  # leaf area dropped, in canvases: about exp(-3) = 5 % of the first ground shows through
_HUES = (25, 35, 50, 85, 115, 205, 220, 350)  # degrees: skin, earth, straw, foliage, sky, petals


def draw_picture(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """One picture of (height, width, 3) bytes, sRGB, decided by the generator's state alone.

    Raises:
        ValueError: a side is shorter than 16 pixels.
    """
    if min(height, width) < 16:
        raise ValueError(f"picture of {height}x{width} pixels: sides of at least 16 are needed")
    shape = (_SCALE * height, _SCALE * width)
    leaf_HW, centre_N2 = _drop_leaves(rng, shape)
    colour_N3 = _colours(rng, len(centre_N2))
    shade_HW = _texture(rng, leaf_HW, centre_N2) * _shading(rng, shape)
    picture = colour_N3[leaf_HW] * shade_HW[..., None]
    small = picture.reshape(height, _SCALE, width, _SCALE, 3).mean(axis=(1, 3))
    soft = ndimage.gaussian_filter(small, (0.5, 0.5, 0), mode="nearest")
    return np.rint(255 * np.clip(soft, 0, 1)).astype(np.uint8)


def _drop_leaves(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[NDArray[np.int32], Array]:
    """The number of the leaf on top at every pixel, and the leaves' centres (y, x)."""
    radius_N = _radii(rng, shape)
    centre_N2 = (rng.random((len(radius_N), 2)) * shape).astype(np.float32)
    canvas = Image.new("I", shape[::-1], 0)
    draw = ImageDraw.Draw(canvas)
    kinds = rng.choice(3, size=len(radius_N), p=rng.dirichlet((2, 2, 2)))
    leaves = zip(centre_N2.tolist(), radius_N.tolist(), kinds, strict=True)
    for leaf, ((y, x), radius, kind) in enumerate(leaves):
        if kind == 0:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=leaf)
        else:
            draw.polygon(_outline(rng, x, y, radius, smooth=kind == 1), fill=leaf)
    return np.asarray(canvas), centre_N2


def _radii(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Radii in pixels with density r^-3 between limits, as many as cover the canvas _COVER times.

    Inverse transform: u uniform, r = ((1 - u) r_min^-2 + u r_max^-2)^(-1/2).
    """
    side = min(shape)
    low, high = side * math.exp(rng.uniform(math.log(0.009), math.log(0.035))), side * 0.6
    mean_area = 2 * math.pi * math.log(high / low) / (low**-2 - high**-2)
    count = math.ceil(_COVER * shape[0] * shape[1] / mean_area)
    u = rng.random(count, dtype=np.float32)
    return ((1 - u) * low**-2 + u * high**-2) ** -0.5


def _outline(rng: np.random.Generator, x: float, y: float, radius: float, smooth: bool) -> list[tuple[float, float]]:
    """A turned ellipse, or a polygon of three to seven corners on a circle, about (x, y)."""
    corners = 12 + int(min(radius, 50)) if smooth else int(rng.integers(3, 8))
    flat = rng.uniform(0.2, 0.9) if smooth else 1.0
    # Uneven, but never so close that a polygon becomes a sliver.
    uneven = 0 if smooth else rng.uniform(0, 0.7, corners)
    angles = (np.arange(corners) + uneven) * (2 * math.pi / corners)
    turn = rng.uniform(0, math.pi)
    along, across = radius * np.cos(angles), radius * flat * np.sin(angles)
    xs = x + along * math.cos(turn) - across * math.sin(turn)
    ys = y + along * math.sin(turn) + across * math.cos(turn)
    return list(zip(xs.tolist(), ys.tolist(), strict=True))


def _colours(rng: np.random.Generator, count: int) -> Array:
    """Leaf colours (N, 3) in [0, 1] around three hues; brightness and saturation are the picture's own."""
    level, contrast = rng.uniform(-1.8, 1.8), rng.uniform(0.5, 1.3)
    light_N = 0.03 + 0.85 / (1 + np.exp(-(level + contrast * rng.standard_normal(count))))
    hues = np.radians(rng.choice(_HUES, size=3, replace=False))
    hue_N = rng.choice(hues, size=count, p=rng.dirichlet((1.5, 1.0, 0.7))) + 0.15 * rng.standard_normal(count)
    saturation_N = rng.uniform(0, 0.75) * rng.beta(2, 2, size=count)
    wheel_N3 = np.cos(hue_N[:, None] - np.radians((0, 120, 240)))
    return np.clip(light_N[:, None] * (1 + saturation_N[:, None] * wheel_N3), 0, 1).astype(np.float32)


def _texture(rng: np.random.Generator, leaf_HW: NDArray[np.int32], centre_N2: Array) -> Array:
    """A factor around 1 per pixel: each leaf's own mixture of 1/f noise, a grating and a gradient."""
    count = len(centre_N2)
    noise_N = (rng.uniform(0.02, 0.12) * rng.random(count) ** 2).astype(np.float32)
    grating_N = ((rng.random(count) < 0.15) * rng.uniform(0.05, 0.2, count)).astype(np.float32)
    angle_N = rng.uniform(0, math.pi, count)
    period_N = np.exp(rng.uniform(math.log(8), math.log(60), count))  # pixels of the drawn size
    wave_N2 = 2 * math.pi * np.stack([np.sin(angle_N), np.cos(angle_N)], axis=1) / period_N[:, None]
    slope_N2 = rng.standard_normal((count, 2)) * 0.35 / min(leaf_HW.shape)
    noise = noise_N[leaf_HW] * _one_over_f(rng, leaf_HW.shape)
    grating = grating_N[leaf_HW] * np.sin(_ramp(leaf_HW, wave_N2, centre_N2))
    return 1 + noise + grating + _ramp(leaf_HW, slope_N2, centre_N2)


def _ramp(leaf_HW: NDArray[np.int32], slope_N2: Array, centre_N2: Array) -> Array:
    """Per pixel its leaf's slope times the offset (y, x) from the leaf's centre."""
    y, x = np.indices(leaf_HW.shape, dtype=np.float32, sparse=True)
    slope_y_N, slope_x_N = slope_N2.T.astype(np.float32)
    start_N = (slope_N2 * centre_N2).sum(axis=1).astype(np.float32)
    return slope_y_N[leaf_HW] * y + slope_x_N[leaf_HW] * x - start_N[leaf_HW]


def _one_over_f(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Gaussian noise with a power spectrum of 1 / f^2, mean 0, variance 1."""
    white = np.fft.rfft2(rng.standard_normal(shape, dtype=np.float32))
    f = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1]))
    f[0, 0] = np.inf
    noise = np.fft.irfft2(white / f, s=shape)
    return (noise / noise.std()).astype(np.float32)


def _shading(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Light that falls off across the picture, 1 at its centre."""
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in shape)
    slope_y, slope_x = rng.uniform(-0.2, 0.2, 2)
    return (1 + slope_y * y[:, None] + slope_x * x).astype(np.float32)
