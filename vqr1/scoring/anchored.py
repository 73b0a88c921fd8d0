"""``vqr1 evaluate method=comparison``: every picture against a few of a training part, the anchors.

Anchors are chosen by their ratings (:mod:`vqr1.comparison.anchors`), compared among each other and solved once. The
result folder keeps them in ``anchors.json``, and an evaluation that goes on takes them from there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vqr1.answering.answerer import Answerer
from vqr1.answering.comparing import prefer_second
from vqr1.answering.methods import Answered
from vqr1.answering.model import Model
from vqr1.comparison.anchors import MosLine, check_no_anchor, choose_anchors, mos_line, score_against_anchors
from vqr1.comparison.scores import comparison_matrix, map_scores
from vqr1.comparison.words import both_orders
from vqr1.data import Sample, find_spec, read_dataset
from vqr1.data.splits import PAPER
from vqr1.errors import UserError
from vqr1.scoring.sets import EvaluatedSet

FILE = "anchors.json"


@dataclass(frozen=True)
class Anchors:
    """The anchors of a set, by rising MOS."""

    dataset: str  # whose training part they are of
    samples: list[Sample]
    said: str  # how many there are, and which intervals have none

    @property
    def ids(self) -> list[str]:
        return [sample.image_id for sample in self.samples]


def choose(name: str | None, intervals: int, sets: Sequence[EvaluatedSet], root: Path, model: Model) -> list[Anchors]:
    """The anchors of each set: of the training part of ``name``, or of the set's own.

    Raises UserError for an anchor that is to be rated, MOS without a range or of one scene only, fewer than two
    anchors, and what :func:`vqr1.data.read_dataset` raises.
    """
    chosen: dict[str, Anchors] = {}
    for each in sets:
        source = name or each.name
        if source not in chosen:
            chosen[source] = _choose(source, intervals, root, model)
        try:
            check_no_anchor((sample.image_id for sample in each.samples), chosen[source].ids)
        except UserError as error:
            raise UserError(
                f"{error}: {each.name} is rated whole, or by other splits than those of its anchors. Set part=test, or "
                "anchors= to a set that is not rated, such as one that the model was trained on"
            ) from error
    return [chosen[name or each.name] for each in sets]


def _choose(source: str, intervals: int, root: Path, model: Model) -> Anchors:
    spec = find_spec(source, root)
    if spec.per_group_scale:
        raise UserError(
            f"anchors need a common scale, and the opinion scores of {source} compare within one {spec.group} only; "
            "set anchors= to another set"
        )
    seen = source in (model.trained_on or [])
    samples = read_dataset(source, root, model.seen.rule if seen else PAPER).train
    if not samples:
        raise UserError(f"{source} has no training part to take anchors from; set anchors= to a set that has one")
    stds = [np.nan if sample.mos_std is None else sample.mos_std for sample in samples]
    known = None if np.isnan(stds).all() else stds
    found = choose_anchors([s.mos for s in samples], known, [s.image_id for s in samples], intervals)
    if len(found.pictures) < 2:
        raise UserError(f"{source}: {found.in_words()}, and two are needed; raise intervals={intervals}")
    return Anchors(source, [samples[i] for i in found.pictures], f"{source}: {found.in_words()}")


@dataclass(frozen=True)
class SolvedAnchors:
    """Anchors with their pictures and scores."""

    pictures: list[Image.Image]
    scores: list[float]


def solve(
    anchors: Anchors, answerer: Answerer, load: Callable[[str], Image.Image], both: bool, at_once: int
) -> dict[str, Any]:
    """The record of compared anchors: each with its score, and the line to the MOS, None where there is none.

    A pair that is asked in both orders is one comparison, with their mean.
    """
    pictures = [load(sample.image) for sample in anchors.samples]
    pairs = list(combinations(range(len(pictures)), 2))
    asked = [(pictures[i], pictures[j]) for i, j in pairs]
    second = prefer_second(answerer, asked, at_once)
    if both:
        second = both_orders(second, prefer_second(answerer, [(j, i) for i, j in asked], at_once))
    first_M, second_M = np.array(pairs).T
    scores = map_scores(comparison_matrix(len(pictures), first_M, second_M, second)).scores.tolist()
    mos = [sample.mos for sample in anchors.samples]
    try:
        line: MosLine | None = mos_line(scores, mos)
    except UserError:
        line = None  # all draws: pictures still differ by how the policy finds them beside the anchors
    return {
        "dataset": anchors.dataset,
        "intervals": anchors.said,
        "anchors": [
            {"image_id": sample.image_id, "mos": sample.mos, "std": sample.mos_std, "score": score}
            for sample, score in zip(anchors.samples, scores, strict=True)
        ],
        "preferences": [[i, j, p] for (i, j), p in zip(pairs, second.tolist(), strict=True)],
        "line": None if line is None else {"slope": line.slope, "intercept": line.intercept},
    }


def read_or_solve(path: Path, anchors: Sequence[Anchors], solve: Callable[[Anchors], dict[str, Any]]) -> dict[str, Any]:
    """The records of anchors by the set they are of: those in ``path``, the others solved.

    Raises UserError for a file that is damaged or of other anchors.
    """
    try:
        records: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        kept = {name: [each["image_id"] for each in record["anchors"]] for name, record in records.items()}
        if not all(isinstance(each["score"], float) for record in records.values() for each in record["anchors"]):
            raise ValueError("a score is no number")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: not the anchors of an evaluation ({str(error)[:80]!r}); delete it and evaluate again"
        ) from error
    for each in anchors:
        if kept.get(each.dataset, each.ids) != each.ids:
            raise UserError(f"{path} has other anchors of {each.dataset}; give another folder=")
    return {each.dataset: records.get(each.dataset) or solve(each) for each in anchors}


def remarks(record: dict[str, Any]) -> list[str]:
    """What to say of solved anchors, a sentence each."""
    if record["line"] is None:
        return [f"{record['dataset']}: the policy finds all anchors alike, so scores have no line to the MOS"]
    if record["line"]["slope"] <= 0:
        return [f"{record['dataset']}: the policy ranks the anchors the wrong way round (the line to the MOS falls)"]
    return []


def answer_against(
    pictures: Sequence[Image.Image], *, answerer: Answerer, anchors: SolvedAnchors, both: bool, at_once: int
) -> list[Answered]:
    """The score of each picture from its comparisons with the anchors, on the scale of their scores."""
    if not pictures:
        return []
    asked = [(anchor, picture) for picture in pictures for anchor in anchors.pictures]
    if both:  # a picture's questions stay together, so that it is encoded once
        turned = [(picture, anchor) for anchor, picture in asked]
        mixed = prefer_second(answerer, [pair for two in zip(asked, turned, strict=True) for pair in two], at_once)
        p = both_orders(mixed[::2], mixed[1::2])
    else:
        p = prefer_second(answerer, asked, at_once)
    preference_BA = p.reshape(len(pictures), len(anchors.pictures))
    scores = score_against_anchors(preference_BA, anchors.scores).tolist()
    return [
        Answered([preferred(own)], [score], [0.0], None, 0, len(own) * (2 if both else 1))
        for own, score in zip(preference_BA.tolist(), scores, strict=True)
    ]


def preferred(preference_A: Sequence[float]) -> str:
    """Such as ``better than the anchors with probability 0.92 0.61 0.13``."""
    return f"better than the anchors with probability {' '.join(f'{p:.3g}' for p in preference_A)}"


def answers_by_set(
    sets: Sequence[EvaluatedSet],
    anchors: Sequence[Anchors],
    records: dict[str, Any],
    load: Callable[[str], Image.Image],
    answerer: Answerer,
    both: bool,
    at_once: int,
) -> dict[str, Callable[[Sequence[Image.Image]], list[Answered]]]:
    """How pictures of each set are answered."""
    solved = {
        each.dataset: SolvedAnchors(
            [load(sample.image) for sample in each.samples],
            [anchor["score"] for anchor in records[each.dataset]["anchors"]],
        )
        for each in {each.dataset: each for each in anchors}.values()
    }
    return {
        rated.name: partial(answer_against, answerer=answerer, anchors=solved[own.dataset], both=both, at_once=at_once)
        for rated, own in zip(sets, anchors, strict=True)
    }


def count_questions(sets: Sequence[EvaluatedSet], anchors: Sequence[Anchors], both: bool) -> int:
    """What is asked in all, of the anchors among each other too."""
    orders = 2 if both else 1
    among = {each.dataset: len(each.samples) * (len(each.samples) - 1) // 2 for each in anchors}
    against = sum(len(rated.samples) * len(own.samples) for rated, own in zip(sets, anchors, strict=True))
    return orders * (against + sum(among.values()))
