"""What only a GPU can show: kernels, shared prompts, rewards and a step of training on the device.

``pytest -m gpu`` runs them on a GPU; VQR1_TEST_DEVICE=cpu rehearses the same lines on the CPU, where torch's sdpa takes
the kernel's place.
"""

from __future__ import annotations

import os

import pytest
import torch
from peft import PeftModel, get_peft_model
from trl.trainer.utils import add_fused_lm_head

from vqr1.bench.shapes import SHAPES, shape_config
from vqr1.bench.train import Geometry, make_batch, make_trainer
from vqr1.config import LoraSettings, PolicyConfig
from vqr1.policy import segments, windows
from vqr1.policy.load import TINY, load_policy, lora_config
from vqr1.policy.read_once import PictureCutter
from vqr1.policy.segments import Segments, attend, has_kernel
from vqr1.policy.shared_prefix import AnswerBatch, Packing, log_probabilities, pack
from vqr1.ranking import fidelity_reward

pytestmark = pytest.mark.gpu
SMALL = Geometry((8, 8), 40, 12, k=3, pictures=2)


@pytest.fixture(scope="module")
def device() -> torch.device:
    """The GPU. Fails, and does not skip, where there is none and no rehearsal was asked for."""
    if os.environ.get("VQR1_TEST_DEVICE") == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.fail("torch sees no GPU; VQR1_TEST_DEVICE=cpu rehearses these tests")
    return torch.device("cuda")


def test_the_kernel_is_there(device):
    """On a GPU of Ampere or later, in half precision, attention by segments is one call of torch's kernel."""
    assert has_kernel(device) == (device.type == "cuda" and torch.cuda.get_device_capability() >= (8, 0))


def kadid_segments(device: torch.device) -> tuple[Segments, int]:
    """A prompt of 364 tokens and six answers of 20 to 80, as they lie in one row."""
    lengths = [364, 80, 20, 47, 80, 33, 61]
    parts = torch.arange(sum(lengths), device=device).split(lengths)
    keys = [parts[0], *(torch.cat([parts[0], branch]) for branch in parts[1:])]
    return Segments.of(lengths, keys), sum(lengths)


def attended(heads, laid_out, dtype):
    """Output and gradients of attention in ``dtype``, as float32."""
    inputs = [x.detach().to(dtype).requires_grad_() for x in heads]
    output, _ = attend(torch.nn.Module(), *inputs, laid_out, scaling=128**-0.5)
    output.float().square().sum().backward()
    return [output.detach().float(), *(x.grad.float() for x in inputs)]


def by_sdpa(heads, laid_out, dtype):
    """The same without the kernel: segment by segment, by torch's sdpa."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "has_kernel", lambda _: False)
        return attended(heads, laid_out, dtype)


def test_the_kernel_errs_no_more_than_sdpa(device):
    torch.manual_seed(0)
    laid_out, tokens = kadid_segments(device)
    heads = [torch.randn(1, h, tokens, 128, device=device).bfloat16().float() for h in (16, 2, 2)]  # the 3B shape's
    exact = by_sdpa(heads, laid_out, torch.float32)
    ours, theirs = attended(heads, laid_out, torch.bfloat16), by_sdpa(heads, laid_out, torch.bfloat16)
    for name, true, found, plain in zip(("output", "query", "key", "value"), exact, ours, theirs, strict=True):
        scale = true.abs().max()
        assert (found - true).abs().max() <= 2 * (plain - true).abs().max() + 1e-3 * scale, name


def kadid_windows(device: torch.device) -> torch.Tensor:
    """The ends of the windows of a picture of 28 x 36 patches: 8 x 8 each, smaller at two edges."""
    lengths = [h * w for h in (8, 8, 8, 4) for w in (8, 8, 8, 8, 4)]
    return torch.tensor([0, *lengths], device=device).cumsum(0, dtype=torch.int32)


def looked_at(heads, ends, dtype):
    """Output and gradients of the vision tower's attention in ``dtype``, as float32."""
    inputs = [x.detach().to(dtype).requires_grad_() for x in heads]
    longest = int(ends.diff().max())
    output, _ = windows.attend(
        torch.nn.Module(), *inputs, None, scaling=80**-0.5, cu_seq_lens_q=ends, max_length_q=longest, is_causal=False
    )
    output.float().square().sum().backward()
    return [output.detach().float(), *(x.grad.float() for x in inputs)]


def one_by_one(heads, ends, dtype):
    """The same without the kernel: window by window, by torch's sdpa."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "kernel_takes", lambda _: False)
        return looked_at(heads, ends, dtype)


@pytest.mark.parametrize("whole", [False, True], ids=["windows", "whole pictures"])
def test_the_vision_kernel_errs_no_more_than_sdpa(device, whole):
    torch.manual_seed(0)
    ends = kadid_windows(device)
    ends = ends[[0, 9, -1]] if whole else ends
    heads = [torch.randn(1, 16, int(ends[-1]), 80, device=device).bfloat16().float() for _ in range(3)]  # both shapes'
    exact = one_by_one(heads, ends, torch.float32)
    ours, theirs = looked_at(heads, ends, torch.bfloat16), one_by_one(heads, ends, torch.bfloat16)
    for name, true, found, plain in zip(("output", "query", "key", "value"), exact, ours, theirs, strict=True):
        scale = true.abs().max()
        assert (found - true).abs().max() <= 2 * (plain - true).abs().max() + 1e-3 * scale, name


def test_the_vision_tower_errs_no_more_than_with_sdpa(device):
    """A picture of several windows through a whole tower in bfloat16, with the gradient of its weights."""
    exact_model, half_model = random_model(device, torch.float32), random_model(device, torch.bfloat16)
    grid = torch.tensor([[1, 18, 10], [1, 8, 8]], device=device)
    pixels = torch.randn(244, 1176, device=device).bfloat16().float()

    def encoded(model):
        visual = model.model.visual
        visual.zero_grad()
        output = visual(pixels.to(visual.dtype), grid_thw=grid).pooler_output
        output.float().square().sum().backward()
        return output.detach().float(), torch.cat([weight.grad.float().flatten() for weight in visual.parameters()])

    exact, gradient = encoded(exact_model)
    plain, plain_gradient = encoded(half_model)
    windows.attend_at_once(half_model)
    found, found_gradient = encoded(half_model)
    assert (found - exact).norm() <= 2 * (plain - exact).norm() + 1e-3 * exact.norm()
    assert (found_gradient - gradient).norm() <= 2 * (plain_gradient - gradient).norm() + 1e-2 * gradient.norm()


def random_model(device: torch.device, dtype: torch.dtype):
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    from vqr1.policy.load import SHIPPED

    config = shape_config(SHAPES["tiny"], AutoProcessor.from_pretrained(str(SHIPPED)).tokenizer)
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="sdpa").to(device, dtype)
    add_fused_lm_head(model, temperature=1.0, outputs=("log_probs", "entropy"))
    model.set_attn_implementation({"text_config": segments.NAME})
    return model


@pytest.mark.parametrize("sent_as", [torch.uint8, torch.bfloat16])
def test_pictures_are_normalised_to_the_bits_of_the_cpu(device, sent_as):
    patches = torch.arange(256, dtype=torch.uint8).repeat(588).view(-1, 588)
    cutter = PictureCutter()
    assert torch.equal(cutter.as_read(patches.to(device, sent_as)).cpu(), cutter.as_read(patches))


def by_rows(model, batch):
    """The answers' log-probabilities from the model's own logits, a row for each answer."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    fields = {key: batch[key] for key in ("pixel_values", "image_grid_thw", "mm_token_type_ids")}
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **fields).logits
    answers = batch["completion_ids"]
    spoken = logits[:, -answers.shape[1] - 1 : -1].float().log_softmax(-1)
    return spoken.gather(2, answers[..., None])[..., 0]


def answer_batch(batch):
    ids, mask = (torch.cat([batch[f"prompt_{name}"], batch[f"completion_{name}"]], 1) for name in ("ids", "mask"))
    fields = {key: batch[key] for key in ("pixel_values", "image_grid_thw", "mm_token_type_ids")}
    return AnswerBatch.of_rows(ids, mask, batch["completion_ids"].shape[1], **fields)


def with_gradient(model, logps):
    """Log-probabilities, and the gradient of their sum as one vector."""
    model.zero_grad()
    logps.sum().backward()
    gradient = torch.cat([weight.grad.float().flatten() for weight in model.parameters() if weight.grad is not None])
    return logps.detach().float(), gradient


@pytest.mark.parametrize("attention", ["segments", "mask"])
def test_shared_prompts_score_what_rows_score(device, attention):
    exact_model, half_model = random_model(device, torch.float32), random_model(device, torch.bfloat16)
    batch = make_batch(SMALL, exact_model)
    in_half = {**batch, "pixel_values": batch["pixel_values"].bfloat16()}

    def shared(model, inputs):
        logps, _ = log_probabilities(model, answer_batch(inputs), model.model.get_rope_index, Packing(attention))
        return with_gradient(model, logps)

    exact, gradient = with_gradient(exact_model, by_rows(exact_model, batch))
    ours, our_gradient = shared(exact_model, batch)
    assert (ours - exact).abs().max() < 1e-4
    assert (our_gradient - gradient).norm() < 1e-4 * gradient.norm()
    plain, plain_gradient = with_gradient(half_model, by_rows(half_model, in_half))
    half, half_gradient = shared(half_model, in_half)
    assert (half - exact).abs().mean() <= 2 * (plain - exact).abs().mean() + 1e-3
    assert (half_gradient - gradient).norm() <= 2 * (plain_gradient - gradient).norm() + 1e-2 * gradient.norm()


def test_packing_is_the_same_on_the_device(device):
    model = random_model(device, torch.float32)
    batch = answer_batch(make_batch(SMALL, model))
    cpu = torch.device("cpu")
    there = pack(batch, model.model.get_rope_index, Packing("mask"))
    tensors = ("prompt_RP", "prompt_mask_RP", "answer_RS", "answer_mask_RS", "image_token_RP")
    pictures = [picture.to(cpu) for picture in batch.pictures_R]
    on_cpu = AnswerBatch(*(getattr(batch, name).to(cpu) for name in tensors), pictures, batch.grid_R.to(cpu))
    here = pack(on_cpu, model.to(cpu).model.get_rope_index, Packing("mask"))
    assert torch.equal(there.places.to(cpu), here.places)
    for name in ("input_ids", "shift_labels", "position_ids", "pixel_values", "image_grid_thw"):
        assert torch.equal(there.inputs[name].to(cpu), here.inputs[name]), name


@pytest.mark.parametrize("opponent", ["mean", "each"])
def test_rewards_are_the_same_on_the_device(device, opponent):
    generator = torch.Generator().manual_seed(0)
    scores = 1 + 4 * torch.rand(32, 6, generator=generator)
    scores[3, 2] = float("nan")
    mos, sets = torch.rand(32, generator=generator), torch.arange(32) % 2
    here = fidelity_reward(scores, mos, dataset_B=sets, opponent=opponent)
    there = fidelity_reward(scores.to(device), mos.to(device), dataset_B=sets.to(device), opponent=opponent)
    torch.testing.assert_close(there.cpu(), here, atol=1e-5, rtol=0, equal_nan=True)


def test_both_paths_of_the_trainer_give_one_loss(device, tmp_path):
    trainer = make_trainer("tiny", SMALL, str(tmp_path))
    batch = make_batch(SMALL, trainer.model)
    found = []
    for packing in (None, Packing()):
        trainer.packing = packing
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        gradient = torch.cat([weight.grad.float().flatten() for weight in trainer.model.parameters()])
        found.append((loss.item(), gradient))
    (rows, by_row), (shared, ours) = found
    limit = 0.05 if device.type == "cuda" else 1e-4  # bfloat16 there, float32 here
    assert by_row.norm() > 0.01
    assert (ours - by_row).norm() < limit * by_row.norm()
    assert abs(shared - rows) < limit * batch["advantages"].abs().mean()  # the size of the terms it is a mean of


def test_a_lora_step_in_bfloat16_is_saved_and_loaded(device, tmp_path):
    settings = PolicyConfig(path="tiny", **{**TINY, "dtype": "bfloat16"})
    base = load_policy(settings).to(device)
    model = get_peft_model(base, lora_config(LoraSettings(r=4, alpha=8, dropout=0.0)))
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained and all(weight.dtype == torch.float32 for weight in trained.values())
    frozen = {name: weight.clone() for name, weight in model.named_parameters() if not weight.requires_grad}
    batch = make_batch(SMALL, base)
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = -by_rows(model, batch).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    assert all(torch.equal(weight, frozen[name]) for name, weight in model.named_parameters() if name in frozen)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(load_policy(settings).to(device), tmp_path)
    with torch.no_grad():
        assert torch.equal(by_rows(model.eval(), batch), by_rows(again.eval(), batch))
