"""``--root`` and ``data=`` as every command takes them, and the commands' names."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir

from tests.support.runs import environment
from vqr1 import __version__, cli
from vqr1.command_words import evaluate_words, missing_choice, root_words, train_words
from vqr1.config import register
from vqr1.config_checks import from_hydra
from vqr1.errors import UserError
from vqr1.help_text import train_help
from vqr1.packaged import packaged
from vqr1.scoring import settings as evaluate_schema

CONF = packaged("conf").resolve()


def data_of(*words):
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        data = from_hydra(compose("train", ["policy=tiny", *train_words(words)])).data
    assert data.train == data.validation == data.test
    return data.train


@pytest.mark.parametrize(
    ("words", "sets"),
    [
        (["data=spaq"], ["spaq"]),
        (["data=[bid,spaq]"], ["bid", "spaq"]),
        (["data=[bid]"], ["bid"]),
        (["data=mine"], ["mine"]),  # declared by root/mine/dataset.yaml, or refused when it is read
        (["data='my set'"], ["my set"]),
        (["data=demo"], ["demo_five", "demo_hundred"]),
        (["data=kadid10k_spaq"], ["kadid10k", "spaq"]),
        (["experiment=demo"], ["demo_five", "demo_hundred"]),
        (["experiment=kadid10k"], ["kadid10k"]),
        # The command line comes after the experiment.
        (["experiment=kadid10k", "data=spaq"], ["spaq"]),
        (["experiment=kadid10k", "data=demo"], ["demo_five", "demo_hundred"]),
        (["experiment=koniq10k", "data=[bid,mine]"], ["bid", "mine"]),
    ],
)
def test_data_is_a_dataset_some_datasets_or_a_file_of_conf(words, sets):
    assert data_of(*words) == sets


@pytest.mark.parametrize(
    "text", ["1e3", "12e4567", "true", "007", "1_000", "nan", "-5", "1.", "~/x", "a b", "2026-01-01"]
)
def test_a_name_that_could_be_a_number_stays_as_it_is_written(text):
    register()
    words = [f"{key}={text}" for key in ("name", "experiment_name", "logger.project", "data.root")]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose(
            "train", train_words(["data=bid", "policy=tiny", *words, f"data.train=[{text},bid]", f"policy.path={text}"])
        )
    assert composed.name == composed.experiment_name == composed.logger.project == composed.data.root == text
    assert (composed.data.train, composed.policy.path) == ([text, "bid"], text)
    if "/" not in text:
        assert data_of(f"data={text}") == [text]


def test_only_text_is_put_into_quotes():
    for word in ("name=null", "seed=1e3", "name='1e3'", "name=demo", "name=", "name", "data.train=[bid,spaq]"):
        assert train_words([word]) == [word]
    assert train_words(["name=1e3,demo,2"]) == ["name='1e3',demo,'2'"]
    assert evaluate_words(["model=1e3", "k=4", "trained_on=[007,1e3]"]) == [
        "model='1e3'",
        "k=4",
        "trained_on=[007,'1e3']",
    ]


def test_the_words_of_a_sweep_stay_a_sweep():
    assert train_words(["-m", "data=demo,[bid,spaq],mine", "seed=0,1"]) == ["-m", "data=demo,bid+spaq,mine", "seed=0,1"]
    assert train_words(["data=bid+spaq"]) == ["data=bid+spaq"]  # as the jobs of the sweep get it
    for word in ("data=null", "data=[]", "data.train=[bid]", "data=choice(bid,spaq)", "+data=x"):
        assert train_words([word]) == [word]


def test_evaluate_takes_a_plain_name():
    evaluate_schema.register()
    for word, sets in {
        "data=bid": ["bid"],
        "data=[bid,spaq]": ["bid", "spaq"],
        "data=bid,spaq": ["bid", "spaq"],
    }.items():
        with initialize_config_dir(str(CONF / "evaluate"), version_base="1.3"):
            config = evaluate_schema.from_hydra(
                compose("evaluate", evaluate_words(["model=tiny", word, "--root", "/x y"]))
            )
        assert (config.data, config.root) == (sets, "/x y")


def test_the_root_is_one_option_everywhere(monkeypatch):
    assert root_words(["--root", "/a", "seed=1"], "data.root") == ["data.root=/a".replace("/a", "'/a'"), "seed=1"]
    assert root_words(["--root=b"], "root") == ["root=b"]
    with pytest.raises(UserError, match="--root needs a folder"):
        root_words(["--root"], "root")


def test_train_takes_the_root_and_says_so_where_it_is_missing(tmp_path):
    done = vqr1(tmp_path, "train", "experiment=kadid10k", "--root", str(tmp_path / "no where"))
    assert done.returncode == 2
    assert f"The root {tmp_path / 'no where'} is missing: set VQR1_DATA, or give --root FOLDER" in done.stderr


def vqr1(folder, *words):
    return subprocess.run(
        [sys.executable, "-m", "vqr1", *words],
        capture_output=True, text=True, env=environment(), cwd=folder, timeout=120, check=False,
    )  # fmt: skip


def test_an_unknown_dataset_is_refused_with_the_known_ones(tmp_path):
    done = vqr1(tmp_path, "train", "data=kadit10k", "policy=tiny")
    assert done.returncode == 2
    assert "no dataset is called kadit10k; choose from kadid10k, spaq" in done.stderr
    assert "Traceback" not in done.stderr


def test_mistakes_are_said_without_torch(tmp_path):
    """Importing torch takes seconds."""
    code = (
        "import sys; from vqr1 import cli\n"
        "try: cli.main()\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    for words in (["data=kadit10k"], ["name=../x"]):
        command = [sys.executable, "-c", code, "train", "policy=tiny", *words]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment(), cwd=tmp_path, timeout=120, check=False
        )
        assert done.stdout == "2 False False\n", done.stderr


def test_the_help_of_train_is_ours_and_names_what_may_be_chosen(tmp_path, capsys, monkeypatch):
    for command, first in (("train", "usage: vqr1 train SETTING=VALUE"), ("evaluate", "usage: vqr1 evaluate model=")):
        for words in (["--help"], ["seed=1", "-h"]):
            monkeypatch.setattr(sys, "argv", ["vqr1", command, *words])
            with pytest.raises(SystemExit) as end:
                cli.main()
            assert (end.value.code, capsys.readouterr().out.startswith(first)) == (0, True)
    shown = dict(line.split("=", 1) for line in train_help().splitlines() if re.fullmatch(r"  [a-z]+=[\w|]+", line))
    for group in ("data", "policy", "rollout", "reward", "trainer", "logger", "experiment"):
        assert shown[f"  {group}"].split("|") == sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def test_an_unknown_command_is_refused_with_the_nearest(tmp_path):
    done = vqr1(tmp_path, "trian", "experiment=demo")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("vqr1: no command is called trian; did you mean train?\n\nusage: vqr1 COMMAND")
    done = vqr1(tmp_path, "--frobnicate")
    assert done.returncode == 2 and "no command is called --frobnicate\n" in done.stderr


def test_the_version_is_said(tmp_path):
    done = vqr1(tmp_path, "--version")
    assert (done.returncode, done.stdout) == (0, f"vqr1 {__version__}\n")


@pytest.mark.parametrize("word", ["data=sub/mine", "data=[bid,../mine]", "data=mine/"])
def test_a_name_that_is_no_folder_below_the_root_is_refused(word):
    with pytest.raises(UserError, match="is no name of a dataset, which is one folder below the root; write mine"):
        train_words([word])


@pytest.mark.parametrize("launcher", ["joblib", "submitit_slurm", "nosuch"])
def test_a_launcher_that_is_not_here_is_named_with_what_brings_it(launcher):
    told = missing_choice(f"In 'hydra/config': Could not find 'hydra/launcher/{launcher}'\n\nAvailable options: basic")
    package = {"joblib": "hydra-joblib-launcher", "submitit_slurm": "hydra-submitit-launcher"}.get(launcher)
    assert told == (package and f"hydra/launcher={launcher} needs a package that is not here: pip install {package}")
