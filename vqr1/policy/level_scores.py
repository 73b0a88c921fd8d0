"""What a policy thinks of the five levels' words, read in one pass: the probability of each as the answer goes on.

    prompt | The quality of the image is | bad
                                         | poor
                                         | fair ...

A word may be several tokens: its log-probability is the sum of theirs, each given those before it. The words hang as
branches behind one copy of picture, prompt and the answer's beginning (:mod:`vqr1.policy.shared_prefix`), so that they
cost little more than a single token. From there on :mod:`vqr1.levels` makes score and spread of them.

Source: the prompt and the answer's form are Q-Align's (Wu and others, arXiv 2312.17090).

Shapes: R prompts with a picture each, W words, S the longest answer's tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vqr1.levels import LEVELS, word_tokens
from vqr1.policy.read_once import of_rows
from vqr1.policy.shared_prefix import AnswerBatch, Packing, Positions, log_probabilities

OPENING, ENDING = "The quality of the image is", "."


@dataclass(frozen=True)
class LevelAnswers:
    """The answers that hold a level's word, in a vocabulary's tokens. Words in the order of vqr1.levels.LEVELS.

    Cut into tokens part by part: in a vocabulary that joins words, such as the tiny policy's, the whole text would have
    no place at which all words begin. In Qwen's both are the same.
    """

    opening: tuple[int, ...]
    words: tuple[tuple[int, ...], ...]  # as they are told apart: none begins another
    answers: tuple[tuple[int, ...], ...]  # whole, the end of the turn among them

    @classmethod
    def of(cls, tokenizer: Any) -> LevelAnswers:
        """Raises UserError for words that the vocabulary does not know or cannot tell apart."""

        def ids(text: str) -> tuple[int, ...]:
            return tuple(tokenizer.encode(text, add_special_tokens=False))

        opening, ending = ids(OPENING), (*ids(ENDING), tokenizer.eos_token_id)
        words = word_tokens(tokenizer, LEVELS, blank=True, end=ENDING)
        whole = ((*opening, *ids(f" {word}"), *ending) for word in LEVELS)
        return cls(opening, tuple(map(tuple, words)), tuple(whole))


def branched(
    inputs: Mapping[str, Any], answers: Sequence[Sequence[int]], opening: Sequence[int] = (), pad: int = 0
) -> AnswerBatch:
    """Every prompt, gone on with ``opening``, with every one of W ``answers``: R * W rows, a prompt's in a row.

    ``inputs``: what the processor made of the R prompts, padded on the left, plain or OncePerPrompt's.
    """
    ids, mask, image = (inputs[name] for name in ("input_ids", "attention_mask", "mm_token_type_ids"))
    grid, width = inputs["image_grid_thw"], max(map(len, answers))
    picture = inputs["picture"].tolist() if "picture" in inputs else range(len(grid))
    pictures = of_rows(inputs["pixel_values"], grid, picture)
    rows = torch.arange(len(ids), device=ids.device).repeat_interleave(len(answers))
    begun = ids.new_tensor(list(opening)).expand(len(ids), -1)
    told = ids.new_tensor([[*answer, *[pad] * (width - len(answer))] for answer in answers])
    kept = mask.new_tensor([[1] * len(answer) + [0] * (width - len(answer)) for answer in answers])
    return AnswerBatch(
        torch.cat([ids, begun], 1)[rows],
        torch.cat([mask, torch.ones_like(begun)], 1)[rows],
        told.repeat(len(ids), 1),
        kept.repeat(len(ids), 1),
        torch.cat([image, torch.zeros_like(begun)], 1)[rows],
        [pictures[r] for r in rows.tolist()],
        grid[rows],
    )


def level_log_probabilities(
    model: Any, inputs: Mapping[str, Any], answers: LevelAnswers, positions: Positions, packing: Packing
) -> torch.Tensor:
    """log P(word) of the five words after the answer's opening, (R, 5), over the whole vocabulary.

    ``model`` has TRL's fused head (trl.trainer.utils.add_fused_lm_head) and its language model attends by
    :mod:`vqr1.policy.segments`; ``positions`` is its ``get_rope_index``. One call of it, whatever the words.
    """
    batch = branched(inputs, answers.words, answers.opening)
    log_RS, _ = log_probabilities(model, batch, positions, packing)
    return log_RS.sum(1).view(-1, len(answers.words))
