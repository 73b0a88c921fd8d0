"""Which pairs are asked or trained on, how many questions they are, and that none is across datasets."""

import doctest
import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqr1 import pairing
from vqr1.comparison.words import WORDS
from vqr1.errors import UserError
from vqr1.pairing import (
    all_pairs,
    check_pairs,
    check_questions,
    count_all,
    count_questions,
    count_rounds,
    count_same_reference,
    round_pairs,
    same_reference_pairs,
    training_pairs,
)

NAN = math.nan


def unordered(pairs):
    return sorted(tuple(sorted(pair)) for pair in pairs.tolist())


def test_the_examples_of_docstrings_hold():
    result = doctest.testmod(pairing)
    assert result.failed == 0 < result.attempted


@given(st.integers(2, 15), st.data())
def test_rounds_are_disjoint_and_no_pair_comes_twice(n, data):
    rounds = data.draw(st.integers(1, n - 1 + n % 2))
    pairs = round_pairs(n, rounds, seed=data.draw(st.integers(0, 1000)))
    assert len(pairs) == count_rounds(n, rounds) == rounds * (n // 2)
    for one in pairs.reshape(rounds, n // 2, 2):
        assert len(set(one.ravel().tolist())) == 2 * (n // 2)
    found = unordered(pairs)
    assert len(set(found)) == len(found) and set(found) <= set(combinations(range(n), 2))


@pytest.mark.parametrize("n", [2, 3, 8, 9])
def test_all_rounds_are_all_pairs(n):
    assert unordered(round_pairs(n, n - 1 + n % 2, seed=1)) == list(combinations(range(n), 2))


def test_rounds_are_random_a_function_of_the_seed_and_neither_place_is_preferred():
    assert (round_pairs(100, 5, seed=3) == round_pairs(100, 5, seed=3)).all()
    assert unordered(round_pairs(100, 5, seed=3)) != unordered(round_pairs(100, 5, seed=4))
    drawn = np.concatenate([round_pairs(4, 1, seed) for seed in range(1200)])
    count = np.zeros((4, 4))
    np.add.at(count, tuple(drawn.T), 1)
    # Each of 12 ordered pairs in one draw of six, so 200 +- 13 times.
    assert np.abs(count[~np.eye(4, dtype=bool)] - 200).max() < 60


@pytest.mark.parametrize(
    ("n", "rounds", "said"), [(1, 1, "needs two"), (4, 0, "1 to 3"), (4, 4, "1 to 3"), (5, 6, "to 5")]
)
def test_rounds_that_there_are_not_are_refused(n, rounds, said):
    with pytest.raises(UserError, match=said):
        round_pairs(n, rounds, seed=0)


@pytest.mark.parametrize("n", [2, 5])
def test_all_pairs_are_all(n):
    assert unordered(all_pairs(n, seed=0)) == list(combinations(range(n), 2))
    assert len(all_pairs(n, seed=0)) == count_all(n)


def test_pairs_of_one_reference_are_by_hand():
    reference = ["sea", "sky", "sea", "sky", "tree", "sea"]
    pairs = same_reference_pairs(reference, seed=0)
    assert unordered(pairs) == [(0, 2), (0, 5), (1, 3), (2, 5)] and count_same_reference(reference) == 4
    check_pairs(pairs, reference, "reference")
    assert count_same_reference(["I01"] * 125 + ["I02"] * 125) == 2 * 7750
    with pytest.raises(UserError, match="no reference has two of the 2 pictures"):
        same_reference_pairs(["sea", "sky"], seed=0)
    with pytest.raises(UserError, match="needs two"):
        all_pairs(1, seed=0)


def test_which_comes_first_is_drawn():
    first_is_lower = np.diff(all_pairs(100, seed=0))[:, 0] > 0
    assert 0.45 < first_is_lower.mean() < 0.55


def test_questions_are_counted_before_any_pair_is_made():
    assert count_questions(count_all(10**6)) == 10**6 * (10**6 - 1)  # no array of these fits a machine
    assert count_questions(10, both_orders=False) == 10
    check_questions(100_000)
    check_questions(100_001, yes=True)
    with pytest.raises(UserError, match=r"100,001 questions, and over 100,000 .* yes=true"):
        check_questions(100_001)
    with pytest.raises(UserError, match="over 10,000"):
        check_questions(10_001, most=10_000)


def test_pairs_across_datasets_or_references_are_refused():
    labels = ["koniq10k", "koniq10k", "spaq"]
    check_pairs([[0, 1], [1, 0]], labels)
    check_pairs(np.zeros((0, 2), int), labels)
    with pytest.raises(UserError, match=r"pictures 1 and 2 are a pair across datasets \(koniq10k and spaq\)"):
        check_pairs([[0, 1], [1, 2]], labels)
    with pytest.raises(UserError, match="a pair across references"):
        check_pairs([[0, 2]], labels, "reference")
    with pytest.raises(UserError, match="paired with itself"):
        check_pairs([[1, 1]], labels)
    for pairs in ([[0, 3]], [[-1, 0]], [0, 1], [[0.0, 1.0]]):
        with pytest.raises(ValueError, match="pair"):
            check_pairs(pairs, labels)


def two_sets():
    """Forty pictures on a scale to 5 with stds, and thirty on a scale to 100 without."""
    rng = np.random.default_rng(0)
    mos = np.concatenate([rng.uniform(1, 5, 40), rng.uniform(0, 100, 30)])
    std = np.concatenate([rng.uniform(0.2, 0.6, 40), np.full(30, NAN)])
    return mos, std, ["small"] * 40 + ["large"] * 30


def test_training_pairs_are_of_one_dataset_and_have_the_words_of_the_definition():
    mos, std, dataset = two_sets()
    made = training_pairs(mos, std, dataset, per_dataset=200, seed=0, spread={"large": 12.0})
    assert len(made.pairs_M2) == 400 == len(set(unordered(made.pairs_M2)))
    check_pairs(made.pairs_M2, dataset)
    assert sum(dataset[i] == "small" for i, _ in made.pairs_M2.tolist()) == 200
    for (i, j), word in zip(made.pairs_M2.tolist(), made.word_M, strict=True):
        gap, s = mos[j] - mos[i], 12.0 if i >= 40 else math.sqrt(std[i] ** 2 + std[j] ** 2)
        size = 0 if abs(gap) <= s else 1 if abs(gap) <= 2 * s else 2
        assert WORDS[word] == (["similar", "better", "superior"] if gap > 0 else ["similar", "worse", "inferior"])[size]
    count = np.bincount(made.word_M, minlength=5)
    assert made.in_words() == (
        f"400 pairs: {count[0]} inferior, {count[1]} worse, {count[2]} similar, {count[3]} better, {count[4]} superior"
    )
    again = training_pairs(mos, std, dataset, per_dataset=200, seed=0, spread={"large": 12.0})
    assert (again.pairs_M2 == made.pairs_M2).all() and (again.word_M == made.word_M).all()
    other = training_pairs(mos, std, dataset, per_dataset=200, seed=1, spread={"large": 12.0})
    assert unordered(other.pairs_M2) != unordered(made.pairs_M2)


def test_words_depend_on_no_scale():
    mos, std, dataset = two_sets()
    spread = {"large": 12.0}
    here = training_pairs(mos, std, dataset, per_dataset=200, seed=0, spread=spread)
    mos[:40], std[:40] = 7 + 20 * mos[:40], 20 * std[:40]
    there = training_pairs(mos, std, dataset, per_dataset=200, seed=0, spread=spread)
    assert (here.pairs_M2 == there.pairs_M2).all() and (here.word_M == there.word_M).all()


def test_a_dataset_gives_all_of_its_pairs_and_no_more():
    made = training_pairs([1.0, 2.0, 3.0, 4.0], [0.5] * 4, ["a", "b", "a", "b"], per_dataset=99, seed=0)
    assert unordered(made.pairs_M2) == [(0, 2), (1, 3)]
    made = training_pairs(np.arange(30.0), [0.5] * 30, ["a"] * 30, per_dataset=10**6, seed=0)
    assert unordered(made.pairs_M2) == list(combinations(range(30), 2))


def test_every_pair_is_drawn_equally_often():
    count = np.zeros(10)
    names = list(combinations(range(5), 2))
    for seed in range(500):
        made = training_pairs(np.arange(5.0), [0.5] * 5, ["a"] * 5, per_dataset=1, seed=seed)
        count[names.index(unordered(made.pairs_M2)[0])] += 1
    assert np.abs(count - 50).max() < 30  # +- 7 each


def test_pair_numbers_are_right_for_datasets_of_any_size():
    class Last:  # draws the last pairs of all
        def choice(self, total, size, replace):
            return total - 1 - np.arange(size)

        def random(self, size):
            return np.ones(size)

    n = 2**28
    assert pairing._some_pairs(n, 3, Last()).tolist() == [[n - 1, n - 2], [n - 1, n - 3], [n - 1, n - 4]]


def test_balanced_words_come_equally_often_where_there_are_pairs_enough():
    rng = np.random.default_rng(0)
    mos, std = rng.normal(3, 0.6, 300), np.full(300, 0.5)
    plain = training_pairs(mos, std, ["a"] * 300, per_dataset=1000, seed=0)
    assert np.bincount(plain.word_M, minlength=5)[2] > 500
    even = training_pairs(mos, std, ["a"] * 300, per_dataset=1000, seed=0, balanced=True)
    assert np.bincount(even.word_M).tolist() == [200] * 5 and len(set(unordered(even.pairs_M2))) == 1000
    few = training_pairs([1.0, 1.1, 1.2], [0.5] * 3, ["a"] * 3, per_dataset=1000, seed=0, balanced=True)
    assert few.in_words() == "3 pairs: 0 inferior, 0 worse, 3 similar, 0 better, 0 superior"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"spread": None}, "dataset large has no std of the ratings for 30 of 30 pictures"),
        ({"spread": {"large": 12.0, "small": 1.0}}, "dataset small has stds of its ratings and is given a spread"),
        ({"spread": {"larg": 12.0}}, "for larg, which is not among the datasets small, large"),
        ({"spread": {"large": 0.0}}, "the spread of dataset large is 0.0"),
        ({"spread": {"large": NAN}}, "the spread of dataset large is nan"),
        ({"per_dataset": 0}, "0 pairs"),
        ({"dataset_N": ["small"] * 40 + ["large"] * 29 + ["one"]}, "dataset one has one picture"),
        ({"dataset_N": ["small"]}, "one of each a picture"),
        ({"mos_N": [NAN] * 70}, "not finite"),
        ({"std_N": [-1.0] * 70}, "negative"),
    ],
)
def test_training_pairs_that_cannot_be_are_refused(change, said):
    mos, std, dataset = two_sets()
    arguments = {
        "mos_N": mos,
        "std_N": std,
        "dataset_N": dataset,
        "per_dataset": 10,
        "spread": {"large": 12.0},
        **change,
    }
    with pytest.raises(ValueError, match=said):
        training_pairs(**arguments, seed=0)
