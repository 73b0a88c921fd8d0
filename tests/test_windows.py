"""The vision tower's windows in one call: what sdpa gives window by window, and its gradients."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch

from vqr1.bench.shapes import SHAPES, shape_config
from vqr1.policy import windows
from vqr1.policy.load import load_processor
from vqr1.policy.windows import attend_at_once

# One of several windows with smaller ones at its edges, one of one window, one narrower than a window.
GRIDS = torch.tensor([[1, 18, 10], [1, 8, 8], [1, 2, 26]])
PATCHES = GRIDS.prod(-1)


@pytest.fixture(scope="module")
def model(policy_folder):
    from transformers import Qwen2_5_VLForConditionalGeneration

    from vqr1.config import PolicyConfig

    tokenizer = load_processor(PolicyConfig(path=str(policy_folder))).tokenizer
    torch.manual_seed(0)
    config = shape_config(SHAPES["tiny"], tokenizer)
    made = Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    for weight in made.model.visual.parameters():  # at this width the usual start hardly tells one patch from another
        torch.nn.init.normal_(weight, std=0.1)
    return made


@pytest.fixture
def by_sdpa(model):
    """The model as it is loaded."""
    model.set_attn_implementation({"vision_config": "sdpa"})
    yield model
    model.set_attn_implementation({"vision_config": "sdpa"})


def encoded(model, grids, checkpointing=False):
    """What the tower makes of pictures of noise, and the gradients of pixels and weights."""
    visual = model.model.visual.train()
    (model.gradient_checkpointing_enable if checkpointing else model.gradient_checkpointing_disable)()
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(int(grids.prod(-1).sum()), 1176, generator=generator).requires_grad_()
    visual.zero_grad()
    output = visual(pixels, grid_thw=grids).pooler_output
    (output * torch.randn(output.shape, generator=generator)).sum().backward()
    gradients = {name: weight.grad.clone() for name, weight in visual.named_parameters()}
    return output.detach(), {"pixels": pixels.grad, **gradients}


class Kernel:
    """What torch's kernel promises, written out: each stretch sees itself, whole."""

    def __init__(self):
        self.stretches = []

    def __call__(self, q, k, v, ends_q, ends_k, max_q, max_k, *, scale):
        assert ends_q.dtype == ends_k.dtype == torch.int32 and torch.equal(ends_q, ends_k)
        assert max_q == max_k == int(ends_q.diff().max()) and ends_q[0] == 0 and ends_q[-1] == len(q)
        self.stretches.append(len(ends_q) - 1)
        found = []
        for a, b in pairwise(ends_q.tolist()):
            weights = (torch.einsum("qhd,khd->hqk", q[a:b], k[a:b]) * scale).softmax(-1)
            found.append(torch.einsum("hqk,khd->qhd", weights, v[a:b]))
        return torch.cat(found)


@pytest.fixture
def kernel(monkeypatch):
    kernel = Kernel()
    monkeypatch.setattr(windows, "varlen_attn", kernel)
    monkeypatch.setattr(windows, "kernel_takes", lambda heads: True)
    return kernel


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("grids", [GRIDS, GRIDS[:1], GRIDS[2:]], ids=["three", "large", "narrow"])
def test_one_call_gives_what_sdpa_gives_window_by_window(by_sdpa, kernel, grids, checkpointing):
    expected, expected_gradients = encoded(by_sdpa, grids, checkpointing)
    attend_at_once(by_sdpa)
    assert not kernel.stretches
    found, gradients = encoded(by_sdpa, grids, checkpointing)
    assert expected.abs().max() > 0.1
    assert torch.allclose(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    for name, gradient in expected_gradients.items():
        assert torch.allclose(gradients[name], gradient, rtol=0, atol=1e-5 * float(gradient.abs().max())), name


def test_a_block_is_one_call_and_a_full_one_sees_the_picture(by_sdpa, kernel):
    attend_at_once(by_sdpa)
    with torch.no_grad():
        by_sdpa.model.visual(torch.zeros(int(PATCHES.sum()), 1176), grid_thw=GRIDS)
    # Windows of 8 x 8 patches: 3 x 2 of them, 1 and 1 x 4; the tower's last block sees whole pictures.
    assert kernel.stretches == [11, 11, 3]


def test_without_the_kernel_it_is_sdpas_own_numbers(by_sdpa):
    expected, expected_gradients = encoded(by_sdpa, GRIDS)
    attend_at_once(by_sdpa)
    found, gradients = encoded(by_sdpa, GRIDS)
    assert torch.equal(found, expected)
    assert all(torch.equal(gradients[name], gradient) for name, gradient in expected_gradients.items())


@pytest.mark.parametrize("asked", ["flash_attention_2", "eager"])
def test_an_attention_that_was_asked_for_stays(by_sdpa, asked):
    by_sdpa.config.vision_config._attn_implementation_internal = asked
    attend_at_once(by_sdpa)
    assert by_sdpa.config.vision_config._attn_implementation == asked


def test_a_saved_policy_knows_nothing_of_it(by_sdpa, tmp_path):
    by_sdpa.config.save_pretrained(tmp_path / "before")
    attend_at_once(by_sdpa)
    by_sdpa.config.save_pretrained(tmp_path / "after")
    before, after = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("before", "after"))
    assert before == after
