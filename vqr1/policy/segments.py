"""Attention by segments: stretches of one row, each seeing keys of its own choice.

A 4-D mask compares every token of a row with every other and throws most of it away: the square of the row. Here each
segment's keys are gathered (a prompt's, then a branch's own), and what is left is causal attention over sequences of
different length, aligned at their ends: one call of the variable-length flash kernel that comes with torch where there
is a GPU and half precision, torch's sdpa segment by segment elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "vqr1_segments"
# The kernel takes fewer heads of keys than of queries; from torch 2.13 on its wrapper requires enable_gqa for them.
GROUPED_HEADS: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}


def has_kernel(device: torch.device) -> bool:
    """Whether torch's flash attention runs there; it wants half precision besides."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def kernel_takes(heads: torch.Tensor) -> bool:
    """Whether torch's flash attention runs on these numbers."""
    return heads.dtype in (torch.bfloat16, torch.float16) and has_kernel(heads.device)


@dataclass(frozen=True)
class Segments:
    """N stretches of a row of T tokens, in order, each with its keys; the last query is aligned with the last key."""

    queries: list[int]  # (N,) lengths, T together
    keys: list[int]  # (N,) lengths
    gather: torch.Tensor  # the keys' places in the row, segment by segment
    ends_q: torch.Tensor  # (N + 1,) int32, cumulative lengths
    ends_k: torch.Tensor

    @classmethod
    def of(cls, queries: list[int], keys: list[torch.Tensor]) -> Segments:
        def ends(lengths: list[int]) -> torch.Tensor:
            cumulative = torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)
            return cumulative.to(keys[0].device)

        lengths = [len(each) for each in keys]
        return cls(queries, lengths, torch.cat(keys), ends(queries), ends(lengths))


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: heads (1, H, T, D) in, (1, T, H, D) out; what has no segments goes to sdpa."""
    if not isinstance(attention_mask, Segments):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    q, k, v = (heads[0].transpose(0, 1) for heads in (query, key, value))  # (T, H, D)
    k, v = (x.index_select(0, attention_mask.gather) for x in (k, v))
    whole = _by_kernel if kernel_takes(v) else _one_by_one
    return whole(attention_mask, q.to(v.dtype), k.to(v.dtype), v, scaling)[None], None


def _by_kernel(
    segments: Segments, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None
) -> torch.Tensor:
    longest = max(segments.queries), max(segments.keys)
    causal = (-1, 0)
    ends = segments.ends_q, segments.ends_k
    output = varlen_attn(q, k, v, *ends, *longest, scale=scale, window_size=causal, **GROUPED_HEADS)
    assert isinstance(output, torch.Tensor)  # a pair only where more is asked for
    return output


def _one_by_one(
    segments: Segments, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None
) -> torch.Tensor:
    per_key_head = q.shape[1] // k.shape[1]
    heads = (x.repeat_interleave(per_key_head, dim=1) for x in (k, v))
    k_split, v_split = (x.transpose(0, 1)[None].split(segments.keys, dim=2) for x in heads)
    q_split = q.transpose(0, 1)[None].split(segments.queries, dim=2)
    found = []
    for one, keys, values in zip(q_split, k_split, v_split, strict=True):
        sees = torch.ones(one.shape[2], keys.shape[2], dtype=torch.bool, device=q.device)
        sees = sees.tril(keys.shape[2] - one.shape[2])
        found.append(scaled_dot_product_attention(one, keys, values, attn_mask=sees, scale=scale))
    return torch.cat(found, dim=2)[0].transpose(0, 1)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
