"""The run folder: what a run leaves behind.

::

    runs/<name>/
      config.yaml      the resolved configuration
      splits.json      which content groups of each set are in which part, with the split's hash
      pictures.jsonl   every picture of the run: part, score, spread, BLAKE2b of its file
      policy.json      SHA-256 of the policy's weights and settings, by file
      taught.json      BLAKE2b of the examples that are shown with their answers, by set, and of the user's own files
      versions.json    the format of the folder; packages, Python, machine, git commit
      metrics.jsonl    one line per step and per evaluation; byte-equal for two runs with one seed
      timings.jsonl    what differs from run to run: seconds and speeds
      samples.jsonl    a few training pictures of evaluated steps: prompt, K answers, scores, rewards, advantages
      answers.jsonl    the probe pictures' answers at every evaluation: the K scores, null where one cannot be read, and
                       the first four texts
      pictures/        these pictures as JPEG of at most 512 pixels a side, each once, named by the BLAKE2b of its file
      resumed.jsonl    a line for each time that it was gone on with: from which step
      checkpoint-N/    to resume from
      damaged-checkpoint-N/  one that a resumed run could not read, and did without
      best/            the weights with the best mean validation SRCC; step.json says of which step
      best-N/          while the run goes on: the best weights as of a checkpoint, where later ones are better
      final/           the weights at the end
      summary.json     start and end, per set
      curves.png       reward and its parts, KL, score std (the paper's Figure 3), SRCC and its ceilings; also .pdf
      reasoning.png    a probe picture that got better, one that got worse, and what was said of them over training (the
                       paper's Figure 4); also .pdf
      wandb/           what goes, or went, to wandb's server (logger=offline, online)
      wandb.json       the id of the wandb run, with which a resumed run goes on, and what of it has been sent
      tensorboard/     event files (logger=tensorboard)
      stopped.json     until it goes on: the last step that was saved, the signal that stopped it, the exit code
      lock             held by the process that writes, which it names

A step's lines come before its checkpoint and its evaluation after it. So all lines up to a checkpoint's step are there
when the checkpoint is, but for that step's evaluation, which a resumed run repeats where it is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from vqr1.config import ADDED, Config, as_dict
from vqr1.errors import StoppedError, UserError
from vqr1.folder_reader import parsed, read_json, read_rows, read_yaml
from vqr1.folder_writer import LOCK, NEW, OLD, FolderWriter, put_in_place, read_json_lines, remove, replaced
from vqr1.provenance import finite, versions
from vqr1.training.begun_with import asked, check_contents
from vqr1.training.checkpoint_folders import PREFIX, STATE, UNFINISHED, numbered, unfinished
from vqr1.training.reached import Reached, is_evaluation

# Of the folder. 1, written nowhere, is that of vqr1 0.1.0: best/ does not say which step it is of, and a step's
# evaluation comes before its other lines and its checkpoint.
FORMAT = 2

# What a resumed run must not change, for it would be neither the one run nor the other, and what of it it may: how the
# answers are laid over memory and scored, how long the run is, how often it saves and evaluates. evaluation.batch is
# not among these: answers are seeded batch by batch.
FIXED = ("seed", "data", "policy", "rollout", "reward", "evaluation", "trainer", *ADDED)
FREE = (
    "data.root",  # the content is compared
    "depict.content",  # the content is compared
    "policy.path",  # the content is compared
    "rollout.vllm.server",
    "rollout.vllm.server_timeout",
    "rollout.vllm.group_port",
    "rollout.vllm.memory_share",
    "data.cache",
    "data.partial",  # the hash of the split says whether the pictures are the same
    "evaluation.every",
    "evaluation.probes",
    "rollout.stop_unreadable",
    "trainer.answers_per_device",
    "trainer.scoring_answers_per_device",
    "trainer.shared_prefix",
    "trainer.shared_prefix_attention",
    "trainer.shared_prefix_tokens",
    "trainer.skip_zero_advantages",
    "trainer.max_steps",
    "trainer.num_train_epochs",
    "trainer.save_steps",
    "trainer.save_total_limit",
    "trainer.logging_steps",
    "trainer.dataloader_num_workers",
    "trainer.dataloader_timeout",
    "trainer.ddp_timeout",
)


ROWS = ("metrics.jsonl", "timings.jsonl", "answers.jsonl", "samples.jsonl")
STOPPED, WANDB, RESUMED = "stopped.json", "wandb.json", "resumed.jsonl"
BEGUN = "config.yaml"  # written last: a folder without it holds no run yet
FIRST = ("versions.json", "splits.json", "pictures.jsonl", "policy.json", "taught.json", BEGUN)
# All that is there of a start that was interrupted before, and what a run can have been writing when it was killed.
INTERRUPTED = {LOCK, *FIRST, *(name + NEW for name in FIRST)} - {BEGUN}
FIGURES = ("curves.png", "curves.pdf", "reasoning.png", "reasoning.pdf")
PICTURES, PICTURE_SIDE = "pictures", 512  # pixels
WRITTEN = (*FIRST, *ROWS, "summary.json", *FIGURES, "best", "final", STOPPED, WANDB)


class RunFolder:
    """Writes on one rank; on the others every call does nothing, so callers need not ask."""

    def __init__(self, path: Path, writes: bool):
        self.path = path
        self._writes = writes
        self._writer = FolderWriter(path, other="name")
        self.reached = Reached()  # by the run that is resumed, before it loses the lines that it will write again
        self._pictures: dict[str | Path, str] = {}  # what is kept, by where it was read

    def open(
        self,
        config: Config,
        splits: dict[str, Any] | None = None,
        fault: Callable[[Path], str | None] = lambda checkpoint: None,
        pictures: Sequence[dict[str, Any]] = (),
        policy: dict[str, str] | None = None,
        taught: dict[str, dict[str, str]] | None = None,
    ) -> list[str]:
        """Make the folder and hold it, or go on with what it holds where ``config.resume`` says so.

        ``auto`` does whichever there is to do.

        What is resumed loses the lines that it will write again. ``fault`` says what is wrong with a checkpoint: it is
        put aside, as ``damaged-checkpoint-N``, where there is an earlier one without fault, and refused otherwise.
        ``pictures``, ``policy`` and ``taught`` are the data, the policy's files and the examples by their content
        (pictures.jsonl, policy.json, taught.json). Returns what the user has to know of that. Raises UserError, and
        changes nothing, where another process holds the folder, where it holds another run, where there is nothing to
        resume, and for a line that cannot be read.
        """
        if not self._writes:
            return []
        splits = splits or {}
        notes: list[str] = []
        self._writer.refuse_held()
        self._check(config, splits)
        if self._begun():
            notes += check_contents(self.path, config, pictures, policy or {}, taught or {})
        self._writer.acquire()
        try:
            self._check(config, splits)  # another run may have been here in between
            damaged = self._damaged(fault)
            notes += (unfinished := self._clear_leftovers())
            for path, why in damaged.items():
                aside = path.with_name(f"damaged-{path.name}")
                remove(aside)
                path.rename(aside)
                notes.append(f"warning: {why}; {path.name} is put aside as {aside.name}")
            if damaged or unfinished:
                notes[-1] += f", and the run goes on from {self.last_checkpoint() or 'the beginning'}"
            remove(self.path / STOPPED)
            if self._begun():
                self._forget_after(max(self.checkpoints(), default=-1))
                gone_on = [*self.rows(RESUMED), {"step": max(self.checkpoints(), default=0)}]
                self._writer.write_text(RESUMED, "".join(map(_line, gone_on)))  # without a torn last line
            else:
                self.write("versions.json", {"format": FORMAT, **versions()})
                self.write("splits.json", splits)
                self._writer.write_text("pictures.jsonl", "".join(map(_line, pictures)))
                self.write("policy.json", policy or {})
                self.write("taught.json", taught or {})
                self._writer.write_text(BEGUN, yaml.safe_dump(as_dict(config), sort_keys=False))
        except BaseException:
            self.close()
            raise
        return notes

    def finished(self, config: Config) -> bool:
        """Whether ``config.resume`` finds a run that has reached its end, with all the steps of ``config``.

        Raises UserError where another process holds the folder, and for other settings, as :meth:`open` does.
        """
        if not (config.resume and self._begun() and (self.path / "summary.json").is_file()):
            return False
        self._writer.refuse_held()
        self._check_format(config)
        self._check_same(config)
        return is_finished(self.path, config)

    def close(self) -> None:
        self._writer.close()

    def _begun(self) -> bool:
        return (self.path / BEGUN).is_file()

    def _check(self, config: Config, splits: dict[str, Any]) -> None:
        found = {file.name for file in self.path.iterdir()} if self.path.is_dir() else set()
        others = found - INTERRUPTED
        if not config.resume:
            if others:
                raise UserError(f"{self.path} holds another run; give resume=true to go on with it, or another name=")
        elif self._begun():
            self._check_format(config)
            self._check_same(config)
            self._check_splits(config, splits)
            if config.trainer.get("sync_ref_model") and self.checkpoints():
                raise UserError(
                    f"{asked(config)}, but {self.path} trains with trainer.sync_ref_model=true, and the reference "
                    "that moved is in no checkpoint; start another run"
                )
            if "summary.json" in found and not self.checkpoints():
                raise UserError(
                    f"{asked(config)}, but the run in {self.path} is finished and has no checkpoint to take more "
                    "steps from; start another run with policy.path=" + str(self.path / "final")
                )
        elif others or (not found and config.resume != "auto"):
            raise UserError(f"{self.path} holds no run to resume; check name= and runs=, or leave resume out")

    def _check_format(self, config: Config) -> None:
        path = self.path / "versions.json"
        stored = {"format": 1} | (read_json(path) if path.is_file() else {})
        if type(found := stored["format"]) is not int:
            raise UserError(f"{path}: format is {found!r}, and it is a whole number; restore the file")
        remedy = f"resume with the version that began it ({stored.get('vqr1', 'unknown')}), or start another run"
        if found < FORMAT:
            raise UserError(
                f"{asked(config)}, but {self.path} is of format {found}, and this version resumes format {FORMAT} "
                "only: the order of lines differs, and best/ does not say which step it is of. vqr1 evaluate takes it "
                f"as it is; to go on, {remedy}"
            )
        if found > FORMAT:
            raise UserError(f"{asked(config)}, but {self.path} is of format {found}, newer than {FORMAT}; {remedy}")

    def _check_same(self, config: Config) -> None:
        before = {**_flat(as_dict(ADDED)), **_flat(read_yaml(self.path / BEGUN))}
        now = _flat(as_dict(config))
        for name in sorted({*before, *now}, key=lambda name: (name != "objective", name)):  # the cause before the rest
            fixed = name.split(".")[0] in FIXED and name not in FREE
            # Whose fidelity is learnt are the pairs of a pass.
            fixed = fixed or (name == "trainer.answers_per_device" and config.levels.pair_weight > 0)
            if fixed and before.get(name) != now.get(name):
                raise UserError(
                    f"{asked(config)}, but {name} was {before.get(name)} in {self.path} and is {now.get(name)}; "
                    "resume with the same settings or start another run"
                )

    def _check_splits(self, config: Config, splits: dict[str, Any]) -> None:
        """Raises UserError where a resumed run finds other data than it began with."""
        path = self.path / "splits.json"
        before = read_json(path) if path.is_file() else {}
        for name, split in splits.items():
            stored = before.get(name, split)
            known = stored.get("hash") if isinstance(stored, dict) else stored
            if known != split["hash"]:
                raise UserError(
                    f"{asked(config)}, but the split of {name} was {known} and is {split['hash']}: its label file or "
                    "pictures have changed; put them back or start another run"
                )

    def _damaged(self, fault: Callable[[Path], str | None]) -> dict[Path, str]:
        """The checkpoints after the last one without fault, and what is wrong with each.

        Raises UserError where all have one: what was learnt is not thrown away without a word.
        """
        found: dict[Path, str] = {}
        for _, path in sorted(self.checkpoints().items(), reverse=True):
            why = fault(path)
            if why is None:
                return found
            found[path] = why
        if found:
            why = next(iter(found.values()))
            raise UserError(
                f"{why}, and no earlier checkpoint is whole: nothing to go on from. Put it back, or remove "
                f"{', '.join(map(str, found))} and the run starts from the beginning"
            )
        return found

    def _clear_leftovers(self) -> list[str]:
        """What a killed run was writing: files and folders beside their places, and checkpoints without an end.

        Returns a line on each of these checkpoints.
        """
        for name in WRITTEN:
            remove(self.path / (name + NEW))
            remove(self.path / (name + OLD))
        for path in [*(self.path / PICTURES).glob(f"*{NEW}"), *self.path.glob(f"{PREFIX}*{OLD}")]:
            remove(path)
        cut = sorted(set(numbered(self.path).values()) - set(self.checkpoints().values()))
        notes = [f"{path / STATE} is missing or cut, so {path.name} is removed" for path in cut]
        notes += [f"the run ended while it wrote {path.name}, which is removed" for path in unfinished(self.path)]
        for path in [*cut, self.path / UNFINISHED]:
            remove(path)
        return [f"warning: {note}" for note in notes]

    def checkpoints(self) -> dict[int, Path]:
        """The finished checkpoints by their step."""
        return {step: path for step, path in numbered(self.path).items() if _is_json(path / STATE)}

    def last_checkpoint(self) -> Path | None:
        """None where a run has to start from the beginning."""
        found = self.checkpoints()
        return found[max(found)] if found else None

    def _forget_after(self, step: int) -> None:
        """Keep the lines up to ``step``, without the answers of an unfinished evaluation."""
        found = {name: read_rows(self.path / name, step=int) for name in ROWS}
        self.reached = Reached.of(found["metrics.jsonl"])
        kept = {name: [row for row in rows if row["step"] <= step] for name, rows in found.items()}
        evaluated = {row["step"] for row in kept["metrics.jsonl"] if is_evaluation(row)}
        kept["answers.jsonl"] = [row for row in kept["answers.jsonl"] if row["step"] in evaluated]
        for name, rows in kept.items():
            if (self.path / name).is_file():
                self._writer.write_text(name, "".join(map(_line, rows)))

    def append(self, name: str, *rows: dict[str, Any]) -> None:
        if self._writes:
            self._writer.append(name, "".join(_line(finite(row)) for row in rows))

    def write(self, name: str, content: dict[str, Any]) -> None:
        if self._writes:
            self._writer.write_text(name, json.dumps(finite(content), indent=2) + "\n")

    def keep_picture(self, path: str | Path) -> str:
        """Keep a picture small, so that the folder can be looked at elsewhere; its place, relative to the folder.

        Raises OSError where the picture is gone or the disk full, and UserError where it is no picture any more.
        """
        if not self._writes:
            return ""
        if path not in self._pictures:
            from vqr1.data.pictures import digest, save_thumbnail  # numpy and Pillow, before a command has started

            name = f"{PICTURES}/{digest(path)}.jpg"
            kept = self.path / name
            if not kept.is_file():
                kept.parent.mkdir(exist_ok=True)
                with replaced(kept) as new:
                    save_thumbnail(path, new, PICTURE_SIDE)
            self._pictures[path] = name
        return self._pictures[path]

    def stopped(self, signal: str) -> None:
        """Leave the reason of the end for whoever starts runs: launchers turn every exit code into 1."""
        if self._writes and self._writer.held and self._begun():
            step = max(self.checkpoints(), default=0)
            self.write(STOPPED, {"step": step, "signal": signal, "exit_code": StoppedError.exit_code})

    def put_in_place(self, name: str) -> None:
        """Let the folder that was written as ``name.new`` take its place."""
        if self._writes:
            put_in_place(self.path / name)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Raises UserError for a line that cannot be read and is not the torn last one."""
        return read_json_lines(self.path / name)


def take_stopped(folder: Path) -> str | None:
    """The signal that has stopped the run in ``folder``, told once: a later start that fails was not stopped by it."""
    file = folder / STOPPED
    if not file.is_file():
        return None
    signal = str(read_json(file, "delete it, and give the command again", signal=str)["signal"])
    file.unlink()
    return signal


def is_finished(folder: Path, config: Config) -> bool:
    """Whether the run in ``folder`` has ended with all the steps that ``config`` asks for."""
    summary = folder / "summary.json"
    if not summary.is_file():
        return False
    done = {"epochs": 0} | read_json(summary, "delete it, and the run goes on from its last checkpoint", steps=int)
    steps = config.trainer.get("max_steps", -1)
    if steps > 0:
        return bool(done["steps"] >= steps)
    epochs = config.trainer.get("num_train_epochs", 3)  # transformers' own number
    return isinstance(done["epochs"], (int, float)) and done["epochs"] >= epochs - 1e-6  # a sum of shares of one


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _is_json(path: Path) -> bool:
    """Raises OSError where that cannot be known: what a disk does not give now is not thrown away."""
    try:
        parsed(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
        return False
    return True


def _flat(settings: dict[str, Any], section: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat.update(_flat(value, f"{section}{key}.") if isinstance(value, dict) else {f"{section}{key}": value})
    return flat
