"""The demonstration datasets: always the same, split by content over both, never half made."""

import errno
import json
import os
import statistics
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vqr1.data import DATASETS, read_dataset, register
from vqr1.demo import datasets
from vqr1.demo.datasets import DEMO_DATASETS, RATER_STD, fingerprint, load_pictures, make_dataset, true_mos
from vqr1.demo.photographs import photographs
from vqr1.demo.specs import register_demonstration
from vqr1.errors import UserError

NAMES = sorted(DEMO_DATASETS)


@pytest.fixture(scope="module", autouse=True)
def small():
    """Few training pictures; validation and test stay whole."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "TRAIN_PICTURES", 60)
        patch.setattr(datasets, "TRAIN_DRAWN", 6)
        yield


@pytest.fixture(scope="module")
def root(small, tmp_path_factory):
    made = tmp_path_factory.mktemp("data")
    for name in NAMES:
        load_pictures(name, made / name)
    return made


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def few(monkeypatch):
    """Nothing but three training pictures of one drawn content."""
    monkeypatch.setattr(datasets, "TRAIN_PICTURES", 3)
    monkeypatch.setattr(datasets, "TRAIN_DRAWN", 1)
    monkeypatch.setattr(datasets, "VALIDATION_DRAWN", 0)
    monkeypatch.setattr(datasets, "PHOTOGRAPHS", {"train": (), "validation": (), "test": ()})


def test_made_twice_it_is_the_same_to_the_byte(root, tmp_path):
    load_pictures("demo_five", tmp_path / "elsewhere")
    assert contents(tmp_path / "elsewhere") == contents(root / "demo_five")


def test_made_once_it_is_only_read(root):
    before = {file: file.stat().st_mtime_ns for file in (root / "demo_five").iterdir()}
    rows = load_pictures("demo_five", root / "demo_five")
    assert {file: file.stat().st_mtime_ns for file in (root / "demo_five").iterdir()} == before
    assert {row.file for row in rows} | {"labels.json"} == {file.name for file in before}


def test_no_content_is_in_two_parts_over_both_sets(root):
    groups = {"train": set(), "validation": set(), "test": set()}
    for name in NAMES:
        splits = read_dataset(name, root)
        for part, seen in groups.items():
            seen.update(sample.group for sample in getattr(splits, part))
    assert not groups["train"] & groups["validation"]
    assert not groups["train"] & groups["test"]
    assert not groups["validation"] & groups["test"]
    known = {photograph.name for photograph in photographs()}
    assert groups["test"] <= known
    for part in ("train", "validation"):  # drawn ones and photographs
        assert groups[part] - known
        assert groups[part] & known


@pytest.mark.parametrize("name", NAMES)
def test_the_test_set_is_photographs_and_large_enough(root, name):
    test = read_dataset(name, root).test
    assert len(test) >= 200
    assert len({sample.group for sample in test}) >= 3
    cells = Counter(
        (row.content, row.kind, row.level) for row in load_pictures(name, root / name) if row.part == "test"
    )
    assert set(cells.values()) == {datasets.TEST_CROPS}
    assert len(cells) == 3 * 7 * 5


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_on_the_sets_own_scale(root, name):
    low, high = DATASETS[name].range
    rows = load_pictures(name, root / name)
    assert all(low <= row.mos <= high for row in rows)
    assert max(row.mos for row in rows) - min(row.mos for row in rows) > 0.6 * (high - low)
    unit = (high - low) / 4
    for row in rows:
        expected = low + unit * (true_mos(row.kind, row.level) - 1)
        assert row.noise_free_mos == pytest.approx(expected, abs=1e-4)
        assert row.mos_std == pytest.approx(unit * datasets.RATING_STD)


def test_the_raters_noise_is_a_quarter_of_a_point(root):
    noise = []
    for name in NAMES:
        low, high = DATASETS[name].range
        unit = (high - low) / 4
        # Away from the ends, where nothing is cut off.
        rows = [r for r in load_pictures(name, root / name) if low + unit < r.noise_free_mos < high - unit]
        noise += [(row.mos - row.noise_free_mos) / unit for row in rows]
    assert len(noise) > 300
    assert abs(statistics.fmean(noise)) < 4 * RATER_STD / len(noise) ** 0.5
    assert statistics.stdev(noise) == pytest.approx(0.25, rel=0.12)


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_crops_of_sixteen_tokens(root, name):
    splits = read_dataset(name, root)
    for sample in [*splits.train, *splits.validation, *splits.test[::10]]:
        with Image.open(sample.image) as picture:
            assert (picture.size, picture.mode) == ((112, 112), "RGB")


def test_a_stronger_distortion_is_farther_from_the_content():
    # The same window at every level, for the generator starts anew.
    content = datasets.photograph_contents("test")[0]
    windows = [
        datasets.render(content, "gaussian_blur", level, np.random.default_rng(4)).astype(float)
        for level in range(1, 6)
    ]
    far = [np.abs(window - windows[0]).mean() for window in windows]
    assert far == sorted(far)
    assert far[-1] > far[1] > 0


def test_a_stale_cache_is_made_anew(tmp_path, monkeypatch):
    few(monkeypatch)
    folder = tmp_path / "demo_five"
    load_pictures("demo_five", folder)
    labels = folder / "labels.json"
    stored = json.loads(labels.read_text())
    assert stored["fingerprint"] == fingerprint(DEMO_DATASETS["demo_five"])
    monkeypatch.setattr(datasets, "VERSION", datasets.VERSION + 1)
    rows = load_pictures("demo_five", folder)
    assert json.loads(labels.read_text())["fingerprint"] != stored["fingerprint"]
    assert {file.name for file in folder.iterdir()} == {"labels.json", *(row.file for row in rows)}


@pytest.mark.parametrize("setting", ["CROP", "WINDOW", "DRAWN_SIDE", "RATER_STD", "TRAIN_PICTURES", "TEST_CROPS"])
def test_every_setting_is_in_the_fingerprint(setting, monkeypatch):
    before = fingerprint(DEMO_DATASETS["demo_five"])
    monkeypatch.setattr(datasets, setting, getattr(datasets, setting) + 1)
    assert fingerprint(DEMO_DATASETS["demo_five"]) != before
    assert fingerprint(DEMO_DATASETS["demo_five"]) != fingerprint(DEMO_DATASETS["demo_hundred"])


def test_an_interrupted_making_leaves_nothing_that_looks_finished(tmp_path, monkeypatch):
    few(monkeypatch)
    folder = tmp_path / "demo_five"

    def interrupted(dataset):
        yield next(make_dataset(dataset))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(datasets, "make_dataset", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_pictures("demo_five", folder)
    assert list(tmp_path.iterdir()) == []
    assert len(load_pictures("demo_five", folder)) == 3
    assert (folder / "labels.json").is_file()


def test_an_interrupted_remaking_keeps_what_was_there(tmp_path, monkeypatch):
    few(monkeypatch)
    folder = tmp_path / "demo_five"
    load_pictures("demo_five", folder)
    before = contents(folder)
    monkeypatch.setattr(datasets, "VERSION", datasets.VERSION + 1)

    def interrupted(dataset):
        yield next(make_dataset(dataset))
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets, "make_dataset", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_pictures("demo_five", folder)
    assert contents(folder) == before


def test_registering_twice_changes_nothing_and_another_set_may_not_take_the_name():
    before = dict(DATASETS)
    register_demonstration()
    assert before == DATASETS
    with pytest.raises(ValueError, match="a dataset is called demo_five already"):
        register(replace(DATASETS["demo_five"], title="another"))
    assert before == DATASETS


@pytest.mark.parametrize("file", ["holiday.jpg", "labels.json"])
def test_a_folder_of_somebody_elses_files_is_left_alone(tmp_path, monkeypatch, file):
    few(monkeypatch)
    folder = tmp_path / "demo_five"
    folder.mkdir()
    (folder / file).write_text("[1, 2]")
    with pytest.raises(ValueError, match="holds other files"):
        load_pictures("demo_five", folder)
    assert [path.name for path in folder.iterdir()] == [file]


def test_files_beside_an_earlier_drawing_are_left_alone(tmp_path, monkeypatch):
    few(monkeypatch)
    folder = tmp_path / "demo_five"
    load_pictures("demo_five", folder)
    (folder / "notes.txt").write_text("mine")
    monkeypatch.setattr(datasets, "VERSION", datasets.VERSION + 1)
    with pytest.raises(ValueError, match="holds other files"):
        load_pictures("demo_five", folder)
    assert (folder / "notes.txt").read_text() == "mine"


def test_an_empty_folder_and_a_link_to_nowhere(tmp_path, monkeypatch):
    few(monkeypatch)
    (tmp_path / "demo_five").mkdir()
    assert load_pictures("demo_five", tmp_path / "demo_five")
    (tmp_path / "linked").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds other files"):
        load_pictures("demo_five", tmp_path / "linked")


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    few(monkeypatch)

    def full(dataset):
        yield next(make_dataset(dataset))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(datasets, "make_dataset", full)
    told = r"^demo_five cannot be drawn: .*demo_five: No space left .* bytes free\); free some space"
    with pytest.raises(UserError, match=told):
        load_pictures("demo_five", tmp_path / "demo_five")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_was_drawing_is_deleted(tmp_path, monkeypatch):
    few(monkeypatch)
    long_ago, recent, other = (tmp_path / name for name in (".demo_five.1", ".demo_five.2", ".demo_five.old"))
    for path in (long_ago, recent, other):
        path.mkdir()
        (path / "a.png").touch()
    for path in (long_ago, other):
        os.utime(path, (0, 0))
    load_pictures("demo_five", tmp_path / "demo_five")
    assert not long_ago.exists() and recent.exists() and other.exists()


def test_what_is_being_drawn_is_kept_however_long_it_takes(tmp_path):
    left = tmp_path / ".demo_five.7"
    with datasets._held(left):
        os.utime(left, (0, 0))
        datasets._clear_abandoned(tmp_path / "demo_five")
        assert left.exists()
    datasets._clear_abandoned(tmp_path / "demo_five")
    assert not left.exists()


@pytest.mark.parametrize(("age", "kept"), [(1800, True), (7200, False)])
def test_where_nothing_can_be_locked_a_drawing_is_given_an_hour(tmp_path, monkeypatch, age, kept):
    def without(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(datasets.fcntl, "flock", without)
    left = tmp_path / ".demo_five.7"
    with datasets._held(left):
        pass
    os.utime(left, (time.time() - age,) * 2)
    datasets._clear_abandoned(tmp_path / "demo_five")
    assert left.exists() == kept


def test_of_two_that_draw_at_once_one_drawing_is_kept(tmp_path, monkeypatch):
    few(monkeypatch)
    folder = tmp_path / "demo_five"

    def overtaken(dataset):
        yield from make_dataset(dataset)
        with monkeypatch.context() as patch:
            patch.setattr(datasets, "make_dataset", make_dataset)
            patch.setattr(os, "getpid", lambda: 1)
            load_pictures("demo_five", folder)

    monkeypatch.setattr(datasets, "make_dataset", overtaken)
    assert len(load_pictures("demo_five", folder)) == 3
    assert list(tmp_path.iterdir()) == [folder]
