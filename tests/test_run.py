"""Whole runs of the real system with the untrained tiny policy: what they leave behind, repeat, resume, refuse."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.runs import AGREE, command, environment, rows, start, train, training_rows
from tests.support.wandb_records import history
from vqr1.answer import read_score
from vqr1.folder_writer import FolderWriter
from vqr1.metric_names import MEDIA, METRICS, TIMINGS, described

pytestmark = pytest.mark.slow

# What runs of other settings log: another reward or objective, vLLM, other sets.
OTHERS = {
    *("reward/binary", "reward/regression", "train/token_accuracy"),
    *(name for name in METRICS if name.startswith(("canary/", "eval/", "levels/"))),
}


@pytest.fixture(scope="module")
def where(policy_folder, data_root):
    return {"policy__path": policy_folder, "data__root": data_root}


@pytest.fixture(scope="module")
def plain(tmp_path_factory, where):
    """Four free-running steps, evaluated after every second, saved after every second; with all loggers."""
    return train(
        tmp_path_factory.mktemp("runs") / "plain",
        figures=True,
        **where,
        logger="[offline,tensorboard]",
        trainer__max_steps=4,
        trainer__save_steps=2,
        evaluation__every=2,
    )


def test_the_run_folder_holds_what_is_promised(plain):
    present = {path.name for path in plain.iterdir()}
    assert {"config.yaml", "versions.json", "metrics.jsonl", "timings.jsonl", "answers.jsonl"} <= present
    assert {"summary.json", "curves.png", "reasoning.png", "checkpoint-4", "final", "wandb"} <= present
    assert not {name for name in present if name.endswith((".new", ".old"))}
    assert Image.open(plain / "curves.png").size[0] > 1000
    assert [row["step"] for row in training_rows(plain)] == [1, 2, 3, 4]


def test_metrics_are_named_as_documented_and_finite(plain):
    for row in training_rows(plain):
        assert {"train/loss", "train/reward", "policy/kl", "rollout/unreadable"} <= set(row)
        assert all(math.isfinite(value) for value in row.values())
    speeds = [row for row in rows(plain, "timings.jsonl") if "speed/step_seconds" in row]
    assert all(0 < row["speed/generate_share"] < 1 for row in speeds)


def test_wandb_and_tensorboard_have_what_the_files_have(plain):
    """Figures by name and step; of texts and pictures all that is documented, and files that are there."""
    lines = [row for name in ("metrics.jsonl", "timings.jsonl") for row in rows(plain, name)]
    figures = {(name, row["step"]) for row in lines for name, value in row.items() if value is not None} - {
        ("step", row["step"]) for row in lines
    }
    (fragment,) = plain.glob("wandb/offline-run-*")
    sent = [(name, row["step"], value) for row in history(fragment) for name, value in row.items() if name[0] != "_"]
    media = {name: value for name, _, value in sent if isinstance(value, dict)}
    assert {(name, step) for name, step, value in sent if name not in {"step", *media}} == figures
    assert set(media) == set(MEDIA)
    for value in media.values():
        for file in value.get("filenames", [value.get("path")]):
            assert (fragment / "files" / file).is_file()

    events = EventAccumulator(str(plain / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {(tag, event.step) for tag in tags["scalars"] for event in events.Scalars(tag)} == figures
    texts = {tag.removesuffix("/text_summary") for tag in tags["tensors"]}
    pictures = {tag.rpartition("/")[0] for tag in tags["images"]}
    assert texts | pictures == {*MEDIA, "run/config", "run/versions"}

    sampled = rows(plain, "samples.jsonl")
    assert [row["step"] for row in sampled] == [2] * 4 + [4] * 4
    for row in sampled:
        assert all(len(row[name]) == 3 for name in ("answers", "scores", "rewards", "advantages"))
        assert (plain / row["picture"]).is_file() and "<answer>" in row["prompt"]


def test_a_sample_is_rewarded_as_its_scores_say(finished):
    """By the scripted answers: a picture's advantages are its rewards, centred and scaled."""
    for row in rows(finished[0], "samples.jsonl"):
        scores, rewards, advantages = (np.array(row[name], dtype=float) for name in ("scores", "rewards", "advantages"))
        assert [read_score(text) for text in row["answers"]] == row["scores"]
        expected = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
        assert advantages == pytest.approx(expected * (np.ptp(rewards) > 0), abs=1e-3)
        assert np.isfinite(scores).any()


def test_the_summary_says_where_it_started_and_ended(plain):
    summary = json.loads((plain / "summary.json").read_text())
    assert summary["seed"] == 0 and summary["steps"] == 4
    assert set(summary["seconds"]) == {"prepare", "train", "evaluate"}
    sets = {"demo_five", "demo_hundred", "demo_five_test", "demo_hundred_test"}
    for end in ("start", "final"):
        assert set(summary[end]) == sets
        assert {"srcc", "plcc", "score_std", "unreadable", "n"} <= set(summary[end]["demo_five"])


def test_test_sets_are_read_at_start_and_end_only(plain):
    steps = {key.split("/")[1]: set() for row in rows(plain) for key in row if key.startswith("eval/")}
    for row in rows(plain):
        for key in row:
            if key.startswith("eval/"):
                steps[key.split("/")[1]].add(row["step"])
    assert steps["demo_five_test"] == {0, 4}
    assert steps["demo_five"] == {0, 2, 4}


def test_probe_answers_are_kept_at_every_evaluation(plain):
    kept = [(row["step"], row["set"], row["image_id"]) for row in rows(plain, "answers.jsonl")]
    of_one = [step for step, name, _ in kept if name == "demo_five"]
    assert of_one == [0, 2, 4]
    assert len({image for _, name, image in kept if name == "demo_five"}) == 1


def test_one_line_per_step_is_printed(tmp_path, where):
    done = start(figures=True, runs=tmp_path, name="lines", **where, logger="offline")
    lines = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.startswith("step ")]
    assert len(lines) == 2 and "left" in lines[0]
    said = done.stdout + done.stderr
    stages = ["starting:", "reading labels of demo_five", "checking ", "loading the policy", "at step 0", "step 1/2"]
    stages += ["saving the weights", "look at", "evaluate  vqr1 evaluate model="]
    places = [said.index(stage) for stage in stages]
    assert places == sorted(places)
    assert f"wandb sync {tmp_path / 'lines' / 'wandb' / 'offline-run-'}" in said
    for unwanted in ("Loading weights", "Writing model shards", "WARNING", "Warning", "PAD/BOS/EOS", "it/s", "\x1b"):
        assert unwanted not in said, said
    final = tmp_path / "lines" / "final" / "README.md"
    metrics = rows(tmp_path / "lines")[-1]
    (line,) = [line for line in final.read_text().splitlines() if line.startswith("| demo_five | ") and "." in line]
    assert line.endswith(f" {metrics['eval/demo_five/unreadable']:.3f} | 4 |")
    assert "step 2" in final.read_text() and not (tmp_path / "lines" / "README.md").exists()
    assert "had not been evaluated" in (tmp_path / "lines" / "checkpoint-2" / "README.md").read_text()


def test_a_run_logs_what_is_documented(finished):
    folder, _ = finished
    assert {name for row in training_rows(folder) for name in row} >= set(METRICS) - OTHERS
    evaluated = {re.sub(r"(?<=eval/)[^/]+", "{set}", name) for row in rows(folder) for name in row}
    assert {name for name in METRICS if name.startswith("eval/")} <= evaluated
    assert [name for row in rows(folder) for name in row if name != "step" and not described(name, METRICS)] == []
    assert {name for row in rows(folder, "timings.jsonl") for name in row} == {"step", *TIMINGS}


def test_two_runs_with_one_seed_are_byte_equal_and_evaluating_changes_nothing(plain, tmp_path, where):
    again = train(tmp_path / "again", **where, trainer__max_steps=4, trainer__save_steps=2, evaluation__every=2)
    assert (again / "metrics.jsonl").read_bytes() == (plain / "metrics.jsonl").read_bytes()
    unseen = train(tmp_path / "unseen", **where, trainer__max_steps=4, evaluation__every=0)
    assert training_rows(unseen) == training_rows(plain)
    other = train(tmp_path / "other", **where, trainer__max_steps=4, seed=1)
    assert training_rows(other) != training_rows(plain)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_resumed_run_ends_as_an_undisturbed_one(tmp_path, where, tuning):
    """With answers from a script: what is learnt before the checkpoint shows in every row after it.

    The untrained policy earns nothing, and so learns nothing, by itself.
    """
    settings = {**where, "scripted": True, "policy__tuning": tuning, "trainer__learning_rate": 1e-3}
    settings |= {"trainer__max_steps": 4, "trainer__save_steps": 2, "evaluation__every": 2}
    whole = train(tmp_path / "whole", **settings)
    torn = tmp_path / "torn"
    shutil.copytree(whole, torn)
    shutil.rmtree(torn / "checkpoint-4")
    (torn / "summary.json").unlink()
    train(torn, **settings, resume="true")
    ours, theirs = ((folder / "metrics.jsonl").read_text().splitlines() for folder in (torn, whole))
    assert ours == theirs
    assert training_rows(whole)[-1]["policy/kl"] > 1e-4  # there was something to lose
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (torn, whole)]
    assert summaries[0]["final"] == summaries[1]["final"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, where):
    """A run that learns, and how to start it."""
    settings = {**where, "scripted": True, "trainer__learning_rate": 1e-3}
    settings |= {"trainer__max_steps": 4, "trainer__save_steps": 3, "evaluation__every": 2}
    return train(tmp_path_factory.mktemp("runs") / "finished", figures=True, **settings), settings


FILES = ("metrics.jsonl", "answers.jsonl")


@pytest.mark.parametrize("killed", ["in its last evaluation", "before its first checkpoint", "at its very end"])
def test_a_run_that_was_killed_ends_as_an_undisturbed_one(tmp_path, finished, killed):
    """Step 4, the last one, is in the middle of an epoch, where transformers would go on training."""
    whole, settings = finished
    torn = tmp_path / "torn"
    shutil.copytree(whole, torn)
    shutil.rmtree(torn / "final")
    (torn / "summary.json").unlink()
    if killed == "in its last evaluation":
        lines = (torn / "metrics.jsonl").read_text().splitlines(keepends=True)
        evaluated = [i for i, line in enumerate(lines) if '"step": 4' in line and "eval/" in line]
        (torn / "metrics.jsonl").write_text("".join(line for i, line in enumerate(lines) if i not in evaluated))
    if killed == "before its first checkpoint":
        for checkpoint in torn.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
        for name in FILES:
            (torn / name).write_bytes((torn / name).read_bytes()[:-20])
    train(torn, **settings, resume="true")
    for name in FILES:
        assert (torn / name).read_bytes() == (whole / name).read_bytes()
    ours, theirs = (json.loads((folder / "summary.json").read_text()) for folder in (torn, whole))
    assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}
    weights = [(folder / "final" / "model.safetensors").read_bytes() for folder in (torn, whole)]
    assert weights[0] == weights[1]
    steps = [row["step"] for row in rows(torn, "timings.jsonl") if "speed/step_seconds" in row]
    assert steps == [1, 2, 3, 4]


@pytest.mark.parametrize("resume", ["true", "auto"])
def test_a_finished_run_is_left_as_it_is(tmp_path, finished, resume):
    """But for a figure that it lacks."""
    whole, settings = finished
    again = tmp_path / "again"
    shutil.copytree(whole, again)
    drawn = [again / "curves.png", again / "curves.pdf"]
    for figure in drawn:
        figure.unlink()
    before = {file: file.stat().st_mtime_ns for file in again.rglob("*") if file.is_file()}
    done = start(figures=True, runs=tmp_path, name="again", **{**settings, "scripted": True, "resume": resume})
    assert done.returncode == 0, done.stderr
    assert "again holds a run that has all its steps; nothing is trained" in done.stderr
    found = {file: file.stat().st_mtime_ns for file in again.rglob("*") if file.is_file()}
    assert all(found.pop(figure) for figure in drawn)
    assert found == before


def test_a_folder_that_another_run_writes_into_is_refused_with_its_holder(plain, where):
    before = (plain / "metrics.jsonl").read_bytes()
    holder = FolderWriter(plain, "name")
    holder.acquire()
    for words in ({}, {"resume": "true"}):
        done = start(runs=plain.parent, name=plain.name, **where, **words)
        assert done.returncode == 2
        assert f"is being written by process {os.getpid()}" in done.stderr
    holder.close()
    assert (plain / "metrics.jsonl").read_bytes() == before


def test_a_refusal_is_that_of_every_rank(tmp_path, where):
    """The first one takes the lock; the others must not wait for it."""
    holder = FolderWriter(tmp_path / "held", "name")
    holder.acquire()
    done = start(2, runs=tmp_path, name="held", **where, trainer__answers_per_device=6)
    holder.close()
    assert done.returncode != 0
    assert done.stderr.count(f"is being written by process {os.getpid()}") == 1
    assert done.stderr.count("another rank has ended; its message is above") == 1
    assert [path.name for path in (tmp_path / "held").iterdir()] == ["lock"]


def test_lora_trains_and_leaves_an_adapter(tmp_path, where):
    folder = train(tmp_path / "lora", **where, policy__tuning="lora", trainer__learning_rate=1e-3, scripted=True)
    assert (folder / "final" / "adapter_model.safetensors").is_file()
    first, second = training_rows(folder)
    assert first["policy/kl"] == 0  # the adapter starts as nothing
    assert second["policy/kl"] > 1e-6


def test_gradient_checkpointing_changes_memory_and_nothing_else(tmp_path, where):
    stored, again = (
        train(tmp_path / f"run_{word}", **where, scripted=True, policy__gradient_checkpointing=word)
        for word in ("false", "true")
    )
    for expected, found in zip(training_rows(stored), training_rows(again), strict=True):
        assert found == pytest.approx(expected, **AGREE)


REFUSED = {
    "one answer": ({"rollout__k": 1}, "rollout.k=1"),
    "sizes that do not divide": ({"trainer__images_per_step": 6}, "multiple of 4"),
    "an unknown key": ({"rollout__kk": 3}, "rollout.kk"),
    "no number": ({"rollout__k": "abc"}, "rollout.k"),
    "no number for TRL": ({"trainer__learning_rate": "abc"}, "trainer.learning_rate='abc'"),
    "a key that another owns": ({"+trainer.num_generations": 4}, "use rollout.k"),
    "an empty evaluation set": ({"data__validation": "[kadid10k]"}, "kadid10k"),
    "half precision without a master copy": ({"policy__dtype": "bfloat16"}, "float32 master"),
    "an unknown dataset": ({"data__train": "[demo_six]"}, "demo_six"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_settings_stop_the_run_before_it_leaves_a_folder(case, tmp_path, where):
    settings, message = REFUSED[case]
    done = start(runs=tmp_path, name="refused", **{**where, **settings})
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "refused").exists()


def test_a_folder_that_holds_another_run_is_never_overwritten(plain, where):
    before = (plain / "metrics.jsonl").read_bytes()
    done = start(runs=plain.parent, name=plain.name, **where)
    assert done.returncode == 2
    assert "resume=true" in done.stderr and "another name" in done.stderr
    assert (plain / "metrics.jsonl").read_bytes() == before


def test_a_broken_picture_stops_the_run_with_its_name(tmp_path, where, data_root):
    shutil.copytree(data_root, tmp_path / "data")
    (tmp_path / "data" / "demo_five" / "train_0007.png").write_bytes(b"broken")
    done = start(runs=tmp_path, name="refused", **{**where, "data__root": tmp_path / "data"})
    assert done.returncode == 2
    assert "train_0007.png: not a readable picture" in done.stderr
    assert not (tmp_path / "refused").exists()


@pytest.mark.full
def test_a_sweep_runs_every_job_in_a_folder_of_its_own(tmp_path, where):
    words = command({**where, "runs": tmp_path, "trainer__max_steps": 1, "seed": "0,1"})
    done = subprocess.run([*words, "-m"], capture_output=True, text=True, env=environment(), timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    summaries = sorted(tmp_path.glob("sweep-*/*/summary.json"))
    assert [json.loads(path.read_text())["seed"] for path in summaries] == [0, 1]
    groups = {(path.parent / "config.yaml").read_text().split("group: ")[1].split("\n")[0] for path in summaries}
    assert len(groups) == 1 and next(iter(groups)).startswith("sweep-")
