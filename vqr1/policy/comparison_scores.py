"""What a policy thinks of two pictures, read in one pass: how probable it is that the second is the better one.

    The first image: [picture] The second image: [picture] question | The quality of the second image is | inferior
                                                                                                        | worse ...

As :mod:`vqr1.policy.level_scores` reads levels, with the words and the answer of Compare2Score (arXiv 2405.19298);
:mod:`vqr1.comparison` makes scores of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vqr1.comparison.words import ANSWER, WORDS, preference
from vqr1.policy.level_scores import LevelAnswers, read_words
from vqr1.policy.shared_prefix import Packing


def comparison_answers(tokenizer: Any) -> LevelAnswers:
    """The answers that hold a comparison's word, in the order of vqr1.comparison.words.WORDS.

    Raises UserError for words that the vocabulary does not know or cannot tell apart.
    """
    return LevelAnswers.of(tokenizer, ANSWER, WORDS)


def preferences(model: Any, tokenizer: Any, inputs: Mapping[str, Any], packing: Packing | None = None) -> np.ndarray:
    """P(the second picture is better) of R prompts with two pictures each, (R,) float64: one pass for all.

    Arguments and errors as for :func:`vqr1.policy.level_scores.level_scores`. A picture that several prompts show is
    encoded once where the policy's vision tower skips copies (:mod:`vqr1.policy.read_once`).
    """
    return preference(read_words(model, comparison_answers(tokenizer), inputs, packing))
