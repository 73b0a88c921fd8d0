"""Votes, correlation per reference and BAPPS: values by hand, symmetries, and answers that nobody can read."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from vqr1.votes import bapps_agreement, correlation_per_reference, scores_of_votes, vote_of_letters

NAN = math.nan


def test_votes_by_hand():
    pairs = [[0, 1], [0, 2], [1, 2], [1, 0], [2, 0], [2, 1], [0, 3]]
    votes = [1, 0.9, 0.5, 0.2, 0, NAN, NAN]
    scores, counted = scores_of_votes(pairs, votes, 4)
    # 0: 1 + 0.9 + 0.8 + 1; 1: 0 + 0.5 + 0.2; 2: 0.1 + 0.5 + 0; 3: unreadable alone
    assert scores.tolist() == pytest.approx([3.7 / 4, 0.7 / 3, 0.6 / 3, NAN], nan_ok=True)
    assert counted.tolist() == [4, 3, 3, 0]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.floats(0, 1)).filter(lambda v: v[0] != v[1])))
def test_votes_in_the_other_order_are_the_rest(votes):
    pairs, parts = [v[:2] for v in votes], [v[2] for v in votes]
    scores, counted = scores_of_votes(pairs, parts, 5)
    turned, _ = scores_of_votes([pair[::-1] for pair in pairs], [1 - part for part in parts], 5)
    assert turned == pytest.approx(scores, abs=1e-9, nan_ok=True)
    lost, _ = scores_of_votes(pairs, [1 - part for part in parts], 5)
    assert lost == pytest.approx(1 - scores, abs=1e-9, nan_ok=True)
    assert np.nansum(scores * counted) == pytest.approx(len(votes), abs=1e-9)  # each vote is given away once


def test_nothing_but_draws_is_the_middle():
    scores, _ = scores_of_votes(list(combinations(range(5), 2)), np.full(10, 0.5), 5)
    assert scores.tolist() == [0.5] * 5
    assert np.isnan(scores_of_votes([], [], 2)[0]).all()


def test_confidence_is_over_the_two_letters():
    assert vote_of_letters([0.0, 700.0], [math.log(3), -700.0]).tolist() == [pytest.approx(0.25), 1]
    assert vote_of_letters(3.0, 1.0) + vote_of_letters(1.0, 3.0) == pytest.approx(1, abs=1e-12)
    with pytest.raises(ValueError, match="unreadable"):
        vote_of_letters(NAN, 1.0)


@pytest.mark.parametrize(
    ("pairs", "votes", "words"),
    [
        ([[0, 1]], [1, 0], "(2,) votes for 1 pairs"),
        ([[0, 1]], [1.1], "not on [0, 1]"),
        ([[0, 3]], [1], "a pair names picture 3 of 3"),
        ([[-1, 2]], [1], "a pair names picture -1 of 3"),
        ([[1, 1]], [1], "a picture and itself"),
        ([[0, 1, 2]], [1], "two indices"),
        ([[0.5, 1.5]], [1], "two indices"),
    ],
)
def test_what_is_no_vote_is_refused(pairs, votes, words):
    with pytest.raises(ValueError) as caught:
        scores_of_votes(pairs, votes, 3)
    assert words in str(caught.value)


# Correlation per reference


def test_correlation_per_reference_by_hand():
    references = [*"aaaa", *"bbb", *"cc", *"ddd", *"eee", *"fff"]
    scores = [1, 2, 3, 4, 3, 2, 1, 1, 2, 1, 2, 3, 5, 5, 5, 1, NAN, 2]
    mos = [1, 2, 4, 3, 1, 2, 3, 1, 2, 7, 7, 7, 1, 2, 3, 1, 2, 3]
    known = correlation_per_reference(scores, mos, references)
    assert known.srcc == {"a": pytest.approx(0.8), "b": pytest.approx(-1)}
    assert known.mean == pytest.approx(-0.1)
    # c has two pictures and f two with a score, d one MOS, e one score
    assert (known.few, known.constant_mos, known.constant_scores, known.unscored) == (2, 1, 1, 1)


def test_a_wrong_sign_is_seen_and_raw_scores_are_ranked():
    rng = np.random.default_rng(0)
    mos, references = rng.normal(size=60), [f"r{i % 4}" for i in range(60)]
    scores = -np.exp(mos) + 0.1 * rng.normal(size=60)
    known = correlation_per_reference(scores, mos, references)
    for i in range(4):
        assert known.srcc[f"r{i}"] == pytest.approx(spearmanr(scores[i::4], mos[i::4]).statistic, abs=1e-12)
    assert known.mean == pytest.approx(np.mean(list(known.srcc.values()))) and known.mean < -0.9


def test_nothing_to_correlate():
    known = correlation_per_reference([], [], [])
    assert math.isnan(known.mean) and known.srcc == {}
    # references of no scored picture count as small
    assert correlation_per_reference([NAN] * 3, [1, 2, 3], ["a"] * 3).few == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([1, 2], [1, 2], ["a"]), "one each"),
        (([1, 2], [1, NAN], ["a", "a"]), "MOS must be finite"),
        (([1, math.inf], [1, 2], ["a", "a"]), "scores finite or NaN"),
    ],
)
def test_what_cannot_be_correlated_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        correlation_per_reference(*arguments)


# BAPPS


def test_bapps_by_hand():
    assert bapps_agreement([0.8, 0.8, 0.8], [1, 0, 0.5]) == pytest.approx((0.8 + 0.2 + 0.5) / 3)
    assert bapps_agreement([1, 0], [1, 0]) == 1 and bapps_agreement([1, 0], [0, 1]) == 0
    assert bapps_agreement([0.3, 0.9], [0.5, 0.5]) == 0.5
    assert math.isnan(bapps_agreement([], []))


@pytest.mark.parametrize(
    ("judge", "chosen", "words"),
    [
        ([0.5], [1, 0], "one each"),
        ([1.2], [1], "share of raters"),
        ([NAN], [1], "share of raters"),
        ([0.5], [NAN], "chosen is"),
        ([0.5], [2], "chosen is"),
    ],
)
def test_what_is_no_judgement_is_refused(judge, chosen, words):
    with pytest.raises(ValueError, match=words):
        bapps_agreement(judge, chosen)
