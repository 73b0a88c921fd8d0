"""The run folder: what a run leaves behind.

::

    runs/<name>/
      config.yaml      the resolved configuration
      splits.json      which content groups of each set are in which part, with the split's hash
      versions.json    packages, Python, machine, git commit
      metrics.jsonl    one line per step and per evaluation; byte-equal for two runs with one seed
      timings.jsonl    what differs from run to run: seconds and speeds
      answers.jsonl    the probe pictures' answers at every evaluation
      checkpoint-N/    to resume from
      best/            the weights with the best mean validation SRCC
      final/           the weights at the end
      summary.json     start and end, per set
      curves.png       reward, fidelity, SRCC and its ceilings, score std (the paper's Figure 3), KL
      reasoning.png    a picture of each validation set and what was said of it over training (the paper's Figure 4)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from vqr1.config import Config, as_dict
from vqr1.errors import UserError
from vqr1.provenance import finite, versions

# What a resumed run must not change, for it would be neither the one run nor the other, and what of it it may: how the
# answers are laid over memory and scored, how long the run is, how often it saves.
FIXED = ("seed", "data", "policy", "rollout", "reward", "trainer")
FREE = (
    "data.cache",
    "trainer.answers_per_device",
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
)


class RunFolder:
    """Writes on one rank; on the others every call does nothing, so callers need not ask."""

    def __init__(self, path: Path, writes: bool):
        self.path = path
        self._writes = writes

    def check(self, config: Config) -> None:
        """Raises ValueError where the folder holds another run, or where there is nothing to resume."""
        used = self.path.is_dir() and any(self.path.iterdir())
        if used and not config.resume:
            raise UserError(f"{self.path} holds another run; give resume=true to go on with it, or another name=")
        if config.resume and self.last_checkpoint() is None:
            raise UserError(f"{self.path} has no checkpoint to resume from; check name= and runs=, or leave resume out")
        if config.resume:
            self._check_same(config)

    def open(self, config: Config) -> None:
        """Make the folder, or take it up again where ``config.resume`` says so. Raises what :meth:`check` raises."""
        self.check(config)
        if self._writes and not config.resume:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / "config.yaml").write_text(yaml.safe_dump(as_dict(config), sort_keys=False))
            self.write("versions.json", versions())

    def _check_same(self, config: Config) -> None:
        before = _flat(yaml.safe_load((self.path / "config.yaml").read_text()))
        now = _flat(as_dict(config))
        for name in sorted({*before, *now}):
            fixed = name.split(".")[0] in FIXED and name not in FREE
            if fixed and before.get(name) != now.get(name):
                raise UserError(
                    f"resume=true, but {name} was {before.get(name)} in {self.path} and is {now.get(name)}; "
                    "resume with the same settings or start another run"
                )

    def check_splits(self, splits: dict[str, Any]) -> None:
        """Raises ValueError where a run that is taken up again finds other data than it began with."""
        path = self.path / "splits.json"
        before = json.loads(path.read_text()) if path.is_file() else {}
        for name, split in splits.items():
            known = before.get(name, split)["hash"]
            if known != split["hash"]:
                raise UserError(
                    f"resume=true, but the split of {name} was {known} and is {split['hash']}: its label file or "
                    "pictures have changed; put them back or start another run"
                )

    def last_checkpoint(self) -> Path | None:
        found = [p for p in self.path.glob("checkpoint-*") if (p / "trainer_state.json").is_file()]
        return max(found, key=lambda p: int(p.name.rpartition("-")[2]), default=None)

    def forget_after(self, step: int) -> None:
        """Drop the lines that a resumed run will write again."""
        for name in ("metrics.jsonl", "timings.jsonl", "answers.jsonl"):
            path = self.path / name
            if self._writes and path.is_file():
                kept = [line for line in path.read_text().splitlines(keepends=True) if json.loads(line)["step"] <= step]
                path.write_text("".join(kept))

    def append(self, name: str, row: dict[str, Any]) -> None:
        if self._writes:
            with (self.path / name).open("a") as file:
                file.write(json.dumps(finite(row)) + "\n")

    def write(self, name: str, content: dict[str, Any]) -> None:
        if self._writes:
            (self.path / name).write_text(json.dumps(finite(content), indent=2) + "\n")

    def rows(self, name: str) -> list[dict[str, Any]]:
        path = self.path / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _flat(settings: dict[str, Any], section: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat.update(_flat(value, f"{section}{key}.") if isinstance(value, dict) else {f"{section}{key}": value})
    return flat
