"""The two tests: what each asks, and what comes of the answers. Answers are texts by the keys of their prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vqr1.asking.choice_question import ChoiceQuestion
from vqr1.asking.figures import Figures, choice_figures, pair_figures
from vqr1.asking.forms import FORMS, FormName
from vqr1.asking.pair_sets import PairSet
from vqr1.asking.prompts import ORDERS, Prompt, choice_key, choice_prompts, pair_key, pair_prompts
from vqr1.questions import Choice, read_letter

Answers = Mapping[str, str]


class Asked(Protocol):
    """One of the two."""

    @property
    def form(self) -> str: ...

    def prompts(self) -> list[Prompt]: ...

    def rows(self, answers: Answers) -> list[dict[str, Any]]:
        """A row for each answer, with what was read of it."""
        ...

    def figures(self, answers: Answers) -> dict[str, Figures]:
        """By set."""
        ...


@dataclass(frozen=True)
class AskedPairs:
    """Which of two pictures is better."""

    sets: Sequence[PairSet]
    form: FormName
    both_orders: bool
    references: bool  # are shown where a pair has one

    @property
    def orders(self) -> tuple[str, ...]:
        return ORDERS if self.both_orders else ORDERS[:1]

    def prompts(self) -> list[Prompt]:
        form = FORMS[self.form]
        return [
            prompt for each in self.sets for prompt in pair_prompts(each, form, self.orders, references=self.references)
        ]

    def rows(self, answers: Answers) -> list[dict[str, Any]]:
        found = []
        for each in self.sets:
            for i, pair in enumerate(each.pairs.tolist()):
                for order in self.orders:
                    first, second = pair if order == ORDERS[0] else pair[::-1]
                    answer = answers[pair_key(each, i, order)]
                    found.append(
                        {
                            "set": each.name,
                            "pair": each.pair_ids[i],
                            "order": order,
                            "first": each.pictures[first],
                            "second": each.pictures[second],
                            "answer": answer,
                            "choice": FORMS[self.form].read(answer).value,
                        }
                    )
        return found

    def figures(self, answers: Answers) -> dict[str, Figures]:
        def choices(each: PairSet, order: str) -> list[Choice]:
            return [FORMS[self.form].read(answers[pair_key(each, i, order)]) for i in range(len(each.pairs))]

        return {
            each.name: pair_figures(
                each, choices(each, ORDERS[0]), choices(each, ORDERS[1]) if self.both_orders else None
            )
            for each in self.sets
        }


@dataclass(frozen=True)
class AskedChoices:
    """Questions with options."""

    name: str  # of the file's format
    questions: Sequence[ChoiceQuestion]
    every_rotation: bool
    form: str = "options"

    def prompts(self) -> list[Prompt]:
        return [prompt for question in self.questions for prompt in choice_prompts(question, self.every_rotation)]

    def rows(self, answers: Answers) -> list[dict[str, Any]]:
        found = []
        for question in self.questions:
            n = len(question.options)
            for k, place in enumerate(self._places(question, answers)):
                found.append(
                    {
                        "row": question.row,
                        "rotation": k,
                        "pictures": list(question.pictures),
                        "question": question.question,
                        "options": question.rotated(k),
                        "right": None if question.right is None else (question.right - k) % n,
                        "answer": answers[choice_key(question, k)],
                        "place": place,
                    }
                )
        return found

    def figures(self, answers: Answers) -> dict[str, Figures]:
        return {self.name: choice_figures(self.questions, [self._places(each, answers) for each in self.questions])}

    def submission(self, answers: Answers) -> list[dict[str, Any]]:
        """What Q-Bench's authors take: each row as it came, with the answer to its listed order as ``response``."""
        return [
            {**question.fields, "response": answers[choice_key(question, 0)].strip()} for question in self.questions
        ]

    def _places(self, question: ChoiceQuestion, answers: Answers) -> list[int | None]:
        rotations = range(len(question.options) if self.every_rotation else 1)
        return [read_letter(answers[choice_key(question, k)], question.rotated(k)) for k in rotations]
