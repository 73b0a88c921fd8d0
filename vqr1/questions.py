"""Questions about pictures, and what their answers say: two-alternative tests and multiple choice.

The two-alternative protocol (arXiv 2402.01162), which Co-Instruct (arXiv 2402.16641) reports, asks for the better of
two pictures in both orders. Multiple choice is that of Q-Bench (arXiv 2309.14181) and MICBench (Co-Instruct). Answers
in, counts and shares out: numpy, no model.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from string import ascii_uppercase

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import coo_array, csr_array

from vqr1.errors import UserError
from vqr1.votes import as_pairs


@dataclass(frozen=True)
class Share:
    """A share and what it is a share of.

    >>> Share(3, 4).value, Share(0, 0).value
    (0.75, nan)
    """

    count: int
    of: int

    @property
    def value(self) -> float:
        """0 to 1; NaN of nothing."""
        return self.count / self.of if self.of else math.nan


# Two alternatives


class Choice(StrEnum):
    """An answer to "which of the two is better", by the places in which they were shown.

    >>> Choice("draw") is Choice.draw
    True
    """

    first = "first"
    second = "second"
    draw = "draw"
    unreadable = "unreadable"


@dataclass(frozen=True)
class TwoAlternatives:
    """The answers to P pairs of pictures, each asked in both orders.

    >>> nothing = Share(0, 0)
    >>> known = TwoAlternatives(nothing, nothing, nothing, (Share(3, 4), Share(1, 4)), 0, Share(6, 8), 2, 0, 8)
    >>> known.single_order, known.published_bias
    (Share(count=4, of=8), 0.5)
    """

    consistent: Share  # of all pairs: both answers name the same picture, or both say draw
    accuracy: Share  # of pairs with different MOS: consistent, and the better picture named
    accuracy_of_consistent: Share  # the same of those among them that are consistent
    by_order: tuple[Share, Share]  # of pairs with different MOS: right as listed, and with the order swapped
    equal_mos: int  # pairs that no accuracy counts
    first: Share  # of answers that name a picture, those that name the first shown: 1/2 without a position bias
    draws: int  # answers
    unreadable: int  # answers
    answers: int  # 2 P

    @property
    def single_order(self) -> Share:
        """What asking in one order would give, on average over both orders."""
        one, other = self.by_order
        return Share(one.count + other.count, one.of + other.of)

    @property
    def published_bias(self) -> float:
        """1 - |share of first - share of second|, of all answers, as published: 1 without a bias, or all draws."""
        second = self.first.of - self.first.count
        return 1 - abs(self.first.count - second) / self.answers if self.answers else math.nan


def two_alternatives(
    pairs: ArrayLike, mos: ArrayLike, as_listed: Sequence[Choice | str], swapped: Sequence[Choice | str]
) -> TwoAlternatives:
    """The statistics of the two-alternative protocol (arXiv 2402.01162; Co-Instruct's "kappa" is ``consistent``).

    As published, an answer that cannot be read agrees with nothing, and an accuracy counts a pair with consistent
    answers only. Published accuracies count pairs of equal MOS as pairs that the second picture has won; here they are
    left out and counted.

    Args:
        pairs: (P, 2) indices of pictures.
        mos: (n,) of the pictures, higher is better.
        as_listed: (P,) answers with the pair's first picture shown first.
        swapped: (P,) answers with the pair's second picture shown first.

    Raises:
        ValueError: numbers of answers that differ, an answer that is no `Choice`, a picture that is not there or
            against itself, a MOS that is not finite.

    The first pair is answered rightly in both orders, the second with the first shown in both:

        >>> known = two_alternatives([[0, 1], [0, 1]], [4.0, 2.0], ["first", "first"], ["second", "first"])
        >>> known.consistent, known.accuracy, known.single_order, known.first.value
        (Share(count=1, of=2), Share(count=1, of=2), Share(count=3, of=4), 0.75)
    """
    opinion = np.asarray(mos, dtype=float)
    if opinion.ndim != 1 or not np.isfinite(opinion).all():
        raise ValueError("mos must hold one finite number for each picture")
    who = as_pairs(pairs, len(opinion))
    listed, turned = _as_answers(as_listed, swapped, len(who))
    gap = np.sign(opinion[who[:, 0]] - opinion[who[:, 1]])
    differ = gap != 0
    one, other = _winners(listed), -_winners(turned)  # 1: the pair's first picture, -1: its second
    consistent = _consistent(listed, turned)
    right = (one == gap) & differ, (other == gap) & differ
    answers = Counter([*listed, *turned])
    named = answers[Choice.first] + answers[Choice.second]

    def count(mask: np.ndarray) -> int:
        return int(mask.sum())

    counted = count(differ)
    accurate = count(consistent & right[0])
    return TwoAlternatives(
        consistent=Share(count(consistent), len(who)),
        accuracy=Share(accurate, counted),
        accuracy_of_consistent=Share(accurate, count(consistent & differ)),
        by_order=(Share(count(right[0]), counted), Share(count(right[1]), counted)),
        equal_mos=len(who) - counted,
        first=Share(answers[Choice.first], named),
        draws=answers[Choice.draw],
        unreadable=answers[Choice.unreadable],
        answers=2 * len(who),
    )


def wins(
    pairs: ArrayLike, as_listed: Sequence[Choice | str], swapped: Sequence[Choice | str], pictures: int
) -> csr_array:
    """How often each picture was preferred to each other: C[winner, loser], from which scores are estimated.

    A pair whose answers name the same picture in both orders adds 1; draws and inconsistent pairs add nothing.
    Arguments and errors as for `two_alternatives`.

    Returns:
        (pictures, pictures), float64, sparse.

        >>> wins([[0, 1], [0, 1]], ["first", "first"], ["second", "first"], 2).toarray().tolist()
        [[0.0, 1.0], [0.0, 0.0]]
    """
    who = as_pairs(pairs, pictures)
    listed, turned = _as_answers(as_listed, swapped, len(who))
    winner = _winners(listed)
    decided = _consistent(listed, turned) & (winner != 0)
    ordered = np.where(winner[:, None] > 0, who, who[:, ::-1])[decided]
    return coo_array((np.ones(len(ordered)), (ordered[:, 0], ordered[:, 1])), shape=(pictures, pictures)).tocsr()


# Multiple choice


def check_question(options: Sequence[str], right: int | None = None) -> None:
    """Refuse a question that cannot be asked: fewer than two or more than 26 options, an empty one, two equal ones, a
    right answer that is none of them (``right`` is its index; None where it is hidden).

    Raises:
        UserError: says what is wrong with it.

        >>> check_question(["yes", "no"], right=1)
    """
    if not 2 <= len(options) <= len(ascii_uppercase):
        raise UserError(f"a question with {len(options)} option(s), {list(options)}: give 2 to {len(ascii_uppercase)}")
    plain = [_plain(option) for option in options]
    if "" in plain:
        raise UserError(f"an option of the question is empty: {list(options)}; leave padding out")
    if len(set(plain)) < len(plain):
        twice = next(option for option in plain if plain.count(option) > 1)
        raise UserError(f"the option {twice!r} comes twice: its letters could not be told apart; leave one out")
    if right is not None and not 0 <= right < len(options):
        raise UserError(f"the right answer is option {right} of {len(options)}: give the index of an option, from 0")


def rotations(options: Sequence[str]) -> list[list[str]]:
    """A question's options in the n orders in which it is asked: in rotation k, place i shows option (i + k) mod n.

    Raises UserError as `check_question` does.

        >>> rotations(["yes", "no", "hardly"])
        [['yes', 'no', 'hardly'], ['no', 'hardly', 'yes'], ['hardly', 'yes', 'no']]
    """
    check_question(options)
    return [[*options[k:], *options[:k]] for k in range(len(options))]


def read_letter(text: str, options: Sequence[str]) -> int | None:
    """The place that an answer names: 0 for A, 1 for B; None where it is not plainly one.

    Read, white space aside, are a capital letter alone, in round or square brackets, with a full stop, or one of these
    followed by that option's own text, with or without a full stop after it:

        B   (B)   [B]   B.   (B).   B. Blurry   B Blurry   (B) Blurry   B. Blurry.      place 1, if B is "Blurry"

    and nothing else: not a letter inside a sentence, a small letter, two letters, another option's text, an option's
    text alone, or a letter beyond the options. The published reading takes the right letter anywhere in the text for
    the answer, so that "A or B" is right whichever is.

    Args:
        text: the answer.
        options: as they were shown, in their rotation.

        >>> read_letter(" B. Blurry ", ["Sharp", "Blurry"]), read_letter("A. Blurry", ["Sharp", "Blurry"])
        (1, None)
    """
    found = re.fullmatch(r"(?:([A-Z])|\(([A-Z])\)|\[([A-Z])\])(\.?)(\s*)(.*)", _plain(text), flags=re.DOTALL)
    if not found:
        return None
    bare, *bracketed, stop, blank, said = found.groups()
    place = ascii_uppercase.index(bare or bracketed[0] or bracketed[1])
    if place >= len(options):
        return None
    own = _plain(options[place])
    if said and (said not in (own, f"{own}.") or (bare and not stop and not blank)):
        return None
    return place


@dataclass(frozen=True)
class MultipleChoice:
    """The answers to Q questions, each asked in its n rotations.

    >>> MultipleChoice(Share(1, 2), 0.75, Share(1, 2), (0.5, 0.5), (0.25, 0.75), 1, 4).position_bias
    0.25
    """

    as_published: Share  # of questions: right as they are listed, in rotation 0
    accuracy: float  # right answers of a question's rotations, averaged over questions; a blind letter: mean of 1 / n
    in_all: Share  # of questions: right in all rotations; a blind letter: 0
    letters: tuple[float, ...]  # the share of readable answers that name A, B, ...
    right_letters: tuple[float, ...]  # the share of these answers' questions whose right option stood at A, B, ...
    unreadable: int  # answers; they are wrong
    answers: int

    @property
    def position_bias(self) -> float:
        """Half the sum of the absolute differences of the two: 0 without a bias, up to 1."""
        return sum(abs(a - b) for a, b in zip(self.letters, self.right_letters, strict=True)) / 2


def multiple_choice(answers: Sequence[Sequence[int | None]], right: Sequence[int]) -> MultipleChoice:
    """Accuracy and position bias over rotations.

    Args:
        answers: for each question its n answers, one for each rotation in their order: the place that was named
            (`read_letter`), None where unreadable. n differs from question to question.
        right: for each question the index of the right option as it is listed, which is right at the place
            (right - k) mod n of rotation k.

    Raises:
        ValueError: numbers of questions that differ, a place or right answer that is no option of its question.

    The letter A whatever is asked is right in one rotation of each question:

        >>> blind = multiple_choice([[0, 0], [0, 0, 0, 0]], right=[0, 3])
        >>> blind.as_published.value, blind.accuracy, blind.in_all.value, blind.letters
        (0.5, 0.375, 0.0, (1.0, 0.0, 0.0, 0.0))
    """
    if len(answers) != len(right):
        raise ValueError(f"answers to {len(answers)} questions and {len(right)} right answers: one each")
    hits: list[list[bool]] = []
    named: Counter[int] = Counter()
    stood: Counter[int] = Counter()
    for q, (own, option) in enumerate(zip(answers, right, strict=True)):
        n = len(own)
        if n < 2 or not 0 <= option < n:
            raise ValueError(f"question {q} has {n} rotations and the right option {option}: two or more, from 0")
        if any(place is not None and not 0 <= place < n for place in own):
            raise ValueError(f"question {q} has {n} options and the answers {list(own)}: give places from 0, or None")
        places = [(option - k) % n for k in range(n)]
        hits.append([place == answer for place, answer in zip(places, own, strict=True)])
        for place, answer in zip(places, own, strict=True):
            if answer is not None:
                named[answer] += 1
                stood[place] += 1
    asked, read = sum(map(len, answers)), named.total()
    letters = range(max(map(len, answers), default=0))
    shares = [tuple(counts[i] / read if read else math.nan for i in letters) for counts in (named, stood)]
    return MultipleChoice(
        as_published=Share(sum(own[0] for own in hits), len(hits)),
        accuracy=float(np.mean([sum(own) / len(own) for own in hits])) if hits else math.nan,
        in_all=Share(sum(map(all, hits)), len(hits)),
        letters=shares[0],
        right_letters=shares[1],
        unreadable=asked - read,
        answers=asked,
    )


def _plain(text: str) -> str:
    """White space aside."""
    return " ".join(text.split())


def _as_answers(
    as_listed: Sequence[Choice | str], swapped: Sequence[Choice | str], pairs: int
) -> tuple[list[Choice], list[Choice]]:
    if not len(as_listed) == len(swapped) == pairs:
        raise ValueError(f"{len(as_listed)} and {len(swapped)} answers to {pairs} pairs: one each in either order")
    return [Choice(answer) for answer in as_listed], [Choice(answer) for answer in swapped]


def _winners(answers: Sequence[Choice]) -> np.ndarray:
    """1 where the first shown won, -1 where the second did, else 0."""
    return np.array([(answer == Choice.first) - (answer == Choice.second) for answer in answers], dtype=int)


def _consistent(listed: Sequence[Choice], turned: Sequence[Choice]) -> np.ndarray:
    """Both answers name the same picture, or both say draw."""
    same = {(Choice.first, Choice.second), (Choice.second, Choice.first), (Choice.draw, Choice.draw)}
    return np.array([answers in same for answers in zip(listed, turned, strict=True)], dtype=bool)
