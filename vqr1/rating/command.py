"""``vqr1 rate``: a line for each picture of the command line, and files of them."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from vqr1.command_options import Parser, count, path
from vqr1.errors import UserError, printable, show

if TYPE_CHECKING:  # these load torch, which takes seconds: a wrong word is told before
    from vqr1.evaluation.scale import Scale
    from vqr1.rating.files import Found
    from vqr1.rating.rater import Rater
    from vqr1.rating.rating import Rating
    from vqr1.sharing import Ranks
    from vqr1.unfinished import Unfinished

METHODS = "one answer, the likeliest; the mean of K drawn; that of the score's distribution; or of levels in words"
EPILOG = "Exit codes: 0 every picture has a score, 1 some have none, 2 to be put right by you, 130 by Ctrl-C."


def run(words: Sequence[str]) -> int:
    """Rate as the words say. Returns the exit code; raises UserError for what is wrong with words, files or model."""
    asked = parser().parse_args(words)
    if not asked.model and not asked.server:
        raise UserError("which model? Give --model, or --server with a vLLM server that serves one")
    if asked.scale and not asked.model:
        raise UserError(f"--scale {asked.scale}: the curve is stored in the exported folder; give that as --model too")
    if asked.csv and asked.csv == asked.jsonl:
        raise UserError(f"--csv and --jsonl are both {asked.csv}; give two files")
    if asked.server and asked.gpus:
        raise UserError(f"--gpus {asked.gpus} has no effect with --server, which has GPUs of its own; leave it out")

    from vqr1.machine_choices import launched
    from vqr1.rating.files import find_pictures
    from vqr1.rating.scales import find_scale
    from vqr1.sharing import joined, start_ranks

    scale = find_scale(asked.model, asked.scale) if asked.scale else None
    found = None if launched() else find_pictures(asked.pictures, asked.recursive)
    if not asked.server:
        code = start_ranks("rate", words, "--gpus ", asked.gpus, pictures=len(found.paths) if found else None)
        if code is not None:
            return code
    with joined() as ranks:
        # Of a folder that changes while ranks start each would find other pictures, and share out other batches.
        found = found or ranks.by_first(partial(find_pictures, asked.pictures, asked.recursive))
        return ranks.exit_code(rate_and_write(asked, found, ranks, scale))


def rate_and_write(asked: argparse.Namespace, found: Found, ranks: Ranks, scale: Scale | None = None) -> int:
    """The exit code of one process, which counts on the first alone: the others only rate."""
    from vqr1.rating.files import listed
    from vqr1.rating.written import unfinished_ratings, write_csv, write_jsonl

    if found.others:
        say(f"left out, since they are no pictures: {listed(found.others)}")
    targets = [(option, target) for option, target in (("--csv", asked.csv), ("--jsonl", asked.jsonl)) if target]
    unfinished = unfinished_ratings(*targets[0], [target for _, target in targets[1:]]) if targets else None
    try:
        rated = rate(asked, found.paths, unfinished, ranks, scale)
        if not ranks.first:
            return 0
        in_order = [(each, rated[each]) for each in found.paths]
        if asked.csv:
            write_csv(asked.csv, in_order, asked.reasoning, scale)
        if asked.jsonl:
            write_jsonl(asked.jsonl, in_order, scale)
        if unfinished:
            unfinished.finish()
    finally:
        if unfinished:
            unfinished.close()
    say(summary([rating for _, rating in in_order]))
    return 0 if all(rating.status == "ok" for _, rating in in_order) else 1


def parser() -> Parser:
    made = Parser("vqr1 rate", description="A score from 1, bad, to 5, excellent, for each picture.", epilog=EPILOG)
    made.add_argument("pictures", nargs="+", metavar="PHOTO_OR_FOLDER")
    made.add_argument("--model", metavar="MODEL", help="a run's folder, one of weights, a hub id, tiny")
    made.add_argument("--server", metavar="URL", help="a vLLM server that answers; MODEL is then what it serves")
    made.add_argument("--recursive", action="store_true", help="the folders in a folder, too")
    made.add_argument("--csv", type=path, metavar="FILE", help="path, score, std, answers, status; resumable")
    made.add_argument("--jsonl", type=path, metavar="FILE", help="everything, the reasoning and each answer's score")
    made.add_argument("--reasoning", action="store_true", help="on the screen and in the csv, too")
    made.add_argument("--method", choices=["greedy", "mean", "expected", "levels"], help=METHODS)
    made.add_argument("-k", type=count, metavar="K", help="answers: 6 for mean, 1 for expected unless given")
    made.add_argument("--until", type=float, metavar="SE", help="answers until the mean's standard error is at most SE")
    made.add_argument("--max-k", type=count, metavar="K", help="answers at most, with --until (48)")
    made.add_argument("--seed", type=int, default=0, help="of drawn answers")
    made.add_argument("--temperature", type=float, default=1.0, help="of drawn answers")
    made.add_argument(
        "--prompt", help="paper, published, no_thinking, reference, or a text; the model's own unless given"
    )
    made.add_argument("--reference", metavar="FILE", help="the undistorted picture of all, if the model is shown one")
    made.add_argument("--scale", metavar="SET", help="scores as MOS of SET too, by the curve that an export stores")
    made.add_argument("--engine", choices=["auto", "transformers", "vllm"], default="auto")
    made.add_argument("--batch", type=count, metavar="N", help="answers asked for at once; fewer need less memory")
    made.add_argument("--gpus", type=count, metavar="N", help="that share the pictures; all, for more than a few")
    made.add_argument("--min-pixels", type=count, metavar="N", help="smaller pictures are enlarged; the model's own")
    made.add_argument("--max-pixels", type=count, metavar="N", help="larger pictures are shrunk; the model's own")
    made.add_argument("--threads", type=count, metavar="N", help="of torch; 1 is fastest for the tiny policy")
    return made


def rate(
    asked: argparse.Namespace,
    paths: Sequence[str],
    unfinished: Unfinished[Rating] | None,
    ranks: Ranks,
    scale: Scale | None = None,
) -> dict[str, Rating]:
    """The ratings of all paths, those of an unfinished command among them. A line on the screen for each new one.

    On the first of ``ranks``; the others give it the ratings of their part.
    """
    import torch
    from tqdm import tqdm

    from vqr1.answering.model import answer_facts
    from vqr1.answering.settings import AnswerSettings
    from vqr1.data.pictures import digest
    from vqr1.evaluation.scale import answers_in_words
    from vqr1.provenance import versions
    from vqr1.rating.rater import find, load_found
    from vqr1.rating.written import row_of
    from vqr1.rollout_settings import ScoringEngine
    from vqr1.unfinished import stamp

    if asked.threads:
        torch.set_num_threads(asked.threads)
    names = "k", "until", "max_k", "seed", "temperature", "prompt", "batch", "min_pixels", "max_pixels"
    given = {name: getattr(asked, name) for name in names}
    given["reference"] = None if asked.reference is None else True
    settings = AnswerSettings(model=asked.model or "", engine=ScoringEngine[asked.engine], **given)
    settings, model = ranks.first_before_others(lambda: find(settings, asked.method, asked.server))
    if model.served:
        say(f"asking {model.served.url}, which serves {model.served.root}")
    if not model.names_prompt:
        usual = "the paper's prompt" if settings.method.draws else "the usual question"
        say(f"{model.name} does not say what it was trained to be asked: it is asked {usual} (--prompt)")
    answers = answers_in_words(settings.method.value, settings.answers, settings.until)
    if scale and answers != scale.answers:
        say(f"warning: --scale {asked.scale} was fitted to the method {scale.answers}, and this is {answers}")
    rated: dict[str, Rating] = {}
    if unfinished:
        of_all = {} if asked.reference is None else {"reference_picture": digest(asked.reference)}
        packages = {f"{name} version": versions()[name] for name in ("torch", "transformers")}
        rated = ranks.by_first(partial(unfinished.open, {**answer_facts(settings, model), **of_all, **packages}))
    left = [each for each in paths if each not in rated]
    done = len(paths) - len(left)
    if done:
        say(f"going on: {done} of {len(paths)} pictures are rated")
    if not left:
        return rated
    # Before any rank opens a picture: the score of one that is replaced while it is rated is not kept for the new one.
    stamps = ranks.by_first(lambda: {each: stamp(each) for each in left}) if unfinished else {}
    try:
        rater = load_found(settings, model, asked.reference)
        at_once = ranks.at_once(len(left), rater.at_once)
        batches = [left[i : i + at_once] for i in range(0, len(left), at_once)]
        with tqdm(total=len(paths), initial=done, unit="picture", leave=False, disable=None) as progress:
            for fresh in ranks.shared(batches, partial(with_paths, rater)):
                rated.update(fresh)
                if unfinished:
                    unfinished.append(row_of(each, rating, stamps[each]) for each, rating in fresh)
                for each, rating in fresh:
                    progress.write(line(each, rating, asked.reasoning, scale), file=sys.stdout)
                progress.update(len(fresh))
    except KeyboardInterrupt as stop:
        how = "the same command goes on" if unfinished else "with --csv or --jsonl the same command would go on"
        raise KeyboardInterrupt(f"{sum(each in rated for each in paths)} of {len(paths)} are rated; {how}") from stop
    if shrunk := sum(ranks.gathered(rater.shrunk)):
        limit = f"{model.policy.max_pixels:,} pixels, the most that the model reads (--max-pixels)"
        say(f"shrunk to {limit}: {shrunk} of {len(left)} pictures")
    return rated


def with_paths(rater: Rater, batches: Sequence[Sequence[str]]) -> Iterator[list[tuple[str, Rating]]]:
    """The ratings of each batch as they come, each with its path."""
    for paths, ratings in zip(batches, rater.of_batches(batches), strict=True):
        yield list(zip(paths, ratings, strict=True))


def line(name: str, rating: Rating, reasoning: bool, scale: Scale | None = None) -> str:
    """Path, score, std and status between tabs, the MOS by ``scale``, then why a picture failed, or the reasoning if it
    is asked for."""
    numbers = ["-" if value is None else f"{value:.2f}" for value in (rating.score, rating.std)]
    more = [" ".join(rating.reasoning.split())] if reasoning or rating.status == "failed" else []
    if scale:
        from vqr1.rating.scales import mos_of

        more.insert(0, "-" if (mos := mos_of(scale, rating)) is None else f"{mos:.3g}")
    return "\t".join(map(printable, [name, *numbers, rating.status, *more]))


def summary(ratings: Sequence[Rating]) -> str:
    """Such as ``mean of 12 pictures: 3.41; 7.5 answers a picture; 1 failed``."""
    scores = [rating.score for rating in ratings if rating.score is not None]
    parts = [f"mean of {len(scores)} pictures: {math.fsum(scores) / len(scores):.2f}"] if scores else ["no scores"]
    asked = [rating.answers for rating in ratings if rating.answers]
    if sum(asked) > len(asked):
        parts.append(f"{sum(asked) / len(asked):.3g} answers a picture")
    for status in ("unreadable", "failed"):
        number = sum(rating.status == status for rating in ratings)
        parts += [f"{number} {status}"] * (number > 0)
    return "; ".join(parts)


def say(text: str) -> None:
    show(printable(text), file=sys.stderr, flush=True)
