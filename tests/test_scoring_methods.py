"""``vqr1 evaluate`` by levels, by comparisons with anchors and by votes: what is asked, what comes of it, refusals."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from vqr1 import depiction
from vqr1.answering.model import check_model, find_model, load_model
from vqr1.answering.settings import AnswerSettings, Method, check_answers, conversation
from vqr1.comparison.anchors import score_against_anchors
from vqr1.comparison.scores import comparison_matrix, map_scores
from vqr1.comparison.words import ANSWER, QUESTION, WORDS, both_orders, preference
from vqr1.config import Config, LevelsConfig, Objective, PolicyConfig, as_dict
from vqr1.data import Sample, read_dataset
from vqr1.errors import UserError
from vqr1.evaluation.measures import measure
from vqr1.evaluation.results import ROWS, SetFacts, read_evaluation
from vqr1.export.folder import Asked, export
from vqr1.exported import read_exported
from vqr1.levels import LEVELS
from vqr1.next_steps import next_words
from vqr1.policy.comparison_scores import comparison_answers, preferences
from vqr1.policy.level_scores import read_words
from vqr1.policy.load import load_policy, load_processor
from vqr1.policy.read_once import OncePerPrompt
from vqr1.rating.rater import find, load_rater
from vqr1.rollout.offline import encode_prompts
from vqr1.scoring import anchored, voting
from vqr1.scoring.anchored import Anchors, SolvedAnchors
from vqr1.scoring.evaluate import default_folder, evaluate, say_questions
from vqr1.scoring.sets import EvaluatedSet
from vqr1.scoring.settings import EvaluateConfig, Orders, Part, check
from vqr1.votes import correlation_per_reference

REFERENCES, EACH = ("I01", "I07", "I19"), 5  # the last is of the published test part


@pytest.fixture(scope="module")
def kadid(tmp_path_factory):
    """Three references, each at five strengths of noise, opinion scores falling with it."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "kadid10k"
    (folder / "images").mkdir(parents=True)
    rng, rows = np.random.default_rng(0), []
    for ref in REFERENCES:
        for level in range(1, EACH + 1):
            name = f"{ref}_11_{level:02}.png"
            noise = rng.normal(128, 10 * level, (56, 56, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noise).save(folder / "images" / name)
            rows.append(f"{name},{ref}.png,{5.2 - 0.8 * level - 0.001 * int(ref[1:]):.3f},{0.1 * level:.1f}")
    (folder / "dmos.csv").write_text("\n".join(["dist_img,ref_img,dmos,var", *rows]) + "\n")
    return root


@pytest.fixture(autouse=True)
def published_size(sized):
    sized("kadid10k", len(REFERENCES) * EACH)


LIMITS = {"min_pixels": 3136, "max_pixels": 50176}


def config_of(model, root, method: Method, folder="", **settings) -> EvaluateConfig:
    where = {"data": ["kadid10k"], "root": str(root), "folder": str(folder)}
    config = EvaluateConfig(str(model), method=method, **where, **LIMITS, **settings)
    check(config)
    return config


def brightness(picture: Image.Image) -> float:
    return float(np.asarray(picture).mean() / 255)


def by_brightness(bias: float = 0.0):
    """A policy that prefers the brighter picture, and adds ``bias`` to the second whichever it is."""

    def prefer(answerer, pairs, at_once=None):
        return np.array([0.5 + (brightness(b) - brightness(a)) / 2 + bias for a, b in pairs])

    return prefer


def by_noise(answerer, pairs, at_once=None):
    """A policy that prefers the picture with less noise, and the second place a little."""
    noise = [(np.asarray(a).std(), np.asarray(b).std()) for a, b in pairs]
    return np.array([0.5 + (a - b) / 120 + 0.05 for a, b in noise])


def grey(*shades: int) -> list[Image.Image]:
    return [Image.new("RGB", (28, 28), (shade,) * 3) for shade in shades]


# Words of two pictures, read off a policy


@pytest.fixture(scope="module")
def policy(policy_folder):
    """An untrained one, which is sure of no word, with its plain processor."""
    config = PolicyConfig(path=str(policy_folder), **LIMITS)
    return load_policy(config).eval(), load_processor(config)


def pictures_of(*sizes) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (high, wide, 3), dtype=np.uint8)) for wide, high in sizes]


def by_whole_rows(model, processor, pair) -> list[float]:
    """log P of each word from an ordinary row and its logits."""
    inputs = encode_prompts(processor, [{"images": list(pair), "prompt": conversation(Method.comparison, QUESTION)}])
    begin = processor.tokenizer.encode(ANSWER, add_special_tokens=False)
    words = []
    for word in WORDS:
        told = torch.tensor([begin + processor.tokenizer.encode(f" {word}", add_special_tokens=False)])
        with torch.no_grad():
            logits = model(
                input_ids=torch.cat([inputs["input_ids"], told], 1),
                attention_mask=torch.ones(1, inputs["input_ids"].shape[1] + told.shape[1], dtype=torch.long),
                mm_token_type_ids=torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(told)], 1),
                pixel_values=inputs["pixel_values"],
                image_grid_thw=inputs["image_grid_thw"],
            ).logits[0, -told.shape[1] - 1 : -1]
        words.append(logits.log_softmax(-1).gather(1, told.T)[len(begin) :].sum().item())
    return words


@pytest.mark.parametrize("once", [False, True])
def test_words_of_two_pictures_are_those_of_whole_rows_in_any_batch(policy, policy_folder, once):
    """Pictures of different size, one of them in several pairs, in both orders."""
    model, processor = policy
    a, b, c = pictures_of((56, 84), (112, 56), (84, 84))
    pairs = [(a, b), (b, a), (a, c)]
    assert sum(map(len, comparison_answers(processor.tokenizer).words)) > len(WORDS)  # words of several tokens
    alone = [by_whole_rows(model, processor, pair) for pair in pairs]
    if once:
        model, processor = load_model(find_model(AnswerSettings(str(policy_folder), **LIMITS)))
    examples = [{"images": list(pair), "prompt": conversation(Method.comparison, QUESTION)} for pair in pairs]
    inputs = encode_prompts(processor, examples)
    found = read_words(model, comparison_answers(processor.tokenizer), inputs)
    np.testing.assert_allclose(found, alone, atol=5e-5)
    assert np.ptp(found, axis=0).min() > 1e-3  # pictures and their order matter
    np.testing.assert_array_equal(preferences(model, processor.tokenizer, inputs), preference(found))


def test_the_prompt_names_both_pictures_where_they_stand(policy):
    processor = policy[1]
    examples = [{"images": pictures_of((28, 28), (28, 28)), "prompt": conversation(Method.comparison, QUESTION)}]
    (ids,) = encode_prompts(processor, examples, padding=False)["input_ids"]
    text = processor.tokenizer.decode(ids)
    first, second = (text.index(f"The {which} image: ") for which in ("first", "second"))
    places = [i for i in range(len(text)) if text.startswith("<|vision_start|>", i)]
    assert first < places[0] < second < places[1] < text.index(QUESTION)


def test_a_picture_is_encoded_once_however_often_a_batch_compares_it():
    model, processor = load_model(find_model(AnswerSettings("tiny")))
    seen = []
    model.model.visual.patch_embed.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    a, b, c = pictures_of((56, 56), (56, 84), (84, 84))
    pairs = [(a, b), (b, a), (a, c), (c, a), (b, c), (c, b)]
    examples = [{"images": list(pair), "prompt": conversation(Method.comparison, QUESTION)} for pair in pairs]
    inputs = encode_prompts(processor, examples)
    assert isinstance(processor, OncePerPrompt)
    preferences(model, processor.tokenizer, inputs)
    assert seen == [sum(p.width * p.height // 14**2 for p in (a, b, c))]


# Anchors


def samples(mos, std=0.5, dataset="s") -> list[Sample]:
    return [Sample(f"{i}.png", m, std, dataset, f"g{i}", f"{dataset}/{i}") for i, m in enumerate(mos)]


def solved(monkeypatch, prefer, both=True):
    monkeypatch.setattr(anchored, "prefer_second", prefer)
    shades = {f"{i}.png": shade for i, shade in enumerate((40, 110, 200))}
    anchors = Anchors("s", samples([1.0, 3.0, 5.0]), "three")
    return anchored.solve(anchors, None, lambda path: grey(shades[path])[0], both, 8)


def test_anchors_are_solved_by_all_their_pairs(monkeypatch):
    record = solved(monkeypatch, by_brightness())
    shade = np.array([40, 110, 200]) / 255
    p = [0.5 + (shade[j] - shade[i]) / 2 for i, j in ((0, 1), (0, 2), (1, 2))]
    expected = map_scores(comparison_matrix(3, [0, 0, 1], [1, 2, 2], p)).scores
    np.testing.assert_allclose([each["score"] for each in record["anchors"]], expected, atol=1e-9)
    assert [each["image_id"] for each in record["anchors"]] == ["s/0", "s/1", "s/2"]
    assert record["line"]["slope"] > 0
    assert anchored.remarks(record) == []


def test_both_orders_cancel_a_preference_for_the_second_place(monkeypatch):
    fair, biased = (solved(monkeypatch, by_brightness(bias)) for bias in (0.0, 0.15))
    assert [p for _, _, p in biased["preferences"]] == pytest.approx([p for _, _, p in fair["preferences"]])
    one = solved(monkeypatch, by_brightness(0.15), both=False)
    assert [p for _, _, p in one["preferences"]] != pytest.approx([p for _, _, p in fair["preferences"]], abs=0.1)


def test_all_draws_leave_no_line_and_scores_that_do_not_differ(monkeypatch):
    record = solved(monkeypatch, lambda answerer, pairs, at_once=None: np.full(len(pairs), 0.5))
    assert [each["score"] for each in record["anchors"]] == pytest.approx([0, 0, 0])
    assert record["line"] is None
    (said,) = anchored.remarks(record)
    assert "finds all anchors alike" in said


def test_anchors_in_the_wrong_order_are_said(monkeypatch):
    record = solved(monkeypatch, lambda answerer, pairs, at_once=None: 1 - by_brightness()(None, pairs))
    (said,) = anchored.remarks(record)
    assert "wrong way round" in said


@pytest.mark.parametrize("both", [True, False])
def test_a_score_is_of_the_pictures_own_preferences(monkeypatch, both):
    monkeypatch.setattr(anchored, "prefer_second", by_brightness(0.1))
    solved_anchors = SolvedAnchors(grey(60, 190), [-0.4, 0.4])
    found = anchored.answer_against(grey(20, 128, 240), answerer=None, anchors=solved_anchors, both=both, at_once=9)
    p = 0.5 + (np.array([[20], [128], [240]]) - [60, 190]) / 255 / 2
    p = both_orders(p + 0.1, 1 - p + 0.1) if both else p + 0.1
    np.testing.assert_allclose([each.score for each in found], score_against_anchors(p, [-0.4, 0.4]), atol=1e-9)
    assert [(each.tokens, each.passes) for each in found] == [(0, 4 if both else 2)] * 3
    assert anchored.answer_against([], answerer=None, anchors=solved_anchors, both=both, at_once=9) == []


def test_a_picture_of_the_anchors_is_not_rated(kadid, policy_folder):
    with pytest.raises(UserError, match=r"is to be scored and is an anchor.*kadid10k is rated whole.*Set part=test"):
        evaluate(config_of(policy_folder, kadid, Method.comparison))


def test_an_interval_without_an_anchor_is_said(kadid):
    model = find_model(AnswerSettings("tiny"))
    (found,) = anchored.choose("kadid10k", 40, [rated_set("abc")], kadid, model)
    assert "kadid10k: " in found.said and "no picture has a MOS in" in found.said
    with pytest.raises(UserError, match=r"compare within one scene only; set anchors= to another set"):
        anchored.choose("sriqa", 5, [rated_set("abc")], kadid, model)


def test_anchors_that_are_kept_are_of_the_same_pictures(tmp_path):
    anchors = Anchors("s", samples([1.0, 5.0]), "two")
    kept = {"s": {"anchors": [{"image_id": "s/0", "score": 0.5}, {"image_id": "s/1", "score": -0.5}]}}
    path = tmp_path / anchored.FILE
    path.write_text(json.dumps(kept))
    assert anchored.read_or_solve(path, [anchors], lambda _: pytest.fail("solved again")) == kept
    with pytest.raises(UserError, match="has other anchors of s"):
        anchored.read_or_solve(path, [replace(anchors, samples=samples([1.0, 5.0, 3.0]))], lambda _: {})
    path.write_text('{"s": 3}')
    with pytest.raises(UserError, match="not the anchors of an evaluation"):
        anchored.read_or_solve(path, [anchors], lambda _: {})


# Votes


def test_votes_are_the_mean_part_of_all_pairs_in_both_orders(monkeypatch):
    monkeypatch.setattr(voting, "prefer_second", by_brightness(0.05))
    shades = (20, 128, 240)
    found = voting.answer_votes(grey(*shades), answerer=None, both=True, seed=0, at_once=4)
    for i, each in enumerate(found):
        beaten = [0.5 + (shades[i] - other) / 255 / 2 for j, other in enumerate(shades) if j != i]
        assert each.score == pytest.approx(sum(beaten) / 2)
        assert (each.tokens, each.passes) == (0, 2.0)
    one = voting.answer_votes(grey(*shades), answerer=None, both=False, seed=0, at_once=4)
    assert [each.passes for each in one] == [1.0] * 3
    (alone,) = voting.answer_votes(grey(3), answerer=None, both=True, seed=0, at_once=4)
    assert alone.score is None and "no other picture" in alone.reasoning


def rated_set(groups, name="s") -> EvaluatedSet:
    made = [Sample(f"{i}", float(i), None, name, group, f"{name}/{i}") for i, group in enumerate(groups)]
    return EvaluatedSet(name, SetFacts(name, len(made), "test", group="reference"), made)


def test_references_come_one_after_the_other_and_at_most_so_many_pictures_of_each():
    made = voting.ready(rated_set("abacab" * 3), 3)
    assert [sample.group for sample in made.samples] == [*"aaabbbccc"]
    assert (made.facts.pictures, made.facts.part) == (9, "at most 3 pictures of each reference (test)")
    assert made.facts.labels_sha256 != rated_set("abacab" * 3).facts.labels_sha256
    whole = voting.ready(rated_set("aabb"), None)
    assert (whole.facts.part, len(whole.samples)) == ("test", 4)
    with pytest.raises(UserError, match=r"none has two of the 3 pictures of s; set method=comparison"):
        voting.ready(rated_set("abc"), None)


def test_questions_are_counted_and_too_many_refused(capsys):
    sets = [rated_set("a" * 125), rated_set("b" * 2, "t")]
    assert voting.count_questions(sets, both=True) == 2 * (7750 + 1)
    assert voting.count_questions(sets, both=False) == 7751
    anchors = [Anchors("s", samples([1, 2, 3]), "three")] * 2
    assert anchored.count_questions(sets, anchors, both=True) == 2 * (127 * 3 + 3)
    many = [rated_set("a" * 320)]
    config = EvaluateConfig("tiny", method=Method.votes, data=["s"])
    with pytest.raises(UserError, match=r"102,080 questions, and over 100,000 .* say yes=true"):
        say_questions(config, many, [])
    assert "102,080 questions: all pairs of each reference, in both orders" in capsys.readouterr().err
    say_questions(replace(config, yes=True), many, [])
    say_questions(replace(config, orders=Orders.one), many, [])
    say_questions(replace(config, method=Method.levels), many, [])


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": Method.levels, "k": 3}, "k=3 has no effect with method=levels, which draws no answers"),
        ({"method": Method.comparison, "temperature": 0.5}, "temperature=0.5 has no effect with method=comparison"),
        ({"method": Method.votes, "until": 0.1}, "until=0.1 has no effect with method=votes"),
        ({"method": Method.levels, "seed": 1}, "seed=1 has no effect with method=levels"),
        ({"method": Method.levels, "max_tokens": 9}, "max_tokens=9 has no effect with method=levels"),
        ({"method": Method.levels, "orders": Orders.one}, "orders=one has no effect with method=levels, but with comp"),
        ({"method": Method.votes, "anchors": "spaq"}, "anchors=spaq has no effect with method=votes"),
        ({"limit_per_reference": 9}, "limit_per_reference=9 has no effect with method=mean, but with votes alone"),
        ({"method": Method.comparison, "intervals": 1}, "intervals=1: a picture is compared with two anchors or more"),
        ({"method": Method.votes, "limit_per_reference": 1}, "limit_per_reference=1: a vote is between two pictures"),
        ({"method": Method.votes, "prompt": "Which <|image_pad|>?"}, "a token of the model's own"),
        ({"method": Method.levels, "prompt": "How <|im_end|>?"}, "a token of the model's own"),
        ({"method": Method.levels, "prompt": "paper"}, "prompt=paper asks for an answer that is drawn, and method=le"),
        ({"method": Method.votes, "prompt": "reference"}, "and method=votes reads the words after a question; leave"),
    ],
)
def test_what_a_method_does_not_read_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        check(EvaluateConfig("tiny", data=["bid"], **settings))


def test_vllm_gives_no_probabilities_of_words():
    from vqr1.rollout_settings import ScoringEngine

    with pytest.raises(UserError, match="method=levels reads distributions off the policy, which vLLM does not give"):
        check_answers(AnswerSettings("tiny", method=Method.levels, engine=ScoringEngine.vllm))


def test_every_comparison_has_a_folder_of_its_own():
    model = find_model(AnswerSettings("tiny"))
    of = {
        "levels": {"method": Method.levels},
        "comparison": {"method": Method.comparison},
        "comparison-one-order-kadid10k-3-intervals": {
            "method": Method.comparison,
            "orders": Orders.one,
            "anchors": "kadid10k",
            "intervals": 3,
        },
        "votes-40-per-reference-seed2": {"method": Method.votes, "limit_per_reference": 40, "seed": 2},
    }
    for name, settings in of.items():
        assert default_folder(EvaluateConfig("tiny", data=["bid"], **settings), model) == f"evaluations/tiny-{name}"


# A policy trained by one objective


@pytest.fixture
def levels_run(tmp_path, policy_folder):
    config = Config(policy=PolicyConfig(path="base", min_pixels=3136, max_pixels=50176), objective=Objective.levels)
    config.levels = LevelsConfig(question="How good is it?")
    config.data.train, config.data.validation, config.data.test = ["kadid10k"], [], []
    folder = tmp_path / "levels"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(as_dict(config)))
    (folder / "final").symlink_to(policy_folder)
    return str(folder)


def test_a_run_is_asked_what_it_was_taught_and_otherwise_the_usual(levels_run):
    prompts = {method: find_model(AnswerSettings(levels_run, method=method)).prompt for method in Method}
    assert prompts[Method.levels] == "How good is it?"
    assert prompts[Method.mean] == "paper"
    assert prompts[Method.comparison] == prompts[Method.votes] == QUESTION
    assert find_model(AnswerSettings("tiny", method=Method.levels)).prompt == LevelsConfig.question
    own = AnswerSettings(levels_run, method=Method.levels, prompt="Well?")
    assert find_model(own).prompt == "Well?"


def pair_run(folder, policy_folder, objective: Objective) -> str:
    """A run that learnt of pairs, whose final weights are the untrained policy's."""
    config = Config(policy=PolicyConfig(path="base", min_pixels=3136, max_pixels=50176), objective=objective)
    config.data.train, config.data.validation, config.data.test = ["kadid10k"], [], []
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(as_dict(config)))
    (folder / "final").symlink_to(policy_folder)
    return str(folder)


@pytest.mark.parametrize("method", [Method.comparison, Method.votes])
@pytest.mark.parametrize(
    ("objective", "question"), [(Objective.comparison, QUESTION), (Objective.depict, depiction.QUESTION)]
)
def test_a_run_that_learnt_of_pairs_is_asked_as_it_was_taught(tmp_path, policy_folder, objective, question, method):
    folder = pair_run(tmp_path, policy_folder, objective)
    model = find_model(AnswerSettings(folder, method=method))
    assert (model.objective, model.prompt) == (objective.value, question)
    assert check_model(model, method) is None
    assert find_model(AnswerSettings(folder)).prompt == "paper"
    assert find_model(AnswerSettings(folder, method=method, prompt="Well?")).prompt == "Well?"


def test_votes_of_a_run_that_learnt_letters_are_by_its_letters(kadid, policy_folder, tmp_path, capsys):
    """The first picture's part is the probability of Image A's letter over both, read here from whole rows."""
    run = pair_run(tmp_path / "run", policy_folder, Objective.depict)
    config = config_of(run, kadid, Method.votes, tmp_path / "v", limit_per_reference=2, batch=3)
    evaluation = read_evaluation(evaluate(config))
    assert "trained by" not in capsys.readouterr().out
    assert (evaluation.settings["prompt"], evaluation.settings["asks"]) == (depiction.QUESTION, "depict")

    settings = AnswerSettings(run, method=Method.votes, **LIMITS)
    model, processor = load_model(find_model(settings))
    paths = {sample.image_id: sample.image for sample in read_dataset("kadid10k", kadid).all()}
    first, second = evaluation.rows["kadid10k"][:2]
    shown = [Image.open(paths[row.image_id]).convert("RGB") for row in (first, second)]
    parts = []
    for pair in (shown, shown[::-1]):
        inputs = encode_prompts(processor, [{"images": pair, "prompt": depiction.ask_which()}])
        opening = processor.tokenizer.encode("Image", add_special_tokens=False)
        letters = [processor.tokenizer.encode(f" {letter}", add_special_tokens=False) for letter in "AB"]
        log_2 = []
        for letter in letters:
            told = torch.tensor([opening + letter])
            row = torch.cat([inputs["input_ids"], told], 1)
            kinds = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(told)], 1)
            more = {name: inputs[name] for name in inputs if name not in ("input_ids", "attention_mask")}
            with torch.no_grad():
                logits = model(**{**more, "input_ids": row, "mm_token_type_ids": kinds}).logits[0]
            before = logits[-1 - len(letter) : -1].log_softmax(-1)
            log_2.append(sum(before[i, token].item() for i, token in enumerate(letter)))
        parts.append(1 / (1 + np.exp(log_2[1] - log_2[0])))
    assert first.score == pytest.approx((parts[0] + 1 - parts[1]) / 2, abs=1e-5)
    assert second.score == pytest.approx(1 - first.score)


def test_another_objective_is_warned_of(levels_run):
    by_mean, by_levels = (find_model(AnswerSettings(levels_run, method=m)) for m in (Method.mean, Method.levels))
    assert check_model(by_levels, Method.levels) is None
    said = check_model(by_mean, Method.mean)
    assert said is not None
    assert "has learnt by objective=levels, and method=mean reads what objective=rl2r trains" in said


def test_a_rater_of_a_levels_run_reads_levels_unless_it_is_told(levels_run, capsys):
    assert find(AnswerSettings(levels_run), None)[0].method is Method.levels
    assert find(AnswerSettings("tiny"), None)[0].method is Method.greedy
    assert find(AnswerSettings(levels_run, k=3), None)[0].method is Method.mean
    assert "has learnt by objective=levels" in capsys.readouterr().err
    with pytest.raises(UserError, match="method=votes compares pictures of a set with each other: vqr1 evaluate"):
        find(AnswerSettings("tiny"), "votes")
    with pytest.raises(UserError, match="choose greedy, mean, expected, levels"):
        find(AnswerSettings("tiny"), "best")


def test_a_run_that_ends_names_the_command_that_scores_it(tmp_path):
    config = Config(policy=PolicyConfig(path="base"), objective=Objective.levels, runs=str(tmp_path))
    config.data.test = ["spaq"]
    (tmp_path / "levels" / "final").mkdir(parents=True)
    told = next_words(config, tmp_path / "levels", 4)
    assert "final 'data=[spaq]' method=levels" in told
    for objective in (Objective.comparison, Objective.depict):
        told = next_words(replace(config, objective=objective), tmp_path / "levels", 4)
        assert "final 'data=[spaq]' part=test method=comparison" in told


def test_an_exported_folder_of_a_levels_run_says_so_and_its_card_reads_levels(levels_run, tmp_path):
    """By the lines of the card, which need transformers alone."""
    folder = tmp_path / "exported"
    export(Asked(levels_run, folder, check=False))
    exported = read_exported(folder)
    assert exported is not None and (exported.objective, exported.prompt) == ("levels", "How good is it?")
    model = find_model(AnswerSettings(str(folder), method=Method.levels))
    assert (model.objective, model.prompt) == ("levels", "How good is it?")
    assert find(AnswerSettings(str(folder)), None)[0].method is Method.levels
    photo = tmp_path / "photo.png"
    pictures_of((112, 84))[0].save(photo)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    names: dict = {}
    exec(code.replace('"FOLDER"', repr(str(folder))).replace('"photo.jpg"', repr(str(photo))), names)
    assert "vllm serve" not in (folder / "README.md").read_text()
    assert names["score"] == pytest.approx(load_rater(folder)(photo).score, abs=1e-3)
    assert abs(names["score"] - 3) > 1e-3  # which is not what equal probabilities would say


# The whole


def test_levels_rows_are_the_raters_and_draw_nothing(kadid, policy_folder, tmp_path):
    config = config_of(policy_folder, kadid, Method.levels, tmp_path / "six", limit=6)
    rows = read_evaluation(evaluate(replace(config, batch=4))).rows["kadid10k"]
    paths = {sample.image_id: sample.image for sample in read_dataset("kadid10k", kadid).all()}
    rater = load_rater(policy_folder, method="levels", **LIMITS)
    for row, rating in zip(rows, rater([paths[row.image_id] for row in rows]), strict=True):
        assert (row.score, row.std) == (pytest.approx(rating.score, abs=1e-4), pytest.approx(rating.std, abs=1e-4))
        assert 1 < row.score < 5 and row.std > 0
        assert (row.tokens, row.passes, row.weights, row.status) == (0, 1, [1.0], "ok")
        assert row.reasoning in [f"The quality of the image is {word}." for word in LEVELS]
    assert len({row.score for row in rows}) == 6
    with pytest.raises(UserError, match="method=levels reads one distribution"):
        rater.compare(paths[rows[0].image_id], paths[rows[1].image_id])
    settings = read_evaluation(tmp_path / "six").settings
    assert (settings["prompt"], settings["asks"], settings["objective"]) == (LevelsConfig.question, "levels", None)
    run = json.loads((tmp_path / "six" / "table.json").read_text())["models"][0]["sets"]["kadid10k"]["runs"][0]
    assert (run["counts"]["tokens"], run["counts"]["passes"]) == (0, 1)


def test_the_table_says_what_was_trained_otherwise(levels_run, kadid, tmp_path, capsys):
    evaluate(config_of(levels_run, kadid, Method.comparison, tmp_path / "o", intervals=2, limit=3))
    said = "trained by objective=levels and scored by method=comparison, which objective=comparison trains"
    assert said in capsys.readouterr().out


def test_an_evaluation_by_anchors_goes_on_to_the_same_file(kadid, policy_folder, tmp_path, monkeypatch, capsys):
    config = config_of(policy_folder, kadid, Method.comparison, tmp_path / "c", part=Part.test, batch=20)
    monkeypatch.setattr(anchored, "prefer_second", by_noise)
    folder = evaluate(config)
    said = capsys.readouterr().err
    assert "5 anchors, one in each interval" in said
    assert "70 questions: pictures against anchors, and anchors, in both orders" in said  # 2 (5 5 + 10)
    whole, anchors = (folder / ROWS).read_bytes(), (folder / anchored.FILE).read_bytes()
    rows = read_evaluation(folder).rows["kadid10k"]
    assert [(row.tokens, row.passes) for row in rows] == [(0, 10)] * EACH

    assert [row.score for row in rows] == sorted((row.score for row in rows), reverse=True)  # by rising noise
    record = json.loads(anchors)["kadid10k"]
    assert record["line"]["slope"] > 0
    samples_by_id = {sample.image_id: sample for sample in read_dataset("kadid10k", kadid).all()}
    train = {sample.image_id for sample in read_dataset("kadid10k", kadid).train}
    assert {each["image_id"] for each in record["anchors"]} <= train
    shown = Image.open(samples_by_id[rows[0].image_id].image).convert("RGB")
    others = [Image.open(samples_by_id[each["image_id"]].image).convert("RGB") for each in record["anchors"]]
    after, before = ([(o, shown) for o in others], [(shown, o) for o in others])
    p = both_orders(by_noise(None, after), by_noise(None, before))
    expected = score_against_anchors([p], [each["score"] for each in record["anchors"]])
    assert rows[0].score == pytest.approx(float(expected[0]))

    (folder / ROWS).write_bytes(whole[: len(whole) // 2])
    monkeypatch.setattr(anchored, "solve", lambda *args, **kwargs: pytest.fail("solved again"))
    evaluate(config)
    assert (folder / ROWS).read_bytes() == whole
    assert (folder / anchored.FILE).read_bytes() == anchors
    with pytest.raises(UserError, match="holds an evaluation with orders"):
        evaluate(replace(config, orders=Orders.one))


def test_votes_go_on_by_references_and_have_a_correlation_within_each(kadid, policy_folder, tmp_path, capsys):
    config = config_of(policy_folder, kadid, Method.votes, tmp_path / "v", limit_per_reference=3, batch=64)
    folder = evaluate(config)
    printed = capsys.readouterr()
    assert "18 questions: all pairs of each reference, in both orders" in printed.err  # 2 3 3
    whole = (folder / ROWS).read_bytes()
    rows = read_evaluation(folder).rows["kadid10k"]
    assert len(list(groupby(rows, key=lambda row: row.group))) == len(REFERENCES)  # one after the other
    assert [(row.tokens, row.passes) for row in rows] == [(0, 2.0)] * 9
    for group in {row.group for row in rows}:
        assert sum(row.score for row in rows if row.group == group) == pytest.approx(1.5)  # a vote is one in all
    x, y, groups = [row.score for row in rows], [row.mos for row in rows], [row.group for row in rows]
    mean = correlation_per_reference(x, y, groups).mean
    assert f"SRCC within each is {mean:.3f}" in printed.out and "mean over 3 references" in printed.out
    run = json.loads((folder / "table.json").read_text())["models"][0]["sets"]["kadid10k"]["runs"][0]
    assert run["within"]["srcc"] == pytest.approx(mean)
    assert run["figures"]["srcc"] == pytest.approx(measure(x, y, groups).figures["srcc"])

    torn = whole.splitlines(keepends=True)
    (folder / ROWS).write_bytes(b"".join(torn[:7])[:-3])  # in the third reference
    evaluate(config)
    assert (folder / ROWS).read_bytes() == whole
