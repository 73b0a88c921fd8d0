"""``python -m vqr1.report.study_command RUN_OR_SWEEP ...``: a study's tables as Markdown, from its run folders."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vqr1.errors import UserError
from vqr1.report.runs import find_runs
from vqr1.report.study import studies
from vqr1.report.study_text import study_text


def run(words: Sequence[str]) -> None:
    """Raises UserError where there is no run, and for a setting to compare with that there is not."""
    parser = argparse.ArgumentParser(
        "python -m vqr1.report.study_command",
        description="Tables of a study in the layout of the paper's Tables 3 and 4, K over beta, and paired tests over "
        "seeds, as Markdown.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_OR_SWEEP", help="the folder of a run or of a sweep")
    parser.add_argument("--step", choices=["final", "best"], default="final", help="whose figures (default: final)")
    parser.add_argument(
        "--against", action="append", default=[], metavar="SETTING=VALUE",
        help="of the setting that the others are compared with, where it is not the paper's (K 6, beta 0.04, its "
        "reward); once for each",
    )  # fmt: skip
    asked = parser.parse_args(words)
    against = dict(_pair(word) for word in asked.against)
    found = studies(find_runs(asked.runs), against)
    print("\n\n".join(study_text(each, asked.step) for each in found), end="")


def _pair(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise UserError(f"--against {word}: give a setting and its value, as in --against rollout.k=6")
    return name, value


if __name__ == "__main__":
    try:
        run(sys.argv[1:])
    except UserError as error:
        print(f"study: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
