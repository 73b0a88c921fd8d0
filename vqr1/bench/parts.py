"""Measurements in parts, for a machine that is there for minutes: each part in a process and under a limit of its own.

A part that fails, overruns or is killed never stops the next. After each part three files in the output folder are up
to date: ``gpu.jsonl`` (a line a part, appended as it ends), ``gpu.md`` (the table, and the last lines of what failed)
and ``logs.tar.gz``. A second start goes on where the first ended: finished parts are not run again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from vqr1.errors import UserError
from vqr1.provenance import finite, git_commit

TAIL = 12  # lines of a failed part's log that the table shows
FINISHED = "ok"
RECORD = "gpu.jsonl"


@dataclass(frozen=True)
class Part:
    """One measurement.

    ``words`` follow the interpreter; ``{result}`` in them is where the part writes its JSON, which is kept even when
    the part does not come to its end, and ``{state}`` the folder that parts share. ``figures`` turns that JSON into
    what the table shows.
    """

    name: str
    words: Sequence[str]
    expected: float  # seconds; a part that no longer fits in the budget is not begun
    limit: float  # seconds; then it is stopped
    figures: Callable[[dict[str, Any]], dict[str, str]]
    missing: Callable[[], str | None] = lambda: None  # why it cannot run here, if it cannot


Row = dict[str, Any]


@contextlib.contextmanager
def alone(state: Path) -> Iterator[None]:
    """Holds ``state`` for this process. Raises UserError where another holds it."""
    state.mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as held:
            lock.seek(0)
            raise UserError(
                f"{state} is in use by process {lock.read().strip()}; wait for its end, or name another folder with "
                "--state"
            ) from held
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def run_parts(
    parts: Sequence[Part],
    out: Path,
    state: Path,
    *,
    minutes: float,
    done: Path | None = None,
    say: Callable[[str], None] = print,
) -> bool:
    """Run what is not finished yet, in order; returns whether every part is finished.

    ``done``: the ``gpu.jsonl`` of an earlier machine, whose finished parts count here too. Raises UserError where
    another process runs in ``state``, OSError where ``out`` cannot be written to before anything has run.
    """
    ends = time.monotonic() + 60 * minutes
    with alone(state):
        out.mkdir(parents=True, exist_ok=True)
        record = Record(out, state, done)
        record.write(parts)
        for part in parts:
            if record.finished(part):
                say(f"{part.name}: finished before")
                continue
            row = run_part(part, state, ends - time.monotonic(), say)
            try:
                record.add(row)
                record.write(parts)
            except OSError as error:  # a full disk: what is on the screen is what is left
                say(f"{part.name}: the result could not be written: {error}\n{json.dumps(row)}")
            if row["status"] == "interrupted":
                break
        try:
            record.write(parts)
        except OSError as error:
            say(f"{out}: the table could not be written: {error}")
        say(table(parts, record.rows))
        return all(record.finished(part) for part in parts)


def run_part(part: Part, state: Path, left: float, say: Callable[[str], None]) -> Row:
    """Run one part in a process group of its own; everything it started has ended when this returns."""
    row: Row = {"part": part.name, "status": "", "seconds": 0.0, "at": f"{datetime.now():%Y-%m-%d %H:%M}"}
    row["commit"] = git_commit()
    reason = part.missing()
    if reason:
        say(f"{part.name}: left out: {reason}")
        return row | {"status": "left out", "why": reason}
    if part.expected > left:
        reason = f"needs about {part.expected:.0f} s, {max(left, 0):.0f} s are left"
        say(f"{part.name}: not begun: {reason}")
        return row | {"status": "not begun", "why": reason}
    result, log = state / f"{part.name}.json", state / f"{part.name}.log"
    result.unlink(missing_ok=True)
    words = [word.format(result=result, state=state) for word in part.words]
    say(f"{part.name}: started, about {part.expected:.0f} s")
    began = time.monotonic()
    try:
        with log.open("w") as output:
            output.write(" ".join(words) + "\n")
            output.flush()
            process = subprocess.Popen(
                [sys.executable, *words], stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
            row["status"] = _wait(process, min(part.limit, left), result)
    except OSError as error:
        row |= {"status": "failed", "why": str(error)}
    row["seconds"] = round(time.monotonic() - began, 1)
    row |= _read_result(result)
    if row["status"] != FINISHED:
        row["log"] = _tail(log)
    say(f"{part.name}: {row['status']}, {row['seconds']:.0f} s")
    return row


def _wait(process: subprocess.Popen[Any], limit: float, result: Path) -> str:
    try:
        code = process.wait(limit)
        status = FINISHED if code == 0 and result.is_file() else f"failed with exit code {code}"
        if code == 0 and not result.is_file():
            status = "failed: it wrote no result"
        if code < 0:
            status = f"killed by {signal.Signals(-code).name}"
    except subprocess.TimeoutExpired:
        status = f"overran its limit of {limit:.0f} s"
    except KeyboardInterrupt:
        status = "interrupted"
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # whatever it left behind as well
    process.wait()
    return status


def _read_result(path: Path) -> Row:
    if not path.is_file():
        return {}
    try:
        return {"result": json.loads(path.read_text())}
    except json.JSONDecodeError:  # it was stopped while it wrote
        return {}


def _tail(log: Path) -> list[str]:
    if not log.is_file():
        return []
    return log.read_text(errors="replace").splitlines()[-TAIL:]


class Record:
    """The rows so far: kept in the state folder, shown in the output folder."""

    def __init__(self, out: Path, state: Path, done: Path | None):
        self._out = out
        self._state = state
        found = _read_rows(state / RECORD)
        self.rows: dict[str, Row] = {row["part"]: row for row in found}
        if done is not None:
            if not done.is_file():
                raise UserError(f"--done {done}: no such file; give the gpu.jsonl of an earlier start")
            earlier = (row for row in _read_rows(done) if row["status"] == FINISHED)
            self.rows |= {row["part"]: row for row in earlier if not self._ok(row["part"])}
        if not (out / RECORD).is_file():  # what another start left elsewhere
            _append(out / RECORD, self.rows.values())

    def _ok(self, name: str) -> bool:
        return self.rows.get(name, {}).get("status") == FINISHED

    def finished(self, part: Part) -> bool:
        return self._ok(part.name)

    def add(self, row: Row) -> None:
        self.rows[row["part"]] = row
        for folder in (self._state, self._out):
            _append(folder / RECORD, [row])

    def write(self, parts: Sequence[Part]) -> None:
        """The table and the logs, each beside its place first and then renamed."""
        draft = self._out / ".gpu.md"
        draft.write_text(table(parts, self.rows))
        draft.rename(self._out / "gpu.md")
        archive = self._out / ".logs.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            for path in sorted([*self._state.glob("*.log"), *self._state.glob("*.json")]):
                tar.add(path, path.name)
        archive.rename(self._out / "logs.tar.gz")


def _append(path: Path, rows: Any) -> None:
    with path.open("a") as file:
        file.write("".join(json.dumps(finite(row)) + "\n" for row in rows))


def _read_rows(path: Path) -> list[Row]:
    """The rows of a file; the last line may have been cut off when its writer was stopped."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def table(parts: Sequence[Part], rows: dict[str, Row]) -> str:
    """Markdown: a row a part with its figures, then the last lines of what did not finish."""
    lines = ["| part | status | s | figures |", "|---|---|---|---|"]
    for part in parts:
        row = rows.get(part.name, {"status": "not run", "seconds": 0.0})
        shown = row["status"] + (f": {row['why']}" if row.get("why") else "")
        figures = _figures(part, row.get("result"))
        lines.append(f"| {part.name} | {shown} | {row['seconds']:.0f} | {figures} |")
    for part in parts:
        row = rows.get(part.name, {})
        if row.get("log"):
            lines += ["", f"{part.name}, {row['status']}:", "", *(f"    {line}" for line in row["log"])]
    return "\n".join(lines) + "\n"


def _figures(part: Part, result: dict[str, Any] | None) -> str:
    """What the table shows of a result, which may be that of a part that was stopped half-way."""
    if result is None:
        return ""
    try:
        found = part.figures(result)
    except (KeyError, TypeError, IndexError) as missing:
        return f"incomplete: {missing!r}"
    return "; ".join(f"{name} {value}" for name, value in found.items()).replace("|", "/")


def free_gb(folder: Path) -> float:
    """GB that are free where ``folder`` is or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / 1e9
