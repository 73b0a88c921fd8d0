"""What the proof says and against what."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from vqr1.data import read_dataset
from vqr1.demo.ceiling import lessons, read_ceiling, write_ceiling
from vqr1.demo.cold_start import weights_hash
from vqr1.demo.datasets import load_pictures
from vqr1.demo.proof import DemonstrationProof, label_ceiling, make_proof, proof_table
from vqr1.evaluation.correlation import srcc
from vqr1.training.evaluation_callback import Proof

END = {"srcc": 0.4, "srcc_low": 0.3, "srcc_high": 0.5, "score_std": 0.6, "plcc": 0.4, "n": 210, "unreadable": 0.0}


@pytest.fixture(scope="module")
def test_pictures(data_root):
    return read_dataset("demo_hundred", data_root / "").test


def test_label_ceiling_is_the_correlation_with_the_noise_free_labels(test_pictures, data_root):
    rows = [p for p in load_pictures("demo_hundred", data_root / "demo_hundred") if p.part == "test"]
    by_name = {f"demo_hundred/{p.file}": p for p in rows}
    clean = [by_name[s.image_id].noise_free_mos for s in test_pictures]
    noisy = [s.mos for s in test_pictures]
    assert label_ceiling(test_pictures, data_root) == srcc(clean, noisy)
    assert 0.9 < srcc(clean, noisy) < 0.999
    assert np.std(np.subtract(noisy, clean)) == pytest.approx(25 * 0.25, rel=0.2)


def test_the_proof_has_the_promised_keys(test_pictures, data_root, policy_folder):
    start = {"s_test": END, "s_test_at_0.3": {**END, "srcc": 0.41}}
    proof = make_proof(
        start,
        {"s_test": {**END, "srcc": 0.8}},
        {"s_test": test_pictures},
        answers=48,
        root=data_root,
        policy=policy_folder,
    )
    row = proof["s_test"]
    assert set(row) == {"start", "final", "start_at_0.3", "label_ceiling", "supervised_ceiling", "n", "answers"}
    assert set(row["start"]) == set(row["final"]) == {"srcc", "srcc_low", "srcc_high", "score_std"}
    assert row["start_at_0.3"] == {"srcc": 0.41}
    assert row["final"]["srcc"] == 0.8 and row["n"] == 210 and row["answers"] == 48
    assert row["supervised_ceiling"] is None
    table = proof_table(proof)
    assert "0.800 (0.300 to 0.500)" in table and "make ceiling" in table and "not an accuracy benchmark" in table


def test_what_a_run_is_given_is_this_proof(test_pictures, data_root, policy_folder):
    proof: Proof = DemonstrationProof()
    assert proof.name("s_test") == f"s_test_at_{proof.temperature}"
    start = {"s_test": END, proof.name("s_test"): END}
    tests = {"s_test": test_pictures}
    made = proof.make(start, start, tests, answers=48, root=data_root, policy=policy_folder)
    assert made == make_proof(start, start, tests, answers=48, root=data_root, policy=policy_folder)
    assert proof.text(made) == proof_table(made)


def test_a_ceiling_holds_for_its_own_weights_only(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"one")
    write_ceiling(tmp_path, {"s": 0.9}, {})
    assert read_ceiling(tmp_path) == {"s": 0.9}
    assert json.loads((tmp_path / "ceiling.json").read_text())["sha256"] == weights_hash(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"other")
    assert read_ceiling(tmp_path) == {}


def test_lessons_keep_the_reasoning_and_tell_the_true_score(test_pictures):
    sample = test_pictures[0]
    (lesson,) = lessons([sample], ["<think>why</think><answer>1.00</answer>"], load=lambda path: path)
    assert lesson.text == f"<think>why</think><answer>{1 + 4 * sample.mos / 100:.2f}</answer>"
    assert lessons([sample], ["no answer at all"], load=lambda path: path) == []


def test_undefined_figures_are_said_to_be_undefined():
    row = {"start": END, "final": {**END, "srcc": None}, "start_at_0.3": {"srcc": 0.1}, "label_ceiling": None}
    table = proof_table({"s": {**row, "supervised_ceiling": 0.7, "n": 3, "answers": 2}})
    assert "undefined" in table and not math.isnan(END["srcc"])
