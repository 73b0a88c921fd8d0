"""An evaluation's answers by an engine of its own: what it is asked, with which weights and which noise."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import GenerationConfig

from tests.support.fake_engine import FakeEngine
from vqr1.answer import build_prompt
from vqr1.answering.answerer import check_adapter, load_answerer
from vqr1.answering.methods import Asked, Method, answer_pictures
from vqr1.answering.model import find_model, load_model
from vqr1.answering.settings import settle
from vqr1.config import Config, LoraSettings, PolicyConfig, as_dict
from vqr1.evaluation.results import ROWS, SETTINGS
from vqr1.policy.load import load_generation_config, load_policy, load_processor, lora_config
from vqr1.rollout.engine import stop_tokens
from vqr1.rollout_settings import ScoringEngine
from vqr1.scoring.evaluate import evaluate
from vqr1.scoring.settings import EvaluateConfig, check

PROMPT = build_prompt("paper")


@pytest.fixture
def with_vllm(monkeypatch):
    """vLLM is here, and it is the stand-in."""
    monkeypatch.setattr("vqr1.rollout_settings.vllm_installed", lambda: True)
    monkeypatch.setattr("vqr1.answering.answerer.VllmEngine", FakeEngine)


def settings(model, **changes):
    config = EvaluateConfig(
        model=str(model), data=["kadid10k"], engine=ScoringEngine.vllm, max_tokens=6, dtype="float32", attention="sdpa"
    )
    return settle(replace(config, **changes), gpus=0)


def answerer_of(model, **changes):
    config = settings(model, **changes)
    return load_answerer(config, find_model(config))


def pictures_of(n, side=56):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(n)]


def examples_of(n, k=1, **fields):
    return [
        {"image": picture, "prompt": PROMPT, "image_id": f"s/{i}", "seed": 100 * i, **fields}
        for i, picture in enumerate(pictures_of(n))
        for _ in range(k)
    ]


# What is asked


def test_the_answers_to_a_picture_are_one_question_and_come_in_order(with_vllm, policy_folder):
    answerer = answerer_of(policy_folder)
    examples = examples_of(3, k=2)
    answers = answerer.policy.answer(examples)
    (questions,) = answerer.engine.asked
    assert [(q.k, q.seed, q.pictures) for q in questions] == [(2, e["seed"], [e["image"]]) for e in examples[::2]]
    alone = [answerer.policy.answer([{**e, "seed": e["seed"] + n % 2}])[0] for n, e in enumerate(examples)]
    assert answers == alone
    assert len(set(answers)) == 6


def test_without_a_seed_noise_comes_from_torchs_generator(with_vllm, policy_folder):
    answerer = answerer_of(policy_folder)
    examples = [{key: value for key, value in e.items() if key != "seed"} for e in examples_of(2)]
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(answerer.policy.answer(examples))
    assert found[0] == found[1] != found[2]


def test_greedy_is_transformers_greedy(with_vllm, policy_folder):
    ours = answerer_of(policy_folder, method=Method.greedy).policy.answer(examples_of(3))
    theirs = answerer_of(policy_folder, method=Method.greedy, engine=ScoringEngine.transformers).policy.answer(
        examples_of(3)
    )
    assert ours == theirs
    assert len(set(ours)) > 1


def test_a_picture_outside_the_pixel_limits_is_refused(with_vllm, policy_folder):
    answerer = answerer_of(policy_folder, min_pixels=3136, max_pixels=4 * 3136)
    answerer.policy.answer(examples_of(1))
    for side in (140, 60):
        with pytest.raises(
            ValueError, match=f"a picture of {side}x{side} pixels does not fit the policy's grid of 3136"
        ):
            answerer.policy.answer(examples_of(1, image=Image.new("RGB", (side, side))))


def test_an_engine_that_sees_other_pixels_is_refused(with_vllm, policy_folder):
    answerer = answerer_of(policy_folder)
    answerer.check(pictures_of(2))
    other = load_processor(answerer.model.policy)
    other.image_processor.image_mean = [0.5, 0.5, 0.4]
    answerer.engine.processor = other
    with pytest.raises(ValueError, match="of a picture of 56x56 pixels vLLM makes a grid of .*, or other pixels"):
        answerer.check(pictures_of(2))


def test_the_engine_is_started_with_the_policys_limits_and_the_longest_sequence(with_vllm, policy_folder):
    answerer = answerer_of(policy_folder, max_pixels=6272, memory_share=0.5, max_tokens=10)
    started = answerer.engine.settings
    largest = examples_of(1, image=Image.new("RGB", (112, 56)))
    answerer.policy.answer(largest)
    assert started["max_length"] == len(answerer.engine.asked[0][0].ids) + 10
    assert (started["limits"], started["dtype"], started["memory_share"]) == ((3136, 6272), "float32", 0.5)
    assert (started["parallel"], started["colocated"]) == (1, False)


# Which tokens end an answer


@pytest.mark.parametrize(
    ("own", "stops"), [(None, (7,)), (7, (7,)), (3, (7, 3)), ([3, 7], (3, 7)), ([3, 4], (7, 3, 4))]
)
def test_an_answer_ends_with_the_models_or_the_tokenizers_stop_token(own, stops):
    class Tokenizer:
        eos_token_id = 7

    assert stop_tokens(GenerationConfig(eos_token_id=own), Tokenizer()) == stops


def test_the_folder_says_of_stop_tokens_what_the_loaded_model_says(policy_folder, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in policy_folder.iterdir():
        if file.name != "generation_config.json":
            (bare / file.name).symlink_to(file)
    found = []
    for folder in (policy_folder, bare):
        loaded = load_policy(PolicyConfig(path=str(folder), dtype="float32", attention="sdpa"))
        found.append(load_generation_config(str(folder)).eos_token_id)
        assert found[-1] == loaded.generation_config.eos_token_id
    assert found[0] != found[1]


def test_answers_with_seeds_of_their_own_are_asked_each_by_itself(with_vllm, policy_folder):
    answerer = answerer_of(policy_folder)
    examples = [{**each, "answer_seed": 7 * i} for i, each in enumerate(examples_of(2, k=3))]
    answers = answerer.policy.answer(examples)
    (questions,) = answerer.engine.asked
    assert [(question.k, question.seed) for question in questions] == [(1, 7 * i) for i in range(6)]
    assert answerer.policy.answer(examples[4:]) == answers[4:]


def test_drawn_tokens_end_where_the_answer_does(policy_folder):
    answerer = answerer_of(policy_folder, engine=ScoringEngine.transformers, max_tokens=60)
    stop = stop_tokens(load_generation_config(str(policy_folder)), answerer.processor.tokenizer)
    torch.manual_seed(0)
    drawn = answerer.policy.draw(examples_of(8, k=4))
    ended = [ids for ids in drawn if len(ids) < 60]
    assert 0 < len(ended) < len(drawn)
    assert all(ids[-1] in stop for ids in ended)
    assert not any(token in stop for ids in drawn for token in ids[:-1])


# Whose weights


def adapted_run(tmp_path, policy_folder):
    from peft import get_peft_model

    adapted = get_peft_model(load_policy(PolicyConfig(path=str(policy_folder))), lora_config(LoraSettings(r=2)))
    torch.manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    run = tmp_path / "run"
    adapted.save_pretrained(run / "best")
    config = Config(policy=PolicyConfig(path=str(policy_folder), min_pixels=3136, max_pixels=50176))
    (run / "config.yaml").write_text(yaml.safe_dump(as_dict(config)))
    return run


def test_an_adapter_is_merged_and_handed_over(with_vllm, policy_folder, tmp_path):
    answerer = answerer_of(adapted_run(tmp_path, policy_folder))
    assert answerer.engine.log == ["load", "forget pictures"]
    merged = dict(load_model(answerer.model)[0].named_parameters())
    engines = dict(answerer.engine.model.named_parameters())
    assert engines.keys() == merged.keys()
    assert all(torch.equal(weight, merged[name].cpu()) for name, weight in engines.items())
    plain = dict(load_policy(PolicyConfig(path=str(policy_folder))).named_parameters())
    assert any(not torch.equal(weight, plain[name]) for name, weight in engines.items())
    assert answerer_of(policy_folder).engine.log == []


def test_an_adapter_cannot_be_handed_to_several_processes(with_vllm, policy_folder, tmp_path):
    config = settle(replace(settings(adapted_run(tmp_path, policy_folder)), tensor_parallel=2), gpus=2)
    with pytest.raises(
        ValueError, match="tensor_parallel=2 cannot take over the LoRA weights of .*best; set tensor_par"
    ):
        check_adapter(config, find_model(config))
    check_adapter(replace(config, tensor_parallel=1), find_model(config))
    check_adapter(config, find_model(settings(policy_folder)))


# Whatever else is in the batch


def test_a_pictures_answers_are_the_same_whatever_the_batch(with_vllm, policy_folder):
    answerer, pictures = answerer_of(policy_folder), pictures_of(4)

    def answers(batches, at_once=None, seed=0):
        asked = Asked(Method.mean, 2, seed)
        found = [answer_pictures(answerer, [pictures[i] for i in part], asked, at_once) for part in batches]
        order = [i for part in batches for i in part]
        return [each for _, each in sorted(zip(order, (each for part in found for each in part), strict=True))]

    whole = answers([range(4)])
    assert answers([[0], [2, 1], [3]]) == answers([range(4)], at_once=3) == whole
    assert len({text for each in whole for text in each.texts}) == 8
    assert answers([range(4)], seed=1) != whole


# Settings and the record


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory_share": 1.0}, "memory_share=1.0: it is a share, above 0 and under 1"),
        ({"memory_share": 0.0}, "memory_share=0.0: it is a share"),
        ({"tensor_parallel": 0}, "tensor_parallel=0: set it to 1 or more"),
        ({"batch": 0}, "batch=0: set it to 1 or more"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        check(EvaluateConfig(model="tiny", data=["bid"], **changes))


@pytest.mark.parametrize(
    ("engine", "gpus", "installed", "settled"),
    [
        ("auto", 1, True, "vllm"),
        ("auto", 0, True, "transformers"),
        ("auto", 1, False, "transformers"),
        ("vllm", 0, True, "vllm"),
        ("transformers", 1, True, "transformers"),
    ],
)
def test_the_engine_is_settled_by_the_machine(monkeypatch, engine, gpus, installed, settled):
    monkeypatch.setattr("vqr1.rollout_settings.vllm_installed", lambda: installed)
    config = settle(EvaluateConfig(model="tiny", data=["bid"], engine=ScoringEngine[engine]), gpus)
    assert config.engine is ScoringEngine[settled]
    assert config.batch == {"vllm": 3072, "transformers": 192}[settled]


def test_what_this_machine_has_not_is_refused(monkeypatch):
    config = EvaluateConfig(model="tiny", data=["bid"], engine=ScoringEngine.vllm, tensor_parallel=4)
    monkeypatch.setattr("vqr1.rollout_settings.vllm_installed", lambda: False)
    with pytest.raises(
        ValueError, match="engine=vllm needs vLLM, which is not installed; .*or set engine=transformers"
    ):
        settle(config, gpus=4)
    monkeypatch.setattr("vqr1.rollout_settings.vllm_installed", lambda: True)
    assert settle(config, gpus=4).tensor_parallel == 4
    with pytest.raises(ValueError, match="tensor_parallel=4: there are 2 GPUs; set it to that or less"):
        settle(config, gpus=2)


def test_vllms_batch_holds_few_enough_pictures(with_vllm):
    for changes, batch in (({"method": Method.greedy}, 512), ({"k": 3}, 1536), ({"k": 48}, 3072), ({"batch": 7}, 7)):
        assert settings("tiny", **changes).batch == batch


@pytest.fixture
def kadid(tmp_path, sized):
    sized("kadid10k", 4)
    folder = tmp_path / "data" / "kadid10k"
    (folder / "images").mkdir(parents=True)
    names = [f"I01_01_{level:02}.png" for level in range(1, 5)]
    rows = [f"{name},I01.png,{4.9 - i:.2f},0.2" for i, name in enumerate(names)]
    (folder / "dmos.csv").write_text("\n".join(["dist_img,ref_img,dmos,var", *rows]) + "\n")
    for name, picture in zip(names, pictures_of(4), strict=True):
        picture.save(folder / "images" / name)
    return tmp_path / "data"


def test_an_evaluation_says_which_engine_answered_and_goes_on_with_no_other(with_vllm, kadid, policy_folder, tmp_path):
    config = EvaluateConfig(
        model=str(policy_folder), data=["kadid10k"], root=str(kadid), k=2, batch=4, max_tokens=4,
        engine=ScoringEngine.vllm, folder=str(tmp_path / "e"), max_pixels=50176,
    )  # fmt: skip
    folder = evaluate(config)
    record = json.loads((folder / SETTINGS).read_text())["settings"]
    assert (record["engine"], record["tensor_parallel"], record["attention"]) == ("vllm", 1, None)
    whole = (folder / ROWS).read_bytes()
    (folder / ROWS).write_bytes(b"".join(whole.splitlines(keepends=True)[:2]))
    with pytest.raises(ValueError, match='holds an evaluation with engine = "vllm", and now it is "transformers"'):
        evaluate(replace(config, engine=ScoringEngine.transformers))
    evaluate(config)
    assert (folder / ROWS).read_bytes() == whole
