"""Correlations and their interval against values worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vqr1.evaluation.correlation import plcc, srcc, srcc_interval

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


@pytest.mark.parametrize("function", [srcc, plcc])
@pytest.mark.parametrize(("predictions", "mos"), [([2, 2, 2], [1, 2, 3]), ([1, 2, 3], [2, 2, 2]), ([1], [1]), ([], [])])
@pytest.mark.filterwarnings("error")
def test_what_is_undefined_is_nan(function, predictions, mos):
    assert math.isnan(function(predictions, mos))


@pytest.mark.parametrize("function", [srcc, plcc])
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
    assert srcc(x**3, y) == pytest.approx(srcc(x, y), abs=1e-12, nan_ok=True)  # ranks only


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
