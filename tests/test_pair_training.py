"""Pairs of pictures as a policy is taught and read: which pairs, the examples, the passes, the scores, whole runs."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from trl.trainer.utils import add_fused_lm_head

from tests.support.choices import choices_for
from tests.support.runs import AGREE, rows, train, training_rows
from vqr1.comparison.anchors import score_against_anchors
from vqr1.comparison.scores import comparison_matrix, map_scores
from vqr1.comparison.words import WORDS, compare_mos, pair_spread, preference
from vqr1.config import ComparisonConfig, Config, DataConfig, Objective, PolicyConfig
from vqr1.data import DATASETS, Sample
from vqr1.errors import UserError
from vqr1.picture_prompts import in_order
from vqr1.policy import segments
from vqr1.policy.comparison_scores import comparison_answers
from vqr1.policy.level_scores import level_log_probabilities
from vqr1.policy.load import load_folder, load_processor
from vqr1.policy.read_once import OncePerPrompt, encode_each_picture_once, take_bytes
from vqr1.policy.shared_prefix import Packing
from vqr1.rollout.offline import encode_prompts
from vqr1.training.anchor_rater import AnchorRater
from vqr1.training.comparison_recipe import ANSWERS, PROMPT, ComparisonRecipe
from vqr1.training.shown_examples import Example, ShownCollator, as_rows
from vqr1.training.training_pairs import anchors_of, pairs_of

SIZES = [(56, 84), (112, 56), (84, 84)]
SHOWN = [(0, 1), (1, 0), (2, 1)]  # pairs of these, one of them in both orders


def sample(i: int, mos: float, std: float | None = 0.5, dataset: str = "demo_five", group: str = "") -> Sample:
    return Sample(f"{i}.png", mos, std, dataset, group or f"g{i}", f"{dataset}/{i}")


def config_of(*sets: str, **comparison) -> Config:
    return Config(
        objective=Objective.comparison,
        data=DataConfig(train=list(sets or ["demo_five"])),
        policy=PolicyConfig(path="tiny"),
        comparison=ComparisonConfig(**comparison),
    )


@pytest.fixture(scope="module")
def policy(policy_folder):
    """An untrained policy as a run has it, its processor, and three pictures."""
    model = load_folder(policy_folder, torch.float32).eval()
    add_fused_lm_head(model)
    plain = load_processor(PolicyConfig(path=str(policy_folder)))
    processor = OncePerPrompt.of(plain)
    encode_each_picture_once(model.model.visual)
    take_bytes(model.model.visual, processor.image_processor)
    model.set_attn_implementation({"text_config": segments.NAME})
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (high, wide, 3), dtype=np.uint8)) for wide, high in SIZES]
    return model, plain, processor, pictures


def by_whole_rows(model, processor, pictures, prompt, answer) -> torch.Tensor:
    """The log-probability of each token of ``answer`` after a prompt, from an ordinary row and its logits."""
    inputs = encode_prompts(processor, [{"images": pictures, "prompt": prompt}])
    told = torch.tensor([list(answer)])
    with torch.no_grad():
        logits = model(
            input_ids=torch.cat([inputs["input_ids"], told], 1),
            attention_mask=torch.ones(1, inputs["input_ids"].shape[1] + len(answer), dtype=torch.long),
            mm_token_type_ids=torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(told)], 1),
            pixel_values=inputs["pixel_values"],
            image_grid_thw=inputs["image_grid_thw"],
        ).logits[0]
    return logits[-len(answer) - 1 : -1].log_softmax(-1).gather(1, told.T)[:, 0]


# Which pairs.


def test_pairs_are_of_one_set_and_have_the_word_of_their_order():
    """A set of two scales in one run: the gap of a pair is in its own spreads."""
    samples = [sample(i, 1 + i, 0.4 + i / 20) for i in range(5)]
    samples += [sample(i, 25.0 * i, 8.0 + i, "demo_hundred") for i in range(5)]
    pairs = pairs_of(config_of("demo_five", "demo_hundred"), ComparisonConfig(), samples)
    assert len(pairs) == len({frozenset((p.first.image_id, p.second.image_id)) for p in pairs}) == 2 * 10
    assert {pair.word for pair in pairs} >= {0, 4}
    for pair in pairs:
        first, second = pair.first, pair.second
        assert first.dataset == second.dataset == pair.dataset
        assert pair.word == compare_mos(first.mos, second.mos, pair_spread(first.mos_std, second.mos_std))


def test_two_swapped_pictures_swap_their_word():
    samples = [sample(0, 1.0), sample(1, 2.0)]  # a gap of 1, a spread of 0.71: worse or better
    found = {}
    for seed in range(8):
        (pair,) = pairs_of(replace(config_of(), seed=seed), ComparisonConfig(), samples)
        found[pair.first.image_id] = WORDS[pair.word]
    assert found == {"demo_five/0": "better", "demo_five/1": "worse"}


def test_a_set_without_spread_is_refused_until_one_is_stated():
    samples = [sample(i, 1.0 + i, std=None) for i in range(3)]
    with pytest.raises(UserError, match=r"objective=comparison: .*has no std.*[(][+]comparison.spread.demo_five=S[)]"):
        pairs_of(config_of(), ComparisonConfig(), samples)
    stated = ComparisonConfig(spread={"demo_five": 0.6})
    for pair in pairs_of(config_of(), stated, samples):
        assert pair.word == compare_mos(pair.first.mos, pair.second.mos, 0.6)


def test_a_spread_is_offered_where_one_is_missing_alone():
    with pytest.raises(UserError, match="has one picture: a pair needs two of one dataset$"):
        pairs_of(config_of(), ComparisonConfig(), [sample(0, 1.0)])
    with pytest.raises(UserError, match="is given a spread of 0.6: leave the spread out$"):
        pairs_of(config_of(), ComparisonConfig(spread={"demo_five": 0.6}), [sample(0, 1.0), sample(1, 2.0)])


def test_a_set_without_some_spreads_takes_the_stated_one_throughout():
    """What the message asks for is not refused in its turn."""
    samples = [sample(0, 1.0, std=None), sample(1, 2.0), sample(2, 3.0)]
    with pytest.raises(UserError, match="for 1 of 3 pictures"):
        pairs_of(config_of(), ComparisonConfig(), samples)
    for pair in pairs_of(config_of(), ComparisonConfig(spread={"demo_five": 0.6}), samples):
        assert pair.word == compare_mos(pair.first.mos, pair.second.mos, 0.6)


def test_a_run_says_what_it_learns_from_and_where_it_has_no_anchor(tmp_path):
    config = replace(config_of(), trainer={"images_per_step": 2})
    recipe = ComparisonRecipe(config, choices_for(config), tmp_path)
    recipe.order([sample(0, 1.0), sample(1, 3.0), sample(2, 5.0)])
    pairs, anchors = recipe.notes
    assert pairs.startswith("3 pairs: ") and " 0 similar" in pairs
    assert anchors == "demo_five: 3 anchors in 5 intervals: no picture has a MOS in (1.8, 2.6], (3.4, 4.2]"


def test_no_pair_is_of_two_references_whose_scores_do_not_compare(monkeypatch):
    samples = [sample(i, 1.0 + i / 4, group=f"scene{i % 3}") for i in range(9)]
    every = pairs_of(config_of(), ComparisonConfig(), samples)
    monkeypatch.setitem(DATASETS, "demo_five", replace(DATASETS["demo_five"], per_group_scale=True))
    within = pairs_of(config_of(), ComparisonConfig(), samples)
    assert (len(every), len(within)) == (36, 9)
    assert all(pair.first.group == pair.second.group for pair in within)
    with pytest.raises(UserError, match="no reference has two"):
        pairs_of(config_of(), ComparisonConfig(), samples[:3])
    monkeypatch.undo()
    asked = pairs_of(config_of(), ComparisonConfig(same_reference=True), samples)
    assert [pair.name for pair in asked] == [pair.name for pair in within]


def test_each_set_has_its_anchors():
    samples = [sample(i, 1 + i) for i in range(5)] + [sample(i, 50.0 * i, 9.0, "demo_hundred") for i in range(3)]
    anchors = anchors_of(samples, 5)
    assert {name: [a.mos for a in of_set] for name, of_set in anchors.items()} == {
        "demo_five": [1, 2, 3, 4, 5],
        "demo_hundred": [0, 50, 100],  # two of the five intervals have no picture
    }
    with pytest.raises(UserError, match="two or more"):
        anchors_of(samples[:5], 1)
    with pytest.raises(UserError, match="MOS do not differ"):
        anchors_of([sample(0, 3.0), sample(1, 3.0)], 5)


@pytest.mark.parametrize("passes", [1, 2])
def test_every_pair_is_shown_once_an_epoch(tmp_path, passes):
    config = replace(config_of(), trainer={"images_per_step": 4, "answers_per_device": 4 // passes})
    recipe = ComparisonRecipe(config, choices_for(config), tmp_path)
    order = recipe.order([sample(i, 1.0 + i) for i in range(5)])
    shown = list(order)
    assert len(shown) == len(set(shown)) == 8  # ten pairs are two steps of four, and two wait for the next epoch
    assert set(shown) <= set(range(10))
    assert recipe.args.gradient_accumulation_steps == passes


def test_fewer_pairs_than_a_step_takes_are_refused(tmp_path):
    config = replace(config_of(), trainer={"images_per_step": 16})
    with pytest.raises(UserError, match="10 to learn from, and a step takes 16; lower trainer.images_per_step"):
        ComparisonRecipe(config, choices_for(config), tmp_path).order([sample(i, 1.0 + i) for i in range(5)])


# The examples and the passes.


def test_an_example_teaches_the_answer_and_nothing_before_it(policy):
    """Prompts with one, two and three pictures in a batch, each row as it is by itself."""
    model, plain, processor, pictures = policy
    answers = comparison_answers(processor.tokenizer)
    told = dict(zip(ANSWERS, answers.answers, strict=True))
    own = "It is blurred."
    shown = [
        ((0, 1), PROMPT, ANSWERS[0]),
        ((2,), in_order(1, "What is wrong?"), own),
        ((1, 0, 2), in_order(3, "Which?"), ANSWERS[3]),
    ]
    batches = [shown, [shown[0], ((1, 0), PROMPT, ANSWERS[4])]]  # the second with two pictures in each prompt
    for batch in batches:
        examples = [
            Example(tuple(f"{i}" for i in places), prompt, answer, f"row{n}", "set")
            for n, (places, prompt, answer) in enumerate(batch)
        ]
        read = as_rows(examples, lambda path: pictures[int(path)])
        found = ShownCollator(processor, told)([read[n] for n in range(len(batch))])
        assert found.pop("image_id") == [f"row{n}" for n in range(len(batch))]
        labels = found.pop("labels")
        with torch.no_grad():
            logits = model(**found).logits
        for row, (places, prompt, answer) in enumerate(batch):
            expected = told.get(answer) or (*plain.tokenizer.encode(answer), plain.tokenizer.eos_token_id)
            taught = labels[row] != -100
            assert labels[row][taught].tolist() == list(expected)
            assert not taught[found["attention_mask"][row] == 0].any()
            log = logits[row, :-1].log_softmax(-1)[taught[1:]].gather(1, labels[row][taught][:, None])[:, 0]
            alone = by_whole_rows(model, plain, [pictures[i] for i in places], prompt, expected)
            torch.testing.assert_close(log, alone, rtol=0, atol=2e-5)


@pytest.mark.parametrize("packing", [Packing("mask"), Packing("segments")])
def test_words_of_pairs_have_the_probability_that_whole_rows_give_them(policy, packing):
    """Both orders and another pair in one batch: the order of the pictures is the prompt's."""
    model, plain, processor, pictures = policy
    answers = comparison_answers(processor.tokenizer)
    inputs = encode_prompts(processor, [{"images": [pictures[i] for i in pair], "prompt": PROMPT} for pair in SHOWN])
    seen: list[int] = []
    hook = model.model.visual.patch_embed.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    with torch.no_grad():
        found = level_log_probabilities(model, inputs, answers, model.model.get_rope_index, packing)
    hook.remove()
    assert seen == [sum(wide * high // 14**2 for wide, high in SIZES)]  # each picture once, though two come twice
    for own, pair in zip(found, SHOWN, strict=True):
        for log, word in zip(own, answers.words, strict=True):
            shown = [pictures[i] for i in pair]
            whole = by_whole_rows(model, plain, shown, PROMPT, [*answers.opening, *word])
            torch.testing.assert_close(log, whole[len(answers.opening) :].sum(), rtol=0, atol=2e-5)
    assert (found[0] - found[1]).abs().max() > 1e-4


# The scores.


class Widths:
    """Knows pictures by their width, and calls the second of two wider ones superior, whichever it says."""

    def __init__(self, lean: float = 0.0):
        self.lean = lean  # to the second picture, whatever it is
        self.seen: list[int] = []

    def word_log_probabilities(self, examples):
        self.seen.append(len(examples))
        gaps = [(second.width - first.width) / 50 + self.lean for first, second in (e["images"] for e in examples)]
        return [(np.linspace(-1, 1, len(WORDS)) * gap).tolist() for gap in gaps]


ANCHORS = {"demo_five": [sample(i, float(i + 1)) for i in range(3)]}  # widths 100, 150, 200
WIDE = {"0.png": 100, "1.png": 150, "2.png": 200, "7.png": 120, "8.png": 180, "9.png": 260}
RATED = [sample(i, 3.0) for i in (9, 7, 8)]


def rater(source, orders=2, anchors=ANCHORS, batch=4):
    def load(path):
        return Image.new("RGB", (WIDE[path], 56))

    return AnchorRater(source, load, anchors, PROMPT, WORDS, preference, batch=batch, orders=orders)


@pytest.mark.parametrize("orders", [1, 2])
def test_a_score_is_that_of_comparisons_with_the_anchors(orders):
    """Against the comparisons spelled out one by one, with a policy that leans to the second picture."""
    lean = 0.7

    def p(first, second):  # of the second, whose words' logits are a line with the gap as its slope
        return float(preference(np.linspace(-1, 1, 5) * ((second - first) / 50 + lean)))

    widths = [100, 150, 200]
    both = [(p(a, b) + 1 - p(b, a)) / 2 for a, b in ((100, 150), (100, 200), (150, 200))]
    own = map_scores(comparison_matrix(3, [0, 0, 1], [1, 2, 2], both)).scores
    better = [
        [p(a, wide) if orders == 1 else (p(a, wide) + 1 - p(wide, a)) / 2 for a in widths] for wide in (260, 120, 180)
    ]
    source = Widths(lean)
    found = rater(source, orders).rate("set", RATED, 1)
    np.testing.assert_allclose(found.scores_NK[:, 0], score_against_anchors(better, own), atol=1e-9)
    assert max(source.seen) <= 4
    assert found.texts[1] == [
        "superior, superior, inferior"
    ]  # with the anchor first: the lean outweighs the middle one
    assert found.scores_NK[0] > found.scores_NK[2] > found.scores_NK[1]


def test_a_set_that_is_not_learnt_from_is_compared_with_the_first_sets_anchors():
    other = [replace(each, dataset="koniq10k", image_id=f"koniq10k/{n}") for n, each in enumerate(RATED)]
    found = [rater(Widths()).rate("set", samples, 1).scores_NK for samples in (RATED, other)]
    np.testing.assert_array_equal(*found)


def test_an_anchor_is_not_rated():
    with pytest.raises(UserError, match="demo_five/1 is to be scored and is an anchor"):
        rater(Widths()).rate("set", [RATED[0], ANCHORS["demo_five"][1]], 1)


# Whole runs, of an untrained policy.


@pytest.fixture(scope="module")
def where(policy_folder, data_root):
    few = {"comparison__pairs": 100, "comparison__anchors": 3}
    return {"experiment": "demo_comparison", "policy__path": policy_folder, "data__root": data_root, **few}


@pytest.mark.full
@pytest.mark.slow
def test_a_run_learns_is_evaluated_and_leaves_what_any_run_leaves(tmp_path, where):
    run = train(tmp_path / "run", **where, trainer__max_steps=6, trainer__save_steps=3, evaluation__every=3)
    present = {path.name for path in run.iterdir()}
    assert {
        "metrics.jsonl",
        "answers.jsonl",
        "summary.json",
        "checkpoint-3",
        "checkpoint-6",
        "final",
    } <= present
    losses = [row["train/loss"] for row in training_rows(run)]
    assert losses[-1] < 0.9 * losses[0]
    evaluated = [row for row in rows(run) if "eval/demo_five/srcc" in row]
    assert [row["step"] for row in evaluated] == [0, 3, 6]
    assert "eval/demo_hundred_test/srcc" in evaluated[-1]
    words = rows(run, "answers.jsonl")[-1]["answers"][0].split(", ")
    assert len(words) == 3 and set(words) <= set(WORDS)
    card = (run / "final" / "README.md").read_text()
    assert "Compare2Score" in card and "reinforcement" not in card and "level" not in card


@pytest.mark.full
@pytest.mark.slow
def test_a_step_is_the_same_in_one_pass_and_in_two(tmp_path, where):
    one, two = (train(tmp_path / size, **where, trainer__answers_per_device=size) for size in ("8", "4"))
    for ours, theirs in zip(training_rows(one), training_rows(two), strict=True):
        for key in ("train/loss", "train/grad_norm"):
            assert ours[key] == pytest.approx(theirs[key], **AGREE)


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["demo_comparison", "demo_depict"])
def test_the_shipped_policy_learns_to_compare(tmp_path, data_root, experiment):
    """The experiment as it is, judged by fewer pictures; it begins with no idea of two pictures in a prompt."""
    run = train(
        tmp_path / "run",
        experiment=experiment,
        data__root=data_root,
        trainer__max_steps=300,
        trainer__images_per_step=32,
        evaluation__max_pictures=100,
    )
    summary = json.loads((run / "summary.json").read_text())
    for name in ("demo_five_test", "demo_hundred_test"):
        assert summary["final"][name]["srcc"] > summary["start"][name]["srcc"] + 0.2
