"""What is taught with objective=depict: questions on tagged pictures out of rated pairs, with rows of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vqr1.comparison.words import SIMILAR
from vqr1.config import Config
from vqr1.data import DatasetSpec, Sample, find_spec
from vqr1.depiction import Distortion, Question, how_much_better, what_degrades, which_is_better
from vqr1.training.shown_examples import Example
from vqr1.training.training_pairs import Compared

LEVELS = 5  # of strength, in all sets that number them


def examples_of(config: Config, pairs: Sequence[Compared], content: Sequence[Example]) -> list[Example]:
    """A question for each pair, and rows of ``content`` as depict.content_share says, again from the first if few.

    What is asked of a pair, its phrasing, whether a short answer is asked for and whether the reference is shown, where
    the pictures have one in common, are drawn; a function of the seed.
    """
    draw = np.random.default_rng([config.seed, len(pairs)])
    root = Path(config.data.root).expanduser()
    specs = {name: find_spec(name, root) for name in config.data.train}
    examples = [_of_pair(pair, specs[pair.dataset], config.depict.short, draw) for pair in pairs]
    share = config.depict.content_share
    wanted = round(share / (1 - share) * len(examples)) if content else 0
    while wanted > 0:
        again = draw.permutation(len(content))[:wanted]
        examples += [content[i] for i in again.tolist()]
        wanted -= len(again)
    return examples


def _of_pair(pair: Compared, spec: DatasetSpec, short_share: float, draw: np.random.Generator) -> Example:
    first, second = pair.first, pair.second
    short = bool(draw.random() < short_share)
    known = distortion_of(first, spec), distortion_of(second, spec)
    why = (known[0], known[1]) if known[0] is not None and known[1] is not None else None
    # Which of two is better is asked where people's ratings tell them apart, and then twice as often as by how much.
    tasks = ["how much"] if pair.word == SIMILAR else ["how much", "which", "which"]
    task = draw.choice([*tasks, *(["what"] if known[0] is not None else [])])
    shared = first.reference is not None and (task == "what" or first.reference == second.reference)
    reference = shared and bool(draw.random() < 0.5)
    question: Question
    if task == "what" and known[0] is not None:
        question = what_degrades(known[0], draw, short=short, reference=reference)
        shown = [first.image]
    else:
        if task == "which":
            question = which_is_better(second.mos > first.mos, draw, short=short, reference=reference, why=why)
        else:
            question = how_much_better(pair.word, draw, short=short, reference=reference)
        shown = [first.image, second.image]
    pictures = ([first.reference] if reference and first.reference else []) + shown
    return Example(tuple(pictures), question.prompt, question.answer, pair.name, pair.dataset)


def distortion_of(sample: Sample, spec: DatasetSpec) -> Distortion | None:
    """What its dataset knows of a picture's distortion, by its id; None where it knows no name."""
    found = spec.level.search(sample.image_id) if spec.level else None
    name = spec.kinds.get(found["kind"].lower()) if found else None
    return Distortion(name, int(found["level"]), LEVELS) if found and name else None
