"""The data of a run: what is read, what is refused, and the control with shuffled scores."""

from __future__ import annotations

from collections import Counter

import pytest

from vqr1.config import Config, DataConfig, Preference
from vqr1.data import Sample, Splits
from vqr1.training import setup
from vqr1.training.setup import read_data, shuffled_mos


def samples(count, name="five", mos_std=0.5):
    return [Sample(f"{i}.png", 1 + i % 4, mos_std, name, str(i), f"{name}/{i}") for i in range(count)]


@pytest.fixture
def given(monkeypatch):
    """Datasets by name instead of files."""
    known = {}
    monkeypatch.setattr(setup, "read_dataset", lambda name, root: known[name])
    return known


def settings(**data):
    return Config(data=DataConfig(train=["five"], **data))


def test_a_dataset_with_one_picture_is_refused(given):
    given["five"] = Splits(train=samples(1))
    with pytest.raises(ValueError, match="five has 1 training pictures: ranking needs two or more"):
        read_data(settings())


@pytest.mark.parametrize("part", ["validation", "test"])
def test_an_empty_evaluation_set_is_refused(given, part):
    given["five"] = Splits(train=samples(9))
    with pytest.raises(
        ValueError, match=f"five has 0 {part} pictures, and a correlation needs three; take it out of data.{part}"
    ):
        read_data(settings(**{part: ["five"]}))


def test_soft_preferences_need_the_spread_of_the_ratings(given):
    given["five"] = Splits(train=[*samples(9), *samples(1, "other", mos_std=None)])
    config = settings()
    config.reward.preference = Preference.thurstone
    with pytest.raises(ValueError, match="other/0 has none; use hard"):
        read_data(config)


def test_shuffled_scores_are_the_same_scores_dealt_out_within_each_set(given):
    given["five"] = Splits(train=[*samples(40), *samples(40, "hundred")])
    plain = read_data(settings()).train
    dealt = read_data(settings(shuffle_mos=True)).train
    assert [s.image_id for s in dealt] == [s.image_id for s in plain]
    for name in ("five", "hundred"):
        assert Counter(s.mos for s in dealt if s.dataset == name) == Counter(s.mos for s in plain if s.dataset == name)
    moved = sum(a.mos != b.mos for a, b in zip(plain, dealt, strict=True))
    assert moved > 40
    assert shuffled_mos(plain, 0) == dealt != shuffled_mos(plain, 1)
