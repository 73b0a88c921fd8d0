"""The logistic fit: known curves come back, and nothing makes it raise."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqr1.evaluation.correlation import plcc
from vqr1.evaluation.logistic import Fit, fit_logistic

RNG = np.random.default_rng(0)
X = RNG.uniform(1, 5, 300)


def equation(x, b1, b2, b3, b4):
    """The curve as it is written in the docstring."""
    return (b1 - b2) / (1 + np.exp(-(x - b3) / b4)) + b2


CURVES = [(90, 5, 3, 0.5), (1, 0, 2, 3), (4.9, 0.1, 2.2, 0.8), (1, 0, 3, 0.05), (1e6, -1e6, 3, 0.3), (100, 0, 3, -0.6)]


@pytest.mark.parametrize("curve", CURVES)
def test_known_curves_are_recovered(curve):
    y = equation(X, *curve)
    fit = fit_logistic(X, y)
    assert fit.reason is None
    b1, b2, b3, b4 = curve if curve[3] > 0 else (curve[1], curve[0], curve[2], -curve[3])
    if fit.parameters[3] < 0:  # the same curve, told from the other end
        b1, b2, b4 = b2, b1, -b4
    assert fit.parameters == pytest.approx((b1, b2, b3, b4), rel=1e-3, abs=1e-6 * np.abs(y).max())
    assert fit.plcc == pytest.approx(1, abs=1e-9)
    assert fit.rmse == pytest.approx(0, abs=1e-5 * np.ptp(y))


@pytest.mark.parametrize("curve", CURVES)
def test_with_noise_the_curve_is_near_and_no_other_is_nearer(curve):
    y = equation(X, *curve)
    noise = 0.1 * np.ptp(y) * RNG.normal(size=len(X))
    fit = fit_logistic(X, y + noise)
    assert fit.curve(X) == pytest.approx(y, abs=0.06 * np.ptp(y))
    assert fit.rmse <= np.sqrt(np.mean(noise**2)) * (1 + 1e-6)  # least squares are no worse than the truth
    assert fit.rmse == pytest.approx(np.sqrt(np.mean((fit.curve(X) - y - noise) ** 2)))
    assert fit.plcc == pytest.approx(plcc(fit.curve(X), y + noise))


def test_it_straightens_what_pearson_holds_against_a_curve():
    y = equation(X, 1, 0, 3, 0.2)
    assert plcc(X, y) < 0.95 < fit_logistic(X, y).plcc


def test_a_straight_line_and_a_step_are_met():
    line = fit_logistic(X, 2 * X + 1)
    assert line.plcc == pytest.approx(1, abs=1e-6)
    assert line.rmse < 1e-3
    step = fit_logistic(range(8), [0, 0, 0, 0, 0, 1, 1, 1])
    assert step.plcc == pytest.approx(1, abs=1e-6)


def test_a_falling_curve_hides_the_sign():
    y = equation(X, 100, 0, 3, 0.4)
    up, down = fit_logistic(X, y), fit_logistic(-X, y)
    assert (up.plcc, up.rmse) == pytest.approx((down.plcc, down.rmse), abs=1e-4)


def test_units_do_not_matter():
    y = equation(X, 1, 0, 3, 0.5) + 0.1 * RNG.normal(size=len(X))
    here, there = fit_logistic(X, y), fit_logistic(1e6 * X - 3e5, 50 * y + 7)
    assert there.plcc == pytest.approx(here.plcc, abs=1e-6)
    assert there.rmse == pytest.approx(50 * here.rmse, rel=1e-4)


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([], [], "0 pictures for 4 parameters"),
        ([1, 2], [1, 2], "2 pictures for 4 parameters"),
        ([1, 2, 3, 4], [1, 3, 2, 4], "4 pictures for 4 parameters"),
        ([3] * 6, range(6), "constant predictions"),
        ([0.1] * 6, range(6), "constant predictions"),
        (range(6), [3] * 6, "constant opinion scores"),
        ([1, 2, 3, math.nan, 5], range(5), "a prediction or an opinion score is not finite"),
        (range(5), [1, 2, math.inf, 4, 5], "a prediction or an opinion score is not finite"),
        ([[1, 2]], [1, 2], "(1, 2) predictions for (2,) opinion scores"),
        (range(6), [1e308, -1e308, 1, 2, 3, 1e308], "the logistic fit is not finite"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_cannot_be_fitted_says_why(x, y, reason):
    fit = fit_logistic(x, y)
    assert fit.reason == reason
    assert all(math.isnan(value) for value in (fit.plcc, fit.rmse, *fit.parameters))


numbers = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, 1.0, 1e-300, 1e300, -1e308, 5e-324]),
    st.integers(-3, 3).map(float),
)


@pytest.mark.filterwarnings("error")
@settings(deadline=None)  # the first fit loads scipy
@given(st.lists(st.tuples(numbers, numbers), max_size=12))
def test_it_never_raises(pairs):
    fit = fit_logistic([x for x, _ in pairs], [y for _, y in pairs])
    assert isinstance(fit, Fit)
    assert (fit.reason is None) == (fit.plcc == fit.plcc)


def test_no_fit_is_worse_than_the_mean():
    rng = np.random.default_rng(1)
    fitted = 0
    for n in rng.integers(5, 40, size=150):
        x, y = rng.normal(size=(2, n)).round(int(n) % 2)
        fit = fit_logistic(x, y)
        if fit.reason is None:
            fitted += 1
            assert fit.rmse <= y.std() * (1 + 1e-6)
    assert fitted > 100
