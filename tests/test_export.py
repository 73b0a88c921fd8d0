"""``vqr1 export``: a run's weights as a folder that answers without vqr1 as they do."""

from __future__ import annotations

import csv
import errno
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import yaml
from PIL import Image

from tests.support.exports import PROMPT, SPLITS, lora_run
from tests.support.results import rows_of, write_results
from tests.test_rating import pictures_of
from tests.test_scale import on_curve
from vqr1.answer import build_prompt
from vqr1.answering.model import find_model, load_model
from vqr1.answering.settings import AnswerSettings
from vqr1.config import PolicyConfig
from vqr1.errors import UserError
from vqr1.evaluation.mos_map import MosMap
from vqr1.evaluation.scale import Scale
from vqr1.export.card import read_card
from vqr1.export.check import WITHOUT, check_picture
from vqr1.export.folder import Asked, Done, difference, export, generation_config
from vqr1.exported import Exported, read_exported, write_exported
from vqr1.policy.load import SHIPPED, files_hash, load_folder, load_processor
from vqr1.rating.command import run as rate
from vqr1.rating.rater import load_rater
from vqr1.rating.scales import find_scale
from vqr1.rollout.offline import Policy

LAYER = "model.language_model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return lora_run(tmp_path_factory.mktemp("runs") / "mine")


@pytest.fixture(scope="module")
def exported(run):
    """The exported folder, and what was said of it; asked in a process without vqr1."""
    folder = run.parent.parent / "models" / "mine"  # made with the folder above it
    return folder, export(Asked(str(run), folder, max_tokens=48))


def answer_of(model: str, picture: Image.Image) -> str:
    """As vqr1 answers."""
    found = find_model(AnswerSettings(model=model))
    policy = Policy(*load_model(found), max_tokens=48, temperature=0.0)
    return policy.answer([{"prompt": build_prompt(found.prompt), "image": picture}])[0]


def test_a_process_without_vqr1_gives_the_answer_of_the_runs_weights(run, exported):
    _, done = exported
    picture = check_picture(3136, 50176)
    assert done.answer == answer_of(str(run), picture)
    assert done.answer != answer_of("tiny", picture)  # the adapter counts
    assert done.notes == []


def test_another_answer_stops_an_export_in_float32_and_is_told_in_half_precision():
    assert difference("4", "4", "float32") is None
    with pytest.raises(UserError, match="answers '4', and the run's weights answer '3': .* nothing is exported"):
        difference("4", "3", "float32")
    assert "in bfloat16 two tokens" in (difference("4", "3", "bfloat16") or "")


def test_that_process_cannot_import_vqr1():
    done = subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT + "import vqr1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "vqr1" in done.stderr.splitlines()[-1]


def test_the_adapter_is_merged_by_its_equation(run, exported):
    folder, _ = exported
    assert not list(folder.glob("adapter*"))
    from safetensors.torch import load_file

    adapter = load_file(run / "best" / "adapter_model.safetensors")
    a, b = (adapter[f"base_model.model.{LAYER}.lora_{which}.weight"] for which in "AB")
    before = load_folder(SHIPPED, torch.float32).state_dict()[f"{LAYER}.weight"]
    after = load_folder(folder, torch.float32).state_dict()[f"{LAYER}.weight"]
    assert torch.allclose(after, before + 4 / 2 * b @ a, atol=1e-6)  # W + alpha / r B A
    assert not torch.allclose(after, before, atol=1e-3)


def test_the_processor_keeps_pictures_within_the_runs_limits(exported):
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(str(exported[0]), local_files_only=True)
    assert (processor.image_processor.size["shortest_edge"], processor.image_processor.size["longest_edge"]) == (
        3136,
        50176,
    )
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}]
    large = Image.new("RGB", (900, 700))
    text = processor.apply_chat_template(message, add_generation_prompt=True)
    ids = processor(text=text, images=[large], return_tensors="pt")["input_ids"][0]
    assert 40 < int((ids == processor.image_token_id).sum()) <= 50176 // 28**2
    assert text == load_processor(PolicyConfig(path="tiny")).apply_chat_template(message, add_generation_prompt=True)


def test_of_the_base_models_generation_settings_its_special_tokens_alone_are_kept():
    from transformers import GenerationConfig

    processor = load_processor(PolicyConfig(path="tiny"))
    tokenizer = processor.tokenizer
    qwens = GenerationConfig(
        do_sample=True, temperature=1e-6, repetition_penalty=1.05, top_k=1, eos_token_id=[7, tokenizer.eos_token_id]
    )
    made = generation_config(qwens, processor, 33).to_diff_dict()
    assert made["max_new_tokens"] == 33 and made["eos_token_id"] == [7, tokenizer.eos_token_id]
    assert made["suppress_tokens"] and not {"temperature", "repetition_penalty", "top_k"} & set(made)
    assert not made.get("do_sample")


def test_an_exported_folder_is_asked_and_evaluated_as_its_run(run, exported):
    folder, _ = exported
    assert read_exported(folder).prompt == PROMPT
    of_run, of_folder = (find_model(AnswerSettings(model=str(path))) for path in (run, folder))
    assert (of_folder.prompt, of_folder.trained_on, of_folder.seen) == (PROMPT, ["five", "more"], of_run.seen)
    assert of_folder.seen.hashes == SPLITS
    for name in ("dtype", "min_pixels", "max_pixels"):
        assert getattr(of_folder.policy, name) == getattr(of_run.policy, name)
    picture = check_picture(3136, 50176).rotate(180)
    assert answer_of(str(folder), picture) == answer_of(str(run), picture)


def test_the_card_is_the_runs_with_how_to_ask(exported):
    text = (exported[0] / "README.md").read_text()
    known = yaml.safe_load(text.split("---\n")[1])
    assert known["library_name"] == "transformers" and "lora" not in known["tags"]
    assert known["datasets"] == ["five", "more"] and "license" not in known
    assert "# mine, step 6" in text and "LoRA adapters, merged into the base model" in text
    assert "| five | 31 | 7 | - |" in text and "| five | 0.876 | 0.700 to 0.900 |" in text
    titles = re.findall("^## (.+)$", text, re.MULTILINE)
    assert titles == ["Ask", "Trained on", "Settings", "Measured", "Limits", "Licence", "Made with"]
    assert "PeftModel" not in text and "--dtype float32" in text
    blocks = re.findall("```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        compile(block, "README.md", "exec")
        assert repr(PROMPT) in block


def test_results_of_these_weights_are_in_the_card_and_of_others_refused(run, tmp_path):
    files = find_model(AnswerSettings(model=str(run))).files()
    asked = {"weights_sha256": files_hash(files), "prompt": PROMPT}
    rows = rows_of("bid", 40, noise=0.5)
    write_results(tmp_path / "right", {"bid": rows}, **asked)
    export(Asked(str(run), tmp_path / "out", results=[tmp_path / "right"], check=False))
    assert "| bid | all | mean of 3 |" in (tmp_path / "out" / "README.md").read_text()
    for name in asked:
        write_results(tmp_path / name, {"bid": rows}, **{**asked, name: "other"})
        with pytest.raises(UserError, match=rf"--results .*{name} in its evaluation.json is other"):
            export(Asked(str(run), tmp_path / "no", results=[tmp_path / name], check=False))
    assert not list(tmp_path.glob("no*"))


def test_a_curve_to_a_sets_mos_goes_with_the_model(run, tmp_path):
    files = find_model(AnswerSettings(model=str(run))).files()
    asked = {"weights_sha256": files_hash(files), "prompt": PROMPT, "k": 1, "temperature": 0.0}
    write_results(tmp_path / "fit", {"set": on_curve("v")}, facts={"set": {"part": "validation split"}}, **asked)
    write_results(tmp_path / "test", {"set": on_curve("t", shift=2.0)}, **asked)
    folder = tmp_path / "out"
    made = Asked(str(run), folder, results=[tmp_path / "test"], mos_maps=[tmp_path / "fit"], check=False)
    export(made)
    scale = find_scale(str(folder), "set")
    assert scale.curve(3.0) == pytest.approx(50, abs=1e-3) and scale.answers == "greedy"
    assert "on 40 pictures that it has not seen the RMSE is 2." in (folder / "README.md").read_text()
    with pytest.raises(UserError, match=r"both on t0 of set"):
        export(replace(made, folder=tmp_path / "no", mos_maps=[tmp_path / "test"]))
    with pytest.raises(UserError, match="fit: a second result to fit set"):
        export(replace(made, folder=tmp_path / "no", mos_maps=[tmp_path / "fit"] * 2))
    with pytest.raises(UserError, match=r"--scale other: .*out stores no curve .* \(it has set\)"):
        find_scale(str(folder), "other")
    with pytest.raises(UserError, match=r"it has none\); vqr1 export RUN FOLDER --mos-map"):
        find_scale("tiny", "set")


def test_scores_are_read_by_the_curve_that_the_model_has(tmp_path, capsys):
    scale = Scale(MosMap("set", 10.0, 90.0, 3.0, 0.5, 200, 1.0, 5.0, 4.0), "validation split", "greedy", False)
    folder = tmp_path / "out"
    shutil.copytree(SHIPPED, folder)
    prompt = build_prompt("paper")[0]["content"]
    exported = Exported(prompt, 3136, 200704, 48, "float32", [], [6, 2, 2], 0, {}, {"set": scale.record()})
    write_exported(folder, exported)
    pictures_of()[1].save(tmp_path / "photo.png")
    (tmp_path / "broken.png").write_text("no picture")
    words = [str(tmp_path / name) for name in ("photo.png", "broken.png")]
    words += ["--model", str(folder), "--scale", "set", "--csv", str(tmp_path / "s.csv")]
    assert rate([*words, "--jsonl", str(tmp_path / "s.jsonl")]) == 1
    said = capsys.readouterr()
    row, broken = csv.DictReader((tmp_path / "s.csv").open())
    assert float(row["mos"]) == pytest.approx(float(scale.curve(float(row["score"])))) and broken["mos"] == ""
    assert f"\tok\t{float(row['mos']):.3g}\n" in said.out and "\tfailed\t-\t" in said.out
    assert "warning" not in said.err
    assert [json.loads(line)["mos"] for line in (tmp_path / "s.jsonl").open()] == [float(row["mos"]), None]
    rate([words[0], *words[2:6], "-k", "2"])
    assert "--scale set was fitted to the method greedy, and this is mean of 2" in capsys.readouterr().err


def test_a_folder_rates_pictures_as_its_run_does(run, exported):
    pictures = [check_picture(3136, 50176).rotate(angle, expand=True) for angle in (0, 90, 180, 270)]
    pictures += [picture.resize((112, 84)) for picture in pictures] + [Image.new("RGB", (56, 84), "grey")]
    of_run, of_folder = (load_rater(path, batch=4, max_tokens=48)(pictures) for path in (run, exported[0]))
    assert of_run == of_folder
    assert len({each.reasoning for each in of_run}) > 1


def test_a_checkpoint_is_exported_and_so_is_final_where_there_is_no_best(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "best").rename(tmp_path / "run" / "checkpoint-6")
    export(Asked(str(tmp_path / "run" / "checkpoint-6"), tmp_path / "a", check=False))
    (tmp_path / "run" / "checkpoint-6").rename(tmp_path / "run" / "final")
    export(Asked(str(tmp_path / "run"), tmp_path / "b", check=False))
    weights = [(tmp_path / each / "model.safetensors").read_bytes() for each in "ab"]
    assert weights[0] == weights[1]


def test_a_full_disk_leaves_nothing(run, tmp_path, monkeypatch):
    def full(folder, exported):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "rating.json"))

    monkeypatch.setattr("vqr1.export.folder.write_exported", full)
    with pytest.raises(UserError, match="No space left on device.*; nothing is exported"):
        export(Asked(str(run), tmp_path / "out", check=False))
    assert not list(tmp_path.iterdir())


def test_a_run_without_a_card_is_exported_and_it_is_said(run, tmp_path):
    shutil.copytree(run, tmp_path / "old")
    (tmp_path / "old" / "best" / "README.md").unlink()
    assert read_card(tmp_path / "old" / "best") is None
    done = export(Asked(str(tmp_path / "old"), tmp_path / "out", check=False))
    assert isinstance(done, Done) and done.answer is None and "has no README.md" in done.notes[0]
    text = (tmp_path / "out" / "README.md").read_text()
    assert "Its run left no card" in text and "## Ask" in text


def test_a_folder_that_holds_something_is_left_alone(run, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("precious")
    (tmp_path / "file").touch()
    for name in ("taken", "file"):
        with pytest.raises(UserError, match=f"{name} is there already; give a folder that is not, or remove it"):
            export(Asked(str(run), tmp_path / name, check=False))
    with pytest.raises(UserError, match="give a place that can be written"):
        export(Asked(str(run), tmp_path / "file" / "below" / "it", check=False))
    assert (tmp_path / "taken" / "mine.txt").read_text() == "precious"


@pytest.mark.parametrize("name", ["tiny", "nowhere", "owner/name"])
def test_what_is_no_run_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=f"{name} is no run of vqr1 train"):
        export(Asked(name, tmp_path / "out"))


def test_an_adapter_without_its_base_is_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "moved")
    settings = yaml.safe_load((tmp_path / "moved" / "config.yaml").read_text())
    settings["policy"]["path"] = str(tmp_path / "gone")
    (tmp_path / "moved" / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(UserError, match="gone holds no model"):
        export(Asked(str(tmp_path / "moved"), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_nothing_is_left_where_the_weights_do_not_fit(run, tmp_path):
    shutil.copytree(run, tmp_path / "cut")
    file = tmp_path / "cut" / "best" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(UserError, match="adapter"):
        export(Asked(str(tmp_path / "cut"), tmp_path / "out", check=False))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut"]


def test_the_prompt_and_the_dtype_can_be_given(run, tmp_path):
    export(Asked(str(run), tmp_path / "out", prompt="no_thinking", dtype="bfloat16", check=False))
    facts = read_exported(tmp_path / "out")
    assert facts and facts.dtype == "bfloat16" and "Please only output the final answer" in facts.prompt
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_the_command_says_where_what_is_and_how_to_publish_it(run, tmp_path, capsys):
    from vqr1.export.command import run as command

    command([str(run / "best"), str(tmp_path / "out"), "--unchecked", "--max-tokens", "17"])
    said = capsys.readouterr().err
    assert re.search(r"out: \d\.\d MB, not asked; to publish it: hf upload OWNER/NAME \S+out$", said.strip())
    facts = read_exported(tmp_path / "out")
    assert facts and facts.max_tokens == 17 and facts.prompt == PROMPT
