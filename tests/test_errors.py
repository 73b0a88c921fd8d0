"""What a user can put right is one message and exit code 2; a defect keeps its stack."""

from __future__ import annotations

import errno
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import environment, forked
from vqr1.cli import main, report_user_errors
from vqr1.command_options import Parser
from vqr1.errors import LaunchError, MissingFileError, UserError, file_trouble, memory_advice, show, show_stack
from vqr1.rollout.engine import RolloutError


def raising(error):
    def run():
        raise error

    return run


@pytest.mark.parametrize(
    "error",
    [
        UserError("k=0: set it to 1"),
        MissingFileError("labels.csv is missing"),
        RolloutError("lost"),
        LaunchError("a", 2),
    ],
)
def test_the_users_error_is_one_message(error, capsys, monkeypatch):
    with pytest.raises(SystemExit) as stop:
        report_user_errors("table", raising(error))
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"vqr1 table: {error}\n(VQR1_TRACEBACK=1 shows where)\n"
    monkeypatch.setenv("VQR1_TRACEBACK", "1")
    with pytest.raises(type(error)):
        report_user_errors("table", raising(error))


@pytest.mark.parametrize("kind", [UserError, MissingFileError])
def test_no_message_has_a_place_in_memory_which_is_another_in_each_process(kind):
    given = object(), print, raising(None)
    assert str(kind(f"a.npy: {given}")) == (
        "a.npy: (<object object>, <built-in function print>, <function raising.<locals>.run>)"
    )
    assert str(kind("register at 0x1f is 3")) == "register at 0x1f is 3"


@pytest.mark.parametrize(
    ("command", "stop", "told"),
    [
        ("train", KeyboardInterrupt("the same command goes on"), "interrupted; the same command goes on"),
        ("evaluate", KeyboardInterrupt(), "interrupted; the same command goes on"),
        ("table", KeyboardInterrupt(), "interrupted"),
    ],
)
def test_ctrl_c_is_one_line(command, stop, told, capsys):
    with pytest.raises(SystemExit) as ended:
        report_user_errors(command, raising(stop))
    assert ended.value.code == 130
    assert capsys.readouterr().err == f"\nvqr1 {command}: {told}\n"


def test_what_was_stopped_is_no_error(capsys):
    with pytest.raises(SystemExit) as ended:
        report_user_errors("train", raising(LaunchError("stopped; the same command goes on", 75)))
    assert (ended.value.code, capsys.readouterr().err) == (75, "vqr1 train: stopped; the same command goes on\n")


@pytest.mark.parametrize("error", [ValueError("deep"), KeyError("k"), RuntimeError("deep"), FileNotFoundError("deep")])
def test_a_defect_is_not_swallowed(error):
    with pytest.raises(type(error)) as raised:
        report_user_errors("table", raising(error))
    assert raised.value is error


HOSTILE, SHOWN = "\x1b]0;pwned\x07\x1b[31mred\x9b1m\r\udcff", r"\x1b]0;pwned\x07\x1b[31mred\x9b1m\r\udcff"


def test_control_characters_are_shown_and_lines_stay_lines(capsys):
    show(f"a\t{HOSTILE}", Path(HOSTILE), "\u4e2d\n", end="")
    assert capsys.readouterr().out == f"a\t{SHOWN}\n{SHOWN}\n\u4e2d\n"


def test_of_a_long_line_place_and_remedy_are_kept():
    said = str(UserError(f"ratings.csv, line 3: {'9' * 10**6}; correct the row\nthe next line"))
    first, second = said.splitlines()
    assert len(first) == 1500 and first.startswith("ratings.csv, line 3: 99") and first.endswith("99; correct the row")
    assert "9...9" in first and second == "the next line"
    assert str(MissingFileError("x" * 1500)) == "x" * 1500


def test_a_defects_stack_shows_them_too(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vqr1", HOSTILE])
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    with pytest.raises(SystemExit):
        main()
    assert f"no command is called {SHOWN}" in capsys.readouterr().err
    assert sys.excepthook is show_stack
    try:
        raise RuntimeError(HOSTILE)
    except RuntimeError as error:
        error.add_note("a note")
        show_stack(type(error), error, error.__traceback__)
    err = capsys.readouterr().err
    assert err.startswith("Traceback") and err.endswith(f"RuntimeError: {SHOWN}\na note\n")


@pytest.mark.parametrize("words", [[f"--{HOSTILE}"], ["a", HOSTILE]])
def test_words_that_argparse_repeats_are_shown(words, capsys):
    parser = Parser("vqr1 x")
    parser.add_argument("one")
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(words if len(words) > 1 else ["a", *words])
    err = capsys.readouterr().err
    assert ended.value.code == 2 and SHOWN in err and HOSTILE not in err


def test_the_kinds_are_what_callers_catch():
    assert issubclass(UserError, ValueError)
    assert issubclass(MissingFileError, FileNotFoundError) and issubclass(MissingFileError, UserError)
    assert issubclass(RolloutError, RuntimeError) and issubclass(RolloutError, UserError)
    assert str(pickle.loads(pickle.dumps(MissingFileError("a.png is missing")))) == "a.png is missing"  # from a pool
    assert (LaunchError("a", 3).exit_code, LaunchError("a", -9).exit_code) == (3, 1)


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


def caused(outer, inner):
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        ValueError("Free memory on device is less than desired GPU memory utilization (0.9, 71 GiB)"),
        ValueError("No available memory for the cache blocks. Try increasing `gpu_memory_utilization`"),
        caused(RuntimeError("engine core failed"), OutOfMemoryError("CUDA out of memory")),
    ],
)
def test_where_memory_ran_out_the_settings_that_help_stand_below_the_stack(error):
    with pytest.raises(type(error)) as raised:
        report_user_errors("train", raising(error))
    (note,) = raised.value.__notes__
    for setting in ("trainer.answers_per_device", "policy.gradient_checkpointing", "memory_share", "policy.max_pixels"):
        assert setting in note
    assert "max_pixels" in memory_advice("evaluate", error) and "trainer." not in memory_advice("evaluate", error)


def test_other_errors_get_no_advice():
    assert memory_advice("train", ValueError("shapes differ")) is None
    assert memory_advice("table", MemoryError()) is None


PROGRAM = """
import sys
from vqr1 import cli

def deep_inside(config):
    raise {error}

sys.argv = ["vqr1", *{words}]
cli.main(deep_inside)
"""


def program(folder, words, error):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(words=words, error=error)],
        capture_output=True, text=True, env=environment(), cwd=folder, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("error", ["ValueError('seven')", "KeyError('seven')", "MemoryError('seven')"])
def test_a_defect_of_a_run_has_its_stack_and_exit_code_1(tmp_path, error):
    done = program(tmp_path, ["train", "experiment=demo"], error)
    assert done.returncode == 1
    assert "in deep_inside" in done.stderr and "seven" in done.stderr
    assert "HYDRA_FULL_ERROR" not in done.stderr
    assert done.stderr.count("trainer.answers_per_device") == ("Memory" in error)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "reward=rank"], "Could not find 'reward/rank'"),
        (["train", "experiment=demo", "rollout.k=six"], "Value 'six' of type 'str' could not be converted to Integer"),
        (["train", "experiment=demo", "trainer.learning_rte=1"], "Could not override 'trainer.learning_rte'"),
        (["train", "seed=[1"], "seed=[1"),
        (["train", "experiment=demo", "name=${nothing}"], "nothing"),
        (["train", "policy=null"], "Config group override must be a string"),
        (
            ["train", "data=bid"],
            "policy= is missing. Choose from qwen2_5_vl_3b, qwen2_5_vl_7b, tiny; policy.path",
        ),
        (["train", "policy=tiny"], "data= is missing. data=NAME takes a dataset"),
        (["train", "-m", "experiment=demo", "seed=0,1", "rollout.k=1"], "set rollout.k to 2 or more"),
        (["evaluate", "model=tiny", "data=[bid]", "k=many"], "Value 'many' of type 'str' could not be converted"),
        (["evaluate", "model=tiny", "data=[bid]", "kk=2"], "Could not override 'kk'"),
    ],
)
def test_what_hydra_refuses_is_the_users_error(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    done = forked(words)
    assert done.returncode == 2
    assert message in done.stderr and f"vqr1 {words[0]}: " in done.stderr
    assert "Traceback" not in done.stderr and "starting" not in done.stderr


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            r"RUN: No space left on device \([\d,]+ bytes free\); free s",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "/nowhere/a/b"),
            r"/nowhere/a/b: Read-only .* \([\d,]+ bytes free",
        ),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/" + "a" * 300), r"/aaa.*: File name too long \("),
        (
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 1 vs 2"),
            r"RUN: could not be written:",
        ),
        (
            RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
            "RUN: could not be",
        ),
        (OSError("it does not appear to have a file named config.json"), "^it does not appear"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), r"^\[Errno \d+\] Connection refused$"),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out", "/mount/a"), r"^/mount/a: Connection timed out \("),
        (RuntimeError("can't start new thread"), r"no more processes or threads .*may have [\w,]+ .*\(ulimit -u\)"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "no more processes or threads"),  # os.fork
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable", "/a"), "/a: Resource temporarily"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_what_goes_wrong_with_a_file_names_it_and_the_space_left(tmp_path, error, told):
    assert re.match(told.replace("RUN", str(tmp_path)), file_trouble(error, tmp_path))


def test_a_file_or_a_disk_is_one_message_of_every_command(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        report_user_errors("table", raising(PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "a"))))
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert re.fullmatch(rf"vqr1 table: {tmp_path}/a: Permission denied \([\d,]+ bytes free\)\n\(VQR1_.*\)\n", told)
    with pytest.raises(SystemExit):
        report_user_errors("table", raising(OSError(errno.ENOSPC, "No space left on device")))
    assert "the working folder: No space left on device" in capsys.readouterr().err


OF_TABLE = "import sys; from vqr1 import cli; cli.report_user_errors('table', lambda: {})"
PROGRAMS = {
    "much": OF_TABLE.format("print('x' * 100_000)"),
    "little": OF_TABLE.format("print('x')"),
    "and exits": OF_TABLE.format("(print('x'), sys.exit(0))"),
    "help": "import sys; from vqr1 import cli; sys.argv[1:] = ['--help']; cli.main()",
}


@pytest.mark.parametrize("said", PROGRAMS)
@pytest.mark.parametrize(("behind", "code", "told"), [("| true", 141, ""), ("> /dev/full", 2, "vqr1 .*No space")])
def test_where_nobody_reads_the_output_a_command_ends(said, behind, code, told):
    program = f"import time; time.sleep(0.1); {PROGRAMS[said]}"  # when the reader has gone
    asked = f'set -o pipefail; {sys.executable} -c "{program}" {behind}'
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=False, env=buffered)
    assert done.returncode == code and re.match(told, done.stderr), done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr and (told or not done.stderr)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OSError(errno.ENOMEM, "Cannot allocate memory")])
def test_other_errors_keep_their_stack(tmp_path, error):
    assert file_trouble(error, tmp_path) is None
