"""When a run is evaluated and what it keeps, with a trainer and ratings made up for the test."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from transformers import TrainerControl, TrainerState

from vqr1.config import Config, PolicyConfig
from vqr1.data import Sample
from vqr1.folder_writer import FolderWriter
from vqr1.training.best_weights import BestWeights
from vqr1.training.evaluation_callback import EvaluationCallback
from vqr1.training.evaluator import Ratings
from vqr1.training.run_data import RunData
from vqr1.training.run_folder import RunFolder
from vqr1.training.run_log import Logger

STEPS = 8
SRCCS = {0: -1.0, 2: -0.5, 4: 0.5, 6: 1.0, 8: 0.5}  # of the validation set; the best is between two checkpoints
ORDERS = {-1.0: [4, 3, 2, 1], -0.5: [4, 2, 3, 1], 0.5: [1, 3, 4, 2], 1.0: [1, 2, 3, 4]}
SAVE_EVERY = 4
FOLDER = Path()  # of the four pictures


@pytest.fixture(autouse=True)
def _no_disk(monkeypatch):
    """These runs are many and short, and no test pulls the plug."""
    monkeypatch.setattr("vqr1.folder_writer.os.fsync", lambda file: None)


class Killed(BaseException):
    """Ends a run as a signal does: nothing is tidied up."""


class FakeTrainer:
    """Its weights are the step."""

    def __init__(self):
        self.state = SimpleNamespace(global_step=0, epoch=0.0)

    def save_model(self, folder: str) -> None:
        Path(folder).mkdir()
        (Path(folder) / "weights").write_text(str(self.state.global_step))


class FakeEvaluator:
    """Rates the pictures as SRCCS says for the trainer's step."""

    def __init__(self, trainer, killed=lambda step, name: False, srccs=SRCCS):
        self.trainer, self.killed, self.srccs = trainer, killed, srccs

    def rate(self, name, samples, k, temperature=None, advance=None):
        step = self.trainer.state.global_step
        if self.killed(step, name):
            raise Killed
        scores = ORDERS.get(self.srccs[step], [3, 3, 3, 3])
        return Ratings(samples, [[str(score)] for score in scores], np.array(scores, dtype=float)[:, None])


@pytest.fixture(autouse=True, scope="module")
def _pictures(tmp_path_factory):
    global FOLDER
    FOLDER = tmp_path_factory.mktemp("pictures")
    for i in range(4):
        Image.new("RGB", (40, 30), (60 * i, 0, 0)).save(FOLDER / f"{i}.png")


def samples(name):
    return [Sample(str(FOLDER / f"{i}.png"), float(i), None, name, f"g{i}", f"{name}/{i}") for i in range(4)]


def run(path, resume=False, killed=lambda step, name: False, steps=STEPS, killed_at=None, every=2, srccs=SRCCS):
    """The callbacks in the trainer's order: begin, then for each step its line, its checkpoint, and the next begins."""
    config = Config(policy=PolicyConfig(path="tiny"), resume=resume)
    config.evaluation.every = every
    folder = RunFolder(path, writes=True)
    folder.open(config)
    trainer = FakeTrainer()
    data = RunData([], {"five": samples("five")}, {"five": samples("five")})
    evaluator = FakeEvaluator(trainer, killed, srccs)
    logger = Logger(folder)
    callback = EvaluationCallback(config, evaluator, trainer, folder, logger, data)
    state, control = trainer.state, TrainerControl()
    checkpoint = folder.last_checkpoint()
    state.global_step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    try:
        callback.on_train_begin(None, state, control)
        while state.global_step < steps:
            callback.on_step_begin(None, state, control)
            state.global_step += 1
            if state.global_step == killed_at:
                raise Killed
            logger.metrics(state.global_step, {"train/loss": 0.5})
            if state.global_step % SAVE_EVERY == 0 or state.global_step == steps:
                made = path / f"checkpoint-{state.global_step}"
                made.mkdir()
                (made / "trainer_state.json").write_text("{}")
                callback.on_save(None, state, control)
        callback.on_train_end(None, state, control)
        folder.write("summary.json", callback.summary({}))
    finally:
        folder.close()
    return path


def best(path):
    return BestWeights(path).step(), (path / "best" / "weights").read_text()


def kept(path):
    """All that is to be as in an undisturbed run."""
    lines = {name: (path / name).read_bytes() for name in ("metrics.jsonl", "answers.jsonl", "summary.json")}
    folders = sorted(folder.name for folder in path.iterdir() if folder.is_dir())
    return {**lines, "folders": folders, "best": best(path)}


@pytest.fixture
def whole(tmp_path):
    return kept(run(tmp_path / "whole"))


def test_a_run_is_evaluated_at_the_start_between_steps_and_at_the_end(tmp_path):
    path = run(tmp_path / "run")
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    found = [
        (row["step"], sorted(key for key in row if key.endswith("srcc"))) for row in rows if "train/loss" not in row
    ]
    both, one = ["eval/five/srcc", "eval/five_test/srcc"], ["eval/five/srcc"]
    assert found == [(0, both), (2, one), (4, one), (6, one), (8, both)]
    assert json.loads((path / "summary.json").read_text())["best_step"] == 6
    assert best(path) == (6, "6")


def test_every_correlation_is_logged_with_its_interval(tmp_path):
    path = run(tmp_path / "run", srccs={**SRCCS, 8: None})
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    found = {row["step"]: row for row in rows if "train/loss" not in row}
    for step in SRCCS:
        row = found[step]
        assert ("eval/five_test/srcc_low" in row) == (step in (0, 8))
        for figure in ("srcc", "plcc"):
            ends = row[f"eval/five/{figure}_low"], row[f"eval/five/{figure}"], row[f"eval/five/{figure}_high"]
            if step == 8:
                assert ends == (None, None, None)
            else:
                assert np.all(np.diff([-1, *ends, 1]) >= -1e-9)


def test_the_probes_are_kept_with_all_their_scores(tmp_path):
    path = run(tmp_path / "run", srccs={**SRCCS, 8: None})
    rows = [json.loads(line) for line in (path / "answers.jsonl").read_text().splitlines()]
    ends = [row for row in rows if row["set"] == "five" and row["step"] in (0, 8)]
    assert [row["scores"] for row in ends] == [[4], [3], [2], [1], [3], [3], [3], [3]]
    assert len({row["picture"] for row in rows}) == len(list((path / "pictures").iterdir())) == 4
    for row in rows:
        with Image.open(path / row["picture"]) as kept, Image.open(row["image"]) as read:
            assert kept.size == read.size
            assert abs(kept.getpixel((9, 9))[0] - read.getpixel((9, 9))[0]) < 5


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_killed_in_any_step_it_ends_as_if_undisturbed(tmp_path, whole, step):
    path = tmp_path / "killed"
    with pytest.raises(Killed):
        run(path, killed_at=step)
    assert kept(run(path, resume=True)) == whole


@pytest.mark.parametrize("name", ["five", "five_test"])
@pytest.mark.parametrize("step", [0, 2, 4, 6, 8])
def test_killed_in_any_evaluation_it_ends_as_if_undisturbed(tmp_path, whole, step, name):
    path = tmp_path / "killed"
    if name == "five_test" and 0 < step < STEPS:
        return
    with pytest.raises(Killed):
        run(path, killed=lambda *where: where == (step, name))
    assert kept(run(path, resume=True)) == whole


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("where", [(FolderWriter, "append"), (BestWeights, "put"), (BestWeights, "prune")])
def test_killed_before_or_after_any_write_it_ends_as_if_undisturbed(tmp_path, monkeypatch, whole, where, done):
    owner, name = where
    write = getattr(owner, name)
    kills = []

    def killing(*args):
        kills.append(None)
        if len(kills) != at:
            return write(*args)
        if done:
            write(*args)
        raise Killed

    monkeypatch.setattr(owner, name, killing)
    for at in range(1, 100):
        kills.clear()
        path = tmp_path / str(at)
        try:
            run(path)
        except Killed:
            assert kept(run(path, resume=True)) == whole
        else:
            break
    assert at > 2


def test_best_goes_back_with_the_run(tmp_path):
    """Step 6 is better than step 4, and is dropped with all after the checkpoint at 4."""
    path = tmp_path / "killed"
    with pytest.raises(Killed):
        run(path, killed_at=7)
    assert best(path) == (6, "6")
    turn = {**SRCCS, 6: -1.0}  # not as before, so that what is left of the dropped steps would show
    run(path, resume=True, srccs=turn)
    assert best(path) == (4, "4")
    assert json.loads((path / "summary.json").read_text())["best_step"] == 4


def test_without_the_last_checkpoint_best_goes_back_further(tmp_path):
    path = run(tmp_path / "run")
    (path / "checkpoint-8" / "trainer_state.json").unlink()
    run(path, resume=True, srccs={**SRCCS, 6: -1.0})
    assert best(path) == (4, "4")


def test_lost_weights_are_warned_of_and_not_named(tmp_path, capsys):
    path = run(tmp_path / "run", srccs={**SRCCS, 2: 1.0})
    assert best(path) == (2, "2")
    for file in (path / "best").iterdir():
        file.unlink()
    (path / "best").rmdir()
    (path / "checkpoint-8" / "trainer_state.json").unlink()
    run(path, resume=True, srccs={**SRCCS, 2: 1.0})
    assert "warning: the weights of step 2, the best so far, are no longer in" in capsys.readouterr().err
    assert not (path / "best").exists()
    assert json.loads((path / "summary.json").read_text())["best_step"] is None


def test_a_finished_run_is_not_evaluated_again(tmp_path):
    path = run(tmp_path / "run")
    before = kept(path)
    run(path, resume=True, killed=lambda *where: True)
    assert kept(path) == before


def test_a_finished_run_may_go_on(tmp_path):
    path = run(tmp_path / "run", steps=4)
    run(path, resume=True)
    assert best(path) == (6, "6")


def test_a_run_that_never_beats_its_start_has_no_best(tmp_path):
    path = run(tmp_path / "run", srccs={0: 1.0, 2: 0.5, 4: 0.5, 6: 0.5, 8: 0.5})
    assert not (path / "best").exists()
    assert json.loads((path / "summary.json").read_text())["best_step"] == 0


def test_undefined_figures_end_no_run(tmp_path):
    path = run(tmp_path / "run", srccs=dict.fromkeys(SRCCS, None))
    assert json.loads((path / "summary.json").read_text())["best_step"] is None


@pytest.mark.parametrize("every", [0, 3])
def test_a_step_that_is_saved_or_evaluated_is_logged(every):
    callback = EvaluationCallback.__new__(EvaluationCallback)
    callback._settings = SimpleNamespace(every=every)
    for save in (True, False):
        for step in (1, 3):
            control = TrainerControl(should_save=save)
            callback.on_step_end(None, TrainerState(global_step=step), control)
            assert control.should_log is (save or step == every)


def test_the_evaluations_to_come_are_timed_by_the_answers_so_far(tmp_path):
    """Evaluations of 4 pictures, 4 answers each, and at the end of 4 test pictures more, 16 answers each."""
    config = Config(policy=PolicyConfig(path="tiny"))
    config.evaluation.every = 2
    folder = RunFolder(tmp_path, writes=True)
    data = RunData([], {"five": samples("five")}, {"five": samples("five")})
    callback = EvaluationCallback(config, None, FakeTrainer(), folder, Logger(folder), data)
    assert callback.seconds_to_come(2, 6) is None
    callback.seconds, callback._answers = 40.0, 160  # a quarter of a second each
    assert callback.seconds_to_come(1, 6) == (2 * 16 + 16 + 64) / 4
    assert callback.seconds_to_come(2, 6) == (2 * 16 + 16 + 64) / 4  # its own comes before the next step
    assert callback.seconds_to_come(3, 6) == (16 + 16 + 64) / 4
    assert callback.seconds_to_come(6, 6) == (16 + 64) / 4
    config.evaluation.every = 0
    assert callback.seconds_to_come(1, 6) == (16 + 64) / 4


def test_each_line_of_an_evaluation_names_its_step(tmp_path, capsys):
    run(tmp_path / "run")
    lines = [line for line in capsys.readouterr().err.splitlines() if "SRCC" in line]
    assert lines[0].startswith("  step 0  five: SRCC ")
    assert {line.split()[1] for line in lines} == {"0", "2", "4", "6", "8"}
