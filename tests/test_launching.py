"""How a run is started, and the command line as a user meets it: as a process of its own."""

import os
import subprocess
import sys
import time

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from vqr1.cli import USAGE
from vqr1.command_words import quoted
from vqr1.config import Config, Launcher, PolicyConfig, RolloutConfig, Tuning
from vqr1.errors import UserError
from vqr1.launching import launch_command, memory_estimate
from vqr1.machine_choices import choose
from vqr1.packaged import packaged
from vqr1.policy.load import SHIPPED, find_weights
from vqr1.rollout_settings import TrainingEngine


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
        ("auto", "none", 8, ("full", "none")),
    ],
)
def test_the_machine_settles_what_is_left_open(tuning, launcher, gpus, expected):
    choices = choose(config(Tuning(tuning), Launcher(launcher), name="mine"), gpus, environment={})
    assert (choices.tuning.value, choices.launcher.value) == expected
    assert choices.processes == (1 if expected[1] == "none" else gpus)
    assert choices.batches.images_per_generation == 128
    assert (choices.name, choices.policy) == ("mine", SHIPPED)


@pytest.mark.parametrize(
    ("environment", "gpus", "expected"),
    [
        ({}, 0, ("none", 2)),  # ranks on CPUs
        ({}, 2, ("ddp", 2)),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, 2, ("zero3", 2)),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "WORLD_SIZE": "1"}, 1, ("zero3", 1)),
    ],
)
def test_a_process_that_was_started_by_a_launcher_is_one_of_many(environment, gpus, expected):
    environment = {"LOCAL_RANK": "1", "WORLD_SIZE": "2", **environment}
    choices = choose(config(), gpus, environment=environment)
    assert (choices.launcher.value, choices.processes) == expected


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


@pytest.mark.parametrize("launcher", ["ddp", "zero3"])
def test_a_launcher_for_gpus_is_refused_where_there_are_none(launcher):
    with pytest.raises(UserError, match=f"launcher={launcher} needs a GPU"):
        choose(config(Tuning.full, Launcher(launcher)), 0, environment={})


def test_pictures_that_do_not_divide_over_the_gpus_are_refused_before_anything_is_started():
    with pytest.raises(UserError, match="images_per_step=128 cannot be shared by 3 devices; set it to 126 or 129"):
        choose(config(), 3, environment={})


def test_a_run_without_a_name_is_named_after_experiment_and_time():
    name = choose(config(experiment_name="demo"), 0, environment={}).name
    assert time.strptime(name, "demo-%Y-%m-%d-%H%M%S")


@pytest.mark.parametrize("launcher", ["ddp", "zero3"])
def test_several_gpus_are_started_by_accelerate_with_our_file(launcher):
    command = launch_command(Launcher(launcher), 4)
    assert command[:3] == [sys.executable, "-m", "accelerate.commands.launch"]
    assert command[-4:] == ["--num_processes", "4", "-m", "vqr1"]
    file = command[command.index("--config_file") + 1]
    assert file == str(packaged("launch") / "accelerate" / f"{launcher}.yaml")


def test_one_device_needs_no_launcher():
    assert launch_command(Launcher.none, 1) == [sys.executable, "-m", "vqr1"]


def test_another_program_is_started_again_as_it_was():
    assert launch_command(Launcher.none, 1, ("start.py",)) == [sys.executable, "start.py"]
    assert launch_command(Launcher.ddp, 4, ("start.py",))[-3:] == ["--num_processes", "4", "start.py"]


@pytest.mark.parametrize("launcher", [launcher.value for launcher in Launcher if launcher is not Launcher.auto])
def test_every_launcher_has_a_file(launcher):
    name = "single" if launcher == "none" else launcher
    assert (packaged("launch") / "accelerate" / f"{name}.yaml").is_file()


def test_memory_of_a_7b_policy():
    weights = 16_000_000_000  # bytes: eight billion parameters in bfloat16
    assert memory_estimate(weights, "lora", 1) == pytest.approx(16.8)
    assert memory_estimate(weights, "lora", 8) == pytest.approx(16.8)  # on each GPU the same
    assert memory_estimate(weights, "full", 1) == pytest.approx(8 * (2 + 2 + 12 + 2))
    assert memory_estimate(weights, "full", 8) == pytest.approx(18)


@given(st.text(st.sampled_from("abnul01 .-_/=,'\"()[]{}:"), min_size=1, max_size=12).filter(lambda text: text.strip()))
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
    words = ("train", "-m", "data=kadid10k", "data.partial=true", "policy=tiny", "seed=0,1", "--root", f"{tmp_path}/data")
    done = run(tmp_path, *words, command=("-c", code))
    assert done.returncode == 3
    assert "seed=0 ended with exit code 3" in done.stderr
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
