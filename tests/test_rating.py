"""``vqr1 rate`` and ``vqr1.load_rater``: what is rated, the same score in any batch, bad input, and going on."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from vqr1 import unfinished
from vqr1.answer import build_prompt
from vqr1.answering import methods, model
from vqr1.answering.methods import READABLE, Answered, Asked, Method, answer_pictures
from vqr1.answering.seeds import answer_seed, picture_digest
from vqr1.answering.settings import AnswerSettings
from vqr1.data.pictures import fit_to_grid
from vqr1.errors import UserError
from vqr1.policy.expected import ScoreDistribution, expected_scores
from vqr1.rating import command
from vqr1.rating import rater as rater_module
from vqr1.rating.files import find_pictures
from vqr1.rating.inputs import as_list
from vqr1.rating.rater import Rater, find, load_found, load_rater
from vqr1.rating.rating import Rating, failed, rating_of
from vqr1.rating.written import row_of, unfinished_ratings
from vqr1.rating_statistics import StoppingRule, moments
from vqr1.rollout.engine import vision_tokens
from vqr1.rollout.offline import OwnNoise, encode_prompts
from vqr1.unfinished import stamp

DOCUMENT = Path(__file__).parents[1] / "docs" / "rating.md"
SIZES = [(56, 56), (84, 56), (56, 112), (112, 84), (84, 84), (56, 84)]


def pictures_of(sizes=SIZES):
    """Blurred noise, each picture of its own strength."""
    rng = np.random.default_rng(0)
    small = [rng.integers(0, 256, (3 + i, 3 + i, 3), dtype=np.uint8) for i in range(len(sizes))]
    return [
        Image.fromarray(each).resize(size, Image.Resampling.BICUBIC) for each, size in zip(small, sizes, strict=True)
    ]


@pytest.fixture(scope="module")
def greedy():
    return load_rater("tiny")


@pytest.fixture(scope="module")
def mean():
    return load_rater("tiny", k=3, seed=5)


def with_batch(rater: Rater, batch: int) -> Rater:
    """The same policy, asked for another number of answers at once."""
    other = Rater.__new__(Rater)
    other.__dict__.update(rater.__dict__, at_once=max(1, batch // rater._asked.k), _batch=batch, shrunk=0)
    return other


# The noise of an answer


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_own_noise_draws_from_the_softmax(temperature):
    logits = torch.tensor([0.0, 1.0, -torch.inf, 2.0])
    n = 4000
    drawn = OwnNoise(range(n), temperature, torch.device("cpu"))(None, logits.expand(n, 4)).argmax(-1)
    share = torch.bincount(drawn, minlength=4) / n
    wanted = (logits / temperature).softmax(-1)
    assert share[2] == 0
    assert torch.allclose(share, wanted, atol=4 * 0.5 / n**0.5)  # four standard errors at most


def test_own_noise_is_of_the_row_and_goes_on_from_token_to_token():
    scores = torch.zeros(2, 50)
    both = OwnNoise([7, 8], 1.0, torch.device("cpu"))
    alone = OwnNoise([8], 1.0, torch.device("cpu"))
    first, second = both(None, scores), both(None, scores)
    assert torch.equal(first[1], alone(None, scores[:1])[0])
    assert torch.equal(second[1], alone(None, scores[:1])[0])
    assert not torch.equal(first, second)


def test_the_seed_is_of_pixels_and_number_alone():
    picture = pictures_of()[0]
    digest = picture_digest(picture)
    assert digest == picture_digest(Image.fromarray(np.asarray(picture)))
    other = picture.copy()
    other.putpixel((3, 3), (1, 2, 3))
    wide = Image.frombytes("RGB", (112, 28), picture.tobytes())
    assert len({digest, picture_digest(other), picture_digest(wide)}) == 3
    assert len({answer_seed(seed, of, k) for seed in (0, 1) for of in (digest, "0") for k in (0, 1)}) == 8


# The same score twice


@pytest.mark.parametrize("name", ["greedy", "mean"])
def test_a_rating_is_the_same_in_any_batch_and_order(request, name):
    rater = request.getfixturevalue(name)
    pictures = pictures_of()
    alone = [rater(picture) for picture in pictures]
    assert len({each.reasoning for each in alone}) > 1
    for batch in (3, 16):
        assert with_batch(rater, batch)(pictures) == alone
    order = [4, 0, 2, 5, 1, 3]
    assert rater([pictures[i] for i in order]) == [alone[i] for i in order]
    assert rater([pictures[0], pictures[0], pictures[1]]) == [alone[0], alone[0], alone[1]]


def test_a_mean_is_of_k_answers_and_follows_the_seed(mean):
    pictures = pictures_of()
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    ratings = mean(pictures)
    assert torch.equal(before, torch.random.get_rng_state())
    assert {len(each.scores) for each in ratings} == {3}
    assert any(len(set(each.scores)) > 1 for each in ratings)
    other = with_batch(mean, 192)
    other._asked = replace(mean._asked, seed=6)
    assert other(pictures) != ratings
    more = with_batch(mean, 192)
    more._asked = replace(mean._asked, k=5)
    assert [each.scores[:3] for each in more(pictures)] == [each.scores for each in ratings]


def asking(rater: Rater, asked: Asked, batch: int = 192) -> Rater:
    other = with_batch(rater, batch)
    other._asked = asked
    other._at_once = max(1, batch // 6)
    return other


EXPECTED = Asked(Method.expected, 2, 5)
UNTIL = {
    "mean until": Asked(Method.mean, 0, 5, until=0.22, most=10),
    "expected until": Asked(Method.expected, 0, 5, until=0.09, most=8),
}


@pytest.mark.parametrize("asked", [EXPECTED, *UNTIL.values()], ids=["expected", *UNTIL])
def test_what_is_read_off_and_how_often_is_asked_follow_from_the_picture_alone(mean, asked):
    pictures, order = pictures_of()[2:5], [2, 0, 1]
    together = asking(mean, asked)(pictures)
    assert len({each.score for each in together}) == 3
    assert (len({each.answers for each in together}) > 1) == (asked is not EXPECTED)

    def same(found, wanted):
        assert [each.answers for each in found] == [each.answers for each in wanted]
        assert [each.reasoning for each in found] == [each.reasoning for each in wanted]
        assert [(each.score, each.std) for each in found] == [
            (pytest.approx(each.score, abs=1e-4), pytest.approx(each.std, abs=1e-4)) for each in wanted
        ]

    same(asking(mean, asked, 5)(pictures), together)
    same(asking(mean, asked)([pictures[i] for i in order]), [together[i] for i in order])


def test_the_distribution_follows_the_reasoning_that_a_mean_draws(mean):
    pictures = pictures_of()
    drawn = answer_pictures(mean._answerer, pictures, Asked(Method.mean, 2, 5))
    exact = answer_pictures(mean._answerer, pictures, EXPECTED)
    for one, other in zip(drawn, exact, strict=True):
        assert all(text.endswith("<answer>") for text in other.texts)
        assert all(whole.startswith(text) for whole, text in zip(one.texts, other.texts, strict=True))
        assert other.tokens < one.tokens
        readable = [READABLE <= weight <= 1 for weight in other.weights]
        assert [score is not None for score in other.scores] == readable
        assert other.moments == moments(other.scores, other.stds, other.weights)
    policy, examples = (
        mean._answerer.policy,
        [
            {"image": each, "prompt": build_prompt("paper"), "answer_seed": answer_seed(5, picture_digest(each), 0)}
            for each in pictures
        ],
    )
    tokenizer = policy.processor.tokenizer
    whole = expected_scores(
        policy.model, tokenizer, encode_prompts(policy.processor, examples), policy.draw(examples),
        never=vision_tokens(tokenizer),
    )  # fmt: skip
    assert [each.weights[0] for each in exact] == pytest.approx(whole.mass_readable_R.tolist(), abs=1e-4)
    for each, score, std in zip(exact, whole.mean_R.tolist(), whole.std_R.tolist(), strict=True):
        if each.scores[0] is not None:
            assert (each.scores[0], each.stds[0]) == (pytest.approx(score, abs=1e-4), pytest.approx(std, abs=1e-4))
    assert sum(each.scores[0] is not None for each in exact) > 3


def test_an_answer_that_is_hardly_readable_is_unreadable(mean, monkeypatch):
    support = torch.tensor([3.0, 5.0], dtype=torch.float64)
    probability = torch.tensor([[0.1, 0.1], [0.4, 0.4], [0.0, 0.0], [0.7, 0.3 + 1e-7]], dtype=torch.float64)
    found = ScoreDistribution(support, probability)
    monkeypatch.setattr(methods, "expected_scores", lambda *args, **kwargs: found)
    one, other = answer_pictures(mean._answerer, pictures_of()[:2], Asked(Method.expected, 2, 0))
    assert (one.scores, one.stds, one.weights) == ([None, 4.0], [None, 1.0], [pytest.approx(0.2), pytest.approx(0.8)])
    assert (one.score, one.std) == (4.0, 1.0)
    assert other.scores == [None, pytest.approx(3.6)]
    assert other.weights == [0.0, 1.0]


def test_answers_are_drawn_until_the_rule_is_content(mean):
    asked = UNTIL["mean until"]
    rule = StoppingRule(asked.until, most=asked.most)
    adaptive = asking(mean, asked)(pictures_of())
    all_of_them = asking(mean, Asked(Method.mean, asked.most, 5))(pictures_of())
    for few, many in zip(adaptive, all_of_them, strict=True):
        assert few.scores == many.scores[: rule.used(many.scores)]
    assert 6 <= min(each.answers for each in adaptive) < max(each.answers for each in adaptive) <= asked.most


def test_no_more_answers_are_asked_for_at_once_than_the_batch_holds(mean):
    answerer, counts = mean._answerer, []

    class Counting:
        def draw(self, examples):
            counts.append(len(examples))
            return answerer.policy.draw(examples)

    counting = replace(answerer, policy=Counting())
    answer_pictures(counting, pictures_of(), UNTIL["mean until"], at_once=8)
    assert max(counts) == 8
    assert sum(counts) >= 36


@pytest.mark.parametrize("asked", [Asked(Method.mean, 1, 0), Asked(Method.expected, 1, 0), UNTIL["mean until"]])
def test_every_method_asks_the_prompt_that_is_named(mean, asked):
    """The tiny policy was not trained with this one: what it says differs, and may be no answer."""
    other = replace(mean._answerer, model=replace(mean.model, prompt="no_thinking"))
    pictures = pictures_of()[:2]
    usual, found = (answer_pictures(each, pictures, asked) for each in (mean._answerer, other))
    assert all(one.texts != two.texts for one, two in zip(usual, found, strict=True))


def test_scores_come_to_mean_and_deviation_and_unreadable_ones_to_none():
    def rating(scores, stds, weights=None):
        return rating_of(Answered([f"answer {score}" for score in scores], scores, stds, weights, 7))

    scores = [None, 2.0, 4.0]
    assert rating(scores, [None, 0.0, 0.0]) == Rating(3.0, 2**0.5, scores, "answer 2.0", "ok", 3, 7)
    assert rating([4.0], [0.0]) == Rating(4.0, None, [4.0], "answer 4.0", "ok", 1, 7)
    assert rating([None], [None]) == Rating(None, None, [None], "answer None", "unreadable", 1, 7)
    assert rating(scores, [None, 1.0, 1.0], [0.0, 0.5, 0.5]).std == pytest.approx((1 + 2) ** 0.5)
    assert rating([4.0], [0.25], [0.9]) == Rating(4.0, 0.25, [4.0], "answer 4.0", "ok", 1, 7)


# What a rater is given


def test_a_picture_is_the_same_in_every_form(greedy, tmp_path):
    picture = pictures_of([(100, 70)])[0]  # to be fitted
    picture.save(tmp_path / "a.png")
    array = np.asarray(picture)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1) / 255
    expected = greedy(picture)
    assert expected.status == "ok"
    path = tmp_path / "a.png"
    assert [greedy(each) for each in (path, str(path), array, tensor, tensor.double())] == [expected] * 5
    assert greedy(Image.open(path)) == expected
    assert greedy(tensor[None]) == greedy(array[None]) == greedy(picture for _ in range(1)) == [expected]
    assert greedy([]) == []
    both = torch.stack([tensor, tensor.flip(1)])
    scores = greedy.score(both)
    assert (scores.shape, scores.dtype) == ((2,), torch.float32)
    assert scores.tolist() == pytest.approx([each.score for each in greedy(both)])
    assert greedy.score(tensor.requires_grad_()).tolist() == pytest.approx([expected.score])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.full((3, 56, 56), 1.01), r"values from 1.01 to 1.01: give values in \[0, 1\]; x.clamp"),
        (torch.full((3, 56, 56), -0.01), "values from -0.01 to -0.01"),
        (
            torch.full((3, 56, 56), torch.nan),
            "a tensor with NaN among its values: give values in",
        ),
        (torch.full((3, 56, 56), torch.inf), "a tensor with values from inf to inf"),
        (torch.rand(56, 56, 3), r"a tensor of shape \(56, 56, 3\): \(3, H, W\) is read"),
        (torch.rand(2, 1, 56, 56), r"a tensor of shape \(2, 1, 56, 56\): \(N, 3, H, W\) is read"),
        (torch.rand(56, 56), r"a tensor of shape \(56, 56\)"),
        (torch.zeros(3, 56, 56, dtype=torch.uint8), "a tensor of torch.uint8: give floating-point values"),
        (np.zeros((56, 56, 3)), "an array of float64: give uint8"),
        (np.zeros((3, 56, 56), np.uint8), r"an array of shape \(3, 56, 56\): \(H, W, 3\) is read"),
        ([torch.rand(2, 3, 56, 56)], r"\(3, H, W\) is read"),
        (3, "int is no picture; give a path"),
        ([None], "NoneType is no picture"),
    ],
)
def test_values_that_are_no_pictures_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        as_list(given)


def test_one_nan_among_pictures_is_found():
    batch = torch.rand(4, 3, 56, 56)
    batch[2, 1, 5, 5] = torch.nan
    with pytest.raises(UserError, match="NaN"):
        as_list(batch)


def test_a_picture_that_fails_leaves_the_others(greedy, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    good = pictures_of()[2]
    ratings = greedy([good, tmp_path / "text.png", tmp_path / "none.png", Image.new("RGB", (20, 90)), good])
    assert [each.status for each in ratings] == ["ok", "failed", "failed", "failed", "ok"]
    assert ratings[0] == ratings[4] == greedy(good)
    whys = ["text.png: not a readable picture", "none.png is missing", "the picture: 20x90 pixels; a side must have 28"]
    assert all(why in each.reasoning for why, each in zip(whys, ratings[1:], strict=False))
    with pytest.raises(UserError, match="text.png: not a readable picture"):
        greedy.score([good, tmp_path / "text.png"])


def test_pictures_over_the_limit_are_shrunk_and_counted():
    rater = load_rater("tiny", max_pixels=2 * 56 * 56)
    large = pictures_of([(140, 112)])[0]
    fitted = fit_to_grid(large, rater.model.policy.min_pixels, 2 * 56 * 56)
    assert rater([large, pictures_of()[0]])[0] == rater(fitted)
    assert rater.shrunk == 1


def test_unreadable_answers_are_no_number(policy_folder):
    rater = load_rater(policy_folder, max_tokens=4)
    assert rater(pictures_of()[0]).status == "unreadable"
    assert torch.isnan(rater.score(pictures_of()[:2])).tolist() == [True, True]


def test_a_rater_says_what_pyiqas_metrics_say(greedy):
    assert (greedy.lower_better, greedy.metric_mode, greedy.score_range) == (False, "NR", "1, 5")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"method": "best"}, "method=best: choose greedy, mean, expected"),
        ({"method": "greedy", "k": 6}, "k=6 has no effect with method=greedy"),
        ({"k": 0}, "k=0: set it to 1 or more"),
        ({"method": "greedy", "until": 0.1}, "until=0.1 has no effect with method=greedy, which asks once; leave it"),
        ({"until": 0.0}, "until=0.0: the standard error at which drawing stops is a positive number"),
        ({"until": float("nan")}, "until=nan: the standard error at which drawing stops is a positive number"),
        ({"until": 0.1, "max_k": 5}, "max_k=5 is below the 6 answers that are drawn at least; raise it"),
        ({"until": 0.1, "k": 5}, "k=5 and until=0.1 both say how many answers are drawn; leave one out"),
        ({"max_k": 12}, "max_k=12 has no effect without until; give k=12, or until=0.05"),
        ({"method": "expected", "engine": "vllm"}, "method=expected .* vLLM does not give; set engine=transformers or"),
        ({"engine": "fast"}, "engine=fast: choose auto, transformers, vllm"),
        ({"prompt": "rate"}, "prompt 'rate' is neither one of"),
        ({"batch": 0}, "batch=0: set it to 1 or more"),
        ({"max_pixels": 783}, "max_pixels=783: set it to 784 or more, the pixels of one token"),
        ({"min_pixels": 0}, "min_pixels=0: set it to 1 or more"),
        ({"min_pixels": 786433}, "min_pixels=786433 is above max_pixels=[0-9]+; lower the one or raise the other"),
    ],
)
def test_wrong_settings_are_named(asked, message):
    with pytest.raises(UserError, match=message):
        load_rater("tiny", **asked)


def test_a_vocabulary_without_digits_is_refused_before_anything_is_loaded(monkeypatch):
    words = {"<answer>": 0, "42": 1, ".": 2}

    class Tokenizer:
        def get_vocab(self):
            return words

        def batch_decode(self, ids, skip_special_tokens):
            return [list(words)[i] for (i,) in ids]

    tokenizer = Tokenizer()
    monkeypatch.setattr(model, "load_processor", lambda _: SimpleNamespace(tokenizer=tokenizer))
    monkeypatch.setattr(model, "check_message", lambda *_, **__: None)
    find(AnswerSettings(model="tiny"), "mean")
    with pytest.raises(UserError, match=r"digit by digit.* use another method \(greedy or mean\)"):
        find(AnswerSettings(model="tiny"), "expected")


# Which model


def test_a_model_that_is_no_qwen_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    save_file({"w": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="llama"):
        load_rater(tmp_path)


def test_a_model_that_is_nowhere_says_what_to_fetch():
    with pytest.raises(FileNotFoundError, match="nobody/nothing is not on this machine.*hf download nobody/nothing"):
        load_rater("nobody/nothing")


def adapter(folder, base):
    from peft import get_peft_model

    from vqr1.config import LoraSettings, PolicyConfig
    from vqr1.policy.load import load_policy, lora_config

    policy = load_policy(PolicyConfig(path=str(base), dtype="float32", attention="sdpa"))
    adapted = get_peft_model(policy, lora_config(LoraSettings(r=2)))
    adapted.save_pretrained(folder)
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": str(base)}))
    return folder


def test_lora_weights_alone_are_laid_on_the_policy_that_they_name(policy_folder, tmp_path):
    folder = adapter(tmp_path / "lora", policy_folder)
    rater = load_rater(folder, max_tokens=4)
    assert rater.model.adapter == folder
    picture = pictures_of()[0]
    assert rater(picture) == load_rater(policy_folder, max_tokens=4)(picture)  # LoRA starts at no change

    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": "./gone"}))
    with pytest.raises(FileNotFoundError, match="lora holds LoRA weights over a policy that is missing: .*gone"):
        load_rater(folder)
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": None}))
    with pytest.raises(UserError, match="has no base_model_name_or_path"):
        load_rater(folder)


# Which files


@pytest.fixture
def folder(tmp_path):
    """Five good pictures, one below, and what else is found among photos."""
    made = tmp_path / "photos"
    (made / "below").mkdir(parents=True)
    for name, picture in zip(
        ("b.png", "a.JPG", "c.bmp", "e.webp", "f.png", "below/d.png"), pictures_of(), strict=False
    ):
        picture.save(made / name)
    for name in ("text.png", "film.mp4", "drawing.svg", "photo.heic", "notes.txt", "labels.csv", "._a.JPG"):
        (made / name).write_text("no picture")
    return made


GOOD = ["a.JPG", "b.png", "c.bmp", "e.webp", "f.png"]
BAD = ["drawing.svg", "film.mp4", "photo.heic", "text.png"]


def test_pictures_of_a_folder_and_those_that_are_named(folder):
    found = find_pictures([str(folder)], recursive=False)
    assert found.paths == [str(folder / name) for name in sorted(GOOD + BAD)]
    assert found.others == Counter({".txt": 1, ".csv": 1})
    deep = find_pictures([str(folder / "f.png"), str(folder), str(folder / "notes.txt")], recursive=True)
    names = [str(Path(path).relative_to(folder)) for path in deep.paths]
    below = ["a.JPG", "b.png", "below/d.png", "c.bmp", "drawing.svg", "e.webp", "film.mp4", "photo.heic", "text.png"]
    assert names == ["f.png", *below, "notes.txt"]  # by name whatever it ends in, and each once


def test_folders_without_pictures_and_words_that_are_nothing(folder, tmp_path):
    (tmp_path / "empty" / "more").mkdir(parents=True)
    (tmp_path / "empty" / "a.txt").touch()
    with pytest.raises(UserError, match=r"empty holds no pictures, but 1 file \(1 .txt\); --recursive looks into"):
        find_pictures([str(tmp_path / "empty")], recursive=False)
    with pytest.raises(UserError, match=r"empty holds no pictures, but 1 file \(1 .txt\)$"):
        find_pictures([str(tmp_path / "empty")], recursive=True)
    with pytest.raises(FileNotFoundError, match="nothing.png is missing; give a picture or a folder"):
        find_pictures([str(folder), str(tmp_path / "nothing.png")], recursive=False)


def test_a_folder_that_may_not_be_read_is_named(folder, monkeypatch):
    scandir = os.scandir

    def denied(place):
        if Path(place).name in ("below", ".hidden"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
        return scandir(place)

    (folder / ".hidden").mkdir()
    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(UserError, match=r"below cannot be read \(Permission denied\); let it be read or leave it out$"):
        find_pictures([str(folder)], recursive=True)
    assert len(find_pictures([str(folder)], recursive=False).paths) == len(GOOD + BAD)


def test_the_order_is_that_of_the_names_and_links_to_folders_are_not_followed(folder):
    (folder / "below-more").mkdir()
    (folder / "below-more" / "a.png").symlink_to(folder / "b.png")
    (folder / "linked").symlink_to(folder / "below")
    (folder / "below" / "loop").symlink_to(folder)
    found = find_pictures([str(folder)], recursive=True)
    wanted = [path for path in sorted(folder.rglob("*")) if path.suffix not in (".txt", ".csv") and not path.is_dir()]
    assert found.paths == [str(path) for path in wanted if not path.name.startswith(".")]
    assert str(folder / "below-more" / "a.png") in found.paths


# The command


def rate(*words):
    return command.run([*map(str, words), "--model", "tiny"])


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_one_bad_picture_loses_no_other(folder, greedy, tmp_path, capsys):
    out, jsonl = tmp_path / "out" / "scores.csv", tmp_path / "out" / "answers.jsonl"
    assert rate(folder, "--csv", out, "--jsonl", jsonl) == 1
    rows = rows_of(out)
    assert list(rows[0]) == ["path", "score", "std", "answers", "status"]
    status = {Path(row["path"]).name: row["status"] for row in rows}
    alone = {name: greedy(folder / name) for name in GOOD}
    assert status == {name: each.status for name, each in alone.items()} | dict.fromkeys(BAD, "failed")
    scores = {Path(row["path"]).name: row["score"] and float(row["score"]) for row in rows}
    assert scores == {name: each.score or "" for name, each in alone.items()} | dict.fromkeys(BAD, "")
    whole = [json.loads(line) for line in jsonl.read_text().splitlines()]
    assert [(each["path"], each["status"]) for each in whole] == [(row["path"], row["status"]) for row in rows]
    shown, said = capsys.readouterr()
    assert [line.split("\t")[0] for line in shown.splitlines()] == [row["path"] for row in rows]
    assert ".heic are not read; convert it to PNG or JPEG" in shown
    assert "left out, since they are no pictures: 2 files (1 .csv, 1 .txt)" in said
    rated = [each.score for each in alone.values() if each.score is not None]
    assert len(rated) > 1
    assert f"mean of {len(rated)} pictures: {sum(rated) / len(rated):.2f}; " in said
    assert said.rstrip().endswith("; 4 failed")
    assert {file.name for file in out.parent.iterdir()} == {"scores.csv", "answers.jsonl"}

    with pytest.raises(UserError, match="scores.csv is there already; give another file, or delete it"):
        rate(folder, "--csv", out)


def test_no_file_of_another_command_is_overwritten(folder, tmp_path):
    new, old = tmp_path / "new.csv", tmp_path / "old.jsonl"
    old.write_text("finished\n")
    with pytest.raises(UserError, match="old.jsonl is there already; give another file, or delete it to rate again"):
        rate(folder / "b.png", "--csv", new, "--jsonl", old)
    assert old.read_text() == "finished\n"
    assert not list(tmp_path.glob("new.csv*"))


def test_killed_between_its_two_files_a_command_goes_on_and_writes_both(folder, tmp_path, monkeypatch):
    words = folder / "b.png", "--csv", tmp_path / "a.csv", "--jsonl", tmp_path / "a.jsonl"

    def killed(made):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(unfinished.Unfinished, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            rate(*words)
    (tmp_path / "a.jsonl").write_text("half")
    rate(*words)
    assert len(rows_of(tmp_path / "a.csv")) == len((tmp_path / "a.jsonl").read_text().splitlines()) == 1


def test_a_command_that_was_stopped_goes_on_to_the_same_file(folder, tmp_path, monkeypatch, capsys):
    for name in BAD:
        (folder / name).unlink()
    whole, parts = tmp_path / "whole.csv", tmp_path / "parts.csv"
    words = folder, "-k", 2, "--batch", 4, "--reasoning"
    assert rate(*words, "--csv", whole) == 0
    asked = []

    def stopped(answerer, pictures, how, at_once):
        asked.append(len(pictures))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return answer_pictures(answerer, pictures, how, at_once)

    with monkeypatch.context() as patch:
        patch.setattr(rater_module, "answer_pictures", stopped)
        with pytest.raises(KeyboardInterrupt, match="2 of 5 are rated; the same command goes on"):
            rate(*words, "--csv", parts)
    assert asked == [2, 2]
    assert not parts.exists()
    kept = tmp_path / "parts.csv.unfinished"
    with (kept / "ratings.jsonl").open("a") as file:
        file.write('{"path": "torn')
    with pytest.raises(UserError, match="holds ratings with k = 2, and now it is 3; go on with the same settings"):
        rate(folder, "-k", 3, "--csv", parts)
    capsys.readouterr()
    assert rate(*words, "--csv", parts) == 0
    shown, said = capsys.readouterr()
    assert len(shown.splitlines()) == 3
    assert "going on: 2 of 5 pictures are rated" in said
    assert parts.read_bytes() == whole.read_bytes()
    assert not kept.exists()


def test_answers_that_were_used_are_told(folder, tmp_path, capsys):
    for name in BAD:
        (folder / name).unlink()
    out, jsonl = tmp_path / "scores.csv", tmp_path / "answers.jsonl"
    assert rate(folder, "--method", "expected", "--until", 0.09, "--max-k", 8, "--csv", out, "--jsonl", jsonl) == 0
    used = [int(row["answers"]) for row in rows_of(out)]
    assert min(used) >= 6 and max(used) <= 8
    assert f"; {sum(used) / 5:.3g} answers a picture" in capsys.readouterr().err
    whole = [json.loads(line) for line in jsonl.read_text().splitlines()]
    assert [(each["answers"], len(each["scores"])) for each in whole] == [(n, n) for n in used]
    assert all(each["tokens"] > 8 * each["answers"] for each in whole)


def test_what_failed_or_has_changed_is_rated_again(folder, tmp_path):
    target = tmp_path / "a.csv"
    ok = Rating(3.0, None, [3.0], "", "ok", 1, 9)
    bad = replace(ok, score=None, scores=[], status="failed")
    paths = [str(folder / name) for name in GOOD[:3]]
    first = unfinished_ratings("--csv", target)
    assert first.open({"k": 1}) == {}
    first.append(map(row_of, paths, (ok, bad, ok), map(stamp, paths)))
    with pytest.raises(UserError, match="a.csv.unfinished is being written by"):
        unfinished_ratings("--csv", target).open({"k": 1})
    first.close()
    with (first.path / "ratings.jsonl").open("a") as file:
        file.write('{"path": "torn')
    pictures_of()[3].save(paths[2])
    second = unfinished_ratings("--csv", target)
    assert second.open({"k": 1}) == {paths[0]: ok}
    second.append([row_of(paths[2], ok, stamp(paths[2]))])
    second.close()
    assert second.open({"k": 1}) == {paths[0]: ok, paths[2]: ok}
    second.finish()
    second.close()
    assert not list(tmp_path.glob("*.unfinished*"))


def test_what_is_replaced_while_it_is_rated_is_rated_again(folder, tmp_path, monkeypatch, capsys):
    words = [*(folder / name for name in GOOD), "--batch", 2, "--csv", tmp_path / "a.csv"]
    calls = []

    def replaced(answerer, pictures, how, at_once):
        calls.append(len(pictures))
        if len(calls) == 2:
            raise KeyboardInterrupt
        pictures_of()[3].save(folder / GOOD[0])
        return answer_pictures(answerer, pictures, how, at_once)

    with monkeypatch.context() as patch:
        patch.setattr(rater_module, "answer_pictures", replaced)
        with pytest.raises(KeyboardInterrupt, match="2 of 5 are rated"):
            rate(*words)
    rate(*words)
    assert "going on: 1 of 5 pictures are rated" in capsys.readouterr().err


def test_killed_while_its_folder_is_deleted_a_command_has_finished(tmp_path, monkeypatch):
    target = tmp_path / "a.csv"
    made = unfinished_ratings("--csv", target)
    made.open({"k": 1})
    made.append([row_of("a.png", Rating(3.0, None, [3.0], "", "ok", 1, 9), stamp("a.png"))])
    target.write_text("a.png\n")

    def killed(folder):
        if folder.is_dir():
            (folder / "asked.json").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(unfinished, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            made.finish()
    made.close()
    with pytest.raises(UserError, match="a.csv is there already"):
        unfinished_ratings("--csv", target).open({"k": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_file_without_a_name_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        command.run([str(tmp_path), "--model", "tiny", "--csv", ""])
    assert "argument --csv: an empty name is no path" in capsys.readouterr().err


def test_somebody_elses_folder_is_left_alone(tmp_path):
    other = tmp_path / "a.csv.unfinished"
    other.mkdir()
    (other / "novel.txt").touch()
    with pytest.raises(UserError, match="a.csv.unfinished holds other files"):
        unfinished_ratings("--csv", tmp_path / "a.csv").open({})
    assert [file.name for file in other.iterdir()] == ["novel.txt"]


def test_a_line_is_one_line_and_steers_no_terminal():
    rating = Rating(3.456, 0.5, [3.456], "<think>a\nb\t\x1b[2J</think>", "ok", 1, 9)
    assert command.line("a\nb.png", rating, False) == "a\\nb.png\t3.46\t0.50\tok"
    assert command.line("a.png", rating, True) == "a.png\t3.46\t0.50\tok\t<think>a b \\x1b[2J</think>"
    assert command.line("a.png", failed("why"), False) == "a.png\t-\t-\tfailed\twhy"


def test_a_model_without_a_prompt_of_its_own_is_asked_the_papers_which_is_said(folder, policy_folder, capsys):
    words = [str(folder / "a.JPG"), "--model", str(policy_folder)]
    assert command.run(words) == 1  # untrained: unreadable
    said = capsys.readouterr().err
    assert "does not say what it was trained to be asked: it is asked the paper's prompt" in said
    assert said.rstrip().endswith("no scores; 1 unreadable")


# Two pictures


def test_the_better_of_two_is_a_probability_of_means_and_spreads():
    rater = load_rater("tiny", k=4)
    pictures = pictures_of()[:3]
    first, second = (rater(picture) for picture in pictures[:2])
    z = (first.score - second.score) / (first.std**2 + second.std**2 + 1e-6) ** 0.5
    better = rater.compare(pictures[0], pictures[1])
    assert better == pytest.approx(0.5 * math.erfc(-z / 2**0.5), rel=1e-9) and better != 0.5
    assert rater.compare(pictures[0], pictures[0]) == 0.5
    several = rater.compare(pictures, [pictures[1], pictures[0], pictures[2]])
    assert several.dtype == torch.float64
    assert several.tolist() == pytest.approx([better, 1 - better, 0.5], rel=1e-9)
    grey = torch.full((2, 3, 56, 56), 0.5)
    assert rater.compare(grey, grey).tolist() == [0.5, 0.5]


def test_what_is_not_compared(greedy, mean, policy_folder):
    one, other = pictures_of()[:2]
    for rater, has in ((greedy, "method=greedy this rater asks for 1"), (mean, "method=mean this rater asks for 3")):
        with pytest.raises(UserError, match=f"by 4 answers each or more, with {has}.*k=6"):
            rater.compare(one, other)
    unreadable = load_rater(policy_folder, k=4, max_tokens=4)
    assert math.isnan(unreadable.compare(one, other))
    assert unreadable.compare([one], [other]).isnan().all()
    for a, b, sides in (
        ([one, other], [one], "a list of 2 and a list of 1: "),
        (one, [other], "one picture and a list of 1: "),
        ([], other, "a list of 0 and one picture: "),
    ):
        with pytest.raises(UserError, match=f"{sides}.*one by one"):
            unreadable.compare(a, b)
    with pytest.raises(UserError, match="nothing.png"):
        unreadable.compare(one, "nothing.png")


# Documents and import


def test_vqr1_is_imported_without_torch():
    code = "import sys, vqr1; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules); vqr1.nothing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "module 'vqr1' has no attribute 'nothing'" in done.stderr
    import vqr1

    assert vqr1.load_rater is load_rater


def test_what_is_loaded_when_asked_is_listed():
    import vqr1

    assert {"load_rater", "reward_model", "Rater", "Rating", "__version__"} <= set(dir(vqr1))


def examples():
    text = DOCUMENT.read_text()
    python = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    return python, re.findall(r"^vqr1 rate (.*)$", text, flags=re.MULTILINE)


def test_every_example_of_the_document_works(tmp_path, monkeypatch):
    photos = tmp_path / "photos"
    photos.mkdir()
    first, second = pictures_of()[:2]
    first.save(tmp_path / "photo.jpg")
    second.save(photos / "other.png")
    monkeypatch.chdir(tmp_path)
    programs, commands = examples()
    assert (len(programs), len(commands)) == (5, 6)
    for program in programs:
        exec(program.replace("runs/NAME", "tiny"), {})
    for words in commands:
        assert command.run(shlex.split(words.replace("runs/NAME", "tiny"))) == 0
    assert len(rows_of(tmp_path / "scores.csv")) == 1


def test_what_is_found_can_be_loaded_later():
    settings, model = find(AnswerSettings(model="tiny", k=4), None)
    assert (settings.answers, settings.method, model.names_prompt) == (4, Method.mean, True)
    assert load_found(settings, model).method is Method.mean
