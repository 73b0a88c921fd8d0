"""The run folder: whose it is, what may be resumed, and what is written where."""

import json
import math
from pathlib import Path

import pytest
import yaml

import vqr1
from vqr1.config import Config, PolicyConfig, RewardConfig, RolloutConfig, as_dict
from vqr1.provenance import PACKAGES, finite, versions
from vqr1.training.run_folder import RunFolder


def config(**settings):
    return Config(policy=PolicyConfig(path="tiny"), trainer={"images_per_step": 16, "learning_rate": 1e-6}, **settings)


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def checkpoint(folder: Path, step: int, whole: bool = True) -> Path:
    made = folder / f"checkpoint-{step}"
    made.mkdir(parents=True)
    if whole:
        (made / "trainer_state.json").write_text("{}")
    return made


@pytest.fixture
def started(tmp_path):
    """A run with a checkpoint at step 10."""
    folder = RunFolder(tmp_path / "runs" / "a", writes=True)
    folder.open(config())
    checkpoint(folder.path, 10)
    return folder


def test_a_new_folder_holds_the_configuration_and_the_versions(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "a", writes=True)
    folder.open(config(reward=RewardConfig(gamma=1e-7)))
    stored = yaml.safe_load((folder.path / "config.yaml").read_text())
    assert stored == as_dict(config(reward=RewardConfig(gamma=1e-7)))
    assert stored["reward"]["rivals"] == "batch"
    found = json.loads((folder.path / "versions.json").read_text())
    assert set(found) == {*PACKAGES, "python", "machine", "commit"}
    assert found["vqr1"] == vqr1.__version__


def test_an_empty_folder_may_be_used(tmp_path):
    (tmp_path / "a").mkdir()
    RunFolder(tmp_path / "a", writes=True).open(config())
    assert (tmp_path / "a" / "config.yaml").is_file()


@pytest.mark.parametrize("writes", [True, False])
def test_a_folder_of_another_run_is_refused_and_untouched(started, writes):
    before = contents(started.path)
    with pytest.raises(ValueError, match=r"holds another run; give resume=true .* or another name="):
        RunFolder(started.path, writes).open(config(seed=1))
    assert contents(started.path) == before


def test_a_folder_of_something_else_is_refused_too(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds another run"):
        RunFolder(tmp_path, writes=True).open(config())
    assert contents(tmp_path) == {tmp_path / "thesis.tex": b"years of work"}


def test_a_run_is_taken_up_with_its_own_settings(started):
    before = contents(started.path)
    RunFolder(started.path, writes=True).open(config(resume=True))
    assert contents(started.path) == before


@pytest.mark.parametrize("prepare", [lambda path: None, Path.mkdir, lambda path: checkpoint(path, 5, whole=False)])
def test_without_a_whole_checkpoint_there_is_nothing_to_resume(tmp_path, prepare):
    prepare(tmp_path / "a")
    with pytest.raises(
        ValueError, match=r"has no checkpoint to resume from; check name= and runs=, or leave resume out"
    ):
        RunFolder(tmp_path / "a", writes=True).open(config(resume=True))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, "seed was 0 in .* and is 1"),
        ({"rollout": RolloutConfig(k=4)}, "rollout.k was 6 in .* and is 4"),
        ({"reward": RewardConfig(gamma=0.1)}, "reward.gamma was 1e-06 in .* and is 0.1"),
    ],
)
def test_other_settings_are_refused_by_name(started, changed, message):
    with pytest.raises(ValueError, match=rf"resume=true, but {message}; resume with the same settings"):
        started.open(config(resume=True, **changed))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("images_per_step", 32, "trainer.images_per_step was 16 in .* and is 32"),
        ("learning_rate", 1e-5, "trainer.learning_rate was 1e-06 in .* and is 1e-05"),
        ("beta", 0.1, "trainer.beta was None in .* and is 0.1"),
    ],
)
def test_other_optimisation_is_refused_by_name(started, key, value, message):
    changed = config(resume=True)
    changed.trainer[key] = value
    with pytest.raises(ValueError, match=message):
        started.open(changed)


def test_length_memory_and_logging_may_change(started):
    changed = config(resume=True, name="a", runs="elsewhere")
    changed.trainer.update(max_steps=99, answers_per_device=4, save_steps=7, shared_prefix=False)
    changed.evaluation.every = 3
    started.open(changed)
    # The first settings stay on record.
    assert yaml.safe_load((started.path / "config.yaml").read_text())["evaluation"]["every"] == 50


def test_a_run_is_not_taken_up_with_other_data(started):
    started.check_splits({"five": {"hash": "a"}})  # an older run kept none
    started.write("splits.json", {"five": {"hash": "a"}})
    started.check_splits({"five": {"hash": "a"}})
    with pytest.raises(ValueError, match=r"the split of five was a and is b: .*; put them back or start another run"):
        started.check_splits({"five": {"hash": "b"}})


def test_the_last_checkpoint_is_the_highest_whole_one(started):
    checkpoint(started.path, 9)
    checkpoint(started.path, 100)
    checkpoint(started.path, 200, whole=False)
    assert started.last_checkpoint() == started.path / "checkpoint-100"


def test_lines_after_the_checkpoint_are_forgotten(started):
    names = ("metrics.jsonl", "timings.jsonl", "answers.jsonl")
    for step in (0, 9, 10, 11, 12):
        for name in names:
            started.append(name, {"step": step, "value": step / 3})
    first = (started.path / names[0]).read_text().splitlines(keepends=True)
    started.forget_after(10)
    for name in names:
        assert (started.path / name).read_text() == "".join(first[:3])
        assert [row["step"] for row in started.rows(name)] == [0, 9, 10]


def test_forgetting_needs_no_file(started):
    before = contents(started.path)
    started.forget_after(10)
    assert contents(started.path) == before


def test_what_is_not_a_number_becomes_null(started):
    row = {"step": 1, "a": math.nan, "b": [math.inf, 2.0, -math.inf], "c": {"d": math.nan, "e": "nan"}, "f": True}
    started.append("metrics.jsonl", row)
    started.write("summary.json", row)
    expected = {"step": 1, "a": None, "b": [None, 2.0, None], "c": {"d": None, "e": "nan"}, "f": True}
    assert started.rows("metrics.jsonl") == [expected]
    assert json.loads((started.path / "summary.json").read_text()) == expected
    assert finite((1.5, math.nan)) == [1.5, None]


def test_rows_of_a_file_that_is_not_there():
    assert RunFolder(Path("nowhere"), writes=True).rows("metrics.jsonl") == []


def test_other_ranks_write_nothing(tmp_path, started):
    silent = RunFolder(tmp_path / "b", writes=False)
    silent.open(config())
    silent.append("metrics.jsonl", {"step": 1})
    silent.write("summary.json", {})
    assert not silent.path.exists()
    started.append("metrics.jsonl", {"step": 11})
    before = contents(started.path)
    RunFolder(started.path, writes=False).forget_after(10)
    assert contents(started.path) == before
    assert RunFolder(started.path, writes=False).rows("metrics.jsonl") == [{"step": 11}]  # but all may read


def test_versions_are_of_what_is_installed():
    found = versions()
    assert found["python"].startswith("3.")
    assert found["commit"] is None or len(found["commit"].removesuffix("+changes")) == 40
