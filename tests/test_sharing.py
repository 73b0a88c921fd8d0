"""Pictures shared out over processes: the order, the end of all with one, the GPUs of each, and the same files."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.distributed import HashStore
from torch.distributed.run import get_args_parser

from tests.support.runs import environment, forked
from vqr1 import sharing
from vqr1.child_process import FAILURE, PLACE, SHARED
from vqr1.errors import LaunchError, UserError
from vqr1.rating import command
from vqr1.rating.rater import Rater
from vqr1.scoring import evaluate
from vqr1.scoring.settings import EvaluateConfig
from vqr1.sharing import Ranks, joined, start_ranks, take_gpus
from vqr1.slots import VISIBLE

DOCUMENT = Path(__file__).parents[1] / "docs" / "rating.md"
VARIABLES = (*PLACE, FAILURE, SHARED, VISIBLE)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def together(of, act):
    """What ``act`` gives or raises on each of ``of`` ranks, which are threads here."""
    store = HashStore()

    def one(number):
        try:
            return act(Ranks(number, of, store))
        except (UserError, RuntimeError, SystemExit) as error:
            sharing._say_ended(Ranks(number, of, store))
            return error

    with ThreadPoolExecutor(of) as threads:
        return list(threads.map(one, range(of)))


# What ranks do together


@pytest.mark.parametrize("of", [1, 2, 3])
@pytest.mark.parametrize("number", [0, 1, 2, 5, 6, 7])
def test_the_first_gets_everything_in_order_and_each_is_made_once(of, number):
    batches = [f"batch {i}" for i in range(number)]
    made = []

    def act(ranks):
        def work(mine):
            for batch in mine:
                time.sleep(0.01 * (ranks.number == 0))  # the others are ahead
                made.append(batch)
                yield batch.upper()

        return list(ranks.shared(batches, work)), ranks.gathered(ranks.number)

    (first, numbers), *others = together(of, act)
    assert first == [batch.upper() for batch in batches]
    assert numbers == list(range(of))
    assert others == [([], [])] * (of - 1)
    assert sorted(made) == batches


def test_what_the_first_finds_is_told_and_it_goes_before_the_others():
    done = []

    def act(ranks):
        told = ranks.by_first(lambda: {"rated": ranks.number})
        return told, ranks.first_before_others(lambda: done.append(ranks.number))

    assert together(3, act) == [({"rated": 0}, None)] * 3
    assert done[0] == 0 and sorted(done) == [0, 1, 2]


@pytest.mark.parametrize("do", [Ranks.by_first, Ranks.first_before_others])
def test_where_the_first_is_refused_the_others_end_without_a_word(do):
    def refuse():
        raise UserError("there already")

    first, *others = together(3, lambda ranks: do(ranks, refuse))
    assert str(first) == "there already"
    assert [(type(other), other.code) for other in others] == [(SystemExit, 1)] * 2


def test_with_one_that_fails_all_end_and_what_was_whole_is_there():
    got, whole = [], threading.Event()

    def act(ranks):
        def work(mine):
            for batch in mine:
                if batch == 4:
                    assert whole.wait(30)  # of what no other has made yet there is nothing
                    raise RuntimeError("no memory")
                yield batch

        for each in ranks.shared(range(9), work):
            got.append(each)
            if len(got) == 3:
                whole.set()

    first, second, third = together(3, act)
    assert isinstance(first, LaunchError) and first.exit_code == 1
    assert str(first) == "process 1 of 3 has failed and says why; the same command goes on"
    assert str(second) == "no memory"
    assert third is None or isinstance(third, SystemExit)  # as far as it was
    assert got == [0, 1, 2]


@pytest.mark.parametrize(("pictures", "most", "of", "batch"), [(500, 192, 4, 125), (500, 32, 4, 32), (1, 8, 4, 1)])
def test_every_process_has_a_part(pictures, most, of, batch):
    assert Ranks(0, of).at_once(pictures, most) == batch


def test_failed_pictures_are_told_to_the_command_and_not_to_the_launcher(tmp_path, monkeypatch):
    assert Ranks(0, 1).exit_code(1) == Ranks(0, 2).exit_code(1) == 1
    assert Ranks(1, 2).exit_code(1) == 0
    monkeypatch.setenv(FAILURE, str(tmp_path / "failure"))
    monkeypatch.setenv(SHARED, "1")
    assert Ranks(0, 2).exit_code(0) == 0 and not (tmp_path / "failure").exists()
    assert Ranks(0, 2).exit_code(1) == 0
    assert (tmp_path / "failure").read_text() == "1 "


# The GPUs of a process, and how many are started


@pytest.mark.parametrize(("local", "each", "seen"), [(0, 1, "3"), (1, 1, "GPU-5a"), (0, 2, "3,GPU-5a"), (1, 2, "7,1")])
def test_each_sees_gpus_of_its_own(monkeypatch, local, each, seen):
    monkeypatch.setenv(VISIBLE, "3,GPU-5a,7,1")
    take_gpus(local, each)
    assert os.environ[VISIBLE] == seen


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv(VISIBLE, "0,1")
    with pytest.raises(UserError, match=r"LOCAL_RANK=2 needs 1 of its own of 2 visible GPUs; start 2 processes"):
        take_gpus(2, 1)
    monkeypatch.setenv(VISIBLE, "")  # no GPU, any number
    take_gpus(2, 1)
    assert os.environ[VISIBLE] == ""


@pytest.mark.parametrize(
    ("asked", "each", "message"),
    [
        (5, 1, r"^gpus=5: there are 4 GPUs; give that or less, or leave it out to use all"),
        (3, 2, r"^gpus=3: tensor_parallel=2 GPUs share the weights; give a multiple of it"),
    ],
)
def test_gpus_that_are_not_here_are_refused(monkeypatch, asked, each, message):
    monkeypatch.setenv(VISIBLE, "0,1,2,3")
    with pytest.raises(UserError, match=message):
        start_ranks("evaluate", [], "gpus=", asked, each)


def test_a_launcher_of_ones_own_says_how_many(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert start_ranks("rate", [], "--gpus ", None) is None
    with pytest.raises(UserError, match=r"--gpus 2: a launcher has started this process and says how many"):
        start_ranks("rate", [], "--gpus ", 2)
    monkeypatch.setenv(FAILURE, "/nowhere")  # our own, which was asked for two
    assert start_ranks("rate", [], "--gpus ", 2) is None


@pytest.mark.parametrize(
    ("gpus", "asked", "each", "pictures", "processes"),
    [
        ("0,1,2,3", None, 1, None, 4),
        ("0,1,2,3", None, 2, None, 2),
        ("0,1,2,3", 2, 1, 3, 2),
        ("0,1,2,3", 1, 1, 500, None),
        ("0,1,2,3", None, 1, 32, None),  # a few pictures are rated before other processes have loaded
        ("0,1,2,3", None, 1, 65, 3),
        ("0", None, 1, 500, None),
        ("", None, 1, 500, None),
    ],
)
def test_as_many_processes_as_gpus_and_pictures_are_worth(monkeypatch, gpus, asked, each, pictures, processes):
    monkeypatch.setenv(VISIBLE, gpus)
    program = f"import os, sys; assert os.environ[{SHARED!r}]; sys.exit(100 + int(sys.argv[1]))"
    monkeypatch.setattr(sharing, "launch_command", lambda launcher, n, _: [sys.executable, "-c", program, str(n)])
    if processes is None:
        assert start_ranks("rate", ["a"], "--gpus ", asked, each, pictures) is None
        return
    with pytest.raises(
        LaunchError, match=f"one of {processes} processes has failed: exit code 10{processes}; the"
    ) as e:
        start_ranks("rate", ["a"], "--gpus ", asked, each, pictures)
    assert e.value.exit_code == 100 + processes
    assert SHARED not in os.environ


def test_the_code_of_the_first_is_the_commands(monkeypatch):
    monkeypatch.setenv(VISIBLE, "0,1")
    program = f"import os; open(os.environ[{FAILURE!r}], 'w').write('1 ')"
    monkeypatch.setattr(sharing, "launch_command", lambda *_: [sys.executable, "-c", program])
    assert start_ranks("rate", [], "--gpus ", None) == 1


def test_a_process_alone_is_the_first():
    with joined() as ranks:
        assert (ranks.number, ranks.of, ranks.store) == (0, 1, None)


def test_a_picture_that_arrives_while_ranks_start_is_of_none(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    (tmp_path / "b.png").touch()
    own, listed = threading.local(), threading.Event()
    monkeypatch.setattr(sharing, "joined", lambda: nullcontext(own.ranks))
    monkeypatch.setattr(command, "rate_and_write", lambda asked, found, ranks, scale: found.paths)
    monkeypatch.setattr(Ranks, "exit_code", lambda ranks, found: found)

    def act(ranks):
        own.ranks = ranks
        if not ranks.first:
            assert listed.wait(60)
            (tmp_path / "a.png").touch()
        found = command.run([str(tmp_path), "--model", "tiny"])
        listed.set()
        return found

    assert together(2, act) == [[str(tmp_path / "b.png")]] * 2


def test_ranks_evaluate_the_pictures_that_the_first_reads(monkeypatch):
    own = threading.local()
    monkeypatch.setattr(evaluate, "joined", lambda each: nullcontext(own.ranks))
    monkeypatch.setattr(evaluate, "prepare", lambda config: (config, None, [f"read by {own.ranks.number}"], []))
    monkeypatch.setattr(evaluate, "rate_and_write", lambda config, model, sets, anchors, ranks: sets)

    def act(ranks):
        own.ranks = ranks
        return evaluate.evaluate(EvaluateConfig())

    assert together(2, act) == [["read by 0"]] * 2


# The same files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven pictures, one of which cannot be opened."""
    made = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(1)
    for i in range(6):
        small = Image.fromarray(rng.integers(0, 256, (3 + i, 3 + i, 3), dtype=np.uint8))
        small.resize((56 + 28 * (i % 2), 56), Image.Resampling.BICUBIC).save(made / f"{i}.png")
    (made / "3b.png").write_text("none")
    return made


@pytest.fixture(scope="module")
def by_one(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("one")
    assert command.run(words(folder, out)[1:]) == 1
    return out


def words(folder, out):
    files = "--csv", str(out / "a.csv"), "--jsonl", str(out / "a.jsonl")
    return ["rate", str(folder), "--model", "tiny", "-k", "2", "--batch", "4", "--max-pixels", "3136", *files]


def test_the_documents_line_for_a_launcher_is_one():
    (line,) = re.findall(r"^    torchrun (.*)$", DOCUMENT.read_text(), flags=re.MULTILINE)
    found = get_args_parser().parse_args(shlex.split(line))
    assert found.no_python
    assert (found.training_script, found.training_script_args[0]) == ("vqr1", "rate")
    assert command.parser().parse_args(found.training_script_args[1:]).csv == Path("scores.csv")


@pytest.mark.distributed
def test_three_ranks_write_the_files_of_one(folder, by_one, tmp_path):
    done = forked(words(folder, tmp_path), ranks=3)
    assert done.returncode == 1, done.stderr[-3000:]
    for name in ("a.csv", "a.jsonl"):
        assert (tmp_path / name).read_bytes() == (by_one / name).read_bytes()
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == sorted(map(str, folder.iterdir()))
    assert done.stderr.count("mean of 5 pictures") == 1
    assert "shrunk to 3,136 pixels, the most that the model reads (--max-pixels): 3 of 7 pictures" in done.stderr
    assert {file.name for file in tmp_path.iterdir()} == {"a.csv", "a.jsonl"}


@pytest.mark.distributed
def test_two_ranks_go_on_with_what_one_has_rated(folder, by_one, tmp_path, monkeypatch):
    answer, batches = Rater._answer, iter([2])

    def stopped(rater, *pictures):
        if next(batches, None) is None:
            raise KeyboardInterrupt
        return answer(rater, *pictures)

    monkeypatch.setattr(Rater, "_answer", stopped)
    with pytest.raises(KeyboardInterrupt, match="2 of 7 are rated; the same command goes on"):
        command.run(words(folder, tmp_path)[1:])
    done = forked(words(folder, tmp_path), ranks=2)
    assert "going on: 2 of 7 pictures are rated" in done.stderr
    assert len(done.stdout.splitlines()) == 5
    for name in ("a.csv", "a.jsonl"):
        assert (tmp_path / name).read_bytes() == (by_one / name).read_bytes()


@pytest.mark.distributed
def test_two_ranks_evaluate_as_one_does(tmp_path, data_root):
    def asked(folder):
        settings = ["model=tiny", "data=demo_five", f"root={data_root}", "k=2", "limit=5", "batch=4", "max_tokens=32"]
        return ["evaluate", *settings, f"folder={folder}"]

    for of in (1, 2):
        done = forked(asked(tmp_path / str(of)), ranks=of)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("results.jsonl, evaluation.json") == 1
        assert "5/5" in done.stderr
    one, two = ({file.name: file.read_bytes() for file in (tmp_path / of).iterdir()} for of in ("1", "2"))
    del one["lock"], two["lock"]
    names = ("results.jsonl", "evaluation.json")
    assert [one[name] for name in names] == [two[name] for name in names]
    assert one.keys() == two.keys()


def started(folder, out, *more):
    """The command as on a machine with two GPUs, which starts accelerate and two processes; they find no GPU."""
    asked = [sys.executable, "-m", "vqr1", *words(folder, out), *more]
    return subprocess.Popen(
        asked, env={**environment(), VISIBLE: "0,1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.full
@pytest.mark.distributed
def test_accelerates_processes_write_the_files_of_one_and_one_that_is_killed_ends_all(folder, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    many = tmp_path / "pictures"
    many.mkdir()
    for i in range(60):
        (many / f"{i:02}.png").symlink_to(folder / f"{i % 6}.png")
    assert command.run(words(many, whole)[1:]) == 1  # one of six cannot be read
    running = started(many, parts)
    rows = parts / "a.csv.unfinished" / "ratings.jsonl"
    patience = time.monotonic() + 120
    while not (rows.is_file() and rows.read_bytes().count(b"\n") >= 8):
        assert running.poll() is None and time.monotonic() < patience
        time.sleep(0.002)
    second = [pid for pid in descendants(running.pid) if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()]
    os.kill(second[0], signal.SIGKILL)
    said = running.communicate(timeout=60)[1]
    assert running.returncode == 1
    assert "vqr1 rate: one of 2 processes has failed: exit code 1; the same command goes on" in said
    assert 8 <= rows.read_bytes().count(b"\n") < 60
    running = started(many, parts, "--gpus", "2")
    shown, said = running.communicate(timeout=120)
    assert running.returncode == 1, said
    assert "Traceback" not in said
    assert len(shown.splitlines()) < 60
    for name in ("a.csv", "a.jsonl"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    running = started(many, parts, "--gpus", "2")
    assert "a.csv is there already" in running.communicate(timeout=60)[1]
    assert running.returncode == 2


def descendants(process):
    files = Path(f"/proc/{process}/task").glob("*/children")
    below = [int(word) for file in files for word in file.read_text().split()]
    return below + [other for each in below for other in descendants(each)]
