"""Published files of questions, read from miniatures, with their traps."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.question_files import depictqa, llvisionqa, micbench, qbench2, without, written
from vqr1.asking.published import read_choices, read_pairs
from vqr1.errors import UserError


def one(tmp_path, row):
    published = read_choices(written(tmp_path, "rows.json", [row]))
    (question,) = published.questions
    return published.format, question


def refused(tmp_path, *rows, read=read_choices):
    with pytest.raises(UserError) as error:
        read(written(tmp_path, "rows.json", list(rows)))
    return str(error.value)


def test_llvisionqa(tmp_path):
    name, question = one(tmp_path, llvisionqa())
    assert (name, question.row, question.question, question.right) == ("LLVisionQA", 1, "How is the light?", 1)
    assert question.options == ("Dark", "Bright", "Even")
    assert question.pictures == (str(tmp_path / "p0.png"),)
    assert question.kinds == {"type": "2", "concern": "0"}
    assert question.wording(question.rotated(1)).splitlines() == [
        "How is the light?",
        "A. Bright",
        "B. Even",
        "C. Dark",
        "Answer with the option's letter from the given choices directly.",
    ]


def test_qbench2_padding_is_no_option_and_its_letters_count_with_padding(tmp_path):
    name, question = one(tmp_path, qbench2())
    assert (name, question.options, question.right) == ("Q-Bench2", ("The first", "The second"), 1)
    assert [path[-6:] for path in question.pictures] == ["p0.png", "p3.png"]
    _, between = one(tmp_path, qbench2(option1="N/A", option2="Both", correct_choice="C"))
    assert (between.options, between.right) == (("The first", "Both"), 1)
    assert "correct_choice D is option3, which is padding" in refused(tmp_path, qbench2(correct_choice="D"))


@pytest.mark.parametrize("name", ["img_path", "img_paths", "images"])
def test_micbench_under_each_name_of_its_pictures(tmp_path, name):
    row = without(micbench(), "img_paths") | {name: ["p0.png", "p1.png", "p2.png", "p3.png"]}
    found, question = one(tmp_path, row)
    assert (found, len(question.pictures), question.right) == ("MICBench", 4, 2)


def test_micbench_with_two_lists_of_pictures(tmp_path):
    assert one(tmp_path, micbench(images=["p0.png", "p1.png", "p2.png"]))[1].right == 2
    assert "img_paths and images name different pictures" in refused(tmp_path, micbench(images=["p0.png", "p1.png"]))


@pytest.mark.parametrize(
    ("said", "right"),
    [("Bright", 1), (" Bright ", 1), ("B", 1), ("B. Bright", 1), ("C", 2), (None, None), ("", None), ("N/A", None)],
)
def test_the_right_answer_as_a_text_a_letter_or_hidden(tmp_path, said, right):
    assert one(tmp_path, llvisionqa(correct_ans=said))[1].right == right


def test_a_picture_by_its_whole_path_and_a_text_of_any_plane_are_read(tmp_path):
    _, question = one(tmp_path, llvisionqa(img_path=str(tmp_path / "p1.png"), question="How is \U0001f600?"))
    assert (question.pictures, question.question) == ((str(tmp_path / "p1.png"),), "How is \U0001f600?")


def test_a_hidden_answer_may_have_no_field(tmp_path):
    assert one(tmp_path, without(llvisionqa(), "correct_ans"))[1].right is None


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (llvisionqa(candidates=["Bright"]), r"a question with 1 option\(s\).* leave it out"),
        (llvisionqa(candidates=["Bright", "Dark", "Bright "]), "'Bright' comes twice.* leave it out"),
        (llvisionqa(candidates=["Bright", ""]), "option of the question is empty.* leave it out"),
        (llvisionqa(candidates="Bright"), "candidates is 'Bright'; give a list"),
        (llvisionqa(candidates=["Bright", 3]), "candidates is .*; give a list of texts"),
        (llvisionqa(correct_ans="Blue"), "correct_ans 'Blue' is none of the options .* correct the row"),
        (llvisionqa(correct_ans="D"), "correct_ans 'D' is none of the options"),
        (llvisionqa(correct_ans="A. Bright"), "correct_ans 'A. Bright' is none of the options"),
        (llvisionqa(candidates=["B", "A"], correct_ans="A"), "text of one option and the letter of another"),
        (llvisionqa(correct_ans=1), "correct_ans is '1'; give a text"),
        (llvisionqa(img_path="lost.png"), "img_path names lost.png, and .*/lost.png is missing; .* --images"),
        (llvisionqa(img_path=None), "img_path is None and names no picture"),
        (without(llvisionqa(), "question"), "question is missing; give a text"),
        (llvisionqa(question="Is <|image_pad|> sharp?"), r"<\|image_pad\|> in .* token of the model's own"),
        (llvisionqa(img_path="../p0.png"), r"img_path: \.\./p0.png leaves .*; give a path below it"),
        (llvisionqa(img_path="a/..\\p0.png"), "img_path: .* leaves .*; give a path below it"),
        (micbench(img_paths=["p0.png", "../p1.png"]), r"img_paths: \.\./p1.png leaves"),
        (qbench2(image2={"path": "../p0.png"}), r"image2: \.\./p0.png leaves"),
        (llvisionqa(question="How\ud800?"), r"question is 'How\\ud800\?'; give a text"),
        (llvisionqa(candidates=["Bright", "Dark\udc00"]), r"candidates is .*Dark\\+udc00.*; give a list of texts"),
        (llvisionqa(correct_ans="Bright\ud800"), r"correct_ans is 'Bright\\ud800'; give a text"),
        (micbench(img_paths=[]), "0 pictures; 1 to 10"),
        (micbench(img_paths=["p0.png"] * 11), "11 pictures; 1 to 10"),
        (qbench2(image2=None), "image2 is None and names no picture"),
        (qbench2(image2={"bytes": "..."}), "image2 is None and names no picture"),
        (qbench2(option1=None, correct_choice="A"), r"a question with 1 option\(s\)"),
        (qbench2(correct_choice="AB"), "correct_choice 'AB' is none of the options"),
        (qbench2(correct_choice="E"), "correct_choice 'E' is none of the options"),
    ],
)
def test_a_row_that_cannot_be_asked_is_named(tmp_path, row, why):
    said = refused(tmp_path, row)
    assert said.startswith(f"{tmp_path / 'rows.json'}, row 1: ")
    assert re.search(why, said), said


def test_rows_that_cannot_be_asked_are_left_out_and_told_if_that_is_asked_for(tmp_path):
    rows = [llvisionqa(correct_ans="Blue"), llvisionqa(), llvisionqa(img_path="lost.png"), {"img_path": "p0.png"}]
    path = written(tmp_path, "rows.json", rows)
    with pytest.raises(UserError, match=r"row 1: .*\(3 such rows in all; --leave-out goes on without them\)"):
        read_choices(path)
    published = read_choices(path, leave_out=True)
    assert [question.row for question in published.questions] == [2]
    assert [why.partition(": ")[0][-5:] for why in published.left_out] == ["row 1", "row 3", "row 4"]
    with pytest.raises(UserError, match="1 such rows, and no other"):
        read_choices(written(tmp_path, "rows.json", rows[:1]), leave_out=True)


def test_pictures_in_another_folder(tmp_path):
    path = written(tmp_path / "images", "rows.json", [llvisionqa()]).rename(tmp_path / "rows.json")
    with pytest.raises(UserError, match="--images"):
        read_choices(path)
    with pytest.raises(UserError, match="cannot be read .File name too long.; unpack"):
        read_choices(written(tmp_path, "long.json", [llvisionqa(img_path="p" * 300)]))
    assert read_choices(path, tmp_path / "images").questions[0].right == 1


@pytest.mark.parametrize("lines", [True, False])
def test_a_list_and_lines_are_read_alike(tmp_path, lines):
    path = written(tmp_path, "rows.json", [llvisionqa(), llvisionqa(correct_ans="Dark")], lines)
    assert [question.right for question in read_choices(path).questions] == [1, 0]


def test_a_text_may_hold_what_only_python_ends_a_line_at(tmp_path):
    path = written(tmp_path, "rows.json", [])
    path.write_text(json.dumps(llvisionqa(question="How\u2028is\u0085it?"), ensure_ascii=False) + "\r\n")
    assert [question.question for question in read_choices(path).questions] == ["How\u2028is\u0085it?"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no rows"),
        (b"[]", "no rows"),
        (b"[1, 2]", "row 1: '1' is no object"),
        (b"[{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a": ' * 100_000, "line 1: not JSON"),
        (b'{"a": 1}\nx\n', "line 2: not JSON"),
        (b"PAR1\xff\x00", "to_json"),
        (json.dumps([{"a": 1, "b": 2}]).encode(), "fields a, b are of no known format; known are MICBench, Q-Bench2"),
    ],
)
def test_what_is_no_file_of_questions(tmp_path, content, why):
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=why):
        read_choices(path)
    with pytest.raises(UserError, match="is missing"):
        read_choices(tmp_path / "lost.json")


def test_depictqa_with_and_without_the_reference(tmp_path):
    rows = [depictqa(), depictqa(image_ref=None, answer="Image A is clearer.", id="a2")]
    published = read_pairs(written(tmp_path, "rows.json", rows))
    assert published.format == "DepictQA"
    first, second = published.questions
    assert (first.reference, first.preference, first.pair_id) == (str(tmp_path / "p4.png"), 1.0, "a1")
    assert (second.reference, second.preference, second.pair_id) == ("", 0.0, "a2")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"answer": "They are alike."}, 'does not begin with "Image A" or "Image B"'),
        ({"answer": "Image A is worse than Image B."}, "and name no other"),
        ({"answer": "Image AB"}, "does not begin"),
        ({"image_A": None}, "image_A is None and names no picture"),
        ({"image_ref": "lost.png"}, "image_ref names lost.png"),
        ({"image_B": "p1.png"}, "image_A and image_B are both"),
    ],
)
def test_a_comparison_that_cannot_be_asked_is_named(tmp_path, fields, why):
    assert re.search(f"row 1: .*{why}", refused(tmp_path, depictqa(**fields), read=read_pairs))


def test_a_text_may_hold_what_other_programs_take_for_the_end_of_a_line(tmp_path):
    row = llvisionqa(question="How is\u2028the light?\x85")
    file = written(tmp_path, "rows.jsonl", [row], lines=True)
    file.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_choices(file).questions[0].question == row["question"]


@pytest.mark.parametrize("name", ["x" * 5000, "\0", "\ud800", "."])
def test_a_name_that_no_file_has_is_refused(tmp_path, name):
    file = written(tmp_path, "rows.json", [llvisionqa(img_path=name)])
    with pytest.raises(UserError, match=r"rows.json, row 1: img_path names ") as refusal:
        read_choices(file)
    assert len(str(refusal.value)) <= 1500


def test_brackets_without_end_are_refused(tmp_path):
    for content in ("[" * 100_000, "{" + '"a": {' * 100_000):
        (tmp_path / "rows.json").write_text(content)
        with pytest.raises(UserError, match=r"rows.json.*: not JSON"):
            read_choices(tmp_path / "rows.json")
