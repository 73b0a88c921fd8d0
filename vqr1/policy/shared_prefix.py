"""One prompt, K answers: log-probabilities of answers whose prompt, and picture, goes through the policy once.

GRPO scores K answers to one prompt. Run as K rows, each brings a copy of the prompt and its picture, which make up
most of the tokens. Here a prompt appears once, followed by a branch for each of its answers:

    prompt without its last token | last token, answer 1 | last token, answer 2 | ...

A branch sees the prompt and itself, and its positions go on from the prompt's, so that every token meets the very
keys and positions it would meet in a row of its own; it starts with a copy of the prompt's last token because that
token's output predicts the answer's first, once for each answer. The answer's own last token predicts nothing and
stays out. Exact, gradients included: what the branches send back adds up on the one prompt.

The idea is Prefix Grouper's (Liu and others, arXiv 2506.05433), which changes the model's own file. Here the wrapped
model is called unchanged, so DDP, ZeRO, FSDP, LoRA, autocast and gradient checkpointing see an ordinary forward
pass, and TRL's fused head never holds the logits of more than a tile.

Shapes: R rows of a batch (one per answer), G prompts, P and S the padded lengths of prompts and answers, T tokens
after packing, B x L the rows that are sent to the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from vqr1.config import SharedPrefixAttention
from vqr1.policy.segments import Segments, has_kernel

# Where there is no kernel for segments, a prompt with its answers may be so many tokens before the square of the mask
# costs more than attending to segments one by one (measured on a CPU, docs/performance.md).
LONG = 1024

Positions = Callable[..., tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Packing:
    """How prompts with their answers are laid out.

    mask: rows of whole groups, up to ``row_tokens`` (None: as many as the longest group needs), under a 4-D mask.
    segments: all in one row without padding, attended to by segments. auto: whichever is faster.
    """

    attention: SharedPrefixAttention = "auto"
    row_tokens: int | None = None

    def by_segments(self, longest: int, device: torch.device) -> bool:
        if self.attention == "auto":
            return has_kernel(device) or longest > LONG
        return self.attention == "segments"


@dataclass(frozen=True)
class AnswerBatch:
    """Answers as TRL lays them out: a row for each, prompts padded on the left, answers on the right."""

    prompt_RP: torch.Tensor
    prompt_mask_RP: torch.Tensor
    answer_RS: torch.Tensor
    answer_mask_RS: torch.Tensor
    image_token_RP: torch.Tensor  # 1 where the prompt's token is the picture's
    pictures_R: Sequence[torch.Tensor]  # the patches of each row's pictures, one after the other
    grid_R: torch.Tensor  # (R, n, 3) for n pictures in each prompt

    @classmethod
    def of_rows(
        cls,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        answer_tokens: int,
        *,
        pixel_values: torch.Tensor | Sequence[torch.Tensor],
        image_grid_thw: torch.Tensor,
        mm_token_type_ids: torch.Tensor,
        **_: Any,
    ) -> AnswerBatch:
        """From what TRL hands to its forward pass: as many pictures to each row, the last ``answer_tokens`` answers'.

        ``pixel_values``: the rows' patches, in one tensor or a tensor for each row, which is the same for copies.
        ``image_grid_thw``: (R n, 3) or (R, n, 3).
        """
        pictures = pixel_values
        grid_R = image_grid_thw.reshape(len(input_ids), -1, 3)
        if isinstance(pictures, torch.Tensor):
            pictures = torch.split(pictures, grid_R.prod(-1).sum(-1).tolist())
        assert len(pictures) == len(input_ids), "every prompt has its pictures"
        rest = input_ids.shape[1] - answer_tokens
        prompt, answer = input_ids[:, :rest], input_ids[:, rest:]
        masks = attention_mask[:, :rest], attention_mask[:, rest:]
        return cls(prompt, masks[0], answer, masks[1], mm_token_type_ids[:, :rest], pictures, grid_R)

    def rows(self, chosen: torch.Tensor) -> AnswerBatch:
        pictures = [self.pictures_R[i] for i in chosen.tolist()]
        return AnswerBatch(
            self.prompt_RP[chosen],
            self.prompt_mask_RP[chosen],
            self.answer_RS[chosen],
            self.answer_mask_RS[chosen],
            self.image_token_RP[chosen],
            pictures,
            self.grid_R[chosen],
        )

    def parts(self, size: int) -> Iterator[AnswerBatch]:
        yield from map(self.rows, torch.arange(len(self.grid_R), device=self.grid_R.device).split(size))


class Layout(NamedTuple):
    shape: tuple[int, int]  # B, L
    place_T: torch.Tensor  # of each token in B x L, flat
    attention: torch.Tensor | Segments

    def placed(self, tokens: torch.Tensor, empty: int) -> torch.Tensor:
        """``tokens``, (..., T) in the order of the parts, as (..., B, L); ``empty`` where there is none."""
        places = tokens.new_full((*tokens.shape[:-1], self.shape[0] * self.shape[1]), empty)
        places[..., self.place_T] = tokens
        return places.unflatten(-1, self.shape)


class Packed(NamedTuple):
    """The model's inputs, and where in its output the answers' tokens are, in the order of the batch."""

    inputs: dict[str, Any]
    places: torch.Tensor


def log_probabilities(
    model: Any, batch: AnswerBatch, positions: Positions, packing: Packing
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The answers' per-token log-probabilities and entropies, (R, S), 0 where there is no token.

    One call of ``model``, which has TRL's fused head, whatever the batch holds: the ranks of a sharded model count on
    that. ``positions`` is the policy's ``get_rope_index``. Entropies are None where the head gives none.
    """
    answered = batch.answer_mask_RS.bool()
    kept = answered.any(dim=1).nonzero().flatten()
    if not len(kept):  # nothing to score, but the model must be called, and its weights get gradients of zero
        kept = kept.new_zeros(1)
    packed = pack(batch.rows(kept), positions, packing)
    output = model(**packed.inputs, fused_lm_head=True)

    def in_rows(values: torch.Tensor) -> torch.Tensor:
        return values.new_zeros(answered.shape).masked_scatter(answered, values.flatten()[packed.places])

    return in_rows(output.log_probs), None if output.entropy is None else in_rows(output.entropy)


def same_prompt(batch: AnswerBatch) -> torch.Tensor:
    """The number of each row's prompt, (R,): consecutive rows with equal tokens and equal pictures share one."""

    def repeats(values: torch.Tensor) -> torch.Tensor:
        return (values[1:] == values[:-1]).flatten(1).all(dim=1)

    equal = repeats(batch.prompt_RP) & repeats(batch.prompt_mask_RP) & repeats(batch.grid_R)
    for i in equal.nonzero().flatten().tolist():
        one, other = batch.pictures_R[i], batch.pictures_R[i + 1]
        equal[i] = one is other or torch.equal(one, other)
    return torch.cat([equal.new_zeros(1, dtype=torch.long), (~equal).cumsum(0)])


def pack(batch: AnswerBatch, positions: Positions, packing: Packing) -> Packed:
    """Place each prompt once, followed by its answers."""
    group_R = same_prompt(batch)
    first_G = torch.cat([group_R.new_ones(1), group_R.diff()]).nonzero().flatten()
    prompts, answered = batch.rows(first_G), batch.answer_mask_RS.bool()
    position_3GP, _ = positions(
        prompts.prompt_RP,
        mm_token_type_ids=prompts.image_token_RP,
        image_grid_thw=prompts.grid_R.flatten(0, 1),
        attention_mask=prompts.prompt_mask_RP,
    )
    # An answer is text: from the prompt's last token on, its positions count by one in all three dimensions.
    position_3RS = position_3GP[:, group_R, -1:] + torch.arange(answered.shape[1], device=answered.device)
    branch_RS = torch.cat([batch.prompt_RP[:, -1:], batch.answer_RS[:, :-1]], dim=1)
    shared = prompts.prompt_mask_RP.bool()
    shared[:, -1] = False

    lengths = torch.cat([shared.sum(1), answered.sum(1)])  # of the prompts' parts, then of the branches
    layout = lay_out(lengths, [*range(len(first_G)), *group_R.tolist()], packing)
    tokens = {
        "input_ids": (prompts.prompt_RP, branch_RS, 0),
        "shift_labels": (torch.full_like(prompts.prompt_RP, -100), batch.answer_RS, -100),
        "position_ids": (position_3GP, position_3RS, 0),
    }
    inputs = {
        name: layout.placed(torch.cat([of_prompts[..., shared], of_branches[..., answered]], dim=-1), empty)
        for name, (of_prompts, of_branches, empty) in tokens.items()
    }
    inputs |= seen_by_prompts(prompts, lengths, layout)
    return Packed(inputs, layout.place_T[int(lengths[: len(first_G)].sum()) :])


def seen_by_prompts(prompts: AnswerBatch, lengths: torch.Tensor, layout: Layout) -> dict[str, Any]:
    """The model's inputs beside tokens: the attention, and the pictures in the order in which their tokens lie."""
    first_token_G = (lengths.cumsum(0) - lengths)[: len(prompts.grid_R)]
    in_order = layout.place_T[first_token_G].argsort()
    return {
        "attention_mask": {"full_attention": layout.attention},
        "pixel_values": torch.cat([prompts.pictures_R[g] for g in in_order.tolist()]),
        "image_grid_thw": prompts.grid_R[in_order].flatten(0, 1),
    }


def lay_out(lengths: torch.Tensor, above: Sequence[int], packing: Packing) -> Layout:
    """Where N parts of ``lengths``, (N,), go, and what they see: themselves, and the parts they go on from.

    ``above``: the part before it that each goes on from. Prompts come first, and go on from themselves.
    """
    root: list[int] = []
    for part, upper in enumerate(above):
        root.append(part if upper == part else root[upper])
    group = torch.tensor(root, device=lengths.device)
    size_G = torch.zeros_like(lengths).index_add(0, group, lengths)[: max(root) + 1]
    longest = int(size_G.max())
    if packing.by_segments(longest, lengths.device):
        return _in_one_row(lengths, above)
    bin_G = bins(size_G.tolist(), packing.row_tokens or longest)
    return _in_rows(lengths, above, group, torch.tensor(bin_G, device=lengths.device))


def _in_one_row(lengths: torch.Tensor, above: Sequence[int]) -> Layout:
    place_T = torch.arange(int(lengths.sum()), device=lengths.device)
    keys: list[torch.Tensor] = []
    for part, (upper, own) in enumerate(zip(above, place_T.split(lengths.tolist()), strict=True)):
        keys.append(own if upper == part else torch.cat([keys[upper], own]))
    return Layout((1, len(place_T)), place_T, Segments.of(lengths.tolist(), keys))


def _in_rows(lengths: torch.Tensor, above: Sequence[int], group: torch.Tensor, bin_G: torch.Tensor) -> Layout:
    """Bins as rows, (B, L), and the mask (B, 1, L, L) in which a token sees the parts above its own and itself."""
    group_T = group.repeat_interleave(lengths)
    order = (bin_G[group_T] * len(bin_G) + group_T).argsort(stable=True)  # a part stays before those that go on from it
    row_T = bin_G[group_T[order]]
    used_B = row_T.bincount()
    columns = int(used_B.max())
    column_T = torch.arange(len(order), device=order.device) - (used_B.cumsum(0) - used_B)[row_T]
    place_T = torch.empty_like(order).scatter_(0, order, row_T * columns + column_T)

    def laid_out(of_parts: Sequence[int]) -> torch.Tensor:
        places = order.new_full((len(used_B) * columns,), -1)  # padding, which sees itself
        own = torch.tensor(of_parts, device=order.device).repeat_interleave(lengths)
        return places.scatter_(0, place_T, own).view(-1, columns)

    part_BL = laid_out(range(len(above)))
    sees = torch.zeros(len(used_B), columns, columns, dtype=torch.bool, device=order.device)
    for ancestor in _by_depth(above):
        sees |= laid_out(ancestor)[:, :, None] == part_BL[:, None]
    return Layout((len(used_B), columns), place_T, sees.tril()[:, None])


def _by_depth(above: Sequence[int]) -> Iterator[list[int]]:
    """For each depth of the trees, the prompts' first: every part's ancestor or self there, -2 where it has none."""
    paths: list[list[int]] = []
    for part, upper in enumerate(above):
        paths.append([*(paths[upper] if upper != part else []), part])
    for depth in range(max(map(len, paths))):
        yield [path[depth] if depth < len(path) else -2 for path in paths]


def bins(lengths: Sequence[int], capacity: int) -> list[int]:
    """Which bin each length goes to: first fit, longest first. A length above the capacity raises the capacity."""
    capacity = max(capacity, *lengths)
    room: list[int] = []
    chosen = [0] * len(lengths)
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        chosen[i] = next((b for b, left in enumerate(room) if left >= lengths[i]), len(room))
        if chosen[i] == len(room):
            room.append(capacity)
        room[chosen[i]] -= lengths[i]
    return chosen
