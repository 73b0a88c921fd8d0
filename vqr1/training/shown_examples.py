"""Prompts with several pictures and the answers that are taught: rows of a training set, and the tensors of a step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset

from vqr1.data.pictures import Load, load_many
from vqr1.picture_prompts import Message
from vqr1.policy.read_once import of_rows
from vqr1.rollout.offline import encode_prompts


@dataclass(frozen=True)
class Example:
    """A prompt and the answer that is taught to it."""

    pictures: tuple[str, ...]  # paths, in the order of their places in the prompt
    prompt: list[Message]
    answer: str
    name: str  # what messages call it
    dataset: str  # examples of one are mixed with those of others by its size


def digests_by_set(examples: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """BLAKE2b of the examples of each set, in their order: pairs of a set and plain values."""
    found: dict[str, Any] = {}
    for name, values in examples:
        found.setdefault(name, hashlib.blake2b(digest_size=16)).update(f"{json.dumps(values)}\n".encode())
    return {name: of.hexdigest() for name, of in found.items()}


def as_rows(examples: Sequence[Example], load: Load) -> Dataset:
    """The training set: ``images``, ``prompt``, ``answer`` and ``image_id``, pictures opened as they are asked for."""

    def opened(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        chosen = [examples[n] for n in batch["example"]]
        pictures = iter(load_many(load, [path for example in chosen for path in example.pictures]))
        return {
            "images": [[next(pictures) for _ in example.pictures] for example in chosen],
            "prompt": [example.prompt for example in chosen],
            "answer": [example.answer for example in chosen],
            "image_id": [example.name for example in chosen],
        }

    return Dataset.from_dict({"example": list(range(len(examples)))}).with_transform(opened)


class ShownCollator:
    """Makes a batch of such rows: TRL's ``input_ids``, ``labels`` (-100 outside of the answer) and the pictures.

    ``told``: answers whose tokens are known; others are cut into tokens as a whole, and their turn ended.
    """

    def __init__(self, processor: Any, told: Mapping[str, Sequence[int]]):
        self._processor = processor
        self._told = dict(told)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        inputs = encode_prompts(self._processor, rows)
        if "picture" in inputs:  # as many in each prompt
            number = inputs.pop("picture").tolist()
            grid = inputs["image_grid_thw"].reshape(len(rows), -1, 3)
            inputs["pixel_values"] = torch.cat(of_rows(inputs["pixel_values"], grid, number))
        answers = [self._tokens(row["answer"]) for row in rows]
        return {
            **with_answers(inputs, answers, self._processor.tokenizer.pad_token_id),
            "image_id": [row["image_id"] for row in rows],
        }

    def _tokens(self, answer: str) -> Sequence[int]:
        if answer not in self._told:
            tokenizer = self._processor.tokenizer
            self._told[answer] = (*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id)
        return self._told[answer]


def with_answers(inputs: Mapping[str, Any], answers: Sequence[Sequence[int]], pad: int) -> dict[str, Any]:
    """``inputs`` of B prompts, padded on the left, gone on with ``answers``, padded on the right, and ``labels``."""
    width = max(map(len, answers))
    ids = torch.tensor([[*answer, *[pad] * (width - len(answer))] for answer in answers])
    mask = torch.tensor([[1] * len(answer) + [0] * (width - len(answer)) for answer in answers])
    prompt = inputs["input_ids"]
    return {
        **inputs,
        "input_ids": torch.cat([prompt, ids], 1),
        "attention_mask": torch.cat([inputs["attention_mask"], mask], 1),
        "mm_token_type_ids": torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(ids)], 1),
        "labels": torch.cat([torch.full_like(prompt, -100), ids.masked_fill(mask == 0, -100)], 1),
    }
