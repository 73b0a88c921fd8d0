"""Qwen2.5-VL-3B and 7B with two layers and two blocks of theirs and random weights, trained on a CPU from end to end.

Widths, heads, rotary sections, windows, vocabulary and files are the published ones (tests/support/qwen.py). Needs
vLLM, 18 GB of free memory, 25 GB of disk and some minutes: `make test-shapes`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.support import measured
from tests.support.qwen import hub_name, qwen_processor
from tests.support.runs import environment, training_rows, words
from vqr1.config import LoraSettings
from vqr1.estimate.memory import Passes, Question, Rollouts, Training, memory
from vqr1.estimate.sizes import read_sizes
from vqr1.policy.load import add_adapter, load_folder
from vqr1.policy.weight_files import check_folder, stored_shapes
from vqr1.rollout.offline import text_tokens

pytestmark = [pytest.mark.shapes, pytest.mark.vllm]

FREE = 18e9  # bytes that the larger of the two needs
TOKENS = 11  # of an answer, <|im_end|> among them
SIZE = (224, 168)  # a picture: 2 x 2 windows of the vision tower, 48 tokens

COMMON = {
    "data": "mine", "rollout__prompt": "no_thinking", "rollout__max_tokens": 16, "policy__attention": "sdpa",
    "reward__cohort_size": 2, "trainer__lr_scheduler_type": "constant", "trainer__max_steps": 2,
    "data__validation": "[]", "data__test": "[]",
}  # fmt: skip
RUNS = {
    "3b": {
        "policy__dtype": "float32", "policy__tuning": "full", "policy__train_vision": "true",
        "policy__gradient_checkpointing": "false", "rollout__k": 3, "trainer__images_per_step": 2,
        "trainer__answers_per_device": 3, "trainer__learning_rate": 1e-5,
    },
    "7b": {
        "policy__dtype": "bfloat16", "policy__tuning": "lora", "policy__lora__r": 8, "policy__lora__alpha": 16,
        "policy__lora__dropout": 0.0, "policy__gradient_checkpointing": "true", "rollout__k": 2,
        "trainer__images_per_step": 2, "trainer__answers_per_device": 2, "trainer__learning_rate": 1e-3,
    },
}  # fmt: skip
BY_TRANSFORMERS = {"rollout": "transformers", "trainer__save_steps": 1}
BY_VLLM = {"rollout": "vllm_colocate", "trainer__save_steps": 100}
CANARY = {"3b": 1e-3, "7b": 0.05}  # mean difference of log-probabilities: float32 in another order; bfloat16


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A root of datasets with one of four pictures."""
    root = tmp_path_factory.mktemp("data")
    (root / "mine" / "pictures").mkdir(parents=True)
    rows = ["file,score,part"]
    for i in range(4):
        noise = np.random.default_rng(i).integers(0, 255, (SIZE[1] // 28, SIZE[0] // 28, 3), dtype=np.uint8)
        Image.fromarray(np.kron(noise, np.ones((28, 28, 1), np.uint8))).save(root / "mine" / "pictures" / f"{i}.png")
        rows.append(f"{i}.png,{20 + 20 * i},train")
    (root / "mine" / "ratings.csv").write_text("\n".join(rows) + "\n")
    settings = {
        **{"form": "csv", "labels": "ratings.csv", "images": "pictures", "higher_is_better": True},
        **{"range": [0, 100], "spread": "none", "group": "image"},
        "columns": {"image": "file", "mos": "score", "part": "part"},
    }
    (root / "mine" / "dataset.yaml").write_text(json.dumps(settings))  # JSON is YAML
    return root


def run(folder: Path, name: str, policy: Path, root: Path, **more: object) -> dict[str, int]:
    """Train the shape ``name`` in a process of its own, to the end; gives its memory in bytes."""
    settings = {**COMMON, **RUNS[name], **more, "data__root": root, "policy__path": policy}
    asked = words({**settings, "runs": folder.parent, "name": folder.name})
    report = folder.with_suffix(".json")
    command = [sys.executable, measured.__file__, str(report), *asked]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(report.read_text())


@pytest.fixture(scope="module", params=["3b", "7b"])
def shape(request, tmp_path_factory):
    """Name and folder of a shape's policy, as the hub has it; both go away afterwards, for they are large."""
    available = Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]
    assert int(available) * 1024 > FREE, f"{available} kB of memory are free, and these runs take up to {FREE / 1e9} GB"
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    # In a process of its own, whose memory is free again for the runs.
    dtype = RUNS[name]["policy__dtype"]
    command = [sys.executable, "-m", "tests.support.qwen", str(folder / "policy"), name, "2", "2", str(dtype)]
    subprocess.run(command, env=environment(), check=True, timeout=600)
    yield name, folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def whole(shape, mine):
    """A run's folder, and its memory."""
    name, folder = shape
    return folder / "whole", run(folder / "whole", name, folder / "policy", mine, **BY_TRANSFORMERS)


def test_its_folder_is_as_the_hub_has_it(shape):
    name, folder = shape
    policy = folder / "policy"
    assert len(list(policy.glob("model-0000*-of-*.safetensors"))) > 1
    names = stored_shapes(policy)
    assert {part.split(".")[0] for part in names} == {"visual", "model"} | ({"lm_head"} if name == "7b" else set())
    model = check_folder(policy)  # on no device
    assert set(names) == {hub_name(each) for each, _ in model.named_parameters()}


def test_it_learns(shape, whole):
    found = training_rows(whole[0])
    assert len(found) == 2
    assert found[0]["policy/kl"] < 1e-6 and found[1]["policy/kl"] > 1e-4
    assert all(row["rollout/unreadable"] < 0.2 and row["train/grad_norm"] > 0 for row in found)


def test_a_rank_takes_the_memory_that_is_planned(shape, whole):
    """Beside what was there before the policy was loaded; the peak of the whole run, loading and saving included."""
    name, folder = shape
    settings = RUNS[name]
    k, images, answers = (
        settings[key] for key in ("rollout__k", "trainer__images_per_step", "trainer__answers_per_device")
    )
    full = settings["policy__tuning"] == "full"
    how = Training(
        read_sizes(folder / "policy"),
        itemsize=4 if full else 2,
        lora=None if full else 8,
        targets=LoraSettings().target_modules,
        reference=full,
        checkpointing=not full,
        gpu=False,
        attention="mask",
    )
    patches = SIZE[0] * SIZE[1] // 14**2
    question = Question(text=text_tokens(qwen_processor(), "no_thinking"), patches=patches, answer=TOKENS, k=k)
    passes = Passes(question, answers, count=images * k // answers, pictures=images)
    planned = memory(how, passes, Rollouts(own=images * k))
    taken = whole[1]["peak"] - whole[1]["before"]
    told = {part: round(taken / 1e9, 2) for part, taken in planned.parts().items()}
    assert abs(taken / planned.total - 1) < 0.15, (taken / 1e9, planned.total / 1e9, told)


def test_vllm_answers_with_what_is_learnt(shape, mine):
    """vLLM has grouped queries, rotary sections, windows and names of its own: the canary compares it with the model.

    Were it a step behind, the canary would be of the size of what a step changes.
    """
    name, folder = shape
    run(folder / "vllm", name, folder / "policy", mine, **BY_VLLM)
    found = training_rows(folder / "vllm")
    assert len(found) == 2
    assert max(row["canary/logp_difference"] for row in found) < CANARY[name]
    assert found[1]["policy/kl"] > 1e-4
    shutil.rmtree(folder / "vllm")


def test_a_resumed_run_ends_with_the_same_weights(shape, whole, mine):
    name, folder = shape
    whole, _ = whole
    torn = folder / "torn"
    # As the run was between its steps; large files are linked.
    shutil.copytree(whole, torn, copy_function=os.link, ignore=shutil.ignore_patterns("checkpoint-2", "final"))
    (torn / "summary.json").unlink()
    for written in torn.glob("*.jsonl"):
        written.unlink()
        shutil.copyfile(whole / written.name, written)
    run(torn, name, folder / "policy", mine, **BY_TRANSFORMERS, resume="true")
    assert (torn / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    files = sorted(file.name for file in (whole / "final").glob("*.safetensors"))
    assert files and files == sorted(file.name for file in (torn / "final").glob("*.safetensors"))
    for file in files:
        ours, theirs = load_file(whole / "final" / file), load_file(torn / "final" / file)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(weight, theirs[key]) for key, weight in ours.items())
    shutil.rmtree(torn)


def test_what_it_saves_loads(shape, whole):
    """All weights under the names of the model, or the adapter alone; by transformers and PEFT."""
    name, folder = shape
    final = whole[0] / "final"
    if name == "3b":
        model = load_folder(final, torch.float32)
        start = load_folder(folder / "policy", torch.float32)
        weights = dict(start.named_parameters())
        assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
        assert all(not torch.equal(weight, weights[key]) for key, weight in model.named_parameters())
    else:
        base = load_folder(folder / "policy", torch.bfloat16)
        model = add_adapter(base, final)
        adapter = {key: weight for key, weight in model.named_parameters() if "lora_" in key}
        assert len(adapter) == 2 * 7 * 2
        assert all(weight.abs().max() > 0 for weight in adapter.values())
