"""What SIGTERM and SIGUSR1 do to a run, in this process: scripts of answers send them at a step of choice."""

from __future__ import annotations

import errno
import json
import os
import signal

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from tests.support.choices import choices_for
from tests.support.runs import QUICK
from tests.support.scripted import answer
from vqr1.config import Config, PolicyConfig, register
from vqr1.config_checks import from_hydra
from vqr1.errors import StoppedError, UserError
from vqr1.packaged import packaged
from vqr1.training import run as run_module
from vqr1.training import stopping
from vqr1.training.run import told_of_files, train
from vqr1.training.stopping import StopNow, StopSignals

SETTINGS = {**QUICK, "trainer.max_steps": "3", "trainer.save_steps": "10", "evaluation.every": "2"}
TERM = signal.SIGTERM
LEARNT = "metrics.jsonl", "final/model.safetensors"


@pytest.fixture
def ended(monkeypatch):
    """The signals that would have ended this process."""
    found = []
    monkeypatch.setattr(stopping, "_end", found.append)
    return found


def test_a_signal_ends_what_has_nothing_to_save_at_once():
    before = signal.getsignal(TERM)
    with StopSignals() as signals, pytest.raises(StopNow):
        os.kill(os.getpid(), TERM)
    assert signals.received is TERM and signal.getsignal(TERM) is before


def test_a_signal_waits_while_there_is_something_to_save(ended):
    with StopSignals() as signals:
        signals.defer()
        assert signals.agreed() is None
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.agreed() is signal.SIGUSR1
        with pytest.raises(StopNow, match="SIGUSR1"):
            signals.at_once()
    assert not ended


def test_a_second_sigterm_ends_the_process_unless_it_is_the_first_one_passed_on(ended, monkeypatch):
    with StopSignals() as signals:
        signals.defer()
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), TERM)
        os.kill(os.getpid(), TERM)
        assert not ended
        monkeypatch.setattr(stopping, "REPEATED", 0)
        os.kill(os.getpid(), TERM)
    assert ended == [TERM]


def test_a_forked_worker_can_still_be_ended(ended):
    with StopSignals() as signals:
        signals._process = 0  # as a worker of a data loader sees it
        os.kill(os.getpid(), signal.SIGUSR1)
        assert not ended
        os.kill(os.getpid(), TERM)
    assert ended == [TERM]


@pytest.fixture(scope="module")
def run(policy_folder, data_root):
    def run(folder, script=answer, **settings):
        words = {**SETTINGS, "runs": folder.parent, "name": folder.name, "data.root": data_root}
        words |= {"policy.path": policy_folder, **settings}
        register()
        with initialize_config_dir(config_dir=str(packaged("conf").resolve()), version_base="1.3"):
            config = from_hydra(compose("train", [f"{key}={value}" for key, value in words.items()]))
        threads = torch.get_num_threads()
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(run_module, "draw_figures", lambda *_, **__: None)  # longer than a short run
                return train(config, choices_for(config), script=script)
        finally:
            torch.set_num_threads(threads)

    return run


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    return (run(tmp_path_factory.mktemp("whole") / "run") / "metrics.jsonl").read_bytes()


def stopped_at(step, call=1, number=TERM):
    """Answers that a signal comes with, when they are asked for the ``call``-th time at ``step``."""
    asked = []

    def script(seed, image_id, k, at):
        asked.append(at)
        if asked.count(step) == call:
            asked.append(step)
            os.kill(os.getpid(), number)
        return answer(seed, image_id, k, at)

    return script


@pytest.mark.slow
@pytest.mark.faults
def test_a_run_that_is_stopped_again_and_again_ends_as_an_undisturbed_one(run, whole, tmp_path, fault):
    """Before its first step, in a step, in the evaluation after it, in the last one."""
    folder = tmp_path / "run"
    repeated = "stopped by SIGTERM in an evaluation, which is repeated"
    for script, step, told in (
        (stopped_at(0), 0, "stopped by SIGTERM; the same command goes on"),
        (stopped_at(1, number=signal.SIGUSR1), 2, f"stopped by SIGUSR1; saved {folder}/checkpoint-2; the same command"),
        (stopped_at(2), 2, f"{repeated}; saved {folder}/checkpoint-2; the same command goes on"),
        (stopped_at(3), 3, f"{repeated}; saved {folder}/checkpoint-3; the same command goes on"),
    ):
        with pytest.raises(StoppedError, match=f"^{told}") as failure:
            run(folder, script, resume="auto")
        assert failure.value.exit_code == 75
        stopped = json.loads((folder / "stopped.json").read_text())
        assert stopped == {"step": step, "signal": failure.value.signal, "exit_code": 75}
        assert (folder / f"checkpoint-{step}").is_dir() == bool(step)
    run(folder, resume="auto")
    assert (folder / "metrics.jsonl").read_bytes() == whole
    assert not (folder / "stopped.json").exists()
    fault(
        "SIGTERM or SIGUSR1 reaches a run again and again",
        how="before its first step, in a step, in two evaluations",
        happens="the step is finished and saved, exit code 75; the same command ends it as an undisturbed run",
        lost="nothing; an evaluation is repeated",
    )


def same(resumed, undisturbed):
    return all((resumed / name).read_bytes() == (undisturbed / name).read_bytes() for name in LEARNT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("at", "call", "saved"),
    [pytest.param(0, 33, 2, id="after the evaluation"), (2, 1, 4), pytest.param(3, 1, 4, id="in one")],
)
def test_no_generation_batch_is_cut_in_two_by_a_stop(run, tmp_path, at, call, saved):
    """Two iterations of each batch, and an evaluation between two of them."""
    settings = {"trainer.num_iterations": "2", "trainer.max_steps": "6", "evaluation.every": "3"}
    with pytest.raises(StoppedError, match=f"saved {tmp_path}/run/checkpoint-{saved};"):
        run(tmp_path / "run", stopped_at(at, call), **settings)
    undisturbed = run(tmp_path / "whole", **settings)
    assert same(run(tmp_path / "run", **settings, resume="auto"), undisturbed)


@pytest.mark.slow
def test_a_line_that_is_a_mean_of_steps_is_whole_where_a_stop_leaves_the_evaluation(run, tmp_path):
    settings = {"trainer.logging_steps": "10", "trainer.max_steps": "6", "evaluation.every": "3"}
    with pytest.raises(StoppedError, match=f"saved {tmp_path}/run/checkpoint-3;"):
        run(tmp_path / "run", stopped_at(3), **settings)
    undisturbed = run(tmp_path / "whole", **settings)
    assert same(run(tmp_path / "run", **settings, resume="auto"), undisturbed)


@pytest.fixture
def few_pictures(tmp_path):
    """A root with a set whose epoch has two steps of eight pictures."""
    folder = tmp_path / "root" / "mine"
    (folder / "pictures").mkdir(parents=True)
    rows = ["image,mos,std,split"]
    for i in range(24):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (56, 56, 3), np.uint8)).save(
            folder / "pictures" / f"{i}.png"
        )
        rows.append(f"{i}.png,{1 + i % 5},0.5,{'train' if i < 16 else 'validation' if i < 20 else 'test'}")
    (folder / "ratings.csv").write_text("\n".join(rows) + "\n")
    (folder / "dataset.yaml").write_text(
        "form: csv\nlabels: ratings.csv\nimages: pictures\nhigher_is_better: true\nrange: [1, 5]\nspread: std\n"
        "group: image\ncolumns: {image: image, mos: mos, spread: std, part: split}\n"
    )
    return folder.parent


@pytest.mark.slow
def test_stopped_in_the_evaluation_at_an_epochs_end_it_draws_the_answers_of_an_undisturbed_one(
    run, few_pictures, tmp_path, monkeypatch
):
    sets = {f"data.{part}": "[mine]" for part in ("train", "validation", "test")}
    settings = {**sets, "data.root": few_pictures, "trainer.max_steps": "4", "policy.path": "tiny"}
    undisturbed = run(tmp_path / "whole", None, **settings)
    plain = stopping.StopCallback.on_step_begin

    def signalled(callback, args, state, *others, **more):
        plain(callback, args, state, *others, **more)
        if state.global_step == 2:
            os.kill(os.getpid(), TERM)

    with monkeypatch.context() as patch, pytest.raises(StoppedError, match="in an evaluation, which is repeated"):
        patch.setattr(stopping.StopCallback, "on_step_begin", signalled)
        run(tmp_path / "stopped", None, **settings)
    resumed = run(tmp_path / "stopped", None, **settings, resume="auto")
    assert same(resumed, undisturbed)


def test_a_signal_while_ranks_wait_for_each_other_is_a_stop_of_the_run(tmp_path, monkeypatch):
    config = Config(policy=PolicyConfig(path="tiny"), runs=str(tmp_path))
    monkeypatch.setattr(run_module, "join", lambda _: os.kill(os.getpid(), TERM))
    with pytest.raises(StoppedError, match=r"^stopped by SIGTERM; nothing was begun$"):
        train(config, choices_for(config))


def test_a_full_disk_is_one_message_that_says_how_to_go_on(tmp_path):
    config = Config(policy=PolicyConfig(path="tiny"), runs=str(tmp_path))
    (tmp_path / "a").mkdir()
    told = rf"^{tmp_path}/a: No space left .* bytes free\); free some space; the same command with name=a resume=auto"
    with pytest.raises(UserError, match=told) as failure, told_of_files(config, "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert failure.value.exit_code == 2
    with pytest.raises(UserError, match="^k=0$"), told_of_files(config, "a"):
        raise UserError("k=0")
