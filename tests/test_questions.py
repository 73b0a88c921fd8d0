"""Two-alternative tests and multiple choice: counts by hand, symmetries, and answers that nobody can read."""

import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqr1.errors import UserError
from vqr1.questions import (
    Choice,
    Share,
    check_question,
    multiple_choice,
    read_letter,
    rotations,
    two_alternatives,
    wins,
)

NAN = math.nan
choices = st.sampled_from(list(Choice))
SWAPPED = {Choice.first: Choice.second, Choice.second: Choice.first}


# Two alternatives


MOS = [4.0, 2.0, 2.0]
ANSWERED = [
    # pair, as listed, swapped
    ((0, 1), "first", "second"),  # consistent and right
    ((1, 0), "first", "second"),  # consistent and wrong
    ((0, 2), "first", "first"),  # the first shown whatever is shown: right in one order
    ((2, 0), "draw", "draw"),  # consistent, but no picture named
    ((0, 1), "draw", "second"),
    ((0, 1), "unreadable", "unreadable"),  # agrees with nothing
    ((1, 2), "second", "first"),  # equal MOS: consistent, and no accuracy counts it
]


def test_two_alternatives_by_hand():
    pairs, listed, swapped = zip(*ANSWERED, strict=True)
    known = two_alternatives(pairs, MOS, listed, swapped)
    assert known.consistent == Share(4, 7)
    assert known.accuracy == Share(1, 6)
    assert known.accuracy_of_consistent == Share(1, 3)
    assert known.by_order == (Share(2, 6), Share(2, 6)) and known.single_order == Share(4, 12)
    assert known.equal_mos == 1
    assert known.first == Share(5, 9)
    assert (known.draws, known.unreadable, known.answers) == (3, 2, 14)
    assert known.published_bias == pytest.approx(1 - 1 / 14)
    assert wins(pairs, listed, swapped, 3).toarray().tolist() == [[0, 1, 0], [1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("listed", Choice)
@pytest.mark.parametrize("swapped", Choice)
def test_every_pair_of_answers(listed, swapped):
    known = two_alternatives([(0, 1)], [2.0, 1.0], [listed], [swapped])
    names_one = (listed, swapped) in {("first", "second"), ("second", "first")}
    assert known.consistent.count == (names_one or listed == swapped == "draw")
    assert known.accuracy.count == ((listed, swapped) == ("first", "second"))
    assert wins([(0, 1)], [listed], [swapped], 2).sum() == names_one


@given(st.lists(st.tuples(st.sampled_from([(0, 1), (1, 2), (2, 0), (1, 0)]), choices, choices), min_size=1))
def test_listing_a_pair_the_other_way_round_changes_nothing_but_the_order(answers):
    pairs, listed, swapped = zip(*answers, strict=True)
    known = two_alternatives(pairs, MOS, listed, swapped)
    turned = two_alternatives([pair[::-1] for pair in pairs], MOS, swapped, listed)
    assert turned.by_order == known.by_order[::-1]
    for name in ("consistent", "accuracy", "accuracy_of_consistent", "single_order", "first", "published_bias"):
        assert getattr(turned, name) == getattr(known, name)
    counted = wins(pairs, listed, swapped, 3).toarray()
    assert (wins([pair[::-1] for pair in pairs], swapped, listed, 3).toarray() == counted).all()
    # the other picture throughout: accuracies of the opposite order of MOS
    other = [[SWAPPED.get(answer, answer) for answer in column] for column in (listed, swapped)]
    mirrored = two_alternatives(pairs, [-mos for mos in MOS], *other)
    assert mirrored.accuracy == known.accuracy and mirrored.first.count == known.first.of - known.first.count
    assert (wins(pairs, *other, 3).toarray() == counted.T).all()


def test_a_blind_answerer_is_half_right_in_one_order_and_never_in_both():
    pairs = list(combinations(range(6), 2))
    known = two_alternatives(pairs, np.arange(6.0), ["first"] * 15, ["first"] * 15)
    assert (known.single_order.value, known.accuracy.value, known.consistent.value) == (0.5, 0, 0)
    assert (known.first.value, known.published_bias) == (1, 0)
    assert wins(pairs, ["first"] * 15, ["first"] * 15, 6).sum() == 0


def test_all_draws():
    known = two_alternatives([(0, 1), (1, 2)], MOS, ["draw"] * 2, ["draw"] * 2)
    assert known.consistent == Share(2, 2) and known.accuracy == Share(0, 1)
    assert math.isnan(known.first.value) and known.published_bias == 1


def test_no_pairs():
    known = two_alternatives([], [1.0, 2.0], [], [])
    assert all(math.isnan(each) for each in (known.consistent.value, known.accuracy.value, known.published_bias))
    assert wins([], [], [], 2).toarray().tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([(0, 1)], [1.0, 2.0], ["first"], []), "1 and 0 answers to 1 pairs"),
        (([(0, 1)], [1.0, 2.0], ["First"], ["second"]), "'First' is not a valid Choice"),
        (([(0, 2)], [1.0, 2.0], ["first"], ["second"]), "picture 2 of 2"),
        (([(0, 1)], [1.0, NAN], ["first"], ["second"]), "one finite number"),
    ],
)
def test_what_are_no_answers_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        two_alternatives(*arguments)


# Multiple choice


@pytest.mark.parametrize("n", [2, 3, 4])
def test_each_option_stands_once_at_each_place(n):
    options = [f"option {i}" for i in range(n)]
    turned = rotations(options)
    assert turned[0] == options
    assert all(turned[k][i] == options[(i + k) % n] for k, i in product(range(n), repeat=2))
    assert all(sorted(column) == options for column in zip(*turned, strict=True))


@pytest.mark.parametrize(
    ("options", "right", "words"),
    [
        (["yes"], 0, "a question with 1 option(s)"),
        ([], None, "a question with 0 option(s)"),
        ([str(i) for i in range(27)], None, "a question with 27 option(s)"),
        (["yes", " "], 0, "an option of the question is empty"),
        (["yes", "no", " yes"], 0, "the option 'yes' comes twice"),
        (["yes", "no"], 2, "the right answer is option 2 of 2"),
        (["yes", "no"], -1, "the right answer is option -1 of 2"),
    ],
)
def test_questions_that_cannot_be_asked_are_refused(options, right, words):
    with pytest.raises(UserError) as caught:
        check_question(options, right)
    assert words in str(caught.value)


OPTIONS = ["Sharp", "Blurry.", "B", "Not at all"]
READ = {
    0: [
        "A",
        " A \n",
        "(A)",
        "[A]",
        "A.",
        "(A).",
        "A. Sharp",
        "A Sharp",
        "A.Sharp",
        "(A) Sharp",
        "(A)Sharp",
        "A. Sharp.",
    ],
    1: ["B", "B. Blurry.", "B Blurry."],
    2: ["C", "C. B", "C B"],
    3: ["D", "D. Not at all", "D.  Not \n at all", "(D) Not at all."],
}


@pytest.mark.parametrize(("place", "text"), [(place, text) for place, texts in READ.items() for text in texts])
def test_letters_that_are_read(place, text):
    assert read_letter(text, OPTIONS) == place


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", ".", "()", "a", "(a)", "AB", "A B", "A or B", "A, B", "A.B", "A. B", "A. B.", "A A", "(A)(B)"),
        *(
            "E",
            "(E)",
            "E.",
            "Sharp",
            "The answer is A",
            "A is right",
            "Answer: A",
            "A. Blurry.",
            "B. Sharp",
            "A, Sharp",
        ),
        *("ASharp", "A. sharp", "A. Sharp B", "A. Sharp. B. Blurry.", "(A", "A)", "[A)", "(A]", "A..", "A:", "А", "Ａ"),
        *("A. Sharp..", "D. Not", "D. Not at allow", "1", "<A>", "A. Sharp, of course"),
    ],
)
def test_letters_that_are_not_read(text):
    assert read_letter(text, OPTIONS) is None


def test_a_letter_goes_with_the_text_of_its_rotation():
    for shown in rotations(OPTIONS):
        for place, option in enumerate(shown):
            letter = "ABCD"[place]
            assert read_letter(f"{letter}. {option}", shown) == place
            assert read_letter(f"{letter}. {shown[place - 1]}", shown) is None


def test_multiple_choice_by_hand():
    answers = [
        [1, 0, 3, 2],  # right in all rotations: option 1 stands at 1, 0, 3, 2
        [0, 0],  # option 0 stands at 0, 1
        [1, None, 1],  # option 2 stands at 2, 1, 0
    ]
    known = multiple_choice(answers, right=[1, 0, 2])
    assert known.as_published == Share(2, 3)
    assert known.accuracy == pytest.approx((1 + 0.5 + 0) / 3)
    assert known.in_all == Share(1, 3)
    assert (known.unreadable, known.answers) == (1, 9)
    # of eight read: A three times, B three times, C and D once
    assert known.letters == (3 / 8, 3 / 8, 1 / 8, 1 / 8)
    # where the right option stood in these: A 1 + 1 + 1, B 1 + 1, C 1 + 1, D 1
    assert known.right_letters == (3 / 8, 2 / 8, 2 / 8, 1 / 8)
    assert known.position_bias == pytest.approx(1 / 8)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_a_blind_letter_is_right_once_a_question_and_never_throughout(n):
    right = [i % n for i in range(12)]
    for letter in range(n):
        known = multiple_choice([[letter] * n] * 12, right)
        assert known.accuracy == pytest.approx(1 / n) and known.in_all == Share(0, 12)
        assert known.as_published.value == pytest.approx(1 / n)
        assert known.position_bias == pytest.approx(1 - 1 / n)


@given(st.lists(st.tuples(st.integers(2, 4), st.integers(0, 3)), min_size=1))
def test_one_who_knows_has_no_bias_however_often_he_mumbles(questions):
    right = [option % n for n, option in questions]
    known = multiple_choice(
        [[(o - k) % n for k in range(n)] for (n, _), o in zip(questions, right, strict=True)], right
    )
    assert known.as_published.value == known.in_all.value == 1 and known.accuracy == pytest.approx(1)
    assert known.position_bias == 0
    half = [[(o - k) % n if k else None for k in range(n)] for (n, _), o in zip(questions, right, strict=True)]
    mumbled = multiple_choice(half, right)
    assert mumbled.as_published.value == mumbled.position_bias == 0 and mumbled.unreadable == len(questions)


def test_no_questions_and_no_readable_answers():
    nothing = multiple_choice([], [])
    assert math.isnan(nothing.accuracy) and nothing.letters == () and nothing.as_published == Share(0, 0)
    silent = multiple_choice([[None, None]], [1])
    assert (silent.accuracy, silent.unreadable) == (0, 2) and math.isnan(silent.position_bias)


@pytest.mark.parametrize(
    ("answers", "right", "words"),
    [
        ([[0, 1]], [], "answers to 1 questions and 0 right answers"),
        ([[0]], [0], "question 0 has 1 rotations"),
        ([[0, 1], [0, 1]], [0, 2], "question 1 has 2 rotations and the right option 2"),
        ([[0, 2]], [0], "question 0 has 2 options and the answers [0, 2]"),
    ],
)
def test_answers_that_fit_no_question_are_refused(answers, right, words):
    with pytest.raises(ValueError) as caught:
        multiple_choice(answers, right)
    assert words in str(caught.value)
