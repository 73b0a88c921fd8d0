"""The loading code for Qwen2.5-VL, on a folder of the tiny policy in the same format."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vqr1.answer import PROMPTS
from vqr1.config import Launcher, PolicyConfig, Tuning
from vqr1.demo.cold_start import answer_text, corpus, to_patches
from vqr1.demo.tiny_policy import SPECIAL_TOKENS, TAGS, build_model, build_tokenizer
from vqr1.policy.load import (
    check_grid,
    check_precision,
    find_weights,
    load_policy,
    load_processor,
    lora_config,
    resolve_attention,
    resolve_dtype,
    vision_tower,
)


@pytest.fixture
def settings(policy_folder):
    return PolicyConfig(path=str(policy_folder), dtype="float32", attention="sdpa", max_pixels=200704)


def test_weights_dtype_and_attention_are_as_asked(settings):
    model = load_policy(settings)
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert next(model.parameters()).dtype is torch.float32
    assert model.config._attn_implementation == "sdpa"
    settings.dtype = "bfloat16"
    assert {p.dtype for p in load_policy(settings).parameters()} == {torch.bfloat16}


def test_the_vision_tower_is_trained_or_frozen(settings):
    assert all(p.requires_grad for p in load_policy(settings).parameters())
    settings.train_vision = False
    model = load_policy(settings)
    assert not any(p.requires_grad for p in vision_tower(model).parameters())
    assert all(p.requires_grad for p in model.model.language_model.parameters())


def test_lora_reaches_the_language_model_and_leaves_the_vision_tower(settings):
    from peft import get_peft_model

    model = get_peft_model(load_policy(settings), lora_config(settings.lora))
    adapted = {name for name, p in model.named_parameters() if p.requires_grad}
    assert adapted and all("language_model" in name and "lora_" in name for name in adapted)
    assert len({name.split(".lora_")[0] for name in adapted}) == 2 * 7  # layers x linear maps
    assert vision_tower(model) is model.get_base_model().model.visual


def test_pixel_limits_hold(settings):
    processor = load_processor(settings)
    check_grid(processor, Image.new("RGB", (112, 84)), settings)
    settings.max_pixels = 56 * 56
    small = load_processor(settings)
    with pytest.raises(ValueError, match="policy.min_pixels and policy.max_pixels"):
        check_grid(small, Image.new("RGB", (112, 84)), settings)


def test_padding_is_on_the_left(settings):
    processor = load_processor(settings)
    rows = processor.tokenizer(["a", "a longer text"], padding=True)["attention_mask"]
    assert rows[0][0] == 0 and rows[0][-1] == 1


def test_half_precision_without_a_master_copy_is_refused(settings):
    settings.dtype = "bfloat16"
    with pytest.raises(ValueError, match="policy.dtype=float32, use LoRA"):
        check_precision(settings, Tuning.full, Launcher.ddp)
    check_precision(settings, Tuning.full, Launcher.zero3)
    check_precision(settings, Tuning.full, Launcher.zero2)
    check_precision(settings, Tuning.lora, Launcher.none)


def test_fsdp_keeps_float32_weights_where_they_compute_in_bfloat16(settings, monkeypatch):
    settings.dtype = "bfloat16"
    with pytest.raises(
        ValueError, match="no float32 master copy"
    ):  # no autocast, so accelerate leaves them as they are
        check_precision(settings, Tuning.full, Launcher.fsdp2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    check_precision(settings, Tuning.full, Launcher.fsdp2)


@pytest.mark.parametrize("tuning", [Tuning.full, Tuning.lora])
@pytest.mark.parametrize("launcher", [Launcher.none, Launcher.zero3])
def test_training_in_float16_is_refused(settings, tuning, launcher):
    settings.dtype = "float16"
    with pytest.raises(
        ValueError, match="policy.dtype=float16: .*loss scaling.*; set policy.dtype=bfloat16, or float32"
    ):
        check_precision(settings, tuning, launcher)


def test_flash_attention_takes_no_float32(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_attention("auto", torch.bfloat16) == "sdpa"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_attention("auto", torch.bfloat16) == "flash_attention_2"
    assert resolve_attention("flash_attention_2", torch.float16) == "flash_attention_2"
    assert resolve_attention("auto", torch.float32) == "sdpa"
    with pytest.raises(ValueError, match="policy.attention=flash_attention_2 takes no float32.*policy.attention=sdpa"):
        resolve_attention("flash_attention_2", torch.float32)


def test_missing_weights_say_what_to_fetch(tmp_path):
    with pytest.raises(FileNotFoundError, match="hf download Qwen/Qwen2.5-VL-7B-Instruct"):
        find_weights("Qwen/Qwen2.5-VL-7B-Instruct")
    with pytest.raises(FileNotFoundError, match="holds no model"):
        find_weights(str(tmp_path))


def test_unknown_dtype_and_missing_flash_attention_are_refused():
    with pytest.raises(ValueError, match="choose auto, float32"):
        resolve_dtype("float8")
    assert resolve_attention("sdpa", torch.float32) == "sdpa"
    try:
        import flash_attn  # noqa: F401
    except ImportError:
        assert resolve_attention("auto", torch.bfloat16) == "sdpa"
        with pytest.raises(ValueError, match="use sdpa"):
            resolve_attention("flash_attention_2", torch.bfloat16)


def test_the_tiny_tokenizer_keeps_tags_digits_and_any_text():
    tokenizer = build_tokenizer(corpus())
    for tag in TAGS + SPECIAL_TOKENS:
        assert len(tokenizer(tag)["input_ids"]) == 1
    text = answer_text("dark", "gaussian_blur", 4, 2.35)
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    assert len(pieces) <= 16
    assert pieces[-5:] == ["2", ".", "3", "5", "</answer>"]
    for other in (*PROMPTS.values(), "Ein Satz, den niemand gelernt hat: äöü 字 🙂 12.5 %"):
        assert tokenizer.decode(tokenizer(other)["input_ids"]) == other


def test_the_tiny_model_is_decided_by_its_seed():
    tokenizer = build_tokenizer(corpus())
    state = torch.random.get_rng_state()
    one, same, other = (build_model(tokenizer, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert 1e6 < sum(p.numel() for p in one.parameters()) < 3e6


def test_practice_patches_are_the_processors(settings):
    processor = load_processor(settings).image_processor
    pixels = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    expected = processor([Image.fromarray(p) for p in pixels], return_tensors="pt")["pixel_values"]
    mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
    assert torch.allclose(to_patches(torch.from_numpy(pixels), mean, std), expected, atol=1e-5)
