"""Questions on tagged pictures: templates, what is asked of which pair, rows of the user's, whole runs."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.support.runs import start, train, training_rows
from vqr1.comparison.words import WORDS
from vqr1.config import Config, DataConfig, DepictConfig, Objective, PolicyConfig
from vqr1.data import DATASETS, Sample
from vqr1.depiction import (
    AMOUNT_SHORT,
    AMOUNTS,
    DISTORTION_SHORT,
    WHICH,
    WHICH_SHORT,
    Distortion,
    ask_which,
    how_much_better,
    what_degrades,
    which_is_better,
)
from vqr1.errors import UserError
from vqr1.policy.comparison_scores import confidence
from vqr1.training.content_rows import read_content
from vqr1.training.depict_examples import distortion_of, examples_of
from vqr1.training.training_pairs import Compared

BLUR, JPEG = Distortion("Gaussian blur", 3, 5), Distortion("JPEG compression", 1, 5)


def text(prompt) -> str:
    """What is asked, with [] where a picture stands."""
    (message,) = prompt
    return "".join(part.get("text", "[]") for part in message["content"])


def sample(i: int, mos: float, dataset: str = "demo_five", reference: str | None = None, **more) -> Sample:
    return Sample(f"{i}.png", mos, 0.5, dataset, f"g{i}", f"{dataset}/{i}", reference, **more)


def config_of(*sets: str, **depict) -> Config:
    return Config(
        objective=Objective.depict,
        data=DataConfig(train=list(sets or ["demo_five"])),
        policy=PolicyConfig(path="tiny"),
        depict=DepictConfig(**depict),
    )


def compared(first: Sample, second: Sample, word: int = 3) -> Compared:
    return Compared(first, second, word)


# Templates.


@pytest.mark.parametrize("second", [False, True])
def test_the_better_one_is_named_in_every_phrasing(second):
    """Swapping the pictures swaps the tags; the question names both."""
    asked = set()
    for seed in range(40):
        question = which_is_better(second, np.random.default_rng(seed), short=False)
        better, worse = ("Image B", "Image A") if second else ("Image A", "Image B")
        assert question.answer.index(better) < question.answer.find(worse) % 1000
        assert text(question.prompt).startswith("Image A: [] Image B: []\n")
        asked.add(text(question.prompt))
        short = which_is_better(second, np.random.default_rng(seed), short=True)
        assert short.answer == f"{better}."
        assert text(short.prompt).endswith(WHICH_SHORT)
    assert len(asked) == len(WHICH) >= 3


def test_a_long_comparison_gives_its_reasons_and_a_short_one_none():
    draw = np.random.default_rng(0)
    assert which_is_better(True, draw, short=False, why=(BLUR, JPEG)).answer.endswith(
        " Image A has Gaussian blur, strength 3 of 5, and Image B has JPEG compression, strength 1 of 5."
    )
    assert which_is_better(True, draw, short=True, why=(BLUR, JPEG)).answer == "Image B."


def test_amounts_are_those_of_the_second_picture():
    answers = [how_much_better(w, np.random.default_rng(w), short=False).answer for w in range(5)]
    assert answers == [
        "Image B is much worse than Image A.",
        "Image B is worse than Image A.",
        "Image B is similar to Image A in quality.",
        "Image B is better than Image A.",
        "Image B is much better than Image A.",
    ]
    assert len(AMOUNTS) == len(WORDS)
    short = how_much_better(4, np.random.default_rng(0), short=True)
    assert short.answer == "Much better."
    assert text(short.prompt).endswith(AMOUNT_SHORT)


def test_a_reference_comes_first_under_its_tag():
    for question in (
        which_is_better(True, np.random.default_rng(0), short=True, reference=True),
        how_much_better(2, np.random.default_rng(0), short=True, reference=True),
    ):
        assert text(question.prompt).startswith("Reference Image: [] Image A: [] Image B: []\n")
    alone = what_degrades(BLUR, np.random.default_rng(0), short=True, reference=True)
    assert text(alone.prompt).startswith("Reference Image: [] Image A: []\n")
    assert alone.answer == "Gaussian blur, strength 3 of 5."
    assert text(alone.prompt).endswith(DISTORTION_SHORT)


def test_what_is_read_is_the_short_question():
    asked = {text(which_is_better(True, np.random.default_rng(i), short=True).prompt) for i in range(40)}
    assert text(ask_which()) in asked


# What is asked of which pair.


def test_half_of_the_questions_ask_for_a_short_answer_and_alike_pictures_are_not_asked_which():
    pairs = [compared(sample(2 * i, 2.0), sample(2 * i + 1, 2.0 + i % 3), 2 + i % 3) for i in range(600)]
    examples = examples_of(config_of(), pairs, [])
    short = [text(e.prompt).endswith((WHICH_SHORT, AMOUNT_SHORT)) for e in examples]
    assert 0.42 < np.mean(short) < 0.58
    for pair, example in zip(pairs, examples, strict=True):
        assert example.pictures == (pair.first.image, pair.second.image)
        if pair.word == 2:
            assert not any(question in text(example.prompt) for question in WHICH)
        elif example.answer.startswith(("Image A.", "Image B.")):
            assert example.answer == "Image B."
    assert not any(
        text(e.prompt).endswith((WHICH_SHORT, AMOUNT_SHORT)) for e in examples_of(config_of(short=0.0), pairs, [])
    )


def test_distortions_are_named_by_the_sets_that_know_them():
    kadid, csiq = DATASETS["kadid10k"], DATASETS["csiq"]
    blurred = sample(0, 2.0, "kadid10k")
    assert distortion_of(replace(blurred, image_id="kadid10k/I01_01_03.png"), kadid) == BLUR
    assert distortion_of(replace(blurred, image_id="kadid10k/I01_25_05.png"), kadid) == Distortion(
        "contrast change", 5, 5
    )
    assert len(kadid.kinds) == 25
    assert distortion_of(replace(blurred, image_id="csiq/dst_imgs/jpeg/1600.JPEG.1.png"), csiq) == JPEG
    assert distortion_of(blurred, DATASETS["spaq"]) is None


def test_a_set_that_knows_distortions_is_asked_for_them():
    first = replace(sample(0, 2.0, "kadid10k", "ref.png"), image_id="kadid10k/I01_01_03.png")
    second = replace(sample(1, 4.0, "kadid10k", "ref.png"), image_id="kadid10k/I01_10_01.png")
    examples = examples_of(config_of("kadid10k"), [compared(first, second)] * 200, [])
    described = [e for e in examples if "degrade" in e.answer or e.answer == f"{BLUR}."]
    assert 0.2 < len(described) / 200 < 0.47
    for example in examples:
        shown = text(example.prompt)
        assert len(example.pictures) == shown.count("[]")
        assert (example.pictures[0] == "ref.png") == shown.startswith("Reference Image")
    assert any(e.pictures == ("ref.png", "0.png") for e in described)
    assert any("Image A has Gaussian blur" in e.answer for e in examples)


def test_a_reference_that_two_pictures_do_not_share_is_not_shown():
    pair = compared(sample(0, 2.0, reference="one.png"), sample(1, 4.0, reference="two.png"))
    assert {e.pictures for e in examples_of(config_of(), [pair] * 50, [])} == {("0.png", "1.png")}


def test_the_confidence_is_of_the_two_letters_alone():
    np.testing.assert_allclose(confidence(np.log([[0.1, 0.3], [0.02, 0.02]])), [0.75, 0.5])


# Rows of the user's.


@pytest.fixture
def content(tmp_path):
    for name in ("sea.png", "sky.png"):
        Image.new("RGB", (56, 56)).save(tmp_path / name)

    def write(*rows) -> object:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
        return path

    return write


SEA = {"image": "sea.png", "query": "What is shown?", "answer": "The sea."}


def test_rows_have_one_picture_or_tagged_ones(content, tmp_path):
    path = content(
        SEA,
        {"id": 1, "image_ref": None, "image_A": "sea.png", "image_B": "sky.png", "query": "Differ?", "answer": "Yes."},
    )
    one, two = read_content(path)
    assert (one.pictures, text(one.prompt), one.answer) == (
        (str(tmp_path / "sea.png"),),
        "[]What is shown?",
        "The sea.",
    )
    assert text(two.prompt) == "Image A: [] Image B: []\nDiffer?"
    assert two.name == "rows.jsonl, line 2"


def test_rows_are_mixed_in_by_their_share_and_come_again(content):
    rows = read_content(content(SEA, {**SEA, "answer": "Waves."}))
    pairs = [compared(sample(0, 2.0), sample(1, 4.0))] * 30
    examples = examples_of(config_of(content="x", content_share=0.25), pairs, rows)
    assert [e.dataset for e in examples].count("content") == 10
    assert [sum(e.answer == answer for e in examples) for answer in ("The sea.", "Waves.")] == [5, 5]
    assert {e.name for e in examples_of(config_of(), pairs, [])} == {"demo_five/0 | demo_five/1"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 1: not JSON"),
        ("[1]", r"line 1: '\[1\]' is no object"),
        ({**SEA, "answer": " "}, "line 1: answer is ' '; give a text"),
        ({**SEA, "image": "lost.png"}, "line 1: image is 'lost.png', and there is no such picture in"),
        ({**SEA, "image": "p" * 300}, "line 1: image is 'ppp.*, and there is no such picture in"),
        ({**SEA, "image": None}, "line 1: its pictures are none; give image, or one or more of image_ref"),
        ({**SEA, "image_A": "sky.png"}, "line 1: its pictures are image, image_A"),
        ({**SEA, "query": "<|image_pad|>?"}, "line 1: a question holds <.image_pad.>"),
        ({**SEA, "answer": "<|im_end|>"}, "line 1: an answer holds <.im_end.>"),
        ({"image_a": "sea.png", **SEA}, "line 1: image_a is 'sea.png', and a row has no such field; it has id, query"),
        ({**SEA, "image_C": None}, "line 1: image_C is 'None', and a row has no such field"),
        ({**SEA, "image": ["sea.png"]}, r"line 1: image is \"\['sea.png'\]\", and there is no such picture"),
        ("\ufeff\n{", "line 2: not JSON"),
    ],
)
def test_a_wrong_row_is_refused_with_its_line(content, row, message):
    with pytest.raises(UserError, match=message):
        read_content(content(row))


def test_lines_end_at_line_feeds_alone(content):
    """JSON may have other separators inside a text."""
    path = content(json.dumps({**SEA, "answer": "The\u2028sea."}, ensure_ascii=False) + "\r", SEA)
    assert [(row.answer, row.name) for row in read_content(path)] == [
        ("The\u2028sea.", "rows.jsonl, line 1"),
        ("The sea.", "rows.jsonl, line 2"),
    ]


def test_a_file_that_is_missing_or_empty_is_refused(content, tmp_path):
    with pytest.raises(UserError, match="no rows"):
        read_content(content(""))
    with pytest.raises(UserError, match=re.escape(f"depict.content={tmp_path / 'other'} is missing")):
        read_content(tmp_path / "other")


# Whole runs, of an untrained policy.


@pytest.mark.full
@pytest.mark.slow
def test_a_run_learns_from_questions_and_rows(tmp_path, policy_folder, data_root, content):
    where = {"experiment": "demo_depict", "policy__path": policy_folder, "data__root": data_root, "depict__pairs": 100}
    rows = {"depict__content": content(SEA), "depict__content_share": "0.25"}
    run = train(tmp_path / "run", **where, **rows, trainer__max_steps=5)
    losses = [row["train/loss"] for row in training_rows(run)]
    assert losses[-1] < 0.9 * losses[0]
    assert (run / "final" / "model.safetensors").is_file()
    assert "DepictQA" in (run / "final" / "README.md").read_text()
    (tmp_path / "sea.png").write_bytes(b"no picture")
    done = start(runs=tmp_path, name="broken", **where, **rows)
    assert done.returncode == 2
    assert "sea.png" in done.stderr
