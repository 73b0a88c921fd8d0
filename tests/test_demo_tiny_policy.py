"""The shipped policy is what its record says, and a miniature of its making gives what it gave before."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from vqr1.demo.cold_start import ColdStart, make_tiny_policy, weights_hash
from vqr1.policy.load import SHIPPED

RECORD = json.loads((SHIPPED / "record.json").read_text())


def test_the_weights_are_those_of_the_record():
    assert weights_hash(SHIPPED) == RECORD["sha256"]
    assert RECORD["recipe"] == asdict(ColdStart())
    assert (SHIPPED / "model.safetensors").stat().st_size <= 8_000_000


def test_the_record_shows_that_it_learnt():
    by_stage = {stage: [row["loss"] for row in RECORD["log"] if row["stage"] == stage] for stage in ("sight", "speech")}
    assert by_stage["sight"][-1] < 0.5 * by_stage["sight"][0]
    assert by_stage["speech"][-1] < by_stage["speech"][0]


@pytest.mark.full
def test_making_it_is_repeatable(tmp_path):
    """The whole of `make tiny-policy`, a hundred times smaller, twice."""
    small = ColdStart(chunks=1, sight_steps=5, sight_batch=16, speech_steps=5, speech_batch=16)
    hashes = {make_tiny_policy(tmp_path / str(i), small, say=lambda line: None)["sha256"] for i in range(2)}
    assert len(hashes) == 1
