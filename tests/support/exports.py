"""A run folder as ``vqr1 train`` leaves it, of the tiny policy with an adapter that changes its answers."""

import json
from pathlib import Path

import torch
import yaml

from vqr1.config import Config, LoraSettings, PolicyConfig, as_dict
from vqr1.policy.load import load_policy, lora_config
from vqr1.training.model_card import CardFacts, model_card, write_card

PROMPT = """How good is it, from 1 to 5? Say "why" in <think> tags, don't linger, then one number in <answer> tags."""
SPLITS = {"five": "abc", "more": "def"}
MEASURED = {
    "step": 6,
    "eval/five/srcc": 0.8765,
    "eval/five/srcc_low": 0.7,
    "eval/five/srcc_high": 0.9,
    "eval/five/n": 7,
}


def lora_run(folder: Path) -> Path:
    """Its best/ is a LoRA adapter of rank 2 and alpha 4."""
    from peft import get_peft_model

    policy = PolicyConfig(path="tiny", dtype="float32", attention="sdpa", min_pixels=3136, max_pixels=50176)
    policy.lora = LoraSettings(r=2, alpha=4)
    config = Config(policy=policy)
    config.data.train, config.data.validation = ["five", "more"], ["five"]
    config.data.split_seed = 7
    config.rollout.prompt = PROMPT
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(as_dict(config)))
    (folder / "splits.json").write_text(json.dumps({name: {"hash": found} for name, found in SPLITS.items()}))
    adapted = get_peft_model(load_policy(policy), lora_config(policy.lora))
    torch.manual_seed(3)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    adapted.save_pretrained(str(folder / "best"))
    sizes = {"five": {"train": 31, "validation": 7, "test": 0}, "more": {"train": 53, "validation": 0, "test": 0}}
    facts = CardFacts(config, folder.name, sizes, True, 1e-5, {"torch": "9.9.9"})
    write_card(folder / "best", model_card(facts, 6, [MEASURED]))
    return folder
