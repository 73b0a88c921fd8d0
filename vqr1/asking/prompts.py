"""What is asked: a prompt for each order of a pair, or each rotation of a question."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vqr1.asking.choice_question import ChoiceQuestion
from vqr1.asking.forms import Form
from vqr1.asking.pair_sets import PairSet
from vqr1.picture_prompts import Message, in_order

ORDERS = ("as listed", "swapped")


@dataclass(frozen=True)
class Prompt:
    """One question as the policy gets it."""

    key: str  # of its own among a command's
    pictures: tuple[str, ...]  # paths, in the order of their places
    messages: list[Message]
    options: int = 0  # that have letters; 0 for a pair


def pair_prompts(asked: PairSet, form: Form, orders: Sequence[str], references: bool) -> list[Prompt]:
    """Both orders of a pair one after the other, so that a batch has its pictures once."""
    prompts = []
    for i, (first, second) in enumerate(asked.pairs.tolist()):
        reference = (asked.references[i],) if references and asked.references[i] else ()
        for order in orders:
            shown = (first, second) if order == ORDERS[0] else (second, first)
            pictures = (*reference, *(asked.pictures[each] for each in shown))
            prompts.append(Prompt(pair_key(asked, i, order), pictures, form.ask(bool(reference))))
    return prompts


def pair_key(asked: PairSet, i: int, order: str) -> str:
    return f"{asked.name}/{i}/{order}"


def choice_prompts(question: ChoiceQuestion, every: bool) -> list[Prompt]:
    """A question in its rotations, or in rotation 0 alone."""
    n = len(question.pictures)
    return [
        Prompt(
            choice_key(question, k),
            question.pictures,
            in_order(n, question.wording(question.rotated(k))),
            len(question.options),
        )
        for k in range(len(question.options) if every else 1)
    ]


def choice_key(question: ChoiceQuestion, k: int) -> str:
    return f"{question.row}/{k}"


def prompts_hash(prompts: Iterable[Prompt]) -> str:
    """SHA-256 of what is asked about which files."""
    made = hashlib.sha256()
    for prompt in prompts:
        made.update(json.dumps([prompt.key, prompt.pictures, prompt.messages]).encode(errors="surrogateescape"))
    return made.hexdigest()
