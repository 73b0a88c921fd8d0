"""Runs read for reports: what is there, what is not, and what cannot be read."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from vqr1.errors import UserError
from vqr1.folder_writer import FolderWriter
from vqr1.report.runs import Run, State, differing, find_runs, read_run

CONFIG: dict[str, Any] = {
    "data": {"train": ["a"], "root": "data"},
    "policy": {"path": "tiny"},
    "rollout": {"k": 4},
    "reward": {"kind": "ranking"},
    "trainer": {"beta": 0.04, "max_steps": 2},
    "experiment_name": "demo",
    "seed": 0,
    "name": "one",
}


def made(folder: Path, summary: bool = True, **settings: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG | settings))
    rows = [{"step": 0, "eval/a/srcc": 0.25}, {"step": 1, "policy/kl": None}, {"step": 2, "policy/kl": 0.5}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if summary:
        (folder / "summary.json").write_text(json.dumps({"steps": 2, "final": {}}))
    return folder


def test_a_finished_run(tmp_path: Path) -> None:
    run = read_run(made(tmp_path / "one"))
    assert (run.state, run.seed, run.experiment, run.steps, run.torn) == (State.finished, 0, "demo", 2, {})
    assert run.series("policy/kl") == ([1, 2], [None, 0.5])
    assert run.series("nothing") == ([], [])
    assert run.sets() == ["a"]
    assert run.settings["trainer.beta"] == 0.04
    assert (run.timings, run.answers, run.samples, run.versions, run.sweep) == ([], [], [], {}, None)


def test_the_states_of_a_run(tmp_path: Path) -> None:
    folder = made(tmp_path / "one", summary=False)
    assert read_run(folder).state is State.endless
    writer = FolderWriter(folder, other="name")
    writer.acquire()
    assert read_run(folder).state is State.running
    writer.close()
    (folder / "stopped.json").write_text("{}")
    assert read_run(folder).state is State.stopped
    (folder / "stopped.json").unlink()
    (folder / "summary.json").write_text(json.dumps({"steps": 1}))  # it was resumed for more steps
    assert read_run(folder).state is State.endless


def test_what_cannot_be_read_is_counted_and_left_out(tmp_path: Path) -> None:
    folder = made(tmp_path / "one")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(
            'not JSON\n[1]\n{"policy/kl": 1}\n{"step": 3, "policy/kl": NaN, "train/reward": 1e999}\n{"step": 4, "po'
        )
    (folder / "summary.json").write_text('{"steps": 2, "fin')
    (folder / "answers.jsonl").write_bytes(b'{"step": 0, "set": "\xff"}\n')
    run = read_run(folder)
    assert run.torn == {"metrics.jsonl": 4, "summary.json": 1, "answers.jsonl": 1}
    assert run.series("policy/kl")[1] == [None, 0.5, None]
    assert run.series("train/reward") == ([3], [None])
    assert run.summary is None
    assert run.state is State.endless


@pytest.mark.parametrize("step", [-1, 1 << 53, 10**400], ids=["below", "above", "of 401 digits"])
def test_a_step_that_no_run_has_is_counted_and_left_out(tmp_path: Path, step: int) -> None:
    folder = made(tmp_path / "one")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "policy/kl": 0.5}) + "\n")
    run = read_run(folder)
    assert (run.steps, run.torn) == (2, {"metrics.jsonl": 1})


def test_a_setting_of_too_many_digits_is_named(tmp_path: Path) -> None:
    folder = made(tmp_path / "one")
    with (folder / "config.yaml").open("a") as file:
        file.write(f"threads: 0x{4000 * 'f'}\n")
    with pytest.raises(
        UserError, match=r"config.yaml, line \d+: a whole number of more than 64 bits; restore the file"
    ):
        find_runs([tmp_path])


def test_runs_below_a_folder_are_found_once_and_in_order(tmp_path: Path) -> None:
    sweep = tmp_path / "runs" / "sweep-demo-0"
    second, first = made(sweep / "k-6"), made(sweep / "k-4")
    (sweep / "multirun.yaml").write_text("{}")
    other = made(tmp_path / "runs" / "alone" / "deeper")
    wandb = first / "wandb" / "offline-run" / "files"  # wandb writes a config.yaml too
    wandb.mkdir(parents=True)
    (wandb / "config.yaml").write_text("{}")
    for i, others in enumerate(["- a list", "a: &x [1]\nb: *x", "1: 2"]):  # of other programs
        (tmp_path / "runs" / f"other {i}").mkdir()
        (tmp_path / "runs" / f"other {i}" / "config.yaml").write_text(others)
    found = find_runs([sweep, tmp_path / "runs", second])
    assert [run.folder for run in found] == [first, second, other]
    assert [run.sweep for run in found] == [sweep, sweep, None]


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: tiny\n")
    for find in (read_run, lambda path: find_runs([path])):
        with pytest.raises(UserError, match="holds no run.*give"):
            find(tmp_path)
        with pytest.raises(UserError, match="missing is not a folder.*give"):
            find(tmp_path / "missing")
    (tmp_path / "config.yaml").write_text("a: [\n")
    with pytest.raises(UserError, match=r"config\.yaml: not YAML.*restore"):
        find_runs([tmp_path])
    others: list[dict[str, Any]] = [{"seed": [0]}, {"data": {"train": "bid"}}]
    for i, settings in enumerate(others):
        with pytest.raises(UserError, match=r"config\.yaml: (seed|data.train) is .*; restore the file"):
            read_run(made(tmp_path / f"{i}", **settings))


def test_what_sets_runs_apart(tmp_path: Path) -> None:
    """Not the seed, the name and what says how a run is done."""
    runs = [
        read_run(made(tmp_path / str(i), seed=i, name=str(i), rollout={"k": k}, trainer=trainer))
        for i, (k, trainer) in enumerate(
            [(4, {"answers_per_device": 32}), (6, {"answers_per_device": 48}), (6, {"shared_prefix": False})]
        )
    ]
    assert differing(runs) == ["rollout.k"]
    assert differing(runs[1:]) == []
    assert differing([]) == []


def test_a_picture_is_taken_from_the_run_folder_first(tmp_path: Path) -> None:
    run: Run = read_run(made(tmp_path / "one"))
    outside = tmp_path / "a.png"
    outside.write_bytes(b"")
    row = {"picture": "pictures/a.jpg", "image": str(outside)}
    assert run.picture(row) == outside
    (run.folder / "pictures").mkdir()
    kept = run.folder / "pictures" / "a.jpg"
    kept.write_bytes(b"")
    assert run.picture(row) == kept
    assert run.picture({"picture": "../a.png"}) is None, "outside of the run folder"
    assert run.picture({"image": "gone.png"}) is None
    assert run.picture({"image": "a\0b", "picture": 3}) is None


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "loop", 5000 * "a", "loop/a.jpg"])
def test_a_name_that_no_picture_has_is_none(tmp_path: Path, name: str) -> None:
    run: Run = read_run(made(tmp_path / "one"))
    (run.folder / "loop").symlink_to("loop")
    assert run.picture({"picture": name}) is None
    assert run.picture({"image": name}) is None
    (tmp_path / "a.png").touch()
    assert run.picture({"picture": name, "image": str(tmp_path / "a.png")}) == tmp_path / "a.png"
