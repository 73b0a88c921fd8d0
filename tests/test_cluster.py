"""The same training however several ranks share weights, gradients and optimiser, by the launchers of a cluster.

On CPUs (tests/support/ranks_on_cpu.py). Answers come from a script, so nothing may differ but the order of sums.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.support import ranks_on_cpu
from tests.support.ports import free_port
from tests.support.runs import environment, rows, train, training_rows, words

pytestmark = [pytest.mark.cluster, pytest.mark.distributed]

ROOT = Path(__file__).parents[1]
STEPS, EVERY = 4, 2
SETTINGS = {
    "trainer__max_steps": STEPS,
    "trainer__save_steps": EVERY,
    "trainer__answers_per_device": 6,
    "evaluation__every": EVERY,
    "policy__train_vision": "true",
    # Adam divides a weight's gradient by its size. Beside that of the gradient's rounding it would make steps of noise.
    "+trainer.adam_epsilon": "1e-3",
}
SLOW = ("zero2", "two nodes")
WAYS = ["ddp", "zero3", "fsdp2", *(pytest.param(way, marks=pytest.mark.full) for way in SLOW)]
# Two runs that do the same sums in another order; relative but for the weights.
LOSS, GRADIENT, WEIGHT = 1e-3, 1e-4, 1e-6


class Runs:
    """Each way's run, when it is first asked for."""

    def __init__(self, folder: Path, settings: dict[str, object], answers: str = "script"):
        self.folder, self.settings, self.answers = folder, settings, answers

    def commands(self, way: str, name: str, **more: object) -> list[tuple[list[str], dict[str, str]]]:
        """What starts the run ``name``, and the environment: one command for each machine."""
        asked = words({**SETTINGS, **self.settings, **more, "runs": self.folder, "name": name})[1:]
        there = {**environment(), "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false", "ANSWERS": self.answers}
        if way != "two nodes":
            program = [sys.executable, ranks_on_cpu.__file__, "train", *asked, f"launcher={way}"]
            return [(program, {**there, "GPUS": "2"})]
        python = self.folder / "python"  # runs the tests' program in place of vqr1
        python.write_text(
            '#!/bin/bash\nfor word; do [[ $word == vqr1 ]] && word=tests.support.ranks_on_cpu; words+=("$word"); done\n'
            f'exec {sys.executable} "${{words[@]}}"\n'
        )
        python.chmod(0o755)
        place = {"NODES": "2", "GPUS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        node = [str(ROOT / "launch" / "node.sh"), *asked]
        return [(node, {**there, **place, "NODE_RANK": str(rank), "PYTHON": str(python)}) for rank in (0, 1)]

    def start(self, way: str, name: str, **more: object) -> list[subprocess.Popen[bytes]]:
        return [
            subprocess.Popen(
                command,
                env=there,
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=(self.folder / f"{name}-{i}.err").open("ab"),
                start_new_session=True,
            )
            for i, (command, there) in enumerate(self.commands(way, name, **more))
        ]

    def finish(self, way: str, name: str, **more: object) -> Path:
        for i, process in enumerate(self.start(way, name, **more)):
            assert process.wait(timeout=400) == 0, (self.folder / f"{name}-{i}.err").read_text()[-4000:]
        return self.folder / name

    def __call__(self, way: str, **more: object) -> Path:
        name = "-".join([way.replace(" ", "-"), *map(str, more.values())])
        made = self.folder / name
        if (made / "summary.json").is_file():
            return made
        if way != "one process":
            return self.finish(way, name, **more)
        alone = {**SETTINGS, **self.settings, **more, "trainer__answers_per_device": 24}
        return train(made, scripted=self.answers == "script", **alone)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, policy_folder, data_root):
    return Runs(tmp_path_factory.mktemp("runs"), {"policy__path": policy_folder, "data__root": data_root})


def assert_same_sums(plain: Path, other: Path) -> None:
    expected, found = training_rows(plain), training_rows(other)
    assert len(expected) == len(found) == STEPS
    exact = [key for key in expected[0] if key.startswith(("reward/", "rollout/", "train/reward"))]
    assert {"reward/fidelity", "train/reward", "rollout/unreadable", "reward/pair_accuracy"} <= set(exact)
    for step, (one, two) in enumerate(zip(expected, found, strict=True), start=1):
        assert {key: two[key] for key in exact} == {key: one[key] for key in exact}
        assert two["train/grad_norm"] == pytest.approx(one["train/grad_norm"], rel=GRADIENT, abs=0)
        # The first is 0 but for rounding: ratios are 1, there is no divergence, and a picture's advantages sum to 0.
        assert step == 1 or two["train/loss"] == pytest.approx(one["train/loss"], rel=LOSS, abs=0)


def furthest(one: Path, two: Path) -> float:
    """The largest difference between two folders' weights."""
    before, after = (load_file(folder / "model.safetensors") for folder in (one, two))
    for weights in (before, after):  # of a tied head FSDP2 writes a second copy, which must be one
        weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
    assert before.keys() == after.keys()
    return max((before[name].double() - after[name].double()).abs().max().item() for name in before)


@pytest.mark.parametrize("way", WAYS)
def test_rewards_are_equal_and_loss_gradient_and_weights_agree(runs, way):
    plain, other = runs("one process"), runs(way)
    assert_same_sums(plain, other)
    assert furthest(plain / "final", other / "final") < WEIGHT
    # All that is between steps: the same evaluations, and the same step's weights are the best.
    assert [row for row in rows(other) if "train/loss" not in row] == [
        row for row in rows(plain) if "train/loss" not in row
    ]
    assert json.loads((other / "best" / "step.json").read_text()) == json.loads(
        (plain / "best" / "step.json").read_text()
    )
    assert furthest(plain / "best", other / "best") < WEIGHT
    recorded = yaml.safe_load((other / "config.yaml").read_text())["launcher"]
    assert recorded == ("zero3" if way == "two nodes" else way)


def test_a_run_that_clips_or_learns_otherwise_is_told_apart(runs, policy_folder):
    """A guard on the test above: weights have moved, and hundredths of a setting show in what is compared."""
    plain = runs("one process")
    assert furthest(policy_folder, plain / "final") > 100 * WEIGHT
    with pytest.raises(AssertionError):
        assert_same_sums(plain, runs("one process", trainer__beta=0.0101))
    clipped = runs("one process", trainer__max_grad_norm=0.97)
    assert furthest(plain / "final", clipped / "final") > WEIGHT


@pytest.mark.parametrize("way", WAYS)
def test_best_and_final_are_whole_for_others(runs, way):
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    for name in ("best", "final"):
        model, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            runs(way) / name, output_loading_info=True, local_files_only=True
        )
        assert not any(report[kind] for kind in ("unexpected_keys", "mismatched_keys"))
        assert set(report["missing_keys"]) <= set(model.all_tied_weights_keys)
        assert AutoProcessor.from_pretrained(runs(way) / name, local_files_only=True).tokenizer
        plain, other = runs("one process") / name, runs(way) / name
        assert sorted(file.name for file in other.iterdir()) == sorted(file.name for file in plain.iterdir())
        assert (other / "config.json").read_text() == (plain / "config.json").read_text()


@pytest.mark.full
@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_is_killed_goes_on_to_the_same_metrics(runs, way):
    whole = runs(way)
    name = f"killed-{whole.name}"
    folder = runs.folder / name
    started = runs.start(way, name)
    saved, deadline = folder / f"checkpoint-{EVERY}" / "trainer_state.json", time.monotonic() + 300
    while not saved.is_file():
        assert time.monotonic() < deadline and all(process.poll() is None for process in started)
        time.sleep(0.05)
    for process in started:
        end_all(process)
    assert not (folder / "summary.json").is_file()
    assert runs.finish(way, name, resume="auto") == folder
    assert rows(folder) == rows(whole)
    assert furthest(folder / "final", whole / "final") == 0


def end_all(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to what was started here and to what that has started: on a lost machine nothing is left."""
    family, seen = [process.pid], []
    while family:
        seen.append(family.pop())
        for children in Path(f"/proc/{seen[-1]}/task").glob("*/children"):
            family += [int(child) for child in children.read_text().split()]
    for each in seen:
        try:
            os.kill(each, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


@pytest.mark.full
@pytest.mark.parametrize("way", ["ddp", "zero3"])
def test_adapters_are_trained_alike(runs, way):
    from peft import PeftModel
    from transformers import Qwen2_5_VLForConditionalGeneration

    lora = {"policy__tuning": "lora"}
    plain, other = runs("one process", **lora), runs(way, **lora)
    assert_same_sums(plain, other)
    before, after = (load_file(run / "final" / "adapter_model.safetensors") for run in (plain, other))
    assert before.keys() == after.keys() and len(before) > 0
    assert max((before[name] - after[name]).abs().max().item() for name in before) < WEIGHT
    assert any(weight.abs().max() > 100 * WEIGHT for name, weight in after.items() if "lora_B" in name)
    for name in ("best", "final"):
        base = Qwen2_5_VLForConditionalGeneration.from_pretrained(runs.settings["policy__path"], local_files_only=True)
        model = PeftModel.from_pretrained(base, str(other / name))
        stored = load_file(other / name / "adapter_model.safetensors")
        loaded = {key.replace(".default", ""): value for key, value in model.state_dict().items()}
        assert all(torch.equal(loaded[key], value) for key, value in stored.items())


@pytest.fixture(scope="module")
def free_runs(tmp_path_factory, data_root):
    settings = {"data__root": data_root, "rollout__max_tokens": 48, "evaluation__batch": 4, "trainer__max_steps": 2}
    return Runs(tmp_path_factory.mktemp("free"), settings, answers="policy")


@pytest.mark.full
@pytest.mark.parametrize("way", ["ddp", "zero3", "fsdp2"])
def test_the_policys_own_answers_are_drawn_from_whole_weights(free_runs, way):
    """Evaluations are seeded by batch, so a rank draws what one process draws; and none waits for another for ever,
    though the answers of one are longer."""
    plain, other = (rows(free_runs(each), "answers.jsonl") for each in ("one process", way))
    first = [row for row in plain if row["step"] == 0]
    assert first and [row for row in other if row["step"] == 0] == first
    assert len({len(text) for row in first for text in row["answers"]}) > 1
    assert len(training_rows(free_runs(way))) == 2


def by_hand(runs, rank: int, port: int, name: str, *more: str, **settings: object) -> subprocess.Popen[str]:
    """A rank as srun starts it, alone on its machine: its place is in the environment, and there is no torchrun."""
    place = {"RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    asked = words({**runs.settings, **settings, "runs": runs.folder, "name": name})
    there = {**environment(), "PYTHONPATH": str(ROOT), **{key: str(value) for key, value in place.items()}}
    return subprocess.Popen(
        [sys.executable, "-m", "vqr1", *asked, *more],
        env=there,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_rank_that_never_comes_is_named_in_time(runs):
    rank = by_hand(runs, 0, free_port(), "alone", trainer__ddp_timeout=3)
    _, told = rank.communicate(timeout=120)
    assert rank.returncode == 2
    assert "rank 1 of 2 did not come to 127.0.0.1" in told and "within 3 s (trainer.ddp_timeout" in told
    assert not (runs.folder / "alone").exists()


@pytest.mark.full
def test_machines_with_other_files_are_refused_before_the_first_step(runs, tmp_path):
    """Ranks as srun starts them find each other, and see that the second machine has another policy."""
    other = shutil.copytree(runs.settings["policy__path"], tmp_path / "policy")
    with (other / "tokenizer_config.json").open("a") as file:
        file.write(" ")
    port = free_port()
    ranks = [by_hand(runs, 0, port, "apart"), by_hand(runs, 1, port, "apart", policy__path=other)]
    told = [rank.communicate(timeout=200)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2], told
    (found,) = [each for each in told if "the hash of tokenizer_config.json of the policy is" in each]
    (other_told,) = [each for each in told if each is not found]
    assert "(rank 1): all nodes" in found and "another rank has ended" in other_told
    assert not (runs.folder / "apart" / "config.yaml").exists()
