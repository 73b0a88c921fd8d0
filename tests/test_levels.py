"""Levels: bins, scores of words, words in tokens, soft labels and distances, against the equations by another road."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import softmax
from scipy.stats import norm
from transformers import AutoTokenizer

from vqr1.errors import UserError
from vqr1.levels import (
    LEVELS,
    gaussian_js,
    gaussian_kl,
    gaussian_w2,
    level_of,
    level_score,
    on_level_scale,
    soft_label,
    word_log_probabilities,
    word_tokens,
)
from vqr1.policy.load import SHIPPED

NAN, INF = math.nan, math.inf
moss = st.floats(1, 5)
stds = st.floats(0, 3)
logits_ = st.lists(st.floats(-30, 30), min_size=5, max_size=5)


# Levels of opinion scores


def test_edges_belong_to_the_bin_below_and_low_to_the_first():
    mos = [0, 1e-6, 20, 20.0001, 40, 40.0001, 60, 60.0001, 80, 80.0001, 100]
    assert level_of(mos, 0, 100).tolist() == [1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (1, 5), (0, 9), (0, 100), (-1, 1), (3.42, 92.43), (1e-3, 1e-2)])
def test_an_edge_off_by_a_rounding_is_the_edge(low, high):
    edges = [low + (high - low) * i / 5 for i in range(1, 6)]
    edges = [min(edge, high) for edge in edges]
    for rounded in (edges, np.nextafter(edges, INF).clip(max=high), np.nextafter(edges, -INF)):
        assert level_of(rounded, low, high).tolist() == [1, 2, 3, 4, 5]
    step = (high - low) / 5
    assert level_of([edge + 0.5e-9 * step for edge in edges[:4]], low, high).tolist() == [1, 2, 3, 4]
    assert level_of([edge + 2e-9 * step for edge in edges[:4]], low, high).tolist() == [2, 3, 4, 5]


def test_three_fifths_in_floating_point():
    assert 3 * 0.2 > 0.6 and math.ceil(5 * (3 * 0.2)) == 4
    assert level_of(3 * 0.2, 0, 1) == 3


@given(st.floats(0, 1), st.floats(-50, 50), st.floats(0.1, 100))
def test_levels_do_not_depend_on_the_unit(place, low, width):
    high = low + width
    mos = min(max(low + place * (high - low), low), high)
    exact = 5 * place
    if abs(exact - round(exact)) > 1e-6:
        assert level_of(mos, low, high) == math.floor(exact) + 1


def test_levels_of_several_datasets_at_once():
    assert level_of([[50, 3], [99, 1]], [0, 1], [100, 5]).tolist() == [[3, 3], [5, 1]]
    assert level_of([], 0, 1).shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((101, 0, 100), "MOS 101.0 is not on its scale, 0.0 to 100.0"),
        (([3, -1e-12], 0, 5), "MOS -1e-12 is not"),
        ((np.nextafter(5, 6), 1, 5), "is not on its scale, 1.0 to 5.0"),
        ((NAN, 0, 100), "MOS nan"),
        ((INF, 0, 100), "MOS inf"),
        ((1, 1, 1), "low 1.0 and high 1.0 are not the ends of a scale"),
        ((3, 5, 1), "low 5.0 and high 1.0"),
        ((3, NAN, 5), "low nan"),
        ((3, 0, INF), "high inf"),
        ((3, -1.5e308, 1.5e308), "low -1.5e"),
    ],
)
def test_a_mos_without_a_level_is_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        level_of(*arguments)
    with pytest.raises(UserError, match=words):
        on_level_scale(arguments[0], 0.1, *arguments[1:])


def test_mos_and_std_on_the_scale_of_the_words():
    mos, std = on_level_scale([0, 25, 100], [0, 10, 5], 0, 100)
    assert mos.tolist() == [1, 2, 5] and std == pytest.approx([0, 0.4, 0.2], abs=1e-15)
    for bad in (-0.1, NAN, INF):
        with pytest.raises(UserError, match=f"std {bad} is no standard deviation"):
            on_level_scale(3, bad, 1, 5)


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), st.floats(0, 1))
def test_the_scale_is_never_left_by_rounding(low, width, place):
    high = low + width
    mos = min(low + place * (high - low), high)
    assert 1 <= on_level_scale(mos, 0, low, high)[0] <= 5


# Scores of levels


def test_score_and_std_by_hand():
    said = level_score(np.log([0.1, 0.2, 0.4, 0.2, 0.1]))
    assert said.probabilities == pytest.approx([0.1, 0.2, 0.4, 0.2, 0.1])
    assert (said.score, said.score01, said.std) == pytest.approx((3, 0.5, math.sqrt(0.1 * 8 + 0.2 * 2)))
    said = level_score(np.log([0.0001, 0.0999, 0.2, 0.3, 0.4]))
    assert said.score == pytest.approx(0.0001 + 2 * 0.0999 + 0.6 + 1.2 + 2, abs=1e-12)


@pytest.mark.parametrize("level", range(5))
@pytest.mark.parametrize("height", [800.0, 1e6, 1e300, INF])
def test_a_certain_word_is_its_weight(level, height):
    logits = np.full(5, -height)
    logits[level] = 0
    said = level_score(logits)
    assert (said.score, said.std, said.score01) == (level + 1, 0, level / 4)


def test_equal_logits_are_the_middle():
    assert level_score(np.full((2, 3, 5), 7.7)).score == pytest.approx(np.full((2, 3), 3))
    assert level_score(np.zeros(5)).std == pytest.approx(math.sqrt(2))


@given(logits_, st.floats(-1e4, 1e4))
def test_symmetries_of_scores(logits, shift):
    said, shifted, reversed_ = (level_score(x) for x in (logits, np.add(logits, shift), logits[::-1]))
    for name in ("score", "std", "score01"):
        assert getattr(shifted, name) == pytest.approx(getattr(said, name), abs=1e-9)
    assert reversed_.score == pytest.approx(6 - said.score, abs=1e-9)
    assert reversed_.score01 == pytest.approx(1 - said.score01, abs=1e-9)
    assert reversed_.std == pytest.approx(said.std, abs=1e-9)
    expected = softmax(logits)
    assert said.probabilities == pytest.approx(expected, abs=1e-12)
    assert said.std**2 == pytest.approx(expected @ np.arange(1, 6) ** 2 - said.score**2, abs=1e-9)


@pytest.mark.parametrize(
    ("logits", "words"),
    [
        (np.zeros((5, 4)), "shape (5, 4): the last axis runs over the 5 words"),
        (3.0, "shape ()"),
        ([0, 0, NAN, 0, 0], "a logit is NaN or infinite"),
        ([0, 0, INF, 0, 0], "a logit is NaN or infinite"),
        ([[0] * 5, [-INF] * 5], "none of the words can come"),
    ],
)
def test_logits_without_a_score_are_refused(logits, words):
    with pytest.raises(ValueError) as caught:
        level_score(logits)
    assert words in str(caught.value)


# Words of several tokens


def test_words_of_several_tokens_by_hand():
    tokens = [[0.5, 0.1], [0.5, 0.2, 0.5], [0.3], [0.1, 0.9], [1.0, 1.0, 0.06]]
    logged = word_log_probabilities([np.log(word) for word in tokens])
    assert np.exp(logged) == pytest.approx([0.05, 0.05, 0.3, 0.09, 0.06])
    assert level_score(logged).score == pytest.approx((0.05 + 0.1 + 0.9 + 0.36 + 0.3) / 0.55)
    first = level_score(np.log([word[0] for word in tokens]))
    assert abs(first.score - level_score(logged).score) > 0.1  # of first tokens alone: wrong


def test_words_of_a_batch():
    words = [np.log(np.full((2, 3, length), 0.5)) for length in (1, 2, 3)]
    assert np.exp(word_log_probabilities(words)).tolist() == [[pytest.approx([0.5, 0.25, 0.125])] * 3] * 2
    assert word_log_probabilities([[-INF, -1.0], [-1.0]]).tolist() == [-INF, -1.0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "one or more for each"),
        ([[-1.0], []], "one or more for each"),
        ([-1.0], "one or more for each"),
        ([np.zeros((2, 1)), np.zeros((3, 1))], "all axes but the last must agree"),
        ([[-1.0], [NAN]], "NaN or above 0"),
        ([[-1.0], [2.0]], "NaN or above 0: give log-probabilities, not logits"),
    ],
)
def test_what_are_no_log_probabilities_is_refused(words, message):
    with pytest.raises(ValueError, match=message):
        word_log_probabilities(words)


@pytest.fixture(scope="module")
def tiny():
    return AutoTokenizer.from_pretrained(SHIPPED)


def test_the_tiny_vocabulary_needs_more_than_first_tokens(tiny):
    tokens = word_tokens(tiny)
    assert [tiny.decode(word) for word in tokens] == [" " + word for word in LEVELS]
    assert min(map(len, tokens)) > 1 and len({word[0] for word in tokens}) < 5


@pytest.mark.parametrize("blank", [True, False])
def test_words_are_cut_as_after_the_prompt(tiny, blank):
    before = "The quality of the image is" if blank else "The quality of the image:\n"
    prompt = tiny.encode(before, add_special_tokens=False)
    for word, tokens in zip(LEVELS, word_tokens(tiny, blank=blank), strict=True):
        assert tiny.encode(before + " " * blank + word, add_special_tokens=False) == prompt + tokens


class Pieces:
    """A vocabulary of given pieces, the longest first; what none of them covers is unknown."""

    def __init__(self, *pieces):
        self.pieces = [*pieces, "?"]

    def encode(self, text, *, add_special_tokens):
        assert not add_special_tokens
        ids = []
        while text:
            piece = max((p for p in self.pieces if text.startswith(p)), key=len, default="")
            ids.append(self.pieces.index(piece or "?"))
            text = text[len(piece) or 1 :]
        return ids

    def decode(self, token_ids):
        return "".join(self.pieces[i] for i in token_ids)


def test_a_word_that_begins_another_is_ended_by_what_follows():
    pieces = Pieces("good", "ish", "bad", ".")
    assert word_tokens(pieces, ["good", "goodish", "bad"], blank=False, end=".") == [[0, 3], [0, 1], [2]]
    # the text that follows may be of several tokens, and both words may be ended
    assert word_tokens(pieces, ["good", "goodish", "goodishbad"], blank=False, end="..") == [
        *([0, 3, 3], [0, 1, 3, 3], [0, 1, 2]),
    ]


@pytest.mark.parametrize("end", ["", "ish", "er"])  # nothing follows, the other word does, and it joins with the word
def test_a_word_that_begins_another_and_is_not_ended_is_refused(end):
    with pytest.raises(UserError, match=r"the tokens of 'good', .* begin those of 'goodish'"):
        word_tokens(Pieces("good", "gooder", "ish"), ["good", "goodish"], blank=False, end=end)


@pytest.mark.parametrize("word", ["fine", "", "good!"])
def test_a_word_that_the_tokenizer_does_not_know_is_refused(word):
    with pytest.raises(UserError, match=rf"the tokenizer does not know the word '{word}'"):
        word_tokens(Pieces("good", "bad"), ["good", word], blank=False)


def test_words_of_the_same_tokens_are_refused(tiny):
    for end in ("", "."):
        with pytest.raises(UserError, match=r"'good' and 'good' have the same tokens, \[228, 78, 479, 75\]"):
            word_tokens(tiny, ["bad", "good", "good"], end=end)


# Soft labels


def discrete_normal(t, s):
    return softmax(-((np.arange(1, 6) - t) ** 2) / (2 * s**2))


@pytest.mark.parametrize("s", [0.3, 0.5, 0.8, 1.0, 2.0])
@pytest.mark.parametrize("mos", [1.2, 2.0, 2.5, 3.0, 3.7, 4.9])
def test_soft_labels_are_the_equation_with_t_found_by_another_solver(mos, s):
    t = brentq(lambda t: discrete_normal(t, s) @ np.arange(1, 6) - mos, -60, 66, xtol=1e-14)
    assert soft_label(mos, s) == pytest.approx(discrete_normal(t, s), abs=1e-9)


@given(moss, stds)
def test_soft_labels_are_distributions_of_the_mean(mos, std):
    p = soft_label(mos, std)
    assert p.sum() == pytest.approx(1, abs=1e-12) and (p >= 0).all()
    assert p @ np.arange(1, 6) == pytest.approx(mos, abs=1e-9)
    assert soft_label(6 - mos, std) == pytest.approx(p[::-1], abs=1e-9)


@given(moss, st.sampled_from([0, 1e-300, 1e-12, 0.01, 0.05]))
def test_without_spread_it_is_the_two_levels_around_the_mos(mos, std):
    expected = np.interp(mos, np.arange(1, 6), np.arange(5))
    weights = np.clip(1 - np.abs(np.arange(5) - expected), 0, 1)
    assert soft_label(mos, std) == pytest.approx(weights, abs=1e-9)


@given(stds)
def test_at_the_ends_all_is_on_one_level(std):
    assert soft_label([1, 5], std).tolist() == [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1]]


@given(moss, stds, st.floats(-1e-7, 1e-7), st.floats(0, 1e-7))
def test_soft_labels_are_continuous(mos, std, step, wider):
    near = soft_label(min(max(mos + step, 1), 5), std + wider)
    assert near == pytest.approx(soft_label(mos, std), abs=1e-6)


def test_no_thresholds_along_the_scale():
    """Where the published rule has one: at MOS 3, at whole levels and near the ends."""
    for std in (0, 0.1, 0.4, 1.3):
        mos = np.unique(np.concatenate([np.arange(1, 6) + step for step in (-1e-6, -1e-10, 0, 1e-10, 1e-6)]))
        mos = mos[(mos >= 1) & (mos <= 5)]
        jump = np.abs(np.diff(soft_label(mos, std), axis=0)).max(1)
        assert (jump <= 2 * np.diff(mos) + 1e-12).all()
    assert soft_label(3, 0.5)[2] > 0.7  # and not a fifth each


def test_a_wide_spread_is_uniform_in_the_middle():
    assert soft_label(3, 1e6) == pytest.approx(np.full(5, 0.2), abs=1e-9)
    assert soft_label(3, 1e200) == pytest.approx(np.full(5, 0.2), abs=1e-9)


def test_soft_labels_broadcast():
    assert soft_label(np.full((2, 3), 2.2), [0.1, 0.2, 0.3]).shape == (2, 3, 5)
    assert soft_label([], []).shape == (0, 5)
    several = soft_label([1.5, 3.3], [0.2, 0.9])
    assert several[1] == pytest.approx(soft_label(3.3, 0.9), abs=0)


@pytest.mark.parametrize(
    ("mos", "std", "words"),
    [
        (0.99, 1, "MOS 0.99 is not on the scale of the levels"),
        ([3, 5.001], 1, "MOS 5.001"),
        (NAN, 1, "MOS nan"),
        (3, -0.1, "std -0.1 is no standard deviation"),
        (3, [0.1, NAN], "std nan"),
        (3, INF, "std inf"),
    ],
)
def test_what_has_no_soft_label_is_refused(mos, std, words):
    with pytest.raises(UserError, match=words):
        soft_label(mos, std)


# Distances between normal distributions


def test_distances_by_hand():
    # log(1 / 0.5) + (0.25 + 0.16) / 2 - 0.5
    assert gaussian_kl(3.0, 0.5, 3.4, 1.0) == pytest.approx(math.log(2) + 0.205 - 0.5, abs=1e-12)
    assert gaussian_w2(3.0, 0.5, 3.3, 0.9) == pytest.approx(0.5, abs=1e-12)
    # M = N(3.2, sqrt(0.625))
    by_hand = (math.log(0.625 / 0.25) + (0.25 + 0.04) / 0.625 + math.log(0.625) + 1.04 / 0.625 - 2) / 4
    assert gaussian_js(3.0, 0.5, 3.4, 1.0) == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize("numbers", [(3.0, 0.5, 3.4, 1.0), (2.1, 1.2, 2.0, 0.3), (1.0, 0.7, 4.5, 0.9)])
def test_kl_is_the_integral(numbers):
    m1, s1, m2, s2 = numbers
    one, two = norm(m1, s1), norm(m2, s2)
    expected, _ = quad(lambda x: one.pdf(x) * (one.logpdf(x) - two.logpdf(x)), m1 - 12 * s1, m1 + 12 * s1, epsabs=1e-12)
    assert gaussian_kl(*numbers) == pytest.approx(expected, abs=1e-9)


def test_w2_is_the_distance_of_quantiles():
    one, two = norm(2.1, 1.2), norm(3.0, 0.3)
    square, _ = quad(lambda u: (one.ppf(u) - two.ppf(u)) ** 2, 0, 1, epsabs=1e-10)
    assert gaussian_w2(2.1, 1.2, 3.0, 0.3) == pytest.approx(math.sqrt(square), abs=1e-6)


@given(moss, st.floats(0.01, 3), moss, st.floats(0.01, 3))
def test_symmetries_of_distances(m1, s1, m2, s2):
    for distance in (gaussian_w2, gaussian_js):
        assert distance(m1, s1, m2, s2) == pytest.approx(distance(m2, s2, m1, s1), abs=1e-9, rel=1e-9)
    for distance in (gaussian_kl, gaussian_w2, gaussian_js):
        assert distance(m1, s1, m1, s1) == 0
        assert distance(m1, s1, m2, s2) >= 0
        assert distance(6 - m1, s1, 6 - m2, s2) == pytest.approx(distance(m1, s1, m2, s2), abs=1e-9, rel=1e-9)


def test_nearly_equal_spreads_lose_nothing():
    # KL of equal means is e^2 to leading order, e = log(s2 / s1)
    assert gaussian_kl(3, 1, 3, 1 + 1e-7) == pytest.approx(1e-14, rel=1e-6)


def test_distances_without_spread():
    assert gaussian_w2(3, 0, 4, 0) == 1
    for distance in (gaussian_kl, gaussian_js):
        assert distance([3, 3, 3, 3], [0, 0, 0.5, 0], [3, 4, 3, 3], [0, 0, 0, 0.5]).tolist() == [0, INF, INF, INF]


@pytest.mark.parametrize("distance", [gaussian_kl, gaussian_w2, gaussian_js])
def test_distances_of_what_is_no_distribution_are_refused(distance):
    with pytest.raises(ValueError, match="negative"):
        distance(3, 0.1, 3, -0.1)
    for bad in (NAN, INF):
        with pytest.raises(ValueError, match="finite"):
            distance(3, 0.1, bad, 0.1)
