"""Each picture prepared and encoded once: the same numbers as with every copy prepared and encoded."""

from __future__ import annotations

import copy
import os

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessor

from vqr1.answer import build_prompt
from vqr1.picture_prompts import in_order
from vqr1.policy.read_once import (
    PER_TOKEN,
    OncePerPrompt,
    PictureCutter,
    copies_in_a_row,
    distinct,
    encode_each_picture_once,
    of_rows,
    read_each_prompt_once,
    take_bytes,
)
from vqr1.rollout.offline import encode_prompts


@pytest.fixture(scope="module")
def models(policy_folder):
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    plain, shared = (Qwen2_5_VLForConditionalGeneration.from_pretrained(policy_folder) for _ in range(2))
    encode_each_picture_once(shared.model.visual)
    return plain, shared, AutoProcessor.from_pretrained(policy_folder, padding_side="left")


def reading_once(plain, processor):
    """A copy of the model, and the processor for it, that read equal prompts once."""
    model, once = copy.deepcopy(plain), OncePerPrompt.of(processor)
    take_bytes(model.model.visual, once.image_processor)
    read_each_prompt_once(model)
    return model, once


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
    model, once = reading_once(plain, processor)
    found = []
    for each, inputs in (
        (plain, batch(processor, order)),
        (model, batch(once, order)),
        (model, batch(processor, order)),
    ):
        torch.manual_seed(3)
        found.append(each.generate(**inputs, max_new_tokens=8, do_sample=True, top_k=0))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])  # a batch of the plain processor's


def test_prompts_are_read_once(models):
    model, once = reading_once(models[0], models[2])
    rows = []
    model.model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    inputs = batch(once, (0, 0, 1, 1, 1, 2))
    model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert rows[0] == (3, inputs["input_ids"].shape[1] - 1)
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
    ("order", "copies"),
    [((0, 0, 1, 1), [2, 2]), ((0, 0, 0, 0), [4]), ((0, 1, 0, 1), [1] * 4), ((0, 0, 1, 1, 1), [2, 3])],
)
def test_copies_in_a_row(models, order, copies):
    inputs = batch(OncePerPrompt.of(models[2]), order)
    assert copies_in_a_row(inputs, inputs["picture"]).tolist() == copies


def test_equal_sums_are_not_equal_pictures():
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 1.0]])
    first, copy_of = distinct((a, b, a.clone(), b, torch.zeros(3, 1)))
    assert first == [0, 1, 4]
    assert copy_of.tolist() == [0, 1, 0, 1, 2]


def some_pictures(*sizes):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def asked(pictures, order):
    return [{"image": pictures[i], "prompt": build_prompt("paper")} for i in order]


@pytest.mark.parametrize("order", [(0, 0, 0, 1, 1, 1), (2, 0, 1, 0, 2, 2), (1,)])
@pytest.mark.parametrize("padding", [True, False])
def test_every_row_is_as_ever_and_every_picture_is_there_once(models, order, padding):
    pictures = some_pictures((112, 112), (56, 84), (100, 70))  # the last is resized
    plain = models[2]
    expected = encode_prompts(plain, asked(pictures, order), padding)
    once = OncePerPrompt.of(plain)
    found = encode_prompts(once, asked(pictures, order), padding)
    for name in PER_TOKEN:
        assert np.array_equal(found[name], expected[name]) if padding else found[name] == expected[name]
    grid = torch.as_tensor(expected["image_grid_thw"])
    assert torch.equal(found["image_grid_thw"], grid)
    assert found["pixel_values"].dtype == torch.uint8
    assert len(found["pixel_values"]) == sum(grid[order.index(i)].prod() for i in set(order))
    rows = of_rows(found["pixel_values"], grid, found["picture"].tolist())
    assert len({row.data_ptr() for row in rows}) == len(set(order))
    assert torch.equal(once.image_processor.as_read(torch.cat(rows)), torch.as_tensor(expected["pixel_values"]))


@pytest.mark.parametrize("settings", [{}, {"do_rescale": False}, {"do_normalize": False}, {"image_std": [0.1, 1, 9]}])
@pytest.mark.parametrize("sent_as", [torch.uint8, torch.bfloat16, torch.float16, torch.float32])
def test_bytes_become_the_bits_of_the_image_processor(settings, sent_as):
    every_value = Image.fromarray(np.arange(3 * 28 * 28).reshape(28, 28, 3).astype(np.uint8))
    plain = Qwen2VLImageProcessor(**settings)
    cutter = PictureCutter(**plain.to_dict())
    expected = plain([every_value], return_tensors="pt")["pixel_values"]
    patches = cutter([every_value])["pixel_values"]
    assert patches.numel() * 8 == expected.numel() * expected.element_size()
    assert torch.equal(cutter.as_read(patches.to(sent_as)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_tower_is_given_the_same_bits(models, dtype):
    plain, processor = copy.deepcopy(models[0]).to(dtype), models[2]
    ours, once = copy.deepcopy(plain), OncePerPrompt.of(processor)
    take_bytes(ours.model.visual, once.image_processor)
    pictures, seen = some_pictures((112, 112), (56, 84)), []
    for model, inputs in ((plain, processor), (ours, once), (ours, processor)):
        model.model.visual.patch_embed.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        batch = dict(encode_prompts(inputs, asked(pictures, (0, 1))))
        batch.pop("picture", None)
        model(**batch)
    assert seen[0].dtype == dtype
    assert all(torch.equal(seen[0], other) for other in seen[1:])


def test_pictures_are_cut_once_for_who_asks_twice(models, monkeypatch):
    cut = []
    usual = Qwen2VLImageProcessor._preprocess
    monkeypatch.setattr(
        Qwen2VLImageProcessor, "_preprocess", lambda self, images, **kw: cut.append(1) or usual(self, images, **kw)
    )
    once = OncePerPrompt.of(models[2])
    pictures = some_pictures((56, 56), (56, 84))
    first, again = (encode_prompts(once, asked(pictures, order)) for order in ((0, 0, 1), (0, 1, 1, 1)))
    assert len(cut) == 2 and first["pixel_values"] is again["pixel_values"]
    encode_prompts(once, asked(pictures, (1, 0)))
    assert len(cut) == 4
    changed = [picture.copy() for picture in pictures]  # equal, but nothing says that they are
    encode_prompts(once, asked(changed, (1, 0)))
    assert len(cut) == 6


def test_the_number_of_threads_changes_no_bit(models, monkeypatch):
    pictures, found = some_pictures(*[(56, 84), (84, 112), (56, 56)] * 4), []
    for cores in (1, 5):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: range(n))
        found.append(OncePerPrompt.of(models[2]).image_processor(pictures)["pixel_values"])
    assert torch.equal(*found)


def test_a_saved_processor_is_a_plain_one(tmp_path, models):
    from transformers import AutoProcessor

    once = OncePerPrompt.of(models[2])
    encode_prompts(once, asked(some_pictures((56, 56)), (0, 0)))
    once.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is type(models[2])
    assert again.to_dict() == models[2].to_dict()


def pairs(processor, order=((0, 1), (1, 0), (0, 2))):
    """Prompts with two pictures, and one with three: the pictures are three objects."""
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in ((56, 56), (56, 84))]
    pictures.append(pictures[0].rotate(90))
    asked = [*order, (0, 1, 2)]
    return encode_prompts(
        processor,
        [{"images": [pictures[i] for i in each], "prompt": in_order(len(each), "Which is sharper?")} for each in asked],
    )


def test_prompts_with_several_pictures_give_the_same_logits(models):
    plain, _, processor = models
    model, once = reading_once(plain, processor)
    encode_each_picture_once(model.model.visual)
    seen = []
    model.model.visual.patch_embed.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    with torch.no_grad():
        expected, found = plain(**pairs(processor)).logits, model(**pairs(once)).logits
    torch.testing.assert_close(found, expected)
    assert seen == [16 + 24 + 16]  # patches of three pictures, which came nine times


def test_prompts_with_several_pictures_are_answered_alike(models):
    plain, _, processor = models
    model, once = reading_once(plain, processor)
    encode_each_picture_once(model.model.visual)
    found = [each.generate(**inputs, max_new_tokens=6, do_sample=False)
             for each, inputs in ((plain, pairs(processor)), (model, pairs(once)))]  # fmt: skip
    assert torch.equal(*found)


def test_pictures_stand_where_they_are_named(models):
    _, _, processor = models
    (text, *_) = processor.tokenizer.batch_decode(pairs(processor)["input_ids"])
    places = "The first image: {0} The second image: {1}\nWhich is sharper?"
    pads = [f"<|vision_start|>{'<|image_pad|>' * n}<|vision_end|>" for n in (4, 6)]
    assert places.format(*pads) in text


def test_a_picture_that_comes_several_times_is_cut_once(models, monkeypatch):
    _, once = reading_once(models[0], models[2])
    plain, cut = Qwen2VLImageProcessor.preprocess, []
    monkeypatch.setattr(
        Qwen2VLImageProcessor,
        "preprocess",
        lambda self, images, **kwargs: cut.append(len(images)) or plain(self, images, **kwargs),
    )
    pairs(once)
    assert cut == [1, 1, 1]
