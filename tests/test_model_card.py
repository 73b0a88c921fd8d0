"""The README.md beside saved weights: its figures are those measured, its lines load."""

import re

import pytest
import yaml

from vqr1.config import Config, Objective, PolicyConfig
from vqr1.policy.load import SHIPPED, load_policy, load_processor, lora_config
from vqr1.training.model_card import CardFacts, model_card

ROWS = [
    {"step": 0, "eval/five/srcc": 0.1234, "eval/five/plcc": 0.2, "eval/five/score_std": 0.3, "eval/five/unreadable": 0,
     "eval/five/n": 7},
    {"step": 6, "eval/five/srcc": 0.8765, "eval/five/plcc": None, "eval/five/score_std": 0.25,
     "eval/five/unreadable": 0.01, "eval/five/n": 7, "eval/a/b_test/srcc": 0.5, "eval/a/b_test/srcc_low": 0.25,
     "eval/a/b_test/srcc_high": 0.75, "eval/a/b_test/n": 9},
]  # fmt: skip


def facts(lora=False, path="tiny"):
    config = Config(policy=PolicyConfig(path=path, dtype="float32", attention="sdpa"))
    config.data.train, config.data.validation = ["five", "more"], ["five"]
    config.trainer["beta"] = 0.0375
    config.rollout.k = 11
    sizes = {"five": {"train": 31, "validation": 7, "test": 0}, "more": {"train": 53, "validation": 0, "test": 0}}
    return CardFacts(config, "mine", sizes, lora, 3.5e-5, {"torch": "9.9.9", "vllm": None})


def front_matter(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_it_says_what_was_measured_at_its_step():
    text = model_card(facts(), 6, ROWS)
    assert "| five | 0.876 | - | - | 0.250 | 0.010 | 7 |" in text
    assert "| a/b_test | 0.500 | 0.250 to 0.750 | - | - | - | 9 |" in text
    assert "0.123" not in text


def test_weights_that_were_not_evaluated_say_so():
    text = model_card(facts(), 5, ROWS)
    assert "| five | 0.123 |" in text and "**at step 0**" in text and "0.876" not in text
    assert "Nothing has been evaluated." in model_card(facts(), 5, [])


def test_it_says_what_it_was_trained_on_and_how():
    text = model_card(facts(), 6, ROWS)
    assert "| five | 31 | 7 | - |" in text and "| more | 53 | - | - |" in text
    for word in ("0.0375", "3.5e-05", "(rollout.k): 11", "torch 9.9.9", "ranking (fidelity"):
        assert word in text
    assert "vllm" not in text and "None]" not in text


def test_scores_that_were_read_have_no_figures_of_answers():
    shown = facts()
    shown.config.objective = Objective.depict
    shown.config.depict.content, shown.config.depict.content_share = "/where/mine.jsonl", 0.2
    row = {"step": 6, "eval/five/srcc": 0.5, "eval/five/plcc": 0.25, "eval/five/n": 7}
    text = model_card(shown, 6, [row])
    assert (
        "| Set | SRCC | 95 % interval | PLCC | pictures |\n|---|---|---|---|---|\n| five | 0.500 | - | 0.250 | 7 |"
        in text
    )
    assert "answers, their" not in text
    assert "(depict.short): 0.5" in text and "mine.jsonl, a share of 0.2" in text and "/where" not in text
    shown.config.objective = Objective.levels
    text = model_card(shown, 6, [{**row, "eval/five/score_std": 0.125}])
    assert "| PLCC | score std of a drawn level | pictures |" in text and "| 0.250 | 0.125 | 7 |" in text


@pytest.mark.parametrize(
    ("path", "lora", "base", "library"),
    [
        ("tiny", False, None, "transformers"),
        ("/models/mine", False, None, "transformers"),
        ("Qwen/Qwen2.5-VL-3B-Instruct", True, "Qwen/Qwen2.5-VL-3B-Instruct", "peft"),
    ],
)
def test_the_front_matter_names_the_base_and_claims_no_licence(path, lora, base, library):
    known = front_matter(model_card(facts(lora, path), 6, ROWS))
    assert (known.get("base_model"), known["library_name"]) == (base, library)
    assert known["datasets"] == ["five", "more"]
    assert "license" not in known


@pytest.mark.parametrize("lora", [False, True])
def test_its_lines_load_what_is_beside_it(tmp_path, lora):
    made = facts(lora)
    model = load_policy(made.config.policy)
    if lora:
        from peft import get_peft_model

        model = get_peft_model(model, lora_config(made.config.policy.lora))
    model.save_pretrained(str(tmp_path))
    load_processor(made.config.policy).save_pretrained(str(tmp_path))
    (code,) = re.findall("```python\n(.*?)```", model_card(made, 6, ROWS), re.DOTALL)
    found = {}
    exec(code.replace("FOLDER", str(tmp_path)), found)
    assert (type(found["model"]).__name__ == "PeftModelForCausalLM") is lora
    size = found["processor"].image_processor.size
    assert (size["shortest_edge"], size["longest_edge"]) == (3136, made.config.policy.max_pixels)
    assert SHIPPED.is_dir()
