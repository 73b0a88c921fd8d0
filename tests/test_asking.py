"""``vqr1 ask``: what is asked, how answers are read, and what comes of policies that answer by a rule."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.support.miniatures import MINIATURES, bapps, lines
from tests.support.question_files import depictqa, grey, llvisionqa, micbench, qbench2, without, written
from vqr1.asking import command
from vqr1.asking.choice_question import ChoiceQuestion
from vqr1.asking.figures import choice_figures, pair_figures
from vqr1.asking.forms import FORMS, FormName, read_place, read_tag, read_word
from vqr1.asking.pair_sets import Pairing, PairSet, plan_rated
from vqr1.data import read_dataset
from vqr1.data.sample import Sample
from vqr1.errors import UserError
from vqr1.questions import Choice

FIRST, SECOND, DRAW, UNREADABLE = Choice.first, Choice.second, Choice.draw, Choice.unreadable


class Scripted:
    """A policy that answers by a rule, in place of :class:`vqr1.answering.answerer.Answerer`."""

    def __init__(self, rule):
        self.rule, self.examples, self.policy = rule, [], self

    def load(self, settings, model):
        self.model = model
        return self

    def check(self, pictures):
        assert pictures

    def answer(self, examples):
        self.examples += examples
        return [self.rule(example) for example in examples]


def light(picture):
    return float(np.asarray(picture).mean())


def lighter(example):
    *_, first, second = example["images"]
    return "The first image." if light(first) > light(second) else "the second"


def text_of(example):
    return "".join(part.get("text", "[]") for part in example["prompt"][0]["content"])


def letter_of(wanted):
    """Who finds the option of this text, wherever it stands."""

    def rule(example):
        return next(line[0] for line in text_of(example).splitlines() if line[1:] == f". {wanted}")

    return rule


def ask(policy, *words):
    return command.run([*words, "--model", "tiny"], policy.load)


@pytest.fixture
def root(tmp_path):
    """Six pictures, the lighter the better."""
    folder = tmp_path / "mine"
    rows = [f"p{i}.png,{i + 1},s{i // 3},test" for i in range(6)]
    lines(folder / "ratings.csv", "file,score,scene,split", *rows)
    for i in range(6):
        grey(folder / "pictures" / f"p{i}.png", 20 + 40 * i)
    columns = {"image": "file", "mos": "score", "group": "scene", "part": "split"}
    settings = {
        "form": "csv",
        "labels": "ratings.csv",
        "images": "pictures",
        "higher_is_better": True,
        "range": [0, 10],
    }
    lines(
        folder / "dataset.yaml",
        yaml.safe_dump({**settings, "group": "reference", "spread": "none", "columns": columns}),
    )
    return tmp_path


def figures_of(path: Path, name: str):
    return json.loads(path.read_text())["sets"][name]


# Reading of answers


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("first", FIRST),
        (" The  Second image.\n", SECOND),
        ("the first one is better", FIRST),
        ("The second picture has the better quality.", SECOND),
        ("Draw.", DRAW),
        ("a tie", DRAW),
        ("similar", DRAW),
        ("", UNREADABLE),
        ("first or second", UNREADABLE),
        ("not the first", UNREADABLE),
        ("I think the first image is better", UNREADABLE),
        ("first..", UNREADABLE),
        ("third", UNREADABLE),
    ],
)
def test_reading_of_places(text, choice):
    assert read_place(text) is choice


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("Image A", FIRST),
        ("b.", SECOND),
        ("Image B is better.", SECOND),
        ("neither", DRAW),
        ("A B", UNREADABLE),
        ("Image C", UNREADABLE),
        ("Reference Image", UNREADABLE),
    ],
)
def test_reading_of_tags(text, choice):
    assert read_tag(text) is choice


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("superior", SECOND),
        ("The quality of the second image is better.", SECOND),
        ("The quality of the second image is similar", DRAW),
        ("worse", FIRST),
        ("inferior.", FIRST),
        ("The quality of the first image is better.", UNREADABLE),
        ("better, or worse", UNREADABLE),
        ("bad", UNREADABLE),
    ],
)
def test_reading_of_compare2scores_words(text, choice):
    assert read_word(text) is choice


def test_forms_name_their_pictures():
    def shown(form, reference):
        return "".join(part.get("text", "[]") for part in FORMS[form].ask(reference)[0]["content"])

    assert shown(FormName.which, True).startswith("The reference image: [] The first image: [] The second image: []\n")
    assert shown(FormName.tagged, False).startswith("Image A: [] Image B: []\nWhich image")
    compared = "Compared with the first image, what is your quality rating for second image?"
    assert shown(FormName.compared, False) == f"The first image: [] The second image: []\n{compared}"
    with pytest.raises(UserError, match="--no-reference"):
        FORMS[FormName.compared].ask(True)


# Figures


def pair_set(pairs, mos, **more):
    names = [f"p{i}" for i in range(len(mos))]
    ids = [str(i) for i in range(len(pairs))]
    return PairSet("mine", names, np.array(mos, float), np.array(pairs), [""] * len(pairs), ids, **more)


def test_figures_of_pairs_by_hand():
    asked = pair_set([[0, 1], [1, 2], [0, 2], [2, 3]], [4, 3, 2, 2])
    listed, swapped = [FIRST, FIRST, FIRST, DRAW], [SECOND, FIRST, UNREADABLE, DRAW]
    found = pair_figures(asked, listed, swapped)
    value = {name: figure.value for name, figure in found.figures.items()}
    of = {name: figure.of for name, figure in found.figures.items()}
    assert (value["consistent"], of["consistent"]) == (2 / 4, 4)
    assert (value["accuracy"], of["accuracy"]) == (1 / 3, 3)
    assert (value["accuracy_of_consistent"], of["accuracy_of_consistent"]) == (1, 1)
    assert (value["single_order"], of["single_order"]) == (4 / 6, 6)
    assert (value["first"], of["first"]) == (4 / 5, 5)
    assert value["published_bias"] == 1 - 3 / 8
    assert found.counts == {"pairs": 4, "equal_mos": 1, "answers": 8, "draws": 2, "unreadable": 1}
    assert value["srcc"] == pytest.approx(1 / 3)  # ranks 4, 1, 2.5, 2.5 by one win, and 4, 3, 1.5, 1.5
    assert found.remarks[0].startswith("the comparisons fall into 1 part of 2 pictures and 2 pictures")


def test_an_interval_is_that_of_drawn_pairs():
    asked = pair_set([[0, 1]] * 200, [2, 1])
    half = pair_figures(asked, [FIRST] * 200, [SECOND, FIRST] * 100).figures["accuracy"]
    spread = 1.96 * np.sqrt(0.25 / 200)
    assert (half.value, half.low, half.high) == pytest.approx((0.5, 0.5 - spread, 0.5 + spread), abs=0.01)
    sure = pair_figures(asked, [FIRST] * 200, [SECOND] * 200).figures["accuracy"]
    assert (sure.value, sure.low, sure.high) == (1, 1, 1)
    first = pair_figures(asked, [FIRST] * 200, [SECOND] * 200).figures["first"]
    assert (first.value, first.low, first.high) == (0.5, 0.5, 0.5)  # both orders of a pair are drawn together


def test_what_nothing_is_known_of_is_undefined():
    found = pair_figures(pair_set([[0, 1]], [1, 1]), [UNREADABLE], [UNREADABLE]).figures
    for name in ("accuracy", "accuracy_of_consistent", "single_order", "first", "srcc"):
        assert np.isnan(found[name].value), name
        assert np.isnan(found[name].low), name


def test_agreement_with_raters():
    judge = np.array([1.0, 0.25, 0.0, 0.75])
    mos = np.stack([1 - judge, judge], 1).ravel()
    asked = pair_set(np.arange(8).reshape(4, 2), mos, judge=judge)
    listed, swapped = [SECOND, FIRST, SECOND, FIRST], [FIRST, SECOND, FIRST, FIRST]
    found = pair_figures(asked, listed, swapped).figures
    assert found["agreement"].value == (1 + 0.75 + 0 + 0.5) / 4
    assert found["accuracy"].value == 2 / 4
    assert pair_figures(asked, listed, None).figures["agreement"].value == (1 + 0.75 + 0 + 0.25) / 4


def test_within_references_correlations_are_of_references():
    asked = pair_set([[0, 1], [1, 2], [0, 2], [3, 4]], [3, 2, 1, 9, 8], groups=list("aaabb"))
    found = pair_figures(asked, [FIRST] * 4, [SECOND] * 4)
    assert found.figures["srcc"].value == 1
    assert found.remarks == ("srcc is the mean of 1 references; 1 have no correlation",)


def question(right, n=3, **kinds):
    return ChoiceQuestion(1, ("p",), "?", tuple("xyzw"[:n]), right, kinds, {})


def test_figures_of_choices_by_hand():
    questions = [question(0, type="0"), question(2, type="1"), question(None)]
    answers = [[0, 2, 1], [0, 0, 0], [None, 0, 1]]
    found = choice_figures(questions, answers)
    value = {name: figure.value for name, figure in found.figures.items()}
    assert value["as_published"] == 1 / 2
    assert value["accuracy"] == pytest.approx((1 + 1 / 3) / 2)
    assert value["in_all"] == 1 / 2
    assert (value["accuracy of type 0"], value["accuracy of type 1"]) == (1, pytest.approx(1 / 3))
    assert value["letter A"] == 4 / 6
    assert value["position_bias"] == pytest.approx(1 / 3)
    assert found.counts == {"questions": 3, "hidden": 1, "answers": 9, "unreadable": 1}


def test_hidden_answers_alone_have_counts_alone():
    found = choice_figures([question(None)], [[0, 1, None]])
    assert (found.figures, found.counts["hidden"], found.counts["unreadable"], found.remarks) == ({}, 1, 1, ())


def test_where_nothing_can_be_read_what_to_try_is_said():
    (said,) = choice_figures([question(1)], [[None, None, None]]).remarks
    assert said.endswith("--likeliest takes the likeliest letter in place of what it writes")
    asked = pair_set([[0, 1], [1, 2]], [3, 2, 1])
    for swapped in (None, [UNREADABLE] * 2):
        assert "(--form)" in pair_figures(asked, [UNREADABLE] * 2, swapped).remarks[0]
        assert not any("(--form)" in each for each in pair_figures(asked, [UNREADABLE, DRAW], swapped).remarks)


# The command


def test_who_sees_the_lighter_picture_is_right_in_both_orders(root, capsys):
    policy = Scripted(lighter)
    words = ["2afc", "--data", "mine", f"--root={root}", "--pairs", "all"]
    ask(policy, *words, f"--json={root / 'f.json'}", f"--jsonl={root / 'a.jsonl'}")
    told = capsys.readouterr()
    assert "30 questions: 15 pairs in both orders\n" in told.err
    assert f"  {'accuracy':22}  1.000 (1.000 to 1.000) of 15" in told.out
    found = figures_of(root / "f.json", "mine")
    assert found["counts"]["unreadable"] == 0
    assert [found["figures"][name]["value"] for name in ("consistent", "single_order", "srcc")] == [1, 1, 1]
    rows = [json.loads(line) for line in (root / "a.jsonl").read_text().splitlines()]
    assert len(rows) == len(policy.examples) == 30
    for listed, swapped in zip(rows[::2], rows[1::2], strict=True):
        assert (listed["order"], swapped["order"]) == ("as listed", "swapped")
        assert (listed["first"], listed["second"]) == (swapped["second"], swapped["first"])
        assert {listed["choice"], swapped["choice"]} == {"first", "second"}


def test_who_always_says_first_is_consistent_in_nothing(root, capsys):
    ask(Scripted(lambda _: "first"), "2afc", "--data", "mine", f"--root={root}", f"--json={root / 'f.json'}")
    assert "30 questions: 15 pairs" in capsys.readouterr().err  # five rounds of three
    value = {name: figure["value"] for name, figure in figures_of(root / "f.json", "mine")["figures"].items()}
    assert (value["consistent"], value["accuracy"], value["single_order"]) == (0, 0, 0.5)
    assert (value["first"], value["published_bias"], value["srcc"]) == (1, 0, None)


def test_one_order_alone(root, capsys):
    words = ["2afc", "--data", "mine", f"--root={root}", "--pairs", "reference", "--one-order"]
    ask(Scripted(lighter), *words, f"--json={root / 'f.json'}")
    assert "6 questions: 6 pairs\n" in capsys.readouterr().err
    found = figures_of(root / "f.json", "mine")
    assert (found["figures"]["right"]["value"], found["figures"]["srcc"]["value"]) == (1, 1)
    assert found["counts"] == {"pairs": 6, "equal_mos": 0, "answers": 6, "draws": 0, "unreadable": 0}


def test_bapps_is_asked_with_and_without_its_reference(tmp_path):
    bapps(tmp_path / "bapps")
    for i, (first, second) in enumerate([(100, 150), (100, 50), (100, 150)]):
        for side, light_of_it in (("p0", first), ("p1", second)):
            grey(tmp_path / "bapps" / "2afc" / "val" / "cnn" / side / f"{i:06}.png", light_of_it)
    for more, pictures in ([], 3), (["--no-reference"], 2):
        policy = Scripted(lighter)
        ask(policy, "2afc", "--data", "bapps", f"--root={tmp_path}", f"--json={tmp_path / 'f.json'}", *more)
        assert {len(example["images"]) for example in policy.examples} == {pictures}
    found = figures_of(tmp_path / "f.json", "bapps")
    assert found["figures"]["agreement"]["value"] == pytest.approx((0 + 0.6 + 1) / 3)  # judges 0, 0.4 and 1
    assert found["counts"]["pairs"] == 3  # of the validation part
    with pytest.raises(UserError, match="--no-reference"):
        ask(Scripted(lighter), "2afc", "--data", "bapps", f"--root={tmp_path}", "--form", "compared")


def test_no_pair_is_of_two_references_where_scores_do_not_compare(tmp_path):
    MINIATURES["sriqa"](tmp_path / "sriqa")
    words = ["2afc", "--data", "sriqa", f"--root={tmp_path}", f"--jsonl={tmp_path / 'a.jsonl'}"]
    for more in (["--pairs", "all"], ["--rounds", "1"]):
        with pytest.raises(UserError, match="--pairs reference"):
            ask(Scripted(lighter), *words, *more)
    ask(Scripted(lighter), *words)
    group = {sample.image: sample.group for sample in read_dataset("sriqa", tmp_path).all()}
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert rows
    assert all(group[row["first"]] == group[row["second"]] for row in rows)


def test_a_file_of_comparisons(tmp_path):
    path = written(tmp_path, "rows.json", [depictqa(), depictqa(image_ref=None, answer="Image A")])

    def rule(example):
        *_, a, b = example["images"]
        return "Image A" if light(a) > light(b) else "Image B"

    policy = Scripted(rule)
    ask(policy, "2afc", f"--file={path}", f"--json={tmp_path / 'f.json'}")
    assert [len(example["images"]) for example in policy.examples] == [3, 3, 2, 2]
    found = figures_of(tmp_path / "f.json", "DepictQA")["figures"]
    assert (found["consistent"]["value"], found["accuracy"]["value"]) == (1, 0.5)


@pytest.mark.parametrize(
    ("row", "wanted", "pictures", "rotations"),
    [(llvisionqa(), "Bright", 1, 3), (qbench2(), "The second", 2, 2), (micbench(), "The third image", 3, 3)],
)
def test_who_knows_the_answer_is_right_in_all_rotations(tmp_path, row, wanted, pictures, rotations):
    path = written(tmp_path, "rows.json", [row])
    policy = Scripted(letter_of(wanted))
    ask(policy, "mcq", f"--file={path}", f"--json={tmp_path / 'f.json'}", f"--jsonl={tmp_path / 'a.jsonl'}")
    assert [len(example["images"]) for example in policy.examples] == [pictures] * rotations
    ((_, found),) = json.loads((tmp_path / "f.json").read_text())["sets"].items()
    assert found["figures"]["in_all"]["value"] == 1
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["place"] for row in rows] == [row["right"] for row in rows]
    assert {row["options"][row["right"]] for row in rows} == {wanted}


def test_who_always_says_a_is_right_in_no_question(tmp_path, capsys):
    path = written(tmp_path, "rows.json", [llvisionqa(), llvisionqa(correct_ans="Dark")])
    ask(Scripted(lambda _: "(A)"), "mcq", f"--file={path}", f"--json={tmp_path / 'f.json'}")
    assert "6 questions: 2 of LLVisionQA, each in all its rotations\n" in capsys.readouterr().err
    found = figures_of(tmp_path / "f.json", "LLVisionQA")["figures"]
    assert (found["as_published"]["value"], found["in_all"]["value"]) == (0.5, 0)
    assert found["accuracy"]["value"] == pytest.approx(1 / 3)
    assert found["position_bias"]["value"] == pytest.approx(2 / 3)


def test_the_file_for_hidden_answers_is_the_rows_with_the_answers_as_listed(tmp_path):
    rows = [without(llvisionqa(more="kept"), "correct_ans"), llvisionqa(correct_ans="Dark")]
    path = written(tmp_path, "rows.json", rows)
    policy = Scripted(letter_of("Bright"))
    ask(policy, "mcq", f"--file={path}", "--one-order", f"--submission={tmp_path / 's.jsonl'}")
    assert len(policy.examples) == 2
    found = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert found == [{**row, "response": "B"} for row in rows]


@pytest.mark.parametrize("more", [[], ["jsonl"]])
def test_no_submission_of_another_command_is_overwritten(tmp_path, more):
    path, old = written(tmp_path, "rows.json", [llvisionqa()]), tmp_path / "old"
    old.write_text("finished")
    policy = Scripted(letter_of("Bright"))
    with pytest.raises(UserError, match="old is there already; give another file, or delete it to ask again"):
        ask(policy, "mcq", f"--file={path}", f"--submission={old}", *(f"--{each}={tmp_path / 'new'}" for each in more))
    assert old.read_text() == "finished"
    assert not policy.examples
    assert not list(tmp_path.glob("new*"))


def test_the_same_command_goes_on(root):
    words = ["2afc", "--data", "mine", f"--root={root}", "--batch", "4"]
    ask(Scripted(lighter), *words, f"--jsonl={root / 'whole.jsonl'}")
    given = []

    def interrupted(example):
        given.append(example)
        if len(given) > 10:
            raise KeyboardInterrupt
        return lighter(example)

    target = root / "a.jsonl"
    with pytest.raises(KeyboardInterrupt, match="8 of 30 questions are answered; the same command goes on"):
        ask(Scripted(interrupted), *words, f"--jsonl={target}")
    assert not target.exists()
    with pytest.raises(UserError, match="holds answers with questions"):
        ask(Scripted(lighter), *words, "--seed", "1", f"--jsonl={target}")
    kept = root / "a.jsonl.unfinished" / "answers.jsonl"
    first, _, rest = kept.read_text().partition("\n")
    for damaged in ({"answer": 5}, {"answer": None}, {"key": ["x"]}, {"key": "x"}):
        kept.write_text(f"{json.dumps({**json.loads(first), **damaged})}\n{rest}")
        with pytest.raises(
            UserError, match=r"answers.jsonl, line 1: not one of the answers .*; delete .* to ask again"
        ):
            ask(Scripted(lighter), *words, f"--jsonl={target}")
    kept.write_text(f"{first}\n{rest}")
    policy = Scripted(lighter)
    ask(policy, *words, f"--jsonl={target}")
    assert len(policy.examples) == 22
    assert target.read_text() == (root / "whole.jsonl").read_text()
    assert not list(root.glob("*.unfinished"))
    with pytest.raises(UserError, match="is there already"):
        ask(policy, *words, f"--jsonl={target}")


def test_a_picture_that_has_changed_is_asked_about_again(root):
    words = ["2afc", "--data", "mine", f"--root={root}", "--pairs", "all", "--batch", "30"]
    target = root / "a.jsonl"
    with pytest.raises(UserError, match=r"--json .*give a place"):  # after all was answered
        ask(Scripted(lighter), *words, f"--jsonl={target}", f"--json={root / 'mine' / 'ratings.csv' / 'f.json'}")
    grey(root / "mine" / "pictures" / "p3.png", 250)
    policy = Scripted(lighter)
    ask(policy, *words, f"--jsonl={target}")
    assert len(policy.examples) == 10


def test_a_picture_that_is_replaced_while_it_is_asked_about_is_asked_about_again(root):
    words = ["2afc", "--data", "mine", f"--root={root}", "--pairs", "all", "--batch", "30", f"--jsonl={root / 'a'}"]

    def replaced(example):
        grey(root / "mine" / "pictures" / "p3.png", 250)
        return lighter(example)

    with pytest.raises(UserError, match="give a place"):  # after all was answered
        ask(Scripted(replaced), *words, f"--json={root / 'mine' / 'ratings.csv' / 'f.json'}")
    policy = Scripted(lighter)
    ask(policy, *words)
    assert len(policy.examples) == 10


def test_a_batch_has_a_picture_once(root):
    policy = Scripted(lighter)
    ask(policy, "2afc", "--data", "mine", f"--root={root}", "--pairs", "all", "--batch", "30")
    assert len({id(picture) for example in policy.examples for picture in example["images"]}) == 6


def test_too_many_questions_need_a_yes(capsys):
    with pytest.raises(UserError, match="100,001 questions, and over 100,000 .*--yes"):
        command.announce(100_001, "pairs", [], yes=False)
    command.announce(100_001, "pairs", [], yes=True)
    assert "100,001 questions: pairs" in capsys.readouterr().err
    samples = [Sample(f"{i}.png", float(i), None, "mine", "g", str(i)) for i in range(3000)]
    assert plan_rated("mine", samples, Pairing.all, 5, 0).count == 3000 * 2999 // 2


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--data", "mine", "mine"], "names mine twice"),
        (["--data", "mine", "--rounds", "6"], "mine: 6 rounds of disjoint pairs of 6 pictures: give 1 to 5"),
        (["--data", "mine", "--rounds", "2", "--pairs", "all"], "--rounds 2 has no effect with --pairs all"),
        (["--data", "bapps", "--pairs", "all"], "--pairs has no effect with --data bapps, which has pairs of its own"),
        (["--data", "mine", "--images", "x"], "--images has no effect with --data"),
        (["--data", "mine", "--part", "train"], "mine has no train part; give another"),
        (["--data", "lost"], "no dataset is called lost"),
        (["--file", "lost.json"], "lost.json is missing"),
        (["--file", "lost.json", "--limit", "3"], "--limit has no effect with --file"),
        (["--data", "mine", "--json", "x", "--jsonl", "x"], "two of the files to write are x"),
    ],
)
def test_words_that_do_not_fit_are_refused(root, words, why):
    with pytest.raises(UserError, match=re.escape(why)):
        ask(Scripted(lighter), "2afc", *words, f"--root={root}")


def test_a_broken_picture_is_named(root):
    (root / "mine" / "pictures" / "p3.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"p3\.png: not a readable picture"):
        ask(Scripted(lighter), "2afc", "--data", "mine", f"--root={root}")


def test_the_tiny_policy_is_asked(tmp_path, capsys):
    """What it says is of no worth before it has learnt to compare: it is counted as unreadable."""
    words = ["--model", "tiny", "--max-tokens", "4", "--threads", "1"]
    path = written(tmp_path, "rows.json", [depictqa(), depictqa(image_ref=None)])
    command.run(["2afc", f"--file={path}", *words, f"--json={tmp_path / 'f.json'}"])
    assert figures_of(tmp_path / "f.json", "DepictQA")["counts"]["answers"] == 4
    path = written(tmp_path, "rows.json", [micbench(), micbench(img_paths=["p0.png", "p1.png", "p2.png", "p3.png"])])
    command.run(["mcq", f"--file={path}", *words, f"--json={tmp_path / 'g.json'}"])
    assert figures_of(tmp_path / "g.json", "MICBench")["counts"]["answers"] == 6
    assert "6 questions: 2 of MICBench, each in all its rotations" in capsys.readouterr().err


def test_comparisons_in_several_parts_are_said_with_their_sizes(root, capsys):
    """One round of disjoint pairs joins two pictures each; where all are draws nothing is joined."""
    words = ["2afc", "--data", "mine", f"--root={root}", "--rounds", "1"]
    ask(Scripted(lighter), *words)
    assert "the comparisons fall into 3 parts of 2, 2 and 2 pictures: scores of different" in capsys.readouterr().out
    ask(Scripted(lambda _: "draw"), *words)
    assert "no comparison joins any two of the 6 pictures, which all have score 0" in capsys.readouterr().out


def test_answers_that_were_read_otherwise_are_not_gone_on_with(tmp_path):
    path = written(tmp_path, "rows.json", [micbench()])
    words = ["mcq", f"--file={path}", f"--jsonl={tmp_path / 'a.jsonl'}"]

    def stop(example):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(Scripted(stop), *words)
    with pytest.raises(UserError, match="holds answers with read = None, and now it is 'the likeliest letter'"):
        ask(Scripted(stop), *words, "--likeliest")
