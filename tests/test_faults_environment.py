"""What a run finds around it: no home, few files, a clock that is set back; and a process of its own that is killed."""

from __future__ import annotations

import json
import os
import re
import time

import pytest

from tests.support.faults_disk import small_disk
from tests.support.runs import forked, words

pytestmark = pytest.mark.faults

SHORT = {"data": "demo_five", "trainer.max_steps": "3", "trainer.save_steps": "2"}
LOADS = {
    "trainer.dataloader_num_workers": "2",
    "+trainer.dataloader_multiprocessing_context": "fork",
    "trainer.max_steps": "12",
}


@pytest.fixture(scope="module")
def run(data_root):
    def run(folder, fault="", **settings):
        place = {"runs": folder.parent, "name": folder.name, "data.root": data_root}
        fault = f"tests.support.faults_environment:{fault}" if fault else ""
        return forked(words({**SHORT, **place, **settings}), scripted=True, figures=False, fault=fault)

    return run


@pytest.fixture(scope="module")
def undisturbed(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    done = run(folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return learnt(folder)


def learnt(folder):
    return [(folder / name).read_bytes() for name in ("metrics.jsonl", "final/model.safetensors")]


def same_as_undisturbed(done, folder, undisturbed):
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-3000:]
    return learnt(folder) == undisturbed


def test_no_home_and_no_space_for_temporary_files(run, undisturbed, tmp_path, fault):
    with small_disk(tmp_path / "temporary", 1) as disk:
        if not os.path.ismount(disk):
            pytest.skip("nothing may be mounted here")
        assert same_as_undisturbed(run(tmp_path / "run", f"homeless:{disk}"), tmp_path / "run", undisturbed)
    fault(
        "there is no HOME, and no space for temporary files",
        how="the variable removed, TMPDIR on a full file system",
        happens="nothing",
        lost="nothing",
    )


@pytest.mark.full
def test_wandb_without_space_for_temporary_files(run, tmp_path, fault):
    with small_disk(tmp_path / "temporary", 1) as disk:
        if not os.path.ismount(disk):
            pytest.skip("nothing may be mounted here")
        done = run(tmp_path / "run", f"homeless:{disk}", logger="offline")
    (told,) = re.findall(r"^vqr1 train: .*", done.stderr, re.M)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "wandb does not start" in told and "(TMPDIR), or do without it with logger=disabled" in told
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    fault(
        "there is no space for temporary files, and logger=offline",
        how="TMPDIR on a full file system",
        happens="wandb does not start: one message before the first step, exit 2",
        lost="nothing",
    )


@pytest.mark.full
def test_few_open_files(run, undisturbed, tmp_path, fault):
    assert same_as_undisturbed(run(tmp_path / "run", "few_files:64"), tmp_path / "run", undisturbed)
    fault("a process may open few files", how="64 (RLIMIT_NOFILE)", happens="nothing", lost="nothing")


@pytest.mark.full
def test_few_processes(run, undisturbed, tmp_path, fault):
    assert same_as_undisturbed(run(tmp_path / "run", "few_processes:6"), tmp_path / "run", undisturbed)
    fault("a user may have few processes", how="6 with all threads (RLIMIT_NPROC)", happens="nothing", lost="nothing")


@pytest.mark.parametrize("most", [1, pytest.param(4, marks=pytest.mark.full)])
def test_too_few_processes(run, tmp_path, most, fault):
    done = run(tmp_path / "run", f"few_processes:{most}", **LOADS)
    (told,) = re.findall(r"^vqr1 train: .*", done.stderr, re.M)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr[-3000:]
    assert f"no more processes or threads can be started: the user may have {most} (ulimit -u)" in told, told
    fault(
        "a user may have too few processes",
        how=f"{most} with all threads (RLIMIT_NPROC), and two that load pictures",
        happens="one message with the limit, exit 2",
        lost="nothing",
    )


@pytest.mark.full
def test_a_clock_that_is_set_back(run, undisturbed, tmp_path, fault):
    folder = tmp_path / "run"
    assert same_as_undisturbed(run(folder, "set_back:2:7200"), folder, undisturbed)
    timings = [json.loads(line) for line in (folder / "timings.jsonl").read_text().splitlines()]
    assert timings and all(value >= 0 for row in timings for value in row.values() if isinstance(value, (int, float)))
    fault(
        "the clock is set back", how="two hours, before the second step", happens="no time is negative", lost="nothing"
    )


def test_a_killed_process_that_loads_pictures_ends_the_run(run, tmp_path, fault):
    began = time.monotonic()
    done = run(tmp_path / "run", "killed_worker:1", **LOADS)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr[-3000:]
    (told,) = re.findall(r"^vqr1 train: .*", done.stderr, re.M)
    assert "a process that loads pictures has been lost" in told and "killed by signal" in told, told
    assert time.monotonic() - began < 60
    fault(
        "a process that loads pictures is killed",
        how="SIGKILL to one of two dataloader workers",
        happens="the run ends with exit code 2 and one message",
        lost="the steps since the last checkpoint",
    )
