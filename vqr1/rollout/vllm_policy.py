"""Answers from a policy by itself, outside training: vLLM, which is given all questions at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch

from vqr1.rollout.engine import MAX_SEED, Asks, Question, Sampling, vision_tokens
from vqr1.rollout.offline import encode_prompts, pictures_of


class VllmPolicy:
    """As :class:`vqr1.rollout.offline.Policy`, by vLLM.

    The noise of an answer is a function of its example's ``seed``, where it has one, and of its place among the
    answers to that example, or of its ``answer_seed`` alone. The other questions of a call then reach it through
    rounding alone (docs/performance.md).
    """

    def __init__(self, engine: Asks, processor: Any, stop: Sequence[int], *, max_tokens: int, temperature: float):
        self._engine = engine
        self._processor = processor
        self._sampling = Sampling(temperature, max_tokens, tuple(stop), vision_tokens(processor.tokenizer))

    def answer(self, examples: Sequence[dict[str, Any]], temperature: float | None = None) -> list[str]:
        """One answer to each example, in order."""
        return self._processor.tokenizer.batch_decode(self.draw(examples, temperature), skip_special_tokens=True)

    def draw(self, examples: Sequence[dict[str, Any]], temperature: float | None = None) -> list[list[int]]:
        """The answers' tokens; neighbours of one ``image_id`` are asked as one question, if no answer has its seed."""
        runs = [list(run) for _, run in groupby(examples, key=lambda example: example["image_id"])]
        ids = encode_prompts(self._processor, [run[0] for run in runs], padding=False)["input_ids"]
        if "answer_seed" in examples[0]:
            questions = [
                Question(list(prompt), pictures_of(example), 1, example["answer_seed"])
                for prompt, run in zip(ids, runs, strict=True)
                for example in run
            ]
        else:
            drawn = torch.randint(MAX_SEED, (len(runs),)).tolist()
            questions = [
                Question(list(prompt), pictures_of(run[0]), len(run), run[0].get("seed", seed))
                for prompt, run, seed in zip(ids, runs, drawn, strict=True)
            ]
        temperature = self._sampling.temperature if temperature is None else temperature
        answers = self._engine.ask(questions, replace(self._sampling, temperature=temperature))
        return [answer.ids for of_one in answers for answer in of_one]
