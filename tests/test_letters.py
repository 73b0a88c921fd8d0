"""The likeliest letter of a question's options, and the questions about the demonstration's pictures."""

from __future__ import annotations

import json
from string import ascii_uppercase

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.question_files import micbench, written
from vqr1.answering.answerer import load_answerer, longest_text
from vqr1.answering.letters import likeliest_letters
from vqr1.answering.model import find_model
from vqr1.answering.settings import AnswerSettings, Method, settle
from vqr1.asking import command
from vqr1.asking.published import read_choices
from vqr1.bench import demo_questions
from vqr1.config import PolicyConfig
from vqr1.data import Sample
from vqr1.errors import UserError
from vqr1.picture_prompts import in_order, named, number_of_pictures
from vqr1.policy.load import SHIPPED, TINY, load_processor
from vqr1.rollout.offline import encode_prompts, text_tokens


def test_letters_are_those_of_whole_rows_whatever_shares_their_batch(policy_folder):
    """Two options beside four, one picture beside two."""
    settings = settle(AnswerSettings(str(policy_folder), method=Method.greedy, max_tokens=1), 0)
    answerer = load_answerer(settings, find_model(settings))
    rng = np.random.default_rng(0)
    a, b = (Image.fromarray(rng.integers(0, 255, (56, wide, 3), dtype=np.uint8)) for wide in (56, 84))
    asked = [([a], 4), ([a, b], 2), ([b], 3), ([b, a], 2)]
    examples = [{"images": shown, "prompt": in_order(len(shown), f"Is it sharp? {n}")} for shown, n in asked]
    expected = []
    for example, (_, n) in zip(examples, asked, strict=True):
        inputs = encode_prompts(answerer.processor, [example])
        with torch.no_grad():
            logits = answerer.policy.model(**inputs).logits[0, -1]
        ids = [answerer.processor.tokenizer.encode(letter, add_special_tokens=False) for letter in ascii_uppercase[:n]]
        assert {len(each) for each in ids} == {1}
        expected.append(ascii_uppercase[int(logits[[each[0] for each in ids]].argmax())])
    assert likeliest_letters(answerer, examples, [n for _, n in asked]) == expected


def test_every_answer_is_a_letter(tmp_path):
    path = written(tmp_path, "rows.json", [micbench(), micbench(img_paths=["p0.png", "p1.png", "p2.png", "p3.png"])])
    words = ["mcq", f"--file={path}", "--model", "tiny", "--threads", "1", f"--json={tmp_path / 'f.json'}"]
    command.run([*words, "--likeliest"])
    counts = json.loads((tmp_path / "f.json").read_text())["sets"]["MICBench"]["counts"]
    assert (counts["answers"], counts["unreadable"]) == (6, 0)


def test_questions_about_the_demonstration_by_hand(tmp_path):
    """s = sqrt(0.3^2 + 0.4^2) = 0.5: a gap of 0.5 is similar, 0.6 and more is not."""
    for (first, second), right in (((3.0, 3.5), "B"), ((3.0, 3.6), "C"), ((3.0, 1.0), "A"), ((3.0, 3.0), "B")):
        samples = [
            Sample(f"/p{i}.png", mos, std, "demo_five", "g", f"{i}")
            for i, (mos, std) in enumerate(((first, 0.3), (second, 0.4)))
        ]
        (row,) = demo_questions.rows(samples, rounds=1)
        shown = [row["image1"], row["image2"]]
        assert sorted(shown) == ["/p0.png", "/p1.png"]
        turned = {"A": "C", "C": "A", "B": "B"} if shown[0] == "/p1.png" else {}
        assert row["correct_choice"] == turned.get(right, right)
        for each in shown:
            Image.new("RGB", (28, 28)).save(tmp_path / each[1:])
        row |= {name: str(tmp_path / row[name][1:]) for name in ("image1", "image2")}
        (tmp_path / "questions.json").write_text(json.dumps([row]))
        published = read_choices(tmp_path / "questions.json")
        (question,) = published.questions
        assert (published.format, question.options) == ("Q-Bench2", ("Worse", "Similar", "Better"))
        assert question.right == "ABC".index(row["correct_choice"])


@pytest.mark.parametrize(("words", "message"), [(["--rounds", "0"], "0 rounds of disjoint"), ([], "No such file")])
def test_questions_that_cannot_be_made_or_written_are_one_message(data_root, tmp_path, capsys, words, message):
    out = tmp_path / "none" / "questions.json"
    assert demo_questions.main(["--out", str(out), "--root", str(data_root), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vqr1.bench.demo_questions: ") and message in line


def test_vllm_gives_no_letters_probabilities(tmp_path):
    path = written(tmp_path, "rows.json", [micbench()])
    with pytest.raises(UserError, match=r"--likeliest reads probabilities .*take --engine transformers"):
        command.run(["mcq", f"--file={path}", "--model", "tiny", "--likeliest", "--engine", "vllm"])


def test_no_prompt_is_longer_than_vllm_makes_room_for():
    processor = load_processor(PolicyConfig(path=str(SHIPPED), **TINY))
    prompts = [in_order(1, "Sharp? " * 40), in_order(3, "Is the Überblick blurred?"), named(["Image A"], "Why?")]
    for prompt in prompts:
        assert text_tokens(processor, prompt, pictures=number_of_pictures(prompt)) <= longest_text(processor, prompts)
