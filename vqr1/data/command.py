"""``vqr1 data list | check | show``."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vqr1.command_options import Parser
from vqr1.data import DATASETS, find_spec, read_dataset
from vqr1.data.spec import DatasetSpec
from vqr1.data.splits import PAPER, SplitRule
from vqr1.errors import UserError, printable, show
from vqr1.packaged import data_root

if TYPE_CHECKING:
    from vqr1.data.checks import DatasetReport

DESCRIPTION = """\
A dataset is read from ROOT/NAME; the root is --root, else the folder that VQR1_DATA names, else data.
"""
EVERYTHING = "all"
NEW_LINE = "\n"  # a message may have several lines


def run(words: Sequence[str]) -> int:
    """The exit code: 0, or 1 where a check found something wrong. Raises UserError."""
    parser = _parser()
    asked = parser.parse_args(words)
    if asked.action is None:
        parser.print_usage(sys.stderr)
        return 2
    if asked.action == "list":
        return _list()
    for name in [asked.name] if asked.action == "show" else asked.names:
        if "=" in name:
            setting, _, value = name.partition("=")
            raise UserError(f"{name} is no name of a dataset; options are written --{setting} {value}")
    return _check(asked) if asked.action == "check" else _show(asked)


def _parser() -> Parser:
    parser = Parser("vqr1 data", description=DESCRIPTION)
    actions = parser.add_subparsers(dest="action", metavar="list | check | show")
    about = "every dataset: size, range, orientation, spread, licence, where to get it"
    actions.add_parser("list", help=about, description=about)
    about = "read the labels, open every picture, look for duplicates within and across the sets, judge the orientation"
    check = actions.add_parser("check", help=about, description=about)
    check.add_argument("names", nargs="+", metavar="NAME")
    about = "a contact sheet: pictures over the range of scores, worst first"
    show = actions.add_parser("show", help=about, description=about)
    show.add_argument("name", metavar="NAME")
    for action in (check, show):
        action.add_argument("--root", metavar="FOLDER", default=data_root(), help="that holds NAME/ (VQR1_DATA)")
        action.add_argument("--seed", type=int, default=PAPER.seed, help="of the split, where none is official")
        action.add_argument("--ratio", default="6,2,2", help="of such a split: train,validation,test")
    show.add_argument("--count", type=int, default=24, help="of pictures")
    show.add_argument("--part", default=EVERYTHING, help="train, validation, test, or all")
    show.add_argument("--out", type=Path, metavar="FILE", help="NAME.png by default")
    return parser


def _rule(asked: argparse.Namespace) -> SplitRule:
    try:
        ratio = tuple(float(share) for share in asked.ratio.split(","))
    except ValueError as error:
        raise UserError(f"--ratio {asked.ratio}: {error}; write --ratio 6,2,2") from error
    return SplitRule(ratio, asked.seed)


def _list() -> int:
    from vqr1.data.bapps import FETCH

    for spec in DATASETS.values():
        show(f"{spec.name}: {spec.title}\n  {_facts(spec)}\n  licence: {spec.licence}")
        show(f"  get it: {spec.fetch.format(folder=f'ROOT/{spec.name}')}\n")
    show("bapps: BAPPS\n  pairs of distorted patches, no score of a single picture: vqr1.data.bapps.read_bapps")
    show(f"  get it: {FETCH.format(folder='ROOT/bapps')}\n")
    show("your own: declare them in ROOT/NAME/dataset.yaml, see docs/data.md")
    return 0


def _facts(spec: DatasetSpec) -> str:
    low, high = spec.range
    scale = f"{low:g} to {high:g}" if math.isfinite(high - low) else "scale as published"
    way = (
        "higher is better" if spec.higher_is_better_in_file else "in the file LOWER is better, turned round on reading"
    )
    own = ", one scale to each " + spec.group if spec.per_group_scale else ""
    split = {"official": "official split", "content": f"split by {spec.group}", "test": "for testing only"}[spec.split]
    pseudo = "; pseudo-labels" if spec.pseudo_labels else ""
    return f"{spec.size} pictures, {scale}, {way}{own}; spread: {spec.spread}; {split}{pseudo}"


def _check(asked: argparse.Namespace) -> int:
    from vqr1.data.checks import across

    root, rule = Path(asked.root).expanduser(), _rule(asked)
    reports = []
    for name in asked.names:
        report = _checked(name, root, rule)
        show(printable(f"{name} in {root / name}"))
        for what, text in report.lines:
            show(f"  {what:<12} {printable(text)}")
        for problem in report.problems:
            show(f"  PROBLEM      {printable(problem, kept=NEW_LINE)}")
        reports.append(report)
    shared = across(reports)
    for problem in shared:
        show(f"PROBLEM {printable(problem)}")
    problems = sum(len(report.problems) for report in reports) + len(shared)
    show(f"{problems} problems" if problems else "all is well")
    return 1 if problems else 0


def _checked(name: str, root: Path, rule: SplitRule) -> DatasetReport:
    """What keeps a set from being read is a problem of that set; the others are checked all the same."""
    from vqr1.data.checks import DatasetReport, check, check_pairs

    try:
        return check_pairs(root / name) if name == "bapps" else check(name, root, rule)
    except UserError as error:
        return DatasetReport(name, problems=[str(error)])


def _show(asked: argparse.Namespace) -> int:
    from vqr1.data.contact_sheet import contact_sheet, spread_over

    name, root = asked.name, Path(asked.root).expanduser()
    spec = find_spec(name, root)
    splits = read_dataset(name, root, _rule(asked))
    parts = {**splits.parts(), EVERYTHING: splits.all()}
    if asked.part not in parts:
        raise UserError(f"--part {asked.part}: choose from {', '.join(parts)}")
    if asked.count < 1:
        raise UserError(f"--count {asked.count}: set it to 1 or more")
    samples = parts[asked.part]
    chosen = spread_over(samples, asked.count)
    title = f"{spec.title}, {asked.part}: {len(chosen)} of {len(samples)} pictures, worst first; higher is better"
    out = asked.out.expanduser() if asked.out else Path(f"{name}.png")
    sheet = contact_sheet(chosen, title)
    try:
        sheet.save(out)
    except (ValueError, OSError) as error:  # a name whose ending is no format, a folder that is not there
        raise UserError(f"--out {out}: {error}; give a file such as {name}.png in a folder that is there") from error
    show(out)
    return 0
