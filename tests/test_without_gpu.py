"""What there is to train with without a GPU, and what is said of a step that takes long there."""

from __future__ import annotations

import os

from vqr1.policy.without_gpu import matmul_speed, memory_limit, step_warning


def test_a_step_that_takes_long_is_warned_of():
    assert "policy.path=three takes about 7 hours" in step_warning("three", 25_000)
    assert "about 3 minutes" in step_warning("three", 180)
    assert step_warning("three", 59) is None


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
