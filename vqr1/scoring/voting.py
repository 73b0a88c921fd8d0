"""``vqr1 evaluate method=votes``: all pairs of pictures of one reference, each picture's score the share that it wins.

DepictQA's evaluation (arXiv 2312.08962): a vote counts with its confidence, the probability that the second picture is
better, read from the comparison words or, of a policy of objective=depict, from its letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from vqr1.answering.answerer import Answerer
from vqr1.answering.comparing import prefer_second
from vqr1.answering.methods import Answered
from vqr1.data import Sample
from vqr1.data.sample import some_of
from vqr1.errors import UserError
from vqr1.pairing import all_pairs, count_all
from vqr1.scoring.sets import EvaluatedSet, labels_hash
from vqr1.votes import scores_of_votes


def by_reference(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """The pictures of each reference, in order of appearance."""
    members: dict[str, list[Sample]] = {}
    for sample in samples:
        members.setdefault(sample.group, []).append(sample)
    return members


def ready(each: EvaluatedSet, most: int | None) -> EvaluatedSet:
    """A set with its references one after the other, and at most so many pictures of each, drawn over them.

    Raises UserError for a set without a reference that has two pictures.
    """
    members = by_reference(each.samples)
    if all(len(own) < 2 for own in members.values()):
        raise UserError(
            f"method=votes compares pictures of one {each.facts.group}, and none has two of the {len(each.samples)} "
            f"pictures of {each.name}; set method=comparison, or leave the set out"
        )
    kept = [sample for own in members.values() for sample in some_of(own, most)]
    facts = replace(each.facts, pictures=len(kept), labels_sha256=labels_hash(kept))
    if len(kept) < len(each.samples):
        facts = replace(facts, part=f"at most {most} pictures of each {facts.group} ({facts.part})")
    return EvaluatedSet(each.name, facts, kept)


def count_questions(sets: Sequence[EvaluatedSet], both: bool) -> int:
    """What is asked in all."""
    sizes = [len(own) for each in sets for own in by_reference(each.samples).values()]
    return (2 if both else 1) * sum(count_all(n) for n in sizes if n > 1)


def answer_votes(
    pictures: Sequence[Image.Image], *, answerer: Answerer, both: bool, seed: int, at_once: int
) -> list[Answered]:
    """The scores of the pictures of one reference, from votes on all their pairs. Of a single picture there are none.

    With one order, which picture of a pair is shown first is drawn.
    """
    if len(pictures) < 2:
        return [Answered(["no other picture of its reference to vote against"], [None], [None], None, 0, 0)] * len(
            pictures
        )
    pairs = all_pairs(len(pictures), seed)
    shown = [order for i, j in pairs.tolist() for order in ([(i, j), (j, i)] if both else [(i, j)])]
    second = prefer_second(answerer, [(pictures[i], pictures[j]) for i, j in shown], at_once)
    scores, votes = scores_of_votes(shown, 1 - second, len(pictures))
    return [
        Answered([f"{score:.1%} of {number} votes".replace("%", " %")], [score], [0.0], None, 0, number / 2)
        for score, number in zip(scores.tolist(), votes.tolist(), strict=True)
    ]
