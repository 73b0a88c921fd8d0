"""A checkpoint is under its name when it is whole and on the disk, and is no more when its deletion begins."""

import os
from pathlib import Path

import pytest

from vqr1.training import checkpoint_folders
from vqr1.training.checkpoint_folders import UNFINISHED, numbered, put_checkpoint


def written(run, step):
    made = run / UNFINISHED / f"checkpoint-{step}"
    (made / "global_step").mkdir(parents=True)
    for name in ("weights", "global_step/states"):
        (made / name).write_text(str(step))
    return made


def test_checkpoints_are_in_the_order_of_their_steps(tmp_path):
    for name in ("checkpoint-10", "checkpoint-9", "checkpoint-100", "checkpoint-9.old", "checkpoint-", "checkpoint-x"):
        (tmp_path / name).mkdir()
    assert list(numbered(tmp_path)) == [9, 10, 100]


ALL = [9, 10, 11]


@pytest.mark.parametrize(("limit", "left"), [(None, ALL), (0, ALL), (-1, ALL), (5, ALL), (1, [11]), (2, [10, 11])])
def test_the_earliest_are_deleted(tmp_path, limit, left):
    for step in (9, 10):
        written(tmp_path, step)
        put_checkpoint(tmp_path, step, None)
    written(tmp_path, 11)
    (tmp_path / "checkpoint.new" / ".nfs0001").touch()  # of a file that is open and deleted
    put_checkpoint(tmp_path, 11, limit)
    assert list(numbered(tmp_path)) == left
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"checkpoint-{step}" for step in left)


def test_all_of_it_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    made, synced = written(tmp_path, 4), []
    fsync, replace = os.fsync, Path.replace

    def noted(file):
        synced.append(str(Path(f"/proc/self/fd/{file}").readlink()))
        fsync(file)

    def renamed(path, to):
        assert {str(path) for path in (made, *made.rglob("*"))} <= set(synced)
        synced.clear()
        return replace(path, to)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "replace", renamed)
    put_checkpoint(tmp_path, 4, None)
    assert synced == [str(tmp_path)]  # and the name too
    assert (tmp_path / "checkpoint-4" / "global_step" / "states").read_text() == "4"


def test_what_is_being_deleted_has_no_name_of_a_checkpoint(tmp_path, monkeypatch):
    for step in (1, 2):
        written(tmp_path, step)
        put_checkpoint(tmp_path, step, None)
    written(tmp_path, 3)

    def killed(path, ignore_errors):
        (path / "weights").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_folders.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        put_checkpoint(tmp_path, 3, 1)
    assert [path / "weights" for path in numbered(tmp_path).values() if not (path / "weights").is_file()] == []
    assert list(numbered(tmp_path)) == [2, 3]
