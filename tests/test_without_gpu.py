"""What a policy costs without a GPU: refused where it does not fit, warned of where a step takes long."""

from __future__ import annotations

import os

import pytest

from vqr1.errors import UserError
from vqr1.policy.load import SHIPPED
from vqr1.policy.weight_files import check_folder, parameter_count, stored_shapes
from vqr1.policy.without_gpu import (
    Cost,
    check_memory,
    lora_parameters,
    matmul_speed,
    memory_limit,
    step_seconds,
    step_warning,
)

GB = 10**9
THREE = Cost(total=3 * GB, trained=3 * GB, itemsize=4, reference=True)  # Qwen2.5-VL-3B in float32


def test_memory_is_weights_gradients_moments_and_reference():
    assert THREE.memory == (3 + 3 + 2 * 3 + 3) * 4 * GB
    lora = Cost(total=3 * GB, trained=GB // 100, itemsize=4, reference=False)
    assert lora.memory == (3 * GB + 3 * GB // 100) * 4


def test_what_does_not_fit_is_refused_with_the_figures():
    check_memory("three", THREE, 1, 61 * GB)
    with pytest.raises(UserError, match="policy.path=three needs at least 60.0 GB .*there are 16.0 GB.*policy=tiny"):
        check_memory("three", THREE, 1, 16 * GB)
    with pytest.raises(UserError, match="at least 120.0 GB"):
        check_memory("three", THREE, 2, 61 * GB)


def test_the_tiny_policy_is_neither_refused_nor_warned_of():
    total = parameter_count(stored_shapes(SHIPPED))
    cost = Cost(total, total, 4, reference=True)
    check_memory("tiny", cost, 8, memory_limit())
    seconds = step_seconds(cost, prompt_tokens=16 * 40, answer_tokens=96 * 16, checkpointing=False, speed=2e9)
    assert step_warning("tiny", seconds) is None


def test_a_step_that_takes_long_is_warned_of():
    seconds = step_seconds(THREE, prompt_tokens=32 * 500, answer_tokens=192 * 256, checkpointing=True, speed=1e11)
    assert seconds == pytest.approx(2 * 3e9 * 6 * (32 * 500 + 192 * 256) / 1e11)
    assert "policy.path=three takes about 7 hours" in step_warning("three", seconds)
    assert "about 3 minutes" in step_warning("three", 180)


def test_the_speed_is_a_processors():
    assert 1e8 < matmul_speed(128, 0.01) < 1e14


def test_the_limit_is_the_machines_or_a_groups(tmp_path):
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    mine, inner = tmp_path / "self", tmp_path / "groups" / "job" / "step"
    inner.mkdir(parents=True)
    mine.write_text("1:cpu:/other\n0::/job/step\n")
    assert memory_limit(tmp_path / "groups", mine) == machine
    (inner / "memory.max").write_text("max\n")
    (inner.parent / "memory.max").write_text("1000000\n")
    assert memory_limit(tmp_path / "groups", mine) == 10**6
    (tmp_path / "groups" / "memory").mkdir()
    (tmp_path / "groups" / "memory" / "memory.limit_in_bytes").write_text("5000\n")
    assert memory_limit(tmp_path / "groups", mine) == 5000


def test_adapters_are_counted(policy_folder):
    model = check_folder(policy_folder)
    name = "model.language_model.layers.0.mlp.up_proj"
    assert lora_parameters(model, [name], 4) == 4 * (128 + 384)
