"""``vqr1 ask``: two-alternative tests and multiple choice of a policy, with intervals and position bias."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqr1.asking.choice_question import ChoiceQuestion
from vqr1.asking.figures import Figures, choice_figures, pair_figures
from vqr1.asking.forms import FORMS, FormName
from vqr1.asking.pair_sets import PARTS, Pairing, PairSet, Planned, plan_judged, plan_rated, read_judged, read_samples
from vqr1.asking.prompts import ORDERS, Prompt, choice_key, choice_prompts, pair_key, pair_prompts, prompts_hash
from vqr1.asking.published import read_choices, read_pairs
from vqr1.asking.unfinished import Unfinished
from vqr1.command_options import count, path, write_json, written
from vqr1.data.splits import PAPER
from vqr1.errors import UserError, printable
from vqr1.folder_writer import replaced
from vqr1.packaged import data_root
from vqr1.pairing import check_questions, count_questions
from vqr1.questions import Choice, read_letter

if TYPE_CHECKING:  # these load torch, which takes seconds: a wrong word or file is told before
    from vqr1.answering.answerer import Answerer
    from vqr1.answering.model import Model
    from vqr1.answering.settings import AnswerSettings

    Load = Callable[[AnswerSettings, Model], Answerer]

AT_ONCE = 16  # questions
BAPPS = "bapps"


def run(words: Sequence[str], load: Load | None = None) -> int:
    """Ask as the words say. Returns the exit code; raises UserError for what is wrong with words, files or model.

    ``load`` loads the policy in place of :func:`vqr1.answering.answerer.load_answerer`.
    """
    asked = parser().parse_args(words)
    targets = [target for target in (asked.jsonl, asked.json, getattr(asked, "submission", None)) if target]
    if len(set(targets)) < len(targets):
        raise UserError(f"two of the files to write are {targets[0]}; give different ones")
    (ask_pairs if asked.test == "2afc" else ask_choices)(asked, load)
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "vqr1 ask", description="Which of two pictures is better, and questions with options: figures with intervals."
    )
    tests = made.add_subparsers(dest="test", required=True, metavar="2afc|mcq")
    pairs = tests.add_parser("2afc", help="pairs of pictures, each in both orders")
    of = pairs.add_mutually_exclusive_group(required=True)
    of.add_argument("--data", nargs="+", metavar="NAME", help="datasets; bapps for its pairs")
    of.add_argument("--file", type=path, metavar="FILE", help="DepictQA's comparisons")
    pairs.add_argument("--root", metavar="FOLDER", default=data_root(), help="that holds NAME/ (VQR1_DATA)")
    pairs.add_argument("--part", choices=PARTS, help="of a dataset: test (for bapps validation)")
    pairs.add_argument("--limit", type=count, metavar="N", help="pictures of each dataset, or pairs of bapps")
    pairs.add_argument(
        "--pairs", choices=[each.value for each in Pairing], default="rounds", help="which pictures of a dataset"
    )
    pairs.add_argument("--rounds", type=count, metavar="N", help="of disjoint random pairs (5)")
    pairs.add_argument("--seed", type=int, default=0, help="of the pairs")
    pairs.add_argument(
        "--form", choices=[each.value for each in FormName], help="of the question: which; FILE's tagged"
    )
    pairs.add_argument("--no-reference", action="store_true", help="the reference picture is not shown")
    choices = tests.add_parser("mcq", help="questions with options, each in all its rotations")
    choices.add_argument("--file", type=path, required=True, metavar="FILE", help="LLVisionQA, Q-Bench2 or MICBench")
    choices.add_argument(
        "--submission", type=path, metavar="FILE", help="the rows with response, which Q-Bench's authors take"
    )
    for each in (pairs, choices):
        each.add_argument("--model", required=True, metavar="MODEL", help="a run's folder, one of weights, a hub id")
        each.add_argument("--images", type=path, metavar="FOLDER", help="of the file's pictures: where the file is")
        each.add_argument("--leave-out", action="store_true", help="rows of the file that cannot be asked, and count")
        each.add_argument("--one-order", action="store_true", help="as listed alone: no other order, no rotation")
        each.add_argument("--yes", action="store_true", help="ask over 100,000 questions")
        each.add_argument("--jsonl", type=path, metavar="FILE", help="every answer; the same command goes on")
        each.add_argument("--json", type=path, metavar="FILE", help="the figures")
        each.add_argument("--batch", type=count, default=AT_ONCE, metavar="N", help="questions asked at once (16)")
        each.add_argument("--max-tokens", type=count, default=64, metavar="N", help="of an answer (64)")
        each.add_argument("--min-pixels", type=count, metavar="N", help="smaller pictures are enlarged; the model's")
        each.add_argument("--max-pixels", type=count, metavar="N", help="larger pictures are shrunk; the model's own")
        each.add_argument("--threads", type=count, metavar="N", help="of torch; 1 is fastest for the tiny policy")
    return made


def ask_pairs(asked: argparse.Namespace, load: Load | None) -> None:
    for name, where in (("images", "--file"), ("leave_out", "--file")):
        if getattr(asked, name) and not asked.file:
            raise UserError(f"--{name.replace('_', '-')} has no effect without {where}; leave it out")
    if asked.rounds and asked.pairs != "rounds":
        raise UserError(f"--rounds {asked.rounds} has no effect with --pairs {asked.pairs}; leave one of them out")
    form = asked.form or ("tagged" if asked.file else "which")
    settings, model = find(asked)
    planned, left_out = plan(asked, model)
    pairs = sum(each.count for each in planned)
    questions = count_questions(pairs, both_orders=not asked.one_order)
    announce(questions, f"{pairs:,} pairs{'' if asked.one_order else ' in both orders'}", left_out, asked.yes)
    sets = [each.make() for each in planned]
    orders = ORDERS[:1] if asked.one_order else ORDERS
    prompts = [
        prompt
        for each in sets
        for prompt in pair_prompts(each, FORMS[FormName(form)], orders, references=not asked.no_reference)
    ]
    read = FORMS[FormName(form)].read

    def rows(answers: dict[str, str]) -> list[dict[str, Any]]:
        return [
            {
                "set": each.name,
                "pair": each.pair_ids[i],
                "order": order,
                "first": each.pictures[each.pairs[i][0 if order == ORDERS[0] else 1]],
                "second": each.pictures[each.pairs[i][1 if order == ORDERS[0] else 0]],
                "answer": (answer := answers[pair_key(each, i, order)]),
                "choice": read(answer).value,
            }
            for each in sets
            for i in range(len(each.pairs))
            for order in orders
        ]

    answers = answered(asked, prompts, settings, model, load, rows, form=form)

    def choices(each: PairSet, order: str) -> list[Choice]:
        return [read(answers[pair_key(each, i, order)]) for i in range(len(each.pairs))]

    found = {
        each.name: pair_figures(each, choices(each, ORDERS[0]), None if asked.one_order else choices(each, ORDERS[1]))
        for each in sets
    }
    tell(asked, model, found, left_out, form=form)


def plan(asked: argparse.Namespace, model: Model) -> tuple[list[Planned], list[str]]:
    """The pairs of the command line, and why rows of its file were left out."""
    if asked.file:
        published = read_pairs(asked.file, asked.images, asked.leave_out)
        return [plan_judged(published.format, published.questions)], published.left_out
    repeated = [name for name in asked.data if asked.data.count(name) > 1]
    if repeated:
        raise UserError(f"--data names {repeated[0]} twice; leave one out")
    root, planned = Path(asked.root).expanduser(), []
    for name in asked.data:
        if name == BAPPS:
            planned.append(plan_judged(name, read_judged(root, asked.part, asked.limit)))
            continue
        seen = name in (model.trained_on or [])
        rule, split = (model.seen.rule, model.seen.hashes.get(name)) if seen else (PAPER, None)
        samples = read_samples(name, root, asked.part, asked.limit, rule, split)
        if seen and asked.part not in (None, "test"):
            say(f"{asked.model} has learnt from {name}, and is asked about its {asked.part} part")
        planned.append(plan_rated(name, samples, Pairing(asked.pairs), asked.rounds or 5, asked.seed))
    return planned, []


def ask_choices(asked: argparse.Namespace, load: Load | None) -> None:
    published = read_choices(asked.file, asked.images, asked.leave_out)
    questions = published.questions
    prompts = [prompt for question in questions for prompt in choice_prompts(question, not asked.one_order)]
    of = f"{len(questions):,} of {published.format}{'' if asked.one_order else ', each in all its rotations'}"
    announce(len(prompts), of, published.left_out, asked.yes)
    settings, model = find(asked)

    def shown(question: ChoiceQuestion, k: int) -> list[str]:
        return [*question.options[k:], *question.options[:k]]

    def rotations_of(question: ChoiceQuestion) -> range:
        return range(1 if asked.one_order else len(question.options))

    def rows(answers: dict[str, str]) -> list[dict[str, Any]]:
        return [
            {
                "row": question.row,
                "rotation": k,
                "pictures": list(question.pictures),
                "question": question.question,
                "options": shown(question, k),
                "right": None if question.right is None else (question.right - k) % len(question.options),
                "answer": (answer := answers[choice_key(question, k)]),
                "place": read_letter(answer, shown(question, k)),
            }
            for question in questions
            for k in rotations_of(question)
        ]

    answers = answered(asked, prompts, settings, model, load, rows, form="options")
    places = [
        [read_letter(answers[choice_key(question, k)], shown(question, k)) for k in rotations_of(question)]
        for question in questions
    ]
    if asked.submission:
        write_submission(asked.submission, questions, answers)
    tell(asked, model, {published.format: choice_figures(questions, places)}, published.left_out, form="options")


def announce(questions: int, what: str, left_out: Sequence[str], yes: bool) -> None:
    """The number of questions before the first is asked. Raises UserError for too many without a yes."""
    say(f"{questions:,} questions: {what}")
    if left_out:
        say(f"left out: {len(left_out)} rows that cannot be asked, such as {left_out[0]}")
    check_questions(questions, yes=yes, say="--yes")


def find(asked: argparse.Namespace) -> tuple[AnswerSettings, Model]:
    """Settled settings and the model, checked, with nothing loaded yet."""
    import torch

    from vqr1.answering.answerer import check_adapter
    from vqr1.answering.model import check_model, find_model
    from vqr1.answering.settings import AnswerSettings, check_answers, settle
    from vqr1.rollout_settings import ScoringEngine

    if asked.threads:
        torch.set_num_threads(asked.threads)
    names = "model", "max_tokens", "min_pixels", "max_pixels"
    settings = AnswerSettings(
        **{name: getattr(asked, name) for name in names}, greedy=True, engine=ScoringEngine.transformers
    )
    check_answers(settings)
    settings = settle(settings, torch.cuda.device_count())
    model = find_model(settings)
    check_adapter(settings, model)
    check_model(model)
    return settings, model


def answered(
    asked: argparse.Namespace,
    prompts: Sequence[Prompt],
    settings: AnswerSettings,
    model: Model,
    load: Load | None,
    rows: Callable[[dict[str, str]], list[dict[str, Any]]],
    form: str,
) -> dict[str, str]:
    """All answers by their prompts' keys, those of an unfinished command among them. ``rows`` makes lines of them."""
    from tqdm import tqdm

    from vqr1.answering.answerer import load_answerer
    from vqr1.asking.answers import answers as ask

    by_key = {prompt.key: prompt for prompt in prompts}
    unfinished = Unfinished(asked.jsonl) if asked.jsonl else None
    found: dict[str, str] = {}
    try:
        if unfinished:
            found = unfinished.open({**facts(settings, model, form), "questions": prompts_hash(prompts)}, by_key)
        left = [prompt for prompt in prompts if prompt.key not in found]
        if found:
            say(f"going on: {len(found):,} of {len(prompts):,} questions are answered")
        if left:
            answerer = (load or load_answerer)(settings, model)
            with tqdm(total=len(prompts), initial=len(found), unit="question", leave=False, disable=None) as progress:
                for fresh in ask(left, answerer, asked.batch):
                    found.update((prompt.key, answer) for prompt, answer in fresh)
                    if unfinished:
                        unfinished.append(fresh)
                    progress.update(len(fresh))
        if unfinished:
            unfinished.finish(rows(found))
    except KeyboardInterrupt as stop:
        how = "the same command goes on" if unfinished else "with --jsonl the same command would go on"
        raise KeyboardInterrupt(f"{len(found):,} of {len(prompts):,} questions are answered; {how}") from stop
    finally:
        if unfinished:
            unfinished.close()
    return found


def facts(settings: AnswerSettings, model: Model, form: str) -> dict[str, Any]:
    """What decides the answers but the questions."""
    from vqr1.answering.model import answer_facts
    from vqr1.provenance import versions

    known = {
        name: value for name, value in answer_facts(settings, model).items() if name not in ("k", "prompt", "seed")
    }
    return {**known, "form": form, **{f"{name} version": versions()[name] for name in ("torch", "transformers")}}


def write_submission(target: Path, questions: Sequence[ChoiceQuestion], answers: dict[str, str]) -> None:
    """The file that Q-Bench's authors take: each row as it came with the answer in its listed order as ``response``."""

    def whole() -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replaced(target) as new, new.open("w", encoding="utf-8") as file:
            for question in questions:
                response = answers[choice_key(question, 0)].strip()
                file.write(json.dumps({**question.fields, "response": response}) + "\n")

    written("--submission", target, whole)


def tell(
    asked: argparse.Namespace, model: Model, found: dict[str, Figures], left_out: Sequence[str], form: str
) -> None:
    """The figures on the screen and, if asked for, in a file."""
    for name, figures in found.items():
        print(printable(table(name, figures), kept="\n"))
    if asked.json:
        sets = {
            name: {
                **{figure: value.__dict__ for figure, value in each.figures.items()},
                "counts": each.counts,
                "remarks": list(each.remarks),
            }
            for name, each in found.items()
        }
        write_json(asked.json, {"model": model.name, "form": form, "sets": sets, "left_out": list(left_out)})


def table(name: str, figures: Figures) -> str:
    """Such as ``consistent  0.512 (0.450 to 0.571) of 300``, a line for each figure."""
    counts = ", ".join(f"{number:,} {what.replace('_', ' ')}" for what, number in figures.counts.items())
    width = max((len(figure) for figure in figures.figures), default=0)
    lines = [f"{name}: {counts}"]
    for figure, known in figures.figures.items():
        between = "" if known.low != known.low else f" ({known.low:.3f} to {known.high:.3f})"
        of = "" if known.of is None else f" of {known.of:,}"
        value = "-" if known.value != known.value else f"{known.value:.3f}"
        lines.append(f"  {figure:{width}}  {value}{between}{of}")
    return "\n".join([*lines, *(f"  {remark}" for remark in figures.remarks)])


def say(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)
