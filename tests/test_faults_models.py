"""Models whose folders are not what they should be, in ``vqr1 train``, ``evaluate`` and ``rate``: one message each."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support import faults_names as faults
from tests.support.miniatures import picture
from tests.support.runs import forked, forked_script, rows, train, words

pytestmark = pytest.mark.faults

PROGRAM = Path(__file__).parent / "support" / "fault_program.py"
SECONDS = 60  # of a machine that does other things as well; a template is stopped after 10
OFTEN = {  # in the quick suite
    "a processor with code of its own",
    "a model with code of its own",
    "weights cut in half",
    "an index that names a pickle",
    "a chat template of gigabytes",
}


def refused(asked: list[str], message: str) -> None:
    """Exit code 2, one message without a stack, within a minute, and before anything is made."""
    began = time.monotonic()
    done = forked(asked)
    said = done.stdout + done.stderr
    assert done.returncode == 2, said[-3000:]
    assert message in said and "Traceback" not in said, said[-3000:]
    (told,) = (line for line in said.splitlines() if line.startswith("vqr1 "))
    assert message in told or message in said[said.index(told) :]
    assert time.monotonic() - began < SECONDS


@pytest.mark.parametrize(
    "what", [what if what in OFTEN else pytest.param(what, marks=pytest.mark.full) for what in faults.FOLDERS]
)
def test_a_model_that_is_none_is_refused(what, policy_folder, data_root, tmp_path, fault):
    folder = tmp_path / "model"
    message = faults.harmed(policy_folder, folder, what)
    asked = {"policy.path": folder, "data.root": data_root, "runs": tmp_path / "runs", "name": "x"}
    refused(words(asked), message)
    assert not (tmp_path / "runs" / "x").exists()
    photo = tmp_path / "photo.png"
    picture(photo, seed=1)
    refused(["rate", str(photo), "--model", str(folder)], message)
    assert not (folder / faults.RAN).exists()
    fault(
        what, how="in the folder of policy.path and of --model", happens="one message names it, exit 2", lost="nothing"
    )


@pytest.mark.full
@pytest.mark.parametrize("what", ["a processor with code of its own", "an index that names a pickle"])
def test_an_evaluation_refuses_it_before_its_folder_is_made(what, policy_folder, data_root, tmp_path):
    message = faults.harmed(policy_folder, tmp_path / "model", what)
    asked = [f"model={tmp_path / 'model'}", "data=demo_five", f"root={data_root}", f"folder={tmp_path / 'results'}"]
    refused(["evaluate", *asked], message)
    assert not (tmp_path / "results").exists() and not (tmp_path / "model" / faults.RAN).exists()


@pytest.fixture(scope="module")
def run(data_root, tmp_path_factory) -> Path:
    """Two checkpoints of a LoRA run."""
    folder = tmp_path_factory.mktemp("runs") / "lora"
    settings = {"data.root": data_root, "policy.tuning": "lora", "trainer.save_steps": 1}
    return train(folder, scripted=True, **settings)


def going_on(run: Path, data_root: Path) -> list[str]:
    settings = {"data.root": data_root, "policy.tuning": "lora", "trainer.save_steps": 1, "trainer.max_steps": 3}
    return words({**settings, "runs": run.parent, "name": run.name, "resume": "true"})


@pytest.mark.parametrize(
    "name",
    ["optimizer.pt", *(pytest.param(name, marks=pytest.mark.full) for name in ("scheduler.pt", "rng_state.pth"))],
)
def test_a_pickle_in_a_checkpoint_is_not_run(name, run, data_root, tmp_path, fault):
    begun = shutil.copytree(run, tmp_path / "runs" / run.name)
    path = begun / "checkpoint-2" / name
    faults.pickled_state(path)
    done = forked(going_on(begun, data_root), scripted=True, figures=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    assert name in said and "damaged or not one that a run wrote" in said and "Traceback" not in said
    assert not list(begun.rglob(faults.RAN))
    assert [row["step"] for row in rows(begun) if "train/loss" in row] == [1, 2, 3]
    fault(
        f"a pickle as {name} of the newest checkpoint",
        how="in its place before the run is resumed",
        happens="it is named and not run; the run goes on from the checkpoint before",
        lost="the steps since that checkpoint",
    )


@pytest.mark.full
def test_settings_that_would_run_code_are_not_read(run, data_root, tmp_path, fault):
    begun = shutil.copytree(run, tmp_path / "runs" / run.name)
    settings = (begun / "config.yaml").read_text()
    mark = tmp_path / faults.RAN
    (begun / "config.yaml").write_text(f"{settings}\nmore: !!python/object/apply:pathlib.Path.touch [{mark}]\n")
    for asked in (
        going_on(begun, data_root),
        ["evaluate", f"model={begun}", "data=demo_five", f"root={data_root}"],
        ["report", str(begun)],
    ):
        refused(asked, "could not determine a constructor")
    assert not mark.exists()
    fault("`!!python/object` in config.yaml", how="in a run's folder", happens="one message, exit 2", lost="nothing")


@pytest.mark.full
def test_a_pickled_adapter_is_refused(run, data_root, tmp_path, fault):
    copied = shutil.copytree(run, tmp_path / "run")
    for folder in ("best", "final"):
        if (weights := copied / folder / "adapter_model.safetensors").is_file():
            torch.save(load_file(weights), weights.with_suffix(".bin"))
            weights.unlink()
    asked = [f"model={copied}", "data=demo_five", f"root={data_root}", f"folder={tmp_path / 'results'}"]
    refused(["evaluate", *asked], "adapter_model.bin")
    fault(
        "an adapter as adapter_model.bin", how="in a run's best/", happens="named and not read, exit 2", lost="nothing"
    )


def scripted(kind: str, folder: Path, data_root: Path, **settings: object):
    asked = words({"data.root": data_root, "runs": folder.parent, "name": folder.name, **settings})
    return forked_script(PROGRAM, f"tests.support.faults_names:answers:{kind}", *asked, ranks=1)


def test_answers_that_are_all_the_same_are_warned_of_once(data_root, tmp_path, fault):
    folder = tmp_path / "same"
    settings = {"trainer.beta": 0.0, "trainer.max_steps": 12, "rollout.k": 3, "trainer.save_steps": 100}
    done = scripted("same", folder, data_root, **settings)
    assert done.returncode == 0, done.stderr[-3000:]
    said = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert len([line for line in said if "given one score, the same for all pictures, for 10 steps" in line]) == 1, said
    assert not any(row.get("train/grad_norm", 0) for row in rows(folder))
    fault(
        "all answers of a run give one score",
        how="answers from a script, beta 0, K 3",
        happens="one warning after ten steps; the gradient is exactly 0",
        lost="nothing",
    )


def test_answers_that_nobody_can_read_stop_a_run(data_root, tmp_path, fault):
    folder = tmp_path / "unreadable"
    settings = {"rollout.stop_unreadable": 2, "trainer.max_steps": 6, "trainer.save_steps": 100}
    done = scripted("unreadable", folder, data_root, **settings)
    assert done.returncode == 2, done.stderr[-3000:]
    assert done.stderr.count("warning: no answer of step 1 can be learnt from") == 1
    assert "no answer could be learnt from in 2 steps in a row (rollout.stop_unreadable)" in done.stderr
    assert "Traceback" not in done.stderr
    assert (folder / "checkpoint-2" / "trainer_state.json").is_file()
    fault(
        "no answer of a run can be read",
        how="answers from a script, rollout.stop_unreadable=2",
        happens="a warning at the first step, then a checkpoint and exit 2",
        lost="nothing",
    )
