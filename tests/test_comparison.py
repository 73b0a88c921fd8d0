"""Comparisons: their words and preferences, scores by MAP, and scores against anchors."""

import doctest
import math
import re
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.special import log_ndtr

from vqr1.comparison import anchors, scores, words
from vqr1.comparison.anchors import MosLine, check_no_anchor, choose_anchors, mos_line, score_against_anchors
from vqr1.comparison.scores import comparison_matrix, comparison_parts, link_derivatives, map_scores
from vqr1.comparison.words import SIMILAR, WEIGHTS, WORDS, both_orders, compare_mos, pair_spread, preference
from vqr1.errors import UserError

LINKS = ("normal", "logistic")
mos_ = st.floats(-100, 100)
std_ = st.one_of(st.just(0.0), st.floats(1e-3, 50))
logits_ = st.lists(st.floats(-50, 50), min_size=5, max_size=5)


@pytest.mark.parametrize("module", [words, scores, anchors], ids=lambda module: module.__name__)
def test_the_examples_of_docstrings_hold(module):
    result = doctest.testmod(module)
    assert result.failed == 0 < result.attempted


def test_the_documents_example_holds(capsys):
    page = (Path(__file__).parents[1] / "docs" / "methods.md").read_text()
    section = page.split("\n## Comparisons: Compare2Score\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    exec(code, {})
    assert capsys.readouterr().out == "[-0.282  0.144  0.138] the comparisons join all 3 pictures\n"


# Words


def test_words_by_hand():
    # s = sqrt(0.3^2 + 0.4^2) = 0.5; gaps on and beside each edge
    s = pair_spread(0.3, 0.4)
    assert s == pytest.approx(0.5, abs=1e-12)
    gaps = [-9, -1.01, -1, -0.51, -0.5, 0, 0.5, 0.51, 1, 1.01, 9]
    expected = ["inferior", "inferior", "worse", "worse", *["similar"] * 3, "better", "better", "superior", "superior"]
    assert [WORDS[i] for i in compare_mos(0.0, gaps, s)] == expected


def test_an_edge_is_forgiven_what_rounding_makes_of_it():
    assert 3.7 - 3.0 > 0.7  # in binary
    assert compare_mos(3.0, 3.7, 0.7) == SIMILAR and compare_mos(3.7, 3.0, 0.7) == SIMILAR
    assert WORDS[compare_mos(3.0, 3.7000001, 0.7)] == "better"


@given(mos_, mos_, std_, std_)
def test_swapping_the_pictures_swaps_the_words(first, second, std_first, std_second):
    here = compare_mos(first, second, pair_spread(std_first, std_second))
    there = compare_mos(second, first, pair_spread(std_second, std_first))
    assert here + there == len(WORDS) - 1


@given(mos_, std_)
def test_equal_scores_are_similar_whatever_the_spread(mos, spread):
    assert compare_mos(mos, mos, spread) == SIMILAR


def test_without_spread_every_gap_is_large():
    assert compare_mos(1.0, [1.0, 1.0 + 1e-9, 1.0 - 1e-9], 0.0).tolist() == [2, 4, 0]


@pytest.mark.parametrize("spread", [math.nan, -0.1, math.inf])
def test_a_spread_that_is_missing_or_none_is_refused(spread):
    with pytest.raises(UserError, match="state one spread"):
        compare_mos(1.0, 2.0, [0.5, spread])
    with pytest.raises(UserError, match="state one spread"):
        pair_spread([0.5, spread], 0.5)


def test_a_mos_that_is_not_finite_is_refused():
    with pytest.raises(UserError, match="not finite"):
        compare_mos(1.0, [2.0, math.nan], 0.5)


# Preferences


def test_preference_by_hand():
    logits = [0.0, 1.0, 2.0, 3.0, 4.0]
    e = [math.exp(x) for x in logits]
    assert preference(logits) == pytest.approx((0.25 * e[1] + 0.5 * e[2] + 0.75 * e[3] + e[4]) / sum(e), abs=1e-12)
    for word, weight in enumerate(WEIGHTS):
        only = np.full(5, -math.inf)
        only[word] = -3.0
        assert preference(only) == weight
    halves = [math.exp(x / 2) for x in logits]
    by_hand = sum(w * h for w, h in zip(WEIGHTS, halves, strict=True)) / sum(halves)
    assert preference(logits, temperature=2.0) == pytest.approx(by_hand, abs=1e-12)


@given(logits_, st.floats(-1e6, 1e6), st.floats(0.1, 100))
def test_preference_is_of_the_differences_and_turns_with_the_words(logits, constant, temperature):
    p = preference(logits, temperature)
    assert 0 <= p <= 1
    assert preference(np.asarray(logits) + constant, temperature) == pytest.approx(p, abs=1e-8)
    assert preference(logits[::-1], temperature) == pytest.approx(1 - p, abs=1e-12)


def test_the_published_temperature_leaves_next_to_nothing():
    surest = [-5.0, -5.0, -5.0, -5.0, 5.0]
    assert preference(surest) > 0.999
    assert 0.475 < preference(surest, temperature=100.0) < 0.525


def test_preferences_of_many_answers_keep_their_shape():
    logits = np.random.default_rng(0).normal(size=(3, 2, 5))
    p = preference(logits)
    assert p.shape == (3, 2) and p[2, 1] == pytest.approx(float(preference(logits[2, 1])), abs=1e-15)
    assert preference([-1.7e308, 0.0, 0.0, 0.0, 1.7e308]) == 1.0


@pytest.mark.parametrize("logits", [[0.0] * 4, 0.0, [math.nan] + [0.0] * 4, [math.inf] + [0.0] * 4, [-math.inf] * 5])
def test_logits_that_are_none_are_refused(logits):
    with pytest.raises(ValueError, match="logits"):
        preference(logits)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        preference([0.0] * 5, temperature)


def test_both_orders_by_hand():
    assert both_orders([0.9, 1.0, 0.7], [0.3, 0.0, 0.7]).tolist() == pytest.approx([0.8, 1.0, 0.5], abs=1e-15)
    with pytest.raises(ValueError, match="a preference of 1.1"):
        both_orders(0.5, 1.1)


@given(st.floats(0, 1), st.floats(0, 0.2))
def test_what_is_added_to_the_second_picture_cancels(p, bias):
    p = 0.2 + 0.6 * p
    assert both_orders(p + bias, 1 - p + bias) == pytest.approx(p, abs=1e-12)


# Scores by MAP


def log_f(gap, link):
    return log_ndtr(gap) if link == "normal" else -np.log1p(np.exp(-np.abs(gap))) + np.minimum(gap, 0)


def lost_posterior(s, C, link, prior):
    """Minus the posterior, as the definition has it."""
    return -(np.sum(C * log_f(s[:, None] - s, link)) - prior * np.sum(s**2) / 2)


def slope_of(f, s, h=1e-5):
    return np.array([(f(s + h * e) - f(s - h * e)) / (2 * h) for e in np.eye(len(s))])


def some_comparisons(n, seed, density=0.5):
    rng = np.random.default_rng(seed)
    C = rng.integers(0, 4, (n, n)) * (rng.random((n, n)) < density) + 0.25 * rng.random((n, n))
    np.fill_diagonal(C, 0)
    return C


def test_two_pictures_by_hand():
    # One win: s_0 = -s_1 = s with F'/F(2 s) = s. For the logistic link 1 / (1 + exp(2 s)) = s.
    (s, minus_s) = map_scores([[0, 1], [0, 0]], link="logistic").scores
    assert 1 / (1 + math.exp(2 * s)) == pytest.approx(s, abs=1e-12) and minus_s == -s
    (s, minus_s) = map_scores([[0, 1], [0, 0]]).scores
    density = math.exp(-2 * s * s) / math.sqrt(2 * math.pi)
    assert density / (0.5 * math.erfc(-s * math.sqrt(2))) == pytest.approx(s, abs=1e-12) and minus_s == -s
    # Three wins of four, hardly any prior: the logit of 3/4.
    s = map_scores([[0, 3], [1, 0]], link="logistic", prior=1e-7).scores
    assert s[0] - s[1] == pytest.approx(math.log(3), abs=1e-6)


@pytest.mark.parametrize("link", LINKS)
def test_the_derivatives_are_those_of_log_f(link):
    gap = np.linspace(-30, 6, 73)
    first, second = link_derivatives(gap, link)
    h = 1e-5
    assert first == pytest.approx((log_f(gap + h, link) - log_f(gap - h, link)) / (2 * h), abs=1e-6)
    above, below = link_derivatives(gap + h, link)[0], link_derivatives(gap - h, link)[0]
    assert second == pytest.approx(-(above - below) / (2 * h), abs=1e-6)


def test_no_gap_saturates():
    first, second = link_derivatives(np.array([-1e9, -1e5, -1e3, -40.0, 40.0, 1e9]), "normal")
    # F'/F at -x is x + 1/x - 2/x^3 + ..., and its slope -1 + 1/x^2 - ...
    assert first[:4] == pytest.approx([1e9, 1e5 + 1e-5, 1e3 + 1e-3, 40 + 1 / 40 - 2 / 40**3], rel=1e-8)
    assert second[:4] == pytest.approx([1, 1, 1 - 1e-6, 1 - 1 / 40**2], abs=1e-5)
    assert (first[4:] == 0).all() and (second[4:] == 0).all()


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("prior", [1.0, 0.05])
def test_map_is_a_general_solvers_optimum_from_six_starts(link, prior):
    C = some_comparisons(7, seed=1)
    found = map_scores(C, link=link, prior=prior).scores
    rng = np.random.default_rng(2)

    def slope(s):
        pull = C * link_derivatives(s[:, None] - s, link)[0]
        return -(pull.sum(1) - pull.sum(0) - prior * s)

    for start in (np.zeros(7), *rng.normal(0, 3, (5, 7))):
        solved = minimize(
            lost_posterior,
            start,
            (C, link, prior),
            "L-BFGS-B",
            lambda s, *_: slope(s),
            options={"ftol": 0, "gtol": 1e-9},
        )
        assert np.abs(solved.x - found).max() < 1e-6
    assert slope_of(lambda s: lost_posterior(s, C, link, prior), found) == pytest.approx(np.zeros(7), abs=1e-6)


@pytest.mark.parametrize("link", LINKS)
@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 8), density=st.floats(0, 1))
def test_what_changes_no_score_and_what_turns_them(link, seed, n, density):
    C = some_comparisons(n, seed, density)
    s = map_scores(C, link=link).scores
    order = np.random.default_rng(seed).permutation(n)
    assert map_scores(C[np.ix_(order, order)], link=link).scores == pytest.approx(s[order], abs=1e-9)
    assert map_scores(C.T, link=link).scores == pytest.approx(-s, abs=1e-9)
    assert map_scores(7.5 * C, link=link, prior=7.5).scores == pytest.approx(s, abs=1e-9)
    assert map_scores(csr_array(C), link=link).scores == pytest.approx(s, abs=1e-9)
    assert s.sum() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("link", LINKS)
@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 8), more=st.floats(0.1, 50))
def test_more_wins_never_lower_a_score(link, seed, n, more):
    C = some_comparisons(n, seed)
    before = map_scores(C, link=link).scores
    C[0, 1] += more
    after = map_scores(C, link=link).scores
    assert after[0] > before[0] and after[1] < before[1]


def test_a_thousand_pictures_with_twenty_thousand_comparisons_take_no_time():
    rng = np.random.default_rng(0)
    quality = rng.normal(0, 2, 1000)
    first, second = rng.integers(0, 1000, (2, 20_000))
    second = np.where(first == second, (second + 1) % 1000, second)
    won = rng.normal(size=20_000) < quality[second] - quality[first]
    for link in LINKS:
        begun = time.perf_counter()
        solved = map_scores(comparison_matrix(1000, first, second, won), link=link)
        assert time.perf_counter() - begun < 5  # 0.05 s
        assert solved.parts.connected and np.corrcoef(solved.scores, quality)[0, 1] > 0.95


def test_scores_go_far_beyond_where_the_published_ones_end():
    """A chain of certain wins: neighbours, and the ends, which are 4.75 apart many times over."""
    n = 60
    C = csr_array((np.full(n - 1, 1e6), (np.arange(1, n), np.arange(n - 1))), shape=(n, n))
    s = map_scores(C).scores
    gap = np.diff(s)
    assert (gap > 3).all() and s[-1] - s[0] > 150
    # Each picture: 1e6 F'/F of the gap below minus of the gap above is the score itself.
    pull = 1e6 * np.concatenate([[0], link_derivatives(gap, "normal")[0], [0]])
    assert pull[:-1] - pull[1:] == pytest.approx(s, abs=1e-6)
    # One win of the weakest over the strongest pulls with all of its gap, which a floor under F would take for nothing.
    upset = csr_array(([1.0], ([0], [n - 1])), shape=(n, n))
    assert map_scores(C + upset).scores[-1] < s[-1] - 1


@pytest.mark.parametrize("prior", [1.0, 1e-6])
@pytest.mark.parametrize("link", LINKS)
def test_hard_cases_are_solved(link, prior):
    """A chain of 60 with counts over nine orders of magnitude, certain wins among them."""
    rng = np.random.default_rng(3)
    C = np.zeros((60, 60))
    k = np.arange(59)
    C[k + 1, k] = 10 ** rng.uniform(-7, 2, 59)
    C[k, k + 1] = 10 ** rng.uniform(-7, 2, 59) * (rng.random(59) < 0.5)
    s = map_scores(C, link=link, prior=prior).scores
    pull = C * link_derivatives(s[:, None] - s, link)[0]
    curvature = C * link_derivatives(s[:, None] - s, link)[1]
    hessian = np.diag(prior + curvature.sum(1) + curvature.sum(0)) - curvature - curvature.T
    left = np.linalg.solve(hessian, pull.sum(1) - pull.sum(0) - prior * s)  # a dense Newton step
    assert np.abs(left - left.mean()).max() < 1e-6


def test_scores_of_very_many_comparisons_sum_to_zero():
    C = 1e8 * np.random.default_rng(0).random((60, 60))
    np.fill_diagonal(C, 0)
    assert abs(map_scores(C).scores.sum()) < 1e-9


def test_draws_alone_leave_all_at_zero():
    C = comparison_matrix(4, [0, 1, 2], [1, 2, 3], [0.5, 0.5, 0.5])
    for link in LINKS:
        assert map_scores(C, link=link).scores.tolist() == [0, 0, 0, 0]


def test_pictures_in_no_comparison_are_at_zero_and_said():
    solved = map_scores([[0, 3, 0], [1, 0, 0], [0, 0, 0]])
    assert solved.scores[2] == 0 and solved.scores[0] > 0
    assert solved.parts.sizes == (2, 1) and not solved.parts.connected
    assert solved.parts.in_words() == (
        "the comparisons fall into 1 part of 2 pictures and 1 picture in no comparison, with score 0: scores of "
        "different parts have no common zero; ask for more pairs"
    )
    assert map_scores(np.zeros((2, 2))).scores.tolist() == [0, 0]


def test_a_graph_in_two_parts_is_said_and_each_part_is_solved_by_itself():
    C = np.zeros((5, 5))
    C[:2, :2], C[2:, 2:] = some_comparisons(2, 0, 1), some_comparisons(3, 1, 1)
    order = np.array([3, 0, 4, 1, 2])
    solved = map_scores(C[np.ix_(order, order)])
    assert solved.parts.sizes == (3, 2) and solved.parts.of_picture.tolist() == [0, 1, 0, 1, 0]
    assert "2 parts of 3 and 2 pictures:" in solved.parts.in_words()
    alone = np.concatenate([map_scores(C[:2, :2]).scores, map_scores(C[2:, 2:]).scores])
    assert solved.scores == pytest.approx(alone[order], abs=1e-9)
    for part in (0, 1):
        assert solved.scores[solved.parts.of_picture == part].sum() == pytest.approx(0, abs=1e-12)


def test_many_parts_are_said_in_few_words():
    k = 2 * np.arange(8)
    parts = comparison_parts(comparison_matrix(16, k, k + 1, np.ones(8)))
    assert "8 parts of 2, 2, 2, 2, 2 and ... pictures" in parts.in_words()
    assert comparison_parts([[0, 1], [0, 0]]).in_words() == "the comparisons join all 2 pictures"


def test_a_comparison_adds_its_preference_to_both_entries():
    C = comparison_matrix(3, [0, 0, 2], [1, 1, 0], [0.75, 1.0, 0.5])
    assert C.toarray().tolist() == [[0, 0.25, 0.5], [1.75, 0, 0], [0.5, 0, 0]]
    assert comparison_matrix(2, [], [], []).toarray().tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("first", "second", "p", "said"),
    [
        ([0], [0], [1.0], "picture 0 is compared with itself"),
        ([0], [3], [1.0], "there are 0 to 2"),
        ([-1], [0], [1.0], "there are 0 to 2"),
        ([0], [1], [1.5], "a preference of 1.5"),
        ([0], [1], [math.nan], "a preference of nan"),
        ([0.0], [1.0], [1.0], "by their numbers"),
        ([0, 1], [1], [1.0], "one of each"),
    ],
)
def test_comparisons_that_are_none_are_refused(first, second, p, said):
    with pytest.raises(ValueError, match=said):
        comparison_matrix(3, first, second, p)


@pytest.mark.parametrize(
    ("C", "more", "said"),
    [
        ([[0, 1]], {}, r"shape \(1, 2\)"),
        ([], {}, "shape"),
        ([[0, -1], [0, 0]], {}, "an entry of -1.0"),
        ([[0, math.nan], [0, 0]], {}, "an entry of nan"),
        ([[0, math.inf], [0, 0]], {}, "an entry of inf"),
        ([[0, 1], [0, 2]], {}, "picture 1 was compared with itself"),
        ([[0, 1], [0, 0]], {"prior": 0.0}, "prior=0.0"),
        ([[0, 1], [0, 0]], {"prior": math.inf}, "prior=inf"),
        ([[0, 1], [0, 0]], {"prior": 1e-9}, "raise the prior"),
        ([[0, 1], [0, 0]], {"link": "cauchy"}, "normal, logistic"),
    ],
)
def test_scores_that_have_no_meaning_are_refused(C, more, said):
    with pytest.raises(ValueError, match=said):
        map_scores(C, **more)


def test_the_matrix_is_left_as_it_was():
    C = csr_array(([0.0, 2.0], ([0, 1], [1, 0])), shape=(2, 2))
    map_scores(C)
    assert C.nnz == 2


# Anchors

ANCHORS = np.array([-1.5, -0.4, 0.3, 1.7])


def lost_against_anchors(s, p, link, prior=1.0):
    return -(np.sum(p * log_f(s - ANCHORS, link) + (1 - p) * log_f(ANCHORS - s, link)) - prior * s**2 / 2)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("prior", [1.0, 0.1])
def test_a_score_against_anchors_is_a_general_solvers_optimum(link, prior):
    preferences = np.random.default_rng(0).random((20, 4))
    found = score_against_anchors(preferences, ANCHORS, link=link, prior=prior)
    for p, s in zip(preferences, found, strict=True):
        around = [lost_against_anchors(s + d, p, link, prior) for d in (-1e-4, 0, 1e-4)]
        assert around[1] < min(around[0], around[2])
        solved = minimize(lambda x, p=p: lost_against_anchors(x[0], p, link, prior), [0.0], method="BFGS")
        assert solved.x[0] == pytest.approx(s, abs=1e-5)


@pytest.mark.parametrize("link", LINKS)
def test_a_score_is_the_last_one_of_a_map_with_the_anchors_held(link):
    p = np.array([0.9, 0.8, 0.4, 0.1])
    s = score_against_anchors([p], ANCHORS, link=link)[0]
    up, down = (link_derivatives(gap, link)[0] for gap in (s - ANCHORS, ANCHORS - s))
    assert np.sum(p * up - (1 - p) * down) == pytest.approx(s, abs=1e-12)


@pytest.mark.parametrize("link", LINKS)
def test_a_score_depends_on_its_own_picture_alone_and_rises_with_each_preference(link):
    preferences = np.random.default_rng(1).random((50, 4))
    found = score_against_anchors(preferences, ANCHORS, link=link)
    for i in (0, 17, 49):
        assert score_against_anchors(preferences[i : i + 1], ANCHORS, link=link)[0] == found[i]
    for k in range(4):
        raised = preferences.copy()
        raised[:, k] += 0.01 * (1 - raised[:, k])
        assert (score_against_anchors(raised, ANCHORS, link=link) > found).all()
    assert score_against_anchors(1 - preferences, -ANCHORS, link=link) == pytest.approx(-found, abs=1e-12)


def test_pictures_beyond_all_anchors_are_told_apart():
    """The published scores are scaled to the range of anchors and picture, where these would all be 100."""
    surely = np.array([[1, 1, 1, 1], [1, 1, 1, 0.99], [1, 1, 1, 0.9], [1, 1, 0.99, 0.9]])
    found = score_against_anchors(surely, ANCHORS)
    assert (np.diff(found) < 0).all()
    far = score_against_anchors([[1.0], [0.0]], [1e6])  # the anchor is far above: losing to it says nothing
    assert far[0] == pytest.approx(5e5, rel=1e-6) and far[1] == 0


def test_half_to_anchors_around_zero_is_zero():
    assert score_against_anchors([[0.5, 0.5]], [-2.0, 2.0]) == pytest.approx([0.0], abs=1e-15)
    assert score_against_anchors(np.zeros((0, 4)), ANCHORS).shape == (0,)


@pytest.mark.parametrize(
    ("p", "a", "more", "said"),
    [
        ([[0.5]], [0.0, 1.0], {}, "2 anchors"),
        ([0.5], [0.0], {}, "1 anchors"),
        ([[]], [], {}, "one anchor or more"),
        ([[0.5]], [math.nan], {}, "finite score"),
        ([[math.nan]], [0.0], {}, "a preference of nan"),
        ([[0.5]], [0.0], {"prior": -1.0}, "prior=-1.0"),
        ([[0.5]], [0.0], {"link": "probit"}, "normal, logistic"),
    ],
)
def test_what_is_no_score_against_anchors_is_refused(p, a, more, said):
    with pytest.raises(ValueError, match=said):
        score_against_anchors(p, a, **more)


def test_anchors_by_hand():
    # Range 1 to 5, five intervals of 0.8: (1, 1.8], (1.8, 2.6], (2.6, 3.4], (3.4, 4.2], (4.2, 5]
    mos = [1.0, 1.8, 2.5, 2.2, 3.2, 2.8, 5.0, 4.3]
    std = [0.6, 0.5, 0.4, 0.4, 0.9, 0.9, 0.7, 0.8]
    ids = ["a", "b", "c", "d", "f", "e", "g", "h"]
    chosen = choose_anchors(mos, std, ids)
    # 1.8 is in the first and its std is less; 2.2 is its interval's middle; 3.2 and 2.8 tie but for their ids
    assert chosen.pictures == (1, 3, 5, 6) and chosen.intervals == 5
    assert chosen.empty == ((pytest.approx(3.4), pytest.approx(4.2)),)
    assert chosen.in_words() == "4 anchors in 5 intervals: no picture has a MOS in (3.4, 4.2]"


def test_the_edge_of_an_interval_is_forgiven_its_rounding():
    assert 2.1 / (3.5 / 5) > 3  # in binary; 2.1 ends the third interval
    assert choose_anchors([0.0, 2.1, 3.5], None, ["a", "b", "c"]).pictures == (0, 1, 2)
    assert choose_anchors([0.0, 2.1, 3.5], None, ["a", "b", "c"]).empty[1] == (pytest.approx(2.1), pytest.approx(2.8))


def test_anchors_without_stds_are_nearest_to_the_middle():
    mos, ids = [0.0, 3.0, 5.2, 9.0, 10.0], list("abcde")
    assert choose_anchors(mos, None, ids, 2).pictures == (1, 3)  # the middles are 2.5 and 7.5
    assert choose_anchors(mos, None, ids, 2).in_words() == "2 anchors, one in each interval of the MOS"
    # A std that is missing is taken only where the interval has no other.
    assert choose_anchors(mos, [9.0, math.nan, math.nan, math.nan, math.nan], ids, 2).pictures == (0, 3)


@given(st.lists(st.integers(0, 40), min_size=2, max_size=12), st.integers(1, 6), st.integers(0, 10**6))
def test_anchors_are_chosen_whatever_the_order_and_the_scale(levels, intervals, seed):
    if len(set(levels)) == 1:
        levels = [*levels, levels[0] + 1]
    mos, ids = np.asarray(levels) / 8, [f"p{i:02d}" for i in range(len(levels))]
    rng = np.random.default_rng(seed)
    std = rng.integers(0, 3, len(mos)) / 4
    chosen = choose_anchors(mos, std, ids, intervals)
    assert len(chosen.pictures) + len(chosen.empty) == intervals
    order = rng.permutation(len(mos))
    again = choose_anchors(mos[order], std[order], [ids[i] for i in order], intervals)
    assert [order[i] for i in again.pictures] == list(chosen.pictures)
    assert choose_anchors(3.7 + 0.3 * mos, 0.3 * std, ids, intervals).pictures == chosen.pictures
    low, width = mos.min(), np.ptp(mos) / intervals
    for i in chosen.pictures:  # none of its interval has a smaller std
        k = max(1, math.ceil((mos[i] - low) / width - 1e-9))
        inside = [j for j in range(len(mos)) if max(1, math.ceil((mos[j] - low) / width - 1e-9)) == k]
        assert std[i] == min(std[j] for j in inside)


@pytest.mark.parametrize(
    ("mos", "std", "ids", "said"),
    [
        ([2.0, 2.0], None, ["a", "b"], "2 pictures whose MOS do not differ"),
        ([], None, [], "0 pictures"),
        ([1.0, math.nan], None, ["a", "b"], "not finite"),
        ([1.0, 2.0], [0.1, -0.1], ["a", "b"], "negative or infinite"),
        ([1.0, 2.0], None, ["a", "a"], "a appears more than once"),
        ([1.0, 2.0], [0.1], ["a", "b"], "one of each"),
    ],
)
def test_pictures_that_give_no_anchors_are_refused(mos, std, ids, said):
    with pytest.raises(ValueError, match=said):
        choose_anchors(mos, std, ids)
    with pytest.raises(ValueError, match="0 intervals"):
        choose_anchors([1.0, 2.0], None, ["a", "b"], 0)


def test_an_anchor_that_is_to_be_scored_is_refused():
    check_no_anchor(["a", "b"], ["c"])
    with pytest.raises(UserError, match="b is to be scored and is an anchor: take"):
        check_no_anchor(["a", "b"], ["b", "c"])
    with pytest.raises(UserError, match="a is to be scored and is an anchor, and so are 1 more"):
        check_no_anchor(iter(["b", "a"]), ["a", "b"])


def test_the_line_is_the_least_squares_line():
    scores_, mos = [-1.2, 0.1, 0.4, 2.0], [20.0, 50.0, 45.0, 90.0]
    line = mos_line(scores_, mos)
    slope, intercept = np.polyfit(scores_, mos, 1)
    assert (line.slope, line.intercept) == (pytest.approx(slope, abs=1e-9), pytest.approx(intercept, abs=1e-9))
    assert line([0.0, 1.0]).tolist() == pytest.approx([intercept, intercept + slope], abs=1e-9) and line.rises
    assert mos_line([0.0, 1.0], [3.0, 1.0]) == MosLine(-2.0, 3.0) and not MosLine(-2.0, 3.0).rises


def test_a_line_through_anchors_that_are_alike_is_refused():
    for scores_, mos in (([0.0, 0.0], [1.0, 2.0]), ([1.0], [2.0]), ([], [])):
        with pytest.raises(UserError, match="no line"):
            mos_line(scores_, mos)
    with pytest.raises(ValueError, match="one finite number"):
        mos_line([0.0, 1.0], [1.0, math.nan])
