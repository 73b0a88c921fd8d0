"""Each picture encoded once, however many answers are asked for.

TRL and transformers' generate send K copies of a prompt, each with its picture, through the policy and the reference.
The vision tower is a function of the picture alone, so equal pictures of a batch are encoded once and the result is
handed to every copy; gradients of the copies add up on the one encoding. Exact: nothing is approximated.
"""

from __future__ import annotations

from typing import Any

import torch


def encode_each_picture_once(visual: Any) -> None:
    """Let a Qwen2.5-VL vision tower skip the pictures that stand in its batch already.

    By hooks, so that the tower's own forward, its gradient checkpointing and whatever wraps the model see a smaller
    batch and nothing else.
    """
    merged_patches = visual.spatial_merge_size**2
    copies: list[torch.Tensor] = []  # of the call in progress: for each picture, which of the distinct ones it is
    sizes: list[list[int]] = []

    def before(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        pixels, grid = (args[0] if args else kwargs["hidden_states"]), kwargs["grid_thw"]
        lengths = grid.prod(-1).tolist()
        pictures = torch.split(pixels, lengths)
        first, copy_of = distinct(pictures)
        copies.append(copy_of)
        sizes.append([lengths[i] // merged_patches for i in first])
        kept = torch.cat([pictures[i] for i in first])
        return (kept, *args[1:]), {**kwargs, "grid_thw": grid[first]}

    def after(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        encoded = torch.split(output.pooler_output, sizes.pop())
        output.pooler_output = torch.cat([encoded[i] for i in copies.pop().tolist()])
        return output

    visual.register_forward_pre_hook(before, with_kwargs=True)
    visual.register_forward_hook(after, with_kwargs=True)


def distinct(pictures: tuple[torch.Tensor, ...]) -> tuple[list[int], torch.Tensor]:
    """The first place of each distinct picture, and for every picture which of these it equals."""
    first: list[int] = []
    copy_of: list[int] = []
    by_sum: dict[tuple[int, float], list[int]] = {}  # candidates, to be compared in full
    sums = torch.stack([picture.sum() for picture in pictures]).tolist()
    for i, picture in enumerate(pictures):
        candidates = by_sum.setdefault((len(picture), sums[i]), [])
        match = next((n for n in candidates if torch.equal(pictures[first[n]], picture)), None)
        if match is None:
            match = len(first)
            first.append(i)
            candidates.append(match)
        copy_of.append(match)
    return first, torch.tensor(copy_of)
