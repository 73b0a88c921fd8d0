"""Operations of a step, the bytes its ranks send, and about how long it takes.

Operations are multiplications and additions, counted as torch's counter does: two to each product, all of a square of
attention whatever is masked. A backward pass takes twice the forward pass, where weights are learnt, of the matrix
products, and five products of attention instead of two.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import NamedTuple

from vqr1.estimate.memory import FLOAT, Passes, Question, Training, cache_bytes
from vqr1.estimate.sizes import Linear, Sizes


class Operations(NamedTuple):
    """Of matrix products with weights, and of attention."""

    products: float
    attention: float

    def plus(self, other: Operations) -> Operations:
        return Operations(self.products + other.products, self.attention + other.attention)

    def times(self, number: float, attention: float | None = None) -> Operations:
        return Operations(self.products * number, self.attention * (number if attention is None else attention))

    @property
    def total(self) -> float:
        return self.products + self.attention


def language(sizes: Sizes, question: Question, answers: int, attention: str = "kernel") -> Operations:
    """Forward, one picture with ``answers``, without the head."""
    tokens = question.packed(sizes, answers, attention != "rows")
    products = 2 * tokens * sum(m.inputs * m.outputs for m in sizes.layer())
    prompt, answer = question.prompt(sizes), question.answer
    pairs: float
    if attention == "rows":
        pairs = answers * question.longest(sizes) ** 2
    elif attention == "mask":
        pairs = tokens**2
    else:
        pairs = (prompt - 1) ** 2 + answers * answer * (prompt - 1 + answer)
    return Operations(sizes.layers * products, sizes.layers * 4 * sizes.hidden * pairs)


def head(sizes: Sizes, tokens: int) -> Operations:
    """Forward, of so many tokens that are scored."""
    return Operations(2 * tokens * sizes.embedding_parameters, 0)


def vision(sizes: Sizes, patches: int) -> Operations:
    """Forward, one picture of so many patches; a window that is cut by the picture's edge counts as a whole one."""
    products: float = sizes.vision_depth * sum(m.inputs * m.outputs for m in sizes.block())
    products += sizes.patch_numbers * sizes.vision_hidden
    products += sum(m.inputs * m.outputs for m in sizes.merger()) / sizes.merge**2
    pairs = sizes.vision_whole * patches**2
    pairs += (sizes.vision_depth - sizes.vision_whole) * patches * min(sizes.window_patches, patches)
    return Operations(2 * patches * products, 4 * sizes.vision_hidden * pairs)


class Parts(NamedTuple):
    """A forward pass."""

    text: Operations
    eyes: Operations
    logits: Operations
    adapters: Operations


def _parts(training: Training, passes: Passes) -> Parts:
    how, size, (pictures, answers) = training, training.sizes, passes.per_picture()
    tokens, seen = passes.tokens(size, how.shared), passes.patches(how.shared) // passes.question.patches
    scored = passes.answers * passes.question.answer if how.gpu else tokens  # without Triton every token is scored
    return Parts(
        language(size, passes.question, answers, how.attention).times(pictures),
        vision(size, passes.question.patches).times(seen),
        head(size, scored),
        Operations(0 if how.lora is None else 2 * how.trained * tokens, 0),
    )


def forward(training: Training, passes: Passes) -> Operations:
    """Of one pass."""
    return functools.reduce(Operations.plus, _parts(training, passes))


def training_pass(training: Training, passes: Passes) -> Operations:
    """Forward, again what checkpointing forgets, and backward, of one pass."""
    how, parts = training, _parts(training, passes)
    learnt = how.lora is None
    # The gradient of the inputs, and where weights are learnt theirs; the head's tiles are made again.
    made = [*parts, parts.text.times(2 if learnt else 1, 2.5), parts.logits.times(3 if learnt else 2)]
    made.append(parts.adapters.times(2))
    if how.through_vision:
        made.append(parts.eyes.times(2 if learnt else 1, 2.5))
    if how.checkpointing:  # a layer is computed again up to its last map, whose output nothing needs
        made += [_without_last(parts.text, how.sizes.layer()), parts.adapters]
        if how.through_vision:
            made.append(_without_last(parts.eyes, how.sizes.block()))
    return functools.reduce(Operations.plus, made)


def _without_last(whole: Operations, maps: list[Linear]) -> Operations:
    numbers = [m.inputs * m.outputs for m in maps]
    return Operations(whole.products * sum(numbers[:-1]) / sum(numbers), whole.attention)


@dataclass(frozen=True)
class Scoring:
    """Passes without gradients over a step's answers."""

    reference: bool  # by the start policy, for the KL penalty
    old: bool  # by the policy before the step, for the importance ratio


def step(training: Training, passes: Passes, scoring: Scoring) -> dict[str, float]:
    """Operations of one rank in one step, generation without: ``training``, ``reference``, ``old``."""
    policy, plain = (forward(how, passes).total * passes.count for how in (training, replace(training, lora=None)))
    return {
        "training": training_pass(training, passes).total * passes.count,
        "reference": plain * scoring.reference,  # with LoRA, the policy without its adapters
        "old": policy * scoring.old,
    }


def generation(sizes: Sizes, question: Question, answers: int, k: int) -> float:
    """Operations of drawing ``answers`` tokens of ``question.answer``, a prompt being read once for ``k``."""
    prompts = answers / k
    read = language(sizes, replace(question, answer=1, k=1), 1)
    read = read.plus(vision(sizes, question.patches).times(question.pictures))
    written = (
        2 * answers * question.answer * (sizes.language_parameters - sizes.embedding_parameters * (not sizes.tied))
    )
    return prompts * read.total + written


@dataclass(frozen=True)
class Traffic:
    """Bytes that one rank sends in a step."""

    gradients: float
    weights: float  # gathered for passes, or after the optimiser's step
    sync: float  # of the weights that vLLM gets

    @property
    def total(self) -> float:
        return self.gradients + self.weights + self.sync


def traffic(training: Training, passes: Passes, scoring_passes: int, vllm: str = "none") -> Traffic:
    """Of rings: a rank sends (n - 1) / n of what is gathered or summed up, and twice that for a sum that all get.

    ``scoring_passes``: passes without gradients in a step. ``vllm``: none, colocate or server, which takes all weights
    from the first rank.
    """
    how, n = training, training.ranks
    ring = (n - 1) / n
    everything = how.sizes.parameters * how.itemsize
    learnt = how.trained * (how.itemsize if how.launcher.startswith("zero") else FLOAT)
    gradients = weights = sync = 0.0
    if how.launcher == "ddp":
        gradients = 2 * ring * learnt
    elif how.launcher == "zero2":  # shared out after each pass; the new weights are gathered once
        gradients = passes.count * ring * learnt
        weights = ring * learnt
    elif how.launcher in ("zero3", "fsdp2"):  # for each forward pass and again for its backward pass
        gradients = (passes.count if how.launcher == "zero3" else 1) * ring * learnt
        weights = (2 * passes.count + scoring_passes) * ring * everything
    if vllm != "none" and how.launcher in ("zero3", "fsdp2"):
        sync = ring * everything  # gathered once more
    if vllm == "server":
        sync += everything
    return Traffic(gradients, weights, sync)


@dataclass(frozen=True)
class Speed:
    """What a GPU reaches: assumptions, those of an H100 with NVLink and a 400 Gb/s port to two GPUs."""

    tflops: float = 989.0  # 1e12 operations a second at its best, in bfloat16
    utilisation: float = 0.35  # of that, in passes
    memory: float = 3.35e12  # bytes a second
    memory_share: float = 0.5  # of that, where tokens are drawn
    token: float = 0.006  # seconds a drawn token takes at the least, whatever the policy
    inside: float = 200e9  # bytes a second that a GPU sends within its machine
    outside: float = 20e9  # ... to other machines
    rest: float = 1.0  # seconds of a step for everything else: pictures, rewards, the optimiser


def seconds(
    training: Training,
    passes: Passes,
    operations: float,
    sent: float,
    longest: int,
    nodes: int = 1,
    parallel: int = 1,
    speed: Speed = Speed(),
) -> dict[str, float]:
    """About, by part, of one step: ``passes``, ``generation``, ``sending`` (as if nothing overlapped), ``rest``.

    ``operations`` and ``sent`` bytes are one rank's; ``longest`` is the longest answer, in tokens, which all wait for;
    ``parallel`` GPUs share vLLM's weights.
    """
    size, question = training.sizes, passes.question
    answers = passes.answers * passes.count
    rate = speed.tflops * 1e12 * speed.utilisation
    weights = size.parameters * training.itemsize / parallel
    cache = answers * cache_bytes(size, question.longest(size), training.itemsize)
    token = max(speed.token, (weights + cache) / (speed.memory * speed.memory_share))
    return {
        "passes": operations / rate,
        "generation": generation(size, question, answers, question.k) / rate + longest * token,
        "sending": sent / (speed.inside if nodes == 1 else speed.outside),
        "rest": speed.rest,
    }
