"""vqr1 doctor: a line for everything that is looked at, by facts of machines that this one is not."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.nvidia import CARD, put_nvidia_smi
from vqr1 import cli
from vqr1.config import Config, DataConfig, Launcher, PolicyConfig, RolloutConfig
from vqr1.demo.specs import register_demonstration
from vqr1.doctor import command
from vqr1.doctor.command import findings, look
from vqr1.doctor.finding import Finding, as_json, as_text
from vqr1.doctor.machine import Facts, installed_version, machine_findings
from vqr1.doctor.probe import Probe
from vqr1.doctor.run import run_findings
from vqr1.gpus import MIB, Card, Driver
from vqr1.policy.load import SHIPPED
from vqr1.rollout_settings import TrainingEngine

TORCH = {
    "version": "2.13.0",
    "torchvision": "0.28.0",
    "cuda": "13.0",
    "counted": 0,
    "usable": False,
    "capabilities": [],
    "varlen": True,
    "nccl": "2.29.7",
    "memory": 64 * 10**9,
    "policies": {
        "tiny": None,
        "Qwen/X": "policy.path=Qwen/X is not on this machine; fetch it with: hf download Qwen/X",
    },
}
H100 = Card("NVIDIA H100 80GB HBM3", 80 * 10**9, 79 * 10**9)
FACTS = Facts(Driver(), {"torch": TORCH, "wandb": {"key": False}}, 2048 * MIB, None, {})


def gpus(count: int, driver: str = "580.95.05", **torch) -> Facts:
    found = {"counted": count, "usable": True, "capabilities": [[9, 0]] * count}
    return replace(
        FACTS, driver=Driver(driver, (H100,) * count), probes=FACTS.probes | {"torch": TORCH | found | torch}
    )


def told(facts: Facts, folder: Path, installed=installed_version) -> dict[str, Finding]:
    """By what was looked at, the last of several."""
    return {line.what: line for line in machine_findings(facts, folder / "data", folder / "runs", installed)}


@pytest.fixture
def vllm_too():
    return lambda package: {"vllm": "0.31.0", "deepspeed": "0.19.8"}.get(package, installed_version(package))


def test_a_finding_is_one_line_with_its_remedy():
    line = Finding("data", "missing", "kadid10k: no labels\n  To get it: \x1b[1mfetch", "read this").line()
    assert line == r"missing  data           kadid10k: no labels To get it: \x1b[1mfetch. Remedy: read this"
    assert Finding("driver", "ok", "580").line() == "ok       driver         580"


def test_what_is_missing_ends_the_report():
    lines = [Finding("a", "ok", "x"), Finding("b", "warning", "y", "do z"), Finding("c", "missing", "w")]
    assert as_text(lines, "make train").splitlines()[-1] == "make train would not run: missing c"
    assert as_text(lines[:2], "make train").splitlines()[-1] == "make train would run"
    found = json.loads(as_json(lines, "make train"))
    assert (found["runs"], found["asked"]) == (False, "make train")
    assert found["findings"][1] == {"what": "b", "state": "warning", "text": "y", "remedy": "do z"}
    assert json.loads(as_json(lines[:2], "make train"))["runs"] is True


def test_a_machine_without_a_gpu_lacks_nothing_that_make_train_needs(tmp_path):
    found = told(FACTS, tmp_path)
    assert not [line for line in found.values() if line.state == "missing"]
    assert "only small policies" in found["torch"].text and found["torch"].state == "warning"
    assert found["policy"].state == "ok" or "hf download Qwen/X" in found["policy"].text
    assert "64.0 GB" in found["memory"].text and found["NCCL"].text == "2.29.7"
    assert "vllm" not in found and "driver" not in found
    assert found["Slurm"].state == "ok" and "logger=online: wandb login" in found["wandb"].text


def test_gpus_are_listed(tmp_path, vllm_too):
    found = told(gpus(8), tmp_path, vllm_too)
    assert found["driver"].text == "580.95.05; 8 x NVIDIA H100 80GB HBM3"
    assert found["torch"].text == "2.13.0 (CUDA 13.0) sees 8 GPUs"
    assert found["attention"].text == "sdpa and torch's varlen kernel"
    assert found["vllm"].text.startswith("0.31.0 (") and found["GPU 7 memory"].text == "79.0 of 80.0 GB free"
    older = told(gpus(1, capabilities=[[7, 5]]), tmp_path)
    assert "needs a GPU from Ampere on" in older["attention"].text


def test_an_old_driver_is_named(tmp_path, monkeypatch):
    put_nvidia_smi(tmp_path, monkeypatch, CARD, driver="535.104.05")
    driver = command.ask_driver()
    facts = replace(FACTS, driver=driver, probes=FACTS.probes | {"torch": TORCH | {"counted": 1}})
    line = told(facts, tmp_path)["torch"]
    assert line.state == "missing"
    assert "driver 535.104.05 is too old: torch 2.13.0 is built for CUDA 13.0, which needs 580 or later" in line.text
    # torch counts none: the run would begin without a GPU.
    counted_none = told(replace(facts, probes=FACTS.probes), tmp_path)["torch"]
    assert counted_none.state == "warning" and "too old" in counted_none.text


def test_gpus_that_are_hidden_or_lost(tmp_path):
    hidden = replace(FACTS, driver=Driver("580.95.05", (H100,)), environment={"CUDA_VISIBLE_DEVICES": ""})
    assert told(hidden, tmp_path)["torch"].text == "2.13.0 (CUDA 13.0): CUDA_VISIBLE_DEVICES hides the GPUs"
    lost = told(replace(FACTS, driver=Driver(trouble="nvidia-smi: failed")), tmp_path)
    assert (lost["driver"].state, lost["driver"].text) == ("warning", "nvidia-smi: failed")
    cpu = replace(FACTS, driver=Driver("580.95.05", (H100,)), probes={"torch": TORCH | {"cuda": None}})
    assert "built without CUDA; install PyPI's" in told(cpu, tmp_path)["torch"].text


def test_little_shared_memory_is_in_the_way_of_several_gpus_alone(tmp_path):
    for count, state in ((0, "warning"), (1, "warning"), (2, "missing")):
        line = told(replace(gpus(count), shared_memory=64 * MIB), tmp_path)["shared memory"]
        assert line.state == state and "--shm-size=1g" in line.text
    assert told(gpus(2), tmp_path)["shared memory"].state == "ok"


def test_a_card_that_another_program_has(tmp_path):
    facts = replace(gpus(1), driver=Driver("580.95.05", (replace(H100, free=50 * 10**9),)))
    line = told(facts, tmp_path)["GPU 0 memory"]
    assert (line.state, line.text) == ("warning", "50.0 of 80.0 GB free") and "nvidia-smi" in line.remedy


def test_packages_are_compared_with_what_was_tested(tmp_path):
    versions = {"trl": "1.0.0", "scipy": None, "vllm": None, "deepspeed": "0.19.8", "transformers": "5.17.0"}
    found = list(
        machine_findings(gpus(1), tmp_path, tmp_path, lambda name: versions.get(name, installed_version(name)))
    )
    lines = {(line.what, line.state): line for line in found}
    assert "trl 1.0.0 is not among the tested versions ==1.16.*" in lines["trl", "missing"].text
    assert lines["packages", "missing"].text == "scipy is not installed"
    assert lines["vllm", "warning"].remedy == "make env EXTRAS=dev,gpu"
    assert lines["transformers", "ok"].text.startswith("5.17.0 (")


def test_a_library_that_does_not_load(tmp_path, vllm_too):
    broken = {"trouble": "ImportError: libcudart.so.12: cannot open"}
    found = told(replace(gpus(1), probes=gpus(1).probes | {"vllm": broken}), tmp_path, vllm_too)
    assert found["vllm"].state == "warning" and "libcudart.so.12" in found["vllm"].text
    found = told(replace(FACTS, probes={"torch": broken}), tmp_path)
    assert found["torch"].state == "missing" and "--reinstall torch torchvision" in found["torch"].remedy
    assert not findings(config(tmp_path), replace(FACTS, probes={"torch": broken}), whole=True)[-1].remedy


def test_flash_attention_is_built_where_nvcc_is(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "needs nvcc, which is not here" in told(FACTS, tmp_path)["flash-attn"].text
    (tmp_path / "nvcc").touch(0o755)
    assert f"make env EXTRAS=dev,gpu,flash builds it with {tmp_path}/nvcc" in told(FACTS, tmp_path)["flash-attn"].text
    installed = lambda name: "2.8.3" if name == "flash-attn" else installed_version(name)  # noqa: E731
    assert "2.8.3: policy.attention=auto uses it" in told(gpus(1), tmp_path, installed)["flash-attn"].text
    broken = replace(gpus(1), probes=gpus(1).probes | {"flash_attn": {"trouble": "undefined symbol"}})
    assert "--no-build-isolation" in told(broken, tmp_path, installed)["flash-attn"].remedy


def test_a_compiler_is_needed_by_vllm_on_a_gpu_alone(tmp_path, monkeypatch, vllm_too):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert told(FACTS, tmp_path, vllm_too)["compiler"].state == "warning"
    assert told(gpus(1), tmp_path)["compiler"].state == "warning"
    line = told(gpus(1), tmp_path, vllm_too)["compiler"]
    assert line.state == "missing" and "vLLM on a GPU (Triton) needs a compiler" in line.text


def test_data_and_folders(tmp_path):
    register_demonstration()
    line = told(FACTS, tmp_path)["data"]
    assert line.state == "warning" and "nothing; not here: kadid10k," in line.text and "demo" not in line.text
    (tmp_path / "data" / "kadid10k").mkdir(parents=True)
    (tmp_path / "data" / "mine").mkdir()
    (tmp_path / "data" / "mine" / "dataset.yaml").touch()
    line = told(FACTS, tmp_path)["data"]
    assert line.state == "ok" and ": kadid10k, mine; not here: spaq" in line.text
    (tmp_path / "runs").touch()
    assert told(FACTS, tmp_path)["runs"].state == "missing"
    assert "HOME" in told(replace(FACTS, home="the home folder / cannot be written"), tmp_path)["home"].remedy


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import time; time.sleep(30)", {"trouble": "not loaded within 0.5 seconds"}),
        ("import nosuchmodule", {"trouble": "ModuleNotFoundError: No module named 'nosuchmodule'"}),
        ("import os; os.kill(os.getpid(), 4)", {"trouble": "killed by SIGILL"}),
        ("print('hello'); print('{\"key\": true}')", {"key": True}),
    ],
)
def test_a_library_is_loaded_in_a_process_of_its_own(code, expected):
    began = time.monotonic()
    assert Probe("x", 0.5 if "sleep" in code else 60, ("-c", code)).result() == expected
    assert time.monotonic() - began < 20


def config(folder: Path, **settings) -> Config:
    sets = ["demo_five"]
    data = DataConfig(root=str(folder / "data"), train=sets, validation=sets, test=sets)
    return Config(data=data, policy=PolicyConfig(path="tiny", dtype="float32"), runs=str(folder / "runs"), **settings)


def of_run(asked: Config, probes=FACTS.probes) -> dict[str, Finding]:
    register_demonstration()
    return {line.what: line for line in run_findings(asked, probes)}


def test_a_run_of_the_demonstration_is_looked_at_without_drawing_its_pictures(tmp_path):
    found = of_run(config(tmp_path))
    assert {line.state for line in found.values()} == {"ok"}
    assert found["data"].text == f"demo_five is drawn at first use into {tmp_path}/data/demo_five"
    assert str(SHIPPED) in found["policy"].text and found["launcher"].text == "none, processes: 1"
    assert found["engine"].text == "transformers" and not any(tmp_path.iterdir())


def test_what_a_run_needs_and_lacks_is_named_by_its_own_checks(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUS", "0")
    asked = config(tmp_path, rollout=RolloutConfig(engine=TrainingEngine.transformers))
    asked.data.train = ["kadid10k", "nosuch"]
    asked.policy.path = "Qwen/Qwen2.5-VL-7B-Instruct"
    asked.policy.attention = "flash_attention_2"
    asked.trainer = {"use_liger_kernel": True}
    lines = [line for line in run_findings(asked, FACTS.probes) if line.state == "missing"]
    missing = {line.what: line.text for line in lines}
    assert [line.what for line in lines].count("data") == 2 and "no dataset is called nosuch" in missing["data"]
    assert any("To get it:" in line.text and "kadid10k" in line.text for line in lines)
    assert "GPUS=0: set the number of GPUs" in missing["GPUS"]
    assert "hf download Qwen/Qwen2.5-VL-7B-Instruct" in missing["policy"]
    assert "policy.attention=flash_attention_2" in missing["attention"] and "liger-kernel" in missing["liger"]
    refused = of_run(config(tmp_path, launcher=Launcher.zero3))["choices"]
    assert refused.state == "missing" and "launcher=zero3 needs a GPU" in refused.text


def test_a_line_of_the_run_stands_for_the_machines_on_the_same_matter(tmp_path):
    register_demonstration()
    lines = findings(config(tmp_path), FACTS, whole=False)
    assert [line.text for line in lines if line.what == "policy"] == [
        line.text for line in lines if "tiny" in line.text
    ]
    assert [line.what for line in lines].count("data") == 1
    whole = findings(config(tmp_path), FACTS, whole=True)
    assert "not here: kadid10k" in next(line.text for line in whole if line.what == "data")


@pytest.fixture
def run_doctor(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "look", lambda driver, home: FACTS)
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vqr1", "doctor", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return (ended.value.code, *capsys.readouterr())

    return run


def test_the_command_says_by_its_exit_code_whether_the_run_would_begin(run_doctor, tmp_path):
    code, out, _ = run_doctor()
    assert code == 0 and out.splitlines()[-1] == "make train would run" and not any(tmp_path.iterdir())
    code, out, _ = run_doctor("--json", "experiment=kadid10k", "--root", str(tmp_path / "d"))
    found = json.loads(out)
    assert code == 2 and found["runs"] is False and found["asked"].startswith("vqr1 train experiment=kadid10k")
    text = next(line["text"] for line in found["findings"] if line["what"] == "data")
    assert str(tmp_path / "d" / "kadid10k") in text
    code, out, errors = run_doctor("experiment=nosuch")
    assert (code, out) == (2, "") and errors.startswith("vqr1 doctor: ") and "Traceback" not in errors
    code, _, errors = run_doctor("-m", "experiment=demo", "seed=0,1")
    assert code == 2 and "the doctor looks at one run" in errors
    code, out, _ = run_doctor("--help")
    assert code == 0 and out.startswith("usage: vqr1 doctor")


def test_this_machine_is_looked_at():
    """For real: torch and wandb load, each within its time."""
    facts = look(Driver())
    assert facts.torch["policies"]["tiny"] is None and facts.torch["memory"] > 10**8
    assert set(facts.probes) == {"torch", "wandb"} and isinstance(facts.probes["wandb"]["key"], bool)
