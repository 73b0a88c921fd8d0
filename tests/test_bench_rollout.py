"""The benchmark of rollouts: its arithmetic under a clock that is told what to say, and a run without vLLM."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.support.fake_engine import FakeEngine
from vqr1.bench.rollout import (
    COPIES,
    TRANSFORMERS,
    VLLM,
    all_differing,
    arguments,
    as_json,
    bench,
    differ,
    load_all,
    marked,
    measure,
    over,
    pictures_of,
    table,
    ways_of,
)
from vqr1.bench.shapes import SHAPES, shape_config, write_random
from vqr1.data import Sample, Splits
from vqr1.estimate.sizes import Sizes
from vqr1.policy.load import SHIPPED

SMALL = Sizes(
    128,
    256,
    2,
    4,
    2,
    1024,
    True,
    vision_depth=4,
    vision_hidden=64,
    vision_intermediate=96,
    vision_heads=4,
    vision_whole=4,
)


class Clock:
    """Stands still but for what is added to it."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def measured(costs, ks=(2, 4), rounds=3):
    """Rows of ways that take ``costs[way] * K`` seconds, in the last round ten times as many; and who was called."""
    clock, called = Clock(), []

    def way_of(name):
        def way(pictures, k, seed):
            called.append((k, seed, name, [picture.tobytes() for picture in pictures]))
            clock.now += costs[name] * k * (10 if seed == rounds else 1) + (1000 if seed == 0 else 0)
            return [[1] * 5 for _ in pictures for _ in range(k)]

        return way

    pictures = [Image.new("RGB", (28, 28), (9, i, 0)) for i in range(2)]
    return measure({name: way_of(name) for name in costs}, pictures, ks, rounds, clock), called


def test_rates_are_medians_of_the_rounds_after_the_first():
    rows, _ = measured({TRANSFORMERS: 1.0, VLLM: 0.25, COPIES: 0.5})
    for row in rows:
        cost = {TRANSFORMERS: 1.0, VLLM: 0.25, COPIES: 0.5}[row.way]
        assert row.seconds == [cost * row.k, cost * row.k, 10 * cost * row.k]
        assert row.rate("answers") == 2 / cost  # of two pictures
        assert row.rate("tokens") == 10 / cost
    by = {(row.k, row.way): row for row in rows}
    assert over(by[2, VLLM], by[2, TRANSFORMERS], "answers") == 4.0
    lines = table(rows).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[2] == ["2", "2.0", "8.0", "4.00", "4.00", "4.0", "2.00"]


def test_a_ratio_is_of_rates_in_the_same_round():
    rows, _ = measured({TRANSFORMERS: 1.0, VLLM: 0.5}, ks=(1,))
    plain, vllm = rows
    plain.seconds, vllm.seconds = [1.0, 10.0, 100.0], [50.0, 0.5, 5.0]
    assert over(vllm, plain, "answers") == pytest.approx(20.0)
    assert vllm.rate("answers") / plain.rate("answers") == pytest.approx(2.0)


def test_ways_take_turns_and_no_call_sees_a_picture_twice():
    _, called = measured({TRANSFORMERS: 1.0, VLLM: 0.25}, ks=(2,))
    assert [name for _, _, name, _ in called] == [VLLM, TRANSFORMERS, TRANSFORMERS, VLLM] * 2
    shown = [pixels for *_, pictures in called for pixels in pictures]
    assert len(set(shown)) == len(shown)
    picture = Image.new("RGB", (28, 28))
    assert len({marked(picture, number).tobytes() for number in (1, 255, 256, 65536, 70000)}) == 5
    assert picture.getpixel((0, 0)) == (0, 0, 0)


def test_json_holds_every_round():
    rows, _ = measured({TRANSFORMERS: 1.0}, ks=(2,))
    made = json.loads(json.dumps(as_json(rows, {"vllm, greedy": (1, 4)}, {"policy": "tiny"})))
    assert made["rows"] == [
        {"k": 2, "way": "transformers", "seconds": [2.0, 2.0, 20.0], "answers": [4, 4, 4], "tokens": [20, 20, 20],
         "peak_gb": None, "answers_per_second": 2.0, "tokens_per_second": 10.0}
    ]  # fmt: skip
    assert made["policy"] == "tiny"
    assert made["answers_that_differ_when_asked_alone"] == {"vllm, greedy": [1, 4]}
    assert table(rows).splitlines()[2].count(" - ") == 5


@pytest.mark.parametrize(("name", "parameters"), [("3b", 3_754_622_976), ("7b", 8_292_166_656)])
def test_the_shapes_have_the_published_number_of_parameters(name, parameters):
    tokenizer = AutoProcessor.from_pretrained(str(SHIPPED)).tokenizer
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(shape_config(SHAPES[name], tokenizer), dtype=torch.bfloat16)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model.config.text_config.rope_parameters["mrope_section"] == [16, 24, 24]
    assert model.config.vision_config.fullatt_block_indexes == [7, 15, 23, 31]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    write_random(SMALL, folder, torch.float32)
    return folder


def test_random_weights_draw_answers_of_full_length(small, monkeypatch):
    monkeypatch.setattr("vqr1.bench.rollout.vllm_installed", lambda: False)
    answerers = load_all(str(small), arguments(["--max-tokens", "7", "--k", "2"]))
    (answerer,) = answerers.values()
    pictures = pictures_of(answerer.model, None, 2)
    assert pictures[0].size == (504, 392)
    drawn = ways_of(answerers)[TRANSFORMERS](pictures, 2, 0)
    assert [len(ids) for ids in drawn] == [7] * 4
    changed, answers = differ(answerer, pictures, 2, 1.0)
    assert answers == 4
    assert changed >= 2  # without seeds of their own the second picture's answers are those of its batch
    assert max(max(ids) for ids in drawn) > answerer.processor.tokenizer.vocab_size  # the whole vocabulary


def test_copies_of_a_prompt_draw_the_answers_of_the_one_question(small, monkeypatch):
    monkeypatch.setattr("vqr1.bench.rollout.vllm_installed", lambda: True)
    monkeypatch.setattr("vqr1.answering.answerer.VllmEngine", FakeEngine)
    answerers = load_all(str(small), arguments(["--max-tokens", "3", "--k", "2", "3", "--pictures", "2"]))
    engine = next(iter(answerers.values())).engine
    assert engine.settings["max_answers"] == 6
    pictures = [Image.new("RGB", (56, 56), (80 * i, 9, 9)) for i in range(2)]
    ways = ways_of(answerers)
    one, copies = ways[VLLM](pictures, 3, 1), ways[COPIES](pictures, 3, 1)
    assert one == copies
    assert [[question.k for question in asked] for asked in engine.asked] == [[3, 3], [1] * 6]
    assert len({tuple(ids) for ids in one}) == 6
    assert all_differing(answerers, pictures) == {
        "vllm, greedy": (0, 2),
        "vllm, K = 6 sampled": (0, 12),
        "transformers, greedy": (0, 2),
    }


def test_without_vllm_transformers_is_measured_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("vqr1.bench.rollout.vllm_installed", lambda: False)
    Image.new("RGB", (112, 112), (9, 99, 9)).save(tmp_path / "green.png")
    two = [Sample(str(tmp_path / "green.png"), 1.0, None, "demo_five", f"g{i}", f"demo_five/{i}") for i in range(2)]
    monkeypatch.setattr("vqr1.bench.rollout.read_dataset", lambda name, root: Splits(test=two))
    out = tmp_path / "runs" / "bench.json"
    words = ["--k", "2", "--pictures", "2", "--rounds", "1", "--max-tokens", "4"]
    bench(arguments([*words, "--out", str(out)]))
    printed = capsys.readouterr().out
    assert "vLLM is not installed: transformers alone" in printed
    assert "each picture encoded once and each prompt read once" in printed
    written = json.loads(out.read_text())
    assert [(row["way"], row["answers"]) for row in written["rows"]] == [("transformers", [4])]
    assert written["answers_that_differ_when_asked_alone"].keys() == {"transformers, greedy"}


def test_random_weights_need_a_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="--policy 7b needs a CUDA device; --policy tiny runs without one"):
        bench(arguments(["--policy", "7b"]))
