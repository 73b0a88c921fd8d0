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

import numpy as np
import torch

from vqr1.levels import ENDING, LEVELS, OPENING, LevelScore, level_score, word_tokens
from vqr1.policy.expected import TILE, attention_to_parts
from vqr1.policy.load import base_model
from vqr1.policy.read_once import of_rows
from vqr1.policy.segments import kernel_takes
from vqr1.policy.shared_prefix import AnswerBatch, Packing, Positions, log_probabilities, pack


@dataclass(frozen=True)
class LevelAnswers:
    """The answers that hold a level's word, in a vocabulary's tokens. Words in the order of vqr1.levels.LEVELS.

    With another opening and other words, answers of that form.

    Cut into tokens part by part: in a vocabulary that joins words, such as the tiny policy's, the whole text would have
    no place at which all words begin. In Qwen's both are the same.
    """

    opening: tuple[int, ...]
    words: tuple[tuple[int, ...], ...]  # as they are told apart: none begins another
    answers: tuple[tuple[int, ...], ...]  # whole, the end of the turn among them

    @classmethod
    def of(
        cls, tokenizer: Any, opening: str = OPENING, words: Sequence[str] = LEVELS, *, blank: bool = True
    ) -> LevelAnswers:
        """``blank``: whether one comes before the word.

        Raises UserError for words that the vocabulary does not know or cannot tell apart.
        """

        def ids(text: str) -> tuple[int, ...]:
            return tuple(tokenizer.encode(text, add_special_tokens=False))

        begin, ending = ids(opening), (*ids(ENDING), tokenizer.eos_token_id)
        told = word_tokens(tokenizer, words, blank=blank, end=ENDING)
        whole = ((*begin, *ids(" " * blank + word), *ending) for word in words)
        return cls(begin, tuple(map(tuple, told)), tuple(whole))


def branched(
    inputs: Mapping[str, Any], answers: Sequence[Sequence[int]], opening: Sequence[int] = (), pad: int = 0
) -> AnswerBatch:
    """Every prompt, gone on with ``opening``, with every one of W ``answers``: R * W rows, a prompt's in a row.

    ``inputs``: what the processor made of the R prompts with as many pictures each, padded on the left, plain or
    OncePerPrompt's.
    """
    ids, mask, image = (inputs[name] for name in ("input_ids", "attention_mask", "mm_token_type_ids"))
    grid, width = inputs["image_grid_thw"].reshape(len(ids), -1, 3), max(map(len, answers))
    picture = inputs["picture"].tolist() if "picture" in inputs else range(len(ids))
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


def level_scores(model: Any, tokenizer: Any, inputs: Mapping[str, Any], packing: Packing | None = None) -> LevelScore:
    """Score and spread of the pictures of R prompts by the five words, outside of training: one pass for all.

    Args:
        model: a Qwen2.5-VL, with LoRA or without, in evaluation mode, not sharded. Its attention is another during the
            call, so no other thread may use it then.
        tokenizer: its own.
        inputs: what the processor made of the R prompts, each with a picture, padded on the left, on the model's
            device; a plain processor or :class:`vqr1.policy.read_once.OncePerPrompt`. The prompt is the question that
            the policy was trained with; the answer's opening is added here.
        packing: how the pass is laid out. None: in segments where their kernel runs, else under a mask.

    Returns:
        (R,) scores on [1, 5]; a picture's do not depend on its batch but for the rounding of the policy's precision.

    Raises:
        UserError: words that the vocabulary does not know or cannot tell apart.
    """
    return level_score(read_words(model, LevelAnswers.of(tokenizer), inputs, packing))


@torch.no_grad()
def read_words(
    model: Any, answers: LevelAnswers, inputs: Mapping[str, Any], packing: Packing | None = None
) -> np.ndarray:
    """log P(word) of the W words after the answers' opening, (R, W) float64, over the whole vocabulary: one pass.

    Arguments as for `level_scores`; the prompts may have several pictures, as many each.
    """
    assert not model.training, "the policy is in training mode, with dropout"
    model = base_model(model)
    if packing is None:
        heads = torch.empty(0, dtype=model.dtype, device=model.device)
        packing = Packing("segments" if kernel_takes(heads) else "mask")
    packed = pack(branched(inputs, answers.words, answers.opening), model.model.get_rope_index, packing)
    told = packed.inputs.pop("shift_labels").flatten()[packed.places]
    with attention_to_parts(model):
        hidden = model.model(**packed.inputs, use_cache=False).last_hidden_state.flatten(0, 1)[packed.places]
    tiles = zip(hidden.split(TILE), told.split(TILE), strict=True)
    log_T = torch.cat([model.lm_head(h).float().log_softmax(-1).gather(1, t[:, None])[:, 0] for h, t in tiles])
    each = log_T.double().cpu().split([len(word) for word in answers.words] * len(inputs["input_ids"]))
    return torch.stack([word.sum() for word in each]).view(-1, len(answers.words)).numpy()
