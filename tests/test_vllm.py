"""vLLM itself, on the CPU: what it reads, draws, takes over and remembers, and whole runs that it answers for.

make test-vllm
"""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch

from tests.support.qwen import PREFIXES, vllm_name
from tests.support.runs import start, train, training_rows
from vqr1.answer import build_prompt, read_score
from vqr1.bench.vllm_workarounds import LIMIT, as_text, measure
from vqr1.config import PolicyConfig
from vqr1.data import read_dataset
from vqr1.data.pictures import picture_loader
from vqr1.policy.load import SHIPPED, TINY, load_policy, load_processor
from vqr1.rollout.engine import Question, Sampling, vision_tokens
from vqr1.rollout.offline import Policy, encode_prompts
from vqr1.rollout.vllm_engine import VllmEngine, collapse_placeholders

pytestmark = pytest.mark.vllm

TIE = 1e-3  # greedy may differ where the two likeliest tokens are as close as this
EXACT = 1e-3  # mean difference of log-probabilities that float32 arithmetic in another order makes


@pytest.fixture(scope="module")
def settings():
    return PolicyConfig(path="tiny", **TINY)


@pytest.fixture(scope="module")
def processor(settings):
    return load_processor(settings)


@pytest.fixture(scope="module")
def engine(settings, processor):
    torch.set_num_threads(1)
    return VllmEngine(
        SHIPPED,
        processor,
        limits=(settings.min_pixels, settings.max_pixels),
        max_length=512,
        max_answers=96,
        dtype="float32",
    )


@pytest.fixture
def model(settings, engine):
    """The shipped weights, in the engine as well."""
    model = load_policy(settings).eval()
    engine.load(model.named_parameters())
    engine.forget(pictures=True)
    return model


@pytest.fixture(scope="module")
def examples(data_root, settings):
    load = picture_loader(settings.min_pixels, settings.max_pixels)
    samples = read_dataset("demo_five", data_root).test[:60:5]
    return [
        {"image": load(sample.image), "prompt": build_prompt("paper"), "image_id": sample.image_id}
        for sample in samples
    ]


@pytest.fixture(scope="module")
def prompts(processor, examples):
    return [list(ids) for ids in encode_prompts(processor, examples, padding=False)["input_ids"]]


def sampling(processor, temperature=1.0, max_tokens=48):
    tokenizer = processor.tokenizer
    stop = (tokenizer.eos_token_id, tokenizer.pad_token_id)
    return Sampling(temperature, max_tokens, stop, vision_tokens(tokenizer))


def questions(prompts, examples, k=1):
    pairs = enumerate(zip(prompts, examples, strict=True))
    return [Question(ids, [example["image"]], k, 1000 * i) for i, (ids, example) in pairs]


@torch.inference_mode()
def logits_of(model, processor, question, answer):
    """What the trained model says at every token of an answer, (tokens, vocabulary)."""
    ids = torch.tensor([question.ids + answer])
    pixels = processor.image_processor(question.pictures, return_tensors="pt")
    kinds = (ids == processor.image_token_id).int()
    return model(input_ids=ids, mm_token_type_ids=kinds, **pixels).logits[0, len(question.ids) - 1 : -1]


def differences(model, processor, asked, answers, temperature=1.0):
    """|log-probability in vLLM - in the model| of every drawn token."""
    found = []
    for question, of_one in zip(asked, answers, strict=True):
        for drawn in of_one:
            logps = (logits_of(model, processor, question, drawn.ids) / temperature).log_softmax(-1)
            ours = logps[range(len(drawn.ids)), drawn.ids]
            found += (ours - torch.tensor(drawn.logps)).abs().tolist()
    return found


def test_it_reads_the_prompt_that_training_reads_and_would_read_another_one_uncollapsed(
    engine, model, processor, prompts, examples
):
    """huggingface/trl issue 6294. Once vLLM takes expanded placeholders, collapse_placeholders may go."""
    engine.ask(questions(prompts, examples), sampling(processor, max_tokens=1))  # raises where tokens differ
    token, ids = processor.image_token_id, prompts[0]
    asked = {"prompt_token_ids": ids, "multi_modal_data": {"image": examples[0]["image"]}}
    (reply,) = engine.llm.generate([asked], use_tqdm=False)
    count = ids.count(token)
    assert count > 1 and collapse_placeholders(ids, token).count(token) == 1
    assert list(reply.prompt_token_ids).count(token) == 2 * count - 1


def test_drawn_tokens_are_as_probable_as_in_the_model(engine, model, processor, prompts, examples):
    asked = questions(prompts, examples, k=4)
    for temperature in (1.0, 0.6):
        answers = engine.ask(asked, sampling(processor, temperature))
        found = differences(model, processor, asked, answers, temperature)
        assert len(found) > 300
        assert statistics.fmean(found) < EXACT


def test_greedy_is_transformers_greedy_but_for_ties(engine, model, processor, prompts, examples):
    asked = questions(prompts, examples)
    greedy = sampling(processor, temperature=0.0)
    same = 0
    for question, (drawn,) in zip(asked, engine.ask(asked, greedy), strict=True):
        pixels = processor.image_processor(question.pictures, return_tensors="pt")
        ids = torch.tensor([question.ids])
        made = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == processor.image_token_id).int(),
            **pixels,
            do_sample=False,
            max_new_tokens=greedy.max_tokens,
            eos_token_id=list(greedy.stop),
        )[0, len(question.ids) :].tolist()
        if made == drawn.ids:
            same += 1
            continue
        first = next(i for i, (ours, theirs) in enumerate(zip(made, drawn.ids, strict=False)) if ours != theirs)
        best = logits_of(model, processor, question, made)[first].log_softmax(-1).topk(2).values
        assert best[0] - best[1] < TIE
    assert same >= len(asked) - 2


def test_no_vision_token_is_ever_drawn(engine, model, processor, prompts, examples):
    norm = model.model.language_model.norm.weight
    engine.load([("model.language_model.norm.weight", torch.zeros_like(norm))])  # every token is equally likely
    plain = sampling(processor)
    answers = engine.ask(questions(prompts, examples, k=8), plain)
    tokens = [token for of_one in answers for drawn in of_one for token in drawn.ids]
    assert len(tokens) > 2000 and len(set(tokens)) > 200
    assert not set(tokens) & set(plain.never)
    free = Sampling(1.0, 48, plain.stop, ())
    tokens = {t for of_one in engine.ask(questions(prompts, examples, k=8), free) for d in of_one for t in d.ids}
    assert tokens & set(plain.never)  # there was something to prevent


def test_the_same_seed_draws_the_same_answers(engine, model, processor, prompts, examples):
    asked = questions(prompts, examples, k=3)
    first = [[d.ids for d in of_one] for of_one in engine.ask(asked, sampling(processor))]
    again = [[d.ids for d in of_one] for of_one in engine.ask(asked, sampling(processor))]
    assert again == first
    assert all(len({tuple(ids) for ids in of_one}) > 1 for of_one in first)  # K answers, not one K times
    shifted = [Question(q.ids, q.pictures, 2, q.seed + 1) for q in asked]
    following = [[d.ids for d in of_one] for of_one in engine.ask(shifted, sampling(processor))]
    assert sum(of_one == theirs[1:] for of_one, theirs in zip(following, first, strict=True)) >= len(asked) - 1


def test_its_answers_score_as_transformers_answers_do(engine, model, processor, prompts, examples):
    """The means of many scores per picture, drawn by both, differ by their sampling error."""
    k = 48
    drawn = engine.ask(questions(prompts, examples, k=k), sampling(processor))
    ours = [[processor.tokenizer.decode(d.ids, skip_special_tokens=True) for d in of_one] for of_one in drawn]
    torch.manual_seed(0)
    policy = Policy(model, processor, max_tokens=48)
    texts = policy.answer([example for example in examples for _ in range(k)])
    theirs = [texts[i * k : (i + 1) * k] for i in range(len(examples))]
    apart = []
    for mine, others in zip(ours, theirs, strict=True):
        a, b = ([s for text in side if (s := read_score(text)) is not None] for side in (mine, others))
        error = math.sqrt(statistics.variance(a) / len(a) + statistics.variance(b) / len(b))
        apart.append((statistics.fmean(a) - statistics.fmean(b)) / error)
    chi_square = sum(z * z for z in apart)
    assert chi_square < 33  # 12 degrees of freedom: one in a thousand is over 32.9


def shaken(model, part, by):
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if part in name:
                weight.add_(by * weight.std() * torch.randn_like(weight) if weight.numel() > 1 else 0)


def test_new_weights_change_its_answers_and_it_keeps_none_of_the_old(engine, model, processor, prompts, examples):
    asked = questions(prompts, examples, k=2)
    before = engine.ask(asked, sampling(processor))
    shaken(model, "language_model", 0.05)
    assert statistics.fmean(differences(model, processor, asked, before)) > 10 * EXACT
    engine.load(model.named_parameters())
    engine.forget(pictures=False)  # the tower is as it was
    after = engine.ask(asked, sampling(processor))
    assert statistics.fmean(differences(model, processor, asked, after)) < EXACT
    assert [[d.ids for d in of_one] for of_one in after] != [[d.ids for d in of_one] for of_one in before]


def test_encoded_pictures_outlive_the_weights_until_they_are_forgotten(engine, model, processor, prompts, examples):
    """huggingface/trl issue 7198, and VllmEngine.forget. Once the first half fails, vLLM forgets by itself."""
    asked = questions(prompts, examples, k=2)
    engine.ask(asked, sampling(processor))  # seen with the old tower
    shaken(model, "visual", 0.1)
    engine.load(model.named_parameters())
    engine.forget(pictures=False)
    stale = engine.ask(asked, sampling(processor))
    assert statistics.fmean(differences(model, processor, asked, stale)) > 10 * EXACT
    engine.forget(pictures=True)
    fresh = engine.ask(asked, sampling(processor))
    assert statistics.fmean(differences(model, processor, asked, fresh)) < EXACT


def test_its_weights_are_what_the_model_sends(engine, model):
    """Every one of them; so a name that tests/test_qwen.py finds in a published size has its place here."""
    theirs = engine.llm.llm_engine.model_executor.driver_worker.model_runner.model
    assert dict(type(theirs).hf_to_vllm_mapper.orig_to_new_prefix) == PREFIXES
    assert {vllm_name(name) for name, _ in model.named_parameters()} == set(dict(theirs.named_parameters()))


def test_packed_weights_would_not_be_taken_over(settings, processor, engine, model):
    """prepare() keeps vLLM's CPU build from packing weights for oneDNN. Once this fails, it need not."""
    from vllm import _custom_ops

    layer = torch.nn.Linear(8, 8, bias=False)
    weight = layer.weight.detach().clone()
    if not hasattr(torch.ops._C, "create_onednn_mm_handler"):
        pytest.skip("this build of vLLM has no oneDNN kernels")
    assert _custom_ops._supports_onednn is False
    from vllm.model_executor.layers import utils

    _custom_ops._supports_onednn = True
    try:
        utils.dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
        assert layer.weight.numel() == 0  # nothing is left that new weights could be written to
        assert torch.allclose(layer.cpu_linear(torch.eye(8), None, None), weight.T, atol=1e-5)
    finally:
        _custom_ops._supports_onednn = False


def test_the_work_arounds_keep_the_canary_quiet(data_root, engine):
    found = measure(data_root, rate=1e-3, steps=6)
    print(as_text(found))
    tokens = found["image_tokens"]
    assert tokens["collapsed"] == tokens["training"] < tokens["expanded"]
    assert statistics.fmean(found["canary_pictures_forgotten"]) < EXACT < LIMIT
    assert statistics.fmean(found["canary_pictures_kept"]) > 10 * EXACT


# Whole runs, in processes of their own

RUN = {
    "policy__path": "tiny", "rollout": "vllm_colocate", "rollout__max_tokens": 48, "rollout__k": 6,
    "trainer__images_per_step": 16, "trainer__answers_per_device": 48, "trainer__max_steps": 8,
    "reward__cohort_size": 8, "policy__train_vision": "true", "trainer__lr_scheduler_type": "constant",
}  # fmt: skip


@pytest.fixture(scope="module")
def full(tmp_path_factory, data_root):
    return train(tmp_path_factory.mktemp("runs") / "full", data__root=data_root, **RUN)


def test_a_run_keeps_the_canary_quiet_at_every_step(full):
    found = [row["canary/logp_difference"] for row in training_rows(full)]
    assert len(found) == 8 and max(found) < EXACT
    assert training_rows(full)[-1]["policy/kl"] > 1e-3  # the weights have moved


def test_a_run_learns_as_it_would_with_transformers(full, tmp_path, data_root):
    other = train(tmp_path / "transformers", data__root=data_root, **{**RUN, "rollout": "transformers"})
    for key in ("train/reward", "rollout/score_mean", "rollout/score_std", "rollout/length"):
        a, b = (np.array([row[key] for row in training_rows(folder)]) for folder in (full, other))
        error = math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / len(a))
        assert abs(a.mean() - b.mean()) < 4 * error + 1e-9, key


@pytest.mark.parametrize("sent", ["merged", "adapter"])
def test_lora_reaches_vllm(tmp_path, data_root, sent):
    adapter = {
        "rollout__vllm__lora": sent,
        "policy__lora__dropout": 0.0,  # vLLM has none, and the canary would tell of it
        "policy__tuning": "lora",
        "trainer__learning_rate": 2e-3,
        "policy__train_vision": "false",
    }
    folder = train(tmp_path / "lora", data__root=data_root, **{**RUN, **adapter, "trainer__max_steps": 4})
    found = training_rows(folder)
    assert max(row["canary/logp_difference"] for row in found) < EXACT
    assert found[-1]["policy/kl"] > 1e-3


def test_two_ranks_each_have_their_own_engine(tmp_path, data_root):
    folder = train(
        tmp_path / "two", ranks=2, data__root=data_root, **{**RUN, "trainer__answers_per_device": 24,
        "trainer__max_steps": 2},
    )  # fmt: skip
    assert max(row["canary/logp_difference"] for row in training_rows(folder)) < EXACT


def test_a_length_that_is_too_short_stops_before_the_first_step(tmp_path, data_root):
    done = start(runs=tmp_path, name="short", data__root=data_root, **RUN, rollout__vllm__max_length=100)
    assert done.returncode == 2
    assert "rollout.vllm.max_length=100 is too short" in done.stderr
    assert not (tmp_path / "short" / "metrics.jsonl").exists()
