"""``vqr1 report``: one page on runs and sweeps."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vqr1.command_options import Parser, path, written
from vqr1.errors import UserError, show
from vqr1.folder_writer import replaced

NAME = "report.html"


def run(words: Sequence[str]) -> None:
    """Raises UserError where there is no run, and where the page cannot be written."""
    parser = Parser(
        "vqr1 report",
        description="One self-contained HTML page on runs: what was run, results, curves with seeds as bands, answers "
        "over training, warnings. It opens from disk, without a network.",
    )
    parser.add_argument("runs", nargs="+", type=path, metavar="RUN_OR_SWEEP", help="the folder of a run or of a sweep")
    parser.add_argument("--out", type=path, metavar="FILE", help=f"the page (default: {NAME} in the first folder)")
    parser.add_argument("--table", action="store_true", help="the tables of the study on the terminal, and no page")
    parser.add_argument(
        "--step", choices=["final", "best"], default="final", help="with --table: whose figures (default: final)"
    )
    parser.add_argument(
        "--against", action="append", default=[], metavar="SETTING=VALUE",
        help="with --table: of the setting that the others are compared with, where it is not the paper's (K 6, beta "
        "0.04, its reward); once for each",
    )  # fmt: skip
    asked = parser.parse_args(words)
    against = dict(_pair(word) for word in asked.against)
    out = asked.out or asked.runs[0] / NAME

    from vqr1.report.runs import find_runs

    runs = find_runs(asked.runs)
    if asked.table:
        from vqr1.report.study import studies
        from vqr1.report.study_text import study_text

        show("\n\n".join(study_text(each, asked.step) for each in studies(runs, against)), end="")
        return
    from vqr1.report.page import page

    content = page(runs)

    def write() -> None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replaced(out) as new:
            new.write_text(content, encoding="utf-8", errors="backslashreplace")  # half a surrogate pair, say

    written("--out", out, write)
    show(
        f"{out}: {len(runs)} {'run' if len(runs) == 1 else 'runs'}, {out.stat().st_size / 1e6:.1f} MB", file=sys.stderr
    )


def _pair(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise UserError(f"--against {word}: give a setting and its value, as in --against rollout.k=6")
    return name, value
