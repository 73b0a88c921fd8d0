"""What a policy is asked, and how its answer is read: the same for training, evaluation and rating.

A response holds its score in `<answer> </answer>`, after its reasoning in `<think> </think>` where the prompt
asks for that. Reading is strict and never guesses: what is not plainly one score is None, and the caller
decides what a missing score means. All functions take time linear in the text.
"""

import re

from vqr1.errors import UserError

_TASK = "You are doing the image quality assessment task. Here is the question: "
_SCALE = "with 1 representing very poor quality and 5 representing excellent quality. "
_PAPER = f"Rate the overall image visual quality. The rating should be a float between 1 and 5, {_SCALE}"
_PUBLISHED = (
    "What is your overall rating on the quality of this picture? "
    f"The rating should be a float between 1 and 5, rounded to two decimal places, {_SCALE}"
)
_BESIDE_REFERENCE = (
    "The first image is the reference, of perfect quality. The second image is a distorted version of it. "
    f"Rate the overall visual quality of the second image. The rating should be a float between 1 and 5, {_SCALE}"
)
_THINKING = (
    "First output the thinking process in <think> </think> tags and then output the final answer with only "
    "one score in <answer> </answer> tags."
)
_NO_THINKING = "Please only output the final answer with only one score in <answer> </answer> tags."

PROMPTS: dict[str, str] = {
    "paper": _TASK + _PAPER + _THINKING,  # VisualQuality-R1, Table 1
    "published": _TASK + _PUBLISHED + _THINKING,  # what its code asks
    "no_thinking": _TASK + _PUBLISHED + _NO_THINKING,  # what its code asks for a score alone
    "reference": _TASK + _BESIDE_REFERENCE + _THINKING,  # ours, after the paper's
}
OF_TWO_PICTURES = ("reference",)  # of PROMPTS: the others speak of one picture

TAGS = ("<think>", "</think>", "<answer>", "</answer>")

# How Qwen's tokenizers, and most others, write the tokens that stand for no text: <|image_pad|>, <|im_end|>.
_MODEL_TOKEN = re.compile(r"<\|[^<>|]*\|>")
_NO_PICTURE = ("<image>", "<img>", "<picture>")  # what other models call a picture's place

# The grammar is the range: a plain decimal in [1, 5] has one digit before the point. [0-9] and not \d, which
# takes the digits of every script.
_SCORE = re.compile(r"[1-4](\.[0-9]+)?|5(\.0+)?")


def build_prompt(form_or_text: str) -> list[dict[str, str]]:
    """The conversation that asks for a score: one user message, before whose text TRL puts the images.

    Args:
        form_or_text: a name in `PROMPTS`, or a prompt of one's own that asks for `<answer>` tags.

    Returns:
        A new list of messages, in the form that TRL's trainers and chat templates take.

    Raises:
        UserError: neither a known name nor a text that mentions `<answer>`, or one with a token such as `<|im_end|>`.

        >>> build_prompt("How good is it, from 1 to 5? Reply in <answer> tags.")
        [{'role': 'user', 'content': 'How good is it, from 1 to 5? Reply in <answer> tags.'}]
    """
    return [{"role": "user", "content": _prompt_text(form_or_text)}]


def check_pictures(form_or_text: str, reference: bool, setting: str = "data.reference") -> None:
    """Raises UserError for a name in `PROMPTS` that speaks of one picture where a reference is shown, or of two.

    Args:
        form_or_text: as for `build_prompt`; what a text of one's own speaks of is not known.
        reference: whether the reference is shown before the picture.
        setting: what shows it, for the message.

    >>> check_pictures("paper", reference=False)
    """
    if form_or_text in PROMPTS and reference != (form_or_text in OF_TWO_PICTURES):
        raise UserError(
            f"prompt {form_or_text} speaks of one picture, and {setting}=true shows two: set the prompt to reference, "
            "or to a text that says that the first image is the reference and the second is to be rated"
            if reference
            else f"prompt {form_or_text} speaks of two pictures: set {setting}=true, or another prompt"
        )


def prompt_warning(form_or_text: str) -> str | None:
    """What to say of a prompt that marks a picture's place as other models do. Argument and errors as above.

    >>> prompt_warning("paper") is None
    True
    """
    found = [word for word in _NO_PICTURE if word in _prompt_text(form_or_text)]
    if not found:
        return None
    return (
        f"warning: the prompt holds {found[0]}, which a Qwen2.5-VL reads as plain text; the picture is put before the "
        "prompt without it"
    )


def expects_thinking(form_or_text: str) -> bool:
    """Whether the prompt asks for `<think>`. Argument and errors as for `build_prompt`.

    >>> expects_thinking("paper"), expects_thinking("no_thinking")
    (True, False)
    """
    return "<think>" in _prompt_text(form_or_text)


def read_score(text: str) -> float | None:
    """The score of a response: one answer block that holds one plain decimal in [1, 5]; else None.

    The content of the block decides as follows, white space around it aside:

        3   3.5   1.00   5.0   4.999999     read as written, to any number of decimals
        0.99   5.01   0   -3   10   nan     None: not in [1, 5]
        4/5   3,5   3.   .5   +3   1e0   05 None: not a plain decimal
        **3.5**   3.5 out of 5   3.5 4      None: more than a number
        full-width or other digits          None: ASCII only
        nothing                             None

    And the tags: a second opening or closing tag anywhere, in the reasoning too, nested or repeated, gives
    None even if both blocks agree. So do an unclosed block, a closing tag before the opening one, no tags at
    all, and tags in upper case or with a blank inside. The text may be of any length.

        >>> read_score("<think>Sharp, some noise.</think> <answer>3.75</answer>")
        3.75
        >>> read_score("<answer>3.75 out of 5</answer>") is None
        True
    """
    blocks = _split(text)
    if blocks is None:
        return None
    score = _SCORE.fullmatch(blocks[1].strip())
    return float(score[0]) if score else None


def follows_format(text: str, thinking: bool) -> bool:
    """Whether a response is what the prompt asked for, and nothing else but white space.

    Args:
        text: the response.
        thinking: whether the prompt `expects_thinking`. True: one think block, which may be empty, then one
            answer block. False: one answer block.

    Returns:
        True only if, besides, `read_score` reads the answer.

        >>> follows_format("<think>Sharp.</think> <answer>4</answer>", thinking=True)
        True
        >>> follows_format("I say <answer>4</answer>", thinking=False)
        False
    """
    blocks = _split(text)
    if blocks is None or read_score(text) is None:
        return False
    before, after = blocks[0].strip(), blocks[2].strip()
    if after or not thinking:
        return not before and not after
    one_block = before.count("<think>") == before.count("</think>") == 1
    return one_block and before.startswith("<think>") and before.endswith("</think>")


def _prompt_text(form_or_text: str) -> str:
    text = PROMPTS.get(form_or_text, form_or_text)
    if "<answer>" not in text:
        raise UserError(
            f"prompt {form_or_text!r} is neither one of {', '.join(PROMPTS)} nor a text that mentions "
            "<answer>: use a known name, or ask for the score in <answer> </answer> tags"
        )
    if token := _MODEL_TOKEN.search(text):
        raise UserError(
            f"the prompt holds {token[0]}, which tokenizers read as a token of the model's own and no text; take it "
            "out. The picture is put before the text without it"
        )
    return text


def _split(text: str) -> tuple[str, str, str] | None:
    """The text before, in and after the one answer block; None unless there is exactly one."""
    if text.count("<answer>") != 1 or text.count("</answer>") != 1:
        return None
    before, _, rest = text.partition("<answer>")
    inside, closing, after = rest.partition("</answer>")
    return (before, inside, after) if closing else None
