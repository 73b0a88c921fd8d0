"""The figures' colours: told apart by everyone, on white and on dark ground."""

from itertools import combinations

import numpy as np
import pytest

from vqr1.report.style import AXES, DARK, GROUND, LIGHT, axis_name, look, running_mean, save

# From linear RGB to what is seen without one kind of cones: Machado, Oliveira and Fernandes (2009), severity 1.
SEEN = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour):
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """As WCAG 2.2 defines it."""
    dark, light = sorted(TO_XYZ[1] @ linear(colour) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


def lab(light):
    x, y, z = np.cbrt(TO_XYZ @ np.clip(light, 0.001, 1) / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize(("colours", "ground"), [(LIGHT, GROUND[0]), (DARK, GROUND[1])])
def test_every_colour_stands_out_from_its_ground(colours, ground):
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert min(contrast(colour, ground) for colour in colours) >= 3


@pytest.mark.parametrize("sight", SEEN)
@pytest.mark.parametrize("colours", [LIGHT, DARK])
def test_no_two_colours_look_alike_to_the_colour_blind(colours, sight):
    seen = [lab(np.array(SEEN[sight]) @ linear(colour)) for colour in colours]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 15


@pytest.mark.parametrize("dark", [False, True])
def test_twenty_series_look_each_like_no_other(dark):
    looks = [look(i, dark) for i in range(20)]
    assert len(set(looks)) == len({(each.colour, each.dashes) for each in looks}) == 20
    assert len({each.colour for each in looks[:5]}) == 5
    assert look(0).line == "solid" and look(5).line == (0, (4.0, 1.5))


def test_axes_are_named_after_what_is_logged():
    assert axis_name("eval/a/b_test/srcc") == AXES["eval/{set}/srcc"] == "SRCC"
    assert axis_name("policy/kl") == "KL to the start policy"
    assert axis_name("other/figure") == "other/figure"


def test_the_running_mean_by_hand():
    assert running_mean([]) == []
    assert running_mean([1.0, 2.0, 0.0]) == pytest.approx([1.0, 0.9 + 0.2, 0.9 * 1.1])


def test_a_figure_is_saved_twice_alike_as_png_and_pdf(tmp_path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([1, 2])
    assert save(figure, tmp_path, "a") == tmp_path / "a.png"
    first = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert {name: content[:4] for name, content in first.items()} == {"a.png": b"\x89PNG", "a.pdf": b"%PDF"}
    assert b"/Type3" not in first["a.pdf"] and b"/Type0" in first["a.pdf"]  # its text is text
    save(figure, tmp_path, "a")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == first
