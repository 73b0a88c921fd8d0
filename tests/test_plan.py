"""``vqr1 plan``: what a run would need where it is not, in train's words; without torch, data, weights or a GPU."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from vqr1 import cli
from vqr1.errors import MissingFileError, UserError
from vqr1.plan import TINY, PlanSettings, plan_settings, plan_words, policy_sizes


def planned(monkeypatch, capsys, *words, code=0):
    """What the command prints; its errors where ``code`` is not 0."""
    monkeypatch.setattr(sys, "argv", ["vqr1", "plan", "logger=disabled", *words])
    try:
        cli.main()
        ended = 0
    except SystemExit as error:
        ended = error.code
    said = capsys.readouterr()
    assert ended == code, said.err
    return said.err if code else said.out


def test_sixteen_gpus_train_all_weights_of_the_papers_policy(monkeypatch, capsys, tmp_path):
    file = tmp_path / "plan.json"
    words = ["experiment=kadid10k", "plan.gpus=8", "plan.nodes=2", "plan.gpu_memory=80"]
    said = planned(monkeypatch, capsys, *words, "--json", str(file))
    for part in (
        "8.29 billion parameters, as published",
        "2 machines with 8 GPUs of 85.0 GB; ranks: 16",
        "policy.tuning=full launcher=zero3 rollout.engine=vllm_colocate trainer.answers_per_device=48",
        "NODES=2 GPUS=8 launch/slurm.sbatch logger=disabled experiment=kadid10k policy.tuning=full launcher=zero3",
        "470 steps",
        "116.1 GB a checkpoint",
        "estimates",
    ):
        assert part in said, part
    found = json.loads(file.read_text())
    memory = found["memory_bytes"]
    assert memory["weights"] == pytest.approx(2 * found["parameters"] / 16)
    assert sum(memory.values()) == pytest.approx(2 * memory["total"] + memory["of_gpu"])
    assert found["seconds"]["step"] * found["steps"] * 16 / 3600 == pytest.approx(found["gpu_hours"])
    assert (found["tokens"], found["steps"]) == ({"prompt": 354, "answer": 100, "patches": 1008}, 470)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["experiment=kadid10k", "plan.gpus=1"], ("policy.tuning=lora launcher=none", "vqr1 train logger=disabled")),
        (["experiment=kadid10k", "plan.gpus=2"], ("policy.tuning=lora launcher=ddp", "161.5 million")),
        (["experiment=kadid10k", "launcher=fsdp2", "policy.tuning=full"], ("launcher=fsdp2",)),
        (["experiment=koniq10k", "policy=qwen2_5_vl_3b"], ("550 steps",)),
        (["experiment=kadid10k_spaq", "plan.picture=1024x768"], ("3996 patches",)),
        (["experiment=demo", "plan.gpus=1"], ("tiny: 1.5 million", "360 steps")),
        # KonIQ-10k's 7,058 training pictures twice, by 64.
        (["experiment=levels"], ("64 pictures with an answer each", "220 steps", "3996 patches")),
        (["experiment=comparison", "plan.picture=512x384"], ("64 pairs with an answer each", "with 2 of them at most")),
        # 30,000 pairs and a quarter as many rows, once.
        (
            ["experiment=depict", "depict.content=x", "depict.content_share=0.2"],
            ("64 examples with an answer each", "with 3 of them at most", "585 steps", "policy.tuning=lora"),
        ),
    ],
)
def test_other_runs(words, parts, monkeypatch, capsys):
    said = planned(monkeypatch, capsys, *words)
    for part in parts:
        assert part in said, said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan.gpus=0"], "plan.gpus=0: set it above 0"),
        (["plan.gpus=two"], "plan.gpus=two: set it to a whole number"),
        (["plan.gpu_memory=nan"], "plan.gpu_memory=nan: set it above 0"),
        (["plan.gpu=8"], "plan.gpu=8: vqr1 plan knows plan.gpus, plan.nodes"),
        (["plan.picture=512"], "plan.picture=512: give width and height in pixels"),
        (["plan.utilisation=35"], "plan.utilisation=35.0: it is a share"),
        (["plan.gpus=6"], "set it to 120 or 144"),
        (["policy.path=/nowhere"], "/nowhere holds no config.json, and it is none of the published Qwen2.5-VL-3B"),
        (["policy.tuning=full", "plan.gpus=2"], "does not fit"),
        (["plan.gpus=8", "-m"], "-m: vqr1 plan plans one run"),
        (["--json"], "--json needs a file"),
        (["rollout.k=0"], "rollout.k=0"),
        (["experiment=levels", "plan.answer=50"], "plan.answer=50 has no effect with objective=levels"),
    ],
)
def test_what_cannot_be_planned_is_one_message(words, message, monkeypatch, capsys):
    said = planned(monkeypatch, capsys, "experiment=kadid10k", *words, code=2)
    assert message in said and "Traceback" not in said


@pytest.mark.parametrize("objective", ["levels", "comparison", "depict"])
def test_where_answers_are_shown_none_are_drawn(objective, monkeypatch, capsys, tmp_path):
    file = tmp_path / "plan.json"
    said = planned(monkeypatch, capsys, f"experiment={objective}", "plan.picture=512x384", "--json", str(file))
    assert "rollout" not in said and "generation" not in said and "vLLM" not in said
    found = json.loads(file.read_text())
    assert found["seconds"]["step"] == pytest.approx(
        sum(found["seconds"][part] for part in ("passes", "sending", "rest"))
    )
    assert "vllm" not in found["memory_bytes"] or not found["memory_bytes"]["vllm"]
    assert found["operations"] == {"training": found["operations"]["training"], "reference": 0, "old": 0}
    pictures = {"levels": 1, "comparison": 2, "depict": 3}[objective]
    text = found["tokens"]["prompt"] - pictures * found["tokens"]["patches"] // 4
    assert found["tokens"]["patches"] == 1008 and 30 < text < 80


def test_soft_levels_have_all_five_answers_behind_a_prompt(monkeypatch, capsys, tmp_path):
    found = {}
    for labels in ("hard", "soft"):
        file = tmp_path / f"{labels}.json"
        planned(monkeypatch, capsys, "experiment=levels", f"levels.labels={labels}", "--json", str(file))
        found[labels] = json.loads(file.read_text())
    assert found["soft"]["tokens"]["answer"] == 5 * found["hard"]["tokens"]["answer"]
    assert found["soft"]["memory_bytes"]["activations"] > found["hard"]["memory_bytes"]["activations"]


def test_a_reference_is_a_picture_more(monkeypatch, capsys, tmp_path):
    found = []
    for words in ([], ["data.reference=true", "rollout.prompt=reference"]):
        file = tmp_path / f"{len(found)}.json"
        said = planned(
            monkeypatch, capsys, "experiment=kadid10k", "trainer.answers_per_device=48", *words, "--json", str(file)
        )
        found.append(json.loads(file.read_text()))
    assert "with 2 of them" in said
    alone, beside = found
    assert beside["tokens"]["prompt"] > alone["tokens"]["prompt"] + 1008 // 4
    assert beside["memory_bytes"]["pictures"] == 2 * alone["memory_bytes"]["pictures"]
    assert beside["operations"]["training"] > 1.2 * alone["operations"]["training"]


def test_words_that_are_not_the_plans_are_trains():
    settings, file, left = plan_words(["a=1", "plan.gpus=4", "--json=x", "plan.gpu_memory=40", "+b=2"])
    assert (settings, file, left) == (PlanSettings(gpus=4, gpu_memory=40.0), "x", ["a=1", "+b=2"])
    with pytest.raises(UserError, match="plan.nodes=-1: set it above 0"):
        plan_settings(["plan.nodes=-1"])


def test_sizes_are_a_files_before_they_are_a_names(tmp_path):
    with pytest.raises(MissingFileError, match="none of the published"):
        policy_sizes(str(tmp_path))
    folder = tmp_path / "Qwen2.5-VL-7B-Instruct"
    folder.mkdir()
    sizes, file = policy_sizes(str(folder))
    assert (sizes.hidden, file) == (3584, None)
    (folder / "config.json").write_bytes((TINY / "config.json").read_bytes())
    sizes, file = policy_sizes(str(folder))
    assert (sizes.hidden, file) == (128, str(folder / "config.json"))


def test_nothing_heavy_is_imported(tmp_path):
    program = (
        "import sys; from vqr1 import cli; cli.main(); "
        "sys.exit(str([m for m in ('torch', 'transformers', 'trl', 'vllm') if m in sys.modules]))"
    )
    words = ["-c", program, "plan", "experiment=kadid10k", "plan.gpus=8"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stderr.strip() == "[]", done.stderr
