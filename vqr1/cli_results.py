"""``vqr1 table``, ``compare`` and ``calibration``: what result folders say, alone and against each other."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing.TYPE_CHECKING, without what loading typing costs
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import Any

RESULTS_HELP = "a folder of vqr1 evaluate, or [NAME:]DATASET=FILE.csv with the columns picture, score (higher = better)"


def table(words: Sequence[str]) -> None:
    from vqr1.command_options import Parser, count, path, write_json, written

    parser = Parser("vqr1 table", description="The table in the layout of the paper's Table 2.")
    parser.add_argument("results", nargs="+", metavar="RESULT", help=RESULTS_HELP)
    parser.add_argument("--latex", action="store_true", help="LaTeX in place of Markdown")
    parser.add_argument("--json", type=path, metavar="FILE", help="everything, with intervals and counts")
    parser.add_argument("--plots", type=path, metavar="FOLDER", help="scatter plots with the fitted curve")
    parser.add_argument("--published", default="2", choices=["2", "3", "4", "none"], help="the paper's table to show")
    parser.add_argument("--rounds", type=count, default=1000, help="of the bootstrap")
    _add_joining(parser)
    asked = parser.parse_args(words)

    from vqr1.errors import show
    from vqr1.evaluation.paper import published
    from vqr1.evaluation.render import as_json, latex, markdown
    from vqr1.evaluation.summary import summarise
    from vqr1.evaluation.table import benchmark_table, comparable

    lines = summarise(_results(asked), asked.rounds)
    rows = [] if asked.published == "none" else comparable(lines, published(asked.published))
    made = benchmark_table(lines, rows)
    show((latex if asked.latex else markdown)(made), end="")
    if asked.json:
        write_json(asked.json, as_json(lines, rows, made))
    if asked.plots:
        from vqr1.report.scatter import draw_scatters

        drawn = written("--plots", asked.plots, lambda: draw_scatters(lines, asked.plots))
        show(f"{len(drawn)} plots in {asked.plots}", file=sys.stderr)


def compare(words: Sequence[str]) -> None:
    from vqr1.command_options import Parser, count, path, write_json

    parser = Parser("vqr1 compare", description="A paired test of two models on the same pictures.")
    parser.add_argument("results", nargs=2, metavar="RESULT", help=RESULTS_HELP)
    parser.add_argument("--json", type=path, metavar="FILE", help="the same as plain values")
    parser.add_argument("--rounds", type=count, default=1000, help="of the bootstrap")
    _add_joining(parser)
    asked = parser.parse_args(words)

    from dataclasses import asdict

    from vqr1.errors import show
    from vqr1.evaluation.compare import compare, comparison_text

    first, second = _results(asked)
    found = compare(first, second, asked.rounds)
    show(comparison_text(first.name, second.name, found))
    if asked.json:
        names = {"a": asked.results[0], "b": asked.results[1]}
        write_json(asked.json, {**names, "sets": {each.name: asdict(each) for each in found}})


def calibration(words: Sequence[str]) -> None:
    from vqr1.command_options import Parser, count, path, write_json

    parser = Parser(
        "vqr1 calibration",
        description="Is the standard deviation of a picture's answers its error, and the probability that one of two "
        "pictures looks better a frequency? Tables in Markdown, from results with several answers to a picture.",
    )
    parser.add_argument(
        "results", nargs="+", type=path, metavar="RESULT", help="a folder of vqr1 evaluate, k=2 or more"
    )
    parser.add_argument(
        "--fit", action="append", type=path, default=[], metavar="RESULT",
        help="of the same model on other pictures of the sets, part=validation: fits the curve by which scores are "
        "read as opinion scores; once for each (without it each half of the contents is read by the other's curve)",
    )  # fmt: skip
    parser.add_argument("--json", type=path, metavar="FILE", help="the same as plain values")
    parser.add_argument("--rounds", type=count, default=1000, help="of the bootstrap")
    asked = parser.parse_args(words)

    from dataclasses import asdict

    from vqr1.errors import show
    from vqr1.evaluation.calibration_tables import calibrate, calibration_page
    from vqr1.evaluation.results import read_evaluation

    results, fits = ([read_evaluation(folder) for folder in folders] for folders in (asked.results, asked.fit))
    found = calibrate(results, asked.rounds, fits)
    show(calibration_page(found), end="")
    if asked.json:
        write_json(asked.json, {"calibration": [asdict(each) for each in found]})


def _add_joining(parser: argparse.ArgumentParser) -> None:
    """What only csv files of other models need."""
    from vqr1.command_options import path
    from vqr1.packaged import data_root

    parser.add_argument("--root", type=path, default=data_root(), help="of the datasets, for csv files (VQR1_DATA)")
    parser.add_argument("--trained-on", metavar="SETS", help="of csv files' models: kadid10k,spaq; none = nothing")


def _results(asked: argparse.Namespace) -> list[Any]:
    from vqr1.demo.specs import register_demonstration
    from vqr1.scoring.external_scores import load_result

    register_demonstration()
    seen = None
    if asked.trained_on is not None:
        seen = [name for name in asked.trained_on.split(",") if name not in ("", "none")]
    return [
        load_result(os.path.expanduser(word), asked.root, seen)  # noqa: PTH111 - not only paths
        for word in asked.results
    ]
