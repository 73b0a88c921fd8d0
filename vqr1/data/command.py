"""``vqr1 data list | check | show``."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vqr1.data import DATASETS, find_spec, read_dataset
from vqr1.data.spec import DatasetSpec
from vqr1.data.splits import SplitRule

if TYPE_CHECKING:
    from vqr1.data.checks import DatasetReport

USAGE = """usage: vqr1 data list
       vqr1 data check NAME [NAME ...] [root=FOLDER] [seed=0] [ratio=6,2,2]
       vqr1 data show NAME [root=FOLDER] [count=24] [part=all] [out=NAME.png]

  list    every dataset: size, range, orientation, spread, licence, where to get it
  check   read the labels, open every picture, look for duplicates within and across the sets, judge the orientation
  show    a contact sheet: pictures over the range of scores, worst first

The root is the folder that holds NAME/; without root= it is VQR1_DATA, or data.
"""
SETTINGS = {"check": ("root", "seed", "ratio"), "show": ("root", "seed", "ratio", "count", "part", "out")}


def run(words: Sequence[str]) -> int:
    """The exit code: 0, or 1 where a check found something wrong. Raises ValueError or FileNotFoundError."""
    parser = argparse.ArgumentParser(prog="vqr1 data", usage=USAGE, add_help=False)
    parser.add_argument("action", nargs="?", choices=("list", "check", "show"))
    parser.add_argument("words", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    given = parser.parse_args(words)
    if given.help or given.action is None:
        print(USAGE, end="")
        return 0 if given.help else 2
    if given.action == "list":
        return _list(given.words)
    names, settings = _parsed(given.action, given.words)
    return _check(names, settings) if given.action == "check" else _show(names, settings)


def _parsed(action: str, words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    names = [word for word in words if "=" not in word]
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    unknown = sorted(set(settings) - set(SETTINGS[action]))
    if unknown:
        raise ValueError(f"{unknown[0]}= is no setting of data {action}; it has {', '.join(SETTINGS[action])}")
    if not names or (action == "show" and len(names) > 1):
        raise ValueError(f"data {action} needs the name of a dataset; vqr1 data list shows them")
    return names, settings


def _root(settings: dict[str, str]) -> Path:
    return Path(settings.get("root") or os.environ.get("VQR1_DATA") or "data").expanduser()


def _rule(settings: dict[str, str]) -> SplitRule:
    try:
        ratio = tuple(float(share) for share in settings.get("ratio", "6,2,2").split(","))
        seed = int(settings.get("seed", "0"))
    except ValueError as error:
        raise ValueError(f"{error}: write seed=0 and ratio=6,2,2") from error
    return SplitRule(ratio, seed)


def _list(words: Sequence[str]) -> int:
    if words:
        raise ValueError(f"data list takes no words, {words[0]!r} was given")
    from vqr1.data.bapps import FETCH

    for spec in DATASETS.values():
        print(f"{spec.name}: {spec.title}\n  {_facts(spec)}\n  licence: {spec.licence}")
        print(f"  get it: {spec.fetch.format(folder=f'ROOT/{spec.name}')}\n")
    print("bapps: BAPPS\n  pairs of distorted patches, no score of a single picture: vqr1.data.bapps.read_bapps")
    print(f"  get it: {FETCH.format(folder='ROOT/bapps')}\n")
    print("your own: declare them in ROOT/NAME/dataset.yaml, see docs/data.md")
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


def _check(names: Sequence[str], settings: dict[str, str]) -> int:
    from vqr1.data.checks import across

    root = _root(settings)
    reports = []
    for name in names:
        report = _checked(name, root, _rule(settings))
        print(f"{name} in {root / name}")
        for what, text in report.lines:
            print(f"  {what:<12} {text}")
        for problem in report.problems:
            print(f"  PROBLEM      {problem}")
        reports.append(report)
    shared = across(reports)
    for problem in shared:
        print(f"PROBLEM {problem}")
    problems = sum(len(report.problems) for report in reports) + len(shared)
    print(f"{problems} problems" if problems else "all is well")
    return 1 if problems else 0


def _checked(name: str, root: Path, rule: SplitRule) -> DatasetReport:
    """What keeps a set from being read is a problem of that set; the others are checked all the same."""
    from vqr1.data.checks import DatasetReport, check, check_pairs

    try:
        return check_pairs(root / name) if name == "bapps" else check(name, root, rule)
    except (ValueError, FileNotFoundError) as error:
        return DatasetReport(name, problems=[str(error)])


def _show(names: Sequence[str], settings: dict[str, str]) -> int:
    from vqr1.data.contact_sheet import contact_sheet, spread_over

    (name,) = names
    root = _root(settings)
    spec = find_spec(name, root)
    splits = read_dataset(name, root, _rule(settings))
    parts = {**splits.parts(), "all": splits.all()}
    part = settings.get("part", "all")
    count = settings.get("count", "24")
    if part not in parts:
        raise ValueError(f"part={part}; choose from {', '.join(parts)}")
    if not count.isdecimal() or int(count) < 1:
        raise ValueError(f"count={count}; give a whole number above 0")
    chosen = spread_over(parts[part], int(count))
    title = f"{spec.title}, {part}: {len(chosen)} of {len(parts[part])} pictures, worst first; higher is better"
    out = Path(settings.get("out", f"{name}.png"))
    contact_sheet(chosen, title).save(out)
    print(out)
    return 0
