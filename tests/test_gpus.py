"""What nvidia-smi says is read, within a time limit, and told where torch cannot use what is there."""

from __future__ import annotations

import time

import pytest
import torch

from tests.support.nvidia import CARD, put_nvidia_smi
from vqr1.errors import UserError
from vqr1.gpus import MIB, Card, Driver, ask_driver, why_unusable
from vqr1.launching import visible_gpus

LOST = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."


def test_driver_and_cards_are_read(tmp_path, monkeypatch):
    put_nvidia_smi(tmp_path, monkeypatch, CARD, "Tesla T4, [N/A], [N/A]")
    h100 = Card("NVIDIA H100 80GB HBM3", 81559 * MIB, 80994 * MIB)
    assert ask_driver() == Driver("580.95.05", (h100, Card("Tesla T4", 0, 0)))


@pytest.mark.parametrize(
    ("says", "code", "expected"),
    [(LOST, 9, LOST), ("No devices were found", 0, "No devices were found"), ("", 14, "no GPU (exit code 14)")],
)
def test_what_nvidia_smi_complains_of_is_told(says, code, expected, tmp_path, monkeypatch):
    put_nvidia_smi(tmp_path, monkeypatch, says=says, code=code)
    assert ask_driver() == Driver(trouble=f"nvidia-smi: {expected}")


def test_nvidia_smi_is_not_waited_for(tmp_path, monkeypatch):
    put_nvidia_smi(tmp_path, monkeypatch)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 30\n")
    began = time.monotonic()
    assert ask_driver(0.2) == Driver(trouble="nvidia-smi did not answer within 0.2 seconds")
    assert time.monotonic() - began < 10
    monkeypatch.setenv("PATH", "/nonexistent")
    assert ask_driver() == Driver()


def test_why_torch_cannot_use_a_gpu():
    old = "driver 535.104.05 is too old: torch 2.13.0 is built for CUDA 13.0, which needs 580 or later"
    assert old in why_unusable(Driver("535.104.05"), "2.13.0", "13.0")
    assert "too old" not in why_unusable(Driver("580.65.06"), "2.13.0", "13.0")
    assert "too old" not in why_unusable(Driver("535.104.05"), "2.11.0", "12.8")
    assert LOST in why_unusable(Driver(trouble=LOST), "2.13.0", "13.0")
    assert "torch 2.13.0+cpu is built without CUDA" in why_unusable(Driver("580.65.06"), "2.13.0+cpu", None)


def test_a_run_is_not_begun_on_gpus_that_torch_cannot_use(tmp_path, monkeypatch):
    put_nvidia_smi(tmp_path, monkeypatch, CARD, CARD, driver="535.104.05")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"driver 535\.104\.05 is too old.* needs 580 or later; update the driver"):
        visible_gpus()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert visible_gpus() == 2
