"""What KADID-10k's distortion types do to a picture: an image in [0, 1], one parameter and a generator to an image.

KADID's generator is MATLAB. A docstring says "our reading" wherever KADID's parameter keeps its meaning but a
detail of the formula is ours; all else follows the generator. Left out: the generator's min-max stretch of every
picture before and after, which lets a single extreme pixel set the contrast of the whole.

Images are (H, W, 3), gamma-encoded sRGB. An operation may leave [0, 1]; :func:`vqr1.demo.distortions.distort` clips.
"""

import io
import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, signal
from skimage import color

Array = NDArray[np.floating]
Apply = Callable[[Array, float, np.random.Generator], Array]

_BT601 = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
_BT601_OFFSET = np.array([16, 128, 128]) / 255


# Blurs


def gaussian_blur(x: Array, sigma: float, rng: np.random.Generator) -> Array:
    """Gaussian of standard deviation sigma pixels, cut at ceil(2 sigma), edges repeated (`imgaussfilt`)."""
    radius = math.ceil(2 * sigma)
    return ndimage.gaussian_filter(x, (sigma, sigma, 0), mode="nearest", radius=(radius, radius, 0))


def lens_blur(x: Array, radius: float, rng: np.random.Generator) -> Array:
    """Mean over a disc of radius pixels (`fspecial('disk')`); repeating the edges is our reading."""
    return _convolve(x, _disc(radius))


def motion_blur(x: Array, length: float, rng: np.random.Generator) -> Array:
    """Mean along a segment of length pixels (`fspecial('motion')`), its angle uniform in [0, 180) degrees.

    The random angle and the repeated edges are our reading. Length 1 changes nothing.
    """
    return _convolve(x, _segment(length, rng.uniform(0, math.pi)))


def _convolve(x: Array, kernel: Array) -> Array:
    radius_y, radius_x = (side // 2 for side in kernel.shape)
    padded = np.pad(x, ((radius_y, radius_y), (radius_x, radius_x), (0, 0)), mode="edge")
    return signal.fftconvolve(padded, kernel[..., None].astype(np.float32), mode="valid", axes=(0, 1))


@cache
def _disc(radius: float, samples: int = 200) -> Array:
    """The share of each pixel that a centred disc covers: exact in y, by samples in x. Sums to 1."""
    side = 2 * math.ceil(radius - 0.5) + 1
    x = (np.arange(side * samples) + 0.5) / samples - side / 2
    half_chord = np.sqrt(np.maximum(0, radius**2 - x**2))
    borders = np.arange(side + 1)[:, None] - side / 2
    cover = np.diff(np.clip(borders, -half_chord, half_chord), axis=0).reshape(side, side, samples).mean(axis=2)
    return cover / cover.sum()


def _segment(length: float, angle: float) -> Array:
    """Weight max(0, 1 - distance) to a centred segment that joins the first pixel's centre to the last's."""
    half = (length - 1) / 2
    side = math.ceil(half)
    y, x = np.mgrid[-side : side + 1, -side : side + 1]
    along = x * math.cos(angle) + y * math.sin(angle)
    across = x * math.sin(angle) - y * math.cos(angle)
    weight = np.maximum(0, 1 - np.hypot(across, np.maximum(0, np.abs(along) - half)))
    return weight / weight.sum()


# Colour


def color_diffusion(x: Array, amount: float, rng: np.random.Generator) -> Array:
    """Colour bleeds: CIELAB's a and b blurred with sigma = 1.5 amount + 2 pixels and multiplied by amount."""
    lab = color.rgb2lab(x)
    lab[..., 1:] = amount * gaussian_blur(lab[..., 1:], 1.5 * amount + 2, rng)
    return _rgb(lab)


def color_shift(x: Array, amount: float, rng: np.random.Generator) -> Array:
    """Colour fringes at edges: green moved by amount pixels down and right, blended in where edges are.

    The blend is the gradient of luma, smoothed (4 pixels) and stretched between its 1st and 99th percentiles;
    an angle uniform between right and down, and the repeated edges, are our reading.
    """
    angle = rng.uniform(0, math.pi / 2)
    down, right = round(amount * math.sin(angle)), round(amount * math.cos(angle))
    green = np.pad(x[..., 1], ((down, 0), (right, 0)), mode="edge")[: x.shape[0], : x.shape[1]]
    edges = ndimage.gaussian_filter(np.hypot(*np.gradient(color.rgb2gray(x))), 4, mode="nearest")
    low, high = np.percentile(edges, (1, 99))
    blend = np.clip((edges - low) / max(high - low, np.finfo(np.float32).eps), 0, 1)
    out = x.copy()
    out[..., 1] += blend * (green - x[..., 1])
    return out


def color_quantization(x: Array, colours: float, rng: np.random.Generator) -> Array:
    """A palette of so many colours, with Floyd-Steinberg dither (`rgb2ind`).

    The palette is Pillow's median cut, where MATLAB cuts by variance: our reading.
    """
    picture = _picture(x)
    palette = picture.quantize(int(colours), method=Image.Quantize.MEDIANCUT)
    return _array(picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG))


def color_saturation_hsv(x: Array, factor: float, rng: np.random.Generator) -> Array:
    """HSV's saturation times factor. With V = max(R, G, B) that is V + factor (c - V) for each channel c.

    A negative factor (level 5) turns colours into their complements: the same formula, our reading.
    """
    value = x.max(axis=2, keepdims=True)
    return value + np.float32(factor) * (x - value)


def color_saturation_lab(x: Array, factor: float, rng: np.random.Generator) -> Array:
    """CIELAB's a and b times factor; 1 changes nothing."""
    lab = color.rgb2lab(x)
    lab[..., 1:] *= factor
    return _rgb(lab)


def _rgb(lab: Array) -> Array:
    """CIELAB to sRGB, clipped; changes its argument. Yellows beyond Z = 0 are cut there."""
    # Z = 0 at b = 200 (L + 16) / 116. A hair less keeps float32 within, and scikit-image from warning.
    lab[..., 2] = np.minimum(lab[..., 2], 199.99 * (lab[..., 0] + 16) / 116)
    return color.lab2rgb(lab)


# Compression


def jpeg2000(x: Array, ratio: float, rng: np.random.Generator) -> Array:
    """JPEG 2000, lossy 9/7 wavelet, at a compression ratio to the 24-bit picture (OpenJPEG)."""
    return _recode(x, "JPEG2000", quality_mode="rates", quality_layers=[ratio], irreversible=True)


def jpeg(x: Array, quality: float, rng: np.random.Generator) -> Array:
    """Baseline JPEG at libjpeg's quality 1..100, colour at half resolution (4:2:0)."""
    return _recode(x, "JPEG", quality=int(quality), subsampling="4:2:0")


def _recode(x: Array, file_format: str, **options: object) -> Array:
    buffer = io.BytesIO()
    _picture(x).save(buffer, file_format, **options)
    return _array(Image.open(buffer))


def _picture(x: Array) -> Image.Image:
    return Image.fromarray(np.rint(x * 255).astype(np.uint8))


def _array(picture: Image.Image) -> Array:
    return np.asarray(picture.convert("RGB"), dtype=np.float32) / 255


# Noise


def white_noise(x: Array, variance: float, rng: np.random.Generator) -> Array:
    """Independent Gaussian noise on R, G and B (`imnoise` 'gaussian')."""
    return x + math.sqrt(variance) * rng.standard_normal(x.shape, dtype=np.float32)


def white_noise_ycbcr(x: Array, variance: float, rng: np.random.Generator) -> Array:
    """Independent Gaussian noise on BT.601 Y, Cb and Cr (Y 16/255..235/255), clipped to [0, 1] there."""
    ycbcr = x @ _BT601.T + _BT601_OFFSET
    noisy = np.clip(ycbcr + math.sqrt(variance) * rng.standard_normal(x.shape), 0, 1)
    return (noisy - _BT601_OFFSET) @ np.linalg.inv(_BT601).T


def impulse_noise(x: Array, density: float, rng: np.random.Generator) -> Array:
    """A share density of all R, G and B values becomes 0 or 1, half each (`imnoise` 'salt & pepper')."""
    u = rng.random(x.shape, dtype=np.float32)
    return np.where(u < density, np.where(u < density / 2, np.float32(0), np.float32(1)), x)


def multiplicative_noise(x: Array, variance: float, rng: np.random.Generator) -> Array:
    """x + n x, n uniform with mean 0 and this variance (`imnoise` 'speckle')."""
    return x + x * math.sqrt(12 * variance) * (rng.random(x.shape, dtype=np.float32) - np.float32(0.5))


# Brightness and contrast


def brighten(x: Array, amount: float, rng: np.random.Generator) -> Array:
    """The parabola through (0, 0), (1/2, 1/2 + amount/2), (1, 1): two parts on R, G, B, one on CIELAB's L."""
    lab = color.rgb2lab(x)
    lab[..., 0] = 100 * _bend(lab[..., 0] / 100, amount)
    return (2 * _bend(x, amount) + _rgb(lab)) / 3


def darken(x: Array, amount: float, rng: np.random.Generator) -> Array:
    """The parabola through (0, 0), (1/2, 1/2 - amount/2), (1, 1) on R, G, B; L untouched is our reading."""
    return _bend(x, -amount)


def _bend(x: Array, amount: float) -> Array:
    """The parabola x + 2 amount x (1 - x), clipped to [0, 1]."""
    return np.clip(x + 2 * np.float32(amount) * x * (1 - x), 0, 1)


def mean_shift(x: Array, shift: float, rng: np.random.Generator) -> Array:
    """x + shift. Not ordered by level: it falls from +0.15 to -0.15, and level 3 changes nothing."""
    return x + np.float32(shift)


def contrast_change(x: Array, amount: float, rng: np.random.Generator) -> Array:
    """The spline through (0, 0), (.3, .25 - amount/4), (.5, .5), (.7, .75 + amount/4), (1, 1).

    By symmetry it is one cubic in t = x - 1/2. Contrast rises above amount -0.2 and falls below it, so levels
    run from more contrast to less; level 3 (amount 0) still adds a little.
    """
    t = x - np.float32(0.5)
    cubic = -(0.25 + 1.25 * amount) / 0.21
    return np.clip(0.5 + (1 - cubic / 4) * t + cubic * t * t * t, 0, 1)


# Space


def jitter(x: Array, amount: float, rng: np.random.Generator) -> Array:
    """Five times over, every pixel is read a Gaussian step of amount pixels away, by cubic interpolation.

    A cubic spline with repeated edges, where MATLAB convolves with a cubic kernel: our reading.
    """
    grid = np.indices(x.shape[:2], dtype=np.float32)
    for _ in range(5):
        where = grid + np.float32(amount) * rng.standard_normal(grid.shape, dtype=np.float32)
        x = np.stack([_look_up(x[..., c], where) for c in range(3)], axis=2)
    return x


def _look_up(plane: Array, where: Array) -> Array:
    return ndimage.map_coordinates(plane, where, output=np.float32, order=3, mode="nearest")


def non_eccentricity_patch(x: Array, patches: float, rng: np.random.Generator) -> Array:
    """So many patches of 16x16 pixels, one after another, each copied up to 8 pixels away."""
    side, reach = 16, 8
    out = x.copy()
    for _ in range(int(patches)):
        top, left = (rng.integers(side, extent - 2 * side, endpoint=True) for extent in x.shape[:2])
        down, right = rng.integers(-reach, reach, size=2, endpoint=True)
        patch = out[top : top + side, left : left + side].copy()
        out[top + down : top + down + side, left + right : left + right + side] = patch
    return out


def pixelate(x: Array, strength: float, rng: np.random.Generator) -> Array:
    """Reduced to z = 0.95 - strength^0.6 of its size and enlarged again, both by the nearest pixel."""
    scale = 0.95 - strength**0.6
    rows, columns = (_nearest(extent, math.ceil(scale * extent)) for extent in x.shape[:2])
    return x[rows][:, columns]


def _nearest(full: int, small: int) -> NDArray[np.intp]:
    kept = ((np.arange(small) + 0.5) * full / small).astype(np.intp)
    return kept[((np.arange(full) + 0.5) * small / full).astype(np.intp)]


def quantization(x: Array, thresholds: float, rng: np.random.Generator) -> Array:
    """N thresholds, common to R, G and B, that keep the classes' variance least (Otsu); N + 1 values remain.

    The lowest class becomes 0, the highest 1, each other its upper threshold. Our reading: the thresholds are
    the exact optimum of the 8-bit histogram, where MATLAB's `multithresh` searches, and a picture of no more
    than N + 1 values stays as it is.
    """
    grey = np.rint(x * 255).astype(np.intp)
    histogram = np.bincount(grey.ravel(), minlength=256)
    count = int(thresholds)
    if np.count_nonzero(histogram) <= count + 1:
        return x
    cuts = _otsu(histogram, count + 1)
    values = np.concatenate([[0], cuts[1:] / 255, [1]])
    return values[np.searchsorted(cuts, np.arange(256))][grey]


def _otsu(histogram: NDArray[np.integer], classes: int) -> NDArray[np.integer]:
    """The last value of each class but the highest, for the split of 0..255 with the least variance within.

    Dynamic programme over the classes: best[j] is the largest sum of (class sum)^2 / class size below j.
    """
    mass = np.concatenate([[0], np.cumsum(histogram)]).astype(float)
    moment = np.concatenate([[0], np.cumsum(histogram * np.arange(256))]).astype(float)
    size = mass[None, :] - mass[:, None]
    gain = np.where(size > 0, (moment[None, :] - moment[:, None]) ** 2 / np.where(size > 0, size, 1), -np.inf)
    best, back = gain[0], []
    for _ in range(classes - 1):
        total = best[:, None] + gain
        back.append(total.argmax(axis=0))
        best = total.max(axis=0)
    ends = [256]
    for step in reversed(back):
        ends.append(int(step[ends[-1]]))
    return np.array(ends[:0:-1]) - 1


def color_block(x: Array, blocks: float, rng: np.random.Generator) -> Array:
    """So many squares of 32x32 pixels at random places, each of one random colour."""
    out = x.copy()
    for _ in range(int(blocks)):
        top, left = (rng.integers(0, extent - 32, endpoint=True) for extent in x.shape[:2])
        out[top : top + 32, left : left + 32] = rng.random(3)
    return out


def high_sharpen(x: Array, amount: float, rng: np.random.Generator) -> Array:
    """Unsharp mask on CIELAB's L: L + amount (L - L blurred with sigma = 3 pixels) (`imsharpen`)."""
    lab = color.rgb2lab(x)
    detail = lab[..., :1] - gaussian_blur(lab[..., :1], 3, rng)
    lab[..., :1] = np.clip(lab[..., :1] + amount * detail, 0, 100)
    return _rgb(lab)
