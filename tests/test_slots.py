"""Jobs of a sweep that run at a time: each has its own GPUs and cores, and signals reach all of them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.support.runs import words as run_words
from tests.support.sweeps import FOUR, begin, gone, job_at_its_second_step, steps, within
from vqr1 import cli
from vqr1.errors import UserError
from vqr1.slots import VISIBLE, Slots, divided, visible_gpus
from vqr1.sweep import NAME

ROOT = Path(__file__).parent.parent
TWO_AT_A_TIME = [*FOUR, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


def slots(number, gpus="", cores=range(1), folder=Path()):
    return Slots(folder, number, tuple(gpus), tuple(cores), os.getpid())


@pytest.mark.parametrize(
    ("divided", "shares"),
    [
        (slots(2, "4567", range(8)), [("45", [0, 1, 2, 3]), ("67", [4, 5, 6, 7])]),
        # As many for each: what is left over stays idle.
        (slots(3, "4567", range(8)), [("4", [0, 1]), ("5", [2, 3]), ("6", [4, 5])]),
        (slots(1, "01", [3, 5]), [("01", [3, 5])]),
        # More jobs than cores share them in turn.
        (slots(3, "", [3, 5]), [("", [3]), ("", [5]), ("", [3])]),
    ],
)
def test_each_slot_has_its_own_share(divided, shares):
    found = [divided.share(slot) for slot in range(divided.number)]
    assert [("".join(gpus), list(cores)) for gpus, cores in found] == shares


def test_slots_are_taken_by_one_job_each_and_given_back(tmp_path, monkeypatch):
    cores = sorted(os.sched_getaffinity(0))
    monkeypatch.setenv(VISIBLE, "8,9")
    two = slots(2, "89", cores, tmp_path)
    try:
        for _ in range(2):
            with two.taken():
                assert os.environ[VISIBLE] == "8"
                with two.taken():
                    assert os.environ[VISIBLE] == "9"
    finally:
        os.sched_setaffinity(0, cores)


@pytest.mark.parametrize(
    ("named", "gpus"), [("3,1", ["3", "1"]), ("GPU-ab", ["GPU-ab"]), ("", []), ("-1", []), ("2,-1,3", ["2"])]
)
def test_visible_gpus_are_those_of_the_environment(named, gpus, monkeypatch):
    monkeypatch.setenv(VISIBLE, named)
    assert visible_gpus() == gpus


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (3, "hydra.launcher.n_jobs=3: 2 GPUs are visible, and every job needs one of its own; give 2 or less"),
        (-1, "hydra.launcher.n_jobs=-1: say how many jobs run at a time, 1 or more"),
    ],
)
def test_what_cannot_be_divided_is_refused(number, message, monkeypatch, tmp_path):
    monkeypatch.setenv(VISIBLE, "0,1")
    with pytest.raises(UserError, match=message):
        divided(number, tmp_path)


def waiting(folder, number):
    """The folder of the sweep, and those of the jobs that are at their second step, once there are so many."""
    found = []

    def there():
        found[:] = [file.parent for file in folder.glob("runs/sweep-*/*/process")]
        return sum(len(steps(run)) == 2 for run in found) == number

    within(there)
    return found[0].parent, [run for run in found if len(steps(run)) == 2]


def test_jobs_run_two_at_a_time_and_none_that_is_killed_stops_another(tmp_path):
    environment = {VISIBLE: "4,5,7"}
    first = begin(tmp_path, TWO_AT_A_TIME, **environment)
    sweep, runs = waiting(tmp_path, 2)
    assert {run.name for run in runs} == {"rollout.k-3_seed-0", "rollout.k-4_seed-0"}
    places = [json.loads((run / "place").read_text()) for run in runs]
    assert sorted(place["gpus"] for place in places) == ["4", "5"]
    cores = [set(place["cores"]) for place in places]
    assert not cores[0] & cores[1] or len(os.sched_getaffinity(0)) == 1
    killed = job_at_its_second_step(sweep, "rollout.k-3_seed-0")
    os.kill(killed, signal.SIGKILL)
    within(lambda: (sweep / "rollout.k-3_seed-1").is_dir())  # takes its place, while the other still runs
    assert len(steps(sweep / "rollout.k-4_seed-0")) == 2
    first.kill()
    first.communicate()
    within(lambda: all(gone(int(file.read_text())) for file in sweep.glob("*/process")), 5)

    second = begin(tmp_path, TWO_AT_A_TIME, FAKE_PAUSE="/", **environment)
    said, told = second.communicate(timeout=60)
    names = [f"rollout.k-{k}_seed-{seed}" for seed in (0, 1) for k in (3, 4)]
    table = "".join(f"finished runs/{sweep.name}/{name}\n" for name in names)
    assert said.endswith(f"\n4 jobs: 4 finished\n{table}"), told
    assert second.returncode == 0
    assert [steps(sweep / name) for name in names] == [[1, 2, 3]] * 4  # gone on with
    assert "a fake run" in (sweep / "rollout.k-3_seed-0.log").read_text() and "a fake run" not in said


@pytest.mark.full
def test_a_sweep_of_real_runs_that_is_killed_with_a_job_ends_as_one_that_is_not(tmp_path, data_root):
    settings = {"data.root": data_root, "runs": "runs", "trainer.save_steps": 1, "seed": "0,1,2"}
    quick = [word for word in run_words(settings) if word != "train"]
    words = ["-m", *quick, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]

    def sweep(name):
        return begin(tmp_path, words, program=("-m", "vqr1"), VQR1_SWEEP=name, PYTHONPATH=str(ROOT))

    whole = sweep("whole")
    expected, told = whole.communicate(timeout=600)
    assert whole.returncode == 0, told

    folder = tmp_path / "runs" / "broken"
    first = sweep("broken")
    within(lambda: any(1 in steps(run) for run in folder.glob("seed-*/")), 300)
    job = next(run.name for run in folder.glob("seed-*/") if 1 in steps(run))
    for process in processes(f"name=broken/{job}"):
        os.kill(process, signal.SIGKILL)
    within(lambda: not processes(f"name=broken/{job}"), 30)
    first.kill()
    first.communicate()
    within(lambda: not processes("name=broken/"), 30)

    second = sweep("broken")
    said, told = second.communicate(timeout=600)
    assert second.returncode == 0, told
    table = expected[expected.index("3 jobs: 3 finished") :]
    assert said.endswith(table.replace("runs/whole/", "runs/broken/"))
    for run in folder.glob("seed-*/"):
        other = tmp_path / "runs" / "whole" / run.name
        assert (run / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()


def processes(word):
    """Those with ``word`` in their command."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word in file.read_bytes().replace(b"\0", b" ").decode(errors="replace"):
                found.append(int(file.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_ctrl_c_in_a_terminal_ends_all_jobs_that_run(tmp_path):
    process = begin(tmp_path, TWO_AT_A_TIME)
    sweep, runs = waiting(tmp_path, 2)
    os.killpg(process.pid, signal.SIGINT)
    said, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "4 jobs: 2 stopped, 2 missing\n" in said
    assert "the same command goes on:\nvqr1 train" in told and "Traceback" not in told
    assert [(run / "signal").read_text() for run in runs] == ["SIGUSR1", "SIGUSR1"]  # saved
    assert len(list(sweep.glob("*/process"))) == 2  # no other was begun


def test_a_machine_that_cannot_be_divided_is_said_before_the_first_job(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(NAME, raising=False)
    monkeypatch.setattr("sys.argv", ["vqr1", "train", *FOUR, "hydra/launcher=joblib"])
    with pytest.raises(SystemExit) as ended:
        cli.main(lambda *_, **__: pytest.fail("a job was begun"))
    said, told = capsys.readouterr()
    assert (ended.value.code, said) == (2, "")
    assert told.startswith("vqr1 train: hydra.launcher.n_jobs=-1: say how many jobs") and "Traceback" not in told
