"""Which engine answers, and the settings of vLLM that are refused before anything is loaded."""

from __future__ import annotations

import pytest

from vqr1 import rollout_settings
from vqr1.rollout_settings import (
    ACTIVATIONS,
    Correction,
    LoraSync,
    TrainingEngine,
    VllmSettings,
    check_memory,
    check_untruncated,
    check_vllm,
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


def test_a_sleeping_engine_must_be_sent_weights():
    with pytest.raises(ValueError, match="lora=adapter sends no weights"):
        check_vllm(VllmSettings(lora=LoraSync.adapter, sleep=True))


@pytest.mark.parametrize("truncated", [{"top_p": 0.9}, {"top_k": 50}, {"min_p": 0.1}, {"repetition_penalty": 1.05}])
def test_truncated_sampling_is_refused(truncated):
    check_untruncated({"top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0})
    check_untruncated({})
    with pytest.raises(ValueError, match=f"trainer.{next(iter(truncated))}=.*bias the importance ratio"):
        check_untruncated(truncated)


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
