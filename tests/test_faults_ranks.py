"""Ranks that stall or end, signals that reach them at different times, data that do not come."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from tests.conftest import shared
from tests.support import fault_program, ranks_on_cpu
from tests.support.faults_ranks import faulty
from tests.support.runs import environment, train, words
from vqr1.config import Launcher
from vqr1.training.checkpoints import checkpoint_fault

pytestmark = [pytest.mark.faults, pytest.mark.distributed]

ROOT = Path(__file__).parents[1]
FAULTS = "tests.support.faults_ranks"
WAIT, LONGER = 5, 20  # trainer.ddp_timeout of these runs, seconds; the latter where ranks import and start engines
SOON = 25  # seconds in which all must have ended beyond that, on a machine that does other things; measured: 1 to 2
RUN = {"trainer__max_steps": 5, "trainer__save_steps": 2, "logger__screen": "quiet"}
STALLED = (2, -signal.SIGKILL)  # of the one that speaks, and of the one that it ends: whichever is seen first
OTHER = "another rank has ended; its message is above"
SILENT = r"rank {} \(\S+, process \d+\) has not answered for \d+ s.*trainer.ddp_timeout={}\)"


@dataclass
class Seen:
    """What came of a run with a fault."""

    code: int
    told: str  # on stderr
    seconds: float  # from the fault to the end of what was started
    left: list[int]  # processes

    @property
    def messages(self) -> list[str]:
        return re.findall(r"^vqr1 train.*", self.told, re.M)


def looked_at(code: int, told: str, notes: Path, what: str) -> Seen:
    ended = time.time()
    noted = [line.split() for line in notes.read_text().splitlines()]
    (happened, *_) = [float(at) for at, _, kind in noted if kind == what]
    left = {int(pid) for _, pid, _ in noted if lives(int(pid))}
    return Seen(code, told, ended - happened, sorted(left | started_with(notes)))


def started_with(notes: Path) -> set[int]:
    """The processes that have the file for notes in their environment: what a rank has started, too."""
    found, mark = set(), os.fsencode(f"FAULT_NOTES={notes}\0")
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended, or is another user's
            if mark in environ.read_bytes():
                found.add(int(environ.parent.name))
    return found


def lives(process: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False


@pytest.fixture
def put_in(tmp_path, data_root):
    """A run with one fault, in processes that have imported everything: FAULT[:ARGUMENT...], and what it notes."""

    def run(fault: str, what: str, ranks: int = 2, figures: bool = False, **settings: object) -> Seen:
        asked = {**RUN, "data__root": data_root, "trainer__ddp_timeout": WAIT, "runs": tmp_path, "name": "run"}
        done = faulty(fault, tmp_path / "notes", ranks, figures, **{**asked, **settings})
        return looked_at(done.returncode, done.stderr, tmp_path / "notes", what)

    return run


@pytest.fixture(scope="session")
def whole(tmp_path_factory, data_root):
    """The run on two ranks that nothing happens to."""
    folder = shared(tmp_path_factory) / "undisturbed"
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "summary.json").is_file():
            train(folder, ranks=2, scripted=True, data__root=data_root, **RUN)
    return folder


def goes_on_to_the_same(folder: Path, whole: Path, data_root: Path) -> None:
    train(folder, ranks=2, scripted=True, data__root=data_root, resume="auto", **RUN)
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    weights = "final/model.safetensors"
    assert (folder / weights).read_bytes() == (whole / weights).read_bytes()


def test_a_stopped_rank_is_named_and_ends_all(put_in, whole, tmp_path, data_root, fault):
    seen = put_in("stopped_rank:1:4", "stopped")
    assert seen.code in STALLED and not seen.left
    (message,) = seen.messages
    assert (
        re.match(rf"vqr1 train \(rank 0\): {SILENT.format(1, WAIT)}", message) and "waited for it in step 4" in message
    )
    assert "gloo" not in seen.told and "resume=auto goes on" in seen.told
    assert WAIT <= seen.seconds < WAIT + SOON
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"]
    goes_on_to_the_same(tmp_path / "run", whole, data_root)
    fault(
        "A rank stalls",
        how="SIGSTOP to one of two ranks in a step",
        happens="after `trainer.ddp_timeout` all end with exit code 2, by a message that names rank, host and process",
        lost="the steps since the last checkpoint",
    )


@pytest.mark.full
def test_the_rank_that_all_meet_at_may_stop(put_in, fault):
    seen = put_in("stopped_rank:0:2", "stopped")
    assert seen.code in STALLED and not seen.left
    (message,) = seen.messages
    assert re.match(rf"vqr1 train \(rank 1\): {SILENT.format(0, WAIT)}", message)
    assert WAIT <= seen.seconds < WAIT + SOON
    fault(
        "The rank stalls that has the ranks' store",
        how="SIGSTOP to rank 0 of two that are started without torchrun",
        happens="after `trainer.ddp_timeout` all end with exit code 2, by a message that names it",
        lost="the steps since the last checkpoint",
    )


@pytest.mark.full
def test_of_four_ranks_one_speaks(put_in, fault):
    seen = put_in("stopped_rank:2:2", "stopped", ranks=4)
    assert seen.code in STALLED and not seen.left
    message, *others = sorted(seen.messages, key=len, reverse=True)
    assert re.match(rf"vqr1 train \(rank 0\): {SILENT.format(2, WAIT)}", message)
    assert all(other.endswith(OTHER) for other in others) and "gloo" not in seen.told
    assert WAIT <= seen.seconds < WAIT + SOON
    fault(
        "One rank of four stalls",
        how="SIGSTOP to one rank in a step",
        happens="as with two; one of those that wait says it",
        lost="the steps since the last checkpoint",
    )


@pytest.mark.full
def test_a_rank_that_stands_still_shows_where(put_in, fault):
    seen = put_in("standing_rank:1:2", "standing")
    assert seen.code in STALLED and not seen.left
    message = seen.messages[0]
    assert re.match(r"vqr1 train \(rank 0\): rank 1 \(\S+, process \d+\) has not gone on for \d+ s", message)
    assert "a_file_that_does_not_come\n    time.sleep(600)" in seen.told and "gloo" not in seen.told
    assert WAIT <= seen.seconds < WAIT + SOON
    fault(
        "A rank waits for something that does not come",
        how="its main thread sleeps in a step, as in a file system that hangs",
        happens="after `trainer.ddp_timeout` all end with exit code 2, by a message that has the rank's stack",
        lost="the steps since the last checkpoint",
    )


@pytest.mark.parametrize("kind", ["user", pytest.param("defect", marks=pytest.mark.full)])
@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.full)])
def test_a_rank_that_fails_says_so_and_the_other_points_to_it(put_in, rank, kind, fault):
    seen = put_in(f"failing_rank:{rank}:2:{kind}", kind)
    assert seen.code == (2 if kind == "user" else 1) and not seen.left
    assert f"vqr1 train (rank {1 - rank}): {OTHER}" in seen.messages and "gloo" not in seen.told
    if kind == "user":
        assert f"vqr1 train (rank {rank}): what the test has put in" in seen.messages and len(seen.messages) == 2
    else:
        assert seen.told.count("ZeroDivisionError: what the test has put in") == 1 and len(seen.messages) == 1
    assert seen.seconds < SOON
    fault(
        f"Rank {rank} of two fails by {'a defect' if kind == 'defect' else 'what the user can mend'}",
        how="an exception in a step",
        happens="both end; it tells the cause with its rank, the other that its message is above",
        lost="the steps since the last checkpoint",
    )


@pytest.mark.full
def test_a_rank_that_is_killed_left_no_message(put_in, fault):
    seen = put_in("failing_rank:1:2:killed", "killed")
    assert seen.code and not seen.left
    (message,) = seen.messages
    assert message.startswith("vqr1 train (rank 0): another rank has ended without a message: it was killed")
    assert seen.seconds < SOON
    fault(
        "A rank is killed",
        how="SIGKILL to one of two ranks in a step",
        happens="all end at once; the other says that it has left no message",
        lost="the steps since the last checkpoint",
    )


LATE = {
    "slow_end": "it sleeps where it ends what it has sent the run to (wandb), after the last step",
    "slow_return": "it sleeps before that, after the last time that ranks meet",
}


@pytest.mark.full
@pytest.mark.parametrize("late", LATE)
def test_a_first_rank_that_takes_long_to_end_is_waited_for_by_none(put_in, late, tmp_path, fault):
    seen = put_in(f"{late}:{2 * WAIT}", "begun")
    assert seen.code == 0 and not seen.messages and not seen.left
    assert (tmp_path / "run" / "summary.json").is_file()
    fault(
        "the first rank ends later than ranks wait for each other",
        how=LATE[late],
        happens="nothing: exit code 0",
        lost="nothing",
    )


@pytest.mark.full
def test_a_rank_that_fails_and_takes_long_to_end_tells_its_own_message(put_in, fault):
    seen = put_in("failing_rank_with_slow_end:0:2:15", "defect")
    assert not seen.left and seen.told.count("ZeroDivisionError: what the test has put in") == 1
    assert [message.endswith(OTHER) for message in seen.messages] == [True]
    assert seen.messages[0].startswith("vqr1 train (rank 1)")
    fault(
        "A rank fails, and wandb takes long to end",
        how="an exception in a step of the first rank, which sleeps 15 s where it ends what it has sent the run to",
        happens="as without; the other ends before it",
        lost="the steps since the last checkpoint",
    )


def test_a_loss_that_is_no_number_on_one_rank_ends_all_with_one_message(put_in, tmp_path, fault):
    seen = put_in("not_finite:1:4", "begun")
    assert seen.code == 2 and not seen.left
    message, other = sorted(seen.messages, key=len, reverse=True)
    assert re.match(r"vqr1 train \(rank [01]\): step 4: the loss is nan on rank 1 of 2\. Its pictures: demo", message)
    assert "Lower trainer.learning_rate" in message and other.endswith(OTHER)
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"]
    fault(
        "The loss is no number on one rank",
        how="the loss of one of two ranks is replaced in a step",
        happens="all end with exit code 2 before the update, by one message with step, rank, pictures and remedy",
        lost="the steps since the last checkpoint",
    )


INSTANTS = ["0.1:0.3", *(pytest.param(each, marks=pytest.mark.full) for each in ("0.5:0.0", "0.0:0.9", "0.7:0.75"))]


@pytest.mark.parametrize("instants", INSTANTS)
def test_signals_at_different_instants_save_one_whole_checkpoint(put_in, whole, instants, tmp_path, data_root, fault):
    seen = put_in(f"signalled:{instants}", "signalled", trainer__save_steps=100)
    assert seen.code == 75 and not seen.left
    (message,) = seen.messages
    saved = one_whole_checkpoint(tmp_path / "run", Launcher.ddp)
    assert message.startswith("vqr1 train: stopped by SIGTERM; saved") and str(saved) in message
    goes_on_to_the_same(tmp_path / "run", whole, data_root)
    fault(
        "SIGTERM reaches two ranks at different instants",
        how="in the second step, up to 0.9 seconds apart",
        happens="both finish the step and save one whole checkpoint, exit code 75",
        lost="nothing",
    )


def one_whole_checkpoint(folder: Path, launcher: Launcher) -> Path:
    (saved,) = folder.glob("checkpoint-*")
    assert checkpoint_fault(saved, 2, launcher) is None
    stopped = json.loads((folder / "stopped.json").read_text())
    assert saved.name == f"checkpoint-{stopped['step']}" and stopped["exit_code"] == 75
    return saved


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.full)])
def test_a_stalled_process_that_loads_pictures_ends_the_run(put_in, ranks, fault):
    loads = {"trainer__dataloader_num_workers": 2, "trainer__dataloader_timeout": WAIT, "trainer__ddp_timeout": 60}
    forks = {"+trainer.dataloader_multiprocessing_context": "fork", "trainer__max_steps": 12}
    seen = put_in("stopped_worker:1", "stopped", ranks, **loads, **forks)
    assert seen.code == 2 and not seen.left
    told = [message for message in seen.messages if OTHER not in message]
    assert len(told) == 1 and f"lost (trainer.dataloader_timeout={WAIT})" in told[0]
    assert seen.seconds < WAIT + SOON
    fault(
        f"A process that loads pictures stalls, {ranks} rank{'s' if ranks > 1 else ''}",
        how="SIGSTOP to one of two dataloader workers",
        happens="after `trainer.dataloader_timeout` the run ends with exit code 2 and one message",
        lost="the steps since the last checkpoint",
    )


@pytest.mark.full
def test_a_signal_to_all_processes_of_a_job_saves_a_checkpoint(put_in, tmp_path, fault):
    loads = {"trainer__dataloader_num_workers": 2, "+trainer.dataloader_multiprocessing_context": "fork"}
    seen = put_in("signalled_with_workers:3", "signalled", 1, trainer__max_steps=12, trainer__save_steps=100, **loads)
    assert seen.code == 75 and not seen.left and len(seen.messages) == 1, seen.told
    assert "stopped by SIGTERM; saved" in seen.messages[0] and (tmp_path / "run" / "checkpoint-3").is_dir()
    fault(
        "SIGTERM reaches the processes that load pictures, too",
        how="to two dataloader workers, then to the rank",
        happens="the step is finished and saved, exit code 75",
        lost="nothing",
    )


def test_pictures_that_are_gone_at_the_end_are_left_out_of_the_figure(put_in, tmp_path, fault):
    seen = put_in("lost_picture", "lost", 1, figures=True, evaluation__probes=4)
    assert seen.code == 0 and not seen.left
    assert seen.told.count("reasoning.png leaves out pictures that cannot be read: ") == 1
    assert {"summary.json", "curves.png", "reasoning.png", "final"} <= {p.name for p in (tmp_path / "run").iterdir()}
    fault(
        "Pictures are gone or damaged when the figures are drawn",
        how="one of the run's pictures removed, one cut, after the last step",
        happens="`reasoning.png` is drawn of the others, with a warning; exit code 0",
        lost="nothing",
    )


# What ranks do first, and what follows, without the time that importing it takes.
RANK = (
    "import os, sys, time; from pathlib import Path; from vqr1.child_process import end_with_parent; end_with_parent();"
    "Path(sys.argv[1], str(os.getpid())).touch(); time.sleep(100)"
)


def test_ranks_end_with_their_launcher(tmp_path, fault):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--no-python"]
    command = [sys.executable, *launcher, sys.executable, "-c", RANK, tmp_path]
    process = subprocess.Popen(command, cwd=ROOT, env={**environment(), "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 100
    while len(ranks := [int(path.name) for path in tmp_path.iterdir()]) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    began = time.monotonic()
    while any(lives(rank) for rank in ranks):
        assert time.monotonic() - began < SOON
        time.sleep(0.05)
    fault(
        "The launcher is killed",
        how="SIGKILL to torchrun",
        happens="its ranks are killed with it",
        lost="the steps since the last checkpoint",
    )


# The same by the launchers that a user starts.

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", fault_program.__file__]
SHARDED = [pytest.param(way, marks=[pytest.mark.cluster, pytest.mark.full]) for way in ("zero3", "fsdp2")]
IN_PROCESS = pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.full])
WAYS = [*(pytest.param(way, marks=pytest.mark.full) for way in ("torchrun", "accelerate")), *SHARDED, IN_PROCESS]
BY_TORCHRUN = ("torchrun", "vllm")
BY_VLLM = {"policy__path": "tiny", "rollout": "vllm_colocate", "rollout__max_tokens": 16}


@pytest.fixture
def launched(tmp_path, data_root):
    """Starts two ranks with one fault: by torchrun, also with vLLM in them, or by ``vqr1 train`` and accelerate."""

    def start(way: str, fault: str, **settings: object) -> subprocess.Popen[bytes]:
        asked = {**RUN, "data__root": data_root, "trainer__ddp_timeout": LONGER, "runs": tmp_path, "name": "run"}
        there = {**environment(), "PYTHONPATH": str(ROOT), "FAULT_NOTES": str(tmp_path / "notes")}
        if way == "vllm":
            settings |= BY_VLLM
        named = words({**asked, **settings})
        if way in BY_TORCHRUN:
            command = [sys.executable, *TORCHRUN, f"{FAULTS}:{fault}", *named]
        else:
            launcher = {"accelerate": "ddp"}.get(way, way)
            command = [sys.executable, ranks_on_cpu.__file__, *named, f"launcher={launcher}"]
            there |= {"GPUS": "2", "FAULT": f"{FAULTS}:{fault}", "DS_BUILD_OPS": "0"}
        with (tmp_path / "told").open("wb") as told:
            return subprocess.Popen(command, env=there, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=told)

    return start


@pytest.mark.parametrize("way", WAYS)
def test_a_stopped_rank_ends_all_under_every_launcher(launched, way, tmp_path, fault):
    code = launched(way, "stopped_rank:1:2").wait(timeout=300)
    seen = looked_at(code, (tmp_path / "told").read_text(), tmp_path / "notes", "stopped")
    assert seen.code == (1 if way in BY_TORCHRUN else 2) and not seen.left
    assert re.match(rf"vqr1 train \(rank 0\): {SILENT.format(1, LONGER)}", seen.messages[0]), seen.told
    assert LONGER <= seen.seconds < LONGER + SOON and "gloo" not in seen.told
    fault(
        f"A rank stalls under {way}",
        how="SIGSTOP to one of two ranks in a step",
        happens="after `trainer.ddp_timeout` all end, by a message that names it",
        lost="the steps since the last checkpoint",
    )


@pytest.mark.parametrize("way", WAYS)
def test_signals_to_every_rank_save_one_whole_checkpoint_under_every_launcher(launched, way, tmp_path, fault):
    process = launched(way, "signalled:0.1:0.8", trainer__save_steps=100)
    code = process.wait(timeout=300)
    seen = looked_at(code, (tmp_path / "told").read_text(), tmp_path / "notes", "signalled")
    assert seen.code == (1 if way in BY_TORCHRUN else 75) and not seen.left, seen.told
    saved = one_whole_checkpoint(tmp_path / "run", Launcher(way) if way in ("zero3", "fsdp2") else Launcher.ddp)
    assert "stopped by SIGTERM; saved" in seen.told and saved.is_dir()
    fault(
        f"SIGTERM reaches two ranks at different instants under {way}",
        how="0.1 and 0.8 seconds after the second step has begun",
        happens="both finish the step and save one whole checkpoint",
        lost="nothing",
    )


@pytest.mark.full
def test_ranks_of_a_run_end_with_torchrun(launched, tmp_path, fault):
    process = launched("torchrun", "signalled:100:100", trainer__max_steps=200)
    notes, deadline = tmp_path / "notes", time.monotonic() + 200
    while not (tmp_path / "run" / "checkpoint-2" / "trainer_state.json").is_file():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    began = time.monotonic()
    ranks = [int(line.split()[1]) for line in notes.read_text().splitlines()]
    assert len(ranks) == 2
    while any(lives(rank) for rank in ranks):
        assert time.monotonic() - began < SOON
        time.sleep(0.05)
    fault(
        "The launcher of a run is killed",
        how="SIGKILL to torchrun while its ranks train",
        happens="its ranks are killed with it",
        lost="the steps since the last checkpoint",
    )
