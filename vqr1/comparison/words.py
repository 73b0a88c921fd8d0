"""One comparison of two pictures: the word that people's scores give it, and the preference in a policy's answer.

The answer is about the second picture, compared with the first. Compare2Score (arXiv 2405.19298) has the five words,
their order and the two-picture question.

Shapes: `...` is any; M pairs.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from vqr1.errors import UserError

WORDS = ("inferior", "worse", "similar", "better", "superior")  # of the second picture against the first
QUESTION = "Compared with the first image, what is your quality rating for second image?"  # as published
ANSWER = "The quality of the second image is"  # and the word
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # the preference for the second picture that a word stands for
SIMILAR = WORDS.index("similar")
EDGE = 1e-9  # of the spread: a gap that is off its edge by rounding alone is on it


def pair_spread(std_first: ArrayLike, std_second: ArrayLike) -> np.ndarray:
    """The standard deviation of the difference between one rating of each picture.

        s = sqrt(std_first^2 + std_second^2)

    Args:
        std_first, std_second: standard deviations of the ratings, on the scale of the MOS, of shapes that broadcast.

    Returns:
        s, float64 of the broadcast shape.

    Raises:
        UserError: a std that is missing (NaN), negative or infinite. For a set without standard deviations state one s.

        >>> float(pair_spread(3.0, 4.0))
        5.0
    """
    first, second = np.asarray(std_first, dtype=float), np.asarray(std_second, dtype=float)
    for std in (first, second):
        _check_spread(std)
    return np.hypot(first, second)


def compare_mos(mos_first: ArrayLike, mos_second: ArrayLike, spread: ArrayLike) -> np.ndarray:
    """The word for the second picture against the first, both of one dataset, as an index into `WORDS`.

        d = mos_second - mos_first
        |d| <= s        similar
        s < |d| <= 2s   better (d > 0) or worse
        2s < |d|        superior or inferior

    Swapping the pictures swaps the words, and d = 0 is similar whatever s is. An edge is forgiven by 1e-9 s. After the
    empirical rule of Compare2Score (arXiv 2405.19298), whose published code has half-open intervals: those are not
    symmetric, and make the second of two equal pictures without spread inferior.

    Args:
        mos_first, mos_second: MOS, higher = better, on the scale of one dataset, of shapes that broadcast.
        spread: s, `pair_spread`, or one number for a dataset without standard deviations.

    Returns:
        Integers from 0 to 4 of the broadcast shape.

    Raises:
        UserError: a MOS that is not finite; a spread that is missing (NaN), negative or infinite.

        >>> [WORDS[i] for i in compare_mos(3.0, [3.0, 3.5, 3.6, 2.0, 1.9], 0.5)]
        ['similar', 'similar', 'better', 'worse', 'inferior']
    """
    first, second = np.asarray(mos_first, dtype=float), np.asarray(mos_second, dtype=float)
    s = np.asarray(spread, dtype=float)
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise UserError("a MOS is not finite: leave pictures without a MOS out of the comparison")
    _check_spread(s)
    gap = second - first
    size, edge = np.abs(gap), s * (1 + EDGE)
    steps = (size > edge).astype(int) + (size > 2 * edge)
    return SIMILAR + np.sign(gap).astype(int) * steps


def preference(logits: ArrayLike, temperature: float = 1.0) -> np.ndarray:
    """The probability that the second picture is better, from the logits of the five words.

        P(second better) = sum_w softmax(logits / temperature)_w WEIGHTS_w

    A constant added to all logits changes nothing, and reversing the words gives 1 - P. Compare2Score's soft comparison
    (arXiv 2405.19298) with the policy's own temperature; its published code divides by 100, which leaves P between
    0.475 and 0.525.

    Args:
        logits: (..., 5) in the order of `WORDS`: logits, or log-probabilities of words of several tokens. -inf is a
            word that cannot follow.
        temperature: positive; 1 is the policy's own.

    Returns:
        P in [0, 1], float64 of shape (...).

    Raises:
        ValueError: another number of words, logits that are NaN or inf, five of -inf, a temperature not above 0.

        >>> float(preference([0.0, 0.0, 0.0, 0.0, 0.0]))
        0.5
        >>> float(preference([-1000.0, -1000.0, -1000.0, 0.0, 0.0]))
        0.875
    """
    values = np.asarray(logits, dtype=float)
    if values.ndim == 0 or values.shape[-1] != len(WORDS):
        raise ValueError(f"logits of shape {values.shape}: the last axis has the {len(WORDS)} words {', '.join(WORDS)}")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature} must be a positive number; 1 is the policy's own")
    top = values.max(axis=-1, keepdims=True)
    if not np.isfinite(top).all():
        raise ValueError("logits with NaN or inf, or of which no word is possible: give the five logits of one answer")
    with np.errstate(over="ignore"):
        weight = np.exp((values - top) / temperature)
    return weight @ np.asarray(WEIGHTS) / weight.sum(axis=-1)


def both_orders(test_after_anchor: ArrayLike, anchor_after_test: ArrayLike) -> np.ndarray:
    """The probability that the test picture is better than the anchor, asked in both orders.

        (P(test better | anchor first) + 1 - P(anchor better | test first)) / 2

    What a policy adds to the second picture whichever it is cancels. Compare2Score (arXiv 2405.19298) asks one order.

    Args:
        test_after_anchor: `preference` with the anchor first and the test picture second.
        anchor_after_test: `preference` with the test picture first and the anchor second.

    Returns:
        Probabilities, float64 of the broadcast shape.

    Raises:
        ValueError: what is no probability.

        >>> float(both_orders(0.75, 0.5))
        0.625
    """
    first, second = np.asarray(test_after_anchor, dtype=float), np.asarray(anchor_after_test, dtype=float)
    check_probabilities(first)
    check_probabilities(second)
    return (first + (1 - second)) / 2


def check_probabilities(values: np.ndarray) -> None:
    """Raises ValueError for a value that is no probability."""
    wrong = values[~((values >= 0) & (values <= 1))]
    if wrong.size:
        raise ValueError(f"a preference of {wrong.flat[0]}: give probabilities, and leave out what was not compared")


def _check_spread(values: np.ndarray) -> None:
    wrong = values[~((values >= 0) & (values < math.inf))]
    if wrong.size:
        raise UserError(
            f"a spread of {wrong.flat[0]}: comparing needs the standard deviations of the ratings, finite and not "
            "negative; for a dataset that has none state one spread"
        )
