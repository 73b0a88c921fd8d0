"""Quality as a word: bad, poor, fair, good or excellent, and numbers from what a policy thinks of the five words.

Q-Align (arXiv 2312.17090) teaches a policy the word into whose part of the scale a picture's mean opinion score (MOS)
falls, and reads a score from the probabilities of the words. DeQA-Score (arXiv 2501.11561) teaches it how opinions
spread over the words. Arrays in, arrays out: numpy, no model. The training losses are in vqr1.training.level_losses.

The last axis of logits and probabilities runs over `LEVELS`; axes before it, written as ..., are the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from vqr1.errors import UserError

LEVELS = ("bad", "poor", "fair", "good", "excellent")
OPENING, ENDING = "The quality of the image is", "."  # of the answer that holds the word
WEIGHTS = (1.0, 2.0, 3.0, 4.0, 5.0)  # the score that each word stands for
FORGIVEN = 1e-9  # bins by which rounding may put a MOS above the edge that it is on
# Log odds of two neighbouring levels beyond which float64 has nothing left of the smaller: exp(-750) is 0.
WIDEST = 750.0


class _Tokenizer(Protocol):
    """What `word_tokens` needs of a tokenizer; transformers' have it."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...
    def decode(self, token_ids: list[int]) -> str: ...


@dataclass(frozen=True)
class LevelScore:
    """What the probabilities of the five words say of a picture, float64.

    >>> LevelScore(np.array([0.0, 0.0, 0.5, 0.5, 0.0]), np.array(3.5), np.array(0.5)).score01
    np.float64(0.625)
    """

    probabilities: np.ndarray  # (..., 5), summing to 1
    score: np.ndarray  # (...), on [1, 5]
    std: np.ndarray  # (...), of a word that is drawn, on the scale of the score

    @property
    def score01(self) -> np.ndarray:
        """The score on [0, 1]: (score - 1) / 4."""
        return (self.score - WEIGHTS[0]) / (WEIGHTS[-1] - WEIGHTS[0])


def level_of(mos: ArrayLike, low: ArrayLike, high: ArrayLike) -> np.ndarray:
    """The level of an opinion score: five equal bins of its dataset's scale, each with its upper edge.

        level = min(max(ceil(5 (mos - low) / (high - low) - 1e-9), 1), 5)

    Source: Q-Align, section 3, its conversion of scores into levels. 1e-9 of a bin is forgiven, since 0.6 as 3 * 0.2
    lies above the edge at 3/5 in floating point. ``low`` itself is level 1.

    Args:
        mos: opinion scores, higher is better.
        low, high: the ends of the dataset's scale, and not of what happens to be in a split. All broadcast.

    Returns:
        Levels 1 to 5, integers of the broadcast shape; level l is the word ``LEVELS[l - 1]``.

    Raises:
        UserError: a MOS that is NaN or outside of [low, high], ends that are not finite or not in this order.

        >>> level_of([0, 20, 20.1, 100], 0, 100)
        array([1, 1, 2, 5])
    """
    place = 5 * _place(mos, low, high)
    return np.clip(np.ceil(place - FORGIVEN), 1, 5).astype(int)


def on_level_scale(mos: ArrayLike, std: ArrayLike, low: ArrayLike, high: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """An opinion score and its standard deviation on the scale of the words, 1 to 5, for `soft_label`.

    Arguments and errors as for `level_of`, and a UserError for a std that is negative or not finite.

        >>> on_level_scale(75, 10, 0, 100)
        (np.float64(4.0), np.float64(0.4))
    """
    place, spread = np.broadcast_arrays(_place(mos, low, high), _spread(std))
    return 1 + 4 * place, 4 * spread / (np.asarray(high, dtype=float) - np.asarray(low, dtype=float))


def level_score(logits: ArrayLike) -> LevelScore:
    """Score and spread from the logits of the five words, a softmax over these five alone (closed set).

        p_i = exp(x_i) / sum_j exp(x_j),   score = sum p_i i,   std = sqrt(sum p_i (i - score)^2)

    Source: Q-Align, section 3 (softmax and weighted average); the std is DeQA-Score's. A constant added to all logits
    changes nothing, so log-probabilities serve as well, of words of several tokens too (`word_log_probabilities`).

    Args:
        logits: (..., 5) at the position where the word comes, in the order of `LEVELS`. -inf is a word that cannot
            come.

    Raises:
        ValueError: another last axis, NaN, +inf, or five words none of which can come.

    Fair and good are equally probable, the others are not:

        >>> said = level_score([-np.inf, -np.inf, 7.0, 7.0, -np.inf])
        >>> float(said.score), float(said.std)
        (3.5, 0.5)
    """
    x = np.asarray(logits, dtype=float)
    if x.ndim == 0 or x.shape[-1] != len(LEVELS):
        raise ValueError(f"logits of shape {x.shape}: the last axis runs over the {len(LEVELS)} words")
    if np.isnan(x).any() or (x == np.inf).any():
        raise ValueError("a logit is NaN or infinite: look for an overflow in half precision")
    highest = x.max(-1, keepdims=True)
    if (highest == -np.inf).any():
        raise ValueError("all five logits are -inf: none of the words can come")
    p = np.exp(x - highest)
    p /= p.sum(-1, keepdims=True)
    score = p @ np.array(WEIGHTS)
    std = np.sqrt((p * (np.array(WEIGHTS) - score[..., None]) ** 2).sum(-1))
    return LevelScore(p, score, std)


def word_tokens(
    tokenizer: _Tokenizer, words: Sequence[str] = LEVELS, *, blank: bool = True, end: str = ""
) -> list[list[int]]:
    """The tokens of each word as a policy would generate it, such that no word begins another.

    A vocabulary may cut a word into several tokens, and otherwise after a blank than without one: Qwen's has ``poor``
    in two and `` poor`` in one. Scores from first tokens alone are wrong where two words share one.

    Args:
        tokenizer: `encode` and `decode` of a tokenizer of transformers.
        words: what the answer may be.
        blank: whether a blank comes before the word: it does after "The quality of the image is", which ends without.
        end: the text that follows the answer, such as "." or "<|im_end|>". A word whose tokens begin another word's is
            the answer only if this follows, so its tokens are added to that word.

    Returns:
        For each word its tokens, whose log-probabilities `word_log_probabilities` adds up.

    Raises:
        UserError: a word that the vocabulary does not know (its tokens do not read back as the word), two words with
            the same tokens, or one whose tokens begin another's and that ``end`` does not end.

        >>> class Letters:
        ...     def encode(self, text, *, add_special_tokens):
        ...         return [ord(letter) for letter in text]
        ...     def decode(self, token_ids):
        ...         return "".join(map(chr, token_ids))
        >>> word_tokens(Letters(), ["no", "not"], blank=False, end=".")
        [[110, 111, 46], [110, 111, 116]]
    """
    texts = [" " * blank + word for word in words]
    tokens = [list(tokenizer.encode(text, add_special_tokens=False)) for text in texts]
    for word, own in zip(words, tokens, strict=True):
        if not word or not own or tokenizer.decode(own).strip() != word:
            raise UserError(
                f"the tokenizer does not know the word {word!r}: its tokens {own} read {tokenizer.decode(own)!r}; use "
                "another word, or a policy with another vocabulary"
            )
    ended = list(tokens)
    for i in _beginnings(tokens):
        longer = list(tokenizer.encode(texts[i] + end, add_special_tokens=False))
        if longer[: len(tokens[i])] == tokens[i]:  # else what follows would change the word's own tokens
            ended[i] = longer
    for i, other in _beginnings(ended).items():
        if tokens[i] == tokens[other]:
            raise UserError(f"{words[i]!r} and {words[other]!r} have the same tokens, {tokens[i]}: use other words")
        raise UserError(
            f"the tokens of {words[i]!r}, {ended[i]}, begin those of {words[other]!r}, {ended[other]}: the two cannot "
            f"be told apart after end={end!r}; say by end what follows the answer, or use other words"
        )
    return ended


def word_log_probabilities(token_log_probabilities: Sequence[ArrayLike]) -> np.ndarray:
    """log P(word) = sum over its tokens t of log P(t | prompt, the word's tokens before t).

    Args:
        token_log_probabilities: for each of W words (..., T_w), the conditional log-probabilities of its T_w tokens,
            each over the whole vocabulary. T_w differs from word to word, the axes before do not.

    Returns:
        (..., W); with five words, `level_score` takes it as logits.

    Raises:
        ValueError: no word, a word without tokens, axes that differ, NaN, or a probability above 1.

    P(good) = 0.5 * 0.4 and P(bad) = 0.5 * 0.2, where the first token alone would not tell them apart:

        >>> np.exp(word_log_probabilities([np.log([0.5, 0.4]), np.log([0.5, 0.2])])).round(3).tolist()
        [0.2, 0.1]
    """
    words = [np.asarray(word, dtype=float) for word in token_log_probabilities]
    if not words or any(word.ndim == 0 or word.shape[-1] == 0 for word in words):
        raise ValueError("log-probabilities of tokens: one or more for each of one or more words")
    if len({word.shape[:-1] for word in words}) > 1:
        raise ValueError(f"words of the shapes {[word.shape for word in words]}: all axes but the last must agree")
    # A log-softmax in half or single precision may come out a rounding above 0.
    if any(not (word <= 1e-3).all() for word in words):
        raise ValueError("a log-probability is NaN or above 0: give log-probabilities, not logits")
    return np.stack([word.sum(-1) for word in words], axis=-1)


def soft_label(mos: ArrayLike, std: ArrayLike) -> np.ndarray:
    """How opinions with this mean and spread fall on the five levels: a discrete normal distribution of that mean.

        p_i proportional to exp(-(i - t)^2 / (2 std^2)), i = 1..5, with t such that sum p_i i = mos

    Source: the score distribution of DeQA-Score, which takes the density at the levels with t = mos and corrects the
    mean by alpha p + beta, clipped at 0, so that labels neither sum to 1 nor are continuous. Here t is solved for: the
    labels sum to 1, are positive, have the MOS as their mean to 1e-9 and are continuous in mos and std. The limit for
    std to 0 is taken at 0: the two levels around the MOS, linearly; at 1 and 5 all is on that level. Only the mean is
    matched: the label's own spread is near std from about 0.5 up and away from the ends of the scale.

    Args:
        mos, std: on the scale from 1 to 5 (`on_level_scale`), broadcast.

    Returns:
        (..., 5), float64.

    Raises:
        UserError: a MOS that is NaN or outside of [1, 5], a std that is negative or not finite.

        >>> soft_label(3.25, 0).round(9).tolist()
        [0.0, 0.0, 0.75, 0.25, 0.0]
        >>> soft_label(4.2, 0.8).round(3).tolist()
        [0.0, 0.009, 0.141, 0.492, 0.359]
    """
    m, s = np.broadcast_arrays(np.asarray(mos, dtype=float), _spread(std))
    if not ((m >= 1) & (m <= 5)).all():
        raise UserError(
            f"MOS {_first(m, ~((m >= 1) & (m <= 5)))} is not on the scale of the levels, 1 to 5: rescale it"
        )
    # With k the level below the MOS and d = i - k, the exponent is d u - d (d - 1) / (2 std^2) but for what all levels
    # share, where u = (t - k - 1/2) / std^2 are the log odds of level k + 1 against k. In u nothing is large and
    # subtracted for a small std, the limit is no special case, and the mean rises with u.
    k = np.minimum(np.floor(m), 4)
    d = np.array(WEIGHTS) - k[..., None]
    steps = d * (d - 1)  # 0 for the two levels around the MOS, else positive
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        penalty = np.where(steps == 0, 0, steps / (2 * s[..., None] ** 2))

    def label(u: np.ndarray) -> np.ndarray:
        exponent = d * u[..., None] - penalty
        p = np.exp(exponent - exponent.max(-1, keepdims=True))
        return p / p.sum(-1, keepdims=True)

    low, high = np.full_like(m, -WIDEST), np.full_like(m, WIDEST)
    for _ in range(64):  # halvings, to the last bit
        u = (low + high) / 2
        above = (label(u) * d).sum(-1) > m - k
        low, high = np.where(above, low, u), np.where(above, u, high)
    return label((low + high) / 2)


def gaussian_kl(mean: ArrayLike, std: ArrayLike, predicted_mean: ArrayLike, predicted_std: ArrayLike) -> np.ndarray:
    """Kullback-Leibler divergence of the predicted normal distribution from people's.

        KL(N(m1, s1) || N(m2, s2)) = log(s2 / s1) + (s1^2 + (m1 - m2)^2) / (2 s2^2) - 1/2

    Source: the metric of DeQA-Score's distributions, without the 1e-8 that its code adds to denominators.

    Args:
        mean, std: of people's opinions.
        predicted_mean, predicted_std: of the prediction, on the same scale (`LevelScore`). All broadcast.

    Returns:
        Nats, 0 or more. Infinite where one has no spread and the other is not equal to it: then the figure cannot be
        averaged, and `gaussian_w2` can.

    Raises:
        ValueError: a std that is negative, or any number that is not finite.

        >>> float(gaussian_kl(3.0, 0.5, 4.0, 0.5))
        2.0
    """
    m1, s1, m2, s2 = _gaussians(mean, std, predicted_mean, predicted_std)
    flat, equal = (s1 == 0) | (s2 == 0), (m1 == m2) & (s1 == s2)
    one, two = np.where(flat, 1, s1), np.where(flat, 1, s2)
    with np.errstate(over="ignore"):
        x = 2 * (np.log(one) - np.log(two))  # exp(x) - 1 - x loses nothing where the spreads are nearly equal
        kl = np.maximum((((m1 - m2) / two) ** 2 + np.expm1(x) - x) / 2, 0)
    return np.where(equal, 0, np.where(flat, np.inf, kl))


def gaussian_w2(mean: ArrayLike, std: ArrayLike, predicted_mean: ArrayLike, predicted_std: ArrayLike) -> np.ndarray:
    """Wasserstein distance of order 2 between two normal distributions, on the scale of the scores.

        W2 = sqrt((m1 - m2)^2 + (s1 - s2)^2)

    Source: a metric of DeQA-Score's distributions. Symmetric. Arguments and errors as for `gaussian_kl`.

        >>> float(gaussian_w2(3.0, 0.5, 3.0, 0.75))
        0.25
    """
    m1, s1, m2, s2 = _gaussians(mean, std, predicted_mean, predicted_std)
    return np.hypot(m1 - m2, s1 - s2)


def gaussian_js(mean: ArrayLike, std: ArrayLike, predicted_mean: ArrayLike, predicted_std: ArrayLike) -> np.ndarray:
    """What DeQA-Score calls the Jensen-Shannon divergence of two normal distributions.

        (KL(N1 || M) + KL(N2 || M)) / 2,   M = N((m1 + m2) / 2, sqrt((s1^2 + s2^2) / 2))

    The divergence of that name takes the mixture of both for M, which is not normal and has log 2 as its bound; this
    one has none. Symmetric. Arguments, errors and infinite values as for `gaussian_kl`.

        >>> float(gaussian_js(3.0, 0.5, 4.0, 0.5))
        0.5
    """
    m1, s1, m2, s2 = _gaussians(mean, std, predicted_mean, predicted_std)
    middle, spread = m1 + (m2 - m1) / 2, np.hypot(s1, s2) / np.sqrt(2)
    spread = np.where(s1 == s2, s1, spread)  # exactly
    return (gaussian_kl(m1, s1, middle, spread) + gaussian_kl(m2, s2, middle, spread)) / 2


def _place(mos: ArrayLike, low: ArrayLike, high: ArrayLike) -> np.ndarray:
    """Where the MOS lies on its scale, 0 to 1."""
    m, lowest, highest = np.broadcast_arrays(*(np.asarray(value, dtype=float) for value in (mos, low, high)))
    with np.errstate(over="ignore", invalid="ignore"):
        known = np.isfinite(highest - lowest) & (lowest < highest)
    if not known.all():
        raise UserError(
            f"low {_first(lowest, ~known)} and high {_first(highest, ~known)} are not the ends of a scale: give the "
            "lowest and the highest possible MOS of the dataset"
        )
    outside = ~((m >= lowest) & (m <= highest))
    if outside.any():
        raise UserError(
            f"MOS {_first(m, outside)} is not on its scale, {_first(lowest, outside)} to {_first(highest, outside)}: "
            "correct the MOS or the scale of its dataset"
        )
    return (m - lowest) / (highest - lowest)


def _spread(std: ArrayLike) -> np.ndarray:
    s = np.asarray(std, dtype=float)
    known = (s >= 0) & (s < np.inf)
    if not known.all():
        raise UserError(f"std {_first(s, ~known)} is no standard deviation: give a number from 0 up")
    return s


def _first(values: np.ndarray, where: np.ndarray) -> float:
    return float(values[where].flat[0])


def _beginnings(tokens: Sequence[list[int]]) -> dict[int, int]:
    """Words whose tokens begin another word's, or equal them, and that other word."""
    found = {}
    for i, own in enumerate(tokens):
        for other, longer in enumerate(tokens):
            if i != other and longer[: len(own)] == own:
                found[i] = other
    return found


def _gaussians(*values: ArrayLike) -> list[np.ndarray]:
    m1, s1, m2, s2 = np.broadcast_arrays(*(np.asarray(value, dtype=float) for value in values))
    if not all(np.isfinite(value).all() for value in (m1, s1, m2, s2)):
        raise ValueError("means and standard deviations must be finite: leave out what has none")
    if (s1 < 0).any() or (s2 < 0).any():
        raise ValueError("a standard deviation is negative: give standard deviations")
    return [m1, s1, m2, s2]
