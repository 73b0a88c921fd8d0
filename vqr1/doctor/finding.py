"""One line of the doctor's: what was looked at, how it is, and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from vqr1.errors import UserError, printable

State = Literal["ok", "warning", "missing"]


@dataclass(frozen=True)
class Finding:
    """``missing`` stands in the way of the run; ``warning`` may be meant, or costs speed."""

    what: str
    state: State
    text: str
    remedy: str = ""

    def line(self) -> str:
        text = " ".join(f"{self.text}{self.remedy and f'. Remedy: {self.remedy}'}".split())
        return printable(f"{self.state:<8} {self.what:<14} {text}")


def found_by(what: str, check: Callable[[], str | None]) -> list[Finding]:
    """What ``check`` says, and nothing where it says None; the UserError it raises names the remedy itself."""
    try:
        told = check()
    except UserError as error:
        return [Finding(what, "missing", str(error))]
    return [] if told is None else [Finding(what, "ok", told)]


def as_text(findings: Iterable[Finding], asked: str) -> str:
    lines = list(findings)
    missing = [finding.what for finding in lines if finding.state == "missing"]
    end = f"{asked} would not run: missing {', '.join(missing)}" if missing else f"{asked} would run"
    return "\n".join([finding.line() for finding in lines] + [end])


def as_json(findings: Iterable[Finding], asked: str) -> str:
    lines = list(findings)
    runs = all(finding.state != "missing" for finding in lines)
    return json.dumps({"asked": asked, "runs": runs, "findings": [asdict(finding) for finding in lines]}, indent=1)
