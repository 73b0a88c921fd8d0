"""Whole runs in this process whose answers come from a stand-in for vLLM: they learn, they stop, they go on."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir

from tests.support.choices import choices_for
from tests.support.fake_engine import FakeEngine
from tests.support.runs import QUICK, rows, training_rows
from vqr1.config import Config, DataConfig, PolicyConfig, RolloutConfig, Tuning, register
from vqr1.config_checks import from_hydra
from vqr1.data.pictures import PictureLoader
from vqr1.packaged import packaged
from vqr1.policy.load import load_processor, weight_bytes
from vqr1.rollout.engine import RolloutError
from vqr1.rollout.vllm_engine import COMPARED
from vqr1.rollout_settings import TrainingEngine
from vqr1.training import ranking_recipe, start_vllm
from vqr1.training import run as run_module
from vqr1.training.grpo_settings import grpo_config
from vqr1.training.run import train
from vqr1.training.start_vllm import check_engine, use_vllm
from vqr1.training.trainer import RankingTrainer

pytestmark = pytest.mark.slow

# The shipped policy: an untrained one earns nothing, learns nothing and stays as probable as it was.
SETTINGS = {**QUICK, "rollout.max_tokens": "24", "trainer.images_per_step": "4", "trainer.answers_per_device": "12"}


@pytest.fixture(autouse=True)
def own_threads():
    """What a run leaves in its process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


class Stale(FakeEngine):
    """Weights never arrive after the first time."""

    def load(self, weights):
        if "load" not in self.log:
            super().load(weights)


class Mute(FakeEngine):
    """Gives its tokens no probability, or one in ``every``."""

    every = 1

    def ask(self, questions, sampling):
        answers = super().ask(questions, sampling)
        for drawn in (drawn for of_one in answers for drawn in of_one):
            drawn.logps[:: self.every] = [None] * len(drawn.logps[:: self.every])  # as TRL's client has NaN
        return answers


class Mumbling(Mute):
    every = 20


class Deaf(FakeEngine):
    """The server of a run that is lost at its third question."""

    def ask(self, questions, sampling):
        if len(self.asked) == 2:
            raise RolloutError("the vLLM server at http://localhost:8000 failed: gone")
        return super().ask(questions, sampling)


@pytest.fixture
def run(tmp_path, data_root, monkeypatch):
    def run(engine, **settings):
        started = []

        def start(path, processor, **kwargs):
            started.append(engine(path, processor, **kwargs))
            return started[-1]

        monkeypatch.setattr(start_vllm, "VllmEngine", start)
        monkeypatch.setattr(run_module, "draw_figures", lambda *_, **__: None)  # longer than a short run
        words = {**SETTINGS, "rollout": "vllm_colocate", "runs": tmp_path, "name": "run", **settings}
        words |= {"data.root": data_root}
        register()
        with initialize_config_dir(config_dir=str(packaged("conf").resolve()), version_base="1.3"):
            config = from_hydra(compose("train", [f"{key}={value}" for key, value in words.items()]))
        try:
            return train(config, choices_for(config)), started[0]
        finally:
            run.engine = started[0] if started else None

    return run


QUIET = {"evaluation.max_pictures": "3", "evaluation.k": "1", "evaluation.test_k": "1", "evaluation.probes": "0"}
QUIET |= {"data.train": "[demo_five]", "data.validation": "[demo_five]", "data.test": "[]"}


def test_a_run_draws_from_the_engine_and_the_canary_is_quiet(run, capsys):
    folder, engine = run(FakeEngine, **QUIET, **{"trainer.max_steps": "3", "trainer.learning_rate": "1e-3"})
    found = training_rows(folder)
    assert [row["step"] for row in found] == [1, 2, 3]
    assert "warning" not in capsys.readouterr().err  # every figure that is expected has come, and no other
    for row in found:
        assert row["canary/logp_difference"] < 1e-4  # the fake is the same arithmetic
        assert row["canary/importance_ratio"] == pytest.approx(1, abs=1e-4)
    # An evaluation and the step after it use the same weights: they are sent once for each.
    assert engine.log.count("load") == 4
    assert engine.log.count("forget pictures") == 0  # the demonstration's tower is frozen
    assert engine.settings["limits"] == (3136, 200704)
    training = [asked for asked in engine.asked if {q.k for q in asked} == {3}]
    assert len(training) == 3 and all(len(asked) == 4 for asked in training)


def test_the_same_seed_is_the_same_run_and_another_is_not(run, tmp_path):
    def metrics(name, seed, **settings):
        folder, _ = run(FakeEngine, **QUIET, **settings, name=name, seed=str(seed))
        return [row for row in rows(folder) if "train/loss" in row]

    first = metrics("a", 0)
    # What an evaluation in between draws is not taken from training.
    assert metrics("b", 0, **{"evaluation.every": "1"}) == first
    assert metrics("c", 1) != first


def test_stale_weights_stop_the_run_with_what_was_learnt_saved(run, tmp_path):
    stale = {"trainer.learning_rate": "2e-3", "trainer.max_steps": "8"}
    with pytest.raises(RolloutError, match=r"canary/logp_difference is .*, over.*\nsaved .*resume=auto"):
        run(Stale, **QUIET, **stale, **{"trainer.save_steps": "8"})
    done = len(training_rows(tmp_path / "run"))
    assert 1 <= done < 8
    state = json.loads((tmp_path / "run" / f"checkpoint-{done}" / "trainer_state.json").read_text())
    assert state["global_step"] == done
    assert (tmp_path / "run" / f"checkpoint-{done}" / "optimizer.pt").is_file()


@pytest.mark.parametrize("engine", [Mute, Mumbling])
def test_tokens_without_a_probability_are_heard(run, engine):
    """TRL leaves them out of its figure, which is 0 where no other token is left."""
    with pytest.raises(RolloutError, match=r"after step 0: canary/logp_difference is nan: there are tokens that"):
        run(engine, **QUIET)


def test_a_policy_without_probabilities_is_heard(run, monkeypatch):
    def broken(self, *args, **kwargs):
        logps, entropies = scored(self, *args, **kwargs)
        return logps * math.nan, entropies

    scored = RankingTrainer._score
    monkeypatch.setattr(RankingTrainer, "_score", broken)
    with pytest.raises(RolloutError, match="canary/logp_difference is nan"):
        run(FakeEngine, **QUIET)


def test_a_run_that_lost_its_server_goes_on_where_it_stopped(run, tmp_path):
    settings = {
        **QUIET,
        "data.validation": "[]",
        "data.test": "[]",
        "trainer.max_steps": "4",
        "trainer.save_steps": "4",
    }
    with pytest.raises(RolloutError, match=r"failed: gone\nsaved .*checkpoint-2;"):
        run(Deaf, **settings)
    folder, _ = run(FakeEngine, **settings, resume="true")
    undisturbed, _ = run(FakeEngine, **settings, name="undisturbed")
    assert training_rows(folder) == training_rows(undisturbed)
    assert [row["step"] for row in training_rows(folder)] == [1, 2, 3, 4]


def test_a_canary_that_may_only_warn_lets_the_run_end(run, capsys):
    loose = {"rollout.vllm.canary_limit": "1e-12", "rollout.vllm.canary_stop": "false"}
    folder, _ = run(FakeEngine, **QUIET, **loose)
    assert len(training_rows(folder)) == 2
    assert capsys.readouterr().err.count("warning: after step 0: canary/logp_difference") == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rollout.vllm.max_length": "100"}, "max_length=100 is too short.*set it to"),
        ({"rollout.vllm.tensor_parallel": "2"}, "tensor_parallel=2 does not divide 1 processes"),
        ({"evaluation.proof": "true"}, "evaluation.proof=true, and nothing was given that judges the run"),
        ({"rollout.temperature": "2.5"}, "rollout.temperature=2.5: vLLM takes at most 2"),
        ({"trainer.top_p": "0.9"}, "trainer.top_p=0.9 changes the distribution"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_step(run, tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        run(FakeEngine, **QUIET, **wrong)
    assert not list((tmp_path / "run").glob("metrics.jsonl"))


class Narrow(FakeEngine):
    """Its processor sees smaller pictures than training does."""

    def image_processor(self):
        from transformers import Qwen2VLImageProcessor

        return Qwen2VLImageProcessor(size={"shortest_edge": 3136, "longest_edge": 6272})


def test_an_engine_that_sees_other_pictures_is_refused(run):
    with pytest.raises(ValueError, match="vLLM makes a grid of"):
        run(Narrow, **QUIET)


def test_no_more_pictures_are_decoded_for_the_check_than_it_compares(run, monkeypatch):
    loaded = []

    class Counting(PictureLoader):
        def __call__(self, path):
            loaded.append(path)
            return super().__call__(path)

    class StartedError(Exception):
        pass

    def make(*args, **kwargs):
        trainer = make_trainer(*args, **kwargs)
        loaded.clear()
        return trainer

    def start(trainer, config, choices, processor, max_length, pictures, *_):
        raise StartedError(len(pictures), len(loaded), len(trainer.train_dataset))

    make_trainer = ranking_recipe.make_trainer
    monkeypatch.setattr(run_module, "picture_loader", lambda low, high, _: Counting(low, high))
    monkeypatch.setattr(ranking_recipe, "make_trainer", make)
    monkeypatch.setattr(ranking_recipe, "use_vllm", start)
    with pytest.raises(StartedError) as started:
        run(FakeEngine, **QUIET)
    compared, decoded, pictures = started.value.args
    assert (compared, decoded) == (COMPARED, COMPARED)
    assert pictures > 2 * COMPARED


@pytest.mark.parametrize(("dtype", "found"), [("auto", "bfloat16"), ("bfloat16", "bfloat16"), ("float32", "float32")])
def test_vllm_computes_in_what_training_computes_in(monkeypatch, tmp_path, dtype, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(start_vllm, "vision_tokens", lambda tokenizer: ())
    monkeypatch.setattr(
        start_vllm, "SyncedGeneration", lambda start, **_: SimpleNamespace(engine=start(), mode="server")
    )
    config = Config(
        data=DataConfig(train=["demo_five"]),
        policy=PolicyConfig(path="tiny", tuning=Tuning.lora, dtype=dtype),
        trainer={"images_per_step": 8, "answers_per_device": 6, "save_steps": 1},
    )
    choices = choices_for(config, gpus=1)
    args = grpo_config(config, choices, tmp_path)
    used: list = []
    trainer = SimpleNamespace(
        args=args, model=None, accelerator=None, eos_token_ids=[], use=lambda g, _: used.append(g)
    )
    engine = lambda path, processor, **settings: settings["dtype"]  # noqa: E731
    use_vllm(trainer, config, choices, SimpleNamespace(tokenizer=None), 100, [], print, engine)
    assert [generation.engine for generation in used] == [found]


@pytest.mark.parametrize(("dtype", "size"), [("auto", 1), ("float32", 2)])
def test_the_memory_that_vllm_is_given_is_for_what_it_computes_in(monkeypatch, policy_folder, dtype, size):
    checked: list = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=8e10))
    monkeypatch.setattr(start_vllm, "check_memory", lambda weights, cache, *_: checked.append((weights, cache)))
    config = Config(
        policy=PolicyConfig(path=str(policy_folder), dtype=dtype),
        rollout=RolloutConfig(engine=TrainingEngine.vllm_colocate),
    )
    choices = replace(choices_for(config), policy=policy_folder)
    length = check_engine(config, choices, load_processor(config.policy))
    # The folder's weights are float32, 4 bytes each: 2 layers, 2 heads for keys and values of 32 numbers each.
    assert checked == [(weight_bytes(policy_folder) * size // 2, 2 * 2 * size * length * 2 * 2 * 32)]


def test_transformers_needs_none_of_it(run):
    with pytest.raises(IndexError):  # nothing was started
        run(FakeEngine, **QUIET, rollout="transformers")
    assert run.engine is None
