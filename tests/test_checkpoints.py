"""Which checkpoints a run can be resumed from."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from vqr1.training.checkpoints import INDEX, checkpoint_fault
from vqr1.training.trainer import map_numbered_cpus


class Evil:
    def __reduce__(self):
        return print, ("this must not run",)


@pytest.fixture
def whole(tmp_path):
    """What transformers writes on one process."""
    layer = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(3)).sum().backward()
    optimiser.step()
    made = tmp_path / "checkpoint-4"
    made.mkdir()
    save_file({"weight": layer.weight, "bias": layer.bias}, made / "model.safetensors", {"format": "pt"})
    torch.save(optimiser.state_dict(), made / "optimizer.pt")
    torch.save({"last_epoch": 4}, made / "scheduler.pt")
    torch.save({"python": (3, (1, 2), None), "cpu": torch.get_rng_state()}, made / "rng_state.pth")
    return made


def fault(checkpoint, processes=1, sharded=False):
    return checkpoint_fault(checkpoint, processes, sharded)


def test_a_whole_checkpoint_has_no_fault(whole):
    assert fault(whole) is None


STATES = ["optimizer.pt", "scheduler.pt", "rng_state.pth"]


@pytest.mark.parametrize("name", ["model.safetensors", *STATES])
def test_a_missing_file_is_named(whole, name):
    (whole / name).unlink()
    assert fault(whole) == f"{whole / name} is missing"


@pytest.mark.parametrize("name", ["model.safetensors", *STATES])
@pytest.mark.parametrize("left", [0, 0.5, -1])
def test_a_cut_file_is_named(whole, name, left):
    content = (whole / name).read_bytes()
    (whole / name).write_bytes(content[: int(left * len(content)) if 0 <= left < 1 else left])
    assert str(whole / name) in fault(whole) and "damaged" in fault(whole)


@pytest.mark.parametrize("header", [b"\xff" * 8, b"\x02" + b"\0" * 7 + b"[]", b"\x05" + b"\0" * 7 + b"{" * 5])
def test_a_header_that_is_none_is_told_so(whole, header):
    (whole / "model.safetensors").write_bytes(header)
    assert "model.safetensors is damaged" in fault(whole)


@pytest.mark.parametrize("name", STATES)
def test_a_pickle_is_not_run_and_named(whole, name, capsys):
    torch.save({"state": Evil()}, whole / name)
    assert f"{whole / name} is damaged or not one that a run wrote" in fault(whole)
    (whole / name).write_bytes(pickle.dumps(Evil()))
    assert f"{whole / name} is damaged or not one that a run wrote" in fault(whole)
    assert capsys.readouterr().out == ""


def test_every_part_of_the_weights_must_be_there(whole):
    (whole / "model.safetensors").rename(whole / "model-1.safetensors")
    (whole / INDEX).write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    assert fault(whole) == f"{whole / 'model-2.safetensors'} is missing"
    (whole / INDEX).write_text("{")
    assert f"{whole / INDEX} cannot be read" in fault(whole)


def test_random_states_are_of_as_many_processes(whole):
    assert "written by 1 process, whose random states 2 cannot take over" in fault(whole, processes=2)
    (whole / "rng_state.pth").rename(whole / "rng_state_0.pth")
    (whole / "rng_state_1.pth").write_bytes((whole / "rng_state_0.pth").read_bytes())
    assert fault(whole, processes=2) is None
    assert "written by 2 processes" in fault(whole) and "resume on as many devices" in fault(whole)


def test_deepspeeds_states_are_in_a_folder_of_their_own(whole):
    assert "latest" in fault(whole, sharded=True)
    (whole / "latest").write_text("global_step4")
    (whole / "global_step4").mkdir()
    (whole / "optimizer.pt").rename(whole / "global_step4" / "rank_0.pt")
    assert fault(whole, sharded=True) is None
    (whole / "global_step4" / "rank_0.pt").write_bytes(b"PK")
    assert "rank_0.pt is damaged" in fault(whole, sharded=True)


def test_the_optimiser_is_read_on_ranks_without_a_gpu(whole):
    map_numbered_cpus()
    found = torch.load(whole / "optimizer.pt", map_location=torch.device("cpu:1"), weights_only=True)
    assert found["state"][0]["step"] == 1
