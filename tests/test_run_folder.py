"""The run folder: whose it is, what may be resumed, and what is written where."""

import json
import math
import multiprocessing
import os
from pathlib import Path

import pytest
import yaml
from PIL import Image

import vqr1
from vqr1.config import Config, EvaluationConfig, Objective, PolicyConfig, RewardConfig, RolloutConfig, as_dict
from vqr1.provenance import PACKAGES, finite, versions
from vqr1.training.run_folder import FIRST, FORMAT, RunFolder


def config(**settings):
    return Config(policy=PolicyConfig(path="tiny"), trainer={"images_per_step": 16, "learning_rate": 1e-6}, **settings)


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != "lock"}


def opened(path, asked, splits=None):
    """A run that was begun, or resumed, and is over."""
    folder = RunFolder(path, writes=True)
    folder.open(asked, splits)
    folder.close()
    return folder


def checkpoint(folder: Path, step: int, whole: bool = True) -> Path:
    made = folder / f"checkpoint-{step}"
    made.mkdir(parents=True)
    if whole:
        (made / "trainer_state.json").write_text("{}")
    return made


@pytest.fixture
def started(tmp_path):
    """A run with a checkpoint at step 10."""
    folder = opened(tmp_path / "runs" / "a", config(), {"five": {"hash": "a"}})
    checkpoint(folder.path, 10)
    return folder


def test_a_new_folder_holds_the_configuration_and_the_versions(tmp_path):
    folder = opened(tmp_path / "runs" / "a", config(reward=RewardConfig(gamma=1e-7)))
    stored = yaml.safe_load((folder.path / "config.yaml").read_text())
    assert stored == as_dict(config(reward=RewardConfig(gamma=1e-7)))
    assert stored["reward"]["rivals"] == "batch"
    found = json.loads((folder.path / "versions.json").read_text())
    assert set(found) == {*PACKAGES, "python", "machine", "commit", "format"}
    assert (found["vqr1"], found["format"]) == (vqr1.__version__, FORMAT)


def test_an_empty_folder_may_be_used(tmp_path):
    (tmp_path / "a").mkdir()
    opened(tmp_path / "a", config())
    assert (tmp_path / "a" / "config.yaml").is_file()


def test_a_folder_of_another_run_is_refused_and_untouched(started):
    before = contents(started.path)
    with pytest.raises(ValueError, match=r"holds another run; give resume=true .* or another name="):
        opened(started.path, config(seed=1))
    assert contents(started.path) == before


def test_a_folder_of_something_else_is_refused_too(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds another run"):
        opened(tmp_path, config())
    with pytest.raises(ValueError, match="holds no run to resume"):
        opened(tmp_path, config(resume=True))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_is_resumed_with_its_own_settings(started):
    before = contents(started.path)
    opened(started.path, config(resume=True))
    resumed = contents(started.path)
    assert resumed.pop(started.path / "resumed.jsonl") == b'{"step": 10}\n', "for reports"
    assert resumed == before


def test_a_run_from_before_there_were_objectives_is_resumed(started):
    stored = yaml.safe_load((started.path / "config.yaml").read_text())
    del stored["objective"], stored["levels"]
    (started.path / "config.yaml").write_text(yaml.safe_dump(stored))
    opened(started.path, config(resume=True))


def test_a_run_of_another_objective_is_refused_with_that_as_the_reason(started):
    with pytest.raises(ValueError, match="objective was rl2r in .* and is levels"):
        opened(started.path, config(resume=True, objective=Objective.levels, evaluation=EvaluationConfig(k=1)))


@pytest.mark.parametrize("prepare", [lambda path: None, Path.mkdir])
def test_where_no_run_is_there_is_nothing_to_resume(tmp_path, prepare):
    prepare(tmp_path / "a")
    with pytest.raises(ValueError, match=r"holds no run to resume; check name= and runs=, or leave resume out"):
        opened(tmp_path / "a", config(resume=True))


@pytest.mark.parametrize("prepare", [lambda path: None, Path.mkdir])
def test_auto_starts_what_is_new_and_goes_on_with_what_was_begun(tmp_path, prepare):
    prepare(tmp_path / "a")
    folder = opened(tmp_path / "a", config(resume="auto"))
    assert (folder.path / "config.yaml").is_file()
    folder.append("metrics.jsonl", {"step": 1})
    opened(folder.path, config(resume="auto"))  # before its first checkpoint
    assert folder.rows("metrics.jsonl") == []
    checkpoint(folder.path, 2)
    folder.append("metrics.jsonl", {"step": 1})
    opened(folder.path, config(resume="auto"))
    assert folder.rows("metrics.jsonl") == [{"step": 1}]
    with pytest.raises(ValueError, match="resume=auto, but seed was 0 in .* and is 1"):
        opened(folder.path, config(resume="auto", seed=1))


def test_auto_takes_nothing_that_is_no_run(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds no run to resume"):
        opened(tmp_path, config(resume="auto"))


@pytest.mark.parametrize("resume", [True, "auto"])
def test_a_run_is_finished_once_it_has_its_summary_and_all_the_steps_that_are_asked_for(started, resume):
    def finished(**length):
        asked = config(resume=resume)
        asked.trainer.update(length)
        return started.finished(asked)

    assert not finished(max_steps=10)  # there is no summary yet
    (started.path / "summary.json").write_text(json.dumps({"steps": 10, "epochs": 1.9999999999}))
    assert finished(max_steps=10) and finished(max_steps=8) and not finished(max_steps=11)
    assert finished(max_steps=-1, num_train_epochs=2) and not finished(max_steps=-1, num_train_epochs=3)
    assert not started.finished(config())  # which is then refused
    with pytest.raises(ValueError, match="seed was 0 in .* and is 1"):
        started.finished(config(resume=resume, seed=1))
    assert not RunFolder(started.path.with_name("new"), writes=True).finished(config(resume=resume))


def test_a_finished_run_without_checkpoints_does_not_start_again(started):
    (started.path / "checkpoint-10" / "trainer_state.json").unlink()
    (started.path / "summary.json").write_text(json.dumps({"steps": 10}))
    with pytest.raises(ValueError, match="is finished and has no checkpoint to take more steps from"):
        opened(started.path, config(resume=True))


def test_a_run_without_a_whole_checkpoint_is_resumed_from_the_beginning(tmp_path):
    folder = opened(tmp_path / "a", config())
    folder.append("metrics.jsonl", {"step": 0, "eval/five/srcc": 0.1}, {"step": 1, "train/loss": 0.1})
    folder.append("answers.jsonl", {"step": 0})
    torn = checkpoint(folder.path, 5, whole=False)
    half = checkpoint(folder.path, 6)
    (half / "trainer_state.json").write_text('{"global_step": ')
    with pytest.raises(ValueError, match="seed was 0 in .* and is 1"):
        opened(folder.path, config(resume=True, seed=1))
    opened(folder.path, config(resume=True))
    assert folder.last_checkpoint() is None
    assert folder.rows("metrics.jsonl") == folder.rows("answers.jsonl") == []
    assert not torn.exists() and not half.exists()


@pytest.mark.parametrize("left", [["lock"], ["lock", "versions.json.new"], ["lock", "versions.json", "splits.json"]])
@pytest.mark.parametrize("resume", [True, False])
def test_a_start_that_was_interrupted_is_no_obstacle(tmp_path, left, resume):
    for name in left:
        (tmp_path / name).write_text("{")
    folder = opened(tmp_path, config(resume=resume), {"five": {"hash": "a"}})
    assert {path.name for path in tmp_path.iterdir()} == {"lock", *FIRST}
    assert json.loads((folder.path / "splits.json").read_text()) == {"five": {"hash": "a"}}


def test_a_run_that_is_going_on_is_left_alone(started):
    started.open(config(resume=True))
    before = contents(started.path)
    holder = rf"is being written by process {os.getpid()} on .*; wait until it has ended, or give another name="
    for asked in (config(resume=True), config(resume="auto"), config()):
        with pytest.raises(ValueError, match=holder):
            opened(started.path, asked)
    assert contents(started.path) == before
    started.close()
    opened(started.path, config(resume=True))


@pytest.mark.parametrize("stored", [None, {"vqr1": "0.1.0"}])
def test_a_run_of_an_older_format_is_not_resumed(started, stored):
    path = started.path / "versions.json"
    path.unlink()
    if stored:
        path.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"is of format 1, .* vqr1 evaluate takes it as it is; to go on, resume with"):
        opened(started.path, config(resume=True))


def test_a_run_of_a_newer_format_is_not_resumed(started):
    (started.path / "versions.json").write_text(json.dumps({"vqr1": "9", "format": FORMAT + 1}))
    with pytest.raises(ValueError, match=rf"is of format {FORMAT + 1}, newer than {FORMAT}; resume with .*\(9\)"):
        opened(started.path, config(resume=True))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, "seed was 0 in .* and is 1"),
        ({"rollout": RolloutConfig(k=4)}, "rollout.k was 6 in .* and is 4"),
        ({"reward": RewardConfig(gamma=0.1)}, "reward.gamma was 1e-06 in .* and is 0.1"),
        ({"evaluation": EvaluationConfig(k=2)}, "evaluation.k was 4 in .* and is 2"),
        ({"evaluation": EvaluationConfig(test_k=2)}, "evaluation.test_k was 16 in .* and is 2"),
        ({"evaluation": EvaluationConfig(max_pictures=9)}, "evaluation.max_pictures was None in .* and is 9"),
        ({"evaluation": EvaluationConfig(batch=4)}, "evaluation.batch was 192 in .* and is 4"),
        ({"evaluation": EvaluationConfig(proof=True)}, "evaluation.proof was False in .* and is True"),
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
    changed.evaluation.every, changed.evaluation.probes = 3, 1
    opened(started.path, changed)
    # The first settings stay on record.
    assert yaml.safe_load((started.path / "config.yaml").read_text())["evaluation"]["every"] == 50


def test_a_run_is_not_resumed_with_other_data(started):
    opened(started.path, config(resume=True), {"five": {"hash": "a"}})
    with pytest.raises(ValueError, match=r"the split of five was a and is b: .*; put them back or start another run"):
        opened(started.path, config(resume=True), {"five": {"hash": "b"}})


def test_the_last_checkpoint_is_the_highest_whole_one(started):
    checkpoint(started.path, 9)
    checkpoint(started.path, 100)
    checkpoint(started.path, 200, whole=False)
    assert started.last_checkpoint() == started.path / "checkpoint-100"


def picture_row(i, part="train", **changed):
    return {"image_id": f"five/{i}", "part": part, "mos": i / 3, "mos_std": 0.5, "content": f"{i:032x}"} | changed


ROWS = [picture_row(i) for i in range(3)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*ROWS[:2], picture_row(2, mos=1.5)], r"1 of 3 .*five/2 \(train\) had score 0.66.* and has 1.5; put"),
        ([{**row, "mos": -row["mos"]} for row in ROWS], "3 of 3|2 of 3"),
        ([picture_row(0, mos_std=None), *ROWS[1:]], r"five/0 \(train\) had spread 0.5 and has None"),
        ([picture_row(0, content="f" * 32), *ROWS[1:]], r"1 of 3 .*five/0 \(train\) has another content"),
        ([*ROWS[:2], picture_row(2, part="test")], r"five/2 \(train\) is gone"),
        ([*ROWS, picture_row(3)], r"five/3 \(train\) is new"),
    ],
)
def test_labels_and_pictures_are_compared_by_content(tmp_path, rows, message):
    folder = RunFolder(tmp_path / "a", writes=True)
    folder.open(config(), pictures=ROWS, policy={})
    folder.close()
    before = contents(folder.path)
    with pytest.raises(ValueError, match=message):
        folder.open(config(resume=True), pictures=rows, policy={})
    assert contents(folder.path) == before
    assert folder.open(config(resume=True), pictures=ROWS[::-1], policy={}) == []  # the order is no content
    folder.close()


def test_places_may_change_and_what_is_there_may_not(tmp_path):
    folder = RunFolder(tmp_path / "a", writes=True)
    folder.open(config(), policy={"model.safetensors": "a", "config.json": "b"})
    folder.close()
    moved = config(resume=True)
    moved.data.root, moved.policy.path = "/elsewhere", "/another/place"
    moved.rollout.vllm.server, moved.rollout.vllm.group_port = "http://other:8000", 1234
    assert folder.open(moved, policy={"config.json": "b", "model.safetensors": "a"}) == []
    folder.close()
    with pytest.raises(ValueError, match="model.safetensors of policy.path=/another/place is not the file that"):
        folder.open(moved, policy={"model.safetensors": "c", "config.json": "b"})


def test_a_run_without_hashes_is_resumed_with_a_warning(started):
    (started.path / "pictures.jsonl").unlink()
    (note,) = started.open(config(resume=True), pictures=ROWS)
    started.close()
    assert note.startswith("warning: ") and "not compared" in note


def wrong_with(*steps):
    names = {f"checkpoint-{step}" for step in steps}
    return lambda path: f"{path}/optimizer.pt is missing" if path.name in names else None


def test_a_damaged_checkpoint_is_put_aside_for_the_last_whole_one(started):
    checkpoint(started.path, 20)
    checkpoint(started.path, 30)
    for step in (9, 11, 21):
        started.append("metrics.jsonl", {"step": step})
    notes = started.open(config(resume=True), fault=wrong_with(20, 30))
    started.close()
    assert started.last_checkpoint().name == "checkpoint-10"
    assert [row["step"] for row in started.rows("metrics.jsonl")] == [9]
    assert {path.name for path in started.path.glob("*checkpoint*")} == {
        "checkpoint-10", "damaged-checkpoint-20", "damaged-checkpoint-30",
    }  # fmt: skip
    assert "checkpoint-30/optimizer.pt is missing; checkpoint-30 is put aside as damaged-checkpoint-30" in notes[0]
    assert notes[1].endswith("and the run goes on from " + str(started.path / "checkpoint-10"))


def test_damaged_checkpoints_alone_are_refused_and_kept(started):
    before = contents(started.path)
    with pytest.raises(ValueError, match=r"optimizer.pt is missing, and no earlier checkpoint is whole"):
        started.open(config(resume=True), fault=wrong_with(10))
    assert contents(started.path) == before


def test_a_checkpoint_that_was_being_written_is_told_of(started):
    checkpoint(started.path, 20, whole=False)
    (note,) = started.open(config(resume=True))
    assert "checkpoint-20/trainer_state.json is missing or cut" in note and note.endswith("checkpoint-10")
    started.close()
    checkpoint(started.path / "checkpoint.new", 30)
    (note,) = started.open(config(resume=True))
    assert note == (
        "warning: the run ended while it wrote checkpoint-30, which is removed, and the run goes on from "
        f"{started.path}/checkpoint-10"
    )
    assert not (started.path / "checkpoint.new").exists()
    started.close()


@pytest.mark.parametrize("state", ["", "[" * 100_000, None])
def test_the_last_whole_checkpoint_is_found_whatever_the_others_look_like(started, state):
    (started.path / "checkpoint-30").write_text("a file")
    (started.path / "checkpoint-40").symlink_to("nowhere")
    strange = checkpoint(started.path, 50, whole=False) / "trainer_state.json"
    strange.write_text(state) if state is not None else strange.mkdir()
    assert started.last_checkpoint() == started.path / "checkpoint-10"
    notes = started.open(config(resume=True))
    assert len(notes) == 3 and notes[-1].endswith("checkpoint-10")
    assert not list(started.path.glob("checkpoint-[345]0"))
    started.close()


def test_a_reference_that_moves_is_in_no_checkpoint(tmp_path):
    asked = config(resume="auto")
    asked.trainer["sync_ref_model"] = True
    folder = opened(tmp_path / "a", asked)
    opened(folder.path, asked)  # before its first checkpoint nothing is lost
    checkpoint(folder.path, 10)
    with pytest.raises(ValueError, match=r"resume=auto, but .* trains with trainer.sync_ref_model=true"):
        opened(folder.path, asked)


ROUNDS = 20


def start_together(folder, asked, together, answers):
    """A process that starts a run in each of ``ROUNDS`` folders at the instant at which the other does."""
    for i in range(ROUNDS):
        run = RunFolder(folder / str(i), writes=True)
        together.wait(timeout=30)
        try:
            run.open(asked)
            answers.put((i, "won"))
        except ValueError as error:
            answers.put((i, str(error)))
        together.wait(timeout=30)  # the winner holds the folder until the other has tried
        run.close()


@pytest.mark.parametrize("resume", [False, "auto"])
def test_of_two_starts_at_one_instant_one_wins(tmp_path, resume):
    processes = multiprocessing.get_context("fork")
    together, answers = processes.Barrier(2), processes.Queue()
    given = tmp_path, config(resume=resume), together, answers
    both = [processes.Process(target=start_together, args=given) for _ in range(2)]
    for process in both:
        process.start()
    found = [answers.get(timeout=60) for _ in range(2 * ROUNDS)]
    for process in both:
        process.join(timeout=30)
    assert [process.exitcode for process in both] == [0, 0]
    for i in range(ROUNDS):
        (lost,) = [answer for number, answer in found if number == i and answer != "won"]
        assert "is being written by" in lost or "holds another run" in lost
        assert (tmp_path / str(i) / "config.yaml").is_file()


NAMES = ("metrics.jsonl", "timings.jsonl", "answers.jsonl")


def test_lines_after_the_checkpoint_are_forgotten(started):
    for step in (0, 9, 10, 11, 12):
        for name in NAMES:
            started.append(name, {"step": step, "eval/five/srcc": step / 3})
    first = (started.path / NAMES[0]).read_text().splitlines(keepends=True)
    opened(started.path, config(resume=True))
    for name in NAMES:
        assert (started.path / name).read_text() == "".join(first[:3])
        assert [row["step"] for row in started.rows(name)] == [0, 9, 10]


def test_answers_of_an_unfinished_evaluation_are_forgotten(started):
    started.append("metrics.jsonl", {"step": 0, "eval/five/srcc": 0.1}, {"step": 10, "train/loss": 0.1})
    started.append("answers.jsonl", {"step": 0}, {"step": 10})
    opened(started.path, config(resume=True))
    assert [row["step"] for row in started.rows("metrics.jsonl")] == [0, 10]
    assert [row["step"] for row in started.rows("answers.jsonl")] == [0]


@pytest.mark.parametrize("name", NAMES)
def test_a_torn_last_line_is_dropped(started, name):
    (started.path / "metrics.jsonl").write_text('{"step": 9, "eval/five/srcc": 0.5}\n')
    (started.path / name).write_text('{"step": 9, "eval/five/srcc": 0.5}\n{"step": 10, "eval/fi')
    assert [row["step"] for row in started.rows(name)] == [9]
    opened(started.path, config(resume=True))
    assert (started.path / name).read_text() == '{"step": 9, "eval/five/srcc": 0.5}\n'


@pytest.mark.parametrize("torn", ['{"step": 1, "tr', "7"])
def test_a_torn_line_elsewhere_is_an_error_with_its_place(started, torn):
    (started.path / "timings.jsonl").write_text(f'{{"step": 0}}\n{torn}\n{{"step": 2}}\n')
    before = contents(started.path)
    with pytest.raises(ValueError, match=r"timings.jsonl, line 2: .*; restore the line or delete it"):
        opened(started.path, config(resume=True))
    assert contents(started.path) == before
    (started.path / "timings.jsonl").unlink()
    opened(started.path, config(resume=True))  # the refusal has let the folder go


def test_a_checkpoint_that_cannot_be_looked_at_is_not_removed(started):
    state = checkpoint(started.path, 20) / "trainer_state.json"
    state.unlink()
    state.symlink_to(state)  # an error of reading, as of a disk
    with pytest.raises(OSError, match="symbolic links"):
        opened(started.path, config(resume=True))
    assert state.parent.is_dir()


def test_what_was_torn_of_how_it_was_gone_on_with_spoils_no_later_line(started):
    (started.path / "resumed.jsonl").write_text('{"step": 5}\n{"st')
    opened(started.path, config(resume=True))
    assert (started.path / "resumed.jsonl").read_text() == '{"step": 5}\n{"step": 10}\n'


def test_what_a_killed_run_was_writing_is_cleared(started):
    for name in ("best.new", "final.new", "best.old", "checkpoint-20", "checkpoint.new", "checkpoint-5.old"):
        (started.path / name).mkdir()
    (started.path / "metrics.jsonl.new").write_text("{")
    (started.path / "notes.new").write_text("mine")
    opened(started.path, config(resume=True))
    assert {path.name for path in started.path.iterdir()} == {
        "lock", *FIRST, "checkpoint-10", "notes.new", "resumed.jsonl",
    }  # fmt: skip


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
    silent.put_in_place("final")
    assert not silent.path.exists()
    started.append("metrics.jsonl", {"step": 11})
    assert RunFolder(started.path, writes=False).rows("metrics.jsonl") == [{"step": 11}]  # but all may read


def test_versions_are_of_what_is_installed():
    found = versions()
    assert found["python"].startswith("3.")
    assert found["commit"] is None or len(found["commit"].removesuffix("+changes")) == 40


@pytest.fixture
def picture(tmp_path):
    """Upright 1000 x 600, stored on its side: the upper half is red."""
    upright = Image.new("RGB", (1000, 600), (20, 20, 200))
    upright.paste((200, 20, 20), (0, 0, 1000, 300))
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "large.png", exif=exif)
    return tmp_path / "large.png"


def test_a_picture_is_kept_small_upright_and_once(started, picture, tmp_path):
    name = started.keep_picture(picture)
    folder, _, file = name.partition("/")
    assert folder == "pictures" and len(file) == 36 and file.endswith(".jpg")
    with Image.open(started.path / name) as kept:
        assert kept.format == "JPEG" and kept.size == (512, 307)
        assert kept.getpixel((256, 20))[0] > 150 > kept.getpixel((256, 290))[0]
    written = (started.path / name).stat().st_mtime_ns
    (tmp_path / "copy.png").write_bytes(picture.read_bytes())  # the same content elsewhere
    assert RunFolder(started.path, writes=True).keep_picture(tmp_path / "copy.png") == name
    assert (started.path / name).stat().st_mtime_ns == written
    assert len(list((started.path / "pictures").iterdir())) == 1


def test_a_small_picture_is_not_enlarged(started, tmp_path):
    Image.new("L", (60, 40), 7).save(tmp_path / "small.png")
    with Image.open(started.path / started.keep_picture(str(tmp_path / "small.png"))) as kept:
        assert (kept.mode, kept.size) == ("RGB", (60, 40))


def test_other_ranks_keep_no_picture(tmp_path):
    assert RunFolder(tmp_path / "a", writes=False).keep_picture(tmp_path / "gone.png") == ""
    assert not (tmp_path / "a").exists()


def test_a_picture_that_is_gone_is_named(started, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        started.keep_picture(tmp_path / "gone.png")


def test_what_a_killed_run_was_writing_of_a_picture_is_removed(started, picture):
    name = started.keep_picture(picture)
    (started.path / f"{name}.new").write_bytes(b"half")
    opened(started.path, config(resume=True))
    assert [file.name for file in (started.path / "pictures").iterdir()] == [Path(name).name]
