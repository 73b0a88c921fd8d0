"""The seam between training and vLLM, with a stand-in for vLLM; and what upstream still gets wrong."""

from __future__ import annotations

import copy
import json
import math
import os
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from peft import get_peft_model
from PIL import Image
from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration

from tests.support.choices import choices_for
from tests.support.fake_engine import FakeEngine
from tests.support.runs import forked_script
from vqr1.answer import build_prompt
from vqr1.config import Config, LoraSettings, PolicyConfig, RolloutConfig
from vqr1.policy.load import load_policy, load_processor, lora_config
from vqr1.rollout.engine import Question, RolloutError, vision_tokens
from vqr1.rollout.offline import encode_prompts
from vqr1.rollout.synced import SyncedGeneration, as_questions, merged_weights
from vqr1.rollout.vllm_engine import check_limits, check_tokens, collapse_placeholders, lora_room, prepare
from vqr1.rollout_settings import TrainingEngine
from vqr1.training.canary import Canary, logp_difference
from vqr1.training.start_vllm import check_engine

PAD, START, END = 7, 8, 9


@pytest.fixture(scope="module")
def settings(policy_folder):
    return PolicyConfig(path=str(policy_folder), dtype="float32", attention="sdpa")


@pytest.fixture(scope="module")
def processor(settings):
    return load_processor(settings)


def pictures(count, seed=0):
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (56, 84, 3), dtype=np.uint8)) for _ in range(count)]


def prompts_of(processor, shown):
    examples = [{"prompt": build_prompt("paper"), "image": picture} for picture in shown]
    return [list(ids) for ids in encode_prompts(processor, examples, padding=False)["input_ids"]]


def generation(model, processor, folder, vision_trained=True, start=None, **kwargs):
    return SyncedGeneration(
        model=model,
        accelerator=Accelerator(cpu=True),
        processing_class=processor,
        start=start or (lambda: FakeEngine(folder, processor)),
        stop=[processor.tokenizer.eos_token_id],
        never=vision_tokens(processor.tokenizer),
        vision_trained=vision_trained,
        max_completion_length=4,
        **kwargs,
    )


# Tokens


@given(st.lists(st.integers(1, 5), max_size=4), st.lists(st.integers(0, 6), max_size=4))
def test_a_run_of_placeholders_becomes_one_and_pictures_stay_apart(lengths, text):
    expanded = text + [token for n in lengths for token in [START, *[PAD] * n, END]] + text
    once = text + [token for _ in lengths for token in [START, PAD, END]] + text
    assert collapse_placeholders(expanded, PAD) == once
    assert collapse_placeholders(once, PAD) == once


def test_vision_tokens_are_those_of_the_tokenizer(processor):
    tokenizer = processor.tokenizer
    assert {tokenizer.decode([token]) for token in vision_tokens(tokenizer)} == {
        "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
    }  # fmt: skip


def test_other_tokens_than_the_policys_are_refused_with_both_counts():
    question = Question([1, START, PAD, PAD, END], pictures(1), k=1, seed=0)
    check_tokens(question, (1, START, PAD, PAD, END), PAD)
    with pytest.raises(ValueError, match="vLLM read 6 tokens with 3 of the picture where the policy reads 5 with 2"):
        check_tokens(question, (1, START, PAD, PAD, PAD, END), PAD)


@pytest.mark.parametrize("size", [(60, 56), (28, 28), (1120, 1120)])
def test_a_picture_that_would_be_resized_is_refused(size):
    check_limits(Image.new("RGB", (56, 84)), 3136, 786432)
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]} pixels does not fit.*fit_to_grid"):
        check_limits(Image.new("RGB", size), 3136, 786432)


# Questions


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=12))
def test_questions_unfold_to_the_prompts_in_order(keys):
    shown = pictures(3)
    asked = as_questions([[prompt] for prompt, _ in keys], [[shown[picture]] for _, picture in keys])
    unfolded = [(q.ids[0], *q.pictures) for q in asked for _ in range(q.k)]
    assert unfolded == [(prompt, shown[picture]) for prompt, picture in keys]
    assert all((a.ids, a.pictures) != (b.ids, b.pictures) for a, b in pairwise(asked))


def test_equal_pixels_are_one_question_though_they_are_two_objects():
    (picture,) = pictures(1)
    assert [q.k for q in as_questions([[1]] * 4, [[each] for each in (picture, picture.copy()) * 2])] == [4]


def test_noise_is_torchs():
    shown = pictures(3)
    torch.manual_seed(5)
    first = [q.seed for q in as_questions([[1], [2], [3]], [[each] for each in shown])]
    torch.manual_seed(5)
    assert [q.seed for q in as_questions([[1], [2], [3]], [[each] for each in shown])] == first
    assert len(set(first)) == 3
    assert [q.seed for q in as_questions([[1], [2], [3]], [[each] for each in shown])] != first


@pytest.mark.parametrize("given", [{"note": " word" * 50}, json.dumps({"note": " word" * 50})], ids=["dict", "text"])
def test_what_the_chat_template_is_given_counts_towards_vllms_length(settings, processor, given):
    wordy = copy.copy(processor)
    wordy.chat_template = processor.chat_template + "{{ note }}"
    config = Config(policy=settings, rollout=RolloutConfig(engine=TrainingEngine.vllm_colocate), trainer={})
    plain = check_engine(config, choices_for(config), wordy)
    config.trainer["chat_template_kwargs"] = given
    assert check_engine(config, choices_for(config), wordy) >= plain + 50


# The engine's weights and what it remembers


def test_the_engine_answers_with_the_trained_weights_after_a_sync(settings, processor, policy_folder):
    model = load_policy(settings)
    ours = generation(model, processor, policy_folder)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.01 * torch.randn_like(weight))
    assert not torch.equal(ours.engine.model.lm_head.weight, model.lm_head.weight)
    ours.sync_weights()
    for (name, theirs), (_, trained) in zip(
        ours.engine.model.named_parameters(), model.named_parameters(), strict=True
    ):
        assert torch.equal(theirs, trained), name
    assert ours.engine.log == ["load", "forget pictures"]


def test_encoded_pictures_are_kept_while_the_tower_is_frozen(settings, processor, policy_folder):
    ours = generation(load_policy(settings), processor, policy_folder, vision_trained=False)
    ours.sync_weights()
    assert ours.engine.log == ["load", "forget prompts"]


def test_where_vllm_starts_is_told_to_nobody_else(settings, processor, policy_folder, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    seen = []
    monkeypatch.setattr(FakeEngine, "__init__", lambda self, *_: seen.append(dict(os.environ)))
    before = dict(os.environ)
    generation(load_policy(settings), processor, policy_folder)
    assert {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items() <= seen[0].items()
    assert dict(os.environ) == before


def test_what_vllm_is_started_with_stays_set_and_its_place_does_not(settings, processor, policy_folder, monkeypatch):
    """vLLM reads its variables when it comes to them, a good part of them after the start."""
    kept = {"VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_NO_USAGE_STATS"}
    before = {"RANK": "3", "MASTER_PORT": "29500"}  # of the launcher; vLLM's place is not it
    for name in (*kept, "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that it is put back after the test
        monkeypatch.delenv(name)
    for name, value in before.items():
        monkeypatch.setenv(name, value)

    class Starting(FakeEngine):
        def __init__(self, *_):
            prepare()
            os.environ["MASTER_PORT"] = "1"

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(_custom_ops=SimpleNamespace()))
    generation(load_policy(settings), processor, policy_folder, start=lambda: Starting())
    assert kept <= set(os.environ)
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    assert {name: os.environ[name] for name in names if name in os.environ} == before


def test_an_engine_that_sleeps_gets_its_weights_before_it_answers(settings, processor, policy_folder):
    shown = pictures(1)
    ours = generation(load_policy(settings), processor, policy_folder, enable_sleep_mode=True)
    assert ours.engine.log == ["sleep"]
    for _ in range(2):
        ours.engine.log.clear()
        ours.generate(prompts_of(processor, shown), [shown], 1)
        assert ours.engine.log == ["wake weights", "load", "forget pictures", "wake kv_cache", "ask", "sleep"]


def test_k_copies_become_one_question_and_answers_come_back_in_trls_form(settings, processor, policy_folder):
    shown = pictures(2)
    prompts = [ids for ids in prompts_of(processor, shown) for _ in range(3)]
    ours = generation(load_policy(settings), processor, policy_folder)
    ids, answers, logps, _ = ours.generate(prompts, [[picture] for picture in shown for _ in range(3)], 3)
    (asked,) = ours.engine.asked
    assert [q.k for q in asked] == [3, 3]
    assert ids == prompts
    assert len(answers) == len(logps) == 6
    assert all(len(of_answer) == len(answer) for of_answer, answer in zip(logps, answers, strict=True))
    assert all(len(of_token) == 1 and of_token[0] <= 0 for of_answer in logps for of_token in of_answer)
    assert not {token for answer in answers for token in answer} & set(vision_tokens(processor.tokenizer))


# LoRA


def with_adapter(settings, dtype):
    torch.manual_seed(0)
    model = get_peft_model(load_policy(settings).to(dtype), lora_config(LoraSettings(r=4, alpha=8)))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_weights_that_are_sent_are_pefts_own_merge(settings, dtype):
    model = with_adapter(settings, dtype)
    sent = {name: weight.clone() for name, weight in merged_weights(model)}
    merged = dict(copy.deepcopy(model).merge_and_unload().named_parameters())
    assert sent.keys() == merged.keys()
    assert all(torch.equal(sent[name], merged[name]) for name in merged)
    plain = dict(load_policy(settings).to(dtype).named_parameters())
    changed = {name for name in plain if not torch.equal(sent[name], plain[name])}
    assert changed and all("language_model" in name and "_proj" in name for name in changed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_hundred_syncs_leave_the_base_as_it_was(settings, processor, policy_folder, dtype):
    model = with_adapter(settings, dtype)
    ours = generation(model, processor, policy_folder, vision_trained=False)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    for _ in range(100):
        for _ in ours._iter_named_params():
            pass
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_the_adapter_alone_goes_by_a_folder_and_the_base_not_at_all(settings, processor, policy_folder):
    model = with_adapter(settings, torch.float32)
    ours = generation(model, processor, policy_folder, vision_trained=False, adapter_alone=True)
    ours.sync_weights()
    assert ours.engine.log == ["load adapter", "forget prompts"]
    assert {"adapter_config.json", "adapter_model.safetensors"} <= ours.engine.adapter


@pytest.mark.parametrize(("rank", "room"), [(1, 8), (8, 8), (9, 16), (48, 64), (64, 64), (65, 128)])
def test_room_for_an_adapter_is_a_power_of_two(rank, room):
    assert lora_room(rank) == room


def test_trls_own_sync_still_drifts(settings, processor, policy_folder):
    """Once this fails, :func:`merged_weights` may go."""
    model = with_adapter(settings, torch.bfloat16)
    ours = generation(model, processor, policy_folder, vision_trained=False)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    for _ in VLLMGeneration._iter_named_params(ours):
        pass
    assert any(not torch.equal(weight, before[name]) for name, weight in model.named_parameters())


# What upstream still gets wrong: once one of these fails, the work-around that it names may go.


class Recorder:
    """vllm.LLM as TRL's engine uses it: keeps what it is called with."""

    def __init__(self):
        self.prompts = []
        self.called = []
        model = SimpleNamespace(load_weights=lambda weights: None)
        runner = SimpleNamespace(model_runner=SimpleNamespace(model=model))
        self.llm_engine = SimpleNamespace(
            model_executor=SimpleNamespace(driver_worker=runner),
            reset_encoder_cache=lambda: self.called.append("reset_encoder_cache"),
        )

    def reset_prefix_cache(self):
        self.called.append("reset_prefix_cache")

    def generate(self, prompts, sampling_params, use_tqdm):
        self.prompts = prompts
        self.wanted = sampling_params
        token = SimpleNamespace(logprob=0.0, rank=1)
        answer = SimpleNamespace(token_ids=[1], logprobs=[{1: token}])
        return [SimpleNamespace(prompt_token_ids=[], outputs=[answer]) for _ in prompts]


@pytest.fixture
def trls(settings, processor, policy_folder, monkeypatch):
    monkeypatch.setattr(vllm_generation, "SamplingParams", SimpleNamespace, raising=False)
    ours = generation(load_policy(settings), processor, policy_folder)
    ours.llm = Recorder()
    return ours


def test_trl_still_sends_expanded_placeholders_and_k_copies(trls, processor):
    """huggingface/trl issue 6294, and n = 1 in colocate: :func:`collapse_placeholders` and :func:`as_questions`."""
    (picture,) = pictures(1)
    (ids,) = prompts_of(processor, [picture])
    VLLMGeneration.generate(trls, [ids] * 3, [[picture]] * 3, 3)
    sent = [prompt["prompt_token_ids"] for prompt in trls.llm.prompts]
    assert [prompt.count(processor.image_token_id) for prompt in sent] == [6, 6, 6]  # 84 x 56 pixels
    assert trls.llm.wanted.n == 1


def test_trl_still_keeps_encoded_pictures_over_a_sync(trls):
    """huggingface/trl issue 7198: VllmEngine.forget."""
    VLLMGeneration.sync_weights(trls)
    assert trls.llm.called == ["reset_prefix_cache"]


def test_torchs_cpu_generators_still_have_no_offset():
    """vLLM sets a request's generator back by one: engine.without_gpu."""
    with pytest.raises(RuntimeError, match="offset"):
        torch.Generator().get_offset()


# A server


class Client:
    """TRL's VLLMClient: answers with the prompt's last token and the answer's seed; later questions sooner."""

    base_url = "http://localhost:8000"

    def __init__(self, fails=False):
        self.fails = fails
        self.asked = []
        self.busy = self.busiest = 0
        self.lock = threading.Lock()
        self.sent_pictures = 0
        self.posted = []
        self.session = SimpleNamespace(post=self._post)

    def _post(self, url):
        self.posted.append(url)
        return SimpleNamespace(raise_for_status=lambda: None)

    def image_features(self, images):
        if self.fails:
            raise ConnectionError("refused")
        self.sent_pictures += len(images)
        return [{"mm_placeholders": {"image": [None]}} for _ in images]

    def generate(self, prompts, features, n, **wanted):
        with self.lock:
            self.asked.append((prompts, features, n, wanted))
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
            wait = 0.1 / len(self.asked)
        time.sleep(wait)
        with self.lock:
            self.busy -= 1
        seed = wanted["generation_kwargs"]["seed"]  # one for all prompts of a call
        return {
            "completion_ids": [[ids[-1], seed + i] for ids in prompts for i in range(n)],
            "logprobs": [[[-0.5], [-0.25]] for _ in prompts for _ in range(n)],
        }


@pytest.fixture
def served(settings, processor, monkeypatch):
    monkeypatch.setattr(VLLMGeneration, "_init_vllm", lambda self: None)
    ours = generation(load_policy(settings), processor, None, mode="server", server_base_url=Client.base_url)
    ours.vllm_client = Client()
    return ours


def test_a_server_is_sent_each_picture_once_and_answers_come_back_in_order(served, processor):
    shown = pictures(3)
    prompts = prompts_of(processor, shown)
    rows = [0, 0, 1, 1, 2, 2, 2, 2]  # the last picture appears twice in the batch
    torch.manual_seed(5)
    seeds = [question.seed for question in as_questions([[1], [2], [3]], [[each] for each in shown])]
    torch.manual_seed(5)
    _, answers, logps, _ = served.generate([prompts[i] for i in rows], [[shown[i]] for i in rows], 2)
    noise = [seeds[i] + k for i, k in zip(rows, [0, 1, 0, 1, 0, 1, 2, 3], strict=True)]  # as in colocate
    assert answers == [[prompts[i][-1], seed] for i, seed in zip(rows, noise, strict=True)]
    assert logps == [[[-0.5], [-0.25]]] * 8
    assert served.vllm_client.sent_pictures == 3
    assert len(served.vllm_client.asked) == 3 and served.vllm_client.busiest > 1
    for asked, features, _, wanted in served.vllm_client.asked:
        for ids, feature in zip(asked, features, strict=True):
            (place,) = feature["mm_placeholders"]["image"]
            assert set(ids[place["offset"] : place["offset"] + place["length"]]) == {processor.image_token_id}
        assert wanted["generation_kwargs"]["stop_token_ids"] == [processor.tokenizer.eos_token_id]
        assert len(wanted["generation_kwargs"]["logit_bias"]) == 4


def test_a_server_that_is_lost_stops_the_run_by_name(served, processor):
    served.vllm_client = Client(fails=True)
    shown = pictures(1)
    with pytest.raises(RolloutError, match=r"the vLLM server at http://localhost:8000 failed: ConnectionError"):
        served.generate(prompts_of(processor, shown), [shown], 1)


@pytest.fixture(scope="module")
def lost(tmp_path_factory):
    """How syncs with lost servers ended on each of two ranks, by case."""
    folder = tmp_path_factory.mktemp("ranks")
    done = forked_script(Path(__file__).parent / "support" / "lost_server.py", str(folder), ranks=2)
    ends = [dict(json.loads(line) for line in (folder / rank).read_text().splitlines()) for rank in ("0", "1")]
    return ends, done


SERVER = "RolloutError: the vLLM server at http://localhost:8000 failed: ConnectionError('gone at {}')"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["connect", "start", 0, 4, 7, "end", "reset", "forget"])
def test_a_server_that_is_lost_in_a_sync_ends_all_ranks_alike(lost, place):
    """Under ZeRO-3 the other ranks are in the gathers of weights that the first rank was to send."""
    (first, second), _ = lost
    assert first["at None"] == second["at None"] == "synced"
    assert first[f"at {place}"] == second[f"at {place}"] == SERVER.format(place)


@pytest.mark.slow
def test_a_failure_on_any_rank_is_every_ranks(lost):
    (first, second), _ = lost
    wrong = "failed: MemoryError('no room to add adapters')"
    assert first["rank 0"] == second["rank 0"] == f"RolloutError: the vLLM server at http://localhost:8000 {wrong}"
    assert first["rank 1"] == second["rank 1"] == f"RolloutError: rank 1 {wrong}"


@pytest.mark.slow
def test_a_rank_that_left_a_gather_enters_no_other_collective(lost):
    (_, second), done = lost
    wrong = "UnmetError: rank 1 could not gather its weights: MemoryError('no room to gather')"
    assert second["unmet"].startswith(wrong)
    assert done.returncode != 0 and wrong in done.stderr


def test_a_server_forgets_pictures_after_a_sync(served, monkeypatch):
    synced = []
    monkeypatch.setattr(VLLMGeneration, "sync_weights", lambda self: synced.append(self))
    served.sync_weights()
    assert synced == [served]
    assert served.vllm_client.posted == ["http://localhost:8000/reset_encoder_cache"]


# The canary


def test_the_canary_stops_before_anything_is_learnt():
    said = []
    canary = Canary(0.1, stop=True, say=said.append)
    canary(0, 0.0999)
    for difference in (0.2, float("nan")):
        why = "nan: there are tokens" if math.isnan(difference) else "0.200, over rollout.vllm.canary_limit=0.1"
        with pytest.raises(RolloutError, match=f"after step 3: canary/logp_difference is {why}"):
            canary(3, difference)
    assert said == []


def test_the_difference_is_of_what_was_drawn_by_all_ranks():
    drawn = torch.tensor([[1, 1, 0], [1, 0, 0]])
    ours, theirs = -torch.ones(2, 3), torch.tensor([[-1.0, -1.5, math.nan], [-0.25, -9.0, 0.0]])
    scored = {"completion_mask": drawn, "old_per_token_logps": ours, "sampling_per_token_logps": theirs}
    assert logp_difference(scored, lambda own: own) == pytest.approx((1.25 / 3, 0.75))
    other = torch.tensor([[1.0, 2.0, 0.875]])  # another rank's sum, count and largest
    assert logp_difference(scored, lambda own: torch.cat([own, other])) == pytest.approx((2.25 / 5, 0.875))
    assert all(map(math.isnan, logp_difference(scored, lambda own: torch.cat([own, other * math.nan]))))
    theirs[0, 0] = math.nan
    assert all(map(math.isnan, logp_difference(scored, lambda own: own)))
    assert logp_difference({**scored, "completion_mask": 0 * drawn}, lambda own: own) == (0, 0)


def test_the_canary_that_goes_on_warns_once():
    said = []
    canary = Canary(0.1, stop=False, say=said.append)
    for step in range(3):
        canary(step, 0.5)
    assert len(said) == 1 and said[0].startswith("warning: after step 0")
