"""Which pairs of pictures a policy is asked about or trained on, how many questions these are, and that each is fair.

Pairs are (M, 2) integers: the number of the picture that is shown first, and of the second. Which of a pair comes first
is drawn, so that a policy that prefers a place gains nothing by it. All draws are functions of a seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from vqr1.comparison.words import WORDS, compare_mos, pair_spread
from vqr1.errors import UserError

MOST_QUESTIONS = 100_000  # that are asked without a yes
CANDIDATES = 1_000_000  # random pairs of a dataset among which words are balanced


def count_rounds(n: int, rounds: int) -> int:
    """How many pairs `round_pairs` gives: rounds * floor(n / 2).

    Raises UserError for fewer than two pictures, or more rounds than there are without a pair that comes twice.

        >>> count_rounds(5, 2)
        4
    """
    _check_pictures(n)
    most = n - 1 + n % 2
    if not 1 <= rounds <= most:
        raise UserError(
            f"{rounds} rounds of disjoint pairs of {n} pictures: give 1 to {most}, after which every pair has come"
        )
    return rounds * (n // 2)


def round_pairs(n: int, rounds: int, seed: int) -> np.ndarray:
    """Rounds of disjoint random pairs: in a round every picture is in one pair, and no pair comes in two rounds.

    The rounds are random ones of a round-robin tournament (by the circle method) whose places are drawn. With an odd
    number of pictures a different one sits out each round.

    Args:
        n: number of pictures, from 2 up.
        rounds: 1 to n - 1 (n for odd n), which gives all pairs.
        seed: not negative.

    Returns:
        Pairs (rounds * floor(n / 2), 2), round after round.

    Raises:
        UserError: as `count_rounds`.

        >>> sorted(round_pairs(6, 1, seed=0).ravel().tolist())
        [0, 1, 2, 3, 4, 5]
    """
    count_rounds(n, rounds)
    draw = np.random.default_rng(seed)
    places = n + n % 2  # with an odd number, who meets the last place sits out
    rim = places - 1
    turn = draw.permutation(rim)[:rounds, None]
    step = np.arange(1, places // 2)
    left, right = (turn + step) % rim, (turn - step) % rim
    first = np.concatenate([turn, left], axis=1).ravel()
    second = np.concatenate([np.full_like(turn, rim), right], axis=1).ravel()
    seat = draw.permutation(n)
    if n % 2:
        playing = second != rim
        first, second = first[playing], second[playing]
    return _in_drawn_order(np.stack([seat[first], seat[second]], axis=1), draw)


def count_all(n: int) -> int:
    """How many pairs `all_pairs` gives: n (n - 1) / 2. Raises UserError for fewer than two pictures.

    >>> count_all(125)
    7750
    """
    _check_pictures(n)
    return n * (n - 1) // 2


def all_pairs(n: int, seed: int) -> np.ndarray:
    """Every pair of n pictures once, (n (n - 1) / 2, 2). Raises UserError for fewer than two pictures.

    >>> sorted(sorted(pair) for pair in all_pairs(3, seed=0).tolist())
    [[0, 1], [0, 2], [1, 2]]
    """
    count_all(n)
    return _in_drawn_order(np.stack(np.triu_indices(n, 1), axis=1), np.random.default_rng(seed))


def count_same_reference(reference_N: Sequence[str]) -> int:
    """How many pairs `same_reference_pairs` gives. Raises UserError for none.

    >>> count_same_reference(["sea", "sea", "sky", "sea"])
    3
    """
    pairs = sum(len(members) * (len(members) - 1) // 2 for members in _members(reference_N))
    if not pairs:
        raise UserError(
            f"no reference has two of the {len(reference_N)} pictures: pair pictures of different references, in "
            "rounds or all"
        )
    return pairs


def same_reference_pairs(reference_N: Sequence[str], seed: int) -> np.ndarray:
    """Every pair of pictures of one reference once, (M, 2), reference after reference in order of appearance.

    Args:
        reference_N: the reference of each picture, of one dataset.
        seed: not negative.

    Raises:
        UserError: no reference has two pictures.

        >>> sorted(sorted(pair) for pair in same_reference_pairs(["sea", "sky", "sea"], seed=0).tolist())
        [[0, 2]]
    """
    count_same_reference(reference_N)
    draw = np.random.default_rng(seed)
    pairs = [np.asarray(members)[np.stack(np.triu_indices(len(members), 1), 1)] for members in _members(reference_N)]
    return _in_drawn_order(np.concatenate(pairs), draw)


def count_questions(pairs: int, *, both_orders: bool = True) -> int:
    """How many questions pairs are: two each if asked in both orders.

    >>> count_questions(7750)
    15500
    """
    return pairs * (2 if both_orders else 1)


def check_questions(questions: int, *, yes: bool = False, most: int = MOST_QUESTIONS, say: str = "yes=true") -> None:
    """Raises UserError for more questions than ``most`` without a yes. To be called before pairs are made.

    ``say`` is how the user says yes.

    >>> check_questions(100_000)
    """
    if questions > most and not yes:
        raise UserError(
            f"{questions:,} questions, and over {most:,} are not asked by mistake: say {say}, or take fewer"
        )


def check_pairs(pairs_M2: ArrayLike, label_N: Sequence[str], what: str = "dataset") -> None:
    """Raises UserError, naming the first, for a pair of pictures with different labels, and ValueError for no pair of
    N pictures.

    Args:
        pairs_M2: integers from 0 to N - 1.
        label_N: the dataset of each picture, or its reference.
        what: what the label is, for the message.

        >>> check_pairs([[0, 1]], ["koniq10k", "koniq10k", "spaq"])
    """
    pairs = np.asarray(pairs_M2)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
        raise ValueError(f"pairs of shape {pairs.shape} in {pairs.dtype}: they are (M, 2) integers")
    if pairs.size and not (pairs.min() >= 0 and pairs.max() < len(label_N)):
        raise ValueError(f"a pair of picture {pairs.min()} or {pairs.max()}: there are 0 to {len(label_N) - 1}")
    for i, j in pairs.tolist():
        if i == j:
            raise UserError(f"picture {i} is paired with itself: a pair has two pictures")
        if label_N[i] != label_N[j]:
            raise UserError(
                f"pictures {i} and {j} are a pair across {what}s ({label_N[i]} and {label_N[j]}): opinion scores of "
                f"different {what}s are not compared; pair pictures of one {what}"
            )


@dataclass(frozen=True)
class TrainingPairs:
    """M pairs with the word that people's scores give the second picture against the first."""

    pairs_M2: np.ndarray  # integers, into the pictures of all datasets
    word_M: np.ndarray  # indices into vqr1.comparison.words.WORDS

    def in_words(self) -> str:
        """One sentence: how many pairs have which word."""
        count = np.bincount(self.word_M, minlength=len(WORDS))
        said = ", ".join(f"{number:,} {word}" for word, number in zip(WORDS, count, strict=True))
        return f"{len(self.word_M):,} pairs: {said}"


def training_pairs(
    mos_N: ArrayLike,
    std_N: ArrayLike,
    dataset_N: Sequence[str],
    *,
    per_dataset: int,
    seed: int,
    spread: Mapping[str, float] | None = None,
    balanced: bool = False,
    reference_N: Sequence[str] | None = None,
    say: str = "spread={NAME: S}",
) -> TrainingPairs:
    """Pairs to learn comparison from, of several datasets together and never across two of them.

    From each dataset different pairs are drawn with equal probability, and `compare_mos` names each by the difference
    of its MOS and its spread: so scales need not agree. Compare2Score (arXiv 2405.19298) trains on such pairs.

    Args:
        mos_N: MOS, each on its dataset's own scale, higher = better.
        std_N: standard deviations of the ratings on the same scale, NaN where there is none.
        dataset_N: the dataset of each picture.
        per_dataset: how many pairs of each, or all that it has.
        seed: not negative.
        spread: one s for a dataset without standard deviations, or without some, by its name; all its pairs take it. A
            dataset that has all is given none.
        balanced: whether every word comes equally often, or as often as there are pairs of it. Of a large dataset a
            million random pairs are looked at.
        reference_N: the reference of each picture where pairs are of one reference each; None, or the same for all
            pictures of a dataset: any two of its pictures are a pair.
        say: how the user states a spread, with NAME for the dataset.

    Returns:
        The pairs and their words, in random order. What comes first in a pair is drawn.

    Raises:
        UserError: a dataset without standard deviations and without a spread, or with both; a spread for a dataset that
            is not there or that is no positive number; a dataset with fewer than two pictures, or none of whose
            references has two; a MOS that is not finite, a negative std.
        ValueError: arrays of different length, less than one pair.

        >>> made = training_pairs([1.0, 5.0], [0.5, 0.5], ["mine", "mine"], per_dataset=10, seed=0)
        >>> made.word_M.tolist() in ([0], [4])
        True
    """
    mos, std = np.asarray(mos_N, dtype=float), np.asarray(std_N, dtype=float)
    if mos.ndim != 1 or not mos.shape == std.shape == (len(dataset_N),):
        raise ValueError(f"{mos.shape} MOS, {std.shape} stds and {len(dataset_N)} datasets: give one of each a picture")
    if not np.isfinite(mos).all() or (std < 0).any():
        raise UserError("a MOS is not finite or a std is negative: leave such pictures out of the training pairs")
    if per_dataset < 1:
        raise ValueError(f"{per_dataset} pairs of each dataset: ask for one or more")
    spread = dict(spread or {})
    names, draw = list(dict.fromkeys(dataset_N)), np.random.default_rng(seed)
    if unknown := sorted(set(spread) - set(names)):
        raise UserError(f"a spread is given for {unknown[0]}, which is not among the datasets {', '.join(names)}")
    pairs, words = [], []
    for name, members in zip(names, _members(dataset_N), strict=True):
        if len(members) < 2:
            raise UserError(f"dataset {name} has one picture: a pair needs two of one dataset")
        references = None if reference_N is None else [reference_N[i] for i in members]
        drawn = _some_pairs(len(members), CANDIDATES if balanced else per_dataset, draw, references)
        found = np.asarray(members)[drawn]
        word = _words(name, mos[found], std[found], std[members], spread.get(name), say)
        chosen = _balanced(word, per_dataset) if balanced else slice(None)
        pairs.append(found[chosen])
        words.append(word[chosen])
    order = draw.permutation(sum(map(len, words)))
    return TrainingPairs(np.concatenate(pairs)[order], np.concatenate(words)[order])


def _words(name: str, mos_M2: np.ndarray, std_M2: np.ndarray, std: np.ndarray, s: float | None, say: str) -> np.ndarray:
    """The words of a dataset's pairs, by the stds of its ratings or by the one spread that is stated for it."""
    missing = int(np.isnan(std).sum())
    if s is None and missing:
        raise UserError(
            f"dataset {name} has no std of the ratings for {missing} of {len(std)} pictures, and a comparison needs a "
            f"spread: state one spread for the dataset ({say.replace('NAME', name)}), or leave it out"
        )
    if s is not None and not missing:
        raise UserError(f"dataset {name} has stds of its ratings and is given a spread of {s}: leave the spread out")
    if s is not None and not 0 < s < math.inf:
        raise UserError(f"the spread of dataset {name} is {s}: give a positive number on the scale of its MOS")
    return compare_mos(mos_M2[:, 0], mos_M2[:, 1], pair_spread(std_M2[:, 0], std_M2[:, 1]) if s is None else s)


def _balanced(word_M: np.ndarray, number: int) -> np.ndarray:
    """The first pairs of each word, ``number`` in all where there are enough; the remainder goes to the lowest."""
    quota = [number // len(WORDS) + (w < number % len(WORDS)) for w in range(len(WORDS))]
    return np.concatenate([np.flatnonzero(word_M == w)[: quota[w]] for w in range(len(WORDS))])


def _some_pairs(n: int, number: int, draw: np.random.Generator, references: Sequence[str] | None = None) -> np.ndarray:
    """At most ``number`` different pairs of n pictures, drawn with equal probability, in random order.

    ``references``, where there are several, have the pictures of a pair in common.
    """
    if references is not None and len(set(references)) > 1:
        count_same_reference(references)
        each = [np.asarray(own)[np.stack(np.triu_indices(len(own), 1), 1)] for own in _members(references)]
        return _in_drawn_order(draw.permutation(np.concatenate(each))[:number], draw)
    total = n * (n - 1) // 2
    k = draw.choice(total, size=min(number, total), replace=False)
    # Pair k of (1, 0), (2, 0), (2, 1), (3, 0), ...: i (i - 1) / 2 <= k < (i + 1) i / 2. The root is rounded.
    i = ((1 + np.sqrt(1 + 8 * k.astype(float))) / 2).astype(np.int64)
    i += (i * (i + 1) // 2 <= k).astype(np.int64) - (i * (i - 1) // 2 > k)
    return _in_drawn_order(np.stack([i, k - i * (i - 1) // 2], axis=1), draw)


def _in_drawn_order(pairs_M2: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """The pairs, each with its pictures in a drawn order."""
    swapped = draw.random(len(pairs_M2)) < 0.5
    return np.where(swapped[:, None], pairs_M2[:, ::-1], pairs_M2)


def _members(label_N: Sequence[str]) -> list[list[int]]:
    """The pictures of each label, labels in order of appearance."""
    members: dict[str, list[int]] = {}
    for i, label in enumerate(label_N):
        members.setdefault(label, []).append(i)
    return list(members.values())


def _check_pictures(n: int) -> None:
    if n < 2:
        raise UserError(f"{n} pictures: a pair needs two")
