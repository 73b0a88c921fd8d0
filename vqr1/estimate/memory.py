"""The memory that a rank of a run takes, in parts: bytes, from the sizes of the policy and how it is trained.

What is held all the time is exact, and so is what autograd keeps of a forward pass, tensor by tensor as
``tests/test_estimate.py`` compares it. What libraries hold besides, and allocators, is a constant beside its name.

T tokens of the language model after packing, N patches, h and i the widths of a layer, s bytes of a number.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal

from vqr1.estimate.sizes import BLOCK, LAYER, Linear, Sizes

FLOAT = 4  # bytes
MOMENTS = 2 * FLOAT  # AdamW's, of a parameter
MASTER = FLOAT  # DeepSpeed's float32 copy of a parameter, which it keeps of float32 weights as well

# TRL's fused head (trl.kernels.chunked_logprob): tiles of so many tokens and so many entries of the vocabulary.
TILE_TOKENS, TILE_ENTRIES = 4096, 32768
# Triton works on the tile itself; torch's operations, without it, hold so many float32 copies of it at once.
TILE_COPIES = 7.25

# Where transformers' generate draws a token: its logits, as they are processed, their softmax.
LOGITS = 3

# DeepSpeed's defaults, in numbers: a bucket of gradients under way, and gathered weights that are kept.
REDUCE_BUCKET = 5e8
LIVE_PARAMETERS = 1e9

# On a GPU: CUDA's and NCCL's own, the workspaces of matrix products, and what an allocator cannot use.
RUNTIME = 2.5e9
# Without one: what torch's libraries take when they first compute, and its allocator does not give back.
RUNTIME_WITHOUT_GPU = 0.2e9

Attention = Literal["kernel", "segments", "mask", "rows"]
MASKED_TOKENS = 1024  # where there is no kernel, longer groups are attended to by segments (policy.shared_prefix.LONG)

PARAMETER_LAUNCHERS = ("zero3", "fsdp2")  # that share out the weights
STATE_LAUNCHERS = ("zero2", *PARAMETER_LAUNCHERS)  # that share out the optimiser


@dataclass(frozen=True)
class Question:
    """A prompt with its pictures and its answers, in numbers."""

    text: int  # tokens of the prompt beside the pictures'
    patches: int  # of one picture
    answer: int  # tokens
    k: int
    at_most: bool = False  # so many patches: what the pictures have is not known
    pictures: int = 1  # in the prompt

    def prompt(self, sizes: Sizes) -> int:
        """Tokens of the prompt, the pictures' among them."""
        return self.text + self.pictures * (self.patches // sizes.merge**2)

    def packed(self, sizes: Sizes, answers: int, shared: bool = True) -> int:
        """Tokens that ``answers`` to it take in a pass (vqr1.policy.shared_prefix); not ``shared``: in rows."""
        prompt = self.prompt(sizes)
        return prompt - 1 + answers * self.answer if shared else answers * (prompt + self.answer)

    def keys(self, sizes: Sizes, answers: int) -> int:
        """Keys that are gathered for it where attention goes by segments."""
        prompt = self.prompt(sizes) - 1
        return prompt + answers * (prompt + self.answer)

    def longest(self, sizes: Sizes) -> int:
        return self.prompt(sizes) + self.answer


@dataclass(frozen=True)
class Training:
    """How a policy is trained, as far as memory and time follow from it."""

    sizes: Sizes
    itemsize: int  # bytes of a loaded weight: 2 or 4
    lora: int | None = None  # the adapters' rank; None: all weights
    targets: str = ""  # of the adapters
    train_vision: bool = True
    reference: bool = True  # whether a start policy is kept beside the trained one: beta above 0, without LoRA
    checkpointing: bool = True
    gpu: bool = True
    launcher: str = "none"  # none, ddp, zero2, zero3, fsdp2
    ranks: int = 1
    attention: Attention = "kernel"

    @property
    def shared(self) -> bool:
        """Whether answers share their prompt."""
        return self.attention != "rows"

    @property
    def through_vision(self) -> bool:
        """Whether gradients go through the vision tower; with adapters and checkpointing they do, frozen as it is."""
        if self.lora is None:
            return self.train_vision
        return self.checkpointing or any(m.name.startswith("model.visual.") for m in self.adapters)

    @cached_property
    def adapters(self) -> list[Linear]:
        return [] if self.lora is None else self.sizes.targets(self.targets)

    @property
    def trained(self) -> int:
        """Parameters that are learnt."""
        if self.lora is not None:
            return self.sizes.lora_parameters(self.lora, self.targets)
        return self.sizes.parameters - (0 if self.train_vision else self.sizes.vision_parameters)

    @property
    def frozen(self) -> int:
        """Parameters that are loaded and not learnt."""
        return self.sizes.parameters - (0 if self.lora is not None else self.trained)


@dataclass(frozen=True)
class Passes:
    """How a rank's share of a step goes through the policy."""

    question: Question
    answers: int  # in one pass
    count: int = 1  # passes to an optimiser step
    pictures: int = 1  # of a rank's share of a generation batch

    def tokens(self, sizes: Sizes, shared: bool) -> int:
        """Tokens that the language model is sent in one pass."""
        pictures, answers = self.per_picture()
        return pictures * self.question.packed(sizes, answers, shared)

    def patches(self, shared: bool) -> int:
        """Patches that the vision tower is sent in one pass."""
        return self.question.pictures * self.question.patches * (self.per_picture()[0] if shared else self.answers)

    def per_picture(self) -> tuple[int, int]:
        """Pictures in one pass, and answers to each."""
        k = self.question.k
        return (self.answers // k, k) if self.answers >= k else (1, self.answers)


@dataclass(frozen=True)
class Rollouts:
    """What draws the answers, as far as it takes a training rank's memory."""

    vllm: float = 0.0  # bytes of a GPU that vLLM keeps to itself, in the training processes
    sleeps: bool = False  # gives them back while the policy is trained
    own: int = 0  # answers that transformers' generate draws at once, with a cache beside the trained weights


@dataclass(frozen=True)
class Memory:
    """Bytes of a rank, by what takes them."""

    weights: float
    gradients: float
    optimiser: float  # with float32 copies of the weights where they are kept
    reference: float
    sharding: float  # buffers of DDP, DeepSpeed or FSDP2: gathered weights, gradients under way
    activations: float  # of one pass, at its largest
    head: float  # tiles of logits, and the output layer's gradient, beyond gradients that are not there yet
    cache: float  # keys, values and logits where transformers generates; never at once with the last two
    pictures: float  # patches of a generation batch
    vllm: float  # its weights and its cache
    runtime: float  # CUDA's, and what an allocator cannot use
    sleeps: bool = False  # vLLM gives its memory back while the policy is trained

    @property
    def held(self) -> float:
        """All the time, whatever is computed."""
        return self.weights + self.gradients + self.optimiser + self.reference

    @property
    def total(self) -> float:
        """At the peak of a step."""
        passing, drawing = self.activations + self.head, self.cache
        peak = max(passing, drawing + self.vllm) if self.sleeps else max(passing, drawing) + self.vllm
        return self.held + self.sharding + peak + self.pictures + self.runtime

    @property
    def without_pictures(self) -> float:
        """What no size of a picture or an answer changes."""
        return self.held + self.sharding + self.vllm * (not self.sleeps) + self.runtime

    def parts(self) -> dict[str, float]:
        """What takes anything, by name."""
        return {name: taken for f in fields(self) if (name := f.name) != "sleeps" and (taken := getattr(self, name))}


def memory(training: Training, passes: Passes, rollouts: Rollouts = Rollouts()) -> Memory:
    """Of one rank at its peak."""
    how, ranks = training, training.ranks
    size, s = how.sizes, how.itemsize
    learnt, frozen, shards = how.trained, how.frozen, 1 if how.launcher not in STATE_LAUNCHERS else ranks
    weight_shards = ranks if how.launcher in PARAMETER_LAUNCHERS else 1
    deepspeed = how.launcher.startswith("zero")
    # Adapters are float32, as are weights without a float32 copy of their own; FSDP2 makes weights that.
    each = s if deepspeed else FLOAT
    reference = size.parameters * s / weight_shards if how.reference and how.lora is None else 0
    sharding = 0.0
    if how.launcher == "ddp":
        sharding = FLOAT * learnt  # its buckets
    elif deepspeed:
        sharding = s * min(REDUCE_BUCKET, learnt)
        if how.launcher == "zero3":
            sharding += s * min(LIVE_PARAMETERS, size.parameters)
    elif how.launcher == "fsdp2":
        root = size.language_parameters - size.layers * size.layer_parameters
        sharding = s * (root + 2 * size.layer_parameters)
        if passes.count > 1:  # gradients are summed up before they are shared out
            sharding += s * learnt
    gradients = each * learnt / shards
    passing = activations(how, passes)
    # The output layer's gradient, in float32 before it is added to others, comes first in a backward pass, and that of
    # the word embeddings, which may be the same weights', last. Of a first pass nothing else is there at its beginning.
    summed = passes.count > 1 or how.launcher in STATE_LAUNCHERS
    own = size.embedding_parameters * FLOAT * (how.lora is None)
    first = head_tiles(how, passes) + own - (0 if summed else gradients)
    last = own * (size.tied + summed) - passing
    # Without a GPU frozen weights are mapped from their file, of which few words are looked up; and torch widens half
    # precision for a product of the output layer where the processor has no arithmetic for it.
    mapped = 0 if how.gpu or how.lora is None or size.tied else size.embedding_parameters * s
    widened = size.embedding_parameters * FLOAT if not how.gpu and s < FLOAT and rollouts.own else 0
    return Memory(
        weights=(each * learnt + s * frozen) / weight_shards - mapped,
        gradients=gradients,
        optimiser=(MOMENTS + MASTER * deepspeed) * learnt / shards,
        reference=reference,
        sharding=sharding,
        activations=passing,
        head=max(first, last, 0.0),
        cache=rollouts.own * (cache_bytes(size, passes.question.longest(size), s) + LOGITS * FLOAT * size.vocabulary)
        + widened,
        pictures=passes.pictures * passes.question.pictures * passes.question.patches * size.patch_numbers * FLOAT,
        vllm=rollouts.vllm,
        runtime=RUNTIME if how.gpu else RUNTIME_WITHOUT_GPU,
        sleeps=rollouts.sleeps,
    )


def cache_bytes(sizes: Sizes, tokens: int, itemsize: int) -> int:
    """Bytes of the keys and values of ``tokens`` in all layers, ``itemsize`` bytes a number."""
    return 2 * itemsize * tokens * sizes.layers * sizes.key_width


def saved_by_layer(training: Training, passes: Passes) -> float:
    """Bytes that autograd keeps of one layer of the language model."""
    how, question, size = training, passes.question, training.sizes
    wide, inner, s = size.hidden, size.intermediate, how.itemsize
    pictures, answers = passes.per_picture()
    tokens = passes.tokens(size, how.shared)
    # Inputs of two norms, in float32; queries and outputs of the attention; gate, its activation and up.
    kept: float = 2 * wide * FLOAT + 2 * wide * s + 3 * inner * s
    if how.lora is None:  # the norms before their weights, and the inputs of the linear maps
        kept += 2 * wide * s + 3 * wide * s + inner * s
    else:
        kept += _adapter_inputs(how, size.layer(), LAYER.format(0))
    if how.attention in ("kernel", "segments"):  # keys and values gathered for each branch, by torch for every head
        width = size.key_width if how.attention == "kernel" else wide
        keys = 2 * pictures * question.keys(size, answers) * width * s
    elif how.attention == "mask":  # one copy for every head, and the mask as numbers
        keys = 2 * tokens * wide * s + tokens * question.packed(size, answers) * s
    else:
        keys = 2 * tokens * size.key_width * s
    return tokens * kept + keys


# Maps of a layer or block that read one tensor.
READS = {"q_proj": "states", "k_proj": "states", "v_proj": "states", "gate_proj": "between", "up_proj": "between"}


def _adapter_inputs(training: Training, maps: list[Linear], where: str) -> float:
    """Bytes a token that are kept for the adapters on ``maps`` of the layer called ``where``."""
    adapted = {m.name for m in training.adapters}
    own = [m for m in maps if where + m.name in adapted]
    if training.itemsize == FLOAT:  # several adapters read one tensor
        last = [(m.name.split(".")[-1], m.inputs) for m in own]
        inputs = sum({READS.get(name, name): FLOAT * wide for name, wide in last}.values())
    else:  # each casts its input to float32 for itself; autocast, on a GPU, keeps it in half precision
        inputs = sum((training.itemsize if training.gpu else FLOAT) * m.inputs for m in own)
    return inputs + FLOAT * (training.lora or 0) * len(own)


def saved_by_block(training: Training, patches: float) -> float:
    """Bytes that autograd keeps of one block of the vision tower, whose weights or patches it wants gradients of."""
    size, s = training.sizes, training.itemsize
    wide, inner = size.vision_hidden, size.vision_intermediate
    # Inputs of two norms in float32; queries, keys, and values within their whole projection; outputs of the attention.
    kept: float = 2 * wide * FLOAT + 6 * wide * s + 3 * inner * s
    if training.lora is None:
        kept += 2 * wide * s + 3 * wide * s + inner * s
    else:
        kept += _adapter_inputs(training, size.block(), BLOCK.format(0))
    return patches * kept


def activations(training: Training, passes: Passes) -> float:
    """Bytes that a forward and backward pass holds at its peak beside weights and gradients, without the head's."""
    how, size = training, training.sizes
    largest = saved_by_layer(how, passes) if how.checkpointing else 0.0  # a layer is computed again
    if how.checkpointing and how.through_vision:
        largest = max(largest, saved_by_block(how, passes.patches(how.shared)))
    # Gradients on their way through a layer.
    return saved(how, passes) + largest + 3 * passes.tokens(size, how.shared) * size.intermediate * how.itemsize


def saved(training: Training, passes: Passes) -> float:
    """Bytes of what autograd keeps of one forward pass."""
    how, size, s = training, training.sizes, training.itemsize
    tokens, patches = passes.tokens(size, how.shared), passes.patches(how.shared)
    learnt = how.lora is None
    # The last norm, and the head's input.
    kept: float = tokens * size.hidden * (FLOAT + (2 if learnt else 1) * s)
    layer: float = tokens * size.hidden * s if how.checkpointing else saved_by_layer(how, passes)
    kept += size.layers * layer
    if how.through_vision:
        # The merger: its norm, and both sides of its activation.
        kept += patches * size.vision_hidden * (FLOAT + (4 if learnt else 1) * s)
        block: float = patches * size.vision_hidden * s if how.checkpointing else saved_by_block(how, patches)
        kept += size.vision_depth * block
        if learnt:
            kept += patches * size.patch_numbers * s
    return kept


def head_tiles(training: Training, passes: Passes) -> float:
    """Bytes that TRL's fused head holds for a moment of the backward pass: tiles of logits, gradients of its input."""
    how, size = training, training.sizes
    # With Triton, answers alone are scored; without it, every token.
    scored = passes.answers * passes.question.answer if how.gpu else passes.tokens(size, how.shared)
    rows = min(scored, TILE_TOKENS)
    held: float = rows * TILE_ENTRIES * how.itemsize + scored * size.hidden * FLOAT
    if not how.gpu:
        held += rows * min(TILE_ENTRIES, size.vocabulary) * TILE_COPIES * FLOAT
    return held


def checkpoint_bytes(training: Training) -> float:
    """Of one checkpoint on the disk, all ranks together: trained weights, and the optimiser's state of each."""
    return saved_weights(training) + training.trained * (MOMENTS + MASTER * training.launcher.startswith("zero"))


def saved_weights(training: Training) -> float:
    """Bytes of the weights in a checkpoint, in best/ or in final/: all of them, or the adapters."""
    if training.lora is not None:
        return FLOAT * training.trained
    each = FLOAT if training.launcher == "fsdp2" else training.itemsize
    return each * training.sizes.parameters
