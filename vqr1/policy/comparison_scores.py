"""What a policy thinks of two pictures, read in one pass: how probable it is that the second is the better one.

    The first image: [picture] The second image: [picture] question | The quality of the second image is | inferior
                                                                                                        | worse ...
    Image A: [picture] Image B: [picture] question | Image | A
                                                           | B

As :mod:`vqr1.policy.level_scores` reads levels, with the words and the answer of Compare2Score (arXiv 2405.19298), or
off a policy that has learnt to answer by tags with the letters of DepictQA (arXiv 2312.08962); :mod:`vqr1.comparison`
and :mod:`vqr1.votes` make scores of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vqr1.comparison.words import ANSWER, WORDS, preference
from vqr1.depiction import LETTERS, OPENING
from vqr1.policy.level_scores import LevelAnswers, read_words
from vqr1.policy.shared_prefix import Packing
from vqr1.votes import vote_of_letters


@dataclass(frozen=True)
class PairForm:
    """A form in which a policy says which of two pictures is better."""

    answers: Callable[[Any], LevelAnswers]  # of a tokenizer; raises UserError for words that it cannot tell apart
    second: Callable[[np.ndarray], np.ndarray]  # P(second better), from the words' log-probabilities (..., W)


def comparison_answers(tokenizer: Any) -> LevelAnswers:
    """The answers that hold a comparison's word, in the order of vqr1.comparison.words.WORDS.

    Raises UserError for words that the vocabulary does not know or cannot tell apart.
    """
    return LevelAnswers.of(tokenizer, ANSWER, WORDS)


def tag_answers(tokenizer: Any) -> LevelAnswers:
    """The short answers that name Image A or Image B. Raises as `comparison_answers`."""
    return LevelAnswers.of(tokenizer, OPENING, LETTERS)


def confidence(log_MW: np.ndarray) -> np.ndarray:
    """P(Image B) over the two letters alone, from their log-probabilities (..., 2)."""
    return vote_of_letters(log_MW[..., 1], log_MW[..., 0])


def pair_form(learnt: str | None) -> PairForm:
    """How a policy is read that has learnt by an objective of vqr1.config.Objective, None where that is not stated."""
    return PairForm(tag_answers, confidence) if learnt == "depict" else PairForm(comparison_answers, preference)


def preferences(
    model: Any, tokenizer: Any, inputs: Mapping[str, Any], learnt: str | None = None, packing: Packing | None = None
) -> np.ndarray:
    """P(the second picture is better) of R prompts with two pictures each, (R,) float64: one pass for all.

    ``learnt`` is the objective by which the policy did. Other arguments and errors as for
    :func:`vqr1.policy.level_scores.level_scores`. A picture that several prompts show is encoded once where the
    policy's vision tower skips copies (:mod:`vqr1.policy.read_once`).
    """
    form = pair_form(learnt)
    return form.second(read_words(model, form.answers(tokenizer), inputs, packing))
