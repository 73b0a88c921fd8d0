"""How a run is started, and the command line as a user meets it: as a process of its own."""

import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from vqr1 import launching
from vqr1.cli import USAGE
from vqr1.command_words import quoted
from vqr1.config import Config, Launcher, PolicyConfig, RolloutConfig, Tuning, register
from vqr1.config_checks import from_hydra, step_settings
from vqr1.errors import UserError
from vqr1.launching import told_by_accelerate
from vqr1.machine_choices import choose, launched, running
from vqr1.next_steps import going_on
from vqr1.packaged import packaged
from vqr1.policy.load import SHIPPED, find_weights
from vqr1.rollout_settings import TrainingEngine
from vqr1.sharing import launch_command
from vqr1.sweep import Sweep
from vqr1.training.run_folder import is_finished


def config(tuning=Tuning.auto, launcher=Launcher.auto, **settings):
    return Config(policy=PolicyConfig(path="tiny", tuning=tuning), launcher=launcher, **settings)


@pytest.mark.parametrize(
    ("tuning", "launcher", "gpus", "expected"),
    [
        ("auto", "auto", 0, ("full", "none")),
        ("auto", "auto", 1, ("lora", "none")),
        ("auto", "auto", 8, ("full", "zero3")),
        ("lora", "auto", 8, ("lora", "ddp")),
        ("full", "auto", 1, ("full", "none")),
        ("full", "zero3", 1, ("full", "zero3")),
        ("auto", "none", 8, ("lora", "none")),  # it uses one of them
    ],
)
def test_the_machine_settles_what_is_left_open(tuning, launcher, gpus, expected):
    choices = choose(config(Tuning(tuning), Launcher(launcher), name="mine"), gpus, environment={})
    assert (choices.tuning.value, choices.launcher.value) == expected
    assert choices.processes == (1 if expected[1] == "none" else gpus)
    assert choices.batches.images_per_generation == 128
    assert (choices.name, choices.policy) == ("mine", SHIPPED)


# What torchrun and accelerate tell the ranks that they start.
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none"}
DEEPSPEED = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}


@pytest.mark.parametrize(
    ("environment", "gpus", "expected"),
    [
        ({}, 0, ("none", 2)),  # ranks on CPUs
        (TORCHRUN, 2, ("ddp", 2)),
        ({}, 2, ("zero3", 2)),  # by srun, which leaves it to us
        (DEEPSPEED, 2, ("zero3", 2)),
        ({**DEEPSPEED, "WORLD_SIZE": "1"}, 1, ("zero3", 1)),
        ({**DEEPSPEED, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}, 2, ("zero2", 2)),
        (FSDP, 2, ("fsdp2", 2)),
    ],
)
def test_a_process_that_was_started_by_a_launcher_is_one_of_many(environment, gpus, expected):
    environment = {"LOCAL_RANK": "1", "WORLD_SIZE": "2", **environment}
    choices = choose(config(), gpus, environment=environment)
    assert (choices.launcher.value, choices.processes) == expected


@pytest.mark.parametrize(
    ("environment", "asked", "expected"),
    [
        (DEEPSPEED, "fsdp2", "launcher=fsdp2, but what started this process runs zero3; .*accelerate/fsdp2.yaml"),
        (TORCHRUN, "zero3", "launcher=zero3, but what started this process runs ddp; .*accelerate/zero3.yaml"),
        (FSDP, "none", "launcher=none, but what started this process runs fsdp2; .*without a launcher"),
        (
            {**DEEPSPEED, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"},
            "auto",
            "zero_stage=1: start it with zero_stage 2 or 3",
        ),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "auto", r"zero_stage=\(not said\)"),
        ({**FSDP, "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}, "fsdp2", "=SHARDED_STATE_DICT.*needs FULL_STATE_DICT"),
        ({**FSDP, "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, "auto", "efficient_loading=true, and vqr1 needs false"),
        ({**FSDP, "FSDP_VERSION": "1"}, "auto", "fsdp_version=1, and vqr1 needs 2: .*accelerate/fsdp2.yaml"),
    ],
)
def test_a_launcher_that_is_not_the_one_that_was_asked_for_is_refused(environment, asked, expected):
    environment = {"LOCAL_RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none", **environment}
    with pytest.raises(UserError, match=expected):
        choose(config(Tuning.full, Launcher(asked)), 2, environment=environment)


def test_a_launcher_that_is_the_one_that_was_asked_for_runs():
    for environment, asked in ((DEEPSPEED, "zero3"), (FSDP, "fsdp2"), ({}, "ddp")):
        environment = {"LOCAL_RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none", **environment}
        assert choose(config(Tuning.full, Launcher(asked)), 2, environment=environment).launcher.value == asked
    # Of one process DDP is nothing.
    one = {"LOCAL_RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "none"}
    assert choose(config(Tuning.full, Launcher.ddp), 1, environment=one).launcher is Launcher.none


def test_adapters_under_fsdp_are_refused():
    with pytest.raises(UserError, match="launcher=fsdp2 trains all weights; with policy.tuning=lora set launcher=ddp"):
        choose(config(Tuning.lora, Launcher.fsdp2), 2, environment={})


def test_more_ranks_than_pictures_are_refused():
    with pytest.raises(UserError, match="images_per_step=4 cannot be shared by 8 devices; set it to 8"):
        choose(config(Tuning.full, trainer={"images_per_step": 4}), 8, environment={})


POD = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "pod", "MASTER_PORT": "29500"}


def test_a_pods_one_rank_is_no_launchers():
    assert not launched(POD)
    choices = choose(config(), 8, environment=POD)
    assert (choices.tuning.value, choices.launcher.value, choices.processes) == ("full", "zero3", 8)
    # What a launcher sets besides says that it is one.
    for more in ({"LOCAL_RANK": "0"}, {"TORCHELASTIC_RUN_ID": "none"}):
        assert launched(POD | more)
        assert choose(config(), 8, environment=POD | more).launcher is Launcher.none


def test_ranks_without_a_device_are_refused():
    with pytest.raises(UserError, match="WORLD_SIZE=2 without LOCAL_RANK: start the ranks with torchrun"):
        launched(POD | {"WORLD_SIZE": "2"})


def test_what_the_environment_says_of_ranks_is_said(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    assert launching._why(8, 8) is None
    for name, value in POD.items():
        monkeypatch.setenv(name, value)
    expected = "processes: 8 for 8 GPUs (RANK=0 WORLD_SIZE=1: no LOCAL_RANK, so no launcher started this process)"
    assert launching._why(8, 8) == expected
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert "processes: 1 for 8 GPUs (RANK=0 LOCAL_RANK=0 WORLD_SIZE=1: a launcher started" in launching._why(1, 8)


def test_a_sweep_under_a_launcher_is_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(UserError, match="start it without a launcher"):
        launching.start(config(), sweep=Sweep())


def test_a_run_has_ended_when_it_has_all_its_steps(tmp_path):
    def ended(**trainer):
        return is_finished(tmp_path, Config(trainer=trainer))

    assert not ended(max_steps=3)
    (tmp_path / "summary.json").write_text('{"steps": 3, "epochs": 0.9999999}')
    assert ended(max_steps=3) and not ended(max_steps=4)
    assert ended(num_train_epochs=1, max_steps=-1) and not ended(num_train_epochs=2)


def test_how_to_go_on_is_told(tmp_path):
    (tmp_path / "mine").mkdir()
    asked = config(runs=str(tmp_path))
    assert going_on(asked, "other") == "nothing was begun"
    assert going_on(asked, "mine") == "the same command with name=mine resume=auto goes on"
    assert going_on(replace(asked, name="mine", resume="auto"), "mine") == "the same command goes on"


def test_another_process_chooses_what_it_is_told():
    for gpus in (0, 1, 8):
        first = choose(config(experiment_name="x"), gpus, environment={})
        told = first.words()
        again = Config(
            policy=PolicyConfig(path="tiny", tuning=Tuning(told["policy.tuning"])),
            rollout=RolloutConfig(engine=TrainingEngine(told["rollout.engine"])),
            launcher=Launcher(told["launcher"]),
            name=told["name"],
        )
        assert choose(again, gpus, environment={}) == first


def test_what_is_told_is_composed_as_it_was_chosen():
    """A number stays one, and a name of digits a text."""
    register()
    chosen = choose(config(name="12"), 1, environment={})
    told = [f"{key}={value}" for key, value in chosen.words().items()]
    with initialize_config_dir(str(packaged("conf").resolve()), version_base="1.3"):
        composed = from_hydra(compose("train", ["experiment=demo", *told]))
    assert composed.name == "12"
    assert step_settings(composed.trainer).answers_per_device == chosen.batches.per_device


def test_the_run_folder_keeps_what_was_chosen_and_the_configuration_stays_as_it_was():
    asked = config(name=None)
    kept = choose(asked, 1, environment={}).written_into(asked)
    assert kept.policy.tuning is Tuning.lora and kept.launcher is Launcher.none and kept.name
    assert kept.rollout.engine is not TrainingEngine.auto
    assert (asked.policy.tuning, asked.rollout.engine, asked.name) == (Tuning.auto, TrainingEngine.auto, None)


@pytest.mark.parametrize("resume", [True, "auto"])
def test_a_run_without_a_name_cannot_be_gone_on_with(resume):
    with pytest.raises(UserError, match=f"resume={str(resume).lower()} needs name="):
        choose(config(resume=resume), 0, environment={})
    assert choose(config(resume=resume, name="mine"), 0, environment={}).name == "mine"


@pytest.mark.parametrize("launcher", ["ddp", "zero2", "zero3", "fsdp2"])
def test_a_launcher_for_gpus_is_refused_where_there_are_none(launcher):
    with pytest.raises(UserError, match=f"launcher={launcher} needs a GPU"):
        choose(config(Tuning.full, Launcher(launcher)), 0, environment={})


def test_pictures_that_do_not_divide_over_the_gpus_are_refused_before_anything_is_started():
    with pytest.raises(UserError, match="images_per_step=128 cannot be shared by 3 devices; set it to 120 or 144"):
        choose(config(), 3, environment={})


def test_a_run_without_a_name_is_named_after_experiment_and_time():
    name = choose(config(experiment_name="demo"), 0, environment={}).name
    assert time.strptime(name, "demo-%Y-%m-%d-%H%M%S")


@pytest.mark.parametrize("launcher", ["ddp", "zero2", "zero3", "fsdp2"])
def test_several_gpus_are_started_by_accelerate_with_our_file(launcher):
    command = launch_command(Launcher(launcher), 4)
    assert command[:3] == [sys.executable, "-m", "accelerate.commands.launch"]
    assert command[-4:] == ["--num_processes", "4", "-m", "vqr1"]
    file = command[command.index("--config_file") + 1]
    assert file == str(packaged("launch") / "accelerate" / f"{launcher}.yaml")


def test_ranks_that_were_told_nothing_are_told_what_accelerate_tells():
    told = told_by_accelerate(Launcher.zero3, 16)
    assert (told["ACCELERATE_USE_DEEPSPEED"], told["ACCELERATE_DEEPSPEED_ZERO_STAGE"]) == ("true", "3")
    assert not [key for key in told_by_accelerate(Launcher.ddp, 16) if key.startswith("ACCELERATE_USE_")]
    assert told_by_accelerate(Launcher.none, 1) == {}


def test_one_device_needs_no_launcher():
    assert launch_command(Launcher.none, 1) == [sys.executable, "-m", "vqr1"]


def test_another_program_is_started_again_as_it_was():
    assert launch_command(Launcher.none, 1, ("start.py",)) == [sys.executable, "start.py"]
    assert launch_command(Launcher.ddp, 4, ("start.py",))[-3:] == ["--num_processes", "4", "start.py"]


@pytest.mark.parametrize("launcher", [launcher.value for launcher in Launcher if launcher is not Launcher.auto])
def test_every_launcher_has_a_file(launcher):
    name = "single" if launcher == "none" else launcher
    assert (packaged("launch") / "accelerate" / f"{name}.yaml").is_file()


def settings_of(launcher):
    return yaml.safe_load((packaged("launch") / "accelerate" / f"{launcher.value}.yaml").read_text())


@pytest.mark.parametrize("launcher", [Launcher.ddp, Launcher.zero2, Launcher.zero3, Launcher.fsdp2])
def test_no_launcher_changes_the_sums(launcher):
    """Precision, clipping and accumulation are the experiment's: where accelerate's file says nothing, TRL's settings
    hold."""
    settings = settings_of(launcher)
    assert settings["mixed_precision"] == "no"  # transformers gives its own
    ours = {**settings.get("deepspeed_config", {}), **settings.get("fsdp_config", {})}
    assert not {"gradient_clipping", "gradient_accumulation_steps", "deepspeed_config_file"} & set(ours)


def test_the_file_of_fsdp_is_what_is_asked_of_anothers():
    told = {
        f"FSDP_{key.removeprefix('fsdp_').upper()}": value
        for key, value in settings_of(Launcher.fsdp2)["fsdp_config"].items()
    }
    environment = {"ACCELERATE_USE_FSDP": "true", **{key: str(value) for key, value in told.items()}}
    assert running(environment, 2) is Launcher.fsdp2


def test_weights_that_are_shared_are_saved_whole():
    assert settings_of(Launcher.zero3)["deepspeed_config"]["zero3_save_16bit_model"] is True
    for launcher in (Launcher.zero2, Launcher.zero3):
        settings = settings_of(launcher)["deepspeed_config"]
        assert settings["zero_stage"] == int(launcher.value[-1])
        assert settings["deepspeed_multinode_launcher"] == "standard"  # accelerate's own default needs pdsh


@given(
    st.text(st.sampled_from("abnulé写01 .-_/=,'\"()[]{}:"), min_size=1, max_size=12).filter(lambda text: text.strip())
)
def test_a_name_goes_through_hydras_grammar_unchanged(name):
    (override,) = OverridesParser.create().parse_overrides([f"name={quoted(name)}"])
    assert str(override.value()) == name


# The command line.


def run(folder, *words, command=("-m", "vqr1"), **environment):
    inherited = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "VQR1_SWEEP")}
    settings = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub"), **environment}
    return subprocess.run(
        [sys.executable, *command, *words],
        cwd=folder,
        env={**inherited, "OMP_NUM_THREADS": "1", **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def fake_kadid(root):
    (root / "kadid10k" / "images").mkdir(parents=True)
    (root / "kadid10k" / "dmos.csv").write_text("dist_img,ref_img,dmos,var\nI01_01_01.png,I01.png,4.57,0.49\n")
    (root / "kadid10k" / "images" / "I01_01_01.png").touch()


def test_missing_kadid10k_stops_at_once_and_says_what_to_fetch(tmp_path):
    done = run(tmp_path, "train", "experiment=kadid10k", VQR1_DATA=str(tmp_path / "empty"))
    assert done.returncode == 2
    assert "dmos.csv is missing" in done.stderr
    assert f"the folder images are in {tmp_path / 'empty' / 'kadid10k'}" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []  # nothing was started


def test_a_missing_set_of_ones_own_stops_at_once_whatever_its_name(tmp_path):
    done = run(tmp_path, "train", "experiment=kadid10k", "data.train=[demo_mine]", VQR1_DATA=str(tmp_path))
    assert done.returncode == 2
    assert "no dataset is called demo_mine" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_missing_weights_stop_at_once_and_say_what_to_fetch(tmp_path):
    fake_kadid(tmp_path / "data")
    done = run(tmp_path, "train", "experiment=kadid10k", "data.partial=true", VQR1_DATA=str(tmp_path / "data"))
    assert done.returncode == 2
    assert "fetch it with: hf download Qwen/Qwen2.5-VL-7B-Instruct" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_traceback_is_shown_on_request(tmp_path):
    done = run(
        tmp_path, "train", "experiment=kadid10k", VQR1_DATA=str(tmp_path), VQR1_TRACEBACK="1", HYDRA_FULL_ERROR="1"
    )
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "dmos.csv is missing" in done.stderr


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("rollout.k=1", "set rollout.k to 2 or more"),
        ("+reward.gama=1", "reward.gama is no setting"),
        ("+rollout.script=os:system", "rollout.script is no setting"),
    ],
)
def test_a_wrong_setting_is_one_line_without_a_traceback(tmp_path, word, message):
    done = run(tmp_path, "train", "data=bid", "policy=tiny", word)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_sweep_that_cannot_start_says_why(tmp_path):
    done = run(tmp_path, "train", "-m", "experiment=kadid10k", "seed=0,1", VQR1_DATA=str(tmp_path / "empty"))
    assert done.returncode != 0
    assert "To get it: download kadid10k.zip" in done.stderr
    assert [file.name for file in (tmp_path / "runs").glob("*/*")] == ["multirun.yaml"]


def test_the_exit_code_of_what_was_started_is_the_commands(tmp_path):
    fake_kadid(tmp_path / "data")
    code = (
        "from functools import partial; from vqr1 import cli; from vqr1.launching import Hooks, start; "
        "cli.main(partial(start, hooks=Hooks(program=('-c', 'raise SystemExit(3)'))))"
    )
    root = str(tmp_path / "data")
    words = ("train", "-m", "data=kadid10k", "data.partial=true", "policy=tiny", "seed=0,1", "--root", root)
    done = run(tmp_path, *words, command=("-c", code))
    assert done.returncode == 3
    assert "/seed-0: exit code 3\n" in done.stdout and "/seed-1: exit code 3\n" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_usage_is_shown_where_asked(tmp_path, words):
    done = run(tmp_path, *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, USAGE, "")


def test_importing_the_package_is_quick_and_loads_nothing_heavy(tmp_path):
    code = (
        "import sys, vqr1, vqr1.cli; print([m for m in ('torch', 'vllm', 'transformers', 'numpy') if m in sys.modules])"
    )
    seconds = []
    for _ in range(3):  # the quickest: the machine may be busy
        began = time.perf_counter()
        done = run(tmp_path, code, command=("-c",))
        seconds.append(time.perf_counter() - began)
        assert (done.stdout.strip(), done.stderr) == ("[]", "")
    assert min(seconds) < 1


# The weights.


def hub_folder(tmp_path):
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_a_whole_policy_is_found(tmp_path):
    folder = hub_folder(tmp_path)
    (folder / "model.safetensors").touch()
    assert find_weights(str(folder)) == folder
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}'
    )
    (folder / "one.safetensors").touch()
    with pytest.raises(FileNotFoundError):
        find_weights(str(folder))
    (folder / "two.safetensors").touch()
    assert find_weights(str(folder)) == folder


def test_an_interrupted_download_is_no_policy(tmp_path):
    folder = hub_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"policy.path={folder}: .* holds no model"):
        find_weights(str(folder))
