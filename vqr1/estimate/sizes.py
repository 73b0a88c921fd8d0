"""The sizes of a Qwen2.5-VL, from its config.json or as published, and what follows: its linear maps, its parameters.

Nothing is loaded, no torch either, so that a login node can tell what a run will need.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqr1.errors import UserError

LAYER = "model.language_model.layers.{}."
BLOCK = "model.visual.blocks.{}."


@dataclass(frozen=True)
class Linear:
    """A linear map of the policy: its name in the model, its inputs and outputs, whether it has a bias."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False

    @property
    def parameters(self) -> int:
        return self.inputs * self.outputs + self.outputs * self.bias


@dataclass(frozen=True)
class Sizes:
    """Of a Qwen2.5-VL. The last five are those of every published one."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool  # the word embeddings are the output layer as well
    vision_depth: int = 32
    vision_hidden: int = 1280
    vision_intermediate: int = 3420
    vision_heads: int = 16
    vision_whole: int = 4  # blocks of the vision tower that attend to the whole picture; the others, to windows
    patch: int = 14  # pixels of a patch's side
    frames: int = 2  # that a patch covers; of a still picture, both the same
    merge: int = 2  # patches, high and wide, that become one token
    window: int = 112  # pixels of a window's side
    channels: int = 3

    @property
    def key_width(self) -> int:
        """Numbers of a token's keys in one layer, and as many of its values."""
        return self.hidden // self.heads * self.kv_heads

    @property
    def patch_numbers(self) -> int:
        return self.channels * self.frames * self.patch**2

    @property
    def window_patches(self) -> int:
        return (self.window // self.patch) ** 2

    @property
    def merged(self) -> int:
        """Numbers of the patches that become one token, side by side."""
        return self.vision_hidden * self.merge**2

    def layer(self) -> list[Linear]:
        """The linear maps of a layer of the language model, named from the layer on."""
        wide, keys, inner = self.hidden, self.key_width, self.intermediate
        return [
            Linear("self_attn.q_proj", wide, wide, True),
            Linear("self_attn.k_proj", wide, keys, True),
            Linear("self_attn.v_proj", wide, keys, True),
            Linear("self_attn.o_proj", wide, wide),
            Linear("mlp.gate_proj", wide, inner),
            Linear("mlp.up_proj", wide, inner),
            Linear("mlp.down_proj", inner, wide),
        ]

    def block(self) -> list[Linear]:
        """The linear maps of a block of the vision tower."""
        wide, inner = self.vision_hidden, self.vision_intermediate
        return [
            Linear("attn.qkv", wide, 3 * wide, True),
            Linear("attn.proj", wide, wide, True),
            Linear("mlp.gate_proj", wide, inner, True),
            Linear("mlp.up_proj", wide, inner, True),
            Linear("mlp.down_proj", inner, wide, True),
        ]

    def merger(self) -> list[Linear]:
        return [
            Linear("model.visual.merger.mlp.0", self.merged, self.merged, True),
            Linear("model.visual.merger.mlp.2", self.merged, self.hidden, True),
        ]

    def head(self) -> Linear:
        return Linear("lm_head", self.hidden, self.vocabulary)

    def linear_maps(self) -> Iterator[Linear]:
        """All of them, under their names in the model."""
        for count, where, maps in (
            (self.layers, LAYER, self.layer()),
            (self.vision_depth, BLOCK, self.block()),
        ):
            for i in range(count):
                yield from (Linear(where.format(i) + m.name, m.inputs, m.outputs, m.bias) for m in maps)
        yield from self.merger()
        yield self.head()

    @property
    def layer_parameters(self) -> int:
        return sum(m.parameters for m in self.layer()) + 2 * self.hidden

    @property
    def embedding_parameters(self) -> int:
        """Of the word embeddings, as many as of an output layer of its own."""
        return self.vocabulary * self.hidden

    @property
    def vision_parameters(self) -> int:
        block = sum(m.parameters for m in self.block()) + 2 * self.vision_hidden
        outside = self.patch_numbers * self.vision_hidden + self.vision_hidden
        return self.vision_depth * block + outside + sum(m.parameters for m in self.merger())

    @property
    def language_parameters(self) -> int:
        embeddings = self.embedding_parameters * (1 if self.tied else 2)
        return self.layers * self.layer_parameters + self.hidden + embeddings

    @property
    def parameters(self) -> int:
        return self.vision_parameters + self.language_parameters

    def lora_parameters(self, rank: int, targets: str) -> int:
        """Of adapters on the linear maps that ``targets`` names, PEFT's regular expression or ``all-linear``."""
        return sum(rank * (m.inputs + m.outputs) for m in self.targets(targets))

    def targets(self, targets: str) -> list[Linear]:
        """The linear maps that get an adapter. Raises UserError for what is no regular expression."""
        if targets == "all-linear":
            return [m for m in self.linear_maps() if m.name != "lm_head"]
        try:
            return [m for m in self.linear_maps() if re.fullmatch(targets, m.name)]
        except re.error as error:
            raise UserError(f"policy.lora.target_modules={targets} is not a regular expression: {error}") from error


# As the config.json of Qwen/Qwen2.5-VL-*B-Instruct has them.
PUBLISHED = {
    "3B": Sizes(2048, 11008, 36, 16, 2, 151936, tied=True),
    "7B": Sizes(3584, 18944, 28, 28, 4, 152064, tied=False),
    "32B": Sizes(5120, 27648, 64, 40, 8, 152064, tied=False, vision_intermediate=3456),
    "72B": Sizes(8192, 29568, 80, 64, 8, 152064, tied=False, vision_intermediate=3456),
}


def published(path: str) -> Sizes | None:
    """Of a model that is named as the hub names it, with or without its owner; None for another."""
    found = re.fullmatch(r"(?:.*/)?Qwen2\.5-VL-(\d+B)(?:-Instruct)?/?", path)
    return PUBLISHED.get(found[1]) if found else None


def read_sizes(folder: Path) -> Sizes:
    """From ``folder``/config.json. Raises UserError where a size is missing or no whole number."""
    file = folder / "config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: not a readable JSON file ({error}); fetch or write it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds {type(content).__name__} where settings by name are meant; fetch it again")
    return sizes_of(content, str(file))


def sizes_of(config: Mapping[str, Any], where: str = "config.json") -> Sizes:
    """From the values of a config.json, with the language model's under ``text_config`` or, as published, beside it.

    Raises UserError naming what is missing in ``where``.
    """
    parts = [config.get(key) or {} for key in ("text_config", "vision_config")]
    if not all(isinstance(part, Mapping) for part in parts):
        raise UserError(f"{where}: text_config or vision_config holds no settings by name; fetch it again")
    text, vision = {**config, **parts[0]}, parts[1]

    def number(values: Mapping[str, Any], key: str, usual: int | None = None) -> int:
        value = values.get(key, usual)
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{where}: {key} is {value!r}, where a size of a Qwen2.5-VL is meant")
        return value

    whole = vision.get("fullatt_block_indexes", [7, 15, 23, 31])
    depth = number(vision, "depth")
    if not isinstance(whole, list) or not all(isinstance(i, int) for i in whole):
        raise UserError(f"{where}: fullatt_block_indexes is {whole!r}, where a list of blocks is meant")
    return Sizes(
        hidden=number(text, "hidden_size"),
        intermediate=number(text, "intermediate_size"),
        layers=number(text, "num_hidden_layers"),
        heads=number(text, "num_attention_heads"),
        kv_heads=number(text, "num_key_value_heads"),
        vocabulary=number(text, "vocab_size"),
        tied=bool(config.get("tie_word_embeddings") or text.get("tie_word_embeddings")),
        vision_depth=depth,
        vision_hidden=number(vision, "hidden_size"),
        vision_intermediate=number(vision, "intermediate_size"),
        vision_heads=number(vision, "num_heads"),
        vision_whole=len([i for i in whole if i < depth]),
        # What transformers takes where config.json does not say.
        patch=number(vision, "patch_size", 14),
        frames=number(vision, "temporal_patch_size", 2),
        merge=number(vision, "spatial_merge_size", 2),
        window=number(vision, "window_size", 112),
        channels=number(vision, "in_channels", 3),
    )


def picture_patches(width: int, height: int, min_pixels: int, max_pixels: int, sizes: Sizes) -> int:
    """Patches of a picture of so many pixels, fitted to the grid as the policy's processor does."""
    side = sizes.patch * sizes.merge
    wide, high = (max(side, round(length / side) * side) for length in (width, height))
    if wide * high > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        wide, high = (max(side, math.floor(length / shrink / side) * side) for length in (width, height))
    elif wide * high < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        wide, high = (math.ceil(length * grow / side) * side for length in (width, height))
    return wide * high // sizes.patch**2
