"""Which engine answers, and the settings of vLLM that are refused before anything is loaded."""

from __future__ import annotations

import dataclasses
import inspect
import re

import pytest
from trl import GRPOConfig, GRPOTrainer

from vqr1 import rollout_settings
from vqr1.config_checks import OWNED
from vqr1.rollout_settings import (
    ACTIVATIONS,
    READ_BY_THE_CORRECTION,
    UNREAD,
    UNREAD_BY_VLLM,
    UNTRUNCATED,
    Correction,
    LoraSync,
    TrainingEngine,
    VllmSettings,
    check_memory,
    check_read,
    check_untruncated,
    check_vllm,
    check_vllm_is_asked,
    idle_vllm,
    longest_sequence,
    sequence_limit,
    settle_engine,
)


@pytest.fixture(params=[True, False], ids=["vllm installed", "vllm missing"])
def installed(request, monkeypatch):
    monkeypatch.setattr(rollout_settings, "vllm_installed", lambda: request.param)
    return request.param


def test_auto_is_vllm_where_there_is_a_gpu_and_vllm(installed):
    assert settle_engine(TrainingEngine.auto, gpus=1) is (
        TrainingEngine.vllm_colocate if installed else TrainingEngine.transformers
    )
    assert settle_engine(TrainingEngine.auto, gpus=0) is TrainingEngine.transformers
    assert settle_engine(TrainingEngine.auto, gpus=1, scripted=True) is TrainingEngine.transformers
    assert settle_engine(TrainingEngine.transformers, gpus=1) is TrainingEngine.transformers


@pytest.mark.parametrize("asked", [TrainingEngine.vllm_colocate, TrainingEngine.vllm_server])
def test_vllm_that_is_asked_for_and_missing_is_said(installed, asked):
    if installed:
        assert settle_engine(asked, gpus=0) is asked
        return
    with pytest.raises(ValueError, match=f"rollout.engine={asked.value} needs vLLM.*install it with.*rollout=transf"):
        settle_engine(asked, gpus=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"memory_share": 0.0},
        {"memory_share": 1.0},
        {"tensor_parallel": 0},
        {"max_length": 0},
        {"server_timeout": 0.0},
        {"correction_max": float("inf")},
        {"canary_limit": float("nan")},
        {"server": "localhost:8000"},
    ],
)
def test_a_setting_that_cannot_be_is_named(wrong):
    check_vllm(VllmSettings())
    with pytest.raises(ValueError, match=f"rollout.vllm.{next(iter(wrong))}="):
        check_vllm(VllmSettings(**wrong))


def test_a_canary_that_sees_nothing_must_be_wanted():
    with pytest.raises(ValueError, match="the canary is blind"):
        check_vllm(VllmSettings(correction=Correction.none))
    check_vllm(VllmSettings(correction=Correction.none, canary_stop=False))


def test_a_setting_of_vllms_beside_transformers_is_refused():
    asked = VllmSettings(memory_share=0.5)
    with pytest.raises(ValueError, match="rollout.vllm.memory_share=0.5 has no effect with rollout=transformers"):
        check_vllm_is_asked(TrainingEngine.transformers, asked)
    for engine in set(TrainingEngine) - {TrainingEngine.transformers}:
        check_vllm_is_asked(engine, asked)
    check_vllm_is_asked(TrainingEngine.transformers, VllmSettings())
    assert idle_vllm(VllmSettings(lora=LoraSync.adapter)) == "rollout.vllm.lora=adapter"


def test_a_sleeping_engine_must_be_sent_weights():
    with pytest.raises(ValueError, match="lora=adapter sends no weights"):
        check_vllm(VllmSettings(lora=LoraSync.adapter, sleep=True))


@pytest.mark.parametrize("truncated", [{"top_p": 0.9}, {"top_k": 50}, {"min_p": 0.1}, {"repetition_penalty": 1.05}])
def test_truncated_sampling_is_refused(truncated):
    check_untruncated({"top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0})
    check_untruncated({})
    with pytest.raises(ValueError, match=f"trainer.{next(iter(truncated))}=.*bias the importance ratio"):
        check_untruncated(truncated)


SET = {
    "use_transformers_continuous_batching": True,
    "use_transformers_paged": True,
    "transformers_continuous_batching_config": {"block_size": 16},
    "max_tool_calling_iterations": 3,
    "trust_remote_code": True,
    "vllm_model_impl": "transformers",
    "vllm_structured_outputs_regex": "<think>.*",
    "generation_kwargs": {"top_p": 0.9},
    "cache_implementation": "static",
    "ds3_gather_for_generation": False,
    "vllm_importance_sampling_clip_min": 0.5,
}  # every setting that may be without effect, at a value


@pytest.mark.parametrize("key", UNREAD)
@pytest.mark.parametrize(
    "engine", [TrainingEngine.transformers, TrainingEngine.vllm_colocate, TrainingEngine.vllm_server]
)
def test_a_setting_that_nothing_reads_is_refused(key, engine):
    with pytest.raises(ValueError, match=f"trainer.{key}=.* has no effect.*: .*Leave it out"):
        check_read({key: SET[key]}, engine, Correction.token_truncate)


@pytest.mark.parametrize("key", UNREAD_BY_VLLM)
def test_a_setting_of_transformers_is_refused_where_vllm_answers(key):
    check_read({key: SET[key]}, TrainingEngine.transformers, Correction.token_truncate)
    for engine in (TrainingEngine.vllm_colocate, TrainingEngine.vllm_server):
        with pytest.raises(ValueError, match=f"trainer.{key}=.*rollout={engine.value}: .*or set rollout=transformers"):
            check_read({key: SET[key]}, engine, Correction.token_truncate)


@pytest.mark.parametrize("key", [key for key in SET if key.startswith("vllm_")])
def test_a_setting_of_vllm_is_refused_where_transformers_answers(key):
    with pytest.raises(ValueError, match=f"trainer.{key}=.* has no effect with rollout=transformers"):
        check_read({key: SET[key]}, TrainingEngine.transformers, Correction.token_truncate)


def test_a_bound_of_the_correction_needs_one():
    bound = {"vllm_importance_sampling_clip_min": 0.5}
    check_read(bound, TrainingEngine.vllm_colocate, Correction.token_mask)
    with pytest.raises(ValueError, match="clip_min=0.5 has no effect with rollout.vllm.correction=none"):
        check_read(bound, TrainingEngine.vllm_colocate, Correction.none)


def test_every_setting_of_trl_for_generation_is_decided_honoured_or_refused():
    """One that a new TRL brings belongs in one of these tables, with the reason, or has the code that reads it."""
    fields = {field.name: field for field in dataclasses.fields(GRPOConfig)}
    about_vllm = {name for name in fields if name.startswith("vllm_")}
    refused = {**UNREAD, **UNREAD_BY_VLLM}
    assert about_vllm == {name for name in (*OWNED, *refused, *READ_BY_THE_CORRECTION) if name.startswith("vllm_")}
    assert set(SET) == {*refused, *READ_BY_THE_CORRECTION}
    idle = {name: value for name, (value, _) in refused.items()} | READ_BY_THE_CORRECTION
    assert {name: fields[name].default for name in idle} == idle
    # What TRL hands to its own start of vLLM, which is not used here, under GRPOConfig's names.
    start = inspect.getsource(GRPOTrainer.__init__).partition("VLLMGeneration(")[2].partition("_last_loaded_step")[0]
    handed = set(re.findall(r"args\.(\w+)", start))
    honoured = {"per_device_train_batch_size", "steps_per_generation"}  # how many answers vLLM draws at once
    assert handed >= {"generation_kwargs", "vllm_model_impl"}
    assert handed <= {*OWNED, *refused, *READ_BY_THE_CORRECTION, *UNTRUNCATED, *honoured}


def test_the_longest_sequence_of_the_papers_geometry():
    # 786,432 pixels are 1003 whole tokens of 28 x 28.
    assert longest_sequence(110, 786432, 28, 256) == 110 + 1003 + 256


def test_a_length_that_is_too_short_is_refused_with_the_length_that_is_needed():
    assert sequence_limit(None, 1369) == 1369
    assert sequence_limit(2048, 1369) == 2048
    with pytest.raises(ValueError, match="max_length=1368 is too short.*set it to 1369 or more"):
        sequence_limit(1368, 1369)


def test_a_share_of_memory_that_is_too_small_is_refused_with_the_share_that_is_enough():
    seven = int(16.6e9)  # a 7B policy in bfloat16, on a GPU of 80 GB
    check_memory(seven, 10**8, 0.3, 80 * 10**9)
    with pytest.raises(ValueError, match="memory_share=0.2 of a GPU of 80 GB is 16.0 GB.*needs 18.7 GB.*share=0.24"):
        check_memory(seven, 10**8, 0.2, 80 * 10**9)
    check_memory(seven, 10**8, 0.24, 80 * 10**9)  # what it says is enough is enough
    check_memory(seven, 10**8, 0.2, 80 * 10**9, tensor_parallel=2)
    with pytest.raises(ValueError, match="take a smaller policy"):
        check_memory(seven, 10**8, 0.9, 16 * 10**9)
    exact = ACTIVATIONS + 2e9
    check_memory(10**9, 10**9, 0.5, int(2 * exact))
