"""Runs that are shown answers: what decides their examples is compared when they are resumed, whatever the objective;
and whole runs that are killed, on two ranks, and with LoRA.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.support.choices import choices_for
from tests.support.miniatures import kadid10k, picture
from tests.support.runs import AGREE, rows, start, train, training_rows
from vqr1.config import Config, DataConfig, DepictConfig, LevelLabels, LevelsConfig, Objective, PolicyConfig
from vqr1.data import DATASETS, Sample
from vqr1.data.pictures import digest
from vqr1.errors import UserError
from vqr1.training.objectives import SUPERVISED
from vqr1.training.run_data import read_data
from vqr1.training.run_folder import RunFolder


def sample(i: int, mos: float, std: float = 0.5, **more) -> Sample:
    return Sample(f"{i}.png", mos, std, "demo_five", f"g{i}", f"demo_five/{i}", **more)


def config_of(objective: str, **more) -> Config:
    return Config(
        objective=Objective(objective),
        data=DataConfig(train=["demo_five"]),
        policy=PolicyConfig(path="tiny"),
        trainer={"images_per_step": 2},
        **more,
    )


class Contents:
    """Stands for what has opened every picture: its digest is its name."""

    def expected(self, path: str) -> str:
        return Path(path).name


SAMPLES = [sample(i, 1.0 + i) for i in range(5)]


def taught(config: Config, samples=SAMPLES, folder: Path = Path("runs/x")) -> dict[str, dict[str, str]]:
    recipe = SUPERVISED[config.objective](config, choices_for(config), folder)
    recipe.order(samples)
    return recipe.taught(Contents())


SOFT = {"levels": LevelsConfig(labels=LevelLabels.soft)}


@pytest.mark.parametrize(("objective", "more"), [("levels", {}), ("levels", SOFT), ("comparison", {}), ("depict", {})])
def test_examples_are_told_apart_by_what_is_taught_alone(objective, more):
    config = config_of(objective, **more)
    found = taught(config)
    assert set(found) == {"examples"} and set(found["examples"]) == {"demo_five"}
    assert taught(config) == found
    moved = [replace(one, image=f"/elsewhere/{one.image}") for one in SAMPLES]
    assert taught(config, moved) == found
    assert taught(config, [replace(SAMPLES[0], mos=4.9), *SAMPLES[1:]]) != found


def test_levels_follow_from_a_scale_that_no_score_shows(monkeypatch):
    """Its ends are in dataset.yaml: with others the same scores are other words."""
    config = config_of("levels")
    before = taught(config)
    monkeypatch.setitem(DATASETS, "demo_five", replace(DATASETS["demo_five"], range=(1.0, 9.0)))
    assert taught(config) != before


@pytest.fixture
def content(tmp_path):
    Image.new("RGB", (56, 56)).save(tmp_path / "sea.png")
    path = tmp_path / "rows.jsonl"
    path.write_text('{"image": "sea.png", "query": "What is shown?", "answer": "The sea."}\n')
    return path


def test_rows_of_the_users_are_compared_and_named(content, tmp_path):
    config = config_of("depict", depict=DepictConfig(content=str(content), content_share=0.5))
    folder = RunFolder(tmp_path / "run", writes=True)
    before = taught(config)
    assert before["files"] == {"rows.jsonl": digest(content), "sea.png": "sea.png"}
    assert set(before["examples"]) == {"demo_five", "content"}
    folder.open(config, taught=before)
    folder.close()
    again = replace(config, resume=True, name="run")
    # Another place is no other content.
    moved = shutil.copytree(tmp_path, tmp_path / "moved", ignore=lambda *_: ["run", "moved"])
    there = replace(again, depict=replace(config.depict, content=str(moved / content.name)))
    assert folder.open(there, taught=taught(there)) == []
    folder.close()
    content.write_text(content.read_text().replace("The sea.", "A wave."))
    with pytest.raises(UserError, match=rf"rows.jsonl of depict.content={content} is not the file that .*/run began"):
        folder.open(again, taught=taught(again))
    other = {**before, "files": {**before["files"], "sea.png": "another"}}
    with pytest.raises(UserError, match="sea.png of depict.content="):
        folder.open(again, taught=other)


def test_other_examples_of_the_same_scores_are_refused(tmp_path):
    folder = RunFolder(tmp_path / "run", writes=True)
    config = config_of("levels")
    folder.open(config, taught={"examples": {"demo_five": "a"}})
    folder.close()
    again = replace(config, resume=True, name="run")
    with pytest.raises(UserError, match="the examples of demo_five are not those that .* put its dataset.yaml back"):
        folder.open(again, taught={"examples": {"demo_five": "b"}})
    (folder.path / "taught.json").unlink()
    (note,) = folder.open(again, taught={"examples": {"demo_five": "b"}})
    folder.close()
    assert "does not say what its examples were" in note


def test_a_run_from_before_a_setting_is_resumed(tmp_path):
    """data.reference came later than folders of this format."""
    config = config_of("levels")
    folder = RunFolder(tmp_path / "run", writes=True)
    folder.open(config)
    folder.close()
    begun = folder.path / "config.yaml"
    begun.write_text("".join(line for line in begun.open() if line.strip() != "reference: false"))
    assert folder.open(replace(config, resume=True)) == []
    folder.close()


def test_questions_show_the_references_of_the_sets_that_have_them(tmp_path):
    """As files, in the training part alone: scores come of two pictures."""
    kadid10k(tmp_path / "kadid10k", references=10)
    for number in range(1, 11):
        picture(tmp_path / "kadid10k" / "images" / f"I{number:02}.png")
    config = config_of("depict")
    data = DataConfig(root=str(tmp_path), train=["kadid10k"], validation=["kadid10k"], partial=True)
    config = replace(config, data=data)
    found = read_data(config)
    assert all(one.reference is not None and Path(one.reference).is_file() for one in found.train)
    assert {one.reference for one in found.validation["kadid10k"]} == {None}
    recipe = SUPERVISED[Objective.depict](config, choices_for(config), tmp_path / "run")
    recipe.order(found.train)
    shown = [len(example.pictures) for example in recipe._examples]
    assert 0 < shown.count(3) < len(shown)
    without = read_data(replace(config, depict=DepictConfig(reference=False)))
    assert {one.reference for one in without.train} == {None}
    Path(str(found.train[0].reference)).unlink()
    with pytest.raises(
        UserError, match="depict.reference=true: .* is missing from kadid10k; .* depict.reference=false"
    ):
        read_data(config)


def test_the_pairs_of_a_pass_are_not_divided_otherwise(tmp_path):
    """Their fidelity is of the pictures in a pass: for other losses its size changes nothing."""
    soft = replace(config_of("levels", **SOFT), trainer={"images_per_step": 8, "answers_per_device": 8})
    for weight in (0.0, 1.0):
        config = replace(soft, levels=replace(soft.levels, pair_weight=weight))
        folder = RunFolder(tmp_path / f"{weight}", writes=True)
        folder.open(config)
        folder.close()
        other = replace(config, resume=True, trainer={**config.trainer, "answers_per_device": 4})
        if weight:
            with pytest.raises(UserError, match="trainer.answers_per_device was 8 in .* and is 4"):
                folder.open(other)
        else:
            assert folder.open(other) == []
        folder.close()


# Whole runs, of an untrained policy.

STEPS = {"trainer__max_steps": 4, "trainer__save_steps": 3, "evaluation__every": 2}
PAIRS = {"pairs": 100, "anchors": 3}


@pytest.fixture(scope="module", params=["levels", "soft", "comparison", "depict"])
def where(request, policy_folder, data_root, tmp_path_factory):
    objective = "levels" if request.param == "soft" else request.param
    settings = {"experiment": f"demo_{objective}", "policy__path": policy_folder, "data__root": data_root}
    if request.param == "soft":
        return {**settings, "levels__labels": "soft"}
    if objective == "levels":
        return settings
    settings |= {f"{objective}__{name}": value for name, value in PAIRS.items()}
    if objective == "depict":
        folder = tmp_path_factory.mktemp("content")
        Image.new("RGB", (56, 56)).save(folder / "sea.png")
        file = folder / "rows.jsonl"
        file.write_text('{"image": "sea.png", "query": "What is shown?", "answer": "The sea."}\n')
        settings |= {"depict__content": file, "depict__content_share": 0.25}
    return settings


@pytest.fixture(scope="module")
def finished(tmp_path_factory, where):
    return train(tmp_path_factory.mktemp("runs") / "finished", **where, **STEPS)


@pytest.mark.full
@pytest.mark.slow
def test_a_run_that_was_killed_ends_as_an_undisturbed_one(tmp_path, finished, where):
    torn = shutil.copytree(finished, tmp_path / "torn")
    shutil.rmtree(torn / "final")
    shutil.rmtree(torn / "checkpoint-4")
    (torn / "summary.json").unlink()
    lines = (torn / "metrics.jsonl").read_text().splitlines(keepends=True)
    (torn / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["step"] < 4))
    file = Path(str(where["depict__content"])) if "depict__content" in where else None
    if file is not None:
        was = file.read_text()
        file.write_text(was.replace('sea."', 'waves."'))
        done = start(runs=tmp_path, name="torn", **where, **STEPS, resume="true")
        file.write_text(was)
        assert done.returncode == 2
        assert f"rows.jsonl of depict.content={file} is not the file that" in done.stderr
    train(torn, **where, **STEPS, resume="true")
    for name in ("metrics.jsonl", "answers.jsonl", "final/model.safetensors"):
        assert (torn / name).read_bytes() == (finished / name).read_bytes(), name


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.distributed
def test_two_ranks_learn_what_one_learns(tmp_path, finished, where):
    two = train(tmp_path / "two", ranks=2, **where, **STEPS)
    one, other = training_rows(finished), training_rows(two)
    assert len(one) == len(other) == 4
    for expected, found in zip(one, other, strict=True):
        assert set(expected) == set(found)
        for key in {"train/loss", "train/grad_norm", "train/token_accuracy", "levels/cross_entropy"} & set(expected):
            assert found[key] == pytest.approx(expected[key], **AGREE), key
    first, second = (next(row for row in rows(folder) if "train/loss" not in row) for folder in (finished, two))
    assert second == pytest.approx(first, **AGREE)  # the start policy's, whose pictures two ranks share


ATTENTION = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj)"


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("ranks", [1, 2])
def test_adapters_on_the_attention_are_learnt_and_load_in_plain_transformers(tmp_path, where, ranks):
    from peft import PeftModel
    from transformers import Qwen2_5_VLForConditionalGeneration

    lora = {
        "policy__tuning": "lora",
        "policy__train_vision": "true",
        "policy__lora__r": 4,
        "policy__lora__target_modules": f"'{ATTENTION}'",
        "trainer__learning_rate": 0.01,
    }
    run = train(tmp_path / "lora", ranks=ranks, **where, **STEPS, **lora)
    losses = [row["train/loss"] for row in training_rows(run)]
    assert losses[-1] < losses[0]
    for part in ("final", "best"):
        if part == "best" and not (run / part).is_dir():
            continue  # no step was better than the start
        base = Qwen2_5_VLForConditionalGeneration.from_pretrained(where["policy__path"])
        before = {name: value.clone() for name, value in base.state_dict().items()}
        merged = PeftModel.from_pretrained(base, run / part).merge_and_unload().state_dict()
        changed = {name for name, value in merged.items() if not value.equal(before[name])}
        assert changed and all(name.split(".")[-2] in ("q_proj", "k_proj", "v_proj", "o_proj") for name in changed)


@pytest.mark.full
@pytest.mark.slow
def test_weights_load_in_plain_transformers(finished):
    from transformers import Qwen2_5_VLForConditionalGeneration

    for part in ("final", "best"):
        if part == "final" or (finished / part).is_dir():
            _, told = Qwen2_5_VLForConditionalGeneration.from_pretrained(finished / part, output_loading_info=True)
            assert not told["missing_keys"] and not told["unexpected_keys"]
