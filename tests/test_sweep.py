"""A sweep: its names, and that it can be killed anywhere and goes on by the same words."""

from __future__ import annotations

import os
import re
import shlex
import signal

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import fake_run
from tests.support.sweeps import FOUR, begin, gone, job_at_its_second_step, steps, within
from vqr1.command_words import quoted, train_words
from vqr1.config import register
from vqr1.config_checks import from_hydra
from vqr1.packaged import packaged
from vqr1.sweep import LONGEST, NAME, Sweep, job_name, set_name, sweep_name

WORDS = ["-m", "experiment=demo", "rollout.k=4,6", "trainer.beta=0.01,0.04", "evaluation.proof=false"]


def test_a_sweep_is_named_after_its_experiment_and_its_words():
    name = sweep_name(WORDS)
    assert re.fullmatch(r"sweep-demo-[0-9a-f]{8}", name)
    # What means the same is the same sweep, however it is gone on with.
    assert sweep_name([*reversed(WORDS), "resume=auto", "hydra.verbose=true", "--config-dir", "x"]) == name
    assert sweep_name(["-m", *WORDS[1:3], "trainer.beta=0.04,0.01", "evaluation.proof=False"]) == name
    for other in ([*WORDS, "seed=1"], WORDS[:-1], [*WORDS[:2], "rollout.k=4", *WORDS[3:]]):
        assert sweep_name(other) != name
    assert sweep_name(["-m", "seed=0,1"]).startswith("sweep-run-")
    assert sweep_name(["experiment=[demo_short,study_k]"]).startswith("sweep-demo_short-study_k-")


def test_the_order_of_words_counts_where_one_overrides_another():
    assert sweep_name(["a.b=1", "a={b:2}"]) != sweep_name(["a={b:2}", "a.b=1"])
    assert sweep_name(["a=1", "a=2"]) != sweep_name(["a=2", "a=1"])
    assert sweep_name(["a.b=1", "a-b=2"]) == sweep_name(["a-b=2", "a.b=1"])


def test_the_sweep_may_have_a_name_of_its_own(monkeypatch):
    monkeypatch.setenv(NAME, "mine")
    set_name(WORDS)
    assert os.environ[NAME] == "mine"
    monkeypatch.setenv(NAME, "../mine")
    with pytest.raises(ValueError, match="VQR1_SWEEP='../mine'"):
        set_name(WORDS)
    monkeypatch.setenv(NAME, "")
    set_name(WORDS)
    assert os.environ[NAME] == sweep_name(WORDS)


@pytest.mark.parametrize(
    ("words", "overrides", "name"),
    [
        (WORDS, ["rollout.k=4", "trainer.beta=0.01", "evaluation.proof=False"], "rollout.k-4_trainer.beta-0.01"),
        (["-m", "evaluation.proof=true,false"], ["evaluation.proof=False"], "evaluation.proof-false"),
        (["-m", "+trainer.x=1e-05,2"], ["+trainer.x=1e-05"], "trainer.x-1e-05"),
        (["-m", "seed=range(0,3)"], ["seed=2"], "seed-2"),
        (["-m", "seed=0"], ["seed=0"], "job"),
    ],
)
def test_a_job_is_named_after_what_is_swept(words, overrides, name):
    assert job_name(overrides, words) == job_name(overrides[::-1], words[::-1]) == name


def test_what_a_configuration_sweeps_is_in_the_name_too():
    assert job_name(["seed=1", "rollout.k=4"], ["-m", "rollout.k=4"], ["seed"]) == "seed-1"


def test_a_study_needs_no_m_and_its_jobs_are_no_sweeps(tmp_path):
    words = ["experiment=study_k", "runs=runs", f"trainer.max_steps={fake_run.STEPS}", "rollout.k=4,6"]
    study = begin(tmp_path, words, BASE="demo_short", FAKE_PAUSE="/")
    study.communicate(timeout=60)
    (sweep,) = (tmp_path / "runs").iterdir()
    assert study.returncode == 0 and sweep.name.startswith("sweep-demo_short-study_k-")
    assert sorted(run.name for run in sweep.iterdir() if run.is_dir()) == ["rollout.k-4", "rollout.k-6"]
    for run in ("rollout.k-4", "rollout.k-6"):
        words = (sweep / run / "words").read_text().splitlines()
        assert {"experiment=[demo_short,study_k]", "hydra.mode=RUN"} <= set(words)


VALUES = st.one_of(
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["true", "null", "[1,2]", "{a:1}", "kadid10k", "bid+spaq"]),
    st.text(st.sampled_from("ab_-./=, é[]{}'"), min_size=1, max_size=150).filter(str.strip).map(quoted),
)


@settings(max_examples=25)
@given(st.lists(st.tuples(VALUES, VALUES).map(lambda pair: tuple(map(str, pair))), min_size=2, max_size=4, unique=True))
def test_jobs_have_names_of_their_own_that_need_no_quotes(pairs):
    sweeps = [",".join(dict.fromkeys(values)) for values in zip(*pairs, strict=True)]
    words = ["-m", f"a={sweeps[0]},1000", f"b.c={sweeps[1]},1000"]
    names = [job_name([f"a={one}", f"b.c={other}"], words) for one, other in pairs]
    meant = {
        tuple(repr(override.value()) for override in OverridesParser.create().parse_overrides([f"a={one}", f"b={two}"]))
        for one, two in pairs
    }
    assert len(set(names)) == len(meant)
    for name in names:
        assert len(name) <= LONGEST
        assert re.fullmatch(r"[A-Za-z0-9_.+-]+", name)
        word = f"model=runs/{sweep_name(words)}/{name}"
        (override,) = OverridesParser.create().parse_overrides([word])
        assert override.input_line == word and override.value() == word.removeprefix("model=")


def test_the_exit_code_says_what_became_of_the_jobs(tmp_path):
    sweep = Sweep(folder=tmp_path / "job")
    codes = {}
    for code in (0, 2, 137, 75):
        sweep.note(code, "why")
        codes[code] = sweep.exit_code()
    assert codes == {0: 0, 2: 2, 137: 137, 75: 75}
    # Stopped before it was begun: it has no folder.
    assert [str(job).split()[0] for job in sweep.jobs] == ["finished", "failed", "failed", "missing"]
    sweep.starter.received = signal.SIGINT
    assert sweep.exit_code() == 130


# Killed, and started again.


def composed(words):
    register()
    with initialize_config_dir(str(packaged("conf").resolve()), version_base="1.3"):
        return from_hydra(compose("train", words))


def test_a_sweep_is_killed_twice_and_ends_whole_by_the_same_words(tmp_path):
    first = begin(tmp_path)
    within(lambda: list(tmp_path.glob("runs/sweep-*/*/process")))
    (sweep,) = (tmp_path / "runs").iterdir()
    job = job_at_its_second_step(sweep, "rollout.k-3_seed-0")
    first.kill()
    first.communicate()
    within(lambda: gone(job), 5)  # the job ends with its parent

    words = (sweep / "rollout.k-3_seed-0" / "words").read_text()
    assert f"name={sweep.name}/rollout.k-3_seed-0" in words and "resume=auto" in words
    config = composed(words.splitlines()[2:])  # as the job itself would
    assert (config.name, config.logger.group) == (f"{sweep.name}/rollout.k-3_seed-0", sweep.name)
    assert (config.seed, config.rollout.k) == (0, 3)
    inherited = set((sweep / "rollout.k-3_seed-0" / "environment").read_text().split())
    assert not inherited & {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}

    second = begin(tmp_path, FOUR[::-1])
    job = job_at_its_second_step(sweep, "rollout.k-3_seed-1")
    os.kill(job, signal.SIGKILL)
    (tmp_path / "go").touch()
    said, _ = second.communicate()
    assert second.returncode == 128 + signal.SIGKILL
    assert said.endswith(
        f"4 jobs: 3 finished, 1 failed\n"  # the others went on
        f"finished runs/{sweep.name}/rollout.k-3_seed-0\n"
        f"failed   runs/{sweep.name}/rollout.k-3_seed-1: killed by SIGKILL\n"
        f"finished runs/{sweep.name}/rollout.k-4_seed-0\n"
        f"finished runs/{sweep.name}/rollout.k-4_seed-1\n"
    )

    third = begin(tmp_path)
    said, _ = third.communicate()
    assert third.returncode == 0 and "\n4 jobs: 4 finished\n" in said
    assert list((tmp_path / "runs").iterdir()) == [sweep]
    runs = [path for path in sweep.iterdir() if path.is_dir()]
    assert len(runs) == 4 and all(steps(run) == [1, 2, 3] for run in runs)
    assert all(gone(int((run / "process").read_text())) for run in runs)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_reaches_the_job_and_ends_the_sweep(tmp_path, number, code):
    process = begin(tmp_path)
    within(lambda: list(tmp_path.glob("runs/sweep-*/*/process")))
    (sweep,) = (tmp_path / "runs").iterdir()
    job = job_at_its_second_step(sweep, "rollout.k-3_seed-0")
    process.send_signal(number)
    said, told = process.communicate(timeout=30)
    assert process.returncode == code
    assert gone(job)
    assert f"4 jobs: 1 stopped, 3 missing\nstopped  runs/{sweep.name}/rollout.k-3_seed-0\nmissing  " in said
    assert f"the same command goes on:\nvqr1 train {shlex.join(FOUR)}\n" in told and "Traceback" not in told
    assert len([path for path in sweep.iterdir() if path.is_dir()]) == 1  # no other was begun


def test_the_words_of_a_job_are_those_of_the_sweep():
    assert train_words(["data=bid,[bid,spaq]"]) == ["data=bid,bid+spaq"]
