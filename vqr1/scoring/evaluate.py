"""``vqr1 evaluate``: every picture of some sets rated by a policy, the rows written as they come, then the table.

What a picture is answered depends on the seed and the picture alone, as ``vqr1 rate`` answers it, and pictures come in
fixed batches, which matter through rounding: an evaluation that was killed and started again ends with the same file as
one that was not.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from vqr1.answering.answerer import Answerer, check_adapter, load_answerer
from vqr1.answering.methods import Answered, Asked, Shown, answer_pictures
from vqr1.answering.model import Model, answer_facts, check_method, check_model, find_model
from vqr1.answering.settings import Method, objective_of, settle
from vqr1.data.ahead import opened
from vqr1.data.pictures import load_fitted
from vqr1.data.sample import Sample
from vqr1.errors import printable, show
from vqr1.evaluation.paper import published
from vqr1.evaluation.render import as_json, markdown
from vqr1.evaluation.results import ResultRow, make_row, read_evaluation
from vqr1.evaluation.summary import summarise
from vqr1.evaluation.table import benchmark_table, comparable
from vqr1.pairing import check_questions
from vqr1.provenance import finite, versions
from vqr1.rollout_settings import ScoringEngine
from vqr1.scoring import anchored, voting
from vqr1.scoring.anchored import Anchors
from vqr1.scoring.result_folder import ResultFolder, make_record
from vqr1.scoring.sets import EvaluatedSet, read_sets
from vqr1.scoring.settings import EvaluateConfig, Orders
from vqr1.sharing import Ranks, joined

Answer = Callable[[Sequence[Any]], list[Answered]]  # of Shown; a method that shows no reference takes pictures


@dataclass(frozen=True)
class PictureBatch:
    """Pictures of one set that are answered together."""

    name: str  # of the set
    samples: list[Sample]


def evaluate(config: EvaluateConfig) -> Path:
    """Rate, or go on rating, as ``config`` says; print and save the table. Returns the result folder.

    The ranks of a launcher share the pictures, and the first of them writes. Raises UserError before anything is rated
    for wrong settings, data or weights.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    with joined(config.tensor_parallel) as ranks:
        config, model, sets, anchors = ranks.first_before_others(partial(prepare, config))
        # Of label files that change while ranks start each would read other pictures, and share out other batches.
        sets, anchors = ranks.by_first(lambda: (sets, anchors))
        return rate_and_write(config, model, sets, anchors, ranks)


def prepare(config: EvaluateConfig) -> tuple[EvaluateConfig, Model, list[EvaluatedSet], list[Anchors]]:
    """Settled settings, the model, which is not loaded yet, the pictures and each set's anchors, all of them checked.

    Where pictures are compared, the number of questions is said.
    """
    config = settle(config, torch.cuda.device_count())
    model = find_model(config)
    check_adapter(config, model)
    if warning := check_model(model, config.method):
        show(warning, file=sys.stderr)
    check_method(config.method, model)
    root = Path(config.root).expanduser()
    whole_unless = "" if config.partial else "partial"
    sets = read_sets(
        config.data, root, model.trained_on or [], config.limit, model.seen, whole_unless, config.part, model.reference
    )
    if config.method is Method.votes:
        sets = [voting.ready(each, config.limit_per_reference) for each in sets]
    anchors = []
    if config.method is Method.comparison:
        anchors = anchored.choose(config.anchors, config.intervals, sets, root, model)
    say_questions(config, sets, anchors)
    return config, model, sets, anchors


def rate_and_write(
    config: EvaluateConfig, model: Model, sets: Sequence[EvaluatedSet], anchors: Sequence[Anchors], ranks: Ranks
) -> Path:
    assert config.batch
    questions = config.answers
    if anchors:
        questions = max(len(own.samples) for own in anchors) * (2 if config.orders is Orders.both else 1)
    pictures = sum(len(each.samples) for each in sets)
    batches = plan(sets, ranks.at_once(pictures, max(1, config.batch // questions)))
    if config.method is Method.votes:
        batches = [PictureBatch(each.name, own) for each in sets for own in voting.by_reference(each.samples).values()]
    record = make_record(
        model.name, asked(config, model, anchors), model.trained_on, {s.name: s.facts for s in sets}, versions()
    )
    folder = ResultFolder(Path(config.folder or default_folder(config, model)).expanduser())
    try:
        ids = [[sample.image_id for sample in batch.samples] for batch in batches]
        done = ranks.by_first(partial(folder.open, record, ids))
        if done < len(batches):
            rate_all(config, model, sets, anchors, batches, done, folder, ranks)
        if ranks.first:
            print_table(folder)
    finally:
        folder.close()
    return folder.path


def say_questions(config: EvaluateConfig, sets: Sequence[EvaluatedSet], anchors: Sequence[Anchors]) -> None:
    """Say how many questions there are before one is asked. Raises UserError for too many without a yes."""
    both = config.orders is Orders.both
    if config.method is Method.comparison:
        for said in dict.fromkeys(each.said for each in anchors):
            show(said, file=sys.stderr)
        number, what = anchored.count_questions(sets, anchors, both), "pictures against anchors, and anchors"
    elif config.method is Method.votes:
        number, what = voting.count_questions(sets, both), "all pairs of each reference"
    else:
        return
    show(f"{number:,} questions: {what}, in {'both orders' if both else 'one order'}", file=sys.stderr)
    check_questions(number, yes=config.yes)


def default_folder(config: EvaluateConfig, model: Model) -> str:
    """The same for the same command, so that starting it again goes on."""
    often = f"k{config.answers}" if config.until is None else f"until{config.until:g}"
    drawn = f"{often}-seed{config.seed}"
    drawn = {Method.mean: drawn, Method.expected: f"expected-{drawn}"}.get(config.method, config.method.value)
    how = "-".join([drawn, *_compared(config)])
    beside = "-reference" if model.reference else ""
    return f"evaluations/{model.name}-{how}{f'-{config.part.value}' if config.part else ''}{beside}"


def _compared(config: EvaluateConfig) -> Iterator[str]:
    """What sets one evaluation by comparisons apart from another of the same method, for its folder's name."""
    if config.orders is Orders.one:
        yield "one-order"
    if config.anchors:
        yield config.anchors
    if config.intervals != EvaluateConfig.intervals:
        yield f"{config.intervals}-intervals"
    if config.limit_per_reference:
        yield f"{config.limit_per_reference}-per-reference"
    if config.method is Method.votes and config.seed:
        yield f"seed{config.seed}"


def plan(sets: Sequence[EvaluatedSet], pictures: int) -> list[PictureBatch]:
    """All sets one after the other, in batches of ``pictures``; no batch spans two sets."""
    return [
        PictureBatch(each.name, each.samples[first : first + pictures])
        for each in sets
        for first in range(0, len(each.samples), pictures)
    ]


def asked(config: EvaluateConfig, model: Model, anchors: Sequence[Anchors] = ()) -> dict[str, Any]:
    """The settings that decide the answers, settled (:func:`vqr1.answering.settings.settle`)."""
    compared: dict[Method, dict[str, Any]] = {
        Method.comparison: {
            "orders": config.orders.value,
            "anchors": config.anchors or "of the same set",
            "intervals": config.intervals,
            "anchor_pictures": {each.dataset: each.ids for each in anchors},
        },
        Method.votes: {
            "orders": config.orders.value,
            "limit_per_reference": config.limit_per_reference,
            "seed": config.seed,
        },
    }
    return {
        "model": config.model,
        **answer_facts(config, model),
        **compared.get(config.method, {}),
        "objective": model.objective,
        "asks": objective_of(config.method, model.objective),
        "tensor_parallel": config.tensor_parallel if config.engine is ScoringEngine.vllm else None,
        "limit": config.limit,
    }


def rate_all(
    config: EvaluateConfig,
    model: Model,
    sets: Sequence[EvaluatedSet],
    anchors: Sequence[Anchors],
    batches: Sequence[PictureBatch],
    done: int,
    folder: ResultFolder,
    ranks: Ranks,
) -> None:
    """Answer the batches from ``done`` on, with progress and the time that is left."""
    answerer = load_answerer(config, model)
    load = partial(load_fitted, min_pixels=model.policy.min_pixels, max_pixels=model.policy.max_pixels)
    answers = answers_of(config, answerer, load, sets, anchors, folder, ranks)
    total = sum(len(batch.samples) for batch in batches)
    before = sum(len(batch.samples) for batch in batches[:done])

    def rated(mine: Sequence[PictureBatch]) -> Iterator[list[ResultRow]]:
        checked = False
        coming = opened([[path for sample in batch.samples for path in sample.pictures] for batch in mine], load)
        for batch, found in zip(mine, coming, strict=True):
            whole = [picture for picture in found if isinstance(picture, Image.Image)]
            if whole and not checked:
                answerer.check(whole)
                checked = True
            yield rate(batch, found, answers[batch.name])

    left = batches[done:]
    with tqdm(total=total, initial=before, unit="picture", desc=printable(model.name), smoothing=0.05) as progress:
        for rows, batch in zip(ranks.shared(left, rated), left, strict=ranks.first):
            progress.set_postfix_str(batch.name, refresh=False)
            folder.append(rows)
            progress.update(len(rows))


def answers_of(
    config: EvaluateConfig,
    answerer: Answerer,
    load: Callable[[str], Image.Image],
    sets: Sequence[EvaluatedSet],
    anchors: Sequence[Anchors],
    folder: ResultFolder,
    ranks: Ranks,
) -> dict[str, Answer]:
    """How the pictures of each set are answered; anchors are solved first, and kept in the folder."""
    assert config.batch
    both, at_once = config.orders is Orders.both, config.batch
    if config.method is Method.votes:
        voted = partial(voting.answer_votes, answerer=answerer, both=both, seed=config.seed, at_once=at_once)
        return {each.name: voted for each in sets}
    if config.method is not Method.comparison:
        drawn = partial(answer_pictures, answerer, asked=Asked.of(config), at_once=at_once)
        return {each.name: drawn for each in sets}

    def solved() -> dict[str, Any]:
        by_policy = partial(anchored.solve, answerer=answerer, load=load, both=both, at_once=at_once)
        records = anchored.read_or_solve(folder.path / anchored.FILE, anchors, by_policy)
        folder.write_text(anchored.FILE, json.dumps(records, indent=2) + "\n")
        for remark in (said for record in records.values() for said in anchored.remarks(record)):
            show(f"warning: {remark}", file=sys.stderr)
        return records

    return anchored.answers_by_set(sets, anchors, ranks.by_first(solved), load, answerer, both, at_once)


def rate(batch: PictureBatch, found: Sequence[Image.Image | str], answer: Answer) -> list[ResultRow]:
    """The rows of a batch. ``found``: what each sample shows, one after the other, or why it cannot be opened.

    A sample with a picture that cannot be opened is missing, and the others go on.
    """
    left = iter(found)
    shown = [_shown([next(left) for _ in sample.pictures]) for sample in batch.samples]
    answered = iter(answer([each for each in shown if not isinstance(each, str)]))
    rows = []
    for sample, pictures in zip(batch.samples, shown, strict=True):
        of_whom = sample.image_id, sample.dataset, sample.group, sample.mos
        if isinstance(pictures, str):
            rows.append(make_row(*of_whom, [], pictures))
            continue
        each = next(answered)
        stds = None if each.weights is None else each.stds
        numbers: dict[str, Any] = {"stds": stds, "weights": each.weights, "tokens": each.tokens, "passes": each.passes}
        rows.append(make_row(*of_whom, each.scores, each.reasoning, **numbers))
    return rows


def _shown(found: Sequence[Image.Image | str]) -> Shown | str:
    """The pictures of a sample, or why one of them cannot be opened."""
    pictures = [each for each in found if isinstance(each, Image.Image)]
    if len(pictures) < len(found):
        return next(each for each in found if isinstance(each, str))
    return pictures if len(pictures) > 1 else pictures[0]


def print_table(folder: ResultFolder) -> None:
    """The table on the screen, in ``table.md`` and, with everything in it, in ``table.json``."""
    lines = summarise([read_evaluation(folder.path)])
    rows = comparable(lines, published("2"))
    made = benchmark_table(lines, rows)
    text = markdown(made)
    folder.write_text("table.md", text)
    folder.write_text("table.json", json.dumps(finite(as_json(lines, rows, made)), indent=2) + "\n")
    files = "results.jsonl, evaluation.json, table.md, table.json"
    show(f"{text}\n{folder.path}: {files}{os.linesep}", end="", flush=True)
