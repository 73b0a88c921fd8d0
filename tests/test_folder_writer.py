"""One writer to a folder, whole files and whole lines."""

import errno
import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys

import pytest

from vqr1 import folder_writer
from vqr1.folder_writer import FolderWriter, put_in_place, read_json_lines, replaced, this_process

HOLD = """
import sys, time
from pathlib import Path
from vqr1.folder_writer import FolderWriter

writer = FolderWriter(Path(sys.argv[1]), "name")
writer.acquire()
"""
WAIT = "print('held', flush=True)\ntime.sleep(100)\n"
FORK = "import os\nif os.fork() == 0:\n    print(os.getpid(), flush=True)\n    time.sleep(100)\ntime.sleep(100)\n"
SPAWN = (
    "import subprocess\nprint(subprocess.Popen(['sleep', '100'], close_fds=False).pid, flush=True)\ntime.sleep(100)\n"
)


@pytest.fixture
def holder(tmp_path):
    """Starts a process that holds the folder; gives it and the line that it prints."""
    started = []

    def start(what, **environment):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD + what, str(tmp_path / "run")],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        started.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def writer_of(path):
    return FolderWriter(path, "name")


def test_a_second_writer_is_told_who_holds_the_folder(tmp_path, holder):
    process, _ = holder(WAIT, SLURM_JOB_ID="4711")
    told = rf"is being written by process {process.pid} on .*, job 4711; wait until it has ended, or give another name="
    with pytest.raises(ValueError, match=told):
        writer_of(tmp_path / "run").acquire()
    with pytest.raises(ValueError, match=told):
        writer_of(tmp_path / "run").refuse_held()
    process.kill()
    process.wait()
    writer = writer_of(tmp_path / "run")
    writer.refuse_held()
    writer.acquire()  # a process that was killed holds nothing
    assert (tmp_path / "run" / "lock").read_text() == f"{this_process()}\n"
    writer.close()


@pytest.mark.parametrize("child", [FORK, SPAWN])
def test_children_do_not_keep_the_lock(tmp_path, holder, child):
    process, pid = holder(child)
    with pytest.raises(ValueError, match="is being written"):
        writer_of(tmp_path / "run").acquire()
    process.kill()
    process.wait()
    os.kill(int(pid), 0)  # the child lives on
    try:
        writer = writer_of(tmp_path / "run")
        writer.acquire()
        writer.close()
    finally:
        os.kill(int(pid), signal.SIGKILL)


def test_a_child_that_ends_takes_no_lock_from_its_parent(tmp_path):
    writer = writer_of(tmp_path)
    writer.acquire()
    child = multiprocessing.get_context("fork").Process(target=writer.close)
    child.start()
    child.join()
    assert child.exitcode == 0
    with pytest.raises(ValueError, match="is being written"):
        writer_of(tmp_path).acquire()
    writer.close()
    writer.close()  # does nothing
    writer_of(tmp_path).refuse_held()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_warned_of_once(tmp_path, monkeypatch, capsys, number):
    def flock(file, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    writer = writer_of(tmp_path)
    writer.refuse_held()
    writer.acquire()
    writer.append("rows.jsonl", "{}\n")
    writer.close()
    assert capsys.readouterr().err.count("warning: the file system of") == 1


def test_any_other_failure_of_the_lock_is_one(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="broken"):
        writer_of(tmp_path).acquire()


def test_looking_leaves_no_trace(tmp_path):
    writer_of(tmp_path / "run").refuse_held()
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").write_text("")
    writer_of(tmp_path / "file").refuse_held()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    writer_of(tmp_path).write_text("a", "old")

    def interrupted():
        with replaced(tmp_path / "a") as new:
            new.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "a").read_text() == "old"
    writer_of(tmp_path).write_text("a", "new")
    assert (tmp_path / "a").read_text() == "new"
    assert {path.name for path in tmp_path.iterdir()} == {"a"}


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    writer = writer_of(tmp_path)
    writer.append("rows.jsonl", '{"a": 1}\n')
    write, left = os.write, [4, 0]

    def fills(file, content):
        if not (room := left.pop(0)):
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        return write(file, content[:room])

    monkeypatch.setattr(folder_writer.os, "write", fills)
    with pytest.raises(OSError, match="Disk quota exceeded: '.*rows.jsonl'"):
        writer.append("rows.jsonl", '{"a": 2}\n')
    assert (tmp_path / "rows.jsonl").read_text() == '{"a": 1}\n'
    left[:] = [4, 9]
    writer.append("rows.jsonl", '{"a": 3}\n')
    assert (tmp_path / "rows.jsonl").read_text() == '{"a": 1}\n{"a": 3}\n'


def test_lines_are_read_without_a_torn_last_one(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert read_json_lines(path) == []
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n{"a": "\xc3')
    assert read_json_lines(path) == [{"a": 1}, {"a": 2}]
    path.write_bytes(b'{"a": 1}\n{"a": "\xc3\n{"a": 2}\n')
    with pytest.raises(ValueError, match=r"rows.jsonl, line 2: not JSON"):
        read_json_lines(path)


def test_an_error_that_names_no_file_gets_a_name(tmp_path, monkeypatch):
    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = FolderWriter(tmp_path, "name")
    monkeypatch.setattr(os, "fsync", full)
    for write in (lambda: writer.append("a.jsonl", "{}\n"), lambda: writer.write_text("a.jsonl", "{}")):
        with pytest.raises(OSError, match="No space left on device: '.*a.jsonl") as failure:
            write()
        assert failure.value.filename.startswith(f"{tmp_path}/a.jsonl")
    with pytest.raises(ZeroDivisionError), replaced(tmp_path / "b"):
        raise ZeroDivisionError


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_only_a_file_system_that_cannot_sync_is_forgiven(tmp_path, monkeypatch, number):
    def fails(file):
        raise OSError(number, os.strerror(number))

    (tmp_path / "a.new").write_text("new")
    monkeypatch.setattr(os, "fsync", fails)
    if number == errno.EINVAL:
        put_in_place(tmp_path / "a")
        assert (tmp_path / "a").read_text() == "new"
    else:
        with pytest.raises(OSError, match="Input/output error"):
            put_in_place(tmp_path / "a")
        assert not (tmp_path / "a").exists()
