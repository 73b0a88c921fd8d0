"""Qwen2.5-VL's own vocabulary and folders as the hub has them, without the hub.

The package dashscope (Apache-2.0) carries the byte pairs that Qwen2.5-VL was trained with. With them everything but the
weights is real: token ids, the template, the length of prompts, how answers are cut into tokens, the files of a folder
and the names in them.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AddedToken,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2TokenizerFast,
    Qwen2VLImageProcessor,
)
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

# What the hub's tokenizer adds to the byte pairs, in this order.
SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>"),
)
# The turns of the hub's template, without its videos and its numbers of pictures.
TEMPLATE = """\
{%- for message in messages -%}
{%- if loop.first and message.role != 'system' -%}
{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{{ '<|vision_start|><|image_pad|><|vision_end|>' if part.type == 'image' else part.text }}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{{ '<|im_start|>assistant\\n' if add_generation_prompt else '' }}"""


def byte_pairs() -> dict[bytes, int]:
    """Every token of the vocabulary with its id, which is its rank: the lower, the earlier its merge."""
    package = find_spec("dashscope")
    assert package is not None and package.origin is not None, "dashscope holds the vocabulary; make env installs it"
    lines = (Path(package.origin).parent / "resources" / "qwen.tiktoken").read_bytes().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}


def merge_of(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens whose merge is ``token``: what its bytes become by all merges of a lower rank."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [ranks.get(a + b, len(ranks)) for a, b in pairwise(parts)]
        first = pairs.index(min(pairs))
        parts[first : first + 2] = [parts[first] + parts[first + 1]]
    return parts[0], parts[1]


def qwen_tokenizer() -> Any:
    ranks = byte_pairs()
    letters = dict(zip(range(256), _letters(), strict=True))
    text = {token: "".join(letters[byte] for byte in token) for token in ranks}
    longer = sorted((rank, token) for token, rank in ranks.items() if len(token) > 1)
    merges = [tuple(text[part] for part in merge_of(token, ranks)) for _, token in longer]
    tokenizer = Qwen2TokenizerFast(
        vocab={text[token]: rank for token, rank in ranks.items()},
        merges=merges,
        unk_token=None,
        bos_token=None,
        eos_token=None,
        pad_token=None,
    )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    return tokenizer


def _letters() -> list[str]:
    """The letter that stands for each byte in a byte-level vocabulary; printable ones stand for themselves."""
    own = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    letters = [chr(byte) if byte in own else chr(next(others)) for byte in range(256)]
    assert set(letters) == set(ByteLevel.alphabet())
    return letters


def qwen_processor() -> Qwen2_5_VLProcessor:
    """Qwen2.5-VL's processor with the pixel limits of its hub's folder."""
    limits = {"shortest_edge": 3136, "longest_edge": 12845056}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=limits),
        video_processor=Qwen2VLVideoProcessor(size=limits),
        tokenizer=qwen_tokenizer(),
        chat_template=TEMPLATE,
    )


# What differs in the two config.json of the hub; the rest is in published_settings.
PUBLISHED: dict[str, dict[str, Any]] = {
    "3b": {
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "max_window_layers": 70,
        "num_attention_heads": 16,
        "num_hidden_layers": 36,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "vocab_size": 151936,
    },
    "7b": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "max_window_layers": 28,
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
        "vocab_size": 152064,
    },
}
SHARD = 1_000_000_000  # bytes of a file of weights, about


def published_settings(name: str, layers: int | None = None, blocks: int | None = None) -> dict[str, Any]:
    """config.json as the hub has it, of ``3b`` or ``7b``: flat, and with the words of transformers 4.

    ``layers`` and ``blocks``: of the language model and of the vision tower, where there are to be fewer; then the last
    block is the one that attends to the whole picture.
    """
    own = PUBLISHED[name]
    vision = {
        "depth": blocks or 32,
        "hidden_act": "silu",
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "in_chans": 3,
        "out_hidden_size": own["hidden_size"],
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [blocks - 1] if blocks else [7, 15, 23, 31],
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
    }
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
        "vision_token_id": 151654,
        "image_token_id": 151655,
        "video_token_id": 151656,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": 128000,
        "model_type": "qwen2_5_vl",
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "sliding_window": 32768,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.41.2",
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": vision,
        **own,
        "num_hidden_layers": layers or own["num_hidden_layers"],
    }


def published_config(name: str, layers: int | None = None, blocks: int | None = None) -> Qwen2_5_VLConfig:
    return Qwen2_5_VLConfig.from_dict(published_settings(name, layers, blocks))


def hub_name(name: str) -> str:
    """A parameter's name in the hub's files, which transformers 4.51 and before had in its models too."""
    return name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")


# vLLM's names of a Qwen2.5-VL's parts, looked for in this order.
PREFIXES = {
    "model.language_model.": "language_model.model.",
    "model.visual.": "visual.",
    "lm_head.": "language_model.lm_head.",
    "model.": "language_model.model.",
}


def vllm_name(name: str) -> str:
    """The parameter of vLLM's model that takes a parameter of this name, among others where it packs several in one."""
    old = next((old for old in PREFIXES if name.startswith(old)), "")
    own = PREFIXES.get(old, "") + name.removeprefix(old)
    return re.sub(r"\.(gate|up)_proj\.", ".gate_up_proj.", re.sub(r"\.[qkv]_proj\.", ".qkv_proj.", own))


def write_hub_folder(folder: Path, name: str, layers: int, blocks: int, dtype: torch.dtype) -> None:
    """A folder as the hub has it for ``name``, with fewer layers and random weights: old names, several files."""
    config = published_config(name, layers, blocks)
    torch.manual_seed(0)
    model: Any = Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=dtype)
    processor = qwen_processor()
    teach_answers(model, processor.tokenizer)
    weights = ((hub_name(key), weight.data) for key, weight in model.named_parameters())
    folder.mkdir()
    write_shards(folder, weights)
    processor.tokenizer.save_pretrained(folder)
    files = {
        "config.json": published_settings(name, layers, blocks) | {"torch_dtype": str(dtype).removeprefix("torch.")},
        "chat_template.json": {"chat_template": TEMPLATE},
        "generation_config.json": {
            **{"bos_token_id": 151643, "pad_token_id": 151643, "do_sample": True, "eos_token_id": [151645, 151643]},
            **{"repetition_penalty": 1.05, "temperature": 1e-06, "transformers_version": "4.49.0"},
        },
        "preprocessor_config.json": {
            **{"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2},
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            **{"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor"},
        },
    }
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content, indent=2))


def write_shards(folder: Path, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """``weights`` in files of about :data:`SHARD` bytes, and the index that says which file holds which."""
    shards: list[dict[str, torch.Tensor]] = [{}]
    for key, weight in weights:
        if sum(other.nbytes for other in shards[-1].values()) > SHARD:
            shards.append({})
        shards[-1][key] = weight
    where = {}
    for i, shard in enumerate(shards, 1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(shard, file)
    size = sum(weight.nbytes for shard in shards for weight in shard.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


# An answer in tokens each of which says what may follow it. The closing tag is cut as the tokenizer would not cut it,
# so that no token has to come twice.
FIRST, SECOND = "1234", "06789"
STRENGTH = 0.4  # of what a token says: enough to drown what the random layers say
CHAIN = {
    **{"\n": ["<"], "<": ["answer"], "answer": [">"], ">": list(FIRST), ".": list(SECOND)},
    **{word: ["."] for word in FIRST},
    **{word: ["</"] for word in SECOND},
    **{"</": ["ans"], "ans": ["wer"], "wer": [">\n"], ">\n": ["<|im_end|>"]},
}


@torch.no_grad()
def teach_answers(model: Any, tokenizer: Any) -> None:
    """Give random weights answers such as ``<answer>3.7</answer>``, that rewards can tell apart.

    For each token of :data:`CHAIN` one neuron of the first layer's MLP is set: it knows the token by its embedding,
    for which this layer's attention is scaled down, and adds those of the tokens that follow, for the head to find.
    Everything else stays random.
    """
    text = model.model.language_model
    words, mlp = text.embed_tokens.weight, text.layers[0].mlp
    text.layers[0].self_attn.o_proj.weight *= 0.02
    for neuron, (word, following) in enumerate(CHAIN.items()):
        nexts = [tokenizer.convert_tokens_to_ids(token) for token in map(_token, following)]
        own = words[tokenizer.convert_tokens_to_ids(_token(word))]
        mlp.gate_proj.weight[neuron] = mlp.up_proj.weight[neuron] = own / own.norm()
        towards = sum(words[token] for token in nexts)
        mlp.down_proj.weight[:, neuron] = towards / towards.norm() * STRENGTH
        model.lm_head.weight[nexts] = words[nexts]


def _token(word: str) -> str:
    """As the vocabulary writes it."""
    return word.replace("\n", _letters()[10])


if __name__ == "__main__":  # FOLDER NAME LAYERS BLOCKS DTYPE
    write_hub_folder(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), getattr(torch, sys.argv[5]))
