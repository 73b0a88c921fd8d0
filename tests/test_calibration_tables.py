"""Calibration from result files: who enters, that no curve sees what it is tested on, and what the page says."""

import numpy as np
import pytest

from tests.support.results import rows_of, write_results
from vqr1.errors import UserError
from vqr1.evaluation.calibration_tables import calibrate, calibration_page
from vqr1.evaluation.mos_map import fit_mos_map
from vqr1.evaluation.results import make_row, read_evaluation

RNG = np.random.default_rng(0)


def curved(n=300, k=24, groups=100, spread=0.3):
    """Rows whose opinion score is a curve of one more draw of their score, so that the std is the error."""
    mean = RNG.uniform(1.5, 4.5, n)
    drawn = mean[:, None] + spread * RNG.normal(size=(n, k + 1))
    mos = 100 / (1 + np.exp(-(drawn[:, -1] - 3) / 2))
    return [
        make_row(f"set/{i}.png", "set", str(i % groups), float(mos[i]), drawn[i, :-1].tolist(), "so") for i in range(n)
    ]


def of(tmp_path, rows, **facts):
    folder = write_results(tmp_path / "results", {"set": rows}, facts={"set": facts})
    return calibrate([read_evaluation(folder)], rounds=100)


def test_a_std_that_is_the_error_on_another_scale_is_found_to_be(tmp_path):
    (found,) = of(tmp_path, curved())
    assert found.notes == ()
    assert found.stds is not None
    assert found.stds.pictures == 300
    assert found.stds.error_per_std == pytest.approx(1, abs=0.15)
    assert [each.share for each in found.stds.coverage] == pytest.approx([0.5, 0.68, 0.8, 0.9, 0.95], abs=0.08)
    # on the scale of the opinion scores: slope 100 / 2 / 4 at most
    assert 0.3 * 6 < found.stds.bins[0].std < found.stds.bins[-1].std < 0.5 * 12.5
    assert found.pairs.pairs == 300 * 299 // 2


def test_no_curve_sees_the_contents_that_it_is_tested_on(tmp_path):
    """Two contents, each on a scale of its own: each is mapped by the other's curve, and is far off."""
    rows = curved(60, groups=1)
    other = [make_row(f"set/o{i}.png", "set", "other", row.mos + 500, row.scores, "so") for i, row in enumerate(rows)]
    (found,) = of(tmp_path, rows + other)
    assert found.stds is not None
    assert min(each.error for each in found.stds.bins) > 450
    pooled = fit_mos_map([row.score for row in rows + other], [row.mos for row in rows + other], "set")
    assert pooled.rmse < 300


def test_the_order_of_the_file_does_not_matter(tmp_path):
    rows = curved(80)
    (here,) = of(tmp_path / "a", rows)
    (there,) = of(tmp_path / "b", [rows[i] for i in RNG.permutation(80)])
    assert here.stds is not None
    assert there.stds is not None
    assert here.stds.error_per_std == pytest.approx(there.stds.error_per_std, rel=1e-4)


def test_pictures_without_a_std_are_left_out_and_counted(tmp_path):
    rows = [
        *curved(60),
        make_row("set/one.png", "set", "x", 3.0, [3.0, None], "so"),
        make_row("set/none.png", "set", "x", 3.0, [None, None], "so"),
    ]
    (found,) = of(tmp_path, rows)
    assert found.stds is not None
    assert found.stds.pictures == 60
    assert found.notes == ("2 of 62 pictures without two readable answers left out",)


def test_one_answer_to_a_picture_has_no_std(tmp_path):
    with pytest.raises(
        UserError, match="no picture of set has a standard deviation; evaluate it with several answers, as k=6"
    ):
        of(tmp_path, rows_of("set", 20, k=1))


def test_scales_of_a_scene_have_pairs_and_no_errors(tmp_path):
    (found,) = of(tmp_path, curved(60, groups=20), per_group_scale=True, group="scene")
    assert found.stds is None
    assert found.pairs.pairs == 20 * 3
    assert found.notes == ("no errors, since its opinion scores compare within one scene only",)


def test_a_model_that_rates_the_wrong_way_round_has_no_errors(tmp_path):
    rows = [make_row(row.image_id, "set", row.group, -row.mos, row.scores, "so") for row in curved(60)]
    (found,) = of(tmp_path, rows)
    assert found.stds is None
    assert "the curve falls" in found.notes[0]
    assert found.pairs.accuracy < 0.2


def test_a_set_that_is_too_small_for_a_curve_has_pairs(tmp_path):
    (found,) = of(tmp_path, curved(8))
    assert found.stds is None
    assert "4 pictures for 4 parameters" in found.notes[0]
    assert found.pairs.pairs == 28


def test_the_page_has_every_figure_and_says_what_was_left_out(tmp_path):
    found = of(tmp_path, curved(60), pseudo_labels=True)
    page = calibration_page(found)
    assert page.count("| Model") == 4
    for title in ("Error / std", "Coverage", "Probability", "Brier score"):
        assert title in page
    assert "- model, SET: its labels are pseudo-labels, which no person gave.\n" in page
    (one,) = found
    assert one.stds is not None
    assert page.count("| SET ") == 1 + len(one.stds.bins) + len(one.stds.coverage) + len(one.pairs.bins)
    assert f"{one.stds.error_per_std:.3f} [" in page
    assert "nan" not in page


def test_a_page_without_errors_has_dashes_and_no_empty_tables(tmp_path):
    page = calibration_page(of(tmp_path, curved(8)))
    assert page.count("| Model") == 2  # neither bins nor coverage
    row = next(line for line in page.splitlines() if line.startswith("| model"))
    assert [cell.strip() for cell in row.split("|")[3:6]] == ["-", "-", "-"]


def test_single_exact_distributions_have_a_std_to_be_calibrated(tmp_path):
    """As good as the draws they are the distribution of: one mean, whose error has the std that was read off."""
    rows = [
        make_row(
            row.image_id,
            "set",
            row.group,
            row.mos,
            [sum(row.scores) / len(row.scores)],
            "so",
            stds=[0.3],
            weights=[0.9],
        )
        for row in curved()
    ]
    (found,) = of(tmp_path, rows)
    assert found.stds.pictures == 300
    assert found.stds.error_per_std == pytest.approx(1, abs=0.15)
