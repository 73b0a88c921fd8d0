"""Qwen2.5-VL's own vocabulary, without the hub.

The package dashscope (Apache-2.0) carries the byte pairs that Qwen2.5-VL was trained with. With them everything but the
weights is real: token ids, the template, the length of prompts, how answers are cut into tokens.
"""

from __future__ import annotations

import base64
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel
from transformers import AddedToken, Qwen2_5_VLProcessor, Qwen2TokenizerFast, Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

# What the hub's tokenizer adds to the byte pairs, in this order.
SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
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
