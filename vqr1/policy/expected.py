"""The distribution of the score that follows a reasoning, read off the policy instead of drawn from it.

A drawn score is one of many numbers that the policy might have written behind the same reasoning. Here all of them are
looked at. The digits of which numbers are made hang as a tree behind the reasoning, one pass of the policy reads every
path of it, and a number's probability is the product of those of its tokens:

    P(4.57) = P(4 | x) P(. | x 4) P(5 | x 4.) P(7 | x 4.5)          x: picture, prompt, reasoning, opening tag
    P(4.5)  = P(4 | x) P(. | x 4) P(5 | x 4.) P(end | x 4.5)        end: the closing tag begins, or a white space
    mass = sum_s P(s)      mean = sum_s P(s) s / mass      std^2 = sum_s P(s) (s - mean)^2 / mass

The numbers s are those that :func:`vqr1.answer.read_score` reads, which decides what the tree holds: 5.01, 0.9 and "3."
are none, nothing is clipped, and the probability of what is none is missing from the mass. The tree ends where the
number does: at the first token that ends it, or at the last decimal that is walked. What stands behind is not looked
at: decimals beyond the last are cut off, and what may go wrong there is not taken from the mass.

The reasoning is given. What other reasonings would have led to, about half of the variance of a picture's drawn scores,
is not in the std; :func:`vqr1.rating_statistics.moments` has both, from several reasonings of a picture.

Each prompt stands once, behind it its distinct reasonings, and behind each of them the tree, as the attention of
:mod:`vqr1.policy.shared_prefix` allows it; with two decimals that is 51 tokens:

    prompt | reasoning 1 | 1 . | 0 | 1 | ... | 9 | 2 . | 0 | ... | 5 . 0 | reasoning 2 | 1 . | ...

Source: an expectation over what a model might say in place of what it says is the score of G-Eval (Liu and others,
arXiv 2303.16634, Eq. 1) and, over words, of Q-Align (Wu and others, arXiv 2312.17090). The tree is ours.

Shapes: R answers, G distinct prompts, Q distinct reasonings, V nodes of a tree (the place where it hangs, and a node
for each token walked), S numbers, C characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import torch

from vqr1.answer import read_score
from vqr1.errors import UserError
from vqr1.policy import segments
from vqr1.policy.load import base_model
from vqr1.policy.read_once import numbered, of_rows
from vqr1.policy.segments import kernel_takes
from vqr1.policy.shared_prefix import AnswerBatch, Packing, Positions, lay_out, same_prompt, seen_by_prompts

CHARACTERS = "0123456789."
END = len(CHARACTERS)  # the column of what ends a number, after those of the characters
OPENING, CLOSING = "<answer>", "</answer>"
TILE = 256  # tokens whose probabilities over the whole vocabulary are held at a time


@dataclass(frozen=True)
class ScoreDistribution:
    """What each of R answers' scores might have been, given what stands before the number. On the CPU, float64."""

    support_S: torch.Tensor  # the numbers, ascending
    probability_RS: torch.Tensor  # of each; what is missing to 1 is unreadable

    @property
    def mass_readable_R(self) -> torch.Tensor:
        """The probability that a readable number follows; 0 where the answer has no place for one."""
        return self.probability_RS.sum(1)

    @property
    def mean_R(self) -> torch.Tensor:
        """The expected score among readable ones; NaN where nothing is readable."""
        return self.probability_RS @ self.support_S / self.mass_readable_R

    @property
    def std_R(self) -> torch.Tensor:
        """The score's standard deviation given the reasoning; NaN where nothing is readable."""
        from_mean = self.support_S - self.mean_R[:, None]
        return ((self.probability_RS * from_mean.square()).sum(1) / self.mass_readable_R).sqrt()


class Leaf(NamedTuple):
    """A number that is over: by the token of ``column`` (a character's, or END) at ``node``."""

    node: int
    column: int
    score: float


@dataclass(frozen=True)
class Digits:
    """The tree of the numbers that :func:`read_score` reads, with so many decimals: a node for each token walked.

    Nodes are in the order of a walk through the tree; node 0 is the place where it hangs, and no token.
    """

    above: tuple[int, ...]  # the node before each; 0 for node 0
    column: tuple[int, ...]  # its character's; 0 for node 0
    leaves: tuple[Leaf, ...]

    @classmethod
    @lru_cache
    def of(cls, decimals: int) -> Digits:
        above, column, leaves = [0], [0], []

        def walk(text: str, node: int) -> None:
            if (score := _read(text)) is not None:
                leaves.append(Leaf(node, END, score))
            for c, character in enumerate(CHARACTERS):
                longer = text + character
                if _read(longer) is None and _read(longer + "0") is None:
                    continue  # nor will what follows make it a number
                if len(longer.partition(".")[2]) == decimals:
                    leaves.append(Leaf(node, c, _value(longer)))
                else:
                    above.append(node)
                    column.append(c)
                    walk(longer, len(above) - 1)

        walk("", 0)
        return cls(tuple(above), tuple(column), tuple(leaves))

    def depth(self) -> list[int]:
        """Of each node: how many tokens after the place where the tree hangs, 1 for a first digit."""
        depth = [0]
        for upper in self.above[1:]:
            depth.append(depth[upper] + 1)
        return depth

    def parts(self) -> list[tuple[int, int]]:
        """The tokens, in order, cut where the tree branches: each stretch's length, and the one before it or -1."""
        children = [self.above[1:].count(node) for node in range(len(self.above))]
        lengths: list[int] = []
        before: list[int] = []
        part_of = [-1]
        for upper in self.above[1:]:
            if upper and children[upper] == 1:
                lengths[part_of[upper]] += 1
                part_of.append(part_of[upper])
            else:
                lengths.append(1)
                before.append(part_of[upper])
                part_of.append(len(lengths) - 1)
        return list(zip(lengths, before, strict=True))


def _read(number: str) -> float | None:
    return read_score(f"{OPENING}{number}{CLOSING}")


def _value(number: str) -> float:
    """What a number is counted as whose last decimal is walked: itself, or with one decimal the mean over a second."""
    decimals = len(number.partition(".")[2])
    longer = [number] if decimals > 1 else [number + digit for digit in "0123456789"]
    scores = [score for text in longer if (score := _read(text)) is not None]
    return sum(scores) / len(scores)


@dataclass(frozen=True)
class NumberTokens:
    """How a vocabulary writes numbers."""

    characters: tuple[int, ...]  # the token of each of CHARACTERS
    end: tuple[int, ...]  # tokens with which a number is over: white space, or a piece of the closing tag's beginning
    blank: tuple[int, ...]  # those of them that are white space alone

    @classmethod
    @lru_cache(maxsize=2)  # a tokenizer is kept as long as its entry
    def of(cls, tokenizer: Any) -> NumberTokens:
        """Raises UserError for a vocabulary in which digits or the point are not tokens of their own."""
        ids = sorted(set(tokenizer.get_vocab().values()))
        text = dict(zip(ids, _texts(tokenizer, ids), strict=True))
        characters = [[token for token in ids if text[token] == character] for character in CHARACTERS]
        longer = [token for token in ids if len(text[token]) > 1 and re.search("[0-9]", text[token])]
        if longer or any(len(tokens) != 1 for tokens in characters):
            odd = repr(text[longer[0]]) if longer else "none, or several, for a digit or the point"
            raise UserError(
                f"expected scores are read digit by digit, but the tokenizer's tokens for numbers are others: {odd}. "
                "A Qwen2.5-VL has one token for each digit; use another method (greedy or mean) for this model"
            )
        blank = [token for token in ids if text[token].isspace()]
        begun = [token for token in ids if (start := text[token].lstrip()) and _begins(CLOSING, start)]
        return cls(tuple(tokens[0] for tokens in characters), tuple(sorted([*blank, *begun])), tuple(blank))


def _begins(tag: str, text: str) -> bool:
    return tag.startswith(text) or text.startswith(tag)


def _texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Each token's text by itself, as the reader of answers meets it: empty for tokens that stand for no text."""
    return tokenizer.batch_decode([[token] for token in ids], skip_special_tokens=True)


def tokens_before_score(texts: Sequence[str]) -> int | None:
    """How many of an answer's tokens, given by their texts, stand before its number or what is there in place of one.

    Those through the one that completes the opening tag, which may be several and swallow what stands beside them, and
    the white space that follows. None where there is no such place: no opening tag, a closing one before it, or a token
    that completes it and goes on with more than white space.

        >>> tokens_before_score(["<th", "ink", ">", "2", " dogs", ".</", "think", "><", "answer", ">", "4", ".", "5"])
        10
        >>> tokens_before_score(["<", "answer", ">\\n", " ", "4"])
        4
    """
    whole = "".join(texts)
    start = whole.find(OPENING)
    if start < 0 or CLOSING in whole[:start]:
        return None
    inside = start + len(OPENING)
    ends = list(accumulate(map(len, texts)))
    count = next(i for i, end in enumerate(ends, 1) if end >= inside)
    if whole[inside : ends[count - 1]].strip():
        return None
    while count < len(texts) and texts[count].isspace():
        count += 1
    return count


@torch.no_grad()
def expected_scores(
    model: Any,
    tokenizer: Any,
    inputs: Mapping[str, Any],
    answers: Sequence[Sequence[int]],
    *,
    never: Sequence[int],
    temperature: float = 1.0,
    decimals: int = 2,
    packing: Packing | None = None,
) -> ScoreDistribution:
    """What the scores of R answers might have been, each given its own reasoning. One pass of the policy for all.

    Of an answer only what stands before its number counts (:func:`tokens_before_score`), so answers of equal reasoning
    have equal distributions. White space that was drawn before the number counts as given, and that there is no more.

    Args:
        model: a Qwen2.5-VL, with LoRA or without, in evaluation mode, not sharded. Its attention is another during the
            call, so no other thread may use it then.
        tokenizer: its own.
        inputs: what the processor made of the R prompts, each with as many pictures, padded on the left, on the model's
            device; a plain processor or :class:`vqr1.policy.read_once.OncePerPrompt`. Neighbours of one prompt and
            picture are read once.
        answers: R answers' tokens, as drawn.
        never: tokens that no answer may hold, as where the answers were drawn (vqr1.rollout.engine.vision_tokens).
        temperature: at which scores would be drawn, above 0, after a greedy reasoning too.
        decimals: how far numbers are walked. 2, deep: 51 tokens an answer. 1, shallow: 10 tokens, and a number that
            goes on to a first decimal counts as the mean over the second, 3.4 as 3.445. 3: 452 tokens.
        packing: how the pass is laid out. None: in segments where their kernel runs; else under a mask, for there are
            too many segments to attend to one by one.

    Returns:
        The distributions; the same for any batch and order, but for the rounding of the policy's precision.

    Raises:
        UserError: a vocabulary in which digits are not tokens of their own.
    """
    assert not model.training, "the policy is in training mode, with dropout"
    assert decimals >= 1 and temperature > 0 and len(answers) == len(inputs["input_ids"])
    digits, tokens, model = Digits.of(decimals), NumberTokens.of(tokenizer), base_model(model)
    support = sorted({leaf.score for leaf in digits.leaves})
    distribution = ScoreDistribution(
        torch.tensor(support, dtype=torch.float64), torch.zeros(len(answers), len(support), dtype=torch.float64)
    )
    before = [tokens_before_score(_texts(tokenizer, answer)) for answer in answers]
    placed = [r for r, count in enumerate(before) if count is not None]
    if not placed:
        return distribution

    if packing is None:
        packing = Packing(
            "segments" if kernel_takes(torch.empty(0, dtype=model.dtype, device=model.device)) else "mask"
        )
    trees, number = _trees(inputs, {r: tuple(answers[r][: before[r]]) for r in placed})
    packed = _pack(trees, digits, tokens, model.model.get_rope_index, packing)
    with attention_to_parts(model):
        hidden = model.model(**packed.inputs, use_cache=False).last_hidden_state.flatten(0, 1)

    def at(places: torch.Tensor, none_of: Sequence[int]) -> torch.Tensor:
        tiles = (model.lm_head(hidden[tile]).float() / temperature for tile in places.split(TILE))
        return torch.cat([_columns(logits, tokens, none_of) for logits in tiles])

    root = at(packed.root_Q, [*never, *tokens.blank])
    nodes = at(packed.node_QV.flatten(), never).view(*packed.node_QV.shape, -1)
    log_QVC = torch.cat([root[:, None], nodes], dim=1)
    distribution.probability_RS[placed] = _of_numbers(digits, support, log_QVC)[number]
    return distribution


class _Trees(NamedTuple):
    """Where trees hang: Q distinct reasonings, the number of each one's prompt, and the G prompts."""

    reasonings: list[tuple[int, ...]]
    group: list[int]
    prompts: AnswerBatch


def _trees(inputs: Mapping[str, Any], reasonings: Mapping[int, tuple[int, ...]]) -> tuple[_Trees, list[int]]:
    """The distinct reasonings among those of some rows, and for each of these rows which of them it has."""
    grid = inputs["image_grid_thw"]
    picture = inputs["picture"].tolist() if "picture" in inputs else range(len(inputs["input_ids"]))
    batch = AnswerBatch.of_rows(
        inputs["input_ids"],
        inputs["attention_mask"],
        0,
        pixel_values=of_rows(inputs["pixel_values"], grid, picture),
        image_grid_thw=grid,
        mm_token_type_ids=inputs["mm_token_type_ids"],
    ).rows(torch.tensor(list(reasonings), device=grid.device))
    group = same_prompt(batch).tolist()
    keys = list(zip(group, reasonings.values(), strict=True))
    first, number = numbered(keys)
    prompts = batch.rows(torch.tensor(numbered(group)[0], device=grid.device))
    return _Trees([keys[i][1] for i in first], [keys[i][0] for i in first], prompts), number


def _columns(logits: torch.Tensor, tokens: NumberTokens, none_of: Sequence[int]) -> torch.Tensor:
    """Log-probabilities of each character and of the number's end, (T, C + 1), among tokens but ``none_of``."""
    logits[:, list(none_of)] = -torch.inf
    log = logits.log_softmax(-1)
    end = log[:, list(tokens.end)].logsumexp(-1, keepdim=True)
    return torch.cat([log[:, list(tokens.characters)], end], dim=1).double().cpu()


def _of_numbers(digits: Digits, support: Sequence[float], log_QVC: torch.Tensor) -> torch.Tensor:
    """The numbers' probabilities, (Q, S): along each path the product of the probabilities at its nodes."""
    reached = [torch.zeros_like(log_QVC[:, 0, 0])]
    for upper, column in zip(digits.above[1:], digits.column[1:], strict=True):
        reached.append(reached[upper] + log_QVC[:, upper, column])
    probability_QS = log_QVC.new_zeros(len(log_QVC), len(support))
    place = {score: s for s, score in enumerate(support)}
    for leaf in digits.leaves:  # 4, 4.0 and 4.00 are one number
        probability_QS[:, place[leaf.score]] += (reached[leaf.node] + log_QVC[:, leaf.node, leaf.column]).exp()
    return probability_QS


class _Packed(NamedTuple):
    """The model's inputs, and where in its output are each reasoning's last token and the tokens of its tree."""

    inputs: dict[str, Any]
    root_Q: torch.Tensor
    node_QV: torch.Tensor


def _pack(trees: _Trees, digits: Digits, tokens: NumberTokens, positions: Positions, packing: Packing) -> _Packed:
    prompts, shared = trees.prompts, trees.prompts.prompt_mask_RP.bool()
    position_3GP, _ = positions(
        prompts.prompt_RP,
        mm_token_type_ids=prompts.image_token_RP,
        image_grid_thw=prompts.grid_R.flatten(0, 1),
        attention_mask=prompts.prompt_mask_RP,
    )
    parts, G, Q = digits.parts(), len(shared), len(trees.reasonings)
    above = [*range(G), *trees.group]
    for q in range(Q):
        tree = len(above)
        above += [tree + part if part >= 0 else G + q for _, part in parts]
    lengths = torch.tensor([*map(len, trees.reasonings), *[length for length, _ in parts] * Q], device=shared.device)
    lengths = torch.cat([shared.sum(1), lengths])
    layout = lay_out(lengths, above, packing)

    walked = [tokens.characters[column] for column in digits.column[1:]]
    text = [token for reasoning in trees.reasonings for token in reasoning] + walked * Q
    # In an answer all of this is text, whose positions go on from the prompt's, by one in all three dimensions.
    step = [step for reasoning in trees.reasonings for step in range(1, len(reasoning) + 1)]
    step += [len(reasoning) + depth for reasoning in trees.reasonings for depth in digits.depth()[1:]]
    group = [g for g, reasoning in zip(trees.group, trees.reasonings, strict=True) for _ in reasoning]
    group += [g for g in trees.group for _ in walked]
    position_3T = position_3GP[:, group, -1] + torch.tensor(step, device=shared.device)
    inputs = {
        "input_ids": layout.placed(torch.cat([prompts.prompt_RP[shared], prompts.prompt_RP.new_tensor(text)]), 0),
        "position_ids": layout.placed(torch.cat([position_3GP[:, shared], position_3T], dim=1), 0),
        **seen_by_prompts(prompts, lengths, layout),
    }
    last_N = lengths.cumsum(0) - 1
    return _Packed(inputs, layout.place_T[last_N[G : G + Q]], layout.place_T[-len(walked) * Q :].view(Q, -1))


@contextmanager
def attention_to_parts(model: Any) -> Iterator[None]:
    """FlashAttention, with which a policy may be loaded, takes neither parts nor masks."""
    usual = model.config.get_text_config()._attn_implementation
    model.set_attn_implementation({"text_config": segments.NAME})
    try:
        yield
    finally:
        model.set_attn_implementation({"text_config": usual})
