"""Policies with random weights: what they say is noise, what they cost is real.

For measuring speed and memory where the published weights are not at hand. ``3b`` and ``7b`` have the sizes of
Qwen2.5-VL's config.json on the hub; the tokenizer is the tiny policy's, in a vocabulary of the given size.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch

from vqr1.demo.tiny_policy import make_config
from vqr1.estimate.sizes import PUBLISHED, Sizes
from vqr1.policy.load import SHIPPED

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


SHAPES = {
    # More words than the tokenizer has, as in the published sizes.
    "tiny": Sizes(128, 384, 2, 4, 2, 1024, True, 3, 128, 256, 4, vision_whole=1),
    "48m": Sizes(512, 1408, 8, 8, 2, 8192, True, 6, 512, 1024, 8, vision_whole=1),
    "3b": PUBLISHED["3B"],
    "7b": PUBLISHED["7B"],
}


def shape_config(shape: Sizes, tokenizer: Any) -> Any:
    """The configuration; of the rotary sections, half a head, a quarter is time's and the rest height's and width's."""
    half = shape.hidden // shape.heads // 2
    every = shape.vision_depth // shape.vision_whole  # of so many blocks the last attends to the whole picture
    sections = [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8]
    return make_config(
        tokenizer,
        text={
            "vocab_size": shape.vocabulary,
            "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "max_position_embeddings": 128000,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections},
            "tie_word_embeddings": shape.tied,
        },
        vision={
            "depth": shape.vision_depth,
            "hidden_size": shape.vision_hidden,
            "intermediate_size": shape.vision_intermediate,
            "num_heads": shape.vision_heads,
            "tokens_per_second": 2,
            "out_hidden_size": shape.hidden,
            "fullatt_block_indexes": list(range(every - 1, shape.vision_depth, every)),
        },
    )


def random_policy(shape: Sizes, tokenizer: Any, dtype: torch.dtype) -> Any:
    """A policy of this shape, drawn on the GPU where there is one; the same weights every time."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(0)
    with DEVICE:
        return Qwen2_5_VLForConditionalGeneration._from_config(
            shape_config(shape, tokenizer), dtype=dtype, attn_implementation="sdpa"
        )


def kept_policy(name: str, folder: Path) -> Path:
    """The folder below ``folder`` with a random policy of the shape ``name``; written once, when it is first asked for.

    In bfloat16 where there is a GPU, else in float32.
    """
    policy = folder / f"policy-{name}"
    if not policy.is_dir():
        draft = folder / f".policy-{name}"
        write_random(SHAPES[name], draft, torch.bfloat16 if DEVICE.type == "cuda" else torch.float32)
        draft.rename(policy)
        gc.collect()
        torch.cuda.empty_cache()  # the GPU is empty again for what will load it
    return policy


def write_random(shape: Sizes, folder: Path, dtype: torch.dtype) -> None:
    """The weights of :func:`random_policy` and the tiny policy's processor in ``folder``."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(str(SHIPPED), trust_remote_code=False)
    random_policy(shape, processor.tokenizer, dtype).save_pretrained(folder)
    processor.save_pretrained(folder)
