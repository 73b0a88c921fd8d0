"""A table as Markdown, as LaTeX, and as plain values for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from vqr1.errors import printable
from vqr1.evaluation.paper import Published
from vqr1.evaluation.summary import Line
from vqr1.evaluation.table import BenchmarkTable, Grid, averaged, columns, label


def markdown(table: BenchmarkTable) -> str:
    """Both tables, padded so that they read well on a screen too, and the notes."""
    notes = "\n".join(f"- {printable(note)}" for note in table.notes)
    return f"{markdown_grid(table.main)}\n\n{markdown_grid(table.details)}\n\n{notes}\n"


def latex(table: BenchmarkTable) -> str:
    """The main table for a paper (needs booktabs), the notes below it."""
    grid = table.main
    lines = [
        r"\begin{tabular}{ll" + "c" * (len(grid.header) - 2) + "}",
        r"\toprule",
        _latex_row(grid.header),
        r"\midrule",
    ]
    for i, row in enumerate(grid.rows):
        if i and i not in grid.published and i - 1 in grid.published:
            lines.append(r"\midrule")
        lines.append(_latex_row(row))
    lines += [r"\bottomrule", r"\end{tabular}", *(rf"\par\footnotesize {escape(note)}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Text for LaTeX, every special character as itself."""
    special = {character: f"\\{character}" for character in "&%$#_{}"}
    special |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    return "".join(special.get(character, character) for character in printable(text))


def as_json(lines: Sequence[Line], published: Sequence[Published], table: BenchmarkTable) -> dict[str, Any]:
    """Everything in the table and what it was made from, as plain values; NaN where undefined."""
    return {
        "columns": columns(lines, published),
        "averaged": averaged(lines, published),
        "models": [
            {
                "label": label(line, lines),
                "name": line.name,
                "asked": line.asked,
                "trained_on": line.trained_on,
                "sets": {name: _set(line, name) for name in line.outcomes},
            }
            for line in lines
        ],
        "published": [asdict(row) for row in published],
        "notes": table.notes,
    }


def _set(line: Line, name: str) -> dict[str, Any]:
    runs = line.outcomes[name]
    return {
        "merged": {which: asdict(line.figure(name, which)) for which in runs[0].measures.figures},
        "runs": [
            {
                "folder": run.evaluation.folder,
                "settings": run.evaluation.settings,
                "set": asdict(run.facts),
                "counts": asdict(run.counts),
                **asdict(run.measures),
            }
            for run in runs
        ],
    }


def markdown_grid(grid: Grid) -> str:
    """One table, its columns padded."""
    rows = [[printable(cell).replace("|", r"\|") for cell in row] for row in (grid.header, *grid.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(grid.header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _latex_row(cells: Sequence[str]) -> str:
    row = " & ".join(escape(cell) for cell in cells) + r" \\"
    return "{}" + row if row[0] in "[*" else row  # LaTeX would take them for an argument of the line before
