"""Slurm: the job script, a real one-machine Slurm that it runs on, and sweeps whose jobs submitit starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import fake_run, runs, scripted
from tests.support.slurm import GPUS, NODES, missing, slurm
from tests.support.sweeps import PROGRAM, steps, within
from tests.test_child_process import when
from vqr1 import cli
from vqr1.child_process import Starter
from vqr1.config import Launcher
from vqr1.packaged import packaged
from vqr1.sharing import launch_command
from vqr1.sweep import NAME

SCRIPT = str(packaged("launch") / "slurm.sbatch")


def script(*words, **environment):
    """Start the script where nothing can be submitted: sbatch only shows its words."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    return subprocess.run(
        [SCRIPT, *words], env={**inherited, "VQR1": "true", **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("words", "environment", "told"),
    [
        ([], {"GPUS": "8"}, "no words for vqr1 train; for example: NODES=1 GPUS=8"),
        (["data=bid"], {"GPUS": "0"}, "GPUS=0: give a whole number of 1 or more"),
        (["data=bid"], {}, "GPUS=: give a whole number"),
        (["data=bid"], {"GPUS": "8", "NODES": "0"}, "NODES=0: give a whole number"),
        (["data=bid"], {"GPUS": "8", "LEAD": "10m"}, "LEAD=10m: give a whole number"),
        (["data=bid"], {"GPUS": "8", "VQR1": "/nowhere/vqr1"}, "/nowhere/vqr1 is no command"),
        (["data=bid"], {"GPUS": "4", **{f"SLURM_{key}": "1" for key in ("JOB_ID", "JOB_NUM_NODES", "NTASKS")}},
         "NODES=1 GPUS=4, but this job has 1 nodes and 1 tasks"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_before_anything_is_begun(words, environment, told):
    done = script(*words, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"slurm.sbatch: {told}")


def test_the_job_is_shaped_by_what_the_script_is_given(tmp_path):
    (tmp_path / "sbatch").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "sbatch").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = script("data=[bid, spaq]", "name=mine", GPUS="8", NODES="2", LEAD="900", PATH=path)
    shape = ["--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--signal=USR1@900"]
    assert done.stdout.splitlines() == [*shape, SCRIPT, "data=[bid, spaq]", "name=mine"]


# Sweeps by submitit. What it starts are fake runs of three steps.


def sweep(folder, *words, **environment):
    given = ["-m", "data=demo", "policy=tiny", "runs=runs", f"trainer.max_steps={fake_run.STEPS}", *words]
    inherited = {key: value for key, value in os.environ.items() if key != NAME}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "train", *given], cwd=folder, env={**inherited, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def begun(folder):
    return sorted(file.parent for file in folder.glob("runs/sweep-run-*/*/process"))


@pytest.mark.cluster
def test_a_sweep_by_submitit_is_the_same_sweep(tmp_path):
    """Its jobs have the names, words and ends of any sweep's, and the same command goes on with what has not ended."""
    local = "hydra/launcher=submitit_local"
    go = tmp_path / "go"
    process = sweep(tmp_path, local, "rollout.k=3,4", FAKE_PAUSE=str(go))
    within(lambda: len(begun(tmp_path)) == 2 and all(len(steps(run)) == 2 for run in begun(tmp_path)), 90)
    first, second = begun(tmp_path)
    assert (first.name, second.name) == ("rollout.k-3", "rollout.k-4")
    words = (first / "words").read_text().split()
    assert {"rollout.k=3", f"name={first.parent.name}/rollout.k-3", "resume=auto", "data=demo"} < set(words)
    os.kill(int((second / "process").read_text()), signal.SIGKILL)
    go.touch()
    said, told = process.communicate(timeout=60)
    place = f"runs/{first.parent.name}"
    assert said.endswith(f"finished {place}/rollout.k-3\nfailed   {place}/rollout.k-4: killed by SIGKILL\n"), told
    assert process.returncode == 128 + signal.SIGKILL and "Traceback" not in told

    ended = (first / "process").read_text()
    for again in (local, "hydra/launcher=basic"):  # Hydra's own goes on with the same sweep
        process = sweep(tmp_path, again, "rollout.k=3,4")
        said, told = process.communicate(timeout=90)
        assert said.endswith(f"finished {place}/rollout.k-3\nfinished {place}/rollout.k-4\n"), told
        assert process.returncode == 0
    assert steps(second) == [1, 2, 3] and (first / "process").read_text() == ended
    assert list((tmp_path / "runs").iterdir()) == [first.parent]


@pytest.mark.cluster
def test_a_job_of_submitits_whose_time_is_up_saves_and_is_started_again(tmp_path):
    """Submitit warns its own process by SIGUSR2."""
    process = sweep(tmp_path, "hydra/launcher=submitit_local", "seed=1", FAKE_PAUSE=str(tmp_path / "go"))
    within(lambda: begun(tmp_path) and len(steps(begun(tmp_path)[0])) == 2, 60)
    (run,) = begun(tmp_path)
    first = int((run / "process").read_text())
    os.kill(int(Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGUSR2)
    said, told = process.communicate(timeout=60)
    assert (run / "signal").read_text() == "SIGUSR1"
    assert int((run / "process").read_text()) != first and steps(run) == [1, 2, 3]
    assert said.endswith(f"finished {run.relative_to(tmp_path)}\n"), told
    assert process.returncode == 0


# A Slurm.


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if programs := missing():
        pytest.fail(f"not installed: {', '.join(programs)} (.ci/debian)")
    with slurm(tmp_path_factory.mktemp("slurm")) as made:
        yield made


def program(folder, text):
    """A command that stands for vqr1."""
    file = folder / "vqr1"
    file.write_text(f"#!/usr/bin/env bash\n{text}")
    file.chmod(0o755)
    return str(file)


def submit(cluster, folder, *words, **environment):
    """The number of the job that the script submits, whose output is in ``folder/output``."""
    said = cluster.run(SCRIPT, *words, SBATCH_OUTPUT=str(folder / "output"), **environment).stdout
    return said.removeprefix("Submitted batch job ").strip()


@pytest.mark.cluster
@pytest.mark.full
def test_ranks_are_the_tasks_of_all_nodes_and_are_stopped_before_their_time_is_up(cluster, tmp_path):
    """Slurm sends the signal; only exit code 75 brings the job back, under the name that it had."""
    command = program(
        tmp_path,
        f"""
        echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR:$MASTER_PORT $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES: $*"
        trap 'touch {tmp_path}/stopped; exit 75' USR1
        [ -e {tmp_path}/stopped ] && exit 0
        while :; do sleep 0.1; done
        """,
    )
    shape = {"NODES": "2", "GPUS": str(GPUS), "LEAD": "55", "SBATCH_TIMELIMIT": "1"}
    job = submit(cluster, tmp_path, "data=[a, b]", VQR1=command, **shape)
    assert cluster.ended(job, 120) == "COMPLETED" and cluster.field(job, "Restarts") == "1"
    lines = (tmp_path / "output").read_text().splitlines()
    words = f"train name=vqr1-{job} resume=auto data=[a, b]"
    expected = [
        f"{GPUS * node + gpu} {gpu} {GPUS * len(NODES)} 127.0.0.1:{12000 + int(job)} {name} 0,1: {words}"
        for node, name in enumerate(NODES)
        for gpu in range(GPUS)
    ]
    assert sorted(line for line in lines if line.endswith(words)) == sorted(expected * 2)
    assert f"slurm.sbatch: stopped; job {job} is queued again and goes on" in lines


@pytest.mark.cluster
@pytest.mark.full
def test_a_job_that_fails_is_ended_whole_and_not_queued_again(cluster, tmp_path):
    command = program(tmp_path, '[ "$RANK" = 1 ] && exit 3; sleep 60')
    job = submit(cluster, tmp_path, "data=bid", VQR1=command, GPUS="2", SLURM_WAIT="2")
    assert cluster.ended(job, 40) == "FAILED" and cluster.field(job, "Restarts") == "0"


@pytest.mark.cluster
@pytest.mark.full
def test_a_run_on_slurm_that_is_stopped_and_requeued_ends_as_an_undisturbed_one(cluster, tmp_path, data_root):
    """On two ranks: by the signal before the end of its time, then by scontrol requeue, which sends SIGTERM."""
    command = program(tmp_path, f'CUDA_VISIBLE_DEVICES= exec {sys.executable} {scripted.__file__} "$@"')
    settings = {"runs": tmp_path / "runs", "data.root": data_root, "trainer.max_steps": 8, "trainer.save_steps": 100}
    words = runs.words(settings)[1:]
    environment = {"VQR1": command, "GPUS": "2", "PYTHONPATH": str(Path.cwd()), **runs.environment()}
    job = submit(cluster, tmp_path, *words, **environment)
    run = tmp_path / "runs" / f"vqr1-{job}"

    cluster.until(lambda: learnt(run) >= 2, 180)
    cluster.run("scancel", "--signal=USR1", job)
    cluster.until(lambda: cluster.field(job, "Restarts") == "1", 60)
    after = learnt(run)
    cluster.until(lambda: learnt(run) >= after + 2, 180)
    cluster.run("scontrol", "requeue", job)
    cluster.until(lambda: cluster.field(job, "Restarts") == "2", 60)
    assert cluster.ended(job, 180) == "COMPLETED"
    said = (tmp_path / "output").read_text()
    assert "stopped by SIGUSR1; saved" in said and "stopped by SIGTERM; saved" in said

    whole = submit(cluster, tmp_path, *words, "name=whole", **environment)
    assert cluster.ended(whole, 240) == "COMPLETED"
    for name in ("metrics.jsonl", "answers.jsonl"):
        assert (run / name).read_bytes() == (tmp_path / "runs" / "whole" / name).read_bytes()


@pytest.mark.cluster
@pytest.mark.full
def test_a_sweep_is_an_array_of_slurms(cluster, tmp_path, monkeypatch):
    """The time of its jobs is up: they save and are queued again, and the sweep waits for them."""
    for key, value in cluster.environment.items():
        monkeypatch.setenv(key, value)
    queue = ["hydra/launcher=submitit_slurm", "hydra.launcher.max_num_timeout=1", "hydra.launcher.timeout_min=5"]
    process = sweep(tmp_path, *queue, "rollout.k=3,4", FAKE_PAUSE=str(tmp_path / "go"))
    within(lambda: len(begun(tmp_path)) == 2 and all(len(steps(run)) == 2 for run in begun(tmp_path)), 90)
    runs = begun(tmp_path)
    jobs = sorted(cluster.run("squeue", "--noheader", "--array", "--format=%F_%K").stdout.split())
    assert [job.split("_")[1] for job in jobs] == ["0", "1"] and len({job.split("_")[0] for job in jobs}) == 1
    for run, job in zip(runs, jobs, strict=True):
        cluster.run("scancel", "--signal=USR2", job)
        within(lambda run=run: (run / "signal").is_file(), 30)
        cluster.until(lambda job=job: cluster.field(job, "Restarts") == "1", 60)
        assert (run / "signal").read_text() == "SIGUSR1"
    said, told = process.communicate(timeout=120)
    place = f"runs/{runs[0].parent.name}"
    assert said.endswith(f"finished {place}/rollout.k-3\nfinished {place}/rollout.k-4\n"), told
    assert process.returncode == 0
    assert [steps(run) for run in runs] == [[1, 2, 3], [1, 2, 3]]


@pytest.mark.cluster
@pytest.mark.full
def test_a_job_that_may_not_be_queued_again_is_stopped(cluster, tmp_path, monkeypatch):
    for key, value in cluster.environment.items():
        monkeypatch.setenv(key, value)
    queue = ["hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=5"]
    process = sweep(tmp_path, *queue, "seed=1", FAKE_PAUSE=str(tmp_path / "go"))
    within(lambda: begun(tmp_path) and len(steps(begun(tmp_path)[0])) == 2, 60)
    cluster.run("scancel", "--signal=USR2", cluster.run("squeue", "--noheader", "--format=%A").stdout.strip())
    said, told = process.communicate(timeout=60)
    assert said.endswith(f"stopped  {begun(tmp_path)[0].relative_to(tmp_path)}\n"), told
    assert process.returncode == 75
    assert "the same command goes on" in told and "Traceback" not in told


# Exit code 75 behind launchers that turn it into 1.


@pytest.fixture
def settings(tmp_path, data_root):
    made = {"runs": tmp_path, "name": "run", "data.root": data_root, "trainer.max_steps": 100}
    return {**made, "rollout": "transformers"}


def learnt(run):
    file = run / "metrics.jsonl"
    return file.read_text().count("train/loss") if file.is_file() else 0


def told_by_stopped(run, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vqr1", "stopped", str(run)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


@pytest.mark.cluster
def test_a_stop_behind_torchrun_is_told_by_the_run(settings, tmp_path, monkeypatch):
    asked = runs.command(settings, ranks=2, scripted=True)
    process = subprocess.Popen(asked, env=runs.environment(), stderr=subprocess.DEVNULL)
    within(lambda: learnt(tmp_path / "run") >= 2, 180)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 1
    codes = [told_by_stopped(tmp_path / "run", monkeypatch) for _ in range(2)]
    assert codes == [75, 1]  # told once


@pytest.mark.cluster
def test_a_stop_behind_accelerate_is_the_exit_code(settings, tmp_path):
    asked = [*launch_command(Launcher.ddp, 2, (scripted.__file__,)), *runs.words(settings)]
    with Starter() as starter:
        sent = when(lambda: learnt(tmp_path / "run") >= 2, lambda: os.kill(os.getpid(), signal.SIGTERM), 180)
        ended = starter.run(asked, ranks=True)
    sent.join()
    assert ended.code == 75 and ended.line.startswith("stopped by SIGTERM; saved")


def test_what_is_no_stopped_run_is_told_so(tmp_path, monkeypatch):
    assert told_by_stopped(tmp_path, monkeypatch) == 1
    (tmp_path / "stopped.json").write_text('{"step": 2, "signal": "SIGUSR1", "exit_code": 75}')
    assert told_by_stopped(tmp_path, monkeypatch) == 75
