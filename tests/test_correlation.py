"""Correlations, pair accuracy and the interval against values worked out by hand, scipy, and plain loops."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vqr1.evaluation.bootstrap import correlation_intervals, srcc_interval
from vqr1.evaluation.correlation import krcc, pair_accuracy, plcc, ranks, srcc

RNG = np.random.default_rng(0)
X = RNG.normal(size=60)
Y = X + RNG.normal(size=60)


@pytest.mark.parametrize(
    ("predictions", "mos", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 1000], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 1 - 6 * 4 / (5 * 24)),  # 1 - 6 sum d^2 / (n (n^2 - 1))
        # Ties share their mean rank, 1 2.5 2.5 4 against 1 2 3 4: 4.5 / sqrt(4.5 * 5).
        ([1, 2, 2, 3], [1, 2, 3, 4], 4.5 / math.sqrt(4.5 * 5)),
        ([3.0, 1.0], [5.0, 2.0], 1.0),
    ],
)
def test_srcc_by_hand(predictions, mos, expected):
    assert srcc(predictions, mos) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("predictions", "mos", "expected"),
    [
        ([1, 2, 3], [2, 4, 6], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([0, 1, 2], [0, 0, 3], 3 / math.sqrt(2 * 6)),  # deviations -1 0 1 and -1 -1 2
        ([1, 2, 2, 3], [1, 2, 3, 4], 3 / math.sqrt(2 * 5)),
    ],
)
def test_plcc_by_hand(predictions, mos, expected):
    assert plcc(predictions, mos) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("predictions", "mos", "tau", "accuracy"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 1000], 1.0, 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0, 0.0),
        ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], (8 - 2) / 10, 8 / 10),
        # One pair of six is tied in the predictions: half right, and out of tau-b's first root.
        ([1, 2, 2, 3], [1, 2, 3, 4], 5 / math.sqrt(5 * 6), 5.5 / 6),
        # One pair is tied in the scores and does not count: 5 pairs, all right.
        ([1, 2, 3, 4], [1, 2, 2, 3], 5 / math.sqrt(6 * 5), 1.0),
        # The same pair is tied on both sides.
        ([1, 2, 2, 3], [3, 2, 2, 1], -1.0, 0.0),
    ],
)
def test_krcc_and_pair_accuracy_by_hand(predictions, mos, tau, accuracy):
    assert krcc(predictions, mos) == pytest.approx(tau)
    assert pair_accuracy(predictions, mos) == pytest.approx(accuracy)


def test_constant_predictions_guess_every_pair():
    assert pair_accuracy([2, 2, 2], [1, 2, 3]) == 0.5
    assert math.isnan(pair_accuracy([1, 2, 3], [2, 2, 2]))
    assert math.isnan(krcc([2, 2, 2], [1, 2, 3]))


def loop_over_pairs(x, y):
    """Kendall's tau-b and the accuracy, pair by pair as they are defined."""
    right = wrong = tied_x = tied_y = both = 0
    for i in range(len(x)):
        for j in range(i):
            a, b = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
            right += a * b > 0
            wrong += a * b < 0
            tied_x += a == 0
            tied_y += b == 0
            both += a == 0 and b == 0
    pairs = len(x) * (len(x) - 1) // 2
    counted = pairs - tied_y
    tau = (right - wrong) / math.sqrt((pairs - tied_x) * counted) if counted and pairs > tied_x else math.nan
    return tau, (right + (tied_x - both) / 2) / counted if counted else math.nan


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=25))
def test_krcc_and_pair_accuracy_are_what_a_loop_over_pairs_counts(pairs):
    x, y = np.array(pairs, dtype=float).T
    tau, accuracy = loop_over_pairs(x, y)
    assert krcc(x, y) == pytest.approx(tau, abs=1e-12, nan_ok=True)
    assert pair_accuracy(x, y) == pytest.approx(accuracy, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("n", [2, 3, 17, 300, 1025])
def test_all_agree_with_scipy(n):
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(2, n)).round(1)
    y = y + np.arange(n) / n  # never constant
    x[0] = 9
    assert srcc(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert plcc(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert krcc(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)
    assert ranks(x).tolist() == stats.rankdata(x).tolist()


@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1e9, 1e300])
def test_no_scale_is_too_large_or_too_small(scale):
    assert plcc(X * scale, Y) == pytest.approx(plcc(X, Y), abs=1e-12)
    assert plcc(X, Y * scale) == pytest.approx(plcc(X, Y), abs=1e-12)


def test_a_sum_that_overflows_does_not():
    assert plcc([1.1e308, 1.2e308, 1.4e308], [1, 2, 4]) == pytest.approx(1)


def test_equal_values_are_constant_however_they_round():
    assert math.isnan(plcc([0.1] * 7, range(7)))  # their mean is not exactly 0.1


@pytest.mark.parametrize("function", [srcc, plcc, krcc, pair_accuracy])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(function, bad):
    with pytest.raises(ValueError, match="must be finite: leave unreadable answers out"):
        function([1, bad, 3], [1, 2, 3])


@pytest.mark.parametrize("function", [srcc, plcc])
@pytest.mark.parametrize(("predictions", "mos"), [([2, 2, 2], [1, 2, 3]), ([1, 2, 3], [2, 2, 2]), ([1], [1]), ([], [])])
@pytest.mark.filterwarnings("error")
def test_what_is_undefined_is_nan(function, predictions, mos):
    assert math.isnan(function(predictions, mos))


@pytest.mark.parametrize("function", [srcc, plcc, krcc, pair_accuracy])
@pytest.mark.parametrize(("predictions", "mos"), [([1, 2, 3], [1, 2]), ([[1, 2], [3, 4]], [[1, 2], [3, 4]])])
def test_sides_must_match(function, predictions, mos):
    with pytest.raises(ValueError, match="one each, as vectors"):
        function(predictions, mos)


@given(st.lists(st.tuples(st.integers(-20, 20), st.integers(-20, 20)), min_size=2, max_size=12))
def test_symmetries(pairs):
    x, y = np.array(pairs, dtype=float).T
    for function in (srcc, plcc):
        value = function(x, y)
        if math.isnan(value):
            assert len(set(x)) == 1 or len(set(y)) == 1
            continue
        assert function(y, x) == pytest.approx(value, abs=1e-12)
        assert function(-x, y) == pytest.approx(-value, abs=1e-12)
        assert function(3 * x + 7, y) == pytest.approx(value, abs=1e-12)
    for function in (srcc, krcc, pair_accuracy):  # ranks only
        assert function(x**3, y) == pytest.approx(function(x, y), abs=1e-12, nan_ok=True)
    assert krcc(-x, y) == pytest.approx(-krcc(x, y), abs=1e-12, nan_ok=True)
    assert pair_accuracy(-x, y) == pytest.approx(1 - pair_accuracy(x, y), abs=1e-12, nan_ok=True)


def test_the_interval_holds_the_value_and_narrows_with_more_pictures():
    low, high = srcc_interval(X, Y)
    assert -1 <= low < srcc(X, Y) < high <= 1
    many_low, many_high = srcc_interval(np.tile(X, 16), np.tile(Y, 16))
    assert many_high - many_low == pytest.approx((high - low) / 4, rel=0.25)
    wide_low, wide_high = srcc_interval(X, Y, level=0.99)
    assert wide_low < low
    assert wide_high > high


def test_the_interval_is_a_bootstrap_over_pictures():
    drawn = np.random.default_rng(7).integers(60, size=(200, 60))
    values = [stats.spearmanr(X[rows], Y[rows]).statistic for rows in drawn]
    assert srcc_interval(X, Y, rounds=200, seed=7) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))


def test_both_correlations_are_of_the_same_drawn_pictures():
    drawn = np.random.default_rng(7).integers(60, size=(200, 60))
    values = [[test(X[rows], Y[rows]).statistic for rows in drawn] for test in (stats.spearmanr, stats.pearsonr)]
    expected = np.quantile(values, [0.025, 0.975], axis=1).T
    assert correlation_intervals(X, Y, rounds=200, seed=7) == (pytest.approx(expected[0]), pytest.approx(expected[1]))


def test_the_interval_covers_as_often_as_it_says():
    # Normal pairs with Pearson's rho have Spearman's (6 / pi) asin(rho / 2).
    rng, rho, hits = np.random.default_rng(2), 0.7, 0
    truth = 6 / math.pi * math.asin(rho / 2)
    for _ in range(200):
        x, noise = rng.normal(size=(2, 80))
        low, high = srcc_interval(x, rho * x + math.sqrt(1 - rho**2) * noise, rounds=300)
        hits += low <= truth <= high
    assert 0.90 <= hits / 200 <= 0.99


def test_the_interval_is_the_same_every_time():
    assert srcc_interval(X, Y) == srcc_interval(X, Y)
    assert srcc_interval(X, Y) != srcc_interval(X, Y, seed=1)


def test_the_interval_mirrors():
    low, high = srcc_interval(X, Y)
    assert srcc_interval(X, -Y) == pytest.approx((-high, -low))
    assert srcc_interval(Y, X) == pytest.approx((low, high))


def test_an_undefined_interval_is_nan():
    assert all(math.isnan(end) for end in srcc_interval([2, 2, 2], [1, 2, 3]))
