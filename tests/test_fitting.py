"""What fits the memory of a machine is chosen, what does not is refused with the arithmetic and what would."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from vqr1.batches import plan_batches
from vqr1.config import Config, DataConfig, Launcher, LoraSettings, PolicyConfig, RolloutConfig, Tuning
from vqr1.errors import UserError
from vqr1.estimate.sizes import PUBLISHED
from vqr1.fitting import Devices, Method, fitting_plan, itemsize, largest_picture, needed, plans, question, scoring
from vqr1.machine_choices import MachineChoices, choose, fitted
from vqr1.prerequisites import check_disk
from vqr1.rollout_settings import Correction, TrainingEngine, VllmSettings

GPU = 85e9  # bytes of one that is sold as 80 GB
VLLM = TrainingEngine.vllm_colocate
NAMES = {"3B": "Qwen/Qwen2.5-VL-3B-Instruct", "7B": "Qwen/Qwen2.5-VL-7B-Instruct"}


def config(size="7B", **trainer) -> Config:
    """As experiment=kadid10k has it."""
    settings = {"images_per_step": 128, "answers_per_device": None, "beta": 0.04, "save_total_limit": 2, **trainer}
    return Config(
        policy=PolicyConfig(path=NAMES[size], tuning=Tuning.auto),
        data=DataConfig(train=["kadid10k"], validation=["kadid10k"]),
        trainer=settings,
    )


def chosen(asked: Config, gpus: int, size="7B", launcher=None, memory=GPU, engine=VLLM):
    sizes = PUBLISHED[size]
    devices = Devices(gpu=True, ranks=gpus, memory=memory)
    longest = question(asked, sizes, largest_picture(asked))
    return fitted(asked, sizes, engine, devices, launcher, longest)


@pytest.mark.parametrize(
    ("size", "gpus", "expected"),
    [
        ("7B", 1, ("lora", "none")),
        ("7B", 2, ("lora", "ddp")),  # all weights would take 74.6 GB, and vLLM 25.5
        ("7B", 8, ("full", "zero3")),
        ("7B", 16, ("full", "zero3")),
        ("3B", 1, ("lora", "none")),
        ("3B", 2, ("full", "zero3")),
    ],
)
def test_all_weights_are_trained_where_they_fit(size, gpus, expected):
    found = chosen(config(size), gpus, size)
    assert (found["tuning"].value, found["launcher"].value, found["processes"]) == (*expected, gpus)
    batches = found["batches"]
    assert batches.images_per_generation == 128  # whatever the machine
    assert batches.per_device % 6 == 0 and batches.per_device * batches.accumulation * gpus == 128 * 6


def test_a_pass_is_the_largest_that_fits():
    asked, devices = config(), Devices(gpu=True, ranks=8, memory=GPU)
    sizes, method = PUBLISHED["7B"], Method(Tuning.full, "zero3", VLLM)
    longest = question(asked, sizes, (512, 384))
    divisions = list(plans(asked, 8))
    assert [plan.per_device for plan in divisions] == [96, 48, 24, 12, 6, 4, 3, 2, 1]
    totals = [needed(asked, sizes, method, devices, plan, longest).total for plan in divisions]
    assert totals == sorted(totals, reverse=True)
    for room, expected in ((totals[0], 96), (totals[1], 48), (totals[3], 12)):
        enough = replace(devices, memory=room / 0.95 + 1)
        # vLLM takes its share of whatever there is; without it the room is as said.
        own = replace(method, engine=TrainingEngine.vllm_server)
        less = [needed(asked, sizes, own, enough, plan, longest).total for plan in divisions]
        found = fitting_plan(asked, sizes, own, enough, longest)
        assert found.per_device == next(
            plan.per_device for plan, total in zip(divisions, less, strict=True) if total <= room
        )
        assert found.per_device >= expected
    assert fitting_plan(asked, sizes, method, replace(devices, memory=20e9), longest) is None
    assert fitting_plan(asked, sizes, method, replace(devices, memory=None), longest) == divisions[0]


def test_what_is_set_and_cannot_fit_is_refused_with_the_arithmetic_and_what_would_fit():
    full = config()
    full.policy.tuning = Tuning.full
    with pytest.raises(UserError) as refused:
        chosen(full, 2)
    message = str(refused.value)
    for part in ("policy.tuning=full launcher=zero3 does not fit", "of 85.0 GB", "weights 8.3", "vllm 25.5"):
        assert part in message
    parts = [float(number) for number in re.findall(r"[a-z]+ (\d+\.\d)(?= \+|\. )", message.partition("pass: ")[2])]
    total = float(re.search(r"needs about (\d+\.\d) GB", message)[1])
    assert sum(parts) == pytest.approx(total, abs=0.1 * len(parts)) and total > 100
    assert message.endswith("Set policy.tuning=lora launcher=ddp, or 4 GPUs or more")
    chosen(replace(full, policy=replace(full.policy, tuning=Tuning.lora)), 2)
    chosen(full, 4)

    many = config(answers_per_device=768)
    many.policy.tuning = Tuning.lora
    many.rollout.max_tokens = 1024
    with pytest.raises(UserError, match="with 768 answers in a pass") as refused:
        chosen(many, 1)
    fitting = int(re.search(r"trainer.answers_per_device=(\d+)", str(refused.value))[1])
    many.trainer["answers_per_device"] = fitting
    assert chosen(many, 1)["batches"].per_device == fitting


def test_vllms_share_is_checked_with_the_rest():
    with pytest.raises(UserError, match="rollout.vllm.memory_share=0.3 of .* set rollout.vllm.memory_share=0.7"):
        chosen(config(), 1, memory=25.5e9)


def test_a_step_that_does_not_divide_offers_sizes_of_whole_cohorts():
    with pytest.raises(UserError, match="=128 cannot be shared by 6 devices; set it to 120 or 144"):
        chosen(config(), 6)
    for images in (120, 144):
        assert chosen(config(images_per_step=images), 6)["batches"].images_per_generation == images
    with pytest.raises(UserError, match="=10 cannot be shared by 4 devices; set it to 12$"):
        plan_batches(10, 6, 4, cohort_size=6)


def test_what_passes_are_counted_in_is_not_left_to_the_machine():
    with pytest.raises(UserError, match="set trainer.answers_per_device as well"):
        chosen(config(steps_per_generation=2), 8)
    assert chosen(config(steps_per_generation=2, answers_per_device=12), 8)["batches"].steps_per_generation == 2


def test_a_machine_without_a_gpu_trains_everything_within_its_memory():
    asked = Config(policy=PolicyConfig(path="tiny", tuning=Tuning.auto), trainer={"beta": 0.04, "images_per_step": 64})
    found = choose(asked, 0, environment={}, memory=32e9)
    assert (found.tuning, found.launcher) == (Tuning.full, Launcher.none)
    assert found.batches.per_device > choose(asked, 0, environment={}, memory=4e9).batches.per_device
    # Where the pictures' size is not known, the largest that it could be refuses nothing.
    assert choose(asked, 0, environment={}, memory=1e9).batches.per_device == 1
    with pytest.raises(UserError, match=r"policy.path=tiny with policy.tuning=full .* Take a smaller policy"):
        choose(asked, 0, environment={}, memory=1e7)


def test_the_chosen_pass_is_told_and_recorded():
    asked = Config(policy=PolicyConfig(path="tiny"))
    found = choose(asked, 0, environment={}, memory=8e9)
    told = int(found.words()["trainer.answers_per_device"])
    again = replace(asked, name=found.name, trainer={**asked.trainer, "answers_per_device": told})
    assert choose(again, 0, environment={}, memory=1e12).batches == found.batches
    assert found.written_into(asked).trainer["answers_per_device"] == told
    assert asked.trainer["answers_per_device"] is None


def test_weights_and_passes_follow_from_the_settings():
    gpu = Devices(gpu=True, ranks=1)
    assert [itemsize(name, gpu) for name in ("auto", "bfloat16", "float32")] == [2, 2, 4]
    assert itemsize("auto", replace(gpu, bfloat16=False)) == itemsize("auto", replace(gpu, gpu=False)) == 4
    lora = Method(Tuning.lora, "none", VLLM)
    # On-policy answers without dropout: the old probabilities are the training pass's own.
    assert (scoring(config(), lora).reference, scoring(config(), lora).old) == (True, False)
    assert not scoring(config(beta=0.0), lora).reference
    assert scoring(config(num_iterations=2), lora).old
    dropped = replace(config(), policy=PolicyConfig(lora=LoraSettings(dropout=0.1)))
    assert scoring(dropped, lora).old
    uncorrected = RolloutConfig(vllm=VllmSettings(correction=Correction.none))
    assert not scoring(replace(dropped, rollout=uncorrected), lora).old


def test_a_disk_that_cannot_hold_the_checkpoints_is_refused_before_the_run(tmp_path, policy_folder, monkeypatch):
    asked = replace(config(), policy=PolicyConfig(path=str(policy_folder)), runs=str(tmp_path / "runs"))
    choices = MachineChoices(
        name="mine",
        tuning=Tuning.full,
        engine=TrainingEngine.transformers,
        launcher=Launcher.none,
        processes=1,
        batches=plan_batches(128, 6, 1),
        policy=Path(policy_folder),
    )
    check_disk(asked, choices, Devices(False, choices.processes, bfloat16=False))
    free = type("Usage", (), {"free": 10**6})
    monkeypatch.setattr("vqr1.prerequisites.shutil.disk_usage", lambda place: free)
    with pytest.raises(UserError, match=r"keeps up to 3 checkpoints of 0.0 GB and 6 times its weights .*0.0 GB for it"):
        check_disk(asked, choices, Devices(False, choices.processes, bfloat16=False))
    # What an earlier part of the run has written is not needed again.
    there = tmp_path / "runs" / "mine" / "checkpoint-1"
    there.mkdir(parents=True)
    (there / "optimizer.pt").write_bytes(bytes(10**8))
    check_disk(asked, choices, Devices(False, choices.processes, bfloat16=False))
