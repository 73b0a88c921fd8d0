"""What a run needs from outside is looked at before its folder is made."""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import replace

import pytest
import torch
from transformers.training_args import OptimizerNames
from transformers.utils import import_utils

from tests.support.choices import choices_for
from vqr1 import prerequisites
from vqr1.config import Config, Launcher, LoggerConfig, PolicyConfig, Tuning, Wandb
from vqr1.errors import UserError
from vqr1.gpus import MIB
from vqr1.policy import load
from vqr1.prerequisites import (
    CACHES,
    OPTIMISERS,
    ask_directly,
    check_chosen,
    check_settings,
    check_shared_memory,
    place_caches,
)
from vqr1.rollout_settings import TrainingEngine

ONLINE = Config(logger=LoggerConfig(wandb=Wandb.online))


@pytest.fixture
def no_key(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    return tmp_path


def test_figures_are_sent_to_wandb_only_with_a_key(no_key, monkeypatch):
    with pytest.raises(UserError, match="logger=online needs a key: run wandb login, or set WANDB_API_KEY"):
        check_settings(ONLINE)
    check_settings(Config())
    (no_key / ".netrc").write_text("machine other\n  login user\n  password x\n")
    with pytest.raises(UserError, match="needs a key"):
        check_settings(ONLINE)
    (no_key / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password x\n")
    check_settings(ONLINE)
    (no_key / ".netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    check_settings(ONLINE)


def test_wandb_itself_is_needed_unless_it_is_disabled(monkeypatch):
    monkeypatch.setattr(prerequisites, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="logger=offline needs wandb"):
        check_settings(Config(logger=LoggerConfig(wandb=Wandb.offline)))
    check_settings(Config(logger=LoggerConfig(wandb=Wandb.disabled)))


def test_tensorboard_is_needed_where_it_is_asked_for(monkeypatch):
    check_settings(Config(logger=LoggerConfig(tensorboard=True)))
    monkeypatch.setattr("vqr1.prerequisites.find_spec", lambda name: None)
    with pytest.raises(UserError, match="logger=tensorboard needs tensorboard: pip install tensorboard"):
        check_settings(Config(logger=LoggerConfig(tensorboard=True)))
    check_settings(Config(logger=LoggerConfig()))


def asked(gpus=0, **trainer):
    config = Config(trainer=trainer)
    check_chosen(config, choices_for(config), gpus)


PLAIN = {"adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused", "adafactor", "sgd", "adagrad"}


@pytest.mark.parametrize("optimiser", [name.value for name in OptimizerNames])
def test_an_optimiser_needs_its_package(optimiser, monkeypatch):
    for question, _ in OPTIMISERS.values():
        assert callable(getattr(import_utils, question))
        monkeypatch.setattr(import_utils, question, lambda *_: False)
    if optimiser in PLAIN | {"rmsprop"}:
        asked(optim=optimiser)
        return
    with pytest.raises(UserError, match=f"trainer.optim={optimiser} needs .*: pip install"):
        asked(optim=optimiser)
    for question, _ in OPTIMISERS.values():
        monkeypatch.setattr(import_utils, question, lambda *_: True)
    asked(optim=optimiser)


def test_what_the_choices_need_is_named(monkeypatch):
    config = Config()
    choices = choices_for(config)
    monkeypatch.setattr(import_utils, "is_peft_available", lambda: False)
    with pytest.raises(UserError, match="policy.tuning=lora needs peft"):
        check_chosen(config, replace(choices, tuning=Tuning.lora), 1)
    monkeypatch.setattr(prerequisites, "find_spec", lambda name: None)
    for launcher in (Launcher.zero2, Launcher.zero3):
        with pytest.raises(UserError, match=f"launcher={launcher.value} needs deepspeed"):
            check_chosen(config, replace(choices, launcher=launcher), 1)
    monkeypatch.setattr(import_utils, "is_liger_kernel_available", lambda: False)
    with pytest.raises(UserError, match="use_liger_kernel=true needs liger-kernel"):
        asked(use_liger_kernel=True)


@pytest.mark.parametrize(("gpus", "variable", "compiler"), [(0, "CXX", "g++"), (1, "CC", "gcc")])
def test_compiling_needs_a_compiler_and_pythons_headers(gpus, variable, compiler, monkeypatch, tmp_path):
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(prerequisites.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="trainer.torch_compile=true needs a compiler") as refused:
        asked(gpus, torch_compile=True)
    assert compiler in str(refused.value)
    asked(gpus, torch_compile_backend="eager")
    (tmp_path / compiler).touch(mode=0o755)
    with pytest.raises(UserError, match="torch_compile_mode=max-autotune needs Python's headers"):
        asked(gpus, torch_compile_mode="max-autotune")
    (tmp_path / "Python.h").touch()
    asked(gpus, torch_compile=True)
    monkeypatch.setenv(variable, "nosuch -O2")
    with pytest.raises(UserError, match="needs a compiler"):
        asked(gpus, torch_compile=True)


def test_vllm_compiles_on_a_gpu(monkeypatch, tmp_path):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    config = Config()
    choices = replace(choices_for(config), engine=TrainingEngine.vllm_colocate)
    with pytest.raises(UserError, match="rollout=vllm_colocate needs a compiler .*, or set rollout=transformers"):
        check_chosen(config, choices, 1)
    check_chosen(config, choices, 0)
    check_chosen(config, choices_for(config), 1)


def test_several_gpus_exchange_through_shared_memory(monkeypatch):
    asked = "64 MiB free in /dev/shm, and NCCL needs 1,024 .*--shm-size=1g"
    with pytest.raises(UserError, match=asked):
        check_shared_memory(64 * MIB, {})
    check_shared_memory(64 * MIB, {"NCCL_SHM_DISABLE": "1"})
    check_shared_memory(1024 * MIB, {})
    monkeypatch.setattr(prerequisites, "shared_memory_free", lambda: 64 * MIB)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    config = Config()
    with pytest.raises(UserError, match=asked):
        check_chosen(config, replace(choices_for(config), processes=2), 2)
    check_chosen(config, replace(choices_for(config), processes=2), 0)  # gloo uses none
    check_chosen(config, choices_for(config), 2)
    check_chosen(config, replace(choices_for(config), processes=8), 1)  # one on each of eight machines
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # each of which sees its own GPU alone
    with pytest.raises(UserError, match=asked):
        check_chosen(config, replace(choices_for(config), processes=8), 1)


@pytest.mark.parametrize("asked", ["0", "", "-1", "two", "1.5"])
def test_a_number_of_gpus_that_is_none_is_refused(asked, monkeypatch):
    monkeypatch.setenv("GPUS", asked)
    with pytest.raises(UserError, match=f"GPUS={asked}: set the number of GPUs of each node, 1 or more, or unset"):
        check_settings(Config())
    monkeypatch.setenv("GPUS", "8")
    check_settings(Config())


def test_flash_attention_needs_a_gpu_and_a_build_that_loads(monkeypatch, tmp_path):
    monkeypatch.setattr(load, "resolve_dtype", lambda name: torch.bfloat16)
    config = Config(policy=PolicyConfig(path="tiny", attention="flash_attention_2"))
    choices = choices_for(config)
    monkeypatch.setattr(load.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="flash-attn is not installed; .*make env EXTRAS=dev,gpu,flash"):
        check_chosen(config, choices, 1)
    monkeypatch.undo()
    monkeypatch.setattr(load, "resolve_dtype", lambda name: torch.bfloat16)
    package = tmp_path / "flash_attn"
    package.mkdir()
    (package / "__init__.py").write_text("import flash_attn_2_cuda\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="flash_attention_2 would use flash-attn, which needs a GPU; set .*sdpa"):
        check_chosen(config, choices, 0)
    with pytest.raises(UserError, match="flash-attn does not load .*flash_attn_2_cuda.* uv pip install --reinstall"):
        check_chosen(config, choices, 1)
    (package / "__init__.py").write_text("")
    check_chosen(config, choices, 1)
    monkeypatch.delitem(sys.modules, "flash_attn")


def test_a_server_on_this_machine_is_asked_without_the_proxy():
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        for server, host in (("http://localhost:8000", "localhost"), ("http://127.0.0.1:1", "127.0.0.1")):
            environment = {name: "http://proxy:3128", "NO_PROXY": "intern"}
            ask_directly(server, environment)
            assert environment["no_proxy"] == environment["NO_PROXY"] == f"intern,{host}"
        elsewhere = {name: "http://proxy:3128"}
        ask_directly("http://node7:8000", elsewhere)
        assert elsewhere == {name: "http://proxy:3128"}
    nothing: dict[str, str] = {}
    ask_directly("http://localhost:8000", nothing)
    assert nothing == {}


def test_without_a_home_that_can_be_written_caches_go_to_a_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(prerequisites.tempfile, "tempdir", str(tmp_path))
    environment = {"HOME": str(tmp_path)}
    assert place_caches(environment) is None and environment == {"HOME": str(tmp_path)}
    environment = {"HOME": str(tmp_path / "missing"), "MPLCONFIGDIR": "/mine"}
    told = place_caches(environment)
    folder = tmp_path / f"vqr1-caches-{os.getuid()}"
    assert told and str(folder) in told and stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert environment["MPLCONFIGDIR"] == "/mine"
    assert all(environment[name].startswith(str(folder)) for name in set(CACHES) - {"MPLCONFIGDIR"})
    assert place_caches(environment) is None  # a process that it starts says nothing more
