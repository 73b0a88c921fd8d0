"""The moments of a picture's answers, when drawing stops, and Thurstone's probability."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqr1.errors import UserError
from vqr1.rating_statistics import Moments, StoppingRule, moments, probability_better

NAN = math.nan
scores_ = st.floats(1, 5)
stds_ = st.floats(0, 3)


def test_moments_of_drawn_answers_by_hand():
    known = moments([2.0, 4.0, None, 4.0, 6.0])
    # mean 16 / 4, variance (4 + 0 + 0 + 4) / 3
    assert known == Moments(4.0, 0.0, pytest.approx(math.sqrt(8 / 3)), 4, 4.0)
    assert known.std == pytest.approx(1.632993161855452)
    assert known.standard_error == pytest.approx(0.816496580927726)


def test_moments_of_exact_distributions_by_hand():
    known = moments([2.0, 4.0], [0.5, 1.5])
    # within^2 (0.25 + 2.25) / 2, between^2 (1 + 1) / 1
    assert known == Moments(3.0, pytest.approx(math.sqrt(1.25)), pytest.approx(math.sqrt(2)), 2, 2.0)
    assert known.std == pytest.approx(math.sqrt(3.25))
    assert known.standard_error == pytest.approx(1.0)  # what the scores vary by after a reasoning is known exactly


def test_weighted_moments_by_hand():
    known = moments([2.0, 5.0, None], [0.0, 1.0, None], [1.0, 0.5, 0.0])
    # W = 1.5, mean 4.5 / 1.5; within^2 0.5 / 1.5; between^2 (1 + 0.5 * 4) / (1.5 - 1.25 / 1.5)
    assert known.mean == pytest.approx(3)
    assert known.within == pytest.approx(math.sqrt(1 / 3))
    assert known.between == pytest.approx(math.sqrt(3 / (2 / 3)))
    assert (known.answers, known.worth) == (2, pytest.approx(1.8))  # 2.25 / 1.25
    assert known.standard_error == pytest.approx(math.sqrt(4.5 * 1.25 / 2.25))


@given(st.lists(st.tuples(scores_, stds_), min_size=1, max_size=6), st.floats(1e-300, 1))
def test_equal_weights_are_no_weights(answers, weight):
    scores, stds = zip(*answers, strict=True)
    plain, weighted = moments(scores, stds), moments(scores, stds, [weight] * len(scores))
    for name in ("mean", "within", "between", "worth", "std", "standard_error"):
        assert getattr(weighted, name) == pytest.approx(getattr(plain, name), abs=1e-9, nan_ok=True)


def test_both_kinds_of_answer_estimate_the_same_mean_and_variance():
    """Over a two-level population whose variance is known: reasonings 0.3^2, scores after one 0.4^2."""
    rng = np.random.default_rng(0)
    means = 3 + 0.3 * rng.normal(size=(2000, 5))
    drawn = means + 0.4 * rng.normal(size=means.shape)
    expected = [moments(row, [0.4] * 5) for row in means]
    sampled = [moments(row) for row in drawn]
    for known in (expected, sampled):
        assert np.mean([each.mean for each in known]) == pytest.approx(3, abs=0.02)
        assert np.mean([each.std**2 for each in known]) == pytest.approx(0.25, rel=0.03)
    # and the standard error is what means differ by: sqrt(0.09 / 5), sqrt(0.25 / 5)
    for known, variance in ((expected, 0.018), (sampled, 0.05)):
        assert np.mean([each.standard_error**2 for each in known]) == pytest.approx(variance, rel=0.05)
        assert np.var([each.mean for each in known]) == pytest.approx(variance, rel=0.12)


@pytest.mark.parametrize("scores", [[], [None], [None, NAN, math.inf, -math.inf]])
def test_nothing_readable_has_no_moments(scores):
    known = moments(scores)
    assert known.answers == 0
    values = (known.mean, known.within, known.between, known.std, known.standard_error)
    assert all(math.isnan(value) for value in values)


def test_one_answer_has_a_mean_and_after_its_reasoning_a_spread():
    assert (moments([3.0]).mean, moments([3.0]).answers) == (3.0, 1)
    one = moments([3.0, None], [0.5, None])
    assert (one.mean, one.within, one.answers) == (3.0, 0.5, 1)
    assert all(math.isnan(value) for value in (one.between, one.std, one.standard_error))


@pytest.mark.parametrize("score", [3.1, 2.73, 1 / 3])
@pytest.mark.parametrize("k", [2, 6, 7, 48])
def test_equal_answers_have_exactly_no_spread(score, k):
    known = moments([score] * k)
    assert (known.mean, known.std, known.standard_error) == (score, 0, 0)


@given(st.lists(st.tuples(scores_, stds_), min_size=2, max_size=8), st.randoms())
def test_order_does_not_matter_nor_does_what_cannot_be_read(answers, random):
    shuffled = [*answers, (None, None), (NAN, 0.1), (math.inf, -1.0)]
    random.shuffle(shuffled)
    assert moments(*zip(*shuffled, strict=True)) == moments(*zip(*answers, strict=True))


@pytest.mark.parametrize("weight", [1e-20, 1e-300, 5e-324])
def test_an_answer_of_next_to_no_weight_moves_no_mean(weight):
    known = moments([3.0, 5.0], [0.1, 0.1], [1.0, weight])
    assert (known.mean, known.answers, known.worth) == (3, 2, 1)
    # between^2 tends to w (m_2 - m_1)^2 / (2 w): what one pair says, whatever its weight
    assert known.between == pytest.approx(math.sqrt(2))


def test_an_answer_of_no_weight_is_none():
    assert moments([3.0, 4.0, 5.0], [0.1, 0.2, 0.3], [0.5, 0.0, 0.5]) == moments([3.0, 5.0], [0.1, 0.3], [0.5, 0.5])
    assert moments([3.0], [0.1], [0.0]).answers == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([3.0], [0.1, 0.2]), "2 stds and 1 weights for 1 scores: one each"),
        (([3.0], [0.1], []), "1 stds and 0 weights for 1 scores"),
        (([3.0], [-0.1]), "std -0.1 and weight 1.0 beside the score 3.0"),
        (([3.0], [None]), "std None and weight 1.0 beside the score 3.0"),
        (([3.0], [NAN]), "std nan and weight 1.0"),
        (([3.0], [math.inf]), "std inf and weight 1.0"),
        (([3.0], [0.1], [-0.5]), "std 0.1 and weight -0.5"),
        (([3.0], [0.1], [NAN]), "std 0.1 and weight nan"),
        (([3.0], [0.1], [1.5]), "std 0.1 and weight 1.5"),
    ],
)
def test_wrong_stds_and_weights_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        moments(*arguments)


# When drawing stops


def test_the_rule_by_hand():
    rule = StoppingRule(0.5)
    assert rule.wanted([]) == 6
    assert rule.wanted([3.0] * 4) == 6
    assert rule.wanted([3.0] * 6) == 6  # no spread
    spread = [2.0, 4.0] * 3  # variance 6 / 5, standard error sqrt(0.2) = 0.447
    assert rule.wanted(spread) == 6
    # (6 / 5) / 0.4^2 = 7.5
    assert StoppingRule(0.4).wanted(spread) == 8
    assert StoppingRule(0.4).wanted([*spread, 2.0, 4.0]) == 8  # sqrt(8 / 7 / 8) = 0.378
    # (6 / 5) / 0.1^2 = 120, but no more than twice as many at a time
    assert StoppingRule(0.1).wanted(spread) == 12
    assert StoppingRule(0.1).wanted(spread * 4) == 48
    assert StoppingRule(0.1).wanted(spread * 8) == 48
    assert StoppingRule(1e-300).wanted(spread) == 12
    assert StoppingRule(0.1, most=10).wanted(spread) == 10
    assert StoppingRule(0.1, least=2, most=2).wanted([]) == 2


def test_the_target_itself_is_enough():
    scores = [1.0, 3.0]  # standard deviation sqrt(2), standard error 1
    assert moments(scores).standard_error == pytest.approx(1)
    assert StoppingRule(1 + 1e-9, least=2).wanted(scores) == 2
    assert StoppingRule(1 - 1e-9, least=2).wanted(scores) == 3


def test_answers_that_cannot_be_read_are_no_answers_but_are_drawn():
    rule = StoppingRule(0.5)
    assert rule.wanted([3.0] * 5 + [None]) == 7  # the sixth is missing
    assert rule.wanted([3.0] * 6 + [None]) == 7
    assert rule.wanted([None] * 6) == 12
    assert rule.used([None] * 48) == 48  # and then it ends
    assert rule.used([None] * 47 + [3.0]) == 48
    # two equal answers among many unreadable ones are no certainty
    assert rule.wanted([3.0, 3.0] + [None] * 4) == 10


def test_answers_that_are_hardly_readable_count_for_less():
    scores = [2.0, 4.0] * 3
    assert StoppingRule(0.4).wanted(scores, [0.5] * 6) == 8  # as without weights
    # one answer has nearly all the weight, so that its error is that of one
    assert StoppingRule(0.4).wanted(scores, [1e-3, 1.0, 1e-3, 1e-3, 1e-3, 1e-3]) > 6


@given(st.lists(st.one_of(st.none(), scores_), min_size=48, max_size=48), st.floats(0.001, 2))
def test_what_a_picture_gets_is_decided_by_its_answers_alone_and_ends(scores, target):
    rule = StoppingRule(target)
    counts = [0]
    while (wanted := rule.wanted(scores[: counts[-1]])) != counts[-1]:
        assert counts[-1] < wanted <= 48
        counts.append(wanted)
    assert rule.used(scores) == counts[-1]
    known = moments(scores[: counts[-1]])
    assert counts[-1] == 48 or (known.answers >= 6 and known.standard_error <= target)


@given(st.lists(scores_, min_size=48, max_size=48))
def test_with_one_look_a_lower_target_takes_no_fewer_answers(scores):
    wanted = [StoppingRule(target).wanted(scores[:6]) for target in (0.4, 0.2, 0.1, 0.05)]
    assert wanted == sorted(wanted)


@pytest.mark.parametrize("std", [0.05, 0.2, 0.3, 0.4])
def test_the_rule_draws_what_the_spread_needs_and_nearly_reaches_its_target(std):
    """Normal answers need std^2 / target^2, here up to 25. Early stops are those of an accidentally small spread."""
    answers = 3 + std * np.random.default_rng(0).normal(size=(500, 48))
    rule = StoppingRule(0.08)
    used = np.array([rule.used(row) for row in answers.tolist()])
    needed = max((std / 0.08) ** 2, 6)
    assert used.mean() == pytest.approx(needed, rel=0.3 if std == 0.2 else 0.06)  # at 6.25 some need a second look
    errors = [row[:n].mean() - 3 for row, n in zip(answers, used, strict=True)]
    assert np.sqrt(np.mean(np.square(errors))) < 1.2 * 0.08


def test_too_few_answers_to_see_what_is_saved_are_refused():
    with pytest.raises(ValueError, match="6 answers, and the rule wants 12: draw 48 to see"):
        StoppingRule(0.01).used([1.0, 5.0] * 3)
    assert StoppingRule(0.01).used([3.0] * 6) == 6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": 0}, "until=0: the standard error at which drawing stops is a positive number"),
        ({"target": -1}, "until=-1: "),
        ({"target": NAN}, "until=nan: "),
        ({"target": math.inf}, "until=inf: "),
        ({"target": 0.1, "least": 1}, "1 answers at least: a standard error needs 2"),
        ({"target": 0.1, "most": 5}, "max_k=5 is below the 6 answers that are drawn at least"),
    ],
)
def test_rules_that_cannot_be_followed_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        StoppingRule(**options)


# Which of two looks better


@pytest.mark.parametrize(
    ("a", "b", "probability"),
    [
        ((3, 0.3), (3, 0.4), 0.5),
        ((3.5, 0.3), (3, 0.4), 0.8413447460685429),  # Phi(1)
        ((3, 0.4), (3.5, 0.3), 0.15865525393145707),  # Phi(-1)
        ((4, 0.6), (2.04, 0.8), 0.9750021048517795),  # Phi(1.96)
        ((1, 0.6), (5, 0), 1.308392e-11),  # Phi(-20 / 3), by erfc
    ],
)
def test_thurstone_by_hand(a, b, probability):
    assert probability_better(*a, *b, gamma=0) == pytest.approx(probability, rel=1e-6)
    assert probability_better(*a, *b) == pytest.approx(probability, rel=2e-3)


def test_small_probabilities_are_kept():
    assert probability_better(1, 0.1, 5, 0.1, gamma=0) == pytest.approx(math.erfc(20) / 2, rel=1e-9)


@given(scores_, stds_, scores_, stds_)
def test_one_of_two_looks_better(mean_a, std_a, mean_b, std_b):
    first = probability_better(mean_a, std_a, mean_b, std_b)
    second = probability_better(mean_b, std_b, mean_a, std_a)
    assert first + second == pytest.approx(1, abs=1e-15)
    assert (first > 0.5) <= (mean_a > mean_b)
    assert probability_better(mean_a, std_a, mean_a, std_b) == 0.5


def test_it_rises_with_the_gap_and_falls_to_a_half_with_the_spread():
    gaps = probability_better(np.linspace(1, 5, 50), 0.5, 3, 0.5)
    assert (np.diff(gaps) > 0).all()
    spreads = probability_better(3.5, np.linspace(0, 100, 50), 3, 0)
    assert (np.diff(spreads[1:]) < 0).all()
    assert spreads[-1] == pytest.approx(0.5, abs=0.01)


@pytest.mark.filterwarnings("error")
def test_without_spread_it_is_a_step():
    assert probability_better([2.0, 2.0, 2.0], 0, [1.99, 2.0, 2.01], 0, gamma=0).tolist() == [1, 0.5, 0]
    # and gamma decides what gap is certain: Phi(1)
    assert probability_better(2.001, 0, 2.0, 0) == pytest.approx(0.8413447, abs=1e-6)


def test_shapes_broadcast_and_what_is_unknown_stays_unknown():
    means, stds = np.array([1.0, 2.0, NAN]), np.array([0.5, NAN, 0.5])
    table = probability_better(means[:, None], stds[:, None], means, stds)
    assert table.shape == (3, 3)
    assert table[0, 0] == 0.5
    assert np.isnan(table).sum() == 8
    nothing = moments([None])
    assert np.isnan(probability_better(nothing.mean, nothing.std, 3, 1))


def test_it_is_the_equation_that_the_reward_ranks_by():
    """The middle of three symmetrical answers is their mean: with one rival below it, its reward is the root of P."""
    import torch

    from vqr1.ranking import fidelity_reward

    scores_BK = [[2.7, 3.0, 3.3], [2.2, 2.6, 3.0]]
    reward_BK = fidelity_reward(torch.tensor(scores_BK, dtype=torch.float64), torch.tensor([2.0, 1.0]))
    a, b = map(moments, scores_BK)
    assert probability_better(a.mean, a.std, b.mean, b.std) == pytest.approx(reward_BK[0, 1].item() ** 2, rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((3, -0.1, 3, 0.1), "a standard deviation is negative"),
        ((3, 0.1, 3, [0.1, -0.1]), "a standard deviation is negative"),
    ],
)
def test_negative_spreads_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        probability_better(*arguments)


@pytest.mark.parametrize("gamma", [-1e-6, math.inf, NAN])
def test_gamma_is_zero_or_positive(gamma):
    with pytest.raises(ValueError, match="gamma="):
        probability_better(3, 0.1, 3, 0.1, gamma=gamma)
