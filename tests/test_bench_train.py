"""The benchmark of training, in miniature, and the trainer's loss over either path."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vqr1.bench import train
from vqr1.bench.train import Geometry, make_batch, make_trainer, measure, table
from vqr1.policy.shared_prefix import Packing

SMALL = Geometry((4, 4), 10, 5, k=3, pictures=2)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    return make_trainer("tiny", SMALL, str(tmp_path_factory.mktemp("trainer")))


def loss_and_gradients(trainer, batch):
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), [p.grad.clone() for p in trainer.model.parameters()]


def test_the_counts_are_those_of_the_paths():
    found = measure("tiny", SMALL, rounds=1, checkpointing=False)
    assert {key: found["trl"][key] for key in ("tokens", "patches")} == {"tokens": 6 * 15, "patches": 6 * 16}
    assert {key: found["shared"][key] for key in ("tokens", "patches")} == {"tokens": 2 * (9 + 15), "patches": 2 * 16}
    assert 1 < found["trl"]["operations"] / found["shared"]["operations"] < 6
    lines = table({"small": found}).splitlines()
    assert lines[2].startswith(f"| small | 3 | {90 / 48:.2f} | 3.00 |")


def test_idle_pictures_are_skipped_by_our_path():
    idle = measure("tiny", replace(SMALL, idle=1), rounds=1, checkpointing=False)
    assert (idle["trl"]["tokens"], idle["shared"]["tokens"]) == (6 * 15, 9 + 15)
    assert (idle["trl"]["patches"], idle["shared"]["patches"]) == (6 * 16, 16)


def test_both_paths_give_one_loss(trainer):
    batch = make_batch(SMALL, trainer.model)
    batch["completion_mask"][1, 2:] = 0
    trainer.packing = None
    expected, gradients = loss_and_gradients(trainer, batch)
    for packing in (Packing("mask"), Packing("segments")):
        trainer.packing = packing
        found, ours = loss_and_gradients(trainer, batch)
        assert found == pytest.approx(expected, abs=1e-6)
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        assert all((a - b).norm() < 1e-5 * norm for a, b in zip(ours, gradients, strict=True))


def test_answers_that_teach_nothing_are_left_out_and_nothing_changes(trainer, monkeypatch):
    trainer.packing = Packing("segments")
    batch = make_batch(SMALL, trainer.model)
    batch["advantages"][:3] = batch["advantages"][4] = 0  # the first picture's, and one of the second's
    expected, gradients = loss_and_gradients(trainer, batch)
    monkeypatch.setattr(trainer, "_skip_zero_advantages", True)
    seen = []
    handle = trainer.model.model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    found, ours = loss_and_gradients(trainer, batch)
    handle.remove()
    assert seen == [9 + 2 * 5]  # one prompt, two answers
    assert found == pytest.approx(expected, abs=1e-7)
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    assert norm > 0.01 and all((a - b).norm() < 1e-6 * norm for a, b in zip(ours, gradients, strict=True))


def test_a_pass_of_nothing_but_zero_advantages_gives_gradients_of_zero(trainer, monkeypatch):
    monkeypatch.setattr(trainer, "_skip_zero_advantages", True)
    batch = make_batch(SMALL, trainer.model)
    batch["advantages"][:] = 0
    loss, gradients = loss_and_gradients(trainer, batch)
    assert loss == 0 and not any(g.any() for g in gradients)


def test_the_geometries_are_what_they_say(trainer):
    for name, geometry in train.GEOMETRIES.items():
        assert geometry.prompt > geometry.grid[0] * geometry.grid[1] // 4 + 4, name
    batch = make_batch(SMALL, trainer.model)
    assert int((batch["prompt_ids"] == trainer.model.config.image_token_id).sum()) == 6 * 4
