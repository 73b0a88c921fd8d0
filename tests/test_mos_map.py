"""The map from scores to a dataset's MOS: known curves come back, all rise, and the inverse undoes them."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqr1.errors import UserError
from vqr1.evaluation.correlation import srcc
from vqr1.evaluation.logistic import fit_logistic
from vqr1.evaluation.mos_map import MosMap, fit_mos_map

RNG = np.random.default_rng(0)
SCORES = RNG.uniform(1, 5, 200)
MAP = MosMap("koniq10k", 10.0, 90.0, 3.0, 0.5, 200, 1.0, 5.0, 4.0)

curves = st.builds(
    MosMap,
    dataset=st.just("some"),
    low=st.floats(-100, 0),
    high=st.floats(0.5, 100),
    centre=st.floats(1, 5),
    width=st.floats(0.05, 5),
    pictures=st.just(9),
    fitted_from=st.just(1.0),
    fitted_to=st.just(5.0),
    rmse=st.just(0.1),
)


def test_the_curve_by_hand():
    # 10 + 80 / (1 + exp(-(x - 3) / 0.5)): half-way at 3; 1 / (1 + 1/3) at 3 + 0.5 ln 3
    assert MAP([3.0, 3 + 0.5 * math.log(3), 3 - 0.5 * math.log(3)]) == pytest.approx([50, 70, 30])
    assert MAP.slope(3.0) == pytest.approx(80 / 0.5 / 4)
    assert MAP.slope(3 + 0.5 * math.log(3)) == pytest.approx(80 / 0.5 * 3 / 16)
    assert MAP.std([3.0, 3.0], [0.1, 0.0]) == pytest.approx([4, 0])
    assert MAP.inverse([50, 70, 30]) == pytest.approx([3, 3 + 0.5 * math.log(3), 3 - 0.5 * math.log(3)])


@pytest.mark.parametrize(("low", "high", "centre", "width"), [(5, 90, 3, 0.5), (-1, 1, 2.2, 0.8), (1, 5, 4, 0.3)])
def test_known_curves_are_recovered(low, high, centre, width):
    mos = low + (high - low) / (1 + np.exp(-(SCORES - centre) / width))
    found = fit_mos_map(SCORES, mos, "some")
    assert (found.low, found.high, found.centre, found.width) == pytest.approx((low, high, centre, width), rel=1e-3)
    assert (found.dataset, found.pictures) == ("some", 200)
    assert (found.fitted_from, found.fitted_to) == (SCORES.min(), SCORES.max())
    assert found.rmse == pytest.approx(0, abs=1e-4 * (high - low))


def test_the_rmse_is_that_of_the_pictures_it_was_fitted_on():
    mos = MAP(SCORES) + 4 * RNG.normal(size=200)
    found = fit_mos_map(SCORES, mos, "some")
    assert found.rmse == pytest.approx(np.sqrt(np.mean((found(SCORES) - mos) ** 2)))
    assert found.rmse == pytest.approx(4, rel=0.15)


@given(curves, st.lists(st.floats(1, 5), min_size=2, max_size=20))
def test_it_rises_and_stays_within_its_ends(curve, scores):
    mos = curve(sorted(scores))
    assert (np.diff(mos) >= 0).all()
    assert (curve.low - 1e-9 <= mos).all()
    assert (mos <= curve.high + 1e-9).all()
    assert (curve.slope(scores) >= 0).all()


def test_the_ranking_stays_the_same():
    mos = MAP(SCORES) + 10 * RNG.normal(size=200)
    assert srcc(MAP(SCORES), mos) == srcc(SCORES, mos)


@given(curves, st.floats(0.01, 0.99))
def test_the_inverse_undoes_it(curve, share):
    mos = curve.low + share * (curve.high - curve.low)
    assert curve(curve.inverse(mos)) == pytest.approx(mos, abs=1e-9 * (curve.high - curve.low))
    score = curve.centre + curve.width * math.log(share / (1 - share))
    assert curve.inverse(curve(score)) == pytest.approx(score, rel=1e-6, abs=1e-6 * curve.width)


@pytest.mark.filterwarnings("error")
def test_beyond_its_ends_the_inverse_is_the_limit_and_still_rises():
    mos = [-math.inf, -1000, 9.99, 10, 10.01, 50, 89.99, 90, 90.01, 1000, math.inf]
    scores = MAP.inverse(mos)
    assert scores[:4].tolist() == [-math.inf] * 4
    assert scores[7:].tolist() == [math.inf] * 4
    assert np.isfinite(scores[4:7]).all()
    assert scores.tolist() == sorted(scores)
    assert np.isnan(MAP.inverse(math.nan))


@pytest.mark.filterwarnings("error")
def test_far_scores_go_to_the_ends_and_nan_stays():
    assert MAP([-math.inf, -1e308, 1e308, math.inf]) == pytest.approx([10, 10, 90, 90])
    assert MAP.slope([-1e308, 1e308]).tolist() == [0, 0]
    assert np.isnan(MAP([math.nan])).all()
    assert np.isnan(MAP.slope([math.nan])).all()
    steep = replace(MAP, width=1e-300)
    assert steep([2.9, 3.0, 3.1]) == pytest.approx([10, 50, 90])


@given(curves, st.floats(1, 5))
def test_the_slope_is_the_derivative(curve, score):
    step = 1e-4 * curve.width
    by_difference = (curve(score + step) - curve(score - step)) / (2 * step)
    assert curve.slope(score) == pytest.approx(
        by_difference, rel=1e-4, abs=1e-7 * (curve.high - curve.low) / curve.width
    )


def test_small_spreads_are_carried_to_the_scale_of_the_mos():
    drawn = 3.4 + 0.02 * RNG.normal(size=20000)
    assert MAP(drawn).std() == pytest.approx(MAP.std(3.4, 0.02), rel=0.03)


def test_a_straight_line_is_met_and_inverted():
    found = fit_mos_map(SCORES, 20 * SCORES + 3, "some")
    assert found(SCORES) == pytest.approx(20 * SCORES + 3, abs=0.05)
    assert found.inverse(63.0) == pytest.approx(3, abs=0.01)
    assert found.slope(3.0) == pytest.approx(20, rel=0.01)


def test_a_rising_curve_that_is_told_from_its_other_end_is_turned():
    """Of these the search finds b1 < b2 and b4 < 0. The best curve is a step before the last picture."""
    scores, mos = [1.4, 0.3, -1.2, -0.2, -0.3, -0.2], [0.6, -1.3, 1.0, -1.1, -0.2, 0.9]
    b1, b2, _, b4 = fit_logistic(scores, mos).parameters
    assert b1 < b2
    assert b4 < 0
    found = fit_mos_map(scores, mos, "some")
    assert found(scores) == pytest.approx([0.6, *[sum(mos[1:]) / 5] * 5], abs=1e-3)


@pytest.mark.parametrize(
    ("scores", "mos", "words"),
    [
        (
            SCORES,
            -SCORES,
            "no map from scores to the MOS of some: the curve falls from .* to .*, so higher scores go with",
        ),
        ([3.0] * 9, range(9), "no map .* of some: constant predictions; fit on"),
        (range(9), [3.0] * 9, "constant opinion scores"),
        ([1, 2, 3, 4], [1, 2, 3, 4], "4 pictures for 4 parameters"),
        ([], [], "0 pictures for 4 parameters"),
        ([1, 2, 3, math.nan, 5], range(5), "not finite"),
        ([1, 2, 3], [1, 2], r"\(3,\) predictions for \(2,\)"),
    ],
)
def test_what_cannot_be_mapped_says_why(scores, mos, words):
    with pytest.raises(UserError, match=words):
        fit_mos_map(scores, mos, "some")


def test_every_map_that_is_fitted_to_noise_rises_or_is_refused():
    fitted = 0
    for seed in range(12):
        scores, mos = np.random.default_rng(seed).normal(size=(2, 12))
        try:
            found = fit_mos_map(scores, mos, "noise")
        except UserError:
            continue
        fitted += 1
        assert (np.diff(found(np.linspace(-3, 3, 50))) >= 0).all()
    assert 0 < fitted < 12


def test_a_record_keeps_it_to_the_last_bit():
    assert MosMap.from_record(json.loads(json.dumps(MAP.record()))) == MAP
    assert MAP.in_words() == (
        "MOS of koniq10k = 10 + 80 / (1 + exp(-(score - 3) / 0.5)), fitted on 200 pictures with scores from 1 to 5 "
        "(RMSE 4 on these)"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"low": 95.0}, "does not rise: low 95, high 90"),
        ({"high": 10.0}, "does not rise"),
        ({"width": 0.0}, "does not rise"),
        ({"width": -0.5}, "does not rise"),
        ({"centre": math.nan}, "no finite number"),
        ({"high": math.inf}, "no finite number"),
        ({"low": "10"}, "no finite number"),
        ({"low": None}, "no finite number"),
        ({"colour": 1.0}, "its fields are dataset, low, high"),
    ],
)
def test_a_record_that_is_no_map_is_refused(change, words):
    with pytest.raises(UserError, match=words):
        MosMap.from_record({**MAP.record(), **change})


def test_a_record_with_a_field_missing_is_refused():
    record = MAP.record()
    del record["width"]
    with pytest.raises(UserError, match="its fields are"):
        MosMap.from_record(record)
    with pytest.raises(UserError, match="not a map from scores to MOS: 3"):
        MosMap.from_record(3)  # type: ignore[arg-type]
