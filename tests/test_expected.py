"""Expected scores: what they say of a score, against every answer that a policy might have given."""

from __future__ import annotations

import zlib
from collections import defaultdict
from itertools import accumulate, product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from tests.support.number_rows import number_rows
from vqr1.answer import build_prompt, read_score
from vqr1.errors import UserError
from vqr1.policy.expected import (
    CHARACTERS,
    END,
    Digits,
    NumberTokens,
    ScoreDistribution,
    expected_scores,
    tokens_before_score,
)
from vqr1.policy.load import SHIPPED, load_folder, load_processor
from vqr1.policy.read_once import OncePerPrompt, encode_each_picture_once, take_bytes
from vqr1.policy.segments import Segments
from vqr1.policy.shared_prefix import Packing
from vqr1.rating_statistics import score_and_std
from vqr1.rollout.engine import vision_tokens
from vqr1.rollout.offline import encode_prompts

PACKINGS = [None, Packing("segments"), Packing("mask", 300)]


# The tree, and the reader of answers


def texts_of(digits):
    found = [""]
    for above, column in zip(digits.above[1:], digits.column[1:], strict=True):
        found.append(found[above] + CHARACTERS[column])
    return found


@pytest.mark.parametrize(("decimals", "walked"), [(1, 10), (2, 51), (3, 452)])
def test_a_tree_has_as_many_tokens_as_the_page_says(decimals, walked):
    digits = Digits.of(decimals)
    assert len(digits.above) - 1 == walked == sum(length for length, _ in digits.parts())
    assert digits.depth() == [len(text) for text in texts_of(digits)]


def test_the_tree_holds_every_number_that_is_read_and_no_other():
    """Of all strings of up to four digits and points."""
    texts = texts_of(Digits.of(2))
    held = {
        texts[leaf.node] + ("" if leaf.column == END else CHARACTERS[leaf.column]): leaf.score
        for leaf in Digits.of(2).leaves
    }
    strings = ("".join(parts) for n in range(1, 5) for parts in product(CHARACTERS, repeat=n))
    read = {text: score for text in strings if (score := read_score(f"<answer>{text}</answer>")) is not None}
    assert len(read) == 4 * 111 + 3 and held == read


def test_a_shallow_tree_counts_a_decimal_as_the_mean_over_the_next():
    texts = texts_of(Digits.of(1))
    held = {texts[node] + CHARACTERS[column]: score for node, column, score in Digits.of(1).leaves if column != END}
    assert len(held) == 41 and held["5.0"] == 5  # 5.01 is no score
    assert all(held[f"{d}.{e}"] == pytest.approx(d + e / 10 + 0.045) for d in range(1, 5) for e in range(10))


def test_stretches_join_into_the_paths_of_the_tree():
    digits = Digits.of(2)
    parts = digits.parts()
    ends = list(accumulate(length for length, _ in parts))
    texts = texts_of(digits)
    assert [length for length, _ in parts] == [2, *[1] * 10] * 4 + [3]
    for (length, before), end in zip(parts, ends, strict=True):
        upper = texts[ends[before]] if before >= 0 else ""
        assert [texts[node][: len(upper)] for node in range(end - length + 1, end + 1)] == [upper] * length
        assert [len(texts[node]) - len(upper) for node in range(end - length + 1, end + 1)] == [*range(1, length + 1)]


@pytest.mark.parametrize(
    ("texts", "count"),
    [
        (["<think>", "so", "</think>", "<answer>", "4"], 4),
        (["<answer>", " ", "\n", "4", " "], 3),
        (["<answer>"], 1),  # cut there
        (["<answer>", "", "4"], 1),  # a token without text is no white space
        (["<answer>", "bad", "</answer>"], 1),
        (["<answer>", "</answer>"], 1),
        (["a", "<answer></", "answer>"], None),
        (["</answer>", "<answer>", "4"], None),
        (["<answer", ">4"], None),
        (["<", "ans", "wer", ">\n\n", "4"], 4),
        (["<think>", "so"], None),
        ([], None),
    ],
)
def test_the_place_of_a_number(texts, count):
    assert tokens_before_score(texts) == count


# A policy made by hand, whose next token depends on every token it sees, on their places, and on the picture

WORDS = [*CHARACTERS, "<answer>", "</answer>", "</", "answer>", " ", "\n", "so", "dull", "<stop>", "<picture>"]
ID = {word: i for i, word in enumerate(WORDS)}
BLANKS = [ID[" "], ID["\n"]]
LONGEST = 4  # tokens in an answer's block


def word_tokenizer(words):
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[-1]))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<stop>", additional_special_tokens=words[-1:])


@pytest.fixture(scope="module")
def words():
    return word_tokenizer(WORDS)


def next_logits(context):
    """``context``: (place, token) of what is seen, the picture's as its value. Blocks end as they begin to end."""
    tokens = [token for _, token in sorted(context)]
    logits = np.random.default_rng(zlib.crc32(repr(sorted(context)).encode())).normal(0, 1.5, len(WORDS))
    logits[[ID[word] for word in (*"12345", ".", "</answer>")]] += 2.0
    inside = tokens[tokens.index(ID["<answer>"]) + 1 :] if ID["<answer>"] in tokens else []
    while inside and inside[0] in BLANKS:
        del inside[0]
    only = None
    if inside and inside[-1] == ID["</"]:
        only = ID["answer>"]
    elif set(inside) & set(BLANKS) or len(inside) >= LONGEST:
        only = ID["</answer>"]
    none_of = [ID["<answer>"], ID["<stop>"]] if only is None else [i for i in range(len(WORDS)) if i != only]
    logits[none_of] = -np.inf
    logits[ID["<picture>"]] = 2.0  # likely, were it not for `never`
    return logits


class ByHand:
    """As much of a Qwen2.5-VL as is used."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, next_logits=next_logits, training=False):
        self.next_logits, self.training, self.calls = next_logits, training, 0
        text = SimpleNamespace(_attn_implementation="flash_attention_2")
        self.config = SimpleNamespace(get_text_config=lambda: text)
        self.model, self.lm_head = self, torch.nn.Identity()

    def set_attn_implementation(self, asked):
        self.config.get_text_config()._attn_implementation = asked["text_config"]

    def get_rope_index(self, ids, attention_mask, **_):
        """Every token's place among those of its row."""
        return (attention_mask.cumsum(1) - 1).clamp(min=0).expand(3, *ids.shape), None

    def __call__(self, input_ids, position_ids, attention_mask, pixel_values, image_grid_thw, use_cache):
        self.calls += 1
        assert self.config.get_text_config()._attn_implementation == "vqr1_segments"
        assert not use_cache and (position_ids == position_ids[:1]).all() and len(image_grid_thw) == len(pixel_values)
        pictures = iter(pixel_values[:, 0].tolist())
        named = [[next(pictures) if token == ID["<picture>"] else token for token in row] for row in input_ids.tolist()]
        sees = attention_mask["full_attention"]
        seen = of_segments(sees, input_ids.shape[1]) if isinstance(sees, Segments) else sees[:, 0]
        found = torch.zeros(*input_ids.shape, len(WORDS))
        for b, row in enumerate(named):
            for at in range(len(row)):
                keys = seen[b, at].nonzero().flatten().tolist()
                context = [(int(position_ids[0, b, j]), row[j]) for j in keys]
                found[b, at] = torch.from_numpy(self.next_logits(context))
        return SimpleNamespace(last_hidden_state=found)


def of_segments(segments, length):
    seen = torch.zeros(1, length, length, dtype=torch.bool)
    ends = accumulate(segments.queries)
    for end, queries, keys in zip(ends, segments.queries, segments.gather.split(segments.keys), strict=True):
        for back in range(queries):
            seen[0, end - 1 - back, keys[: len(keys) - back]] = True
    return seen


def by_hand_inputs(prompts):
    """Rows of words, padded on the left; the picture of a prompt is one patch, of one value."""
    width = max(len(prompt) for prompt, _ in prompts)
    ids = torch.tensor([[0] * (width - len(prompt)) + [ID[word] for word in prompt] for prompt, _ in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt, _ in prompts])
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "mm_token_type_ids": (ids == ID["<picture>"]).long(),
        "pixel_values": torch.tensor([[value] for _, value in prompts]),
        "image_grid_thw": torch.tensor([[1, 1, 1]] * len(prompts)),
    }


def truth(prompt, before, temperature):
    """The scores of all answers that there are behind ``before``, token by token, with their probabilities."""
    text, picture = prompt
    row = [picture if word == "<picture>" else ID[word] for word in text] + [ID[word] for word in before]
    said = "".join(before)
    found = defaultdict(float)

    def go_on(tokens, written, probability):
        if len(tokens) >= LONGEST and "</answer>" not in written:  # nothing but the tag may follow
            written += "answer>" if tokens[-1] == ID["</"] else "</answer>"
        if "</answer>" in written:
            if (score := read_score(said + written)) is not None:
                found[score] += probability
            return
        logits = next_logits(list(enumerate([*row, *tokens]))) / temperature
        logits[ID["<picture>"]] = -np.inf
        if not tokens:
            logits[BLANKS] = -np.inf  # as many as were drawn, and no more
        shares = np.exp(logits - logits.max())
        for token, share in enumerate(shares / shares.sum()):
            if share > 0 and WORDS[token] not in ("so", "dull"):  # with them nothing is a number any more
                go_on([*tokens, token], written + WORDS[token], probability * share)

    go_on([], "", 1.0)
    return found


PROMPTS = [(["so", "<picture>", "dull"], 7.0), (["<picture>", "so"], 9.0)]
ANSWERS = [
    (0, ["so", "<answer>"], ["4", ".", "5", "</answer>", "<stop>"]),
    (0, ["dull", "dull", "<answer>", " "], ["4", "</", "answer>", "<stop>"]),
    (0, ["so", "<answer>"], ["dull", "</answer>", "<stop>"]),  # unreadable itself, after an equal reasoning
    (0, [], ["so", "so"]),  # no place for a number
    (1, ["so", "<answer>"], ["1"]),
]


@pytest.fixture(scope="module")
def truths():
    cases = {(p, tuple(before)) for p, before, _ in ANSWERS if before}
    return {(p, before): truth(PROMPTS[p], list(before), 0.8) for p, before in cases}


@pytest.mark.parametrize("packing", PACKINGS)
def test_all_answers_of_a_policy_made_by_hand_are_counted(words, truths, packing):
    """By hand: every string of tokens, read as answers are read. The number ends there where it begins to end."""
    model = ByHand()
    inputs = by_hand_inputs([PROMPTS[p] for p, _, _ in ANSWERS])
    answers = [[ID[word] for word in before + after] for _, before, after in ANSWERS]
    found = expected_scores(model, words, inputs, answers, never=[ID["<picture>"]], temperature=0.8, packing=packing)
    assert model.calls == 1 and model.config.get_text_config()._attn_implementation == "flash_attention_2"
    for r, (p, before, _) in enumerate(ANSWERS):
        if not before:
            assert found.mass_readable_R[r] == 0 and found.mean_R[r].isnan() and found.std_R[r].isnan()
            continue
        expected = truths[p, tuple(before)]
        assert 0.02 < sum(expected.values()) < 0.98
        of_each = dict(zip(found.support_S.tolist(), found.probability_RS[r].tolist(), strict=True))
        assert set(expected) <= set(of_each)
        assert all(of_each[score] == pytest.approx(expected.get(score, 0.0), abs=1e-6) for score in of_each)
        mass = sum(expected.values())
        mean = sum(p * s for s, p in expected.items()) / mass
        variance = sum(p * (s - mean) ** 2 for s, p in expected.items()) / mass
        assert float(found.mass_readable_R[r]) == pytest.approx(mass, abs=1e-6)
        assert float(found.mean_R[r]) == pytest.approx(mean, abs=1e-5)
        assert float(found.std_R[r]) == pytest.approx(variance**0.5, abs=1e-5)


@pytest.mark.parametrize(
    ("decimals", "expected"),
    [
        (2, {4.57: 0.2, 4.5: 0.15, 4.56: 0.1, 3.0: 0.15, 5.0: 0.1}),  # the third decimal is cut off
        (3, {4.57: 0.2, 4.5: 0.15, 4.567: 0.1, 3.0: 0.15, 5.0: 0.1}),
        (1, {4.545: 0.45, 3.045: 0.05, 3.0: 0.1, 5.0: 0.15}),  # 5.01 begins as 5.00 does
    ],
)
def test_a_share_of_each_number_and_none_of_what_is_no_number(words, decimals, expected):
    shares = {"4.57": 0.2, "4.5": 0.15, "4.567": 0.1, "3": 0.1, "3.00": 0.05, "5.0": 0.1}
    shares |= {"5.01": 0.05, "3.": 0.05, "0.9": 0.05, "45": 0.05, "": 0.05, ".5": 0.05}

    def says(context):
        tokens = [token for _, token in sorted(context)]
        logits = np.full(len(WORDS), -100.0)
        if ID["<answer>"] in tokens:
            written = "".join(WORDS[token] for token in tokens[tokens.index(ID["<answer>"]) + 1 :])
            for text, share in shares.items():
                if text.startswith(written):
                    token = ID["</answer>" if text == written else text[len(written)]]
                    logits[token] = np.logaddexp(logits[token], np.log(share))
        return logits

    found = expected_scores(
        ByHand(says), words, by_hand_inputs(PROMPTS[:1]), [[ID["<answer>"]]], never=[], decimals=decimals
    )
    of_each = zip(found.support_S.tolist(), found.probability_RS[0].tolist(), strict=True)
    assert {round(score, 6): p for score, p in of_each if p > 1e-6} == pytest.approx(expected, abs=1e-6)
    assert float(found.mass_readable_R) == pytest.approx(sum(expected.values()), abs=1e-6)


def test_answers_without_a_place_for_a_number_cost_nothing(words):
    model = ByHand()
    answers = [[ID["so"]], []]
    found = expected_scores(model, words, by_hand_inputs(PROMPTS), answers, never=[])
    assert model.calls == 0 and found.mean_R.isnan().all() and (found.mass_readable_R == 0).all()


def test_a_policy_in_training_mode_is_refused(words):
    with pytest.raises(AssertionError, match="training mode"):
        expected_scores(ByHand(training=True), words, by_hand_inputs(PROMPTS), [[], []], never=[])


@pytest.mark.parametrize("other", [["10"], [" 4"], ["4."], [".5"]])
def test_a_vocabulary_with_other_tokens_for_numbers_is_refused(other):
    with pytest.raises(UserError, match=r"digit by digit.*greedy or mean"):
        NumberTokens.of(word_tokenizer([*WORDS[:-1], *other, WORDS[-1]]))
    with pytest.raises(UserError, match="none, or several"):
        NumberTokens.of(word_tokenizer([word for word in WORDS if word != "7"]))


# Several answers to a picture


def certain(*scores):
    """Answers each of which can be one number alone; None: unreadable."""
    support = sorted({score for score in scores if score is not None})
    return ScoreDistribution(
        torch.tensor(support, dtype=torch.float64),
        torch.tensor([[float(score == s) for s in support] for score in scores], dtype=torch.float64),
    )


def of_pictures(found, k):
    """Mean and std (R / k,) of each picture's k answers, as rating puts them together; NaN where there is none."""
    answers = list(zip(found.mean_R.tolist(), found.std_R.tolist(), found.mass_readable_R.tolist(), strict=True))
    together = [score_and_std(*zip(*answers[i : i + k], strict=True)) for i in range(0, len(answers), k)]
    return torch.tensor([[torch.nan if x is None else x for x in each] for each in together], dtype=torch.float64).T


def test_reasonings_that_differ_add_their_variance():
    mean, std = of_pictures(certain(3.0, 4.0, 2.0, 2.0, None, 5.0, None, None), 2)
    assert mean.tolist()[:3] == [3.5, 2.0, 5.0] and mean[3].isnan() and std[3].isnan()
    assert std[:3].tolist() == pytest.approx([0.5**0.5, 0.0, 0.0])


def test_one_reasoning_has_its_own_variance_alone():
    both = ScoreDistribution(torch.tensor([1.0, 3.0]).double(), torch.tensor([[0.5, 0.5], [0.2, 0.6]]).double())
    mean, std = of_pictures(both, 1)
    assert torch.equal(mean, both.mean_R) and torch.allclose(std, both.std_R)
    assert mean.tolist() == pytest.approx([2.0, 2.5]) and std.tolist() == pytest.approx([1.0, 0.75**0.5])
    # Weights 1 and 0.8; within: (1 * 1 + 0.8 * 0.75) / 1.8; between: (0.8 * 0.25 / 1.8) / (1.8 - 1.64 / 1.8).
    mean, std = of_pictures(both, 2)
    assert float(mean) == pytest.approx((2.0 + 0.8 * 2.5) / 1.8)
    assert float(std**2) == pytest.approx(1.6 / 1.8 + 0.8 * 0.25 / 1.8 / (1.8 - 1.64 / 1.8))


# The tiny policy


@pytest.fixture(scope="module")
def tiny():
    from vqr1.config import PolicyConfig
    from vqr1.policy.load import TINY

    model = load_folder(SHIPPED, torch.float32).eval()
    encode_each_picture_once(model.model.visual)
    return model, load_processor(PolicyConfig(path="tiny", **TINY))


def pictures():
    noise = np.random.default_rng(0)
    sizes = [(84, 112, 3), (112, 56, 3)]
    return [Image.fromarray(noise.integers(0, 256, size, dtype=np.uint8)) for size in sizes]


def asked(processor, order):
    shown = pictures()
    return encode_prompts(processor, [{"image": shown[i], "prompt": build_prompt("paper")} for i in order])


ORDER = [0, 0, 0, 1, 1]
SAID = [
    "<think>Sharp.</think> <answer>4.12</answer>",
    "<think>Blurred, and noisy besides.</think><answer> 2",
    "<think>Sharp.</think> <answer>1",
    "<think>Sharp.</think> <answer>1",
    "It is good, I think.",
]


@pytest.fixture(scope="module")
def scored(tiny):
    model, processor = tiny
    answers = [processor.tokenizer.encode(text) for text in SAID]
    never = vision_tokens(processor.tokenizer)
    return answers, never, expected_scores(model, processor.tokenizer, asked(processor, ORDER), answers, never=never)


def test_the_tiny_policy_says_in_one_pass_what_it_says_row_by_row(tiny, scored):
    model, processor = tiny
    answers, never, found = scored
    tokenizer = processor.tokenizer
    for r in (1, 3):
        before = answers[r][: tokens_before_score(tokenizer.batch_decode([[token] for token in answers[r]]))]
        expected = number_rows(model, tokenizer, asked(processor, [ORDER[r]]), before, never, 1.0)
        assert tokenizer.decode(before).strip().endswith("<answer>")
        of_each = dict(zip(found.support_S.tolist(), found.probability_RS[r].tolist(), strict=True))
        assert of_each == pytest.approx(expected, abs=2e-6)
    assert torch.equal(found.probability_RS[0], found.probability_RS[2]) and found.mass_readable_R[0] > 0.9
    assert found.mean_R[4].isnan()


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("batch", [1, 3, 5])
def test_batch_and_order_and_layout_change_nothing(tiny, scored, batch, packing):
    model, processor = tiny
    answers, never, whole = scored
    shuffled = [3, 0, 4, 2, 1]
    mean = torch.zeros(5, dtype=torch.float64)
    for rows in torch.tensor(shuffled).split(batch):
        part = [answers[r] for r in rows]
        inputs = asked(processor, [ORDER[r] for r in rows])
        mean[rows] = expected_scores(model, processor.tokenizer, inputs, part, never=never, packing=packing).mean_R
    assert torch.allclose(mean, whole.mean_R, atol=1e-5, rtol=0, equal_nan=True)


def test_pictures_as_bytes_and_lora_around_the_policy_are_read_too(tiny, scored):
    from peft import LoraConfig, get_peft_model

    model = load_folder(SHIPPED, torch.float32)
    once = OncePerPrompt.of(tiny[1])
    take_bytes(model.model.visual, once.image_processor)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).eval()  # at first it changes nothing
    answers, never, expected = scored
    shown = pictures()
    inputs = encode_prompts(once, [{"image": shown[i], "prompt": build_prompt("paper")} for i in ORDER])
    assert inputs["pixel_values"].dtype == torch.uint8
    found = expected_scores(adapted, once.tokenizer, inputs, answers, never=never)
    assert torch.allclose(found.probability_RS, expected.probability_RS, atol=1e-6)


def test_drawn_scores_have_the_mean_and_the_spread_that_were_read_off(tiny, scored):
    """500 draws: within four standard errors. Reads whole answers, so that what follows the number counts, too."""
    model, processor = tiny
    answers, never, expected = scored
    tokenizer, r, n = processor.tokenizer, 0, 500
    before = answers[r][: tokens_before_score(tokenizer.batch_decode([[token] for token in answers[r]]))]
    prompt = asked(processor, [ORDER[r]])
    behind = torch.tensor([before])
    inputs = dict(prompt) | {
        "input_ids": torch.cat([prompt["input_ids"], behind], 1),
        "attention_mask": torch.cat([prompt["attention_mask"], torch.ones_like(behind)], 1),
        "mm_token_type_ids": torch.cat([prompt["mm_token_type_ids"], torch.zeros_like(behind)], 1),
    }
    torch.manual_seed(0)
    with torch.inference_mode():
        drawn = model.generate(
            **inputs,
            max_new_tokens=8,
            do_sample=True,
            top_k=0,
            top_p=1.0,
            num_return_sequences=n,
            suppress_tokens=list(never),
        )
    texts = tokenizer.batch_decode(drawn[:, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    scores = [score for text in texts if (score := read_score(text)) is not None]
    mass, mean, std = (float(x[r]) for x in (expected.mass_readable_R, expected.mean_R, expected.std_R))
    assert abs(len(scores) / n - mass) < 4 * (mass * (1 - mass) / n) ** 0.5 + 0.005
    assert abs(np.mean(scores) - mean) < 4 * std / len(scores) ** 0.5
    assert np.std(scores) == pytest.approx(std, rel=0.15)
