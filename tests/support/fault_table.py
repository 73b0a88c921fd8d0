"""The table of docs/reliability.md: each test of a fault says what it saw, and the whole suite writes the rows.

A test takes the fixture ``fault`` and calls it once, after its assertions::

    fault("a rank stalls", how="SIGSTOP to one of two ranks", happens="all end, exit 1", lost="nothing")

``--fault-rows FOLDER`` keeps the rows, for a suite may take several calls of pytest. Then
``python -m tests.support.fault_table FOLDER PAGE`` puts them between the two lines of PAGE that are BEGIN and END.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vqr1.evaluation.render import markdown_grid
from vqr1.evaluation.table import Grid

BEGIN, END = "<!-- faults: made by make test-faults-full -->", "<!-- faults end -->"
HEADER = ["Fault", "How it is put in", "What happens", "What is lost"]


def write_row(folder: Path, test: str, row: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{hashlib.sha256(test.encode()).hexdigest()[:16]}.json").write_text(
        json.dumps({"test": test, "row": row})
    )


def write_table(folder: Path, page: Path) -> None:
    """In the order of the tests' names. Raises ValueError for a page without the two lines."""
    made = sorted((json.loads(path.read_text()) for path in folder.glob("*.json")), key=lambda each: each["test"])
    before, _, rest = page.read_text().partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{page}: the lines {BEGIN} and {END} are missing")
    table = markdown_grid(Grid(HEADER, [each["row"] for each in made]))
    page.write_text(f"{before}{BEGIN}\n\n{table.strip()}\n\n{END}{after}")


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Says what a test of a fault saw: a row of the table."""
    folder = request.config.getoption("--fault-rows")

    def say(what: str, *, how: str, happens: str, lost: str) -> None:
        if folder is not None:
            write_row(folder, request.node.nodeid, [what, how, happens, lost])

    return say


if __name__ == "__main__":
    write_table(*map(Path, sys.argv[1:]))
