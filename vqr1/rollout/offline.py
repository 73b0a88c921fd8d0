"""Answers from a policy by itself, outside training: transformers' generate."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from transformers import LogitsProcessor, StoppingCriteria, StoppingCriteriaList
from trl.data_utils import prepare_multimodal_messages

from vqr1.answer import build_prompt
from vqr1.data.pictures import TOKEN_PIXELS
from vqr1.rollout.engine import stop_tokens, vision_tokens


def pictures_of(example: dict[str, Any]) -> list[Image.Image]:
    """What an example shows, in order: its ``images``, as TRL calls several, or its one ``image``."""
    return example["images"] if "images" in example else [example["image"]]


def encode_prompts(
    processor: Any, examples: Sequence[dict[str, Any]], padding: bool = True, template: dict[str, Any] | None = None
) -> Any:
    """The model's inputs for examples with ``prompt`` and ``image`` or ``images``: padded tensors, or else lists.

    Padding is on the left.

    ``template``: what the chat template is given besides.
    """
    prompts = [prepare_multimodal_messages(e["prompt"], images=pictures_of(e)) for e in examples]
    return processor.apply_chat_template(
        prompts,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        **(template or {}),
        **({"return_tensors": "pt", "processor_kwargs": {"padding": True}} if padding else {}),
    )


def text_tokens(
    processor: Any, prompt: str | list[dict[str, Any]], template: dict[str, Any] | None = None, pictures: int = 1
) -> int:
    """Tokens of a prompt, or of messages, without those of its pictures."""
    blank = Image.new("RGB", (2 * TOKEN_PIXELS, 2 * TOKEN_PIXELS))
    messages = build_prompt(prompt) if isinstance(prompt, str) else prompt
    example = {"prompt": messages, "images": [blank] * pictures}
    (ids,) = encode_prompts(processor, [example], padding=False, template=template)["input_ids"]
    return sum(token != processor.image_token_id for token in ids)


class OwnNoise(LogitsProcessor):
    """Lets the likeliest token be a draw, by noise of each row's own: the other rows of a batch do not reach it.

    The largest of logits / temperature + Gumbel noise is a draw from their softmax.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, device: torch.device):
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self._temperature = temperature

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """``scores`` (R, vocabulary), -inf where a token may not be drawn."""
        waits = torch.empty_like(scores, dtype=torch.float32)  # exponential; minus their logarithm is Gumbel's
        for row, generator in zip(waits, self._generators, strict=True):
            row.exponential_(generator=generator)
        return scores.float() / self._temperature - waits.clamp_min(torch.finfo(waits.dtype).tiny).log()


class Enough(StoppingCriteria):
    """Ends each row of a batch by itself, where ``enough`` says so of the texts of the tokens drawn so far."""

    def __init__(self, enough: Callable[[Sequence[str]], bool], tokenizer: Any, rows: int, prompt: int):
        """``prompt``: tokens before the first drawn one."""
        self.lengths: list[int | None] = [None] * rows  # of the rows that ended so
        self._enough = enough
        self._texts: list[list[str]] = [[] for _ in range(rows)]
        self._prompt = prompt
        self._text = functools.cache(lambda token: tokenizer.decode([token], skip_special_tokens=True))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        for row, drawn in enumerate(input_ids[:, self._prompt :].tolist()):
            texts = self._texts[row]
            texts += map(self._text, drawn[len(texts) :])
            if self.lengths[row] is None and self._enough(texts):
                self.lengths[row] = len(texts)
        return torch.tensor([length is not None for length in self.lengths], device=input_ids.device)


class Policy:
    """A model and its processor, which answer as the trainer would: untruncated sampling, no vision tokens.

    Examples with an ``answer_seed`` are answered each by noise of that seed alone, the others by torch's generator.

    A temperature of 0 is greedy: the likeliest token at every place. What the model's own generation_config.json says
    does not count: a repetition penalty there is none that the trainer applies.
    """

    def __init__(self, model: Any, processor: Any, *, max_tokens: int, temperature: float = 1.0):
        self.model = model
        self.processor = processor
        self.temperature = temperature
        self._max_tokens = max_tokens
        self._stop = stop_tokens(model.generation_config, processor.tokenizer)

    def answer(self, examples: Sequence[dict[str, Any]], temperature: float | None = None) -> list[str]:
        """One answer to each example, in order."""
        return self.processor.tokenizer.batch_decode(self.draw(examples, temperature), skip_special_tokens=True)

    def draw(
        self,
        examples: Sequence[dict[str, Any]],
        temperature: float | None = None,
        enough: Callable[[Sequence[str]], bool] | None = None,
    ) -> list[list[int]]:
        """The answers' tokens, the last one a stop token unless an answer was cut.

        ``enough``: cut an answer as soon as this says so of its tokens' texts.
        """
        inputs = encode_prompts(self.processor, examples).to(self.model.device)
        temperature = self.temperature if temperature is None else temperature
        # 50 is what transformers takes for "not set": it warns of any other number beside a greedy choice.
        sampling: dict[str, Any] = {"do_sample": False, "temperature": 1.0, "top_k": 50}
        if temperature > 0 and "answer_seed" in examples[0]:
            seeds = [example["answer_seed"] for example in examples]
            sampling["logits_processor"] = [OwnNoise(seeds, temperature, self.model.device)]
        elif temperature > 0:
            sampling = {"do_sample": True, "temperature": temperature, "top_k": 0}
        cut = None
        if enough:
            cut = Enough(enough, self.processor.tokenizer, *inputs["input_ids"].shape)
            sampling["stopping_criteria"] = StoppingCriteriaList([cut])
        self.model.eval()
        with torch.inference_mode():
            generated = self.model.generate(
                **inputs,
                max_new_tokens=self._max_tokens,
                **sampling,
                top_p=1.0,
                repetition_penalty=1.0,
                eos_token_id=list(self._stop),
                suppress_tokens=list(vision_tokens(self.processor.tokenizer)),
            )
        drawn = generated[:, inputs["input_ids"].shape[1] :].tolist()
        lengths = cut.lengths if cut else [None] * len(drawn)
        return [_ended(row[:length], self._stop) for row, length in zip(drawn, lengths, strict=True)]


def _ended(ids: list[int], stop: Sequence[int]) -> list[int]:
    """``ids`` without what follows the first stop token: padding, beside a longer answer of the same batch."""
    return ids[: next((i + 1 for i, token in enumerate(ids) if token in stop), len(ids))]
