"""What is asked, and every decision in reading what comes back."""

import ast
import re
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqr1 import answer
from vqr1.answer import PROMPTS, build_prompt, expects_thinking, follows_format, read_score

TASK = "You are doing the image quality assessment task. Here is the question: "
SCALE = "with 1 representing very poor quality and 5 representing excellent quality. "
THINKING = (
    "First output the thinking process in <think> </think> tags and then output the final answer with only "
    "one score in <answer> </answer> tags."
)
QUESTION = (
    "What is your overall rating on the quality of this picture? "
    "The rating should be a float between 1 and 5, rounded to two decimal places, "
)
BESIDE = (
    "The first image is the reference, of perfect quality. The second image is a distorted version of it. "
    "Rate the overall visual quality of the second image. The rating should be a float between 1 and 5, "
)
BARE = "Please only output the final answer with only one score in <answer> </answer> tags."


def test_prompts_word_for_word():
    question = "Rate the overall image visual quality. The rating should be a float between 1 and 5, "
    expected = {
        "paper": TASK + question + SCALE + THINKING,
        "published": TASK + QUESTION + SCALE + THINKING,
        "no_thinking": TASK + QUESTION + SCALE + BARE,
        "reference": TASK + BESIDE + SCALE + THINKING,
    }
    assert expected == PROMPTS


def test_which_prompts_ask_for_thinking():
    assert {form: expects_thinking(form) for form in PROMPTS} == {
        "paper": True,
        "published": True,
        "no_thinking": False,
        "reference": True,
    }
    assert expects_thinking("Reason in <think>, rate in <answer>.")
    assert not expects_thinking("Rate it in <answer>.")


def test_a_prompt_of_one_s_own():
    own = "How sharp is it, from 1 to 5? Put the score in <answer> </answer> tags."
    assert build_prompt(own) == [{"role": "user", "content": own}]


@pytest.mark.parametrize("build", [build_prompt, expects_thinking])
@pytest.mark.parametrize("text", ["", "papers", "Rate this picture from 1 to 5."])
def test_a_prompt_that_asks_for_no_answer_is_refused(build, text):
    with pytest.raises(ValueError, match=r"paper, published, no_thinking.*<answer>"):
        build(text)


def test_one_prompt_may_be_changed_without_changing_the_next():
    build_prompt("paper")[0]["content"] = "spoilt"
    assert build_prompt("paper")[0]["content"] == PROMPTS["paper"]


def test_trl_puts_the_image_before_the_text():
    from trl.data_utils import is_conversational, prepare_multimodal_messages

    prompt = build_prompt("paper")
    assert is_conversational({"prompt": prompt})
    image = object()
    assert prepare_multimodal_messages(prompt, images=[image]) == [
        {
            "role": "user",
            "content": [{"type": "image", "image": image}, {"type": "text", "text": PROMPTS["paper"]}],
        }
    ]


def block(content: str) -> str:
    return f"<think>Some noise.</think><answer>{content}</answer>"


@pytest.mark.parametrize(
    ("content", "score"),
    [
        ("3", 3.0),
        ("3.5", 3.5),
        ("1.00", 1.0),
        ("1", 1.0),
        ("5.0", 5.0),
        ("4.999999", 4.999999),
        (" \n\t3.25\r\n ", 3.25),
        ("\u00a03.25\u3000", 3.25),
        ("\x1c3.25\x1f", 3.25),
    ],
)
def test_scores_that_are_read(content, score):
    assert read_score(block(content)) == score


@pytest.mark.parametrize(
    "content",
    [
        *("0.99", "5.01", "5.0000000000000000000001", "0", "-3", "10", "33", "nan", "inf", "1e400"),
        *("4/5", "3,5", "3.", ".5", "+3", "1e0", "05", "03.5", "3_0", "3.5.1", "3. 5", "0x3", "3.5f"),
        *(
            "**3.5**",
            "3.5 out of 5",
            "3.5 4",
            "3.5/5",
            "3.5 ± 0.2",
            "score: 3",
            "banana",
            "Out of 5, 3",
            '"3"',
        ),
        *("３．５", "３", "٣", "③", "3.５", "³"),
        *("", " ", "\n", "<b>3</b>", "<answer>3</answer>", "<think>3</think>", "3<think></think>"),
    ],
)
def test_answers_that_are_not_plainly_a_score(content):
    assert read_score(block(content)) is None
    assert not follows_format(block(content), thinking=True)


@pytest.mark.parametrize(
    "text",
    [
        "3.5",
        "",
        "Out of 5 I give 3.5",
        "<answer>3</answer><answer>3</answer>",
        "<answer>3</answer> or <answer>4</answer>",
        "<think>Is it <answer>3</answer>?</think><answer>3</answer>",
        "<think>I shall use <answer> tags.</think><answer>3</answer>",
        "<answer><answer>3</answer></answer>",
        "<answer>3</answer></answer>",
        "<answer><answer>3</answer>",
        "<answer>3",
        "3</answer>",
        "</answer>3<answer>",
        "</answer><answer>3",
        "<ANSWER>3</ANSWER>",
        "<Answer>3</Answer>",
        "<answer >3</answer>",
        "<answer>3</ answer>",
        "<answer>3<answer>",
        "<answer>3<answer/>",
    ],
)
def test_tags_that_are_not_one_block(text):
    assert read_score(text) is None
    assert not follows_format(text, thinking=False)


def test_the_score_is_read_wherever_its_block_stands():
    assert read_score("I say <answer>2.5</answer> of 5.") == 2.5
    assert read_score("<answer>2.5</answer><think>why</think>") == 2.5


@given(st.integers(100, 500))
def test_every_score_in_hundredths_is_read_back(hundredths):
    assert read_score(block(f"{hundredths / 100:.2f}")) == hundredths / 100


PIECES = [
    "<answer>",
    "</answer>",
    "<think>",
    "</think>",
    " ",
    "\n",
    "3",
    "5",
    ".",
    "0",
    "4.2",
    "-",
    "x",
    "３",
]


@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_reading_and_format_follow_the_grammar(text):
    """The grammar once more, as patterns over the whole text."""
    outside, number = r"((?:(?!</?answer>).)*)", r"([1-4](?:\.[0-9]+)?|5(?:\.0+)?)"
    match = re.fullmatch(rf"(?s){outside}<answer>\s*{number}\s*</answer>{outside}", text)
    if match is None:
        assert read_score(text) is None
        assert not follows_format(text, thinking=True)
        assert not follows_format(text, thinking=False)
        return
    before, score, after = match.groups()
    think = re.fullmatch(r"(?s)\s*<think>(?:(?!</?think>).)*</think>\s*", before)
    assert read_score(text) == float(score)
    assert follows_format(text, thinking=True) == (think is not None and not after.strip())
    assert follows_format(text, thinking=False) == (not before.strip() and not after.strip())


@pytest.mark.parametrize(
    "text",
    [
        "<think>Noise.</think><answer>3.5</answer>",
        " <think>Noise.</think>\n\n<answer> 3.5 </answer>\n",
        "<think></think><answer>3</answer>",
        "<think>Two\nlines, 4/5 and </b>.</think> <answer>3</answer>",
    ],
)
def test_format_with_thinking(text):
    assert follows_format(text, thinking=True)
    assert not follows_format(text, thinking=False)


@pytest.mark.parametrize("text", ["<answer>3.5</answer>", "\n <answer> 3.5\n</answer> "])
def test_format_without_thinking(text):
    assert follows_format(text, thinking=False)
    assert not follows_format(text, thinking=True)


@pytest.mark.parametrize(
    "text",
    [
        "So: <think>a</think><answer>3</answer>",
        "<think>a</think> so <answer>3</answer>",
        "<think>a</think><answer>3</answer> done",
        "<answer>3</answer><think>a</think>",
        "<think>a</think><think>b</think><answer>3</answer>",
        "<think>a<think>b</think></think><answer>3</answer>",
        "<think>a<answer>3</answer></think>",
        "<think>a<answer>3</answer>",
        "a</think><answer>3</answer>",
        "</think>a<think><answer>3</answer>",
        "<THINK>a</THINK><answer>3</answer>",
        "<think>a</think><answer>3</answer><think>b</think>",
        "<think>a</think><answer>banana</answer>",
        "<think>a</think>",
    ],
)
def test_what_breaks_the_format(text):
    assert not follows_format(text, thinking=True)
    assert not follows_format(text, thinking=False)


@pytest.mark.parametrize(
    ("text", "score", "formatted"),
    [
        ("<answer>" * 20_000, None, False),
        ("<answer>" * 20_000 + "3" + "</answer>" * 20_000, None, False),
        ("</answer><answer>" * 20_000, None, False),
        (block("3" * 100_000), None, False),
        (block("3." + "0" * 100_000), 3.0, True),
        (block("3." + "1" * 100_000 + "x"), None, False),
        (block(" " * 100_000), None, False),
        (block(" " * 100_000 + "3" + " " * 100_000), 3.0, True),
        ("<think>" * 20_000 + block("3"), 3.0, False),
        ("<" * 100_000 + block("3"), 3.0, False),
        (" " * 100_000 + "x" + block("3"), 3.0, False),
    ],
    ids=range(11),
)
def test_long_texts_take_milliseconds(text, score, formatted):
    start = time.thread_time()
    assert read_score(text) == score
    assert follows_format(text, thinking=True) == formatted
    assert time.thread_time() - start < 0.05


def test_imports_the_standard_library_and_the_users_error_alone():
    tree = ast.parse(Path(answer.__file__).read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert names
    assert {name.partition(".")[0] for name in names if name != "vqr1.errors"} <= sys.stdlib_module_names
