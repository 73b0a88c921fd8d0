"""The GPU check: parts that fail, overrun or are killed, starts that go on, and the words of every part."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch

from vqr1.bench import demonstration, gpu, step, train
from vqr1.bench.parts import Part, alone, run_parts

WRITE = "import json, pathlib; pathlib.Path(r'{result}').write_text(json.dumps({{'n': 7}}))"


def part(name, code, limit=20.0, expected=1.0, missing=lambda: None):
    return Part(name, ["-c", code], expected, limit, lambda found: {"n": str(found["n"])}, missing)


GOOD = part("good", f"print('hello'); {WRITE}")
LATER = part("later", WRITE)


def run(parts, tmp_path, out="out", **more):
    said = []
    finished = run_parts(parts, tmp_path / out, tmp_path / "state", minutes=5, say=said.append, **more)
    rows = [json.loads(line) for line in (tmp_path / out / "gpu.jsonl").read_text().splitlines()]
    return finished, rows, (tmp_path / out / "gpu.md").read_text()


def test_what_fails_overruns_or_is_killed_stops_nothing_and_is_tried_again(tmp_path):
    fails = part("fails", "import sys; print('the reason'); sys.exit(3)")
    slow = part("slow", f"{WRITE}; import subprocess, time; subprocess.Popen(['sleep', '600']); time.sleep(600)", 1.0)
    killed = part("killed", "import os; os.kill(os.getpid(), 9)")
    silent = part("silent", "pass")
    began = time.monotonic()
    finished, rows, table = run([fails, slow, killed, silent, GOOD], tmp_path)
    assert not finished and time.monotonic() - began < 20
    assert [(row["part"], row["status"]) for row in rows] == [
        ("fails", "failed with exit code 3"),
        ("slow", "overran its limit of 1 s"),
        ("killed", "killed by SIGKILL"),
        ("silent", "failed: it wrote no result"),
        ("good", "ok"),
    ]
    assert rows[4]["result"] == rows[1]["result"] == {"n": 7}  # also of what was stopped behind its result
    assert "    the reason" in table and "| good | ok |" in table
    with tarfile.open(tmp_path / "out" / "logs.tar.gz") as tar:
        assert {"fails.log", "good.log", "good.json"} <= set(tar.getnames())
        assert b"hello" in tar.extractfile("good.log").read()

    once = tmp_path / "state" / "good.json"
    before = once.stat().st_mtime_ns
    finished, rows, table = run([part("fails", WRITE), part("slow", WRITE), GOOD], tmp_path)
    assert finished and once.stat().st_mtime_ns == before
    assert [row["part"] for row in rows[5:]] == ["fails", "slow"] and "the reason" not in table


def test_nothing_that_a_part_started_is_left(tmp_path):
    leaves = "import subprocess, pathlib; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); "
    run([part("leaves", leaves + WRITE)], tmp_path)
    pid = int((tmp_path / "state" / "leaves.log").read_text().split()[-1])
    until = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":  # ended, and its new parent has not looked yet
            return
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


def test_an_earlier_machines_results_count(tmp_path):
    run([GOOD], tmp_path, out="first")
    (tmp_path / "state").rename(tmp_path / "gone")
    finished, rows, table = run([GOOD, LATER], tmp_path, done=tmp_path / "first" / "gpu.jsonl")
    assert finished and [row["part"] for row in rows] == ["good", "later"]
    assert rows[0]["result"] == {"n": 7} and table.count("| ok |") == 2
    with pytest.raises(ValueError, match="no such file"):
        run([GOOD], tmp_path, done=tmp_path / "none.jsonl")


def test_the_output_folder_may_be_emptied_between_starts(tmp_path):
    run([GOOD], tmp_path, out="first")
    finished, rows, _ = run([GOOD, LATER], tmp_path, out="second")
    assert finished and [row["part"] for row in rows] == ["good", "later"]


def test_what_does_not_fit_or_cannot_run_is_listed(tmp_path):
    long = part("long", WRITE, expected=1000)
    lacks = part("lacks", WRITE, missing=lambda: "needs a GPU of 80 GB, this one has 16 GB")
    finished, rows, table = run([long, lacks, GOOD], tmp_path)
    assert not finished and [row["status"] for row in rows] == ["not begun", "left out", "ok"]
    assert "needs about 1000 s, 300 s are left" in table and "this one has 16 GB" in table


def test_a_row_that_was_cut_off_is_no_row(tmp_path):
    run([GOOD], tmp_path)
    with (tmp_path / "state" / "gpu.jsonl").open("a") as file:
        file.write('{"part": "later", "sta')
    finished, _, _ = run([GOOD, LATER], tmp_path)
    assert finished


def test_two_starts_in_one_folder_are_refused(tmp_path):
    with alone(tmp_path / "state"), pytest.raises(ValueError, match=f"in use by process {os.getpid()}"):
        run([GOOD], tmp_path)
    assert run([GOOD], tmp_path)[0]  # and the folder is free again


def test_a_full_disk_is_said_and_the_next_part_runs(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "gpu.jsonl").symlink_to("/dev/full")
    said = []
    run_parts([GOOD, LATER], tmp_path / "out", tmp_path / "state", minutes=5, say=said.append)
    assert sum("No space left on device" in line for line in said) == 2
    kept = (tmp_path / "state" / "gpu.jsonl").read_text().splitlines()
    assert [json.loads(line)["status"] for line in kept] == ["ok", "ok"]


def test_a_result_of_another_form_spoils_no_table(tmp_path):
    odd = Part("odd", ["-c", WRITE], 1.0, 20.0, lambda found: {"missing": found["nothing"]})
    assert "incomplete: KeyError('nothing')" in run([odd, GOOD], tmp_path)[2]


@pytest.mark.parametrize(("device", "shape"), [("cuda", "3b"), ("cpu", "tiny")])
def test_every_part_names_a_module_and_words_that_it_takes(device, shape, tmp_path, monkeypatch):
    parts = gpu.gpu_parts(device, shape, tmp_path)
    assert [p.name for p in parts][:4] == ["machine", "tests", "vision", "train"]
    assert ("zero3" in {p.name for p in parts}) == (device == "cuda")
    for each in parts:
        assert each.words[0] == "-m" and each.expected < each.limit
        assert any("{result}" in word for word in each.words), each.name
        assert each.expected + 60 < 600, f"{each.name} does not fit a call of ten minutes"


def test_a_machine_without_a_gpu_is_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--out", str(tmp_path)]) == 2
    assert "--device cpu --shape tiny" in capsys.readouterr().err

    def old_driver():
        import warnings

        warnings.warn("The NVIDIA driver on your system is too old (found version 11040)", stacklevel=2)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", old_driver)
    assert gpu.main(["--out", str(tmp_path)]) == 2
    assert "too old (found version 11040)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "cpu", "--shape", "3b"], "needs a GPU"),
        (["--device", "cpu", "--only", "nothing"], "choose from machine, tests"),
        (["--device", "cpu", "--done", "/nowhere/gpu.jsonl", "--only", "machine"], "no such file"),
    ],
)
def test_a_wrong_start_is_refused(words, message, capsys, tmp_path):
    assert gpu.main([*words, "--out", str(tmp_path / "out"), "--state", str(tmp_path / "state")]) == 2
    assert message in capsys.readouterr().err


def test_needs_are_looked_at(monkeypatch, tmp_path):
    assert gpu._missing(0, 0, None, tmp_path) is None
    assert gpu._missing(0, 0, "no_such_module", tmp_path) == "no_such_module is not installed"
    assert "root of a checkout" in gpu._missing(0, 0, "tests/none.py", tmp_path)
    assert "GB of disk" in gpu._missing(0, 1e9, None, tmp_path / "not" / "yet")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: type("Card", (), {"total_memory": 16e9}))
    assert gpu._missing(40, 0, None, tmp_path) == "needs a GPU of 40 GB, this one has 16 GB"


def test_an_interrupted_part_ends_and_the_next_start_goes_on(tmp_path):
    """Ctrl-C in the middle: the process ends with what it started, and what was finished is kept."""
    script = f"""
import signal; from pathlib import Path; from vqr1.bench.parts import Part, run_parts
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where these tests are started in the background
sleeps = "print('asleep', flush=True); import time; time.sleep(600)"
codes = dict(good={WRITE!r}, sleeps=sleeps)
parts = [Part(name, ["-c", code], 1.0, 300.0, lambda found: {{}}) for name, code in codes.items()]
run_parts(parts, Path(r"{tmp_path / "out"}"), Path(r"{tmp_path / "state"}"), minutes=10)
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parent.parent)
    try:
        log, until = tmp_path / "state" / "sleeps.log", time.monotonic() + 60
        while not (log.is_file() and log.read_text().endswith("asleep\n")) and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(2)
        assert process.wait(60) == 0
    finally:
        process.kill()
    finished, rows, _ = run([GOOD, part("sleeps", WRITE)], tmp_path)
    assert finished and [row["status"] for row in rows] == ["ok", "interrupted", "ok"]


def test_the_stopwatch_charges_each_its_own_share():
    now = 0.0

    class Work:
        def inner(self):
            nonlocal now
            now += 3

        def outer(self):
            nonlocal now
            now += 1
            self.inner()
            now += 5

    watch = step.Stopwatch(lambda: now)
    watch.watch(Work, "inner", lambda: "within")
    watch.watch(Work, "outer", "around")
    Work().outer()
    assert watch.seconds == {"around": 6.0, "within": 3.0}
    watch.clear()
    Work().inner()
    assert watch.seconds == {"within": 3.0}


def test_the_pictures_are_a_dataset_of_ones_own(tmp_path):
    from vqr1.data import read_dataset

    step.write_dataset(tmp_path, (112, 84))
    splits = read_dataset(step.DATASET, tmp_path)
    assert len(splits.train) == step.PICTURES and not splits.test
    step.write_dataset(tmp_path, (112, 84))  # once is enough


def test_runs_are_compared_metric_by_metric():
    one = [{"step": 1, "train/loss": 1.0, "a": 2.0}, {"step": 2, "train/loss": 1.0, "a": None}]
    other = [{"step": 1, "train/loss": 1.0, "a": 2.0}, {"step": 2, "train/loss": 1.01, "a": 3.0}]
    assert demonstration.apart(one, other, range(2)) == {"largest": 0.0, "metric": None, "step": None}
    found = demonstration.apart(one, other, range(3))
    assert (found["metric"], found["step"]) == ("train/loss", 2) and found["largest"] == pytest.approx(0.01 / 1.01)


def test_the_kernels_operations_are_torchs():
    """torch's own count, from 2.13 on, and the count of the matrix products segment by segment."""
    from torch.utils.flop_counter import FlopCounterMode

    ends_q, ends_k = torch.tensor([0, 3, 7, 9]), torch.tensor([0, 3, 10, 15])
    q, k = torch.randn(9, 4, 8), torch.randn(15, 2, 8)
    ours = train.kernel_operations(q, ends_q, ends_k, 2)
    with FlopCounterMode(display=False) as counter:
        for n in range(3):
            heads = q[ends_q[n] : ends_q[n + 1]].transpose(0, 1)[None]
            keys = k[ends_k[n] : ends_k[n + 1]].transpose(0, 1)[None].repeat_interleave(2, 1)
            (heads @ keys.transpose(2, 3)) @ keys  # what attention multiplies
    assert ours == counter.get_total_flops()
    import torch.utils.flop_counter as counters

    theirs = getattr(counters, "_varlen_attn_forward_flop", None)
    if theirs is not None:
        assert ours == theirs(q, k, k, ends_q, ends_k, 4, 7)
        back = counters._varlen_attn_backward_flop(q, q, k, k, q, None, ends_q, ends_k, 4, 7)
        assert train.kernel_operations(q, ends_q, ends_k, 5) == back


def test_the_lock_file_is_free_after_a_killed_start(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    (state / "lock").write_text("999999")  # of a process that was killed: the kernel has given its lock back
    with alone(state), (state / "lock").open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
