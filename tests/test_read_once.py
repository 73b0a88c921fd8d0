"""Each picture prepared and encoded once: the same numbers as with every copy prepared and encoded."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from vqr1.answer import build_prompt
from vqr1.policy.read_once import (
    OncePerPicture,
    copies_in_a_row,
    distinct,
    encode_each_picture_once,
    read_each_prompt_once,
)
from vqr1.rollout.offline import encode_prompts


@pytest.fixture(scope="module")
def models(policy_folder):
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    plain, shared = (Qwen2_5_VLForConditionalGeneration.from_pretrained(policy_folder) for _ in range(2))
    encode_each_picture_once(shared.model.visual)
    return plain, shared, AutoProcessor.from_pretrained(policy_folder, padding_side="left")


def batch(processor, order=(0, 1, 0, 2, 1, 1)):
    rng = np.random.default_rng(0)
    sizes = ((112, 112), (56, 84), (112, 112))
    pictures = [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]
    return encode_prompts(processor, [{"image": pictures[i], "prompt": build_prompt("paper")} for i in order])


def test_logits_and_gradients_are_the_same(models):
    plain, shared, processor = models
    inputs = batch(processor)
    found = []
    for model in (plain, shared):
        model.zero_grad()
        output = model(**inputs, labels=inputs["input_ids"])
        output.loss.backward()
        found.append((output.logits, [p.grad for p in model.parameters() if p.grad is not None]))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-5)
    norm = torch.cat([g.flatten() for g in found[0][1]]).norm()
    assert all(torch.allclose(a, b, atol=1e-6 * float(norm)) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_greedy_answers_are_the_same(models):
    plain, shared, processor = models
    inputs = batch(processor)
    one, other = (model.generate(**inputs, max_new_tokens=6, do_sample=False) for model in (plain, shared))
    assert torch.equal(one, other)


def test_the_tower_sees_each_picture_once(models):
    _, shared, processor = models
    seen = []
    handle = shared.model.visual.patch_embed.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    with torch.no_grad():
        shared(**batch(processor))
    handle.remove()
    assert seen == [2 * 64 + 6 * 4]  # two pictures of 8 x 8 patches and one of 4 x 6


@pytest.mark.parametrize("order", [(0, 0, 0, 1, 1, 1, 2, 2, 2), (0, 0, 1, 1, 1, 1), (0, 1, 2), (0, 0, 1, 2, 2)])
def test_the_same_answers_are_drawn_when_prompts_are_read_once(models, order):
    plain, _, processor = models
    model = copy.deepcopy(plain)
    read_each_prompt_once(model)
    inputs = batch(processor, order)
    found = []
    for each in (plain, model):
        torch.manual_seed(3)
        found.append(each.generate(**inputs, max_new_tokens=8, do_sample=True, top_k=0))
    assert torch.equal(*found)


def test_prompts_are_read_once(models):
    plain, _, processor = models
    model = copy.deepcopy(plain)
    read_each_prompt_once(model)
    rows = []
    model.model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    inputs = batch(processor, (0, 0, 0, 1, 1, 1))
    model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert rows[0] == (2, inputs["input_ids"].shape[1] - 1)
    assert rows[1] == (6, 1)


@pytest.mark.parametrize("order", [(0, 0, 1, 1), (0, 1, 2)])
def test_ranks_that_share_the_weights_generate_in_step(models, order):
    """FSDP2's weights are gathered in every pass, so no rank may end before the others."""
    plain, _, processor = models
    model, asked = copy.copy(plain), []
    model.generate = lambda **inputs: asked.append(inputs)
    read_each_prompt_once(model, in_step=True)
    model.generate(**batch(processor, order))
    assert [inputs["synced_gpus"] for inputs in asked] == [True]


@pytest.mark.parametrize(
    ("order", "k"), [((0, 0, 1, 1), 2), ((0, 0, 0, 0), 4), ((0, 1, 0, 1), 1), ((0, 0, 1, 1, 1), 1)]
)
def test_copies_in_a_row(models, order, k):
    inputs = dict(batch(models[2], order))
    assert copies_in_a_row(inputs) == k
    assert copies_in_a_row({**inputs, "pixel_values": None}) == 0


def test_equal_sums_are_not_equal_pictures():
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 1.0]])
    first, copy_of = distinct((a, b, a.clone(), b, torch.zeros(3, 1)))
    assert first == [0, 1, 4]
    assert copy_of.tolist() == [0, 1, 0, 1, 2]


@pytest.mark.parametrize("order", [(0, 0, 0, 1, 1, 1), (2, 0, 1, 0, 2, 2), (1,)])
def test_a_picture_is_prepared_once_and_as_ever(models, order, monkeypatch):
    from transformers import Qwen2VLImageProcessor

    plain = models[2].image_processor
    ours = OncePerPicture(**plain.to_dict())
    rng = np.random.default_rng(0)
    sizes = ((112, 112), (56, 84), (112, 112))
    pictures = [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]
    asked = [[pictures[i]] for i in order]  # nested, as the processor hands them on
    expected = plain(asked, return_tensors="pt")
    prepared = []
    usual = Qwen2VLImageProcessor._preprocess
    monkeypatch.setattr(
        Qwen2VLImageProcessor,
        "_preprocess",
        lambda self, images, **kw: prepared.append(len(images)) or usual(self, images, **kw),
    )
    found = ours(asked, return_tensors="pt")
    assert prepared == [len(set(order))]
    assert torch.equal(found["pixel_values"], expected["pixel_values"])
    assert torch.equal(found["image_grid_thw"], expected["image_grid_thw"])


def test_a_saved_processor_is_a_plain_one(tmp_path, models):
    from transformers import AutoProcessor

    processor = copy.copy(models[2])
    processor.image_processor = OncePerPicture(**models[2].image_processor.to_dict())
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again.image_processor) is type(models[2].image_processor)
    assert again.image_processor.size == models[2].image_processor.size
