"""Each type against the physical quantity that its parameter names."""

import io
import itertools
import math

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage import color

from vqr1.demo import distortion_operations
from vqr1.demo.distortions import DISTORTIONS, distort

LEVELS = (1, 2, 3, 4, 5)
RANDOM = {
    "motion_blur",
    "color_shift",
    "white_noise",
    "white_noise_ycbcr",
    "impulse_noise",
    "multiplicative_noise",
    "jitter",
    "non_eccentricity_patch",
    "color_block",
}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def smooth_noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A colourful picture with detail at several scales; values reach from about 0.1 to 0.9."""
    white = rng(seed).standard_normal((height, width, 3))
    layers = [ndimage.gaussian_filter(white, (sigma, sigma, 0)) * sigma for sigma in (0.7, 3, 12)]
    total = np.sum(layers, axis=0)
    span = np.abs(total).max()
    return (0.5 + 0.4 * total / span).astype(np.float32)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return smooth_noise(192, 256)


def five(picture: np.ndarray, name: str) -> list[np.ndarray]:
    return [distort(picture, name, level, rng()) for level in LEVELS]


def gradient_energy(x: np.ndarray) -> float:
    return float((np.diff(x, axis=0) ** 2).mean() + (np.diff(x, axis=1) ** 2).mean())


def error(x: np.ndarray, y: np.ndarray) -> float:
    return float(((x.astype(float) - y) ** 2).mean())


def lab_chroma(x: np.ndarray) -> float:
    return float(np.hypot(*np.moveaxis(color.rgb2lab(x), 2, 0)[1:]).mean())


def mean_error(x: np.ndarray, name: str, level: int, seeds: int = 8) -> float:
    return sum(error(x, distort(x, name, level, rng(seed))) for seed in range(seeds)) / seeds


def rises(values: list[float]) -> bool:
    return all(a < b for a, b in itertools.pairwise(values))


def test_the_table():
    assert len(DISTORTIONS) == 24
    assert sorted(kind.kadid_type for kind in DISTORTIONS.values()) == [t for t in range(1, 26) if t != 15]
    assert DISTORTIONS["gaussian_blur"].levels == (0.1, 0.5, 1, 2, 5)
    assert DISTORTIONS["jpeg"].mos == (4.34, 4.25, 3.87, 1.95, 1.35)
    for name, kind in DISTORTIONS.items():
        assert kind.name == name
        assert len(kind.levels) == len(kind.mos) == 5
        assert all(1 <= mos <= 5 for mos in kind.mos)


@pytest.mark.parametrize("name", DISTORTIONS)
@pytest.mark.parametrize("level", LEVELS)
def test_range_shape_and_input(name: str, level: int):
    x = smooth_noise(97, 131)
    x[:9, :9] = 0
    x[-9:, -9:] = 1
    before = x.copy()
    y = distort(x, name, level, rng())
    assert y.shape == x.shape and y.dtype == np.float32
    assert y.min() >= 0 and y.max() <= 1
    assert np.array_equal(x, before)
    assert not np.shares_memory(x, y)


@pytest.mark.parametrize("name", DISTORTIONS)
def test_the_generator_decides(name: str, picture: np.ndarray):
    first, again, other = (distort(picture, name, 5, rng(seed)) for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes()
    assert (first.tobytes() != other.tobytes()) == (name in RANDOM)


@pytest.mark.parametrize("name", sorted(set(DISTORTIONS) - RANDOM))
def test_deterministic_types_draw_nothing(name: str, picture: np.ndarray):
    used = rng(3)
    distort(picture, name, 4, used)
    assert used.bit_generator.state == rng(3).bit_generator.state


@pytest.mark.parametrize("name", DISTORTIONS)
def test_single_and_double_precision_agree(name: str, picture: np.ndarray):
    y32, y64 = (distort(picture.astype(dtype), name, 2, rng()) for dtype in (np.float32, np.float64))
    assert np.array_equal(y32, y64)


FEATURELESS = (
    "gaussian_blur",
    "lens_blur",
    "motion_blur",
    "color_shift",
    "color_quantization",
    "color_saturation_hsv",
    "jpeg",
    "jpeg2000",
    "jitter",
    "non_eccentricity_patch",
    "pixelate",
    "quantization",
    "high_sharpen",
)


@pytest.mark.parametrize("name", FEATURELESS)
def test_nothing_to_see_in_a_grey_wall(name: str):
    grey = np.full((64, 80, 3), 102 / 255, dtype=np.float32)
    for y in five(grey, name):
        assert np.ptp(y) < 1e-5
        # JPEG rounds the mean to an eighth of its quantiser's step, which is no more than 255.
        assert np.abs(y - grey).max() < (0.5 * 255 / 8 / 255 if name == "jpeg" else 0.5 / 255)


@pytest.mark.parametrize("name", ["gaussian_blur", "lens_blur", "motion_blur"])
def test_blur_takes_gradients_and_keeps_the_mean(name: str, picture: np.ndarray):
    levels = five(picture, name)
    energies = [gradient_energy(y) for y in levels]
    # KADID's first Gaussian (0.1 pixels) and motion (1 pixel) change nothing that one can see.
    assert rises([-energy for energy in energies])
    assert energies[-1] < 0.3 * gradient_energy(picture)
    assert all(abs(float(y.mean() - picture.mean())) < 0.01 for y in levels)


def impulse(size: int = 65) -> np.ndarray:
    x = np.zeros((size, size, 3), dtype=np.float32)
    x[size // 2, size // 2] = 1
    return x


@pytest.mark.parametrize("level", [3, 4, 5])
def test_gaussian_spread(level: int):
    y = distort(impulse(), "gaussian_blur", level, rng())[..., 0]
    sigma = DISTORTIONS["gaussian_blur"].levels[level - 1]
    offset = np.arange(65) - 32
    radius = math.ceil(2 * sigma)
    line = np.where(np.abs(offset) <= radius, np.exp(-(offset**2) / (2 * sigma**2)), 0)
    np.testing.assert_allclose(y, np.outer(line, line) / line.sum() ** 2, atol=1e-7)


def test_the_disc_of_radius_one():
    """The centre pixel is inside: 1 / pi of the area. These are MATLAB's fspecial('disk', 1)."""
    corner, edge, centre = 0.0251, 0.1453, 0.3183
    expected = [[corner, edge, corner], [edge, centre, edge], [corner, edge, corner]]
    np.testing.assert_allclose(distortion_operations._disc(1), expected, atol=6e-5)


@pytest.mark.parametrize("radius", DISTORTIONS["lens_blur"].levels)
def test_the_disc_is_where_random_points_fall(radius: float):
    kernel = distortion_operations._disc(radius)
    points = rng().uniform(-radius, radius, (1_000_000, 2))
    points = points[(points**2).sum(axis=1) <= radius**2]
    borders = np.arange(len(kernel) + 1) - len(kernel) / 2
    share = np.histogram2d(points[:, 0], points[:, 1], bins=[borders, borders])[0] / len(points)
    np.testing.assert_allclose(kernel, share, atol=5 * math.sqrt(kernel.max() / len(points)))


def test_motion_runs_along_its_angle():
    assert np.allclose(distortion_operations._segment(1, 0.7), 1)
    np.testing.assert_allclose(distortion_operations._segment(5, 0)[2], 0.2)
    kernel = distortion_operations._segment(10, math.radians(30))
    side = len(kernel) // 2
    y, x = np.mgrid[-side : side + 1, -side : side + 1]
    covariance = np.array([[(kernel * a * b).sum() for b in (x, y)] for a in (x, y)])
    direction = np.linalg.eigh(covariance)[1][:, -1]
    assert np.degrees(np.arctan(direction[1] / direction[0])) == pytest.approx(30, abs=1)


def test_color_diffusion_leaves_lightness(picture: np.ndarray):
    """Where no colour leaves the gamut, L stays and the mean of a and b is multiplied."""
    faint = 0.5 + 0.05 * (picture - picture.mean())
    y = distort(faint, "color_diffusion", 2, rng())
    before, after = color.rgb2lab(faint), color.rgb2lab(y)
    np.testing.assert_allclose(after[..., 0], before[..., 0], atol=0.05)
    assert gradient_energy(after[..., 1:]) < 0.2 * gradient_energy(before[..., 1:])
    assert rises([lab_chroma(y) for y in five(picture, "color_diffusion")])


def test_color_shift_moves_green_at_edges():
    x = np.full((96, 96, 3), 0.2, dtype=np.float32)
    x[48:, 48:] = 0.8
    for level, y in enumerate(five(x, "color_shift"), start=1):
        assert np.array_equal(y[..., [0, 2]], x[..., [0, 2]])
        moved = np.argwhere(y[..., 1] != x[..., 1])
        reach = math.ceil(DISTORTIONS["color_shift"].levels[level - 1])
        assert len(moved) > 0
        # Green lags behind: only pixels within reach of the corner's two edges lose it.
        assert (moved >= 48).all() and (moved.min(axis=1) < 48 + reach).all(), level
    assert rises([mean_error(x, "color_shift", level) for level in LEVELS])


def test_color_shift_fades_away_from_edges():
    """At the edge green is the shifted one, 0.2; eight pixels on, the smoothed gradient (sigma 4) is gone."""
    x = np.full((96, 96, 3), 0.2, dtype=np.float32)
    x[48:, 48:] = 0.8
    green = distort(x, "color_shift", 5, rng())[..., 1]
    profile = max((green[90, 48:], green[48:, 90]), key=lambda line: int((line < 0.8).sum()))
    assert (profile < 0.8).sum() >= 8  # the longer leg of a shift by 12 pixels
    assert profile[0] < 0.25 and profile[7] > 0.65


@pytest.mark.parametrize("level", LEVELS)
def test_color_quantization_counts_colours(level: int, picture: np.ndarray):
    y = distort(picture, "color_quantization", level, rng())
    assert len(np.unique(y.reshape(-1, 3), axis=0)) == DISTORTIONS["color_quantization"].levels[level - 1]


def test_color_quantization_dithers():
    """Eight greys leave steps of 1/8 on a ramp; dither keeps local means."""
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None, :, None].repeat(128, 0).repeat(3, 2)
    y = distort(ramp, "color_quantization", 5, rng())
    means = (y - ramp).reshape(8, 16, 16, 16, 3).mean(axis=(1, 3))[:, 2:-2]
    assert np.abs(means).max() < 0.02
    assert float((y - ramp).std()) > 0.03


def test_saturation_hsv_scales_s_and_keeps_v(picture: np.ndarray):
    before = color.rgb2hsv(picture)
    for level, y in list(enumerate(five(picture, "color_saturation_hsv")))[:4]:
        after = color.rgb2hsv(y)
        factor = DISTORTIONS["color_saturation_hsv"].levels[level]
        np.testing.assert_allclose(after[..., 1], factor * before[..., 1], atol=1e-5)
        np.testing.assert_allclose(after[..., 2], before[..., 2], atol=1e-6)
    assert np.ptp(distort(picture, "color_saturation_hsv", 4, rng()), axis=2).max() < 1e-6
    # Level 5 is the complement of level 1: what was the strongest channel becomes the weakest.
    opposite = distort(np.broadcast_to([0.6, 0.4, 0.3], (48, 48, 3)).copy(), "color_saturation_hsv", 5, rng())
    np.testing.assert_allclose(opposite[0, 0], [0.6, 0.68, 0.72], atol=1e-6)


def test_saturation_lab_scales_chroma(picture: np.ndarray):
    np.testing.assert_allclose(distort(picture, "color_saturation_lab", 1, rng()), picture, atol=1e-4)
    faint = 0.5 + 0.03 * (picture - picture.mean())
    for level in LEVELS:
        factor = DISTORTIONS["color_saturation_lab"].levels[level - 1]
        y = distort(faint, "color_saturation_lab", level, rng())
        assert lab_chroma(y) == pytest.approx(factor * lab_chroma(faint), rel=0.02)


@pytest.mark.parametrize("name", ["jpeg", "jpeg2000"])
def test_compression_costs_fidelity(name: str, picture: np.ndarray):
    errors = [error(picture, y) for y in five(picture, name)]
    assert rises(errors)
    assert errors[-1] > 3 * errors[0]


def files(picture: np.ndarray, name: str, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The compressed files of the five levels."""
    seen = []
    opened = Image.open

    def open_and_keep(buffer: io.BytesIO) -> Image.Image:
        seen.append(buffer.getvalue())
        return opened(buffer)

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", open_and_keep)
        five(picture, name)
    return seen


def test_jpeg2000_is_lossy_at_its_ratio(picture: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    written = files(picture, "jpeg2000", monkeypatch)
    for file, ratio in zip(written, DISTORTIONS["jpeg2000"].levels, strict=True):
        # The rate holds for the code stream; the file's boxes and headers add some two hundred bytes.
        assert len(file) <= picture.size / ratio + 250
        # The coding style marker FF52: 13 bytes on stands the transform, 0 for the irreversible 9/7.
        assert file[file.index(b"\xff\x52") + 13] == 0
    assert rises([-len(file) for file in written])


def test_jpeg_halves_colour(picture: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    for file in files(picture, "jpeg", monkeypatch):
        with Image.open(io.BytesIO(file)) as opened:
            assert [layer[1:3] for layer in opened.layer] == [(2, 2), (1, 1), (1, 1)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["white_noise", "multiplicative_noise"])
def test_noise_variance(name: str, level: int):
    x = np.full((256, 256, 3), 0.5, dtype=np.float32)
    nominal = DISTORTIONS[name].levels[level - 1] * (1 if name == "white_noise" else 0.5**2)
    noise = distort(x, name, level, rng()) - x
    assert float(noise.var()) == pytest.approx(nominal, rel=0.03)
    assert abs(float(noise.mean())) < 4 * math.sqrt(nominal / noise.size)
    planes = np.corrcoef(noise.reshape(-1, 3).T)
    assert np.abs(planes - np.eye(3)).max() < 0.02


def test_multiplicative_noise_is_uniform_and_follows_the_light():
    x = np.linspace(0, 0.6, 300, dtype=np.float32)[None, :, None] * np.ones((300, 1, 3), dtype=np.float32)
    relative = (distort(x, "multiplicative_noise", 5, rng()) - x)[:, 1:] / x[:, 1:]
    half_width = math.sqrt(12 * 0.05) / 2
    assert np.abs(relative).max() == pytest.approx(half_width, rel=1e-3)
    assert float(relative.var()) == pytest.approx(0.05, rel=0.02)


@pytest.mark.parametrize("level", LEVELS)
def test_ycbcr_noise_variance(level: int):
    """Colour-difference noise of variance v is v in each of scikit-image's Y, Cb, Cr divided by 255."""
    x = np.full((256, 256, 3), 0.5, dtype=np.float32)
    noise = (color.rgb2ycbcr(distort(x, "white_noise_ycbcr", level, rng())) - color.rgb2ycbcr(x)) / 255
    nominal = DISTORTIONS["white_noise_ycbcr"].levels[level - 1]
    np.testing.assert_allclose(noise.reshape(-1, 3).var(axis=0), nominal, rtol=0.03)


@pytest.mark.parametrize("level", LEVELS)
def test_impulse_density(level: int):
    x = np.full((512, 512, 3), 0.5, dtype=np.float32)
    y = distort(x, "impulse_noise", level, rng())
    density = DISTORTIONS["impulse_noise"].levels[level - 1]
    tolerance = 4 * math.sqrt(density / 2 / x.size)
    assert (y == 0).mean() == pytest.approx(density / 2, abs=tolerance)
    assert (y == 1).mean() == pytest.approx(density / 2, abs=tolerance)
    assert ((y == 0) | (y == 0.5) | (y == 1)).all()


def test_brighten_and_darken_move_the_mean(picture: np.ndarray):
    assert rises([float(picture.mean()), *(float(y.mean()) for y in five(picture, "brighten"))])
    assert rises([-float(picture.mean()), *(-float(y.mean()) for y in five(picture, "darken"))])


@pytest.mark.parametrize("level", LEVELS)
def test_the_curves_pass_their_points(level: int):
    """Black and white stay, and middle grey goes where the parameter says (grey's L is not its value)."""
    ramp = np.repeat(np.linspace(0, 1, 101)[None, :, None], 48, axis=0).repeat(3, axis=2)
    dark = distort(ramp, "darken", level, rng())[0, :, 0]
    assert dark[[0, 50, 100]] == pytest.approx([0, 0.5 - DISTORTIONS["darken"].levels[level - 1] / 2, 1], abs=1e-6)
    bright = distort(ramp, "brighten", level, rng())[0, :, 0]
    assert bright[[0, 100]] == pytest.approx([0, 1], abs=1e-3)
    assert (bright[1:-1] > ramp[0, 1:-1, 0]).all()
    amount = DISTORTIONS["contrast_change"].levels[level - 1]
    contrast = distort(ramp, "contrast_change", level, rng())[0, :, 0]
    points = np.clip([0, 0.25 - amount / 4, 0.5, 0.75 + amount / 4, 1], 0, 1)
    assert contrast[[0, 30, 50, 70, 100]] == pytest.approx(points, abs=1e-6)


def test_contrast_falls_with_the_level(picture: np.ndarray):
    deviations = [float(y.std()) for y in five(picture, "contrast_change")]
    assert rises([-deviation for deviation in deviations])
    assert deviations[2] > float(picture.std()) > deviations[3]


def test_mean_shift_is_a_shift(picture: np.ndarray):
    for shift, y in zip(DISTORTIONS["mean_shift"].levels, five(picture, "mean_shift"), strict=True):
        np.testing.assert_allclose(y, np.clip(picture + shift, 0, 1), atol=1e-6)


def test_jitter_moves_pixels_by_its_amount():
    """On a ramp of slope s five steps move values by s sqrt(5) amount, less as later ones smooth."""
    slope = 1 / 400
    ramp = (0.25 + slope * np.arange(200, dtype=np.float32))[None, :, None].repeat(200, 0).repeat(3, 2)
    moved = []
    for amount, y in zip(DISTORTIONS["jitter"].levels, five(ramp, "jitter"), strict=True):
        inner = (y - ramp)[20:-20, 20:-20]
        moved.append(float(inner.std()) / (slope * math.sqrt(5) * amount))
        assert np.ptp(inner, axis=2).max() < 1e-5
    assert moved[0] == pytest.approx(0.98, abs=0.02)
    assert rises([-share for share in moved]) and moved[-1] > 0.75


def test_jitter_grows(picture: np.ndarray):
    assert rises([error(picture, y) for y in five(picture, "jitter")])


def test_patches_are_copies_from_nearby():
    """In a picture of positions every value comes from the picture, and margins of 8 pixels stay."""
    rows, columns = np.mgrid[:80, :90]
    x = np.stack([rows / 100, columns / 100, 0 * rows], axis=2).astype(np.float32)
    y = distort(x, "non_eccentricity_patch", 1, rng())
    values = {tuple(value) for value in x.reshape(-1, 3).tolist()}
    assert all(tuple(value) in values for value in y.reshape(-1, 3).tolist())
    changed = (x != y).any(axis=2)
    assert changed.any()
    assert not changed[:8].any() and not changed[:, :8].any()
    assert not changed[-8:].any() and not changed[:, -8:].any()


def test_more_patches_cost_more(picture: np.ndarray):
    assert rises([mean_error(picture, "non_eccentricity_patch", level) for level in LEVELS])


@pytest.mark.parametrize("level", LEVELS)
def test_pixelate_keeps_so_many_rows(level: int):
    x = rng().random((100, 140, 3)).astype(np.float32)
    y = distort(x, "pixelate", level, rng())
    scale = 0.95 - DISTORTIONS["pixelate"].levels[level - 1] ** 0.6
    assert len(np.unique(y[:, 0], axis=0)) == math.ceil(scale * 100)
    assert len(np.unique(y[0], axis=0)) == math.ceil(scale * 140)
    assert np.isin(y, x).all()


@pytest.mark.parametrize("level", LEVELS)
def test_quantization_counts_values(level: int, picture: np.ndarray):
    y = distort(picture, "quantization", level, rng())
    values = np.unique(y)
    assert len(values) == DISTORTIONS["quantization"].levels[level - 1] + 1
    assert values[0] == 0 and values[-1] == 1
    # Above the lowest class a value goes up to its class's border.
    assert (y >= picture - 0.5 / 255)[y > 0].all()


def test_otsu_against_every_split():
    histogram = np.zeros(256, dtype=int)
    histogram[[10, 20, 30, 90, 100, 180, 200, 250]] = [5, 3, 8, 2, 7, 4, 4, 1]

    def within(cuts: tuple[int, ...]) -> float:
        edges = [0, *(cut + 1 for cut in cuts), 256]
        total = 0.0
        for low, high in itertools.pairwise(edges):
            values = np.repeat(np.arange(low, high), histogram[low:high])
            total += float(((values - values.mean()) ** 2).sum()) if len(values) else 0.0
        return total

    occupied = np.flatnonzero(histogram)[:-1]
    best = min(within(cuts) for cuts in itertools.combinations(occupied.tolist(), 3))
    assert within(tuple(distortion_operations._otsu(histogram, 4).tolist())) == pytest.approx(best)


@pytest.mark.parametrize("level", LEVELS)
def test_color_blocks(level: int):
    """Blocks are 32 by 32; where none overlaps another they change 1024 pixels each."""
    x = np.zeros((400, 500, 3), dtype=np.float32)
    changed = distort(x, "color_block", level, rng()).any(axis=2)
    blocks = int(DISTORTIONS["color_block"].levels[level - 1])
    assert 1024 * (blocks - 1) < changed.sum() <= 1024 * blocks
    assert len(np.unique(distort(x, "color_block", level, rng()).reshape(-1, 3), axis=0)) == blocks + 1


def test_sharpening_adds_gradients_and_keeps_hue(picture: np.ndarray):
    energies = [gradient_energy(color.rgb2lab(y)[..., 0]) for y in five(picture, "high_sharpen")]
    assert rises([gradient_energy(color.rgb2lab(picture)[..., 0]), *energies])
    faint = 0.5 + 0.02 * (picture - picture.mean())
    before, after = color.rgb2lab(faint), color.rgb2lab(distort(faint, "high_sharpen", 2, rng()))
    detail = before[..., 0] - ndimage.gaussian_filter(before[..., 0], 3, mode="nearest", radius=6)
    np.testing.assert_allclose(after[..., 0], before[..., 0] + 2 * detail, atol=0.05)
    np.testing.assert_allclose(after[..., 1:], before[..., 1:], atol=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "blur"}, "distortion 'blur' is unknown; choose from gaussian_blur, "),
        ({"name": "denoise"}, "distortion 'denoise' is unknown"),
        ({"level": 0}, "level 0 is not one of 1, 2, 3, 4, 5"),
        ({"level": 6}, "level 6 is not one of 1, 2, 3, 4, 5"),
        ({"image_HW3": np.zeros((64, 64))}, r"image shape \(64, 64\): expected \(H, W, 3\)"),
        ({"image_HW3": np.zeros((64, 64, 4))}, r"image shape \(64, 64, 4\): expected \(H, W, 3\)"),
        ({"image_HW3": np.zeros((47, 64, 3))}, r"image shape \(47, 64, 3\).* H, W >= 48"),
        (
            {"image_HW3": np.zeros((64, 64, 3), dtype=np.uint8)},
            "image dtype uint8.* divide 8-bit values by 255",
        ),
        ({"image_HW3": np.full((64, 64, 3), 1.01)}, r"image range \[1.01, 1.01\]: expected values within"),
        ({"image_HW3": np.full((64, 64, 3), -0.01)}, r"image range \[-0.01, -0.01\]: expected values within"),
        ({"image_HW3": np.full((64, 64, 3), np.nan)}, r"image range \[nan, nan\]: expected values within"),
    ],
)
def test_refusals(change: dict, message: str):
    arguments = {"image_HW3": np.full((64, 64, 3), 0.5), "name": "jpeg", "level": 3, "rng": rng(), **change}
    with pytest.raises(ValueError, match=message):
        distort(**arguments)


@pytest.mark.parametrize("name", DISTORTIONS)
def test_the_smallest_picture(name: str):
    x = smooth_noise(48, 48)
    for level in LEVELS:
        assert distort(x, name, level, rng()).shape == x.shape
