"""Qwen2.5-VL as it is published, without its weights: its vocabulary, and the 3B's and 7B's parameters on no device.

Names, ties and targets of the tiny policy carry over to the published sizes, so what other tests show of the tiny
policy (weights handed to vLLM, LoRA, sharding by layer) holds for these too.
"""

from __future__ import annotations

import re

import pytest
import torch
from PIL import Image
from transformers import Qwen2_5_VLForConditionalGeneration

from tests.support.qwen import SPECIAL, qwen_processor
from vqr1.answer import build_prompt, read_score
from vqr1.bench.shapes import SHAPES, shape_config
from vqr1.config import LoraSettings
from vqr1.policy.load import lora_config

PAPER = build_prompt("paper")[0]["content"]


@pytest.fixture(scope="module")
def processor():
    return qwen_processor()


@pytest.fixture(scope="module")
def tokenizer(processor):
    return processor.tokenizer


def pieces(tokenizer, text):
    return [tokenizer.decode([token]) for token in tokenizer.encode(text)]


def test_the_vocabulary_has_the_published_ids(tokenizer):
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == list(range(151643, 151657))
    assert tokenizer.convert_tokens_to_ids("<|image_pad|>") == 151655
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (151645, 151643)
    assert len(tokenizer) == 151657
    text = "Ein Bild, 写真 и 图片 🙂\n\tdon't  stop"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_answers_are_cut_as_the_reader_must_expect(tokenizer):
    """Tags are several tokens, which swallow their neighbours; digits and points are always single."""
    answer = "<think>2 dogs.</think><answer>4.57</answer>"
    assert pieces(tokenizer, answer) == [
        *("<th", "ink", ">", "2", " dogs", ".</", "think", "><", "answer", ">"),
        *("4", ".", "5", "7", "</", "answer", ">"),
    ]
    assert read_score(tokenizer.decode(tokenizer.encode(answer))) == 4.57
    assert all(len(pieces(tokenizer, digit)) == 1 for digit in "0123456789.")
    assert pieces(tokenizer, " 4") == [" ", "4"]


@pytest.mark.parametrize(
    ("words", "alone", "after_a_blank"),
    [
        (("bad", "poor", "fair", "good", "excellent"), [1, 2, 1, 1, 2], [1] * 5),
        (("inferior", "worse", "similar", "better", "superior"), None, [1] * 5),
        (("A", "B", "C", "D"), [1] * 4, [1] * 4),
    ],
)
def test_words_of_a_scale_are_one_token_after_a_blank(tokenizer, words, alone, after_a_blank):
    assert [len(pieces(tokenizer, f" {word}")) for word in words] == after_a_blank
    if alone is not None:
        assert [len(pieces(tokenizer, word)) for word in words] == alone


def test_a_prompt_has_its_turns_and_the_tokens_of_its_picture(processor):
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PAPER}]}]
    text = processor.apply_chat_template(message, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"<|vision_start|><|image_pad|><|vision_end|>{PAPER}<|im_end|>\n<|im_start|>assistant\n"
    )
    inputs = processor(text=[text], images=[Image.new("RGB", (512, 384))], return_tensors="pt")
    assert inputs["image_grid_thw"].tolist() == [[1, 28, 36]]
    ids = inputs["input_ids"][0].tolist()
    assert ids.count(151655) == 28 * 36 // 4 == 252
    assert len(ids) == 353


@pytest.fixture(scope="module", params=["3b", "7b"])
def published(request, tokenizer):
    """A published size on no device, in its own vocabulary."""
    with torch.device("meta"):
        return request.param, Qwen2_5_VLForConditionalGeneration(shape_config(SHAPES[request.param], tokenizer))


@pytest.fixture(scope="module")
def tiny(policy_folder):
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(policy_folder)


def kinds(names):
    """Names with the numbers of layers and blocks left out."""
    return {re.sub(r"\.\d+\.", ".N.", name) for name in names}


def test_a_published_size_has_its_published_number_of_parameters(published):
    name, model = published
    assert sum(p.numel() for p in model.parameters()) == {"3b": 3_754_622_976, "7b": 8_292_166_656}[name]
    text, vision = model.config.text_config, model.config.vision_config
    assert text.rope_parameters["mrope_section"] == [16, 24, 24]
    assert vision.fullatt_block_indexes == [7, 15, 23, 31]
    assert (vision.window_size, vision.patch_size, vision.spatial_merge_size) == (112, 14, 2)
    assert model.config.image_token_id == 151655


def test_its_parameters_have_the_tiny_policys_names(published, tiny):
    """So the tiny policy's way into vLLM, into checkpoints and back is theirs too. The 7B has a head of its own."""
    name, model = published
    names = dict(model.named_parameters())
    tied = model.config.tie_word_embeddings
    assert tied == (name == "3b")
    assert (model.lm_head.weight is model.model.language_model.embed_tokens.weight) == tied
    assert kinds(names) == kinds(dict(tiny.named_parameters())) | (set() if tied else {"lm_head.weight"})
    layers = {int(found[1]) for name in names if (found := re.search(r"language_model\.layers\.(\d+)\.", name))}
    assert layers == set(range(SHAPES[name].layers))


def test_lora_meets_every_linear_layer_of_the_language_model_and_nothing_else(published):
    name, model = published
    shape = SHAPES[name]
    target = re.compile(LoraSettings().target_modules)
    met = [each for each, module in model.named_modules() if target.fullmatch(each)]
    linear = [each for each, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    assert met == [each for each in linear if ".language_model." in each]
    assert len(met) == 7 * shape.layers

    settings = lora_config(LoraSettings())
    adapted = sum(settings.r * sum(model.get_submodule(each).weight.shape) for each in met)
    if name == "7b":
        assert round(adapted / 1e6) == 161


def test_the_classes_that_are_sharded_whole_are_there(published, tiny):
    """What accelerate wraps, one by one, under FSDP and ZeRO."""
    _, model = published
    there = {type(module).__name__ for module in model.modules()}
    assert {"Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock"} == set(model._no_split_modules)
    assert set(model._no_split_modules) <= there
