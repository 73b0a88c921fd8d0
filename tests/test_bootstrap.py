"""The bootstrap against a slow plain one, what it should cover, groups, and the paired test."""

import math

import numpy as np
import pytest
from scipy import stats

from vqr1.evaluation import bootstrap
from vqr1.evaluation.bootstrap import interval, paired, resampled_correlations, resampled_means, units_of

RNG = np.random.default_rng(3)
Y = RNG.normal(size=80).round(1)  # with ties
X = (Y + RNG.normal(size=80)).round(1)
EACH = np.arange(80)


def plain(x, y, unit, rounds, seed):
    """Draw units, write out the drawn pictures, correlate them with scipy."""
    units = int(unit.max()) + 1
    drawn = np.random.default_rng(seed).integers(units, size=(rounds, units))
    members = [np.flatnonzero(unit == u) for u in range(units)]
    pictures = [np.concatenate([members[u] for u in row]) for row in drawn]
    return np.array(
        [
            [stats.spearmanr(x[p], y[p]).statistic for p in pictures],
            [stats.pearsonr(x[p], y[p]).statistic for p in pictures],
        ]
    )


@pytest.mark.parametrize("unit", [EACH, EACH // 7, EACH % 5, np.minimum(EACH, 40)], ids=["each", "7", "mod", "uneven"])
def test_every_round_is_what_a_plain_bootstrap_gives(unit):
    found = resampled_correlations([X], Y, unit, rounds=40, seed=2)
    assert found.shape == (2, 1, 40)
    assert found[:, 0] == pytest.approx(plain(X, Y, unit, 40, 2), abs=1e-12)


def test_pieces_change_nothing(monkeypatch):
    whole = resampled_correlations([X, -X], Y, EACH // 3, rounds=50, seed=1)
    means = resampled_means(np.stack([X, Y]), rounds=50, seed=1)
    monkeypatch.setattr(bootstrap, "PIECE", 240)  # three rounds at a time
    assert resampled_correlations([X, -X], Y, EACH // 3, rounds=50, seed=1) == pytest.approx(whole, abs=1e-12)
    assert resampled_means(np.stack([X, Y]), rounds=50, seed=1) == pytest.approx(means, abs=1e-12)


def test_models_are_drawn_together():
    found = resampled_correlations([X, -X, 3 * X + 1], Y, EACH, rounds=30)
    assert found[:, 1] == pytest.approx(-found[:, 0], abs=1e-12)
    assert found[:, 2] == pytest.approx(found[:, 0], abs=1e-12)


def test_scales_do_not_matter():
    expected = resampled_correlations([X], Y, EACH, rounds=20)
    assert resampled_correlations([X * 1e200 + 1e201], Y * 1e-200, EACH, rounds=20) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("twice", np.linspace(0.11, 0.97, 9))  # the variance of equal values is not always exactly 0
def test_a_round_that_drew_a_constant_side_is_undefined(twice):
    x, y = np.array([0.1, 0.1, 0.7, 0.9]), np.array([0.3, 0.1, twice, twice])
    drawn = np.random.default_rng(0).integers(4, size=(200, 4))
    flat = [(len(set(x[row])) == 1, len(set(y[row])) == 1) for row in drawn]
    assert (True, False) in flat and (False, True) in flat
    constant = [any(sides) for sides in flat]
    found = resampled_correlations([x], y, np.arange(4), rounds=200, seed=0)
    assert np.isnan(found[0, 0]).tolist() == np.isnan(found[1, 0]).tolist() == constant
    assert not math.isnan(interval(found[0, 0])[0])


def test_nothing_to_resample_is_undefined():
    empty = np.array([])
    assert np.isnan(resampled_correlations([empty], empty, np.array([], dtype=int), rounds=5)).all()
    assert all(math.isnan(end) for end in interval(np.full(5, np.nan)))


def test_whole_groups_are_wider_than_pictures_where_groups_agree():
    # Ten contents, each of 20 near copies: 200 pictures tell no more than ten.
    content = np.repeat(np.arange(10), 20)
    y = np.random.default_rng(0).normal(size=10)[content] + 1e-3 * np.random.default_rng(1).normal(size=200)
    x = y + np.random.default_rng(2).normal(size=10)[content]
    widths = []
    for unit in (np.arange(200), content):
        low, high = interval(resampled_correlations([x], y, unit)[1, 0])
        widths.append(high - low)
    assert widths[1] > 2.5 * widths[0]


@pytest.mark.parametrize("grouped", [False, True])
def test_the_interval_of_the_plcc_covers_as_often_as_it_says(grouped):
    rng, rho, hits = np.random.default_rng(5), 0.6, 0
    unit = np.arange(90) // 3 if grouped else np.arange(90)
    for seed in range(150):
        # Within a group one shared part makes up 90 % of the variance of either side.
        shared = rng.normal(size=(2, 90))[:, unit] if grouped else np.zeros((2, 90))
        own = rng.normal(size=(2, 90))
        a, b = math.sqrt(0.9) * shared + math.sqrt(0.1) * own if grouped else own
        found = resampled_correlations([rho * a + math.sqrt(1 - rho**2) * b], a, unit, rounds=300, seed=seed)
        low, high = interval(found[1, 0])
        hits += low <= rho <= high
    assert 0.88 <= hits / 150 <= 0.99


def test_means_of_groups_are_resampled_by_groups():
    values = np.array([[0.1, 0.5, 0.9], [0.2, np.nan, 0.4]])
    drawn = np.random.default_rng(4).integers(3, size=(25, 3))
    found = resampled_means(values, rounds=25, seed=4)
    assert found[0] == pytest.approx(values[0][drawn].mean(axis=1))
    expected = [np.mean(v) if len(v := [x for x in values[1][row] if x == x]) else math.nan for row in drawn]
    assert found[1] == pytest.approx(np.array(expected), nan_ok=True)


def test_p_by_hand():
    assert paired(1.0, np.array([1.0, 2.0, 3.0])).p == pytest.approx(2 * 1 / 4)
    assert paired(1.0, np.array([-1.0, 2.0, 3.0, 4.0])).p == pytest.approx(2 * 2 / 5)
    assert paired(-1.0, np.array([1.0, -2.0, -3.0, -4.0])).p == pytest.approx(2 * 2 / 5)
    assert paired(0.0, np.zeros(9)).p == 1.0
    assert math.isnan(paired(0.1, np.full(3, np.nan)).p)
    assert math.isnan(paired(math.nan, np.ones(3)).p)


def test_equal_models_are_rarely_called_different_and_unequal_ones_mostly():
    rng, false, true = np.random.default_rng(6), 0, 0
    for seed in range(100):
        y = rng.normal(size=100)
        noise = rng.normal(size=(3, 100))
        drawn = resampled_correlations([y + noise[0], y + noise[1], y + 3 * noise[2]], y, np.arange(100), 200, seed)[1]
        false += paired(0.0, drawn[0] - drawn[1]).p < 0.05
        true += paired(0.0, drawn[0] - drawn[2]).p < 0.05
    assert false <= 12
    assert true >= 90


def test_groups_by_name():
    assert units_of(["b", "a", "b", "é"]).tolist() == [0, 1, 0, 2]
    assert units_of([]).shape == (0,)
