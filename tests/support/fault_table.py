"""The table of docs/reliability.md: each test of a fault says what it saw, and the whole suite writes the rows.

A test takes the fixture ``fault`` and calls it once, after its assertions::

    fault("a rank stalls", how="SIGSTOP to one of two ranks", happens="all end, exit 1", lost="nothing")

With ``tally`` (tests/support/faults_fuzz.py) the row says how many examples there were. What several tests say in the
same words is one row, which counts the examples of all.

``--fault-rows FOLDER`` keeps the rows, for a suite may take several calls of pytest. Then
``python -m tests.support.fault_table FOLDER PAGE`` puts them between the two lines of PAGE that are BEGIN and END.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from vqr1.evaluation.render import markdown_grid
from vqr1.evaluation.table import Grid

BEGIN, END = "<!-- faults: made by make test-faults-full -->", "<!-- faults end -->"
HEADER = ["Fault", "How it is put in", "What happens", "What is lost"]
# The headings of the page, and the beginnings of the names of their tests' files.
AREAS = {
    "Disks, folders and streams": ("test_faults_disk",),
    "Kills": ("test_faults_kills", "test_evaluate"),
    "Ranks, signals and loading of data": ("test_faults_ranks", "test_stopping"),
    "What a run finds around it": ("test_faults_environment",),
    "Models and answers": ("test_faults_models",),
    "Names": ("test_faults_names",),
    "Input files": ("test_faults_fuzz",),
}


def write_row(folder: Path, test: str, row: list[str], tally: Any = None) -> None:
    counted = None if tally is None else [tally.read, tally.refused, tally.slowest]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{hashlib.sha256(test.encode()).hexdigest()[:16]}.json").write_text(
        json.dumps({"test": test, "row": row, "counted": counted})
    )


def write_table(folder: Path, page: Path) -> None:
    """In the order of the tests' names. Raises ValueError for a page without the two lines, or a test of no area."""
    made = sorted((json.loads(path.read_text()) for path in folder.glob("*.json")), key=lambda each: each["test"])
    before, _, rest = page.read_text().partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{page}: the lines {BEGIN} and {END} are missing")
    parts = []
    for area, names in AREAS.items():
        theirs = [each for each in made if _file(each).startswith(names)]
        made = [each for each in made if each not in theirs]
        if theirs:
            parts.append(f"## {area}\n\n{markdown_grid(Grid(HEADER, list(rows_of(theirs)))).strip()}")
    if made:
        raise ValueError(f"{made[0]['test']} is of no area")
    page.write_text("\n\n".join([f"{before}{BEGIN}", *parts, f"{END}{after}"]))


def _file(row: dict[str, Any]) -> str:
    return str(row["test"]).partition("::")[0].rpartition("/")[2]


def rows_of(made: Iterable[dict[str, Any]]) -> Iterable[list[str]]:
    merged: dict[tuple[str, ...], list[list[float]]] = {}
    for each in made:
        merged.setdefault(tuple(each["row"]), []).extend([each["counted"]] if each["counted"] else [])
    for (what, how, happens, lost), counted in merged.items():
        if counted:
            read, refused, slowest = (list(each) for each in zip(*counted, strict=True))
            happens += f" ({sum(read):,} read, {sum(refused):,} refused, the slowest in {max(slowest):.2f} s)"
        yield [what[:1].upper() + what[1:], how, happens, lost]


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Says what a test of a fault saw: a row of the table."""
    folder = request.config.getoption("--fault-rows")

    def say(what: str, *, how: str, happens: str, lost: str, tally: Any = None) -> None:
        if folder is not None:
            write_row(folder, request.node.nodeid, [what, how, happens, lost], tally)

    return say


if __name__ == "__main__":
    write_table(*map(Path, sys.argv[1:]))
