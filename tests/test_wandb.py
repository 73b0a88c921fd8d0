"""wandb keeps the figures of one run under one id, and one message says why it does not start."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest

from vqr1.config import Config, PolicyConfig, Wandb
from vqr1.errors import UserError
from vqr1.training.run import start_wandb
from vqr1.training.run_folder import RunFolder


def started(path, kind, resume=False):
    config = Config(policy=PolicyConfig(path="tiny"), name="run", resume=resume)
    config.logger.wandb = kind
    folder = RunFolder(path, writes=True)
    folder.open(config)
    with ExitStack() as ending:
        ending.callback(folder.close)
        return start_wandb(config, folder, ending)


def test_a_resumed_run_has_the_id_it_began_with(tmp_path):
    first = started(tmp_path / "run", Wandb.offline)
    assert json.loads((tmp_path / "run" / "wandb.json").read_text()) == {"id": first.id}
    assert started(tmp_path / "run", Wandb.offline, resume=True).id == first.id
    names = sorted(path.name for path in (tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert all(name.endswith(first.id) for name in names)


def test_wandb_that_cannot_log_in_is_one_message(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"^wandb does not start \(UsageError: .*; log in .*logger=offline.*name=run"):
        started(tmp_path / "run", Wandb.online)
