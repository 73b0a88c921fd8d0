"""What a run shows: lines or a bar, and what becomes of it where nobody reads it any more."""

import io
import os
import shlex
import subprocess
import sys

import pytest

from vqr1.config import ScreenKind
from vqr1.screen import Screen, duration
from vqr1.standard_streams import LastingStream

SAYS = """
import sys
from vqr1.config import ScreenKind
from vqr1.screen import Screen
from vqr1.standard_streams import outlast_stderr
outlast_stderr()
screen = Screen(ScreenKind.{kind}, True)
for step in range(1, 2000):
    screen.step(step, 2000, "step " + "x" * 100)
screen.close()
print("ended")
"""


def says(kind, stderr):
    return subprocess.run(
        [sys.executable, "-c", SAYS.format(kind=kind)], stdout=subprocess.PIPE, stderr=stderr, text=True, check=False
    )


@pytest.mark.parametrize("kind", ["lines", "bar"])
def test_a_full_disk_behind_stderr_ends_nothing(kind):
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = says(kind, full)
    assert (done.returncode, done.stdout) == (0, "ended\n")


def test_a_reader_that_goes_away_ends_nothing():
    reading, writing = os.pipe()
    os.close(reading)
    done = says("lines", writing)
    os.close(writing)
    assert (done.returncode, done.stdout) == (0, "ended\n")


def test_a_stream_without_a_file_may_be_lost_too():
    class Lost(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    stream = LastingStream(Lost())
    assert stream.write("a") == stream.write("b") == 1
    stream.flush()


def spoken(kind, shown, capsys):
    screen = Screen(kind, shown)
    with screen.count("checking 3 pictures", 3, "pictures") as advance:
        advance(2)
        advance(1)
    screen.note("loading the policy")
    for step in (1, 2):
        screen.step(step, 2, f"step {step}/2  reward 1.000")
    screen.close()
    screen.say("warning: look")
    return capsys.readouterr().err


def test_lines_are_plain(capsys):
    text = spoken(ScreenKind.lines, True, capsys)
    assert text.splitlines() == [
        "checking 3 pictures",
        "loading the policy",
        "step 1/2  reward 1.000",
        "step 2/2  reward 1.000",
        "warning: look",
    ]


def test_what_is_no_terminal_gets_lines(capsys):
    assert spoken(ScreenKind.auto, True, capsys) == spoken(ScreenKind.lines, True, capsys)


def test_a_bar_has_count_and_rate_and_one_line_for_all_steps(capsys):
    text = spoken(ScreenKind.bar, True, capsys)
    assert "checking 3 pictures: " in text and "/3 [" in text
    assert "step 2/2  reward 1.000" in text
    assert text.count("\n") == 3  # the policy, the steps, the warning


def test_quiet_says_warnings_only(capsys):
    assert spoken(ScreenKind.quiet, True, capsys) == "warning: look\n"


@pytest.mark.parametrize("kind", ScreenKind)
def test_only_one_process_speaks(kind, capsys):
    assert spoken(kind, False, capsys) == ""


def test_a_long_stage_says_how_far_it_is(capsys, monkeypatch):
    clock = iter([0.0, 10.0, 22.0, 23.0])
    monkeypatch.setattr("vqr1.screen.time.perf_counter", lambda: next(clock))
    with Screen(ScreenKind.lines, True).count("checking 400 pictures", 400, "pictures") as advance:
        for _ in range(3):
            advance(110)
    assert capsys.readouterr().err.splitlines()[1:] == ["  220 of 400 pictures, 10.0 a second, 18 s left"]


def test_a_name_cannot_steer_the_terminal(capsys):
    Screen(ScreenKind.lines, True).say("\x1b]0;owned\x07red\nnext")
    assert capsys.readouterr().err == r"\x1b]0;owned\x07red" + "\nnext\n"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (600, "10 min"), (7500, "2 h 05 min")])
def test_times_are_short(seconds, text):
    assert duration(seconds) == text


def test_streams_that_are_closed_go_nowhere_and_give_no_file_their_number(tmp_path):
    program = (
        "import os, sys; from vqr1.standard_streams import open_streams; open_streams()\n"
        f"file = open({str(tmp_path / 'a')!r}, 'w'); print('lost'); print('lost', file=sys.stderr)\n"
        "os.write(2, b'lost'); os.system('echo lost >&2'); file.write(f'{file.fileno() > 2} {sys.stdin.read()}')"
    )
    asked = f"{sys.executable} -c {shlex.quote(program)} <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", asked], check=False).returncode == 0
    assert (tmp_path / "a").read_text() == "True "
