"""One prompt, K answers: what TRL's rows give, log-probabilities and gradients, from fewer tokens."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from vqr1.policy import segments
from vqr1.policy.segments import Segments, attend
from vqr1.policy.shared_prefix import AnswerBatch, Packing, bins, log_probabilities, pack, same_prompt
from vqr1.training.groups import shuffled_groups
from vqr1.training.trainer import RankingTrainer

MASK, SEGMENTS = Packing("mask"), Packing("segments")
# Without the wrapper that reports to experiment trackers.
plain_rows = GRPOTrainer._get_per_token_logps_and_entropies.__wrapped__
shared_rows = RankingTrainer._get_per_token_logps_and_entropies


@st.composite
def batches(draw):
    """Some prompts of different length and picture sizes, each with some answers, some empty, and more padding.

    With one picture each, or two.
    """
    count = draw(st.integers(1, 2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    groups = draw(st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=4), min_size=1, max_size=3))
    prompts, grids, pixels = [], [], []
    for _ in groups:
        sizes = [[2 * draw(st.integers(1, 4)) for _ in range(2)] for _ in range(count)]
        words = [torch.randint(60, 300, (draw(st.integers(1, 5)),), generator=generator) for _ in range(count + 1)]
        shown = [torch.full((high * wide // 4,), -1) for high, wide in sizes]
        prompts.append(torch.cat([words[0], *(part for pair in zip(shown, words[1:], strict=True) for part in pair)]))
        grids.append([(1, high, wide) for high, wide in sizes])
        pixels.append(torch.randn(sum(high * wide for high, wide in sizes), 1176, generator=generator))
    width = max(map(len, prompts)) + draw(st.integers(0, 3))
    length = max(1, *(n for answers in groups for n in answers)) + draw(st.integers(0, 2))
    rows = []
    for g, answers in enumerate(groups):
        for n in answers:
            answer = torch.randint(60, 300, (n,), generator=generator)
            rows.append((prompts[g], answer, grids[g], pixels[g]))
    return rows, width, length


def as_inputs(rows, width, length, picture_token):
    """What TRL's forward pass takes: prompts padded on the left, answers on the right."""
    ids = torch.zeros(len(rows), width + length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, (prompt, answer, _, _) in enumerate(rows):
        ids[i, width - len(prompt) : width + len(answer)] = torch.cat([prompt, answer])
        mask[i, width - len(prompt) : width + len(answer)] = 1
    pictures = ids == -1
    fields = {
        "pixel_values": torch.cat([row[3] for row in rows]),
        "image_grid_thw": torch.tensor([row[2] for row in rows]).view(-1, 3),
        "mm_token_type_ids": pictures.long(),
        "num_images": [torch.tensor(row[2]).numel() // 3 for row in rows],
    }
    return ids.masked_fill(pictures, picture_token), mask, fields


def as_batch(rows, width, length, picture_token=7):
    ids, mask, fields = as_inputs(rows, width, length, picture_token)
    return AnswerBatch.of_rows(ids, mask, length, **fields)


@pytest.fixture(scope="module")
def models(policy_folder):
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2_5_VLForConditionalGeneration

    from vqr1.config import LoraSettings

    full = Qwen2_5_VLForConditionalGeneration.from_pretrained(policy_folder, attn_implementation="sdpa")
    add_fused_lm_head(full, temperature=0.9, outputs=("log_probs", "entropy"))
    full.set_attn_implementation({"text_config": segments.NAME})
    other = copy.deepcopy(full)
    other.forward = type(full).forward.__get__(other)
    add_fused_lm_head(other, temperature=0.9, outputs=("log_probs", "entropy"))
    # init_lora_weights=False: an adapter that does something
    settings_ = LoraConfig(r=4, target_modules=LoraSettings().target_modules, init_lora_weights=False)
    return {"full": full, "lora": get_peft_model(other, settings_)}


class Part(SimpleNamespace):
    """As much of a trainer as its forward pass reads."""

    _without_ratio = scoring_answers = None
    _score = RankingTrainer._score


def trainer(packing=None, k=3):
    return Part(accelerator=Accelerator(cpu=True), packing=packing, args=SimpleNamespace(num_generations=k))


def scored_with_gradients(score, self, model, inputs, length, batch_size=None):
    ids, mask, fields = inputs
    model.zero_grad()
    logps, entropies, _ = score(self, model, ids, mask, length, batch_size, True, **fields)
    weights = torch.linspace(-1, 1, logps.numel()).view(logps.shape)
    (logps * weights + 0.1 * entropies * weights.flip(0)).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return logps.detach(), entropies.detach(), gradients


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("tuning", ["full", "lora"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    drawn=batches(),
    packing=st.sampled_from([MASK, SEGMENTS, Packing("mask", 200), Packing("auto")]),
    batch_size=st.sampled_from([None, 2, 4]),
)
def test_log_probabilities_and_gradients_are_trls(models, tuning, checkpointing, drawn, packing, batch_size):
    model = models[tuning].train()
    (model.gradient_checkpointing_enable if checkpointing else model.gradient_checkpointing_disable)()
    rows, width, length = drawn
    inputs = as_inputs(rows, width, length, model.config.image_token_id)
    expected = scored_with_gradients(plain_rows, trainer(), model, inputs, length)
    found = scored_with_gradients(shared_rows, trainer(packing), model, inputs, length, batch_size)
    for ours, trls in zip(found[:2], expected[:2], strict=True):
        assert ours.shape == trls.shape == (len(rows), length)
        assert torch.allclose(ours, trls, rtol=0, atol=2e-5)
    norm = float(torch.cat([g.flatten() for g in expected[2].values() if g is not None]).norm())
    for name, gradient in expected[2].items():
        assert torch.allclose(found[2][name], gradient, rtol=0, atol=1e-5 * max(norm, 1e-3)), name


@pytest.mark.parametrize("packing", [MASK, SEGMENTS])
def test_under_autocast_it_is_no_further_from_float32_than_trls_rows(models, packing):
    half = SimpleNamespace(autocast=lambda: torch.autocast("cpu", torch.bfloat16), unwrap_model=lambda model: model)
    model, picture = models["full"].eval(), torch.full((4,), -1)
    rows = [(torch.cat([row[0], picture, row[0]]), *row[1:]) for row in rows_of([6, 7, 5], [7, 7], patch=1176)]
    inputs = as_inputs(rows, 14, 7, model.config.image_token_id)
    exact, trls, ours = (
        scored_with_gradients(score, self, model, inputs, 7)
        for score, self in (
            (plain_rows, trainer()),
            (plain_rows, Part(accelerator=half)),
            (shared_rows, Part(accelerator=half, packing=packing, args=trainer().args)),
        )
    )
    error = (trls[0] - exact[0]).square().mean().sqrt()
    assert error > 1e-4  # the precision is another
    assert (ours[0] - exact[0]).square().mean().sqrt() < 1.5 * error


def positions(ids, attention_mask, **_):
    """Text only: every token's place among those of its row."""
    return (attention_mask.cumsum(1) - 1).clamp(min=0).expand(3, *ids.shape), None


def rows_of(*groups, prompt=5, picture=(1, 4, 4), patch=3):
    """Answers of given lengths, group by group, to prompts of one length."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for answers in groups:
        text = torch.randint(60, 300, (prompt,), generator=generator)
        pixels = torch.randn(16, patch, generator=generator)
        rows += [(text, torch.randint(60, 300, (n,), generator=generator), picture, pixels) for n in answers]
    return rows


GROUPS = ([3, 1, 2], [4, 4], [2], [1, 1, 1])


def packed(packing, *groups):
    return pack(as_batch(rows_of(*groups), 8, 4), positions, packing)


def test_a_prompt_stands_once_and_only_answers_are_repeated():
    inputs, places = packed(SEGMENTS, *GROUPS)
    answers = sum(map(sum, GROUPS))
    assert inputs["input_ids"].shape == (1, 4 * (5 - 1) + answers)  # no padding, no token that predicts nothing
    assert inputs["pixel_values"].shape == (4 * 16, 3)
    rows = rows_of(*GROUPS)
    assert torch.equal(inputs["shift_labels"].flatten()[places], torch.cat([row[1] for row in rows]))
    assert int((inputs["shift_labels"] != -100).sum()) == answers
    # A branch is the prompt's last token and all of the answer but its own; positions go on where the prompt ends.
    expected = torch.cat([torch.cat([row[0][-1:], row[1][:-1]]) for row in rows])
    assert torch.equal(inputs["input_ids"].flatten()[places], expected)
    steps = torch.cat([4 + torch.arange(len(row[1])) for row in rows])
    assert torch.equal(inputs["position_ids"].flatten(1)[:, places], steps.expand(3, -1))


@pytest.mark.parametrize(
    ("tokens", "shape"), [(None, (4, 12)), (1, (4, 12)), (17, (3, 17)), (18, (2, 18)), (100, (1, 35))]
)
def test_prompts_share_rows_up_to_the_budget(tokens, shape):
    inputs, places = packed(Packing("mask", tokens), *GROUPS)  # with 10, 12, 6 and 7 tokens
    assert inputs["input_ids"].shape == shape
    ours, one_row = inputs["shift_labels"].flatten()[places], packed(SEGMENTS, *GROUPS)
    assert torch.equal(ours, one_row.inputs["shift_labels"].flatten()[one_row.places])


def visible(inputs):
    """For every token that is no padding, by prompt, place and token: what it sees, as the same."""
    attention, ids = inputs["attention_mask"]["full_attention"], inputs["input_ids"]
    if isinstance(attention, torch.Tensor):
        seen = attention[:, 0]
    else:
        seen = torch.zeros(1, ids.shape[1], ids.shape[1], dtype=torch.bool)
        ends = torch.tensor(attention.queries).cumsum(0).tolist()
        for end, queries, keys in zip(ends, attention.queries, attention.gather.split(attention.keys), strict=True):
            for back in range(queries):
                seen[0, end - 1 - back, keys[: len(keys) - back]] = True
    place = inputs["position_ids"][0]
    names = [[(int(i), int(p)) for i, p in zip(*row, strict=True)] for row in zip(ids, place, strict=True)]
    return sorted(
        (name, sorted(names[b][j] for j in row.nonzero().flatten()))
        for b, table in enumerate(seen)
        for name, row in zip(names[b], table, strict=True)
        if name != (0, 0)
    )


@pytest.mark.parametrize("packing", [SEGMENTS, MASK, Packing("mask", 17), Packing("mask", 100)])
def test_every_token_sees_what_it_would_in_a_row_of_its_own(packing):
    expected = {}
    for prompt, answer, _, _ in rows_of(*GROUPS):
        row = [(int(token), place) for place, token in enumerate(torch.cat([prompt, answer[:-1]]))]
        for place, name in enumerate(row):
            branch = tuple(answer.tolist()) if place >= 4 else ()
            expected[(tuple(prompt.tolist()), branch, name)] = sorted(row[: place + 1])
    found = visible(packed(packing, *GROUPS).inputs)
    assert found == sorted((name, seen) for (_, _, name), seen in expected.items())


def test_only_equal_prompts_with_equal_pictures_are_one():
    rows = rows_of([1, 1], [1, 1, 1], [1])
    assert same_prompt(as_batch(rows, 8, 4)).tolist() == [0, 0, 1, 1, 1, 2]
    text, answer, grid, pixels = rows[0]
    other = pixels.clone()
    other[3, 1] += 1e-3
    assert same_prompt(as_batch([rows[0], (text, answer, grid, other)], 8, 4)).tolist() == [0, 1]
    assert same_prompt(as_batch([rows[0], (text, answer, (1, 2, 8), pixels)], 8, 4)).tolist() == [0, 1]
    assert same_prompt(as_batch([rows[0], (text[1:], answer, grid, pixels)], 8, 4)).tolist() == [0, 1]
    # A group that is cut, as micro-batches cut it, is a smaller one; one that comes again is another.
    assert same_prompt(as_batch([rows[0], rows[2], rows[1]], 8, 4)).tolist() == [0, 1, 2]


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=20), capacity=st.integers(1, 120))
def test_bins_hold_everything_and_no_more(lengths, capacity):
    chosen = bins(lengths, capacity)
    filled = [sum(n for n, b in zip(lengths, chosen, strict=True) if b == at) for at in range(max(chosen) + 1)]
    room = max(capacity, *lengths)
    assert len(chosen) == len(lengths) and all(0 < used <= room for used in filled)
    assert all(a + b > room for i, a in enumerate(filled) for b in filled[:i])  # no two would fit in one


def test_bins_by_hand():
    assert bins([6, 3, 4, 7], 10) == [1, 0, 1, 0]
    assert bins([5, 9, 5], 1) == [1, 0, 2]


class Tower(torch.nn.Module):
    """A policy that takes what is packed and scores nothing."""

    def forward(self, shift_labels, **_):
        return SimpleNamespace(log_probs=self.weight.expand(shift_labels.shape), entropy=None)

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(2.0))


@pytest.mark.parametrize("packing", [SEGMENTS, MASK])
def test_a_batch_without_an_answer_still_passes_through_the_model(packing):
    """As many passes and gradients on every rank, or sharded models wait for each other for ever."""
    model = Tower()
    logps, _ = log_probabilities(model, as_batch(rows_of([0, 0], [0]), 8, 4), positions, packing)
    assert torch.equal(logps, torch.zeros(3, 4))
    logps.sum().backward()
    assert model.weight.grad == 0


def lower_right(q, k, v, ends_q, ends_k, max_q, max_k, *, scale, window_size, enable_gqa=True):
    """What torch's kernel promises, written out: causal attention aligned at the ends of each pair of sequences."""
    assert window_size == (-1, 0) and enable_gqa and ends_q.dtype == ends_k.dtype == torch.int32
    assert (max_q, max_k) == (int(ends_q.diff().max()), int(ends_k.diff().max()))
    found = torch.empty_like(q)
    for n in range(len(ends_q) - 1):
        queries, keys = range(ends_q[n], ends_q[n + 1]), slice(ends_k[n], ends_k[n + 1])
        for back, at in enumerate(reversed(queries)):
            mine, values = (x[keys][: keys.stop - keys.start - back] for x in (k, v))
            mine, values = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (mine, values))
            weights = (torch.einsum("hd,thd->ht", q[at], mine) * scale).softmax(-1)
            found[at] = torch.einsum("ht,thd->hd", weights, values)
    return found


def heads(*shape):
    return [torch.randn(1, h, *shape) for h in (4, 2, 2)]


def few_segments():
    place = torch.arange(9)
    keys = [place[:3], torch.cat([place[:3], place[3:7]]), torch.cat([place[:3], place[7:]])]
    return Segments.of([3, 4, 2], keys)


def test_the_kernel_is_asked_for_what_sdpa_computes(monkeypatch):
    torch.manual_seed(0)
    q, k, v = heads(9, 8)
    expected, _ = attend(torch.nn.Module(), q, k, v, few_segments(), scaling=0.3)
    monkeypatch.setattr(segments, "varlen_attn", lower_right)
    monkeypatch.setattr(segments, "has_kernel", lambda device: True)
    found, _ = attend(torch.nn.Module(), q.half(), k.half(), v.half(), few_segments(), scaling=0.3)
    assert expected.shape == found.shape == (1, 9, 4, 8)
    assert torch.allclose(found.float(), expected, atol=5e-3)


def test_auto_chooses_segments_where_rows_are_long_or_a_kernel_is(monkeypatch):
    cpu = torch.device("cpu")
    assert not Packing("auto").by_segments(800, cpu)
    assert Packing("auto").by_segments(2000, cpu)
    assert not Packing("mask").by_segments(2000, cpu)
    monkeypatch.setattr("vqr1.policy.shared_prefix.has_kernel", lambda device: True)
    assert Packing("auto").by_segments(80, cpu)


@given(groups=st.integers(1, 9), k=st.integers(1, 5), seed=st.integers(0, 99))
def test_the_shuffle_moves_groups_as_they_are(groups, k, seed):
    rows = torch.arange(groups * k)
    torch.manual_seed(seed)
    found = shuffled_groups({"prompt_ids": rows, "pixel_values": list(rows), "total": torch.tensor(7.0)}, k)
    moved = found["prompt_ids"].view(groups, k)
    assert torch.equal(moved - moved[:, :1], torch.arange(k).expand(groups, k))
    assert sorted((moved[:, 0] // k).tolist()) == list(range(groups))
    assert torch.equal(torch.stack(found["pixel_values"]), found["prompt_ids"]) and found["total"] == 7


def test_the_shuffle_shuffles():
    torch.manual_seed(0)
    orders = {tuple(shuffled_groups({"prompt_ids": torch.arange(12)}, 3)["prompt_ids"].tolist()) for _ in range(20)}
    assert len(orders) > 10
