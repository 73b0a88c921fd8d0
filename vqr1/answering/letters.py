"""Questions with options in, the likeliest of their letters out, nothing being written."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

from vqr1.answering.answerer import Answerer
from vqr1.policy.level_scores import LevelAnswers, read_words
from vqr1.rollout.offline import Policy, encode_prompts


def likeliest_letters(answerer: Answerer, examples: Sequence[dict[str, Any]], options: Sequence[int]) -> list[str]:
    """Of each example with so many options, the letter with which its answer most likely begins, of these alone.

    ``examples`` have ``prompt`` and ``images``; those with as many pictures and options are read in one pass. The
    attention of the policy is another during the call, so no other thread may use it then. Raises UserError for letters
    that the vocabulary does not know.
    """
    policy = answerer.policy
    assert isinstance(policy, Policy), "the probabilities are read off the policy under transformers"
    tokenizer = answerer.processor.tokenizer
    found = [""] * len(examples)
    alike: dict[tuple[int, int], list[int]] = {}
    for i, (example, number) in enumerate(zip(examples, options, strict=True)):
        alike.setdefault((len(example["images"]), number), []).append(i)
    for (_, number), members in alike.items():
        letters = ascii_uppercase[:number]
        answers = LevelAnswers.of(tokenizer, "", letters, blank=False)
        inputs = encode_prompts(answerer.processor, [examples[i] for i in members]).to(policy.model.device)
        for i, best in zip(members, read_words(policy.model, answers, inputs).argmax(1).tolist(), strict=True):
            found[i] = letters[best]
    return found
