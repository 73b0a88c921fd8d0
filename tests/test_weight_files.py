"""Weights that do not fit, damaged or foreign files: one message, and nothing is loaded or run."""

from __future__ import annotations

import ast
import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import vqr1
from vqr1.answering.model import check_model, find_model
from vqr1.config import LoraSettings, PolicyConfig
from vqr1.errors import UserError
from vqr1.policy.load import (
    TINY,
    add_adapter,
    find_weights,
    load_generation_config,
    load_policy,
    load_processor,
    lora_config,
)
from vqr1.policy.weight_files import check_folder, current_name, read_json, read_shapes
from vqr1.scoring.settings import EvaluateConfig


@pytest.fixture
def folder(policy_folder, tmp_path):
    return shutil.copytree(policy_folder, tmp_path / "policy")


def load(folder):
    return load_policy(PolicyConfig(path=str(folder), **TINY))


def rewrite(folder, change):
    """The folder's weights, as ``change`` gives them by name."""
    path = folder / "model.safetensors"
    weights = change({name: weight.clone() for name, weight in load_file(path).items()})
    save_file(weights, path, metadata={"format": "pt"})


def edit(folder, name, **values):
    path = folder / name
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.is_file() else {}), **values}))


def without(word):
    return lambda weights: {name: weight for name, weight in weights.items() if word not in name}


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("visual", "42 missing .model.visual.blocks.0.attn.proj.bias, .*, ..."),
        ("model.layers.1.", r"12 missing .model.language_model.layers.1.input_layernorm.weight, "),
        ("model.norm.weight", r"1 missing .model.language_model.norm.weight."),
    ],
)
def test_missing_parameters_stop(folder, word, found):
    rewrite(folder, without(word))
    with pytest.raises(UserError, match=f"policy does not hold the parameters of .*: {found}.*fetch the folder again"):
        load(folder)


def test_unknown_parameters_and_other_shapes_stop(folder):
    rewrite(folder, lambda weights: {**weights, "model.layers.7.extra": torch.zeros(2)})
    with pytest.raises(UserError, match=r"1 not known \(model.language_model.layers.7.extra\)"):
        load(folder)
    rewrite(folder, lambda weights: {**without("extra")(weights), "model.norm.weight": torch.zeros(3)})
    with pytest.raises(
        UserError, match=r"1 of another shape \(model.language_model.norm.weight \[3\] in place of \[128"
    ):
        load(folder)


def test_a_tied_head_may_be_missing_and_another_not(folder):
    load(folder)
    text = json.loads((folder / "config.json").read_text())["text_config"]
    edit(folder, "config.json", tie_word_embeddings=False, text_config={**text, "tie_word_embeddings": False})
    with pytest.raises(UserError, match=r"1 missing \(lm_head.weight\)"):
        check_folder(folder)


def test_a_policy_that_will_be_sharded_is_looked_at_whole(policy_folder):
    from transformers.integrations import deepspeed

    class Sharded:
        def is_zero3(self):
            return True

    sharded = Sharded()  # transformers keeps no reference to it
    deepspeed.set_hf_deepspeed_config(sharded)
    try:
        assert deepspeed.is_deepspeed_zero3_enabled()
        check_folder(policy_folder)
    finally:
        deepspeed.unset_hf_deepspeed_config()


def test_old_and_new_names_load_the_same(folder):
    before = load(folder).state_dict()
    rewrite(folder, lambda weights: {current_name(name): weight for name, weight in weights.items()})
    assert "model.visual.merger.mlp.0.bias" in read_shapes(folder / "model.safetensors")
    after = load(folder).state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


@pytest.mark.parametrize(
    ("word", "wrapper"),
    [
        ("module.", "DistributedDataParallel"),
        ("base_model.model.", "PEFT"),
        ("_orig_mod.", "torch.compile"),
        ("_fsdp_wrapped_module.", "FSDP"),
    ],
)
def test_names_of_a_wrapper_are_refused_by_its_name(folder, word, wrapper):
    rewrite(folder, lambda weights: {f"{word}{name}": weight for name, weight in weights.items()})
    with pytest.raises(UserError, match=rf"named as {wrapper}.*{word}.*save_pretrained.*take '{word}' out"):
        load(folder)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def of_header(path, shape, place):
    header = f'{{"a": {{"dtype": "F32", "shape": {shape}, "data_offsets": {place}}}}}'.encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (cut, "it should have [0-9]+ bytes, and has [0-9]+"),
        (lambda path: path.write_bytes(b"\0" * 4), "header should be"),
        (lambda path: path.write_bytes(struct.pack("<Q", 2**62) + b"{}"), f"its header should be {2**62} bytes"),
        (lambda path: path.write_bytes(struct.pack("<Q", 4) + b"junk"), "header: JSONDecodeError"),
        (lambda path: path.write_bytes(struct.pack("<Q", 2) + b"[]"), "header: TypeError"),
        (lambda path: of_header(path, "[1e999]", "[0, 4]"), "header: OverflowError"),
        (lambda path: of_header(path, "[1]", "[0, 1e999]"), "header: OverflowError"),
        (lambda path: of_header(path, f"[{10**400}]", "[0, 4]"), "its header has a size or place that is negative or"),
        (lambda path: of_header(path, "[1]", f"[0, {10**4299}]"), "its header has a size or place that is negative or"),
        (lambda path: of_header(path, "[-1]", "[0, 4]"), "its header has a size or place that is negative or"),
        (lambda path: path.write_bytes(struct.pack("<Q", 7) + b'{"a":1}'), "header: TypeError"),
    ],
)
def test_damaged_weights_are_named(folder, damage, found):
    damage(folder / "model.safetensors")
    with pytest.raises(UserError, match=f"model.safetensors: not a whole safetensors file .*{found}"):
        load(folder)


def test_layers_without_weights_are_refused_before_they_are_made(folder):
    text = json.loads((folder / "config.json").read_text())["text_config"]
    edit(folder, "config.json", text_config={**text, "num_hidden_layers": 3000, "layer_types": None})
    with pytest.raises(UserError, match="config.json says 3003 layers, and the files beside it hold 68 tensors"):
        load(folder)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"model_type": "qwen3_vl"}, "model_type is qwen3_vl; a policy is a Qwen2.5-VL"),
        ({"model_type": "evil", "auto_map": {"AutoConfig": "evil.C"}}, "needs code of its own .*vqr1 runs none"),
        ({"architectures": ["GPT2LMHeadModel"]}, "architectures is .*GPT2LMHeadModel"),
        ({"transformers_weights": "other.safetensors"}, "transformers_weights names other files"),
        ({"text_config": {"hidden_size": "wide"}}, "config.json: not the settings of a Qwen2.5-VL"),
        ({"text_config": {"hidden_size": 0, "num_hidden_layers": 2}}, "config.json: not the settings of a Qwen2.5-VL"),
    ],
)
def test_settings_of_another_model_are_refused(folder, values, found):
    edit(folder, "config.json", **values)
    with pytest.raises(UserError, match=found):
        load(folder)


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("text_config", {"hidden_size": -64}),
        ("text_config", {"vocab_size": -5}),
        ("text_config", {"vocab_size": 5, "pad_token_id": 7}),
        ("text_config", {"intermediate_size": 2**62}),
        ("text_config", {"num_hidden_layers": 3000, "layer_types": None}),
        ("vision_config", {"patch_size": -1}),
        ("vision_config", {"hidden_size": -64}),
        ("vision_config", {"in_channels": 2**63}),
    ],
)
def test_sizes_that_no_model_has_are_refused(folder, part, values):
    vision = {"vision_config": {**json.loads((folder / "config.json").read_text())["vision_config"], "depth": -3000}}
    before = json.loads((folder / "config.json").read_text())[part]
    edit(folder, "config.json", **(vision if "num_hidden_layers" in values else {}), **{part: {**before, **values}})
    with pytest.raises(UserError, match=r"config.json(: not the settings of a Qwen2.5-VL| says 3000 layers)"):
        load(folder)


def test_settings_that_are_no_json_are_named(folder):
    (folder / "config.json").write_text("[1]")
    with pytest.raises(UserError, match=r"config.json: holds list"):
        load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json: not a readable JSON file"):
        load(folder)


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/tmp/x.safetensors", "pytorch_model.bin", "a/b.safetensors"]
)
def test_an_index_names_safetensors_beside_it_alone(folder, name):
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    edit(folder, "model.safetensors.index.json", metadata={}, weight_map={"lm_head.weight": name})
    with pytest.raises(UserError, match="weights are read from [*].safetensors files beside the index"):
        load(folder)


def test_shards_are_read_by_their_index(folder):
    weights = load_file(folder / "model.safetensors")
    names = {name: f"model-0000{1 + ('visual' in name)}-of-00002.safetensors" for name in weights}
    for file in set(names.values()):
        save_file({n: w for n, w in weights.items() if names[n] == file}, folder / file, metadata={"format": "pt"})
    edit(folder, "model.safetensors.index.json", metadata={}, weight_map=names)
    with pytest.raises(UserError, match="holds both model.safetensors and model.safetensors.index.json"):
        load(folder)
    (folder / "model.safetensors").unlink()
    load(folder)
    edit(folder, "model.safetensors.index.json", weight_map=None)
    with pytest.raises(UserError, match="index.json has no weight_map"):
        load(folder)


def test_pickled_weights_are_refused_by_name(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="holds weights as pytorch_model.bin.*can run code and is not read"):
        find_weights(str(folder))


RAN = "ran"


@pytest.fixture
def evil(folder, monkeypatch):
    """A folder with code that would leave a file; a question on stdin would be answered with yes."""
    code = f"open({str(folder / RAN)!r}, 'w')\nclass Evil: pass\n"
    (folder / "evil.py").write_text(code)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    return folder


@pytest.mark.parametrize("auto", ["AutoProcessor", "AutoTokenizer", "AutoImageProcessor"])
def test_a_processor_with_code_of_its_own_is_refused(evil, auto):
    word = {"AutoProcessor": "processor_class", "AutoTokenizer": "tokenizer_class"}.get(auto, "image_processor_type")
    for name in ("processor_config.json", "tokenizer_config.json", "preprocessor_config.json"):
        mapped = ["evil.Evil", None] if auto == "AutoTokenizer" else "evil.Evil"
        if (evil / name).is_file() or name == "preprocessor_config.json":
            edit(evil, name, auto_map={auto: mapped}, **{word: "Evil"})
    try:
        load_processor(PolicyConfig(path=str(evil), **TINY))
    except UserError as error:
        assert "needs code of its own" in str(error) or "does not load" in str(error)
    else:
        assert auto != "AutoProcessor"  # the image processor and the tokenizer are read by transformers' own classes
    assert not (evil / RAN).exists()


@pytest.mark.parametrize("part", [None, "text_config", "vision_config"])
def test_attention_from_the_hub_is_not_fetched(folder, part):
    kernel = {"attn_implementation": "someone/evil@main:attention"}
    edit(folder, "config.json", **({part: {**read_json(folder / "config.json")[part], **kernel}} if part else kernel))
    with pytest.raises(UserError, match="needs code of its own .attn_implementation someone/evil@main:attention"):
        load(folder)


def test_attention_that_is_not_installed_here_is_no_hindrance(folder):
    edit(folder, "config.json", attn_implementation="flash_attention_3")
    assert load(folder).config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "processor_config.json"])
def test_a_damaged_processor_is_one_message(folder, name):
    cut(folder / name)
    with pytest.raises(UserError, match=f"the processor in {folder} does not load"):
        load_processor(PolicyConfig(path=str(folder), **TINY))


def test_code_beside_names_that_are_known_is_not_run(evil):
    for name in ("config.json", "tokenizer_config.json", "processor_config.json"):
        edit(evil, name, auto_map={"AutoProcessor": "evil.Evil", "AutoConfig": "evil.Evil"})
    load(evil)
    load_processor(PolicyConfig(path=str(evil), **TINY))
    (evil / "generation_config.json").unlink()
    load_generation_config(str(evil))
    assert not (evil / RAN).exists()


@pytest.fixture
def adapter(policy_folder, tmp_path):
    """An adapter as a run leaves it."""
    from peft import get_peft_model

    made = tmp_path / "adapter"
    get_peft_model(load(policy_folder), lora_config(LoraSettings(r=2, alpha=4))).save_pretrained(made)
    return made


def test_an_adapter_that_fits_is_added(adapter, policy_folder):
    adapted = add_adapter(load(policy_folder), adapter)
    assert any("lora_A" in name for name, _ in adapted.named_parameters())


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda w: dict(list(w.items())[2:]), "2 missing"),
        (lambda w: {**w, "base_model.model.extra.lora_A.weight": torch.zeros(2, 2)}, "1 not known"),
        (lambda w: {n: torch.zeros(3, 3) for n in w}, "does not fit the policy it is laid on"),
    ],
)
def test_an_adapter_that_does_not_fit_stops(adapter, policy_folder, change, found):
    path = adapter / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)
    with pytest.raises(UserError, match=found):
        add_adapter(load(policy_folder), adapter)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": "("},
        {"target_modules": 5},
        {"alpha_pattern": 5},
        {"rank_pattern": {"(": 2}},
        {"trainable_token_indices": [10**9]},
        {"layers_to_transform": "x", "target_modules": ["q_proj"]},
        {"lora_dropout": "x"},
        {"r": -1},
    ],
    ids=str,
)
def test_settings_of_an_adapter_that_fit_no_policy_are_refused(adapter, policy_folder, settings):
    edit(adapter, "adapter_config.json", **settings)
    with pytest.raises(UserError, match="adapter"):
        add_adapter(load(policy_folder), adapter)


def test_an_adapter_that_only_its_header_calls_whole_stops(adapter, policy_folder):
    path = adapter / "adapter_model.safetensors"
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    name = next(name for name in header if name != "__metadata__")
    header[name]["data_offsets"][0] += 4  # of the right shape and length in all, with a hole
    changed = json.dumps(header).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + size :])
    with pytest.raises(UserError, match="does not fit the policy it is laid on"):
        add_adapter(load(policy_folder), adapter)


def test_an_evaluation_looks_before_it_makes_a_folder(folder):
    model = find_model(EvaluateConfig(model=str(folder), max_pixels=TINY["max_pixels"]))
    assert check_model(model) is None
    rewrite(folder, without("visual"))
    with pytest.raises(UserError, match="42 missing"):
        check_model(model)


def test_a_pickled_or_other_adapter_is_refused(adapter, policy_folder):
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(UserError, match="weights as adapter_model.bin"):
        add_adapter(load(policy_folder), adapter)
    edit(adapter, "adapter_config.json", peft_type="IA3")
    with pytest.raises(UserError, match="peft_type is IA3"):
        add_adapter(load(policy_folder), adapter)


def test_every_load_that_could_run_a_folders_code_says_that_it_must_not():
    concrete = {"Qwen2VLImageProcessor", "Qwen2_5_VLConfig", "GenerationConfig", "PeftModel"}  # they look for no code
    for file in sorted(Path(vqr1.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".from_pretrained"):
                if ast.unparse(node.func).split(".")[0] in concrete:
                    continue
                words = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert words.get("trust_remote_code") == "False", f"{file.name}:{node.lineno}"
