"""Levels' words as a policy is taught and read: the examples, the passes and the losses, and whole runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from trl.trainer.utils import add_fused_lm_head

from tests.support.choices import choices_for
from tests.support.runs import AGREE, rows, start, train, training_rows
from vqr1.config import Config, DataConfig, LevelLabels, LevelsConfig, Objective, PolicyConfig
from vqr1.data import Sample
from vqr1.errors import UserError
from vqr1.levels import LEVELS, level_score
from vqr1.policy import segments
from vqr1.policy.level_scores import LevelAnswers, branched, level_log_probabilities, level_scores
from vqr1.policy.load import load_folder, load_processor
from vqr1.policy.read_once import OncePerPrompt, take_bytes
from vqr1.policy.shared_prefix import Packing
from vqr1.rollout.offline import encode_prompts
from vqr1.training.level_examples import LevelCollator, Levels, build_question
from vqr1.training.level_rater import LevelRater
from vqr1.training.level_recipe import LevelRecipe

QUESTION = build_question("How would you rate the quality of this image?")
SIZES = [(56, 84), (112, 56), (84, 84)]


def sample(i: int, mos: float, std: float | None = 0.5, dataset: str = "demo_five") -> Sample:
    return Sample(f"{i}.png", mos, std, dataset, f"g{i}", f"{dataset}/{i}")


def config_of(**levels) -> Config:
    return Config(
        objective=Objective.levels,
        data=DataConfig(train=["demo_five"]),
        policy=PolicyConfig(path="tiny"),
        levels=LevelsConfig(**levels),
    )


@pytest.fixture(scope="module")
def policy(policy_folder):
    """An untrained policy as a run has it, its processor, and three pictures."""
    model = load_folder(policy_folder, torch.float32).eval()
    add_fused_lm_head(model)
    plain = load_processor(PolicyConfig(path=str(policy_folder)))
    processor = OncePerPrompt.of(plain)
    take_bytes(model.model.visual, processor.image_processor)
    model.set_attn_implementation({"text_config": segments.NAME})
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (high, wide, 3), dtype=np.uint8)) for wide, high in SIZES]
    return model, plain, processor, pictures


def by_whole_rows(model, processor, picture, answer: list[int]) -> torch.Tensor:
    """The log-probability of each token of ``answer`` after the question, from an ordinary row and its logits."""
    inputs = encode_prompts(processor, [{"image": picture, "prompt": QUESTION}])
    told = torch.tensor([answer])
    with torch.no_grad():
        logits = model(
            input_ids=torch.cat([inputs["input_ids"], told], 1),
            attention_mask=torch.ones(1, inputs["input_ids"].shape[1] + len(answer), dtype=torch.long),
            mm_token_type_ids=torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(told)], 1),
            pixel_values=inputs["pixel_values"],
            image_grid_thw=inputs["image_grid_thw"],
        ).logits[0]
    log = logits[-len(answer) - 1 : -1].log_softmax(-1)
    return log.gather(1, told.T)[:, 0]


def test_answers_are_cut_where_the_word_begins_and_ends(policy):
    tokenizer = policy[1].tokenizer
    answers = LevelAnswers.of(tokenizer)
    for word, own, whole in zip(LEVELS, answers.words, answers.answers, strict=True):
        assert tokenizer.decode(list(own)) == f" {word}"
        assert tokenizer.decode(list(whole)) == f"The quality of the image is {word}.<|im_end|>"
        assert whole[: len(answers.opening) + len(own)] == (*answers.opening, *own)
    assert (
        len({own[0] for own in answers.words}) < len(LEVELS) < sum(map(len, answers.words))
    )  # first tokens are shared


@pytest.mark.parametrize("packing", [Packing("mask"), Packing("segments")])
def test_words_of_several_tokens_have_the_probability_that_whole_rows_give_them(policy, packing):
    """Pictures of different size in one batch, against each word of each picture in a row of its own."""
    model, plain, processor, pictures = policy
    answers = LevelAnswers.of(processor.tokenizer)
    inputs = encode_prompts(processor, [{"image": picture, "prompt": QUESTION} for picture in pictures])
    with torch.no_grad():
        found = level_log_probabilities(model, inputs, answers, model.model.get_rope_index, packing)
    for own, picture in zip(found, pictures, strict=True):
        for log, word in zip(own, answers.words, strict=True):
            whole = by_whole_rows(model, plain, picture, [*answers.opening, *word])
            torch.testing.assert_close(log, whole[len(answers.opening) :].sum(), rtol=0, atol=2e-5)


def test_scores_outside_of_training_are_those_inside(policy):
    """From the plain processor as well, and one picture at a time."""
    model, plain, processor, pictures = policy
    examples = [{"image": picture, "prompt": QUESTION} for picture in pictures]
    answers = LevelAnswers.of(processor.tokenizer)
    with torch.no_grad():
        inside = level_log_probabilities(
            model, encode_prompts(processor, examples), answers, model.model.get_rope_index, Packing("mask")
        )
    expected = level_score(inside.double().numpy())
    found = level_scores(model, plain.tokenizer, encode_prompts(plain, examples))
    np.testing.assert_allclose(found.score, expected.score, atol=2e-5)
    np.testing.assert_allclose(found.std, expected.std, atol=2e-5)
    assert np.ptp(found.score) > 2e-4  # an untrained policy prefers the words of fewest tokens, whatever it sees
    alone = [level_scores(model, plain.tokenizer, encode_prompts(plain, [one])).score for one in examples]
    np.testing.assert_allclose(np.concatenate(alone), found.score, atol=2e-5)


def test_a_hard_example_teaches_the_answer_and_nothing_before_it(policy):
    _, _, processor, pictures = policy
    answers = LevelAnswers.of(processor.tokenizer)
    samples = [sample(0, 1.0), sample(1, 3.1), sample(2, 5.0)]
    levels = Levels.of(config_of(), samples)
    assert [levels.level[s.image_id] for s in samples] == [1, 3, 5]  # the scale is 1 to 5, in steps of 0.8
    collate = LevelCollator(processor, answers, levels)
    batch = collate(
        [
            {"image": picture, "prompt": QUESTION, "image_id": s.image_id, "dataset": s.dataset}
            for picture, s in zip(pictures, samples, strict=True)
        ]
    )
    assert batch["image_id"] == [s.image_id for s in samples]
    for row, level in zip(batch["labels"], (1, 3, 5), strict=True):
        assert row[row != -100].tolist() == list(answers.answers[level - 1])
    seen = batch["attention_mask"] == 1
    assert (batch["labels"][~seen] == -100).all()
    assert batch["input_ids"].shape == batch["labels"].shape == batch["mm_token_type_ids"].shape
    assert len(batch["pixel_values"]) == batch["image_grid_thw"].prod(-1).sum()


def test_the_answers_other_tokens_are_those_beside_the_word(policy):
    """Of the loss of soft labels: log P of the words, and of what stands around the likeliest."""
    from vqr1.training.supervised_trainer import LevelTrainer

    model, plain, processor, pictures = policy
    answers = LevelAnswers.of(processor.tokenizer)
    inputs = encode_prompts(processor, [{"image": picture, "prompt": QUESTION} for picture in pictures[:2]])
    batch = branched(inputs, answers.answers)
    from vqr1.policy.shared_prefix import log_probabilities

    with torch.no_grad():
        log_RS, _ = log_probabilities(model, batch, model.model.get_rope_index, Packing())
    trainer = object.__new__(LevelTrainer)
    trainer._answers = answers
    label = torch.tensor([[0.1, 0.9, 0, 0, 0], [0, 0, 0, 0.4, 0.6]])
    words, text = trainer._split(log_RS, label)
    begin = len(answers.opening)
    for i, likeliest in enumerate((1, 4)):
        for w, word in enumerate(answers.words):
            whole = by_whole_rows(model, plain, pictures[i], list(answers.answers[w]))
            torch.testing.assert_close(words[i, w], whole[begin : begin + len(word)].sum(), rtol=0, atol=2e-5)
            if w == likeliest:
                beside = torch.cat([whole[:begin], whole[begin + len(word) :]])
                torch.testing.assert_close(text[i], beside.mean(), rtol=0, atol=2e-5)


def test_a_scale_that_is_open_and_a_set_without_spread_are_refused(monkeypatch):
    from vqr1.data import DATASETS

    with pytest.raises(UserError, match="needs the spread of the ratings, and demo_five/1 has none"):
        Levels.of(config_of(labels=LevelLabels.soft), [sample(0, 2.0), sample(1, 2.0, std=None)])
    monkeypatch.setitem(DATASETS, "demo_five", replace(DATASETS["demo_five"], range=(0.0, np.inf)))
    with pytest.raises(UserError, match="cuts the scale of demo_five into five"):
        Levels.of(config_of(), [sample(0, 2.0)])


def test_a_rating_is_the_expected_level_and_its_word_the_likeliest():
    """By words that are known: fair and good equally likely, then excellent for certain."""

    class Known:
        def level_log_probabilities(self, prompt, pictures):
            return [
                [-50.0, -50.0, -1.0, -1.0, -50.0] if picture.width == 56 else [-90.0] * 4 + [-0.1]
                for picture in pictures
            ]

    sizes = {"0.png": (56, 56), "1.png": (84, 56)}
    rater = LevelRater(Known(), lambda path: Image.new("RGB", sizes[path]), QUESTION, batch=1)
    found = rater.rate("set", [sample(0, 3.0), sample(1, 5.0)], 1)
    np.testing.assert_allclose(found.scores_NK, [[3.5], [5.0]], atol=1e-9)
    np.testing.assert_allclose(found.std_N, [0.5, 0.0], atol=1e-9)
    assert found.texts == [["The quality of the image is fair."], ["The quality of the image is excellent."]]
    figures = found.metrics()
    assert figures["score_std"] == pytest.approx(0.25)
    assert "unreadable" not in figures  # nothing was answered
    assert float(level_score([0.0] * 5).score) == 3.0


@pytest.mark.parametrize("passes", [1, 2])
def test_every_picture_is_shown_once_an_epoch(tmp_path, passes):
    """However many passes a step has: a batch that is read again for each pass is GRPO's alone."""
    trainer = {"images_per_step": 8, "answers_per_device": 8 // passes}
    config = replace(config_of(), trainer=trainer)
    recipe = LevelRecipe(config, choices_for(config), tmp_path)
    order = recipe.order([sample(i, 3.0) for i in range(16)])
    assert sorted(order) == list(range(16))
    assert len(order) == 16
    assert recipe.args.gradient_accumulation_steps == passes


# Whole runs, of an untrained policy.


@pytest.fixture(scope="module")
def where(policy_folder, data_root):
    return {"experiment": "demo_levels", "policy__path": policy_folder, "data__root": data_root}


STEPS = {"trainer__max_steps": 4, "trainer__save_steps": 3, "evaluation__every": 2}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, where):
    return train(tmp_path_factory.mktemp("runs") / "finished", **where, **STEPS)


@pytest.mark.slow
def test_a_run_learns_is_evaluated_and_leaves_what_any_run_leaves(finished):
    present = {path.name for path in finished.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "timings.jsonl", "answers.jsonl", "summary.json"} <= present
    assert {"checkpoint-3", "checkpoint-4", "final", "best"} <= present
    losses = [row["train/loss"] for row in training_rows(finished)]
    assert losses[-1] < 0.9 * losses[0]
    evaluated = [row for row in rows(finished) if "eval/demo_five/srcc" in row]
    assert [row["step"] for row in evaluated] == [0, 2, 4]
    assert "eval/demo_five_test/srcc" in evaluated[-1]
    card = (finished / "best" / "README.md").read_text()
    assert "vqr1 evaluate model=FOLDER data=[SET,SET] method=levels" in card
    assert "reinforcement" not in card


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["in its last evaluation", "before its first checkpoint"])
def test_a_run_that_was_killed_ends_as_an_undisturbed_one(tmp_path, finished, where, killed):
    torn = tmp_path / "torn"
    shutil.copytree(finished, torn)
    shutil.rmtree(torn / "final")
    (torn / "summary.json").unlink()
    if killed == "in its last evaluation":
        shutil.rmtree(torn / "checkpoint-4")
        lines = (torn / "metrics.jsonl").read_text().splitlines(keepends=True)
        (torn / "metrics.jsonl").write_text("".join(line for line in lines if '"step": 4' not in line))
    else:
        for checkpoint in torn.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    train(torn, **where, **STEPS, resume="true")
    for name in ("metrics.jsonl", "answers.jsonl"):
        assert (torn / name).read_bytes() == (finished / name).read_bytes()
    weights = [(folder / "final" / "model.safetensors").read_bytes() for folder in (torn, finished)]
    assert weights[0] == weights[1]
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (torn, finished)]
    assert {**summaries[0], "seconds": 0} == {**summaries[1], "seconds": 0}


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_a_step_is_the_same_in_one_pass_and_in_two(tmp_path, where, labels):
    one, two = (
        train(tmp_path / size, **where, levels__labels=labels, trainer__answers_per_device=size) for size in ("8", "4")
    )
    for ours, theirs in zip(training_rows(one), training_rows(two), strict=True):
        for key in ("train/loss", "train/grad_norm"):
            assert ours[key] == pytest.approx(theirs[key], **AGREE)


@pytest.mark.slow
def test_soft_labels_with_pairs_are_learnt(tmp_path, where):
    """Over passes of half a step: every part of the loss is logged, and their sum is the loss."""
    soft = {"levels__labels": "soft", "levels__pair_weight": "1", "trainer__answers_per_device": "4"}
    run = train(tmp_path / "soft", **where, **soft, trainer__max_steps=6)
    parts = [row for row in training_rows(run) if "levels/pair" in row]
    assert len(parts) == 6
    assert parts[-1]["levels/cross_entropy"] < parts[0]["levels/cross_entropy"]
    assert parts[-1]["levels/text"] < parts[0]["levels/text"]
    assert parts[0]["train/loss"] == pytest.approx(
        sum(parts[0][f"levels/{name}"] for name in ("cross_entropy", "text", "pair")), rel=1e-4
    )


@pytest.mark.slow
def test_a_run_of_another_objective_is_not_gone_on_with(finished, where):
    done = start(
        runs=finished.parent, name=finished.name, resume="true", **{k: v for k, v in where.items() if k != "experiment"}
    )
    assert done.returncode == 2
    assert "objective was levels" in done.stderr
