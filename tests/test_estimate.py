"""The arithmetic of memory, operations and traffic, against what torch holds, keeps and counts, and closed forms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2_5_VLForConditionalGeneration
from trl import GRPOConfig
from trl.kernels import chunked_logprob
from trl.trainer import utils as trl_utils

from vqr1.bench.shapes import SHAPES, random_policy, shape_config
from vqr1.bench.train import Geometry, make_batch
from vqr1.config import LoraSettings, PolicyConfig
from vqr1.data.pictures import grid_size
from vqr1.errors import UserError
from vqr1.estimate import memory as estimate
from vqr1.estimate.memory import Passes, Question, Rollouts, Training, checkpoint_bytes, memory, saved
from vqr1.estimate.sizes import PUBLISHED, Sizes, picture_patches, published, read_sizes, sizes_of
from vqr1.estimate.work import Scoring, forward, generation, step, traffic, training_pass
from vqr1.policy.load import SHIPPED, TINY, load_processor, lora_config
from vqr1.policy.shared_prefix import LONG, Packing
from vqr1.policy.weight_files import parameter_count, stored_shapes
from vqr1.training.build_trainer import share_work
from vqr1.training.trainer import RankingTrainer

TARGETS = LoraSettings().target_modules
# No two sizes alike, and wide enough for small tensors to count for little.
ODD = Sizes(192, 800, 3, 6, 2, 1024, True, 3, 128, 260, 4, vision_whole=1)
SMALL, LARGE = Geometry((8, 12), 60, 20, k=3), Geometry((16, 12), 90, 31, k=4, pictures=3)
SEVEN, THREE = PUBLISHED["7B"], PUBLISHED["3B"]
# KADID-10k, as published: 252 tokens of a picture, 101 of text, answers of 100 tokens.
KADID = Question(text=101, patches=1008, answer=100, k=6)
GPU = Training(SEVEN, itemsize=2, launcher="zero3", ranks=8)
LORA = Training(SEVEN, itemsize=2, lora=64, targets=TARGETS, reference=False)


@pytest.fixture(scope="module")
def processor():
    return load_processor(PolicyConfig(path="tiny", **TINY))


@pytest.mark.parametrize("name", ["3B", "7B"])
def test_parameters_and_maps_are_those_of_the_model_itself(name, processor):
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration._from_config(
            shape_config(SHAPES[name.lower()], processor.tokenizer), dtype=torch.bfloat16
        )
    sizes = PUBLISHED[name]
    assert sizes_of(model.config.to_dict()) == sizes
    assert sizes.parameters == model.num_parameters()
    assert sizes.vision_parameters == sum(weight.numel() for weight in model.model.visual.parameters())
    found = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert {m.name: (m.inputs, m.outputs, m.bias) for m in sizes.linear_maps()} == {
        n: (m.in_features, m.out_features, m.bias is not None) for n, m in found.items()
    }


def test_published_numbers():
    assert [round(PUBLISHED[name].parameters / 1e9, 2) for name in ("3B", "7B", "32B", "72B")] == [
        *(3.75, 8.29, 33.45, 73.41),
    ]
    assert SEVEN.lora_parameters(64, TARGETS) == 161_480_704
    assert len(SEVEN.targets("all-linear")) == 28 * 7 + 32 * 5 + 2
    assert published("Qwen/Qwen2.5-VL-7B-Instruct") is published("/weights/Qwen2.5-VL-7B") is SEVEN
    assert published("Qwen/Qwen2.5-VL-8B-Instruct") is published("tiny") is None
    assert KADID.prompt(SEVEN) == 353
    assert KADID.packed(SEVEN, 6) == 352 + 600  # each answer brings the prompt's last token and leaves its own out


def test_a_configuration_without_sizes_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match="config.json: not a readable JSON file"):
        read_sizes(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llava", "vision_config": {"depth": 2}}')
    with pytest.raises(UserError, match="config.json: hidden_size is None"):
        read_sizes(tmp_path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[]", "holds list"),
        ("[" * 100_000, "not a readable JSON file"),
        ('{"text_config": 3}', "text_config or vision_config holds no settings by name"),
        ('{"vision_config": {"depth": 2, "fullatt_block_indexes": 7}}', "fullatt_block_indexes is 7"),
    ],
)
def test_a_configuration_that_is_none_is_named(tmp_path, text, found):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=f"config.json: {found}"):
        read_sizes(tmp_path)


def test_a_published_configuration_has_the_language_models_sizes_beside_the_vision_towers():
    text = {
        **{"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28},
        **{"num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
    }
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14}
    vision["fullatt_block_indexes"] = [7, 15, 23, 31]
    assert sizes_of({**text, "vision_config": vision}) == SEVEN


@pytest.mark.parametrize("size", [(512, 384), (1024, 768), (4000, 3000), (30, 30), (28, 1000), (500, 333)])
def test_pictures_have_the_patches_of_their_grid(size):
    wide, high = grid_size(*size, 3136, 786432)
    assert picture_patches(*size, 3136, 786432, SEVEN) == wide * high // 14**2


def test_constants_are_the_libraries():
    assert estimate.TILE_TOKENS == chunked_logprob.TOKEN_CHUNK_SIZE
    assert estimate.TILE_ENTRIES == trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE
    assert estimate.MASKED_TOKENS == LONG


def test_what_a_7b_policy_holds():
    one = Passes(KADID, answers=6)
    held = memory(replace(GPU, ranks=2), one).held
    assert held == pytest.approx(18 * 8.292e9 / 2, rel=1e-4)  # 2 + 2 + 12 bytes, and 2 of the reference
    assert round(held / 1e9, 1) == 74.6
    assert round(checkpoint_bytes(GPU) / 1e9) == 116
    lora = memory(LORA, one)
    assert lora.weights == 2 * SEVEN.parameters + 4 * LORA.trained
    assert (lora.gradients, lora.optimiser, lora.reference) == (4 * LORA.trained, 8 * LORA.trained, 0)
    assert memory(replace(LORA, launcher="ddp", ranks=8), one).sharding == 4 * LORA.trained
    float32 = memory(Training(THREE, itemsize=4), one)
    assert float32.held == (4 + 4 + 8 + 4) * THREE.parameters


def test_shards_are_shares():
    one = Passes(KADID, answers=6)
    for launcher, shared in (("zero2", 14), ("zero3", 18), ("fsdp2", 14 + 4)):
        few, many = (memory(replace(GPU, launcher=launcher, ranks=ranks), one).held for ranks in (4, 16))
        assert few - many == pytest.approx(shared * SEVEN.parameters * (1 / 4 - 1 / 16), rel=1e-6)
    # FSDP2 sums gradients up before it shares them out, where a step has several passes.
    twice = replace(one, count=2)
    fsdp = replace(GPU, launcher="fsdp2")
    assert memory(fsdp, twice).sharding - memory(fsdp, one).sharding == 2 * SEVEN.parameters


def test_vllm_that_sleeps_counts_only_while_the_policy_does_not_train():
    one = Passes(KADID, answers=6)
    awake, asleep = (memory(GPU, one, Rollouts(vllm=25e9, sleeps=sleeps)) for sleeps in (False, True))
    assert awake.total - asleep.total == pytest.approx(awake.activations + awake.head)
    assert "sleeps" not in asleep.parts() and sum(awake.parts().values()) == pytest.approx(awake.total)


def make_trainer(processor, geometry, dtype, lora, checkpointing, attention, vision):
    model = random_policy(ODD, processor.tokenizer, dtype)
    model.model.visual.requires_grad_(vision)
    rows = geometry.k * geometry.pictures
    trainer = RankingTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            output_dir="unused",
            per_device_train_batch_size=rows,
            num_generations=geometry.k,
            steps_per_generation=1,
            gradient_checkpointing=checkpointing,
            bf16=False,
            use_cpu=True,
            loss_type="grpo",
            report_to=[],
        ),
        train_dataset=Dataset.from_dict({"prompt": [""] * rows}),
        processing_class=processor,
        cohorts=range(rows),
        packing=None if attention == "rows" else Packing(attention),
        peft_config=lora_config(LoraSettings(r=8)) if lora else None,
    )
    share_work(trainer)
    trainer.current_gradient_accumulation_steps = 1
    if checkpointing:
        trainer.model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)
    return trainer


def estimated(trainer, geometry, dtype, lora, checkpointing, attention, vision):
    patches = geometry.grid[0] * geometry.grid[1]
    asked = Question(geometry.prompt - patches // 4, patches, geometry.answer, geometry.k)
    how = Training(
        sizes_of(trainer.model.config.to_dict()),
        itemsize=dtype.itemsize,
        lora=8 if lora else None,
        targets=TARGETS,
        train_vision=vision,
        checkpointing=checkpointing,
        gpu=False,
        attention=attention,
    )
    return how, Passes(asked, geometry.k * geometry.pictures, pictures=geometry.pictures)


CASES = [
    (SMALL, torch.float32, False, False, "segments", True),
    (LARGE, torch.float32, False, False, "mask", True),
    (SMALL, torch.float32, False, False, "rows", True),
    (SMALL, torch.float32, False, False, "mask", False),
    (LARGE, torch.float32, False, True, "mask", True),
    (LARGE, torch.float32, True, False, "segments", True),
    (LARGE, torch.bfloat16, True, False, "segments", True),
    (LARGE, torch.bfloat16, True, True, "mask", True),
]


@pytest.mark.parametrize(("geometry", "dtype", "lora", "checkpointing", "attention", "vision"), CASES)
def test_a_pass_keeps_and_a_step_holds_what_is_estimated(
    geometry, dtype, lora, checkpointing, attention, vision, processor
):
    asked = (geometry, dtype, lora, checkpointing, attention, vision)
    trainer = make_trainer(processor, *asked)
    how, passes = estimated(trainer, *asked)
    learnt = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    assert sum(weight.numel() for weight in learnt) == how.trained
    batch = make_batch(geometry, trainer.model.get_base_model() if lora else trainer.model)
    kept = Kept(trainer.model.parameters())
    with torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor):
        loss = trainer.compute_loss(trainer.model, batch)
    assert saved(how, passes) == pytest.approx(kept.bytes, rel=0.05)
    loss.backward()
    optimizer = torch.optim.AdamW(learnt)
    optimizer.step()
    found = memory(how, passes)
    held = {weight.untyped_storage().data_ptr(): weight for weight in trainer.model.parameters()}
    assert sum(weight.nbytes for weight in held.values()) == found.weights
    assert sum(weight.grad.nbytes for weight in learnt) == found.gradients
    moments = (value for state in optimizer.state.values() for value in state.values() if value.ndim)
    assert sum(value.nbytes for value in moments) == found.optimiser


class Kept:
    """Counts the storages that autograd saves, each once, but for those of ``known`` tensors."""

    def __init__(self, known):
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.held = {}

    def __call__(self, tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.known:
            self.held[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no other takes its place
        return tensor

    @property
    def bytes(self):
        return sum(size for size, _ in self.held.values())


@pytest.mark.parametrize("case", [CASES[0], CASES[1], CASES[2], CASES[4], CASES[5], CASES[7]])
def test_operations_are_those_that_torch_counts(case, processor):
    trainer = make_trainer(processor, *case)
    how, passes = estimated(trainer, *case)
    batch = make_batch(case[0], trainer.model.get_base_model() if how.lora else trainer.model)
    # torch counts neither its attention for CPUs nor products that are added in place, as the head's are.
    added = {torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1]}
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False, custom_mapping=added) as counter, torch.no_grad():
            trainer.score(trainer.model, batch)
        assert forward(how, passes).total == pytest.approx(counter.get_total_flops(), rel=0.01)
        with FlopCounterMode(display=False, custom_mapping=added) as counter:
            trainer.compute_loss(trainer.model, batch).backward()
    assert training_pass(how, passes).total == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_operations_of_a_kadid_step():
    passes = Passes(KADID, answers=48, pictures=16)
    picture = forward(GPU, passes).total / 8
    assert picture == pytest.approx(14.6e12, rel=0.01)
    found = step(GPU, passes, Scoring(reference=True, old=True))
    # The forward pass, most of it again, twice back; the reference's and the old policy's.
    assert found["old"] == found["reference"] == pytest.approx(8 * picture)
    assert 3.6 < found["training"] / found["old"] < 4
    # Two operations for each weight that a drawn token meets: all but the word embeddings and the vision tower.
    drawn = generation(SEVEN, replace(KADID, patches=4), 6, 6)
    met = SEVEN.language_parameters - SEVEN.embedding_parameters
    assert drawn == pytest.approx(2 * (600 + 101) * met, rel=0.05)


def test_what_ranks_send():
    eight = Passes(KADID, answers=6, count=16, pictures=16)
    weights = 2 * SEVEN.parameters
    ddp = traffic(replace(LORA, launcher="ddp", ranks=8), eight, 16)
    assert (ddp.gradients, ddp.weights, ddp.sync) == (2 * 7 / 8 * 4 * LORA.trained, 0, 0)
    zero2 = traffic(replace(GPU, launcher="zero2"), eight, 16)
    assert (zero2.gradients, zero2.weights) == pytest.approx((16 * 7 / 8 * weights, 7 / 8 * weights))
    zero3 = traffic(GPU, eight, 16, "colocate")
    assert zero3.weights == pytest.approx((32 + 16) * 7 / 8 * weights)  # two of a training pass, one of a scoring pass
    assert (zero3.gradients, zero3.sync) == pytest.approx((16 * 7 / 8 * weights, 7 / 8 * weights))
    fsdp2 = traffic(replace(GPU, launcher="fsdp2"), eight, 16, "server")
    assert fsdp2.gradients == pytest.approx(7 / 8 * 2 * weights)  # once, in float32
    assert fsdp2.sync == pytest.approx((7 / 8 + 1) * weights)
    alone = traffic(replace(LORA, ranks=1), eight, 16, "colocate")
    assert alone.total == 0
    # One pass of all answers in place of sixteen gathers a sixteenth.
    assert traffic(GPU, replace(eight, answers=96, count=1), 1).weights == pytest.approx(zero3.weights / 16)


def test_the_shipped_policy_has_the_sizes_of_its_file():
    assert read_sizes(SHIPPED).parameters == parameter_count(stored_shapes(SHIPPED))
