"""A published file of questions, whichever it is: its format is told by the fields of its rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from vqr1.asking import depictqa, llvisionqa, micbench, qbench2
from vqr1.asking.choice_question import ChoiceQuestion
from vqr1.asking.rows import Pictures, Row, read_rows
from vqr1.data.sample import Pair
from vqr1.errors import UserError

Asked = TypeVar("Asked")


CHOICES = {"MICBench": micbench, "Q-Bench2": qbench2, "LLVisionQA": llvisionqa}
PAIRS = {"DepictQA": depictqa}


@dataclass(frozen=True)
class Published(Generic[Asked]):
    """What a file asks."""

    format: str  # a name of CHOICES or PAIRS
    questions: list[Asked]
    left_out: list[str]  # why rows were left out, each with file and row


def read_choices(file: Path, images: Path | None = None, leave_out: bool = False) -> Published[ChoiceQuestion]:
    """The questions of LLVisionQA, Q-Bench2 or MICBench.

    Args:
        file: a JSON list, or an object a line.
        images: the folder of the pictures; the file's unless given.
        leave_out: rows that cannot be asked are left out and told, where otherwise the first of them is refused.

    Raises:
        UserError: a file that is no such file, or of which no row can be asked.
    """
    return _read(file, images, leave_out, {name: (each.fits, each.read) for name, each in CHOICES.items()})


def read_pairs(file: Path, images: Path | None = None, leave_out: bool = False) -> Published[Pair]:
    """The pairs of a file of DepictQA's comparisons. Arguments and errors as for `read_choices`."""
    return _read(file, images, leave_out, {name: (each.fits, each.read) for name, each in PAIRS.items()})


def _read(
    file: Path,
    images: Path | None,
    leave_out: bool,
    formats: dict[str, tuple[Callable[[Row], bool], Callable[[Row, Pictures], Asked]]],
) -> Published[Asked]:
    rows, pictures = read_rows(file), Pictures(images or file.parent)
    name = next((name for name, (fits, _) in formats.items() if any(map(fits, rows))), None)
    if name is None:
        fields = ", ".join(sorted(rows[0].fields))
        raise UserError(f"{file}: rows with the fields {fields} are of no known format; known are {', '.join(formats)}")
    fits, read = formats[name]
    questions, faults = [], []
    for row in rows:
        try:
            if not fits(row):
                raise row.wrong(f"its fields are not those of {name}, as other rows' are; leave it out")
            questions.append(read(row, pictures))
        except UserError as error:
            faults.append(str(error))
    if faults and not leave_out:
        more = f" ({len(faults)} such rows in all; --leave-out goes on without them)"
        raise UserError(f"{faults[0]}{more}")
    if not questions:
        raise UserError(f"{faults[0]} ({len(faults)} such rows, and no other)")
    return Published(name, questions, faults)
