"""Prompts with tokens of the model's own, and chat templates that fail, never end, or print without end."""

from __future__ import annotations

import signal
import time

import pytest

from vqr1.answer import PROMPTS, build_prompt, prompt_warning
from vqr1.config import PolicyConfig
from vqr1.errors import UserError
from vqr1.policy.load import TINY, load_processor
from vqr1.rollout import prompt_checks
from vqr1.rollout.prompt_checks import bounded, check_prompt


@pytest.fixture
def processor(policy_folder):
    return load_processor(PolicyConfig(path=str(policy_folder), **TINY))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_known_prompts_pass(processor, prompt):
    check_prompt(processor, prompt)
    assert prompt_warning(prompt) is None


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|im_end|>", "<|vision_start|>"])
def test_a_prompt_with_a_model_token_is_refused_with_the_settings(token):
    with pytest.raises(UserError, match=rf"the prompt holds {token[:2]}.*take it out"):
        build_prompt(f"{token} Rate it in <answer> </answer> tags.")


def test_other_tokens_of_the_tokenizer_are_refused_once_it_is_there(processor):
    prompt = "Rate the <box> in <answer> </answer> tags."
    check_prompt(processor, prompt)
    processor.tokenizer.add_tokens(["<box>", "<answer>"])  # tags may be tokens too, as they are to other tokenizers
    with pytest.raises(UserError, match="the prompt holds <box>: to this policy"):
        check_prompt(processor, prompt)


def test_a_place_for_the_picture_in_the_words_of_others_is_warned_of():
    assert "<image>, which a Qwen2.5-VL reads as plain text" in prompt_warning("<image> Rate it in <answer></answer>")


RENDERING = "does not render the prompt"


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{{ messages[0]['content'][-1]['text'] }}", "makes 0 places for the picture .<|image_pad|>. in place of one"),
        ("<|image_pad|><|image_pad|>", "makes 2 places"),
        ("{{ raise_exception('no pictures') }}", f"{RENDERING}: TemplateError: no pictures"),
        ("{{ ''.__class__.__mro__ }}", f"{RENDERING}: SecurityError"),
        ("{% for", f"{RENDERING}: TemplateSyntaxError"),
        ("{{ 1 / 0 }}", f"{RENDERING}: ZeroDivisionError"),
        ("{{ 'x' * 250000 }}", "makes 250000 characters of one prompt"),
        ("{{ 'x' * 3000000000 }}", "needs more than 1024 MB for one prompt"),
    ],
)
def test_a_template_that_does_not_do_is_refused(processor, template, found):
    processor.chat_template = template
    with pytest.raises(UserError, match=found.replace("|", r"\|")):
        check_prompt(processor, "paper")


def test_a_template_without_an_end_is_stopped(processor, monkeypatch):
    monkeypatch.setattr(prompt_checks, "SECONDS", 0.2)
    loops = "".join("{% for i in range(99999) %}" for _ in range(3)) + "{% endfor %}" * 3
    processor.chat_template = loops
    before, began = signal.getsignal(signal.SIGALRM), time.monotonic()
    with pytest.raises(UserError, match="TimeoutError: not done after 0.2 seconds"):
        check_prompt(processor, "paper")
    assert time.monotonic() - began < 5
    assert signal.getsignal(signal.SIGALRM) == before


def test_the_limits_end_with_the_block():
    with bounded(0.05, 1 << 20), pytest.raises(MemoryError):
        bytearray(1 << 30)
    time.sleep(0.1)
    assert len(bytearray(1 << 26)) == 1 << 26
