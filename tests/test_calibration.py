"""Standard deviations against errors, and probabilities of pairs against the order of their MOS."""

import math

import numpy as np
import pytest

from vqr1.evaluation import bootstrap, calibration
from vqr1.evaluation.bootstrap import drawn_weights, units_of
from vqr1.evaluation.calibration import pair_calibration, std_calibration
from vqr1.evaluation.correlation import pair_accuracy, srcc
from vqr1.rating_statistics import probability_better

RNG = np.random.default_rng(0)
N = 400
STD = RNG.uniform(0.1, 1, N)
MEAN = RNG.uniform(1, 5, N)
MOS = MEAN + STD * RNG.normal(size=N)  # a policy whose std is its error
EACH = [str(i) for i in range(N)]


# Is the std the error?


def test_bins_and_coverage_by_hand():
    # errors 0.1, 0.7, 1.0, 2.0 of stds 0.2, 1, 1.5, 2: in stds 0.5, 0.7, 0.67, 1
    found = std_calibration(
        [3.0, 3.0, 3.0, 3.0], [0.2, 1.0, 2.0, 1.5], [3.1, 2.3, 5.0, 4.0], "abcd", bins=2, levels=(0.5, 0.68, 0.95)
    )
    assert (found.pictures, found.without_spread) == (4, 0)
    low, high = found.bins
    assert (low.pictures, high.pictures) == (2, 2)
    assert (low.std, low.error) == pytest.approx((math.sqrt(1.04 / 2), math.sqrt(0.5 / 2)))
    assert (high.std, high.error) == pytest.approx((2.5 / math.sqrt(2), math.sqrt(5 / 2)))
    # normal quantiles 0.674, 0.994, 1.960
    assert [(each.level, each.share) for each in found.coverage] == [(0.5, 0.5), (0.68, 0.75), (0.95, 1.0)]
    assert found.error_per_std == pytest.approx(math.sqrt((0.01 + 0.49 + 4 + 1) / (0.04 + 1 + 4 + 2.25)))
    assert found.srcc == pytest.approx(1)


def test_a_std_that_is_the_error_is_found_to_be():
    found = std_calibration(MEAN, STD, MOS, EACH)
    assert found.error_per_std == pytest.approx(1, abs=0.1)
    assert found.error_per_std_interval[0] < 1 < found.error_per_std_interval[1]
    for each in found.coverage:
        assert each.share == pytest.approx(each.level, abs=0.08)
        low, high = each.share_interval
        assert low < each.share < high
        assert high - low == pytest.approx(2 * 1.96 * math.sqrt(each.share * (1 - each.share) / N), rel=0.15)
    assert [each.pictures for each in found.bins] == [80] * 5
    for each in found.bins:
        assert each.error == pytest.approx(each.std, rel=0.2)
        assert each.error_interval[0] < each.error < each.error_interval[1]
    assert found.srcc == srcc(STD, np.abs(MOS - MEAN)) > 0.4
    assert found.srcc_interval[0] < found.srcc < found.srcc_interval[1]


def test_a_std_that_is_too_small_is_found_to_be_by_its_factor():
    true, small = std_calibration(MEAN, STD, MOS, EACH), std_calibration(MEAN, STD / 3, MOS, EACH)
    assert small.error_per_std == pytest.approx(3 * true.error_per_std)
    assert small.srcc == true.srcc
    assert [each.error for each in small.bins] == [each.error for each in true.bins]
    assert all(each.error_interval[0] > each.std for each in small.bins)
    assert all(each.share_interval[1] < each.level for each in small.coverage)


def test_coverage_rises_with_the_level():
    shares = [each.share for each in std_calibration(MEAN, STD, MOS, EACH, levels=(0.01, 0.3, 0.6, 0.999)).coverage]
    assert shares == sorted(shares)


def test_the_order_of_the_pictures_does_not_matter():
    coarse = STD.round(1)  # equal stds must not be told apart by their place
    order = RNG.permutation(N)
    here = std_calibration(MEAN, coarse, MOS, EACH)
    there = std_calibration(MEAN[order], coarse[order], MOS[order], EACH)
    assert [each.pictures for each in here.bins] == [each.pictures for each in there.bins]
    assert [each.error for each in here.bins] == pytest.approx([each.error for each in there.bins])
    assert [each.share for each in here.coverage] == [each.share for each in there.coverage]


def test_equal_stds_share_a_bin():
    found = std_calibration(MEAN, np.full(N, 0.5), MOS, EACH)
    (only,) = found.bins
    assert (only.pictures, only.std) == (N, 0.5)
    assert math.isnan(found.srcc)
    assert all(math.isnan(end) for end in found.srcc_interval)


@pytest.mark.filterwarnings("error")
def test_pictures_without_spread_are_counted_and_their_interval_is_a_point():
    found = std_calibration([3.0, 3.0, 3.0], [0.0, 0.0, 1.0], [3.0, 3.5, 3.1], "abc", bins=3)
    assert found.without_spread == 2
    assert [each.share for each in found.coverage] == [pytest.approx(2 / 3)] * 5
    none = std_calibration([3.0, 3.0], [0.0, 0.0], [3.5, 2.0], "ab")
    assert none.error_per_std == math.inf
    assert all(math.isnan(end) for end in none.error_per_std_interval)
    exact = std_calibration([3.0, 3.0], [0.0, 0.0], [3.0, 3.0], "ab")
    assert math.isnan(exact.error_per_std)
    assert [each.share for each in exact.coverage] == [1] * 5


@pytest.mark.filterwarnings("error")
def test_one_picture():
    found = std_calibration([3.0], [0.5], [3.2], ["a"])
    assert found.error_per_std == pytest.approx(0.4)
    assert found.error_per_std_interval == pytest.approx((0.4, 0.4))
    assert math.isnan(found.srcc)


def test_pictures_of_one_content_are_drawn_together():
    """Four copies of every picture, each with its original in a group: nothing more is known than without them."""
    once = std_calibration(MEAN, STD, MOS, EACH)
    copies = std_calibration(np.repeat(MEAN, 4), np.repeat(STD, 4), np.repeat(MOS, 4), np.repeat(EACH, 4).tolist())
    alone = std_calibration(np.repeat(MEAN, 4), np.repeat(STD, 4), np.repeat(MOS, 4), [str(i) for i in range(4 * N)])
    assert copies.error_per_std_interval == pytest.approx(once.error_per_std_interval)
    assert [each.share_interval for each in copies.coverage] == [each.share_interval for each in once.coverage]
    widths = [np.ptp(each.error_per_std_interval) for each in (once, alone)]
    assert widths[1] == pytest.approx(widths[0] / 2, rel=0.15)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([], [], [], []), "0 pictures and 0 groups: give at least one picture"),
        (([3.0], [0.1], [3.0], ["a", "b"]), "1 pictures and 2 groups"),
        (([3.0], [0.1, 0.2], [3.0], ["a"]), r"\(2,\) predictions for \(1,\)"),
        (([3.0], [0.1], [3.0, 4.0], ["a"]), r"\(1,\) predictions for \(2,\)"),
        (([3.0], [-0.1], [3.0], ["a"]), "a standard deviation is negative"),
        (([3.0], [math.nan], [3.0], ["a"]), "must be finite"),
        (([math.nan], [0.1], [3.0], ["a"]), "must be finite"),
    ],
)
def test_what_cannot_be_held_against_errors_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        std_calibration(*arguments)


@pytest.mark.parametrize("options", [{"bins": 0}, {"levels": (0.5, 1.0)}, {"levels": (0.0,)}])
def test_bins_and_levels_that_mean_nothing_are_refused(options):
    with pytest.raises(ValueError, match="must be at least 1, and levels .* between 0 and 1"):
        std_calibration([3.0], [0.1], [3.0], ["a"], **options)


# Is the probability of a pair a frequency?


def test_pairs_by_hand():
    # P(0, 1) = Phi(0.5 / 0.5) = 0.8413, right; P(0, 2) = Phi(1.5 / 0.5) = 0.9987, right; P(1, 2) = Phi(1 / sqrt 0.32)
    # = 0.9615, wrong
    found = pair_calibration([3.5, 3.0, 2.0], [0.3, 0.4, 0.4], [5.0, 1.0, 2.0], "abc", gamma=0)
    p01, p02, p12 = 0.8413447460685429, 0.9986501019683699, 0.9614500641282292
    assert found.pairs == 3
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.confidence == pytest.approx((p01 + p02 + p12) / 3, rel=1e-6)
    assert found.brier == pytest.approx(((1 - p01) ** 2 + (1 - p02) ** 2 + p12**2) / 3, rel=1e-6)
    sure, surest = found.bins
    assert (sure.low, sure.high, sure.pairs, sure.accuracy) == (0.8, 0.9, 1, 1)
    assert (surest.low, surest.high, surest.pairs, surest.accuracy) == (0.9, 1.0, 2, 0.5)
    assert surest.confidence == pytest.approx((p02 + p12) / 2, rel=1e-6)
    assert found.calibration_error == pytest.approx(((1 - p01) + (p02 + p12 - 1)) / 3, rel=1e-6)


def test_a_policy_of_thurstones_is_found_to_be_calibrated():
    found = pair_calibration(MEAN, STD, MOS, EACH, gamma=0, rounds=200)
    assert found.pairs == N * (N - 1) // 2
    assert len(found.bins) == 5
    assert found.calibration_error < 0.02
    for each in found.bins:
        assert each.low <= each.confidence <= each.high
        assert each.accuracy == pytest.approx(each.confidence, abs=0.05)
        assert each.accuracy_interval[0] < each.confidence < each.accuracy_interval[1]
    assert found.accuracy == pytest.approx(found.confidence, abs=0.02)


def test_a_policy_that_is_too_sure_is_found_to_be():
    sure = pair_calibration(MEAN, STD / 4, MOS, EACH, rounds=50)
    assert sure.confidence > sure.accuracy + 0.05
    assert sure.calibration_error == pytest.approx(sure.confidence - sure.accuracy, abs=0.01)
    assert sure.brier > pair_calibration(MEAN, STD, MOS, EACH, rounds=50).brier
    assert sum(each.pairs for each in sure.bins) == sure.pairs


@pytest.mark.parametrize("digits", [0, 1, 3])
def test_the_accuracy_is_that_of_the_table(digits):
    scores, mos = MEAN[:60].round(digits), MOS[:60].round(digits)
    found = pair_calibration(scores, STD[:60], mos, EACH[:60], rounds=10)
    assert found.accuracy == pytest.approx(pair_accuracy(scores, mos))


def test_scores_turned_round_are_wrong_where_they_were_right():
    there, back = (pair_calibration(sign * MEAN, STD, MOS, EACH, rounds=10) for sign in (1, -1))
    assert back.accuracy == pytest.approx(1 - there.accuracy)
    assert back.confidence == there.confidence


def test_a_tie_is_half_right_and_as_wrong_as_a_half():
    found = pair_calibration([3.0, 3.0], [0.5, 0.5], [1.0, 2.0], "ab")
    assert (found.pairs, found.accuracy, found.confidence, found.brier) == (1, 0.5, 0.5, 0.25)
    assert found.calibration_error == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [0, 1, 3])
def test_without_a_pair_nothing_is_known(n):
    found = pair_calibration([3.0] * n, [0.5] * n, [4.0] * n, "abc"[:n])
    assert (found.pairs, found.bins) == (0, ())
    values = (found.accuracy, found.confidence, found.brier, found.calibration_error, *found.accuracy_interval)
    assert all(math.isnan(value) for value in values)


@pytest.mark.filterwarnings("error")
def test_without_spread_every_gap_is_certain():
    found = pair_calibration([1.0, 2.0, 3.0], [0, 0, 0], [1.0, 3.0, 2.0], "abc", gamma=0)
    assert (found.confidence, found.accuracy, found.brier) == pytest.approx((1, 2 / 3, 1 / 3))


def test_scales_that_hold_within_a_group_are_compared_within_it():
    groups = ["a", "a", "a", "b", "b"]
    scores, mos = [1.0, 2.0, 3.0, 1.0, 2.0], [11.0, 12.0, 13.0, 2.0, 1.0]
    found = pair_calibration(scores, [0.5] * 5, mos, groups, per_group=True)
    assert (found.pairs, found.accuracy) == (4, 0.75)  # three of a, and one, wrong, of b
    assert pair_calibration(scores, [0.5] * 5, mos, groups).pairs == 10


def test_intervals_are_those_of_pairs_counted_one_by_one():
    x, std, y = MEAN[:12].round(1), STD[:12], MOS[:12].round(1)
    groups = [str(i // 2) for i in range(12)]
    found = pair_calibration(x, std, y, groups, rounds=40, seed=3)
    (weights,) = drawn_weights(units_of(groups), 40, 3)
    accuracies: list[list[float]] = [[], []]  # of all pairs, and of those with a confidence of 0.9 or more
    for w in weights:
        for which, least in enumerate((0.0, 0.9)):
            right = whole = 0.0
            for i in range(12):
                for j in range(i):
                    p = float(probability_better(x[i], std[i], x[j], std[j]))
                    if y[i] != y[j] and max(p, 1 - p) >= least:
                        whole += w[i] * w[j]
                        agreed = 0.5 if x[i] == x[j] else float((x[i] > x[j]) == (y[i] > y[j]))
                        right += w[i] * w[j] * agreed
            accuracies[which].append(right / whole if whole else math.nan)
    for which, ends in enumerate((found.accuracy_interval, found.bins[-1].accuracy_interval)):
        assert ends == pytest.approx(np.nanquantile(accuracies[which], [0.025, 0.975]))


def test_pairs_of_copies_say_nothing_more():
    some = slice(0, 60)
    once = pair_calibration(MEAN[some], STD[some], MOS[some], EACH[some], rounds=100)
    copies = [np.repeat(values[some], 3) for values in (MEAN, STD, MOS)]
    thrice = pair_calibration(*copies, np.repeat(EACH[some], 3).tolist(), rounds=100)
    assert thrice.pairs == 9 * once.pairs
    assert thrice.accuracy_interval == pytest.approx(once.accuracy_interval)
    assert thrice.calibration_error == pytest.approx(once.calibration_error)


def test_many_pictures_are_compared_in_pieces(monkeypatch):
    some = slice(0, 50)
    whole = pair_calibration(MEAN[some], STD[some], MOS[some], EACH[some], rounds=60)
    for module in (bootstrap, calibration):
        monkeypatch.setattr(module, "PIECE", 350)  # seven pictures, seven rounds
    pieces = pair_calibration(MEAN[some], STD[some], MOS[some], EACH[some], rounds=60)
    assert pieces.pairs == whole.pairs
    assert (pieces.accuracy, pieces.brier) == pytest.approx((whole.accuracy, whole.brier))
    assert pieces.accuracy_interval == pytest.approx(whole.accuracy_interval)
    assert [each.accuracy_interval for each in pieces.bins] == [
        pytest.approx(each.accuracy_interval, nan_ok=True) for each in whole.bins
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([3.0], [0.1], [3.0], ["a", "b"]), "1 pictures and 2 groups"),
        (([3.0], [-0.1], [3.0], ["a"]), "a standard deviation is negative"),
        (([3.0], [math.nan], [3.0], ["a"]), "must be finite"),
        (([3.0], [0.1], [3.0, 2.0], ["a"]), r"\(1,\) predictions for \(2,\)"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        pair_calibration(*arguments)
