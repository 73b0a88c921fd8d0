"""Paired tests over few seeds, against values worked out by hand."""

import math

import pytest

from vqr1.evaluation.paired_seeds import holm, least_p, paired_seeds, pairs_needed


def test_three_pairs_by_hand():
    # Mean 2, sd 1, t = 2 sqrt(3) with 2 degrees of freedom: p = 1 - t / sqrt(t^2 + 2), t_0.975 = 4.302653.
    found = paired_seeds([1.0, 2.0, 3.0])
    assert (found.pairs, found.mean, found.spread) == (3, 2.0, 1.0)
    t = 2 * math.sqrt(3)
    assert found.t_p == pytest.approx(1 - t / math.sqrt(t**2 + 2))
    assert (found.low, found.high) == pytest.approx(
        (2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), abs=1e-5
    )
    assert found.sign_p == 2 / 8  # all signs alike is the largest of 8


def test_the_sign_flip_counts_every_combination():
    # The 8 sums of 1, 2 and 4 with any signs are 7, 5, 3, 1 and their negatives; 6 are at least as far from 0 as 3.
    assert paired_seeds([1.0, -2.0, 4.0]).sign_p == pytest.approx(6 / 8)


@pytest.mark.parametrize("pairs", [2, 5, 6, 10])
def test_no_exact_p_is_below_that_of_equal_signs(pairs):
    assert paired_seeds([1.0 + i / 100 for i in range(pairs)]).sign_p == pytest.approx(least_p(pairs))


def test_how_many_pairs_can_reach_the_level():
    assert least_p(5) == 0.0625  # five seeds do not
    assert pairs_needed() == 6  # 2 / 64
    assert pairs_needed(4) == 8  # 4 * 2 / 256; 4 * 2 / 128 is 0.0625


def test_many_pairs_are_drawn_and_agree_with_t():
    values = [math.sin(i) + 0.3 for i in range(40)]
    found = paired_seeds(values)
    assert found.sign_p == pytest.approx(found.t_p, abs=0.02)
    assert paired_seeds(values) == found  # the same each time


def test_one_pair_and_none_are_no_test():
    one, none = paired_seeds([0.25]), paired_seeds([])
    assert (one.pairs, one.mean, none.pairs) == (1, 0.25, 0)
    for value in (one.spread, one.low, one.t_p, one.sign_p, none.mean, none.t_p):
        assert math.isnan(value)


@pytest.mark.parametrize(("value", "sign"), [(0.0, 1.0), (0.5, 0.25)])
def test_differences_without_spread_have_no_t(value, sign):
    for differences in ([value] * 3, [value, value, value * (1 + 1e-15)]):
        found = paired_seeds(differences)
        assert math.isnan(found.t_p)
        assert (found.low, found.high, found.sign_p) == pytest.approx((value, value, sign))


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.04: times 4, 3, 2, 1 = 0.04, 0.06, 0.06, 0.04, and none below the one before.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_what_is_no_test_counts_as_none_in_holm():
    first, second, third = holm([math.nan, 0.03, 0.02])
    assert math.isnan(first)
    assert (second, third) == pytest.approx((0.04, 0.04))
