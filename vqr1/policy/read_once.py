"""Each picture prepared and encoded once, and each prompt read once, however many answers are asked for.

K answers are asked for by K copies of a prompt, each with its picture. Cutting a picture into patches and encoding it
are functions of the picture alone, so either is done once for the equal pictures of a batch and the result is handed
to every copy; gradients of the copies add up on the one encoding. When answers are generated, the cache of one reading
of the prompt is handed to every copy. Exact: nothing is approximated, and the same random state draws the same answers.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from transformers import BatchFeature, DynamicCache, Qwen2VLImageProcessor
from transformers.image_utils import make_flat_list_of_images

PER_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids")


class OncePerPicture(Qwen2VLImageProcessor):
    """Qwen2-VL's image processor, which prepares a picture that appears several times in a batch once.

    The same picture is the same object: what loads pictures hands one to every answer that is asked for.
    """

    def preprocess(self, images: Any, **kwargs: Any) -> BatchFeature:
        pictures: Any = make_flat_list_of_images(images)
        firsts = list({id(picture): picture for picture in pictures}.values())
        prepared = super().preprocess(firsts, **{**kwargs, "return_tensors": "pt"})
        place = {id(picture): i for i, picture in enumerate(firsts)}
        copies = [place[id(picture)] for picture in pictures]
        grid = prepared["image_grid_thw"]
        patches = torch.split(prepared["pixel_values"], grid.prod(-1).tolist())
        return BatchFeature(
            {"pixel_values": torch.cat([patches[i] for i in copies]), "image_grid_thw": grid[copies]},
            tensor_type=kwargs.get("return_tensors"),
        )

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "image_processor_type": Qwen2VLImageProcessor.__name__}


def encode_each_picture_once(visual: Any) -> None:
    """Let a Qwen2.5-VL vision tower skip the pictures that are in its batch already.

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


def read_each_prompt_once(model: Any, in_step: bool = False) -> None:
    """Let a Qwen2.5-VL's ``generate`` read equal consecutive prompts once; other batches go the usual way.

    ``in_step``: ranks share the weights, so all make as many passes as the one with the longest answer. transformers
    sees that for itself under ZeRO-3, not under accelerate's FSDP2.
    """
    plain = model.generate

    @functools.wraps(plain)
    def generate(*args: Any, **inputs: Any) -> Any:
        if in_step:
            inputs["synced_gpus"] = True
        k = 0 if args else copies_in_a_row(inputs)
        if k < 2:
            return plain(*args, **inputs)
        patches = inputs["image_grid_thw"].prod(-1).tolist()
        once = {
            "pixel_values": torch.cat(torch.split(inputs.pop("pixel_values"), patches)[::k]),
            "image_grid_thw": inputs.pop("image_grid_thw")[::k],
            # All but the last token, which generate takes up from the cache.
            **{name: inputs[name][::k, :-1] for name in PER_TOKEN},
        }
        del inputs["mm_token_type_ids"]
        cache = DynamicCache(config=model.config.get_text_config())
        with torch.no_grad():
            model(**once, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(k)
        model.model.rope_deltas = model.model.rope_deltas.repeat_interleave(k, dim=0)
        return plain(**inputs, past_key_values=cache)

    model.generate = generate


def copies_in_a_row(inputs: dict[str, Any]) -> int:
    """K where a batch is prompts with one picture each, every one K times in a row; else 0."""
    if any(inputs.get(name) is None for name in (*PER_TOKEN, "pixel_values", "image_grid_thw")):
        return 0
    grid, rows = inputs["image_grid_thw"], inputs["input_ids"]
    if len(grid) != len(rows) or "past_key_values" in inputs:
        return 0
    _, picture = distinct(torch.split(inputs["pixel_values"], grid.prod(-1).tolist()))
    row = torch.cat([rows, inputs["attention_mask"], picture[:, None].to(rows)], dim=1)
    _, lengths = torch.unique_consecutive(row, dim=0, return_counts=True)
    # Runs of different lengths, or one prompt's copies that were meant as several runs, share their largest divisor.
    return math.gcd(*lengths.tolist())
