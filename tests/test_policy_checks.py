"""What is said of a policy before it is loaded, from a run's settings and its folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.support.choices import choices_for
from vqr1.config import Config, LoraSettings, PolicyConfig, RolloutConfig, Tuning
from vqr1.errors import UserError
from vqr1.policy.load import TINY, load_processor
from vqr1.policy.weight_files import check_folder
from vqr1.training import policy_checks
from vqr1.training.policy_checks import check_policy, lora_targets


def checked(folder, tuning=Tuning.full, template=None, **rollout):
    policy = PolicyConfig(path=str(folder), **TINY)
    trainer = {"images_per_step": 8, "answers_per_device": 48, "beta": 0.04}
    trainer |= {"chat_template_kwargs": json.dumps(template)} if template else {}
    config = Config(policy=policy, rollout=RolloutConfig(**rollout), trainer=trainer)
    choices = replace(choices_for(config), policy=folder, tuning=tuning)
    processor = load_processor(policy)
    return check_policy(config, choices, processor, Image.new("RGB", (112, 112)))


def test_the_tiny_policy_passes_without_a_word(policy_folder):
    assert checked(policy_folder, max_tokens=16) == []
    assert checked(policy_folder, Tuning.lora, max_tokens=16) == []


def test_weights_without_a_vision_tower_are_refused(policy_folder, tmp_path):
    folder = shutil.copytree(policy_folder, tmp_path / "no_vision")
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "visual" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="no_vision does not hold the parameters of the model"):
        checked(folder)


def test_arguments_of_the_template_count(policy_folder, tmp_path):
    folder = shutil.copytree(policy_folder, tmp_path / "twice")
    (folder / "chat_template.jinja").write_text("<|image_pad|>{% if again %}<|image_pad|>{% endif %}")
    checked(folder, max_tokens=16)
    with pytest.raises(UserError, match="makes 2 places"):
        checked(folder, template={"again": True})


def test_a_machine_that_is_slow(policy_folder, monkeypatch):
    monkeypatch.setattr(policy_checks, "matmul_speed", lambda: 1e7)
    (warning,) = checked(policy_folder)
    assert warning.startswith("warning: there is no GPU") and str(policy_folder) in warning


def test_anothers_word_for_a_picture_is_warned_of(policy_folder):
    (warning,) = checked(policy_folder, max_tokens=16, prompt="<image> Rate it in <answer> </answer> tags.")
    assert "<image>" in warning


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        ("nothing", r"names no module of the policy(.|\n)*model.language_model.layers.[*].self_attn.q_proj"),
        (r".*language_model.layers.0", "names model.language_model.layers.0, which is no linear map"),
        ("(", "is not a regular expression"),
    ],
)
def test_lora_targets_that_match_nothing_list_what_there_is(policy_folder, targets, found):
    model = check_folder(policy_folder)
    assert len(lora_targets(model, LoraSettings())) == 2 * 7
    with pytest.raises(UserError, match=rf"policy.lora.target_modules=.*{found}"):
        lora_targets(model, LoraSettings(target_modules=targets))
