"""wandb: a run's figures, texts and pictures, in the run folder (offline) or on wandb's server, under one id.

What is logged has the training step as ``step``, and every figure is plotted against it. wandb's own count, ``_step``,
can only grow: of two lines with one step, the second is moved behind all others. So no line is sent twice:

- A resumed run repeats the lines after its checkpoint. Offline it starts a new fragment ``wandb/offline-run-*``, with
  all its lines from the beginning; the earlier one is moved to ``wandb/earlier-N``.
- What has been sent cannot be taken back: a fragment with a ``*.wandb.synced``, which ``wandb sync`` leaves, or one
  that was online. Up to which lines that is stands in ``wandb.json``; they are not logged again.

Pictures are lists of wandb.Image and texts wandb.Html, whose files lie in the fragment. Those of a wandb.Table do not,
so that a fragment that is sent from another machine would lack them.
"""

from __future__ import annotations

import html
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vqr1.config import Config, Wandb, as_dict
from vqr1.errors import UserError
from vqr1.folder_reader import read_json
from vqr1.metric_names import METRICS, described
from vqr1.provenance import versions
from vqr1.training.reached import Reached
from vqr1.training.run_folder import WANDB, RunFolder
from vqr1.training.sinks import Say, Table

WAIT = 10  # seconds at most for a server, at the start and at the end
EVALUATION = ("eval/", "probes/", "speed/evaluation")  # what comes after a step's other lines


@dataclass
class Stored:
    """``wandb.json``: the run's id, and the last lines that wandb's server has."""

    id: str
    sent: Reached

    @staticmethod
    def of(path: Path) -> Stored | None:
        if not path.is_file():
            return None
        found = read_json(path, "delete it, and the run goes on as another run of wandb", id=str)
        sent = found.get("sent", {})
        try:
            return Stored(found["id"], Reached(**{name: int(step) for name, step in sent.items()}))
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: sent is {str(sent)[:80]!r}, no steps; delete the file") from error


class WandbSink:
    """``run`` is wandb's; ``sent`` are the last lines that are not logged again."""

    def __init__(self, run: Any, sent: Reached):
        self.run = run
        self._sent = sent
        self._place = run.step - 1  # the last row of wandb's history
        self._step: int | None = None  # which that row is of
        self._seen: set[str] = set()  # names

    def figures(self, step: int, values: dict[str, float]) -> None:
        self._log(step, values)

    def table(self, step: int, name: str, table: Table) -> None:
        import wandb

        self._log(step, {name: wandb.Html(as_html(table), inject=False)})

    def pictures(self, step: int, name: str, captioned: Sequence[tuple[Path, str]]) -> None:
        import wandb

        self._log(step, {name: [wandb.Image(str(path), caption=caption) for path, caption in captioned]})

    def _log(self, step: int, values: dict[str, Any]) -> None:
        new = {name: value for name, value in values.items() if step > self._last_sent(name)}
        if not new:
            return
        for name in new.keys() - self._seen:
            self._seen.add(name)
            metric = described(name, METRICS)
            if metric is not None and metric.best:  # the table of runs has it, beside the last one
                self.run.define_metric(name, step_metric="step", summary=f"{metric.best},last")
        if step != self._step:
            self._step, self._place = step, max(step, self._place + 1)
        self.run.log({"step": step, **new}, step=self._place)

    def _last_sent(self, name: str) -> int:
        return self._sent.evaluation if name.startswith(EVALUATION) else self._sent.step


def as_html(table: Table) -> str:
    """A page by itself, in which no markup of a policy's answer has a meaning."""

    def line(cells: Sequence[Any], tag: str) -> str:
        texts = ("" if cell is None else html.escape(str(cell)) for cell in cells)
        return f"<tr>{''.join(f'<{tag}>{text}</{tag}>' for text in texts)}</tr>"

    style = "body{font:14px sans-serif}td,th{padding:2px 8px;text-align:left;vertical-align:top;white-space:pre-wrap}"
    note = f"<p>{html.escape(table.note)}</p>" if table.note else ""
    rows = "".join(line(row, "td") for row in table.rows)
    return f"<meta charset=utf-8><style>{style}</style>{note}<table>{line(table.columns, 'th')}{rows}</table>"


def open_wandb(config: Config, folder: RunFolder, say: Say, ending: ExitStack) -> WandbSink:
    """A wandb run in the run folder; ``ending`` finishes it.

    A resumed run goes on with the wandb run whose id is in the folder. A server that does not answer is told of, and
    what is logged stays in the folder. Raises UserError where wandb does not start otherwise.
    """
    import wandb

    stored = Stored.of(folder.path / WANDB)
    place = folder.path / "wandb"
    earlier = [path for path in place.glob("*run-*") if not path.is_symlink()]
    if stored is not None and any(map(_is_sent, earlier)):
        stored.sent = stored.sent.or_later(folder.reached)
        folder.write(WANDB, asdict(stored))
    if earlier:
        aside = place / f"earlier-{1 + len(list(place.glob('earlier-*')))}"
        aside.mkdir()
        for path in earlier:
            path.rename(aside / path.name)

    def begin(mode: Wandb) -> Any:
        return wandb.init(
            project=config.logger.project,
            group=config.logger.group,
            tags=[tag[:64] for tag in config.logger.tags],  # wandb takes no longer ones
            name=folder.path.name,
            id=stored.id if stored else None,
            resume="allow" if mode is Wandb.online else None,  # offline it would only warn
            dir=str(folder.path),
            mode=mode.value,
            config={**as_dict(config), "versions": versions()},
            settings=wandb.Settings(
                silent=True, console="off", show_warnings=False, init_timeout=WAIT, finish_timeout=WAIT
            ),
        )

    mode = config.logger.wandb
    try:
        try:
            run = begin(mode)
        except wandb.errors.CommError as error:
            if mode is not Wandb.online or isinstance(error, wandb.errors.AuthenticationError):
                raise
            wandb.teardown()
            for stub in place.glob("run-*"):
                shutil.rmtree(stub)
            mode = Wandb.offline
            run = begin(mode)
            say(f"warning: wandb's server does not answer ({_one_line(error)}); {_later(run)}")
    except wandb.errors.Error as error:
        remedy = "log in with `wandb login`, or keep the figures in the run folder with logger=offline"
        if mode is Wandb.offline:
            remedy = "it needs a folder for temporary files (TMPDIR), or do without it with logger=disabled"
        raise UserError(
            f"wandb does not start ({_one_line(error)}); {remedy}, and give name={config.name} resume=auto"
        ) from error
    ending.push(lambda kind, *_: _finish(run, mode, say, exit_code=int(kind is not None)))
    if stored is None:
        stored = Stored(run.id, Reached())
        folder.write(WANDB, asdict(stored))
    run.define_metric("step", hidden=True)
    run.define_metric("*", step_metric="step")
    # The server knows best what it has; it may have lost the run.
    return WandbSink(run, stored.sent.at_most(run.step - 1) if mode is Wandb.online else stored.sent)


def _finish(run: Any, mode: Wandb, say: Say, exit_code: int) -> None:
    began = time.monotonic()
    run.finish(exit_code=exit_code)
    if mode is Wandb.online and time.monotonic() - began >= WAIT:
        say(f"warning: wandb's server has not taken all in {WAIT} s; {_later(run)}")


def _later(run: Any) -> str:
    return f"what is logged stays in the run folder; later: wandb sync {Path(run.dir).parent}"


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _is_sent(fragment: Path) -> bool:
    return fragment.name.startswith("run-") or any(fragment.glob("*.synced"))
