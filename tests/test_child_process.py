"""Processes that are started: signals reach them, they end with their parent, and they say why they failed."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from vqr1 import child_process
from vqr1.child_process import FAILURE, PARENT, Starter, end_with_parent, report_failure

READY = "import os, signal, sys, time; from pathlib import Path; here = Path(sys.argv[1]);"
# Leaves its number, and ends with 75 when it is told to.
LEAVES = (
    READY + "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75));"
    "from vqr1.child_process import end_with_parent, report_failure; end_with_parent();"
    "(here / str(os.getpid())).touch()\n"
    "try:\n  time.sleep(30)\n"
    "except SystemExit:\n  report_failure(75, 'stopped, saved\\nmore'); raise\n"
)
# As torchrun does: two ranks, and exit code 1 whatever theirs was.
LAUNCHER = (
    READY + "import subprocess; (here / 'launcher').write_text(str(os.getpid()));"
    "ranks = [subprocess.Popen([sys.executable, '-c', sys.argv[2], sys.argv[1]]) for _ in range(2)];"
    "sys.exit(any([rank.wait() for rank in ranks]))"
)


def when(ready, act, seconds=20):
    """In the background, for the signal has to come while the main thread waits."""

    def watch():
        end = time.monotonic() + seconds
        while not ready() and time.monotonic() < end:
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def ranks(folder):
    return [int(path.name) for path in folder.iterdir() if path.name.isdigit()]


@pytest.fixture
def starter():
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    with Starter() as made:
        yield made
    assert before == {each: signal.getsignal(each) for each in before}


def test_how_a_process_ended_is_known(starter):
    for code, expected, line in (
        ("sys.exit(0)", 0, ""),
        ("sys.exit(3)", 3, "exit code 3"),
        ("os.kill(os.getpid(), 9)", 137, "killed by SIGKILL"),
    ):
        ended = starter.run([sys.executable, "-c", f"import os, sys; {code}"])
        assert (ended.code, ended.line) == (expected, line)


def test_a_signal_is_passed_on_and_the_reason_comes_back(starter, tmp_path):
    when(lambda: ranks(tmp_path), lambda: os.kill(os.getpid(), signal.SIGTERM))
    ended = starter.run([sys.executable, "-c", LEAVES, str(tmp_path)])
    assert (ended.code, ended.line, starter.received) == (75, "stopped, saved", signal.SIGTERM)


def test_the_ranks_of_a_launcher_get_the_signal_themselves(starter, tmp_path):
    when(lambda: len(ranks(tmp_path)) == 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    ended = starter.run([sys.executable, "-c", LAUNCHER, str(tmp_path), LEAVES], ranks=True)
    assert (ended.code, ended.line) == (75, "stopped, saved")  # not the launcher's 1, nor a signal's


def test_ranks_end_with_a_launcher_that_is_killed(starter, tmp_path):
    when(lambda: len(ranks(tmp_path)) == 2, lambda: os.kill(int((tmp_path / "launcher").read_text()), signal.SIGKILL))
    ended = starter.run([sys.executable, "-c", LAUNCHER, str(tmp_path), LEAVES], ranks=True)
    assert ended.line == "killed by SIGKILL"
    end = time.monotonic() + 5
    for rank in ranks(tmp_path):
        while Path(f"/proc/{rank}/cmdline").is_file() and Path(f"/proc/{rank}/cmdline").read_bytes():
            assert time.monotonic() < end
            time.sleep(0.01)


def test_what_a_process_leaves_that_ends_by_itself_is_a_code_alone(starter):
    leaves = "import os; open(os.environ['VQR1_FAILURE'], 'w').write('1 some have no score')"
    ended = starter.run([sys.executable, "-c", leaves])
    assert (ended.code, ended.line) == (1, "")


def test_a_process_that_is_stopped_before_it_can_say_so_was_stopped(starter, tmp_path):
    when(lambda: (tmp_path / "here").is_file(), lambda: os.kill(os.getpid(), signal.SIGUSR1))
    code = f"import time; open({str(tmp_path / 'here')!r}, 'w'); time.sleep(30)"
    assert starter.run([sys.executable, "-c", code]).code == 75


def test_the_first_of_several_ranks_is_the_cause(tmp_path, monkeypatch):
    monkeypatch.setenv(FAILURE, str(tmp_path / "failure"))
    report_failure(2, "\nwrong setting\nmore")
    report_failure(1, "connection lost")
    assert (tmp_path / "failure").read_text() == "2 wrong setting"
    monkeypatch.delenv(FAILURE)
    report_failure(1, "nobody asks")


def test_a_parent_that_is_gone_already_ends_the_process(monkeypatch):
    process = os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ)
    os.waitpid(process, 0)
    monkeypatch.setenv(PARENT, str(process))
    monkeypatch.setattr("vqr1.child_process.sys.platform", "other")  # or this test would end with its parent
    with pytest.raises(SystemExit):
        end_with_parent()
    monkeypatch.setenv(PARENT, str(os.getpid()))
    end_with_parent()
    assert PARENT not in os.environ


@pytest.mark.parametrize("left", ["", "7", "no number"])
def test_a_reason_that_was_cut_is_none(starter, left):
    """By a full disk, or by a kill between the making of the file and its writing."""
    leaves = (
        f"import os, sys; from pathlib import Path; Path(os.environ['{FAILURE}']).write_text('{left}'); sys.exit(3)"
    )
    ended = starter.run([sys.executable, "-c", leaves])
    assert (ended.code, ended.line) == (3, "exit code 3")


def test_a_reason_that_no_disk_takes_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv(FAILURE, str(tmp_path / "failure"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        report_failure(2, "no space left")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "failure").read_text()


def test_children_of_a_process_that_has_just_ended_are_none(monkeypatch):
    gone = Path("/proc/0/task/0/children")
    monkeypatch.setattr(Path, "glob", lambda *_: [gone])
    assert child_process._children(1) == []
