"""Qwen2.5-VL as it is published, without its weights: its vocabulary, and the 3B's and 7B's parameters on no device.

Names, ties and targets of the tiny policy carry over to the published sizes, so what other tests show of the tiny
policy (weights handed to vLLM, LoRA, sharding by layer) holds for these too. tests/test_shapes.py trains them with a
few of their layers.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2_5_VLForConditionalGeneration

from tests.support.number_rows import number_rows
from tests.support.qwen import SPECIAL, hub_name, published_config, published_settings, qwen_processor, vllm_name
from vqr1.answer import build_prompt, read_score
from vqr1.bench.shapes import SHAPES, shape_config
from vqr1.comparison.words import ANSWER, WORDS
from vqr1.comparison.words import QUESTION as COMPARED
from vqr1.config import Config, LevelsConfig, LoraSettings, Objective, PolicyConfig
from vqr1.data.kadid10k import KINDS
from vqr1.demo.tiny_policy import make_config
from vqr1.depiction import LETTERS, OPENING, Distortion, how_much_better, what_degrades, which_is_better
from vqr1.errors import UserError
from vqr1.estimate.sizes import PUBLISHED
from vqr1.fitting import question
from vqr1.levels import LEVELS, word_tokens
from vqr1.picture_prompts import in_order
from vqr1.policy.comparison_scores import comparison_answers
from vqr1.policy.expected import NumberTokens, expected_scores, tokens_before_score
from vqr1.policy.level_scores import LevelAnswers
from vqr1.policy.load import lora_config
from vqr1.policy.weight_files import current_name
from vqr1.rollout.engine import vision_tokens
from vqr1.rollout.offline import encode_prompts, text_tokens
from vqr1.training.level_examples import build_question
from vqr1.training.policy_checks import lora_targets

PAPER = build_prompt("paper")[0]["content"]


@pytest.fixture(scope="module")
def processor():
    return qwen_processor()


@pytest.fixture(scope="module")
def tokenizer(processor):
    return processor.tokenizer


def pieces(tokenizer, text):
    return [tokenizer.decode([token]) for token in tokenizer.encode(text)]


def test_the_vocabulary_has_the_published_ids(tokenizer):
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == list(range(151643, 151665))
    assert tokenizer.convert_tokens_to_ids("<|image_pad|>") == 151655
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (151645, 151643)
    assert len(tokenizer) == 151665
    text = "Ein Bild, 写真 и 图片 🙂\n\tdon't  stop"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_answers_are_cut_as_the_reader_must_expect(tokenizer):
    """Tags are several tokens, which swallow their neighbours; digits and points are always single."""
    answer = "<think>2 dogs.</think><answer>4.57</answer>"
    assert pieces(tokenizer, answer) == [
        *("<th", "ink", ">", "2", " dogs", ".</", "think", "><", "answer", ">"),
        *("4", ".", "5", "7", "</", "answer", ">"),
    ]
    assert read_score(tokenizer.decode(tokenizer.encode(answer))) == 4.57
    assert all(len(pieces(tokenizer, digit)) == 1 for digit in "0123456789.")
    assert pieces(tokenizer, " 4") == [" ", "4"]


def test_digits_are_tokens_of_their_own_and_these_tokens_end_a_number(tokenizer):
    """Beside white space, of which there are hundreds of tokens."""
    tokens = NumberTokens.of(tokenizer)
    assert tokenizer.batch_decode([[token] for token in tokens.characters]) == list("0123456789.")
    end = {tokenizer.decode([token]) for token in set(tokens.end) - set(tokens.blank)}
    assert end == {"<", " <", "</", " </"} and len(tokens.blank) > 400
    assert all(tokenizer.decode([token]).isspace() for token in tokens.blank)


@pytest.mark.parametrize(
    ("answer", "before"),
    [
        ("<think>2 dogs.</think><answer>4.57</answer>", "<think>2 dogs.</think><answer>"),
        ("<think>Dim.</think>\n<answer>\n4.57\n</answer>", "<think>Dim.</think>\n<answer>\n"),
        ("<think>Dim.</think> <answer> 4.57 </answer>", "<think>Dim.</think> <answer> "),
        ("<answer>4<answer>", "<answer>"),
        ("<answer>bad</answer>", "<answer>"),
        ("<think>Dim.</think><answer></answer>", None),  # `></` is one token: behind the tag there is no place
        ("<think>Dim.</think>", None),
    ],
)
def test_the_place_of_a_number_is_behind_the_token_that_completes_the_tag(tokenizer, answer, before):
    ids = tokenizer.encode(answer)
    count = tokens_before_score(tokenizer.batch_decode([[token] for token in ids]))
    assert (None if count is None else tokenizer.decode(ids[:count])) == before


@pytest.fixture(scope="module")
def small(tokenizer):
    """Random weights behind the whole vocabulary."""
    text = {
        **{"vocab_size": 151936, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 4096},
        **{"initializer_range": 0.3, "tie_word_embeddings": False},
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
    }
    vision = {
        **{"depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "fullatt_block_indexes": [0]},
        **{"out_hidden_size": 32, "initializer_range": 0.3},
    }
    torch.manual_seed(0)
    return Qwen2_5_VLForConditionalGeneration(make_config(tokenizer, text, vision)).eval()


def test_expected_scores_are_those_of_ordinary_rows(processor, tokenizer, small):
    """All tokens but a few are ruled out, or the numbers' share would be that of a dozen tokens in 151,936."""
    few = ["<", " <", "</", " </", "\n", " ", ".</", ">", " good", *"0123456789."]
    allowed = {tokenizer.encode(word)[0] for word in few}
    assert len(allowed) == len(few)
    never = [token for token in range(151936) if token not in allowed]
    texts = ["<think>2 dogs.</think><answer>4.57</answer>", "<think>Dim.</think>\n<answer>\n1", "<answer></answer>"]
    picture = Image.new("RGB", (56, 56), "teal")
    prompt = encode_prompts(processor, [{"image": picture, "prompt": build_prompt("paper")}])
    inputs = encode_prompts(processor, [{"image": picture, "prompt": build_prompt("paper")}] * 3)
    answers = [tokenizer.encode(text) for text in texts]
    found = expected_scores(small, tokenizer, inputs, answers, never=never)
    for r in (0, 1):
        before = answers[r][: tokens_before_score(tokenizer.batch_decode([[token] for token in answers[r]]))]
        expected = number_rows(small, tokenizer, prompt, before, never, 1.0)
        of_each = dict(zip(found.support_S.tolist(), found.probability_RS[r].tolist(), strict=True))
        assert of_each == pytest.approx(expected, rel=1e-3, abs=1e-9) and sum(expected.values()) > 0.001
    assert found.mean_R[2].isnan()
    assert not torch.allclose(found.mean_R[0], found.mean_R[1], atol=1e-3)


@pytest.mark.parametrize(
    ("words", "alone", "after_a_blank"),
    [
        (("bad", "poor", "fair", "good", "excellent"), [1, 2, 1, 1, 2], [1] * 5),
        (("inferior", "worse", "similar", "better", "superior"), None, [1] * 5),
        (("A", "B", "C", "D"), [1] * 4, [1] * 4),
    ],
)
def test_words_of_a_scale_are_one_token_after_a_blank(tokenizer, words, alone, after_a_blank):
    assert [len(pieces(tokenizer, f" {word}")) for word in words] == after_a_blank
    if alone is not None:
        assert [len(pieces(tokenizer, word)) for word in words] == alone


@pytest.mark.parametrize("blank", [True, False])
def test_levels_are_cut_as_after_the_prompt(tokenizer, blank):
    before = "The quality of the image is" if blank else "The quality of the image:\n"
    for word, tokens in zip(LEVELS, word_tokens(tokenizer, blank=blank), strict=True):
        assert tokenizer.encode(before + " " * blank + word) == tokenizer.encode(before) + tokens


def test_an_answer_with_a_level_is_cut_part_by_part_as_the_whole_is(tokenizer):
    for word, whole in zip(LEVELS, LevelAnswers.of(tokenizer).answers, strict=True):
        assert list(whole) == tokenizer.encode(f"The quality of the image is {word}.<|im_end|>")


def test_comparisons_and_letters_are_cut_part_by_part_as_the_whole_is(tokenizer):
    for answers, opening, words in (
        (comparison_answers(tokenizer), ANSWER, WORDS),
        (LevelAnswers.of(tokenizer, OPENING, LETTERS), OPENING, LETTERS),
    ):
        assert all(len(word) == 1 for word in answers.words)
        for word, whole in zip(words, answers.answers, strict=True):
            assert list(whole) == tokenizer.encode(f"{opening} {word}.<|im_end|>")


def test_levels_have_several_tokens_without_a_blank(tokenizer):
    assert word_tokens(tokenizer) == [[3873], [7852], [6624], [1661], [9073]]
    assert word_tokens(tokenizer, blank=False) == [[13855], [5368, 269], [40900], [18536], [327, 24746]]


def test_a_word_that_begins_another_is_ended_by_what_follows(tokenizer):
    plain, more = word_tokens(tokenizer, ["good", "good enough"], end="<|im_end|>")
    assert plain == [1661, 151645] and more == tokenizer.encode(" good enough")
    with pytest.raises(UserError, match="begin those of 'good enough'"):
        word_tokens(tokenizer, ["good", "good enough"])


def test_a_prompt_has_its_turns_and_the_tokens_of_its_picture(processor):
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PAPER}]}]
    text = processor.apply_chat_template(message, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"<|vision_start|><|image_pad|><|vision_end|>{PAPER}<|im_end|>\n<|im_start|>assistant\n"
    )
    inputs = processor(text=[text], images=[Image.new("RGB", (512, 384))], return_tensors="pt")
    assert inputs["image_grid_thw"].tolist() == [[1, 28, 36]]
    ids = inputs["input_ids"][0].tolist()
    assert ids.count(151655) == 28 * 36 // 4 == 252
    assert len(ids) == 353


@pytest.mark.parametrize(("prompt", "tokens"), [("paper", 101), ("published", 112), ("no_thinking", 99)])
def test_prompts_have_these_lengths(processor, prompt, tokens):
    """Of the turns and the text; the largest picture that policy.max_pixels allows comes to a thousand."""
    assert text_tokens(processor, prompt) == tokens
    assert PolicyConfig().max_pixels // 28**2 == 1003


def test_no_answer_may_hold_a_token_of_a_picture(processor):
    start, end, image, video = 151652, 151653, 151655, 151656
    assert {start, end, image, video} <= set(vision_tokens(processor.tokenizer))


@pytest.fixture(scope="module", params=["3b", "7b"])
def published(request):
    """A published size on no device."""
    with torch.device("meta"):
        return request.param, Qwen2_5_VLForConditionalGeneration(published_config(request.param))


@pytest.fixture(scope="module")
def tiny(policy_folder):
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(policy_folder)


def kinds(names):
    """Names with the numbers of layers and blocks left out."""
    return {re.sub(r"\.(layers|blocks)\.\d+\.", r".\1.N.", name) for name in names}


# The published files: parameters in all, and tensors (a tied head is not among them).
PARAMETERS = {"3b": 3_754_622_976, "7b": 8_292_166_656}
TENSORS = {"3b": 824, "7b": 729}
OF_A_LAYER = {
    *("input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.o_proj.weight"),
    *(f"self_attn.{name}_proj.{part}" for name in "qkv" for part in ("weight", "bias")),
    *(f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
}
OF_A_BLOCK = {
    *("norm1.weight", "norm2.weight"),
    *(f"attn.{name}.{part}" for name in ("qkv", "proj") for part in ("weight", "bias")),
    *(f"mlp.{name}_proj.{part}" for name in ("gate", "up", "down") for part in ("weight", "bias")),
}
OF_THE_TOWER = {
    *("patch_embed.proj.weight", "merger.ln_q.weight"),
    *(f"merger.mlp.{i}.{part}" for i in (0, 2) for part in ("weight", "bias")),
    *(f"blocks.N.{name}" for name in OF_A_BLOCK),
}
OF_THE_TEXT = {"embed_tokens.weight", "norm.weight", *(f"layers.N.{name}" for name in OF_A_LAYER)}


def test_a_published_size_has_its_published_number_of_parameters(published):
    name, model = published
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert len(dict(model.named_parameters())) == TENSORS[name]
    text, vision = model.config.text_config, model.config.vision_config
    assert text.rope_parameters["mrope_section"] == [16, 24, 24]
    assert text.hidden_size // text.num_attention_heads == 128 == 2 * (16 + 24 + 24)
    assert vision.fullatt_block_indexes == [7, 15, 23, 31]
    assert (vision.window_size, vision.patch_size, vision.spatial_merge_size) == (112, 14, 2)
    assert model.config.image_token_id == 151655


@pytest.mark.parametrize("name", ["3b", "7b"])
def test_what_is_measured_has_the_published_sizes(name, tokenizer):
    """vqr1.bench's shapes, which `make gpu` measures, against config.json."""
    ours, theirs = shape_config(SHAPES[name], tokenizer), published_config(name)
    free = {"dtype", "pad_token_id", "max_window_layers", "rope_parameters", "use_cache"}
    for part in ("text_config", "vision_config"):
        mine, published = getattr(ours, part).to_dict(), getattr(theirs, part).to_dict()
        both = mine.keys() & published.keys() - free  # transformers keeps words of the hub's that it does not read
        assert {key: (mine[key], published[key]) for key in both if mine[key] != published[key]} == {}
    mine, published = ours.text_config.rope_parameters, theirs.text_config.rope_parameters
    assert all(mine[key] == published[key] for key in ("mrope_section", "rope_theta"))
    assert ours.tie_word_embeddings == theirs.tie_word_embeddings == published_settings(name)["tie_word_embeddings"]


def test_its_parameters_have_the_tiny_policys_names(published, tiny):
    """So the tiny policy's way into vLLM, into checkpoints and back is theirs too. The 7B has a head of its own."""
    name, model = published
    names = dict(model.named_parameters())
    tied = model.config.tie_word_embeddings
    assert tied == (name == "3b")
    assert (model.lm_head.weight is model.model.language_model.embed_tokens.weight) == tied
    head = set() if tied else {"lm_head.weight"}
    assert kinds(names) == kinds(dict(tiny.named_parameters())) | head
    assert kinds(names) == head | (
        {f"model.visual.{part}" for part in OF_THE_TOWER} | {f"model.language_model.{part}" for part in OF_THE_TEXT}
    )
    layers = {int(found[1]) for name in names if (found := re.search(r"language_model\.layers\.(\d+)\.", name))}
    assert layers == set(range(SHAPES[name].layers))


def test_the_hubs_names_are_read_as_the_models(published):
    """The hub's files have the names of transformers 4.51 and before: visual..., model.layers..."""
    _, model = published
    ours = list(dict(model.named_parameters()))
    theirs = [hub_name(name) for name in ours]
    assert kinds(theirs) == ({"lm_head.weight"} & set(ours)) | (
        {f"visual.{part}" for part in OF_THE_TOWER} | {f"model.{part}" for part in OF_THE_TEXT}
    )
    assert [current_name(name) for name in theirs] == [current_name(name) for name in ours] == ours


def test_vllm_takes_every_name_to_one_of_its_own(published):
    """The model's names, which a run sends, and the hub's come to the same; tests/test_vllm.py asks vLLM itself."""
    name, model = published
    ours = [vllm_name(each) for each in dict(model.named_parameters())]
    assert ours == [vllm_name(hub_name(each)) for each in dict(model.named_parameters())]
    text = {f"language_model.model.{part}" for part in OF_THE_TEXT if not re.search("[qkv]_proj|gate|up_proj", part)}
    text |= {f"language_model.model.layers.N.self_attn.qkv_proj.{part}" for part in ("weight", "bias")}
    text |= {"language_model.model.layers.N.mlp.gate_up_proj.weight"}
    tower = {f"visual.{part}" for part in OF_THE_TOWER if not re.search("gate|up_proj", part)}
    tower |= {f"visual.blocks.N.mlp.gate_up_proj.{part}" for part in ("weight", "bias")}
    assert kinds(ours) == text | tower | ({"language_model.lm_head.weight"} if name == "7b" else set())


def test_lora_meets_every_linear_layer_of_the_language_model_and_nothing_else(published):
    name, model = published
    met = lora_targets(model, LoraSettings())
    linear = [each for each, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    assert met == [each for each in linear if ".language_model." in each]
    sizes = published_settings(name)
    assert len(met) == 7 * sizes["num_hidden_layers"]

    # r (in + out) of each: q, o; k, v; gate, up, down
    settings = lora_config(LoraSettings())
    hidden, inner = sizes["hidden_size"], sizes["intermediate_size"]
    grouped = 128 * sizes["num_key_value_heads"]
    each = 2 * (hidden + hidden) + 2 * (hidden + grouped) + 3 * (hidden + inner)
    expected = settings.r * each * sizes["num_hidden_layers"]
    assert expected == {"3b": 119_734_272, "7b": 161_480_704}[name]
    assert settings.r * sum(sum(model.get_submodule(each).weight.shape) for each in met) == expected


def test_the_classes_that_are_sharded_whole_are_there(published, tiny):
    """What accelerate wraps, one by one, under FSDP and ZeRO; the rest is gathered by itself, the widest part last."""
    name, model = published
    sizes = published_settings(name)
    wrapped = [module for module in model.modules() if type(module).__name__ in model._no_split_modules]
    assert {type(module).__name__ for module in wrapped} == {"Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock"}
    assert len(wrapped) == sizes["num_hidden_layers"] + 32
    inside = {id(weight) for module in wrapped for weight in module.parameters()}
    rest = {key for key, weight in model.named_parameters() if id(weight) not in inside}
    assert rest == ({"lm_head.weight"} if name == "7b" else set()) | (
        {f"model.visual.{part}" for part in OF_THE_TOWER if "blocks" not in part}
        | {"model.language_model.embed_tokens.weight", "model.language_model.norm.weight"}
    )


def test_several_pictures_stand_where_they_are_named(processor):
    pictures = [Image.new("RGB", size) for size in ((56, 56), (84, 56))]
    example = {"images": pictures, "prompt": in_order(2, "Which is sharper?")}
    (ids,) = encode_prompts(processor, [example], padding=False)["input_ids"]
    text = re.sub(r"(<\|image_pad\|>)+", "PICTURE", processor.tokenizer.decode(ids))
    place = "<|vision_start|>PICTURE<|vision_end|>"
    asked = f"The first image: {place} The second image: {place}\nWhich is sharper?"
    assert f"<|im_start|>user\n{asked}<|im_end|>" in text


def test_plans_count_the_longest_prompts_and_answers(processor, tokenizer):
    """Of each objective whose answers are shown, in the published vocabulary; not by far too much."""
    draw = np.random.default_rng(0)
    worst = Distortion(max(KINDS, key=lambda name: len(tokenizer.encode(name))), 5, 5)
    asked = [
        what(*words, draw, short=short, reference=True, **more)
        for short in (True, False)
        for _ in range(20)
        for what, words, more in (
            (which_is_better, (True,), {"why": (worst, worst)}),
            (how_much_better, (0,), {}),
            (what_degrades, (worst,), {}),
        )
    ]
    of = {
        Objective.levels: (
            build_question(LevelsConfig().question),
            [f"The quality of the image is {w}." for w in LEVELS],
        ),
        Objective.comparison: (in_order(2, COMPARED), [f"{ANSWER} {word}." for word in WORDS]),
        Objective.depict: (max((a.prompt for a in asked), key=lambda p: len(str(p))), [a.answer for a in asked]),
    }
    sizes = PUBLISHED["7B"]
    for objective, (prompt, answers) in of.items():
        config = Config(objective=objective, policy=PolicyConfig(path="Qwen/Qwen2.5-VL-7B-Instruct"))
        counted = question(config, sizes, (56, 56))
        picture = Image.new("RGB", (56, 56))
        found = encode_prompts(processor, [{"images": [picture] * counted.pictures, "prompt": prompt}])["input_ids"]
        assert found.shape[1] <= counted.prompt(sizes) <= found.shape[1] + 30, objective
        longest = max(len(tokenizer.encode(answer)) + 1 for answer in answers)
        assert longest <= counted.answer <= 2 * longest, objective
