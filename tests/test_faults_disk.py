"""Disks that fill up, cannot be written or change under a run: what it says, what is lost, and what goes on.

The disks are small file systems that are mounted for the test; where root may not mount, a limit on the size of files.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.support.faults_disk import FULL, fill, free, small_disk
from tests.support.runs import command, environment, forked, words
from vqr1.demo import datasets
from vqr1.demo.datasets import load_pictures
from vqr1.errors import UserError
from vqr1.folder_writer import FolderWriter

pytestmark = pytest.mark.faults

SHORT = {
    "data": "demo_five",
    "trainer.max_steps": "4",
    "seed": "1",  # with which the weights of steps 2 and 4 are the best so far
    "trainer.save_steps": "2",
    "trainer.save_total_limit": "1",
    "evaluation.every": "2",
    "evaluation.max_pictures": "8",
    "evaluation.probes": "8",
}
FILES = ("metrics.jsonl", "answers.jsonl", "best/model.safetensors", "final/model.safetensors")


@pytest.fixture(scope="module")
def run(data_root):
    def run(folder, fault="", figures=False, settings=None, **how):
        place = {"runs": folder.parent, "name": folder.name, "data.root": data_root, "resume": "auto"}
        fault = f"tests.support.faults_disk:{fault}" if fault else ""
        return forked(words({**SHORT, **place, **(settings or {})}), scripted=True, figures=figures, fault=fault, **how)

    return run


@pytest.fixture(scope="module")
def undisturbed(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    done = run(folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", 120) as made:
        yield made


def learnt(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


def message(done):
    """The one message with which a command has ended, and no stack."""
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    told = [line for line in done.stderr.splitlines() if re.match(r"vqr1 \w+: ", line)]
    assert len(told) == 1, done.stderr[-3000:]
    return told[0]


# Where the disk is full, from which step on, with so many bytes left; which checkpoint is left.
PLACES = [
    pytest.param("state", 4, 0, 2, id="the last file of a checkpoint"),
    pytest.param("answers", 4, 0, 4, id="answers"),
    pytest.param("final", 4, 500_000, 4, id="final weights"),
    pytest.param("optimiser", 4, 1_000_000, 2, id="the optimiser"),
    pytest.param("weights", 4, 500_000, 2, id="weights of a checkpoint", marks=pytest.mark.full),
    pytest.param("metrics", 3, 0, 2, id="figures", marks=pytest.mark.full),
    pytest.param("summary", 4, 0, 4, id="the summary", marks=pytest.mark.full),
    pytest.param("best", 2, 500_000, 2, id="the best weights", marks=pytest.mark.full),
]


@pytest.mark.parametrize(("place", "step", "left", "kept"), PLACES)
def test_a_disk_that_fills_is_told_and_the_run_goes_on(run, undisturbed, disk, fault, request, place, step, left, kept):
    folder = disk / "run"
    began = time.monotonic()
    done = run(folder, f"full_at:{place}:{step}:{left}:{disk}")
    told = message(done)
    assert done.returncode == 2
    assert re.search(rf"{folder}.*{FULL}.* bytes free\).*the same command goes on$", told), told
    assert [path.name for path in folder.glob("checkpoint-*")] == [f"checkpoint-{kept}"]
    free(disk)
    again = run(folder)
    assert again.returncode == 0, again.stderr[-3000:]
    assert learnt(folder) == learnt(undisturbed)
    steps = len(re.findall(r"^step ", again.stderr, re.MULTILINE))
    assert steps == 4 - kept  # and none where the last step's checkpoint is there
    assert not [path for path in folder.rglob("*") if path.suffix in (".new", ".old")]
    assert time.monotonic() - began < 120
    what = request.node.callspec.id.removesuffix("-full")
    fault(
        f"the disk is full while a run writes {what}",
        how=f"a small file system, {left:,} bytes left at step {step} of 4",
        happens="one message with path and free bytes, exit 2; the same command ends it as an undisturbed run, to the "
        "byte" + (", without a step" if kept == 4 else ""),
        lost="nothing" if kept == 4 else "the steps since the last checkpoint",
    )


def test_figures_and_loggers_do_not_decide_how_a_run_ends(run, undisturbed, disk, fault):
    folder = disk / "run"
    done = run(folder, f"full_at:end:4:0:{disk}", figures=True, settings={"logger": "tensorboard"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    for failed in ("draw_curves failed", "draw_reasoning failed", "TensorBoard failed"):
        assert done.stderr.count(f"warning: {failed}") == 1, done.stderr[-3000:]
    assert learnt(folder) == learnt(undisturbed) and json.loads((folder / "summary.json").read_text())["steps"] == 4
    free(disk)
    again = run(folder, figures=True, settings={"logger": "tensorboard"})
    assert again.returncode == 0 and "nothing is trained" in again.stderr
    assert (folder / "curves.png").stat().st_size and (folder / "reasoning.png").stat().st_size
    assert learnt(folder) == learnt(undisturbed)
    fault(
        "the disk is full when figures are drawn and TensorBoard's file is closed",
        how="a small file system, filled after summary.json",
        happens="a warning for each, exit 0; the same command draws what is missing",
        lost="figures, until then",
    )


def test_the_space_for_a_checkpoint_is_looked_at_first(run, tmp_path, fault):
    with small_disk(tmp_path / "disk", 4) as disk:
        if not os.path.ismount(disk):
            pytest.skip("nothing may be mounted here")
        fill(disk, 3_000_000)
        done = run(disk / "run")
        told = message(done)
        assert done.returncode == 2 and "the run keeps up to" in told and "free some space" in told
        assert not (disk / "run").exists()
    fault(
        "the disk is too small for the checkpoints",
        how="a file system of 4 MB",
        happens="one message with the sum, exit 2, before anything is made",
        lost="nothing",
    )


def test_a_run_that_goes_on_is_not_resumed_by_another(run, undisturbed, tmp_path, fault):
    folder = shutil.copytree(undisturbed, tmp_path / "run")
    (folder / "summary.json").unlink()  # not at its end yet
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}
    holder = FolderWriter(folder, "name")
    holder.acquire()
    try:
        done = run(folder)
    finally:
        holder.close()
    told = message(done)
    assert done.returncode == 2 and f"is being written by process {os.getpid()} on " in told
    assert {path: path.read_bytes() for path in before} == before
    fault(
        "a second run resumes a folder that is being written",
        how="the lock is held by another process",
        happens="one message that names the process, exit 2",
        lost="nothing",
    )


def test_of_two_runs_that_start_at_one_instant_one_runs(run, tmp_path, fault):
    folder, meeting, ended = tmp_path / "run", tmp_path / "meeting", {}
    meeting.mkdir()

    def start(seed):
        ended[seed] = run(folder, f"at_once:{meeting}", settings={"seed": seed, "resume": "false"})

    threads = [threading.Thread(target=start, args=(seed,)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [seed for seed, done in ended.items() if done.returncode == 0]
    loser = ended[1 - winner]
    assert loser.returncode == 2 and re.search("is being written by|holds another run", message(loser))
    assert json.loads((folder / "summary.json").read_text())["seed"] == winner
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4]
    fault(
        "two runs start in one folder at the same instant",
        how="both wait for each other before they take it",
        happens="one runs, the other ends with one message, exit 2",
        lost="nothing",
    )


def test_a_full_cache_of_resized_pictures_is_told_once(run, tmp_path, fault):
    with small_disk(tmp_path / "disk", 1) as disk:
        if not os.path.ismount(disk):
            pytest.skip("nothing may be mounted here")
        fewer = {"data.cache": disk, "policy.max_pixels": "6000", "trainer.max_steps": "1"}
        done = run(tmp_path / "run", settings=fewer)
        assert done.returncode == 0, done.stderr[-3000:]
        (told,) = [line for line in done.stderr.splitlines() if "data.cache" in line]
        assert re.search(f"warning: no more resized pictures .*{FULL}.* bytes free", told)
        assert not list((disk / "unfinished").iterdir())
    fault(
        "the disk of data.cache is full",
        how="a file system of 1 MB",
        happens="one warning, and the run goes on without it, exit 0",
        lost="nothing",
    )


def test_drawing_the_demonstration_on_a_full_disk_leaves_nothing(tmp_path, fault, monkeypatch):
    monkeypatch.setattr(datasets, "TRAIN_DRAWN", 2)
    with small_disk(tmp_path / "disk", 1) as disk:
        if not os.path.ismount(disk):
            pytest.skip("nothing may be mounted here")
        with pytest.raises(UserError, match=f"demo_five cannot be drawn: .*{FULL}.* bytes free"):
            load_pictures("demo_five", disk / "demo_five")
        assert not list(disk.iterdir())
    fault(
        "the demonstration is drawn on a full disk",
        how="a file system of 1 MB",
        happens="one message with path and free bytes, exit 2; what was drawn is deleted",
        lost="nothing",
    )


def test_what_a_killed_process_was_drawing_is_deleted(tmp_path, fault):
    program = "import pathlib, sys; from vqr1.demo import datasets; datasets.TRAIN_DRAWN = 2; "
    program += "datasets.load_pictures('demo_five', pathlib.Path(sys.argv[1]))"
    drawing = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "demo_five"],
        env=environment(), stderr=subprocess.DEVNULL,
    )  # fmt: skip
    left = tmp_path / f".demo_five.{drawing.pid}"
    while not list(left.glob("*.png")):
        time.sleep(0.05)
        assert drawing.poll() is None
    os.utime(left, (0, 0))
    datasets._clear_abandoned(tmp_path / "demo_five")
    assert left.exists()  # while it is drawn
    os.kill(drawing.pid, signal.SIGKILL)
    drawing.wait()
    os.utime(left, (0, 0))  # seconds ago
    datasets._clear_abandoned(tmp_path / "demo_five")
    assert not list(tmp_path.iterdir())
    fault(
        "a process is killed while it draws the demonstration",
        how="SIGKILL",
        happens="the next one that reads it deletes what is left, by the lock that the dead one lost",
        lost="nothing",
    )


@pytest.fixture
def own_root(tmp_path, data_root):
    """A root of its own, to be changed."""
    shutil.copytree(data_root, tmp_path / "data")
    return tmp_path / "data"


def turned(root):
    """Every score of demo_five, best to worst."""
    labels = root / "demo_five" / "labels.json"
    stored = json.loads(labels.read_text())
    for row in stored["pictures"]:
        row["mos"] = 6 - row["mos"]
    labels.write_text(json.dumps(stored))


def exchanged(root):
    """The pictures of one file under another's name."""
    first, second = sorted((root / "demo_five").glob("train_*.png"))[:2]
    other = second.read_bytes()
    second.write_bytes(first.read_bytes())
    first.write_bytes(other)


@pytest.mark.parametrize(
    ("change", "said"),
    [(turned, r"\d+ of \d+ pictures are not as .* had score .* and has"), (exchanged, r"2 of \d+ .* another content")],
    ids=["scores", "pictures"],
)
def test_a_run_is_not_resumed_with_other_labels_or_pictures(run, undisturbed, tmp_path, own_root, fault, change, said):
    folder = shutil.copytree(undisturbed, tmp_path / "run")
    there = {"data.root": own_root, "trainer.max_steps": "6"}
    before = (folder / "metrics.jsonl").read_bytes()
    change(own_root)
    done = run(folder, settings=there)
    told = message(done)
    assert done.returncode == 2 and re.search(said, told), told
    assert (folder / "metrics.jsonl").read_bytes() == before
    fault(
        f"{'scores' if change is turned else 'pictures'} change between start and resume",
        how="every score is turned round" if change is turned else "two files are exchanged under their names",
        happens="one message that names the first, exit 2",
        lost="nothing",
    )


@pytest.mark.full
def test_a_picture_that_changes_while_a_run_trains_ends_it(run, tmp_path, own_root, fault):
    folder = tmp_path / "run"
    done = run(folder, f"replaced_pictures:2:{own_root / 'demo_five'}", settings={"data.root": own_root})
    told = message(done)
    assert done.returncode == 2 and "is another picture than when the run started" in told, told
    assert (folder / "checkpoint-2").is_dir()
    fault(
        "pictures are replaced while a run trains",
        how="every training picture is overwritten at step 2",
        happens="one message that names the first, exit 2",
        lost="the steps since the last checkpoint",
    )


@pytest.mark.full
@pytest.mark.parametrize("stream", ["full", "closed", "unread"])
def test_a_stderr_that_cannot_be_written_ends_no_run(data_root, undisturbed, tmp_path, fault, stream):
    folder = tmp_path / "run"
    settings = {**SHORT, "runs": tmp_path, "name": "run", "data.root": data_root}
    words = " ".join(f"'{word}'" for word in command(settings, scripted=True))
    behind = {"full": "2> /dev/full", "closed": "2>&-", "unread": "2>&1 >&3 | head -n 2 > /dev/null"}[stream]
    asked = f"set -o pipefail; exec 3>&1; {words} {behind}"
    done = subprocess.run(["bash", "-c", asked], capture_output=True, env=environment(), check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert learnt(folder) == learnt(undisturbed)
    fault(
        f"stderr is {'on a full disk' if stream == 'full' else stream if stream == 'closed' else 'read no more'}",
        how=behind,
        happens="the run goes on, exit 0",
        lost="the lines on the screen",
    )


@pytest.mark.full
@pytest.mark.parametrize("place", ["below a file", "with a long name", "read-only"])
def test_a_folder_that_cannot_be_made_is_one_message(run, tmp_path, disk, fault, place):
    (tmp_path / "file").touch()
    if place == "read-only":
        if not os.path.ismount(disk):
            pytest.skip("nothing may be mounted here")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    runs = {"below a file": tmp_path / "file", "with a long name": disk / ("a" * 300)}.get(place, disk)
    folder = runs / "run"
    done = run(folder)
    told = message(done)
    assert done.returncode == 2
    assert str(runs) in told and "bytes free" in told, told
    fault("the folder of a run cannot be made", how=place, happens="one message with the path, exit 2", lost="nothing")


@pytest.mark.full
@pytest.mark.parametrize("harm", ["removed", "read-only"])
def test_a_run_folder_that_is_lost_in_the_middle_is_one_message(run, undisturbed, disk, fault, harm):
    if not os.path.ismount(disk):
        pytest.skip("nothing may be mounted here")
    folder = disk / "run"

    def meanwhile(processes):
        while not (folder / "checkpoint-2").is_dir():
            time.sleep(0.002)
        if harm == "removed":
            os.kill(processes[0], signal.SIGSTOP)
            shutil.rmtree(folder)
            os.kill(processes[0], signal.SIGCONT)
        else:
            # Over itself, read-only: the file system below has a file open for writing, the lock.
            subprocess.run(["mount", "--bind", disk, disk], check=True)
            subprocess.run(["mount", "-o", "remount,bind,ro", disk], check=True)

    done = run(folder, meanwhile=meanwhile)
    told = message(done)
    assert done.returncode == 2 and str(folder) in told, told
    if harm == "removed":
        assert not folder.exists()
    else:
        subprocess.run(["umount", disk], check=True)
    assert run(folder).returncode == 0
    assert learnt(folder) == learnt(undisturbed)
    fault(
        f"the run folder is {harm} in the middle of a run",
        how="rm -r after the first checkpoint" if harm == "removed" else "it is mounted over itself so",
        happens="one message, exit 2; the same command "
        + ("begins anew" if harm == "removed" else "goes on from the last checkpoint"),
        lost="the run" if harm == "removed" else "the steps since the last checkpoint",
    )


@pytest.mark.full
def test_vqr1_evaluate_on_a_full_disk_goes_on(data_root, tmp_path, fault):
    asked = ["evaluate", "model=tiny", "data=[demo_five]", f"root={data_root}", "k=2", "max_tokens=8"]
    with small_disk(tmp_path / "disk", 1) as disk:
        if not os.path.ismount(disk):
            pytest.skip("nothing may be mounted here")
        fill(disk, 24_000)
        done = forked([*asked, f"folder={disk / 'result'}"])
        assert done.returncode == 2
        assert re.search(rf"{disk}.*{FULL}.* bytes free", message(done))
        free(disk)
        assert forked([*asked, f"folder={disk / 'result'}"]).returncode == 0
        assert forked([*asked, f"folder={tmp_path / 'result'}"]).returncode == 0
        results = [(place / "result" / "results.jsonl").read_bytes() for place in (disk, tmp_path)]
        assert results[0] == results[1]
    fault(
        "the disk is full while vqr1 evaluate rates",
        how="24 kB left",
        happens="one message with path and free bytes, exit 2; the same command goes on, to the same bytes",
        lost="nothing that was rated",
    )
