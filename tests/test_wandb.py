"""wandb: nothing leaves the machine offline, each line is there once, and no server keeps a run waiting."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from tests.support.wandb_records import config as config_of
from tests.support.wandb_records import history, records
from vqr1.config import Config, PolicyConfig, Wandb
from vqr1.errors import UserError
from vqr1.training import wandb_sink
from vqr1.training.checkpoint_folders import STATE
from vqr1.training.reached import Reached
from vqr1.training.run_folder import RunFolder
from vqr1.training.run_log import Logger
from vqr1.training.sinks import Table, pictures_logged
from vqr1.training.wandb_sink import WandbSink, as_html, open_wandb

ROOT = Path(__file__).parents[1]


def configuration(kind=Wandb.offline, resume=False):
    config = Config(policy=PolicyConfig(path="tiny"), name="run", resume=resume)
    config.logger.wandb = kind
    config.logger.group, config.logger.tags = "study", ["rollout.k=4", "seed=0"]
    return config


def logged(path, do, kind=Wandb.offline, resume=False, said=None):
    """What ``do`` does with the logger of a run that begins or goes on; gives wandb's run."""
    config = configuration(kind, resume)
    folder = RunFolder(path, writes=True)
    folder.open(config)
    with ExitStack() as ending:
        ending.callback(folder.close)
        sink = open_wandb(config, folder, (said if said is not None else []).append, ending)
        logger = Logger(folder, [sink], pictures=pictures_logged(config))
        logger.replay()
        do(logger, folder)
    return sink.run


def sample(step, folder, picture):
    return {
        "step": step, "set": "five", "image_id": "five/1", "picture": folder.keep_picture(picture), "prompt": "How?",
        "mos": 3.0, "answers": ["<answer>2</answer>", "a <b>&"], "scores": [2.0, None], "rewards": [1.5, 0.0],
        "advantages": [0.7, -0.7],
    }  # fmt: skip


def steps(first, last, picture):
    """A run's lines, with an evaluation and a sample at every even step and a checkpoint at step 2."""

    def do(logger, folder):
        for step in range(first, last + 1):
            if step:
                logger.metrics(step, {"train/loss": step / 10, "train/reward": float("nan")})
                logger.timings(step, {"speed/step_seconds": 1.0})
            if step and step % 2 == 0:
                logger.samples(step, [sample(step, folder, picture)])
            if step == 2:
                (folder.path / "checkpoint-2").mkdir(exist_ok=True)
                (folder.path / "checkpoint-2" / STATE).write_text("{}")
            if step % 2 == 0:
                logger.metrics(step, {"eval/five/srcc": 0.5 - step / 100})
                probe = {key: value for key, value in sample(step, folder, picture).items() if key != "prompt"}
                folder.append("answers.jsonl", probe)
                logger.probes(step, [probe])
                logger.timings(step, {"speed/evaluation_seconds": 1.0})

    return do


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (60, 40), "red").save(tmp_path / "a.png")
    return tmp_path / "a.png"


def fragments(path):
    return sorted((path / "wandb").glob("*run-*-*"))


def once(rows):
    """How often each figure, text or picture is there, by name and step."""
    return Counter((name, row["step"]) for row in rows for name in row if name != "step" and name[0] != "_")


EVALUATED = ("eval/five/srcc", "probes/answers", "speed/evaluation_seconds")
TRAINED = ("train/loss", "speed/step_seconds")
SAMPLED = ("samples/answers", "samples/pictures")


def everything(last):
    found = [(name, step) for name in TRAINED for step in range(1, last + 1)]
    found += [(name, step) for name in EVALUATED for step in range(0, last + 1, 2)]
    return Counter(found + [(name, step) for name in SAMPLED for step in range(2, last + 1, 2)])


def test_a_resumed_run_is_one_run_with_each_line_once(tmp_path, picture):
    """It was killed at step 5, and goes on from step 2."""
    path = tmp_path / "run"
    first = logged(path, steps(0, 5, picture))
    (began,) = fragments(path)
    assert once(history(began)) == everything(5)
    second = logged(path, steps(3, 6, picture), resume=True)
    assert second.id == first.id == json.loads((path / "wandb.json").read_text())["id"]
    (now,) = fragments(path)
    assert [aside.name for aside in (path / "wandb" / "earlier-1").iterdir()] == [began.name]
    rows = history(now)
    assert once(rows) == everything(6)
    assert all(row["_step"] == row["step"] for row in rows)

    # What a server would show of it, and that it lies in the run folder, whole.
    known = config_of(now)
    assert known["policy"]["path"] == "tiny" and known["versions"]["vqr1"] and "commit" in known["versions"]
    (run,) = [record.run for record in records(now) if record.HasField("run")]
    assert (run.run_group, list(run.tags)) == ("study", ["rollout.k=4", "seed=0"])
    axes = {record.metric.glob_name or record.metric.name: record.metric for record in records(now)}
    assert axes["*"].step_metric == "step" and axes["eval/five/srcc"].summary.max
    assert not any(record.HasField("artifact") or record.HasField("use_artifact") for record in records(now))
    shutil.move(now, tmp_path / "elsewhere")
    files = [file for row in rows for name in SAMPLED[1:] for file in row.get(name, {}).get("filenames", [])]
    files += [row[name]["path"] for row in rows for name in ("samples/answers", "probes/answers") if name in row]
    assert len(files) == 3 + 3 + 4
    for file in files:
        assert (tmp_path / "elsewhere" / "files" / file).stat().st_size
    captions = [row["samples/pictures"]["captions"] for row in rows if "samples/pictures" in row]
    assert "score 2, reward 1.5, advantage 0.7: <answer>2</answer>" in captions[0][0] and "How?" in captions[0][0]


def test_what_was_sent_is_not_logged_again(tmp_path, picture):
    """Also where the start after ``wandb sync`` did not get as far as the one before it."""
    path = tmp_path / "run"
    logged(path, steps(0, 5, picture))
    (sent,) = fragments(path)
    next(sent.glob("*.wandb")).with_suffix(".wandb.synced").touch()
    logged(path, steps(3, 3, picture), resume=True)
    assert once(history(*fragments(path))) == {}
    logged(path, steps(3, 8, picture), resume=True)
    (now,) = fragments(path)
    assert once(history(path / "wandb" / "earlier-1" / sent.name)) + once(history(now)) == everything(8)


class FakeRun:
    """wandb's run, as far as a sink uses it."""

    def __init__(self, step=0):
        self.step, self.rows, self.dir = step, [], "wandb/offline-run-1/files"

    def log(self, values, step):
        self.rows.append((step, values))

    def define_metric(self, *names, **settings):
        pass


def test_an_evaluation_that_a_resumed_run_repeats_gets_a_place_of_its_own():
    """The server has step 7, but not its evaluation."""
    run = FakeRun(step=8)
    sink = WandbSink(run, Reached(7, 6))
    sink.figures(7, {"train/loss": 1.0})
    sink.figures(7, {"eval/five/srcc": 0.5})
    sink.figures(7, {"speed/evaluation_seconds": 3.0})
    sink.figures(8, {"train/loss": 2.0})
    sink.figures(10, {"train/loss": 3.0})
    assert run.rows == [
        (8, {"step": 7, "eval/five/srcc": 0.5}),
        (8, {"step": 7, "speed/evaluation_seconds": 3.0}),
        (9, {"step": 8, "train/loss": 2.0}),
        (10, {"step": 10, "train/loss": 3.0}),
    ]


def test_pictures_are_sent_only_where_that_was_asked_for():
    assert pictures_logged(configuration(Wandb.offline))
    assert not pictures_logged(configuration(Wandb.online))
    config = configuration(Wandb.online)
    config.logger.pictures = True
    assert pictures_logged(config)


def test_an_answer_is_text_whatever_it_looks_like():
    page = as_html(Table(("a",), [["<script>alert(1)</script>"], [None]], note="<b>"))
    assert "<script" not in page and "<b>" not in page and "&lt;script&gt;" in page


OFFLINE = """
import sys
from contextlib import ExitStack
from pathlib import Path
from vqr1.config import Config, PolicyConfig, Wandb
from vqr1.training.run_folder import RunFolder
from vqr1.training.wandb_sink import open_wandb
config = Config(policy=PolicyConfig(path="tiny"), name="run")
config.logger.wandb = Wandb.offline
folder = RunFolder(Path(sys.argv[1]), writes=True)
folder.open(config)
with ExitStack() as ending:
    open_wandb(config, folder, print, ending).figures(1, {"train/loss": 1.0})
"""
ASIDE = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 53))"  # sends nothing
CALLING = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ASIDE!r}], check=True)"


def reached(program, tmp_path):
    """The addresses that ``program`` and all that it starts connect or send to, beyond this machine's own."""
    trace = tmp_path / "trace"
    words = ["strace", "-f", "-qq", "-e", "signal=none", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", trace]
    done = subprocess.run(
        [*words, sys.executable, "-c", program, tmp_path / "run"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    calls = trace.read_text().splitlines()
    assert calls, "strace saw nothing"
    near = ('inet_addr("127.', 'inet_pton(AF_INET6, "::1"')
    away = [call for call in calls if "AF_INET" in call and not any(address in call for address in near)]
    return away + [call for call in calls if "htons(53)" in call and call not in away]  # a name server may be near


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace, which .ci/debian installs")
def test_offline_nothing_leaves_the_machine(tmp_path):
    (seen,) = reached(CALLING, tmp_path)  # a call of a process that another has started
    assert "192.0.2.1" in seen
    assert reached(OFFLINE, tmp_path) == []
    assert fragments(tmp_path / "run")


def test_wandb_that_cannot_log_in_is_one_message(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"^wandb does not start \(UsageError: .*; log in .*logger=offline.*name=run"):
        logged(tmp_path / "run", lambda *_: None, Wandb.online)


def test_a_server_that_does_not_answer_is_told_of_once_and_the_run_goes_on(tmp_path, monkeypatch, picture):
    said = []
    with socket.create_server(("127.0.0.1", 0)) as hole:  # takes calls, and never says a word
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{hole.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setattr(wandb_sink, "WAIT", 1)
        path = tmp_path / "run"
        run = logged(path, steps(0, 2, picture), Wandb.online, said=said)
    (fragment,) = fragments(path)
    assert fragment.name.startswith("offline-run-") and run.settings.finish_timeout == 1
    assert len(said) == 1 and said[0].startswith("warning: wandb's server does not answer (CommError: ")
    assert said[0].endswith(f"later: wandb sync {fragment}")
    assert once(history(fragment)) == Counter({k: n for k, n in everything(2).items() if k[0] != "samples/pictures"})


@pytest.mark.parametrize(("kind", "seconds", "lines"), [("online", 10, 1), ("online", 9, 0), ("offline", 10, 0)])
def test_a_server_that_is_lost_is_told_of_at_the_end(monkeypatch, kind, seconds, lines):
    clock = iter([0, seconds])
    monkeypatch.setattr(wandb_sink, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    said, codes = [], []
    run = SimpleNamespace(dir="runs/a/wandb/run-1/files", finish=lambda exit_code: codes.append(exit_code))
    wandb_sink._finish(run, Wandb(kind), said.append, 1)
    assert codes == [1] and len(said) == lines
    assert all(line.endswith("later: wandb sync runs/a/wandb/run-1") for line in said)
