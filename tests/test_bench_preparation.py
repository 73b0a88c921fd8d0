"""TRL's way and ours bring the same pictures to the policy; what they cost is for the benchmark to say."""

from __future__ import annotations

import pytest

from vqr1.bench import preparation
from vqr1.bench.preparation import PATHS, K, make_step, measure, noise, table


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(preparation, "SIZES", {"small": (112, 84)})
    monkeypatch.setattr(preparation, "PER_PASS", 2)


def test_both_ways_bring_the_same_bits(tmp_path):
    rows = noise("small", 2)
    trls, ours, read = (make_step(path, rows, str(tmp_path))() for path in PATHS)
    patches = 8 * 6
    assert (len(trls), len(ours)) == (2 * K * patches, 2 * patches)
    assert trls.nbytes == 8 * K * ours.nbytes
    copies = [{bytes(picture.numpy()) for picture in pixels.split(patches)} for pixels in (trls, read)]
    assert copies[0] == copies[1] and len(copies[0]) == 2


def test_a_part_of_a_step_holds_a_picture_once(tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "PER_PASS", 1)
    parts = []
    usual = preparation.RankingTrainer.compute_loss
    monkeypatch.setattr(
        preparation.RankingTrainer,
        "compute_loss",
        lambda self, model, part, **kw: parts.append(part) or usual(self, model, part, **kw),
    )
    make_step("ours", noise("small", 3), str(tmp_path))()
    assert [len(part["pixel_values"]) for part in parts] == [K] * 3
    assert len({picture.data_ptr() for part in parts for picture in part["pixel_values"]}) == 3
    assert len({picture.untyped_storage().data_ptr() for part in parts for picture in part["pixel_values"]}) == 1


def test_the_table_is_of_trls_over_ours():
    found = measure("small", 2, rounds=1)
    assert all(found[path]["seconds"] > 0 for path in PATHS)
    spent = (3.0, 8), (1.5, 1), (2.0, 4)
    rows = {"kadid": {path: {"seconds": s, "bytes": b} for path, (s, b) in zip(PATHS, spent, strict=True)}}
    assert table(rows).splitlines()[-1] == "| kadid | 2.0 | 8.0 | 1.5 | 2.0 |"
