"""Splits by content: nothing leaks, nothing is lost, and nothing depends on the machine."""

from __future__ import annotations

import dataclasses
import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqr1.data import SplitRule, Splits, read_dataset
from vqr1.data.sample import Sample
from vqr1.data.splits import check_split, described, shares, split_by_group, split_hash


def samples(groups: int, each: int = 3) -> list[Sample]:
    return [Sample("x", 1.0, None, "set", f"g{i}", f"set/{i}_{j}") for i in range(groups) for j in range(each)]


def names(splits: Splits) -> list[list[str]]:
    return [[sample.image_id for sample in part] for part in splits.parts().values()]


def test_the_order_is_that_of_the_digests():
    """The definition, spelled out: on any machine, in any version of Python, these are the groups of each part."""
    order = sorted((f"g{i}" for i in range(10)), key=lambda g: hashlib.sha256(f"3:set:{g}".encode()).hexdigest())
    splits = split_by_group(samples(10), SplitRule(seed=3))
    parts = [{sample.group for sample in part} for part in splits.parts().values()]
    assert parts == [set(order[:6]), set(order[6:8]), set(order[8:])]


def test_a_known_split_and_its_hash():
    splits = split_by_group(samples(5, each=1))
    assert names(splits) == [["set/0_0", "set/1_0", "set/3_0"], ["set/2_0"], ["set/4_0"]]
    text = "test\tset/4_0\ntrain\tset/0_0\ntrain\tset/1_0\ntrain\tset/3_0\nvalidation\tset/2_0"
    assert split_hash(splits) == hashlib.sha256(text.encode()).hexdigest()[:16]


@given(groups=st.integers(0, 60), each=st.integers(1, 4), seed=st.integers(0, 5))
def test_every_group_is_in_one_part_and_nothing_is_lost(groups, each, seed):
    given_ = samples(groups, each)
    splits = split_by_group(given_, SplitRule(seed=seed))
    check_split(splits, "set")
    assert sorted(s.image_id for s in splits.all()) == sorted(s.image_id for s in given_)
    counts = [len({s.group for s in part}) for part in splits.parts().values()]
    assert counts == shares(groups, (6, 2, 2))


def test_the_rows_order_does_not_matter():
    given_ = samples(20)
    mixed = random.Random(0).sample(given_, len(given_))
    assert split_hash(split_by_group(given_)) == split_hash(split_by_group(mixed))


def test_seed_and_dataset_matter():
    given_ = samples(40)
    plain = split_by_group(given_)
    assert names(split_by_group(given_, SplitRule(seed=1))) != names(plain)
    other = [dataclasses.replace(sample, dataset="other") for sample in given_]
    assert names(split_by_group(other)) != names(plain)


@pytest.mark.parametrize(
    ("total", "ratio", "expected"),
    [
        (81, (6, 2, 2), [49, 16, 16]),  # KADID-10k's published sizes
        (10, (6, 2, 2), [6, 2, 2]),
        (1, (6, 2, 2), [1, 0, 0]),
        (0, (6, 2, 2), [0, 0, 0]),
        (7, (1, 0, 0), [7, 0, 0]),
        (7, (0.8, 0, 0.2), [6, 0, 1]),
        (3, (1, 1, 1), [1, 1, 1]),
        (4, (1, 1, 1), [2, 1, 1]),
    ],
)
def test_shares(total, ratio, expected):
    assert shares(total, ratio) == expected


@pytest.mark.parametrize("ratio", [(6, 2), (0, 5, 5), (6, -1, 2), (6, float("nan"), 2), ()])
def test_a_ratio_that_divides_nothing_is_refused(ratio):
    with pytest.raises(ValueError, match=r"give three shares, train validation test, none negative and the first"):
        SplitRule(ratio)


def test_the_hash_knows_parts_and_pictures():
    one, two, three = samples(3, each=1)
    splits = Splits([one], [two], [three])
    same = Splits([one], [two], [three], notes=("read elsewhere",))
    assert split_hash(splits) == split_hash(same)
    hashes = {split_hash(s) for s in (splits, Splits([one], [three], [two]), Splits([one], [two]), Splits())}
    assert len(hashes) == 4


def test_a_group_in_two_parts_is_refused():
    one, two = samples(1, each=2)
    with pytest.raises(ValueError, match=r"here: group g0 is in train and in test \(set/0_1\); put all its pictures"):
        check_split(Splits([one], [], [two]), "here")


def test_a_split_as_it_is_stored():
    splits = split_by_group(samples(5, each=2))
    stored = described(splits)
    assert stored["hash"] == split_hash(splits)
    assert stored["train"] == {"pictures": 6, "groups": ["g0", "g1", "g3"]}


def test_a_rule_divides_our_splits_and_leaves_official_ones(tmp_path):
    from tests.support.miniatures import kadid10k, spaq

    spaq(tmp_path / "spaq")
    kadid10k(tmp_path / "kadid10k")
    rule = SplitRule((5, 0, 5), seed=4)
    counts = [len(part) for part in read_dataset("spaq", tmp_path, rule).parts().values()]
    assert counts == [5, 0, 5]
    assert [len(part) for part in read_dataset("spaq", tmp_path).parts().values()] == [6, 2, 2]
    assert read_dataset("spaq", tmp_path, rule).notes == read_dataset("spaq", tmp_path).notes
    assert names(read_dataset("kadid10k", tmp_path, rule)) == names(read_dataset("kadid10k", tmp_path))
