"""The vision tower's attention: all windows of a batch of pictures in one call.

Most blocks of a Qwen2.5-VL's vision tower attend within windows of 8 x 8 patches, the others within a picture.
transformers goes through them one by one, hundreds of calls of sdpa for a picture, unless the attention is a
FlashAttention, which takes stretches of different length in one call. torch's variable-length flash kernel does so
without another package. It runs on a GPU in half precision; elsewhere the stretches go to sdpa one by one, as before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from vqr1.policy.segments import kernel_takes

# transformers hands the stretches' ends to an attention with "flash" in its name, and to no other.
NAME = "vqr1_flash_windows"


def attend_at_once(model: Any) -> None:
    """Let the vision tower of a Qwen2.5-VL attend to all windows at once where it uses sdpa; any other stays."""
    if model.config.vision_config._attn_implementation == "sdpa":
        model.set_attn_implementation({"vision_config": NAME})


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: heads (1, H, T, D) in, (1, T, H, D) out.

    N stretches of the T patches see themselves, whole: ``cu_seq_lens_q``, (N + 1,) int32, are their cumulative lengths,
    ``max_length_q`` is the longest.
    """
    if kernel_takes(value):
        q, k, v = (heads[0].transpose(0, 1).to(value.dtype) for heads in (query, key, value))  # (T, H, D)
        output = varlen_attn(q, k, v, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q, scale=scaling)
        assert isinstance(output, torch.Tensor)  # a pair only where more is asked for
        return output[None], None
    lengths = cu_seq_lens_q.diff().tolist()
    stretches = zip(*(heads.split(lengths, dim=2) for heads in (query, key, value)), strict=True)
    found = [sdpa_attention_forward(module, q, k, v, None, scaling=scaling, **kwargs)[0] for q, k, v in stretches]
    return torch.cat(found, dim=1), None


AttentionInterface.register(NAME, attend)
