"""A policy that answers by itself: greedy, seeded, and deaf to what its generation_config.json says of sampling."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from vqr1.answer import build_prompt
from vqr1.config import PolicyConfig
from vqr1.policy.load import load_policy, load_processor
from vqr1.rollout.offline import Policy, encode_prompts


@pytest.fixture(scope="module")
def parts(policy_folder):
    config = PolicyConfig(path=str(policy_folder), dtype="float32", attention="sdpa")
    return load_policy(config), load_processor(config)


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (56, 56, 3), dtype=np.uint8)) for _ in range(3)]
    return [{"image": picture, "prompt": build_prompt("paper")} for picture in pictures]


def test_greedy_takes_the_likeliest_token_whatever_the_seed(parts, examples):
    policy = Policy(*parts, max_tokens=5, temperature=0.0)
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(policy.answer(examples))
    assert found[0] == found[1]
    model, processor = parts
    inputs = encode_prompts(processor, examples[:1])
    for _ in range(5):
        with torch.no_grad():
            logits = model(**inputs).logits[:, -1]
        logits[:, model.config.image_token_id] = -torch.inf
        token = logits.argmax(-1, keepdim=True)
        ones = torch.ones_like(token)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], token], dim=1)
        inputs["attention_mask"] = torch.cat([inputs["attention_mask"], ones], dim=1)
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], 0 * ones], dim=1)
    assert found[0][0] == processor.tokenizer.decode(inputs["input_ids"][0, -5:], skip_special_tokens=True)


def test_a_greedy_answer_is_asked_for_without_a_warning(parts, examples, caplog, monkeypatch):
    # transformers' logger hands nothing on by itself, and says the same once only.
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    transformers.logging.get_logger("transformers").warning_once.cache_clear()
    Policy(*parts, max_tokens=1, temperature=0.0).answer(examples[:1])
    assert caplog.records == []


def test_answers_are_drawn_by_the_seed(parts, examples):
    policy = Policy(*parts, max_tokens=5)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(policy.answer(examples))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_models_own_sampling_settings_do_not_count(parts, examples, temperature, monkeypatch):
    model, processor = parts
    policy = Policy(model, processor, max_tokens=8, temperature=temperature)
    torch.manual_seed(0)
    before = policy.answer(examples)
    for name, value in {"repetition_penalty": 5.0, "top_k": 1, "top_p": 0.1, "do_sample": temperature == 0}.items():
        monkeypatch.setattr(model.generation_config, name, value)
    torch.manual_seed(0)
    assert policy.answer(examples) == before
