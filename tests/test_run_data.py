"""The data of a run: what is read, what is refused, and the control with shuffled scores."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from vqr1.config import Config, DataConfig, Preference, RewardKind
from vqr1.data import Sample, SplitRule, Splits
from vqr1.data.splits import described
from vqr1.errors import UserError
from vqr1.training import run_data
from vqr1.training.build_trainer import reward_functions
from vqr1.training.run_data import as_dataset, read_data, shuffled_mos


def samples(count, name="five", mos_std=0.5):
    return [Sample(f"{i}.png", 1 + i % 4, mos_std, name, str(i), f"{name}/{i}") for i in range(count)]


@pytest.fixture
def given(monkeypatch):
    """Datasets by name instead of files."""
    known = {}
    monkeypatch.setattr(run_data, "read_dataset", lambda name, root, rule: known[name])
    return known


def settings(**data):
    return Config(data=DataConfig(train=["five"], **data))


def test_a_dataset_with_one_picture_is_refused(given):
    given["five"] = Splits(train=samples(1))
    with pytest.raises(ValueError, match="five has 1 training pictures: ranking needs two or more"):
        read_data(settings())


def test_a_published_set_must_be_whole_unless_a_part_is_allowed(given):
    given["five"] = Splits(train=samples(9), published=10)
    with pytest.raises(
        ValueError, match=r"five in .* has 9 rated .* where 10 were published; .* as it is with data.partial=t"
    ):
        read_data(settings())
    assert len(read_data(settings(partial=True)).train) == 9


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


def test_regression_needs_both_ends_of_the_range(given, tmp_path):
    (tmp_path / "five").mkdir()
    (tmp_path / "five" / "dataset.yaml").write_text(
        "form: visualquality\nlabels: l\nimages: i\nhigher_is_better: true\nrange: [0, null]\nspread: none\n"
        "group: image\nfields: [dist, mos]\n"
    )
    given["five"] = Splits(train=samples(9))
    config = settings(root=str(tmp_path))
    config.reward.kind = RewardKind.regression
    with pytest.raises(UserError, match="reward.kind=regression rescales scores from their range, and that of five is"):
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


def test_the_split_of_every_set_is_kept_for_the_run_folder(given):
    given["five"] = Splits(train=samples(9), validation=samples(3, "five_more"))
    assert read_data(settings()).splits == {"five": described(given["five"])}


def test_the_rule_reaches_the_datasets(monkeypatch):
    seen = []
    monkeypatch.setattr(
        run_data, "read_dataset", lambda name, root, rule: seen.append(rule) or Splits(train=samples(9))
    )
    read_data(settings(split_ratio=[8, 0, 2], split_seed=7))
    assert seen == [SplitRule((8, 0, 2), 7)]
    with pytest.raises(ValueError, match=r"split ratio \[8, 2\]: give three shares"):
        read_data(settings(split_ratio=[8, 2]))


def test_a_batch_decodes_each_picture_once(tmp_path):
    from tests.support.miniatures import picture

    paths = [str(picture(tmp_path / f"{i}.png")) for i in range(3)]
    records = [Sample(path, i, None, "five", path, f"five/{i}") for i, path in enumerate(paths)]
    opened = Counter()

    def load(path):
        opened[path] += 1
        return Image.open(path)

    rows = as_dataset(records, [{"role": "user", "content": "rate"}], load)
    batch = rows[[2, 2, 2, 0, 0, 0, 2]]
    assert opened == {paths[2]: 1, paths[0]: 1}
    assert [Path(image.filename).stem for image in batch["image"]] == ["2", "2", "2", "0", "0", "0", "2"]


def test_the_regression_reward_knows_the_range_of_ones_own_set(tmp_path):
    from tests.test_declared import ROWS, declare

    declare(tmp_path, *ROWS)
    config = Config(data=DataConfig(train=["mine"], root=str(tmp_path)))
    config.reward.kind = RewardKind.regression
    quality, _ = reward_functions(config)
    answers = [[{"role": "assistant", "content": "<think></think><answer>3</answer>"}]] * config.rollout.k
    columns = {"image_id": ["mine/a"], "dataset": ["mine"], "mos_std": [None], "mos": [5.0]}  # the middle of 0 to 10
    rows = {name: values * config.rollout.k for name, values in columns.items()}
    assert quality(completions=answers, **rows) == [1.0] * config.rollout.k
