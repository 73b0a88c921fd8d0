"""Which checkpoints a run can be resumed from."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from vqr1.config import Launcher
from vqr1.training.checkpoints import INDEX, checkpoint_fault, map_numbered_cpus


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
    (made / "trainer_state.json").write_text('{"global_step": 4}')
    torch.save({"last_epoch": 4}, made / "scheduler.pt")
    torch.save({"python": (3, (1, 2), None), "cpu": torch.get_rng_state()}, made / "rng_state.pth")
    return made


def fault(checkpoint, processes=1, launcher=Launcher.none):
    return checkpoint_fault(checkpoint, processes, launcher)


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


@pytest.mark.parametrize("state", ["", "{", "[]", "7", '{"global_step": 5}', "[" * 100_000, "\udcff"])
def test_a_state_of_another_step_or_none_is_a_fault(whole, state):
    (whole / "trainer_state.json").write_text(state, errors="surrogateescape")
    assert str(whole) in fault(whole)


@pytest.mark.parametrize("name", ["model.safetensors", *STATES, "trainer_state.json"])
def test_what_cannot_be_read_at_all_is_a_fault(whole, name):
    (whole / name).unlink()
    (whole / name).mkdir()
    assert str(whole) in fault(whole)
    (whole / INDEX).write_text('{"weight_map": {"a": 7}}')
    assert str(whole) in fault(whole)


def test_random_states_are_of_as_many_processes(whole):
    assert "written by 1 process, whose random states 2 cannot take over" in fault(whole, processes=2)
    (whole / "rng_state.pth").rename(whole / "rng_state_0.pth")
    (whole / "rng_state_1.pth").write_bytes((whole / "rng_state_0.pth").read_bytes())
    assert fault(whole, processes=2) is None
    assert "written by 2 processes" in fault(whole) and "resume on as many devices" in fault(whole)


def deepspeeds(checkpoint, *names):
    """``checkpoint`` as DeepSpeed's states in files called ``names`` make it."""
    (checkpoint / "latest").write_text("global_step4")
    (checkpoint / "global_step4").mkdir()
    for name in names:
        (checkpoint / "global_step4" / name).write_bytes((checkpoint / "scheduler.pt").read_bytes())
    (checkpoint / "optimizer.pt").unlink()


@pytest.mark.parametrize("half", ["", "bf16_"])
@pytest.mark.parametrize("launcher", [Launcher.zero2, Launcher.zero3])
def test_deepspeeds_states_are_in_a_folder_of_their_own(whole, launcher, half):
    weights = "zero_pp_rank_0_mp_rank_00" if launcher is Launcher.zero3 else "mp_rank_00"
    names = [f"{half}zero_pp_rank_0_mp_rank_00_optim_states.pt", f"{weights}_model_states.pt"]
    deepspeeds(whole, *names)
    assert fault(whole, launcher=launcher) is None
    for name in names:
        path = whole / "global_step4" / name
        content = path.read_bytes()
        path.write_bytes(b"PK")
        assert f"{name} is damaged" in fault(whole, launcher=launcher)
        path.rename(path.with_suffix(".gone"))
        assert "_states.pt is missing" in fault(whole, launcher=launcher)
        path.write_bytes(content)
    (whole / "scheduler.pt").unlink()
    assert fault(whole, launcher=launcher) == f"{whole / 'scheduler.pt'} is missing"
    (whole / "latest").unlink()
    assert "scheduler.pt" in fault(whole, launcher=launcher)


def test_every_ranks_share_must_be_there(whole):
    deepspeeds(whole, *(f"zero_pp_rank_0_mp_rank_00_{kind}_states.pt" for kind in ("optim", "model")))
    (whole / "rng_state.pth").rename(whole / "rng_state_0.pth")
    (whole / "rng_state_1.pth").write_bytes((whole / "rng_state_0.pth").read_bytes())
    assert "zero_pp_rank_1_mp_rank_00_optim_states.pt is missing" in fault(whole, 2, Launcher.zero3)


def test_fsdps_states_are_files_of_their_own(whole):
    (whole / "optimizer.pt").rename(whole / "optimizer.bin")
    assert fault(whole, launcher=Launcher.fsdp2) == f"{whole / 'pytorch_model_fsdp.bin'} is missing"
    (whole / "pytorch_model_fsdp.bin").write_bytes((whole / "optimizer.bin").read_bytes())
    assert fault(whole, launcher=Launcher.fsdp2) is None
    (whole / "optimizer.bin").write_bytes(b"PK")
    assert "optimizer.bin is damaged" in fault(whole, launcher=Launcher.fsdp2)


def test_another_way_of_sharding_cannot_go_on(whole):
    assert "written under no sharding, whose optimiser's state zero3 cannot take over" in fault(
        whole, launcher=Launcher.zero3
    )
    deepspeeds(whole, "zero_pp_rank_0_mp_rank_00_optim_states.pt", "mp_rank_00_model_states.pt")
    for other in (Launcher.none, Launcher.ddp, Launcher.fsdp2, Launcher.zero3):
        assert "was written under zero2" in fault(whole, launcher=other)


def test_the_optimiser_is_read_on_ranks_without_a_gpu(whole):
    map_numbered_cpus()
    found = torch.load(whole / "optimizer.pt", map_location=torch.device("cpu:1"), weights_only=True)
    assert found["state"][0]["step"] == 1
