"""What a user can do after a run has ended or was ended: commands whose words can be given as they are."""

from __future__ import annotations

import shlex
from pathlib import Path

from vqr1.command_words import quoted
from vqr1.config import Config, Objective
from vqr1.packaged import data_root

# How `vqr1 evaluate` reads what an objective trains, as words that follow the sets. Pairs are compared with anchors of
# the training part, so the test part is rated.
READ_BY = {
    Objective.rl2r: "",
    Objective.levels: " method=levels",
    Objective.comparison: " part=test method=comparison",
    Objective.depict: " part=test method=comparison",
}


def going_on(config: Config, name: str) -> str:
    """How an interrupted run is gone on with."""
    if not (Path(config.runs) / name).is_dir():
        return "nothing was begun"
    given = config.name == name and config.resume
    return "the same command goes on" if given else f"the same command with name={quoted(name)} resume=auto goes on"


def next_words(config: Config, folder: Path, steps: int) -> str:
    """What can be done with a run that has ended, as lines whose words can be given as they are."""
    # best/ is missing where no step was better than the start.
    weights = next(path for path in (folder / "best", folder / "final") if path.is_dir() or path.name == "final")
    figures = [str(folder / name) for name in ("curves.png", "reasoning.png") if (folder / name).is_file()]
    root = "" if config.data.root == data_root() else f" --root {shlex.quote(config.data.root)}"
    threads = f" threads={config.threads}" if config.threads else ""
    sets = shlex.quote(f"data=[{','.join(map(quoted, config.data.test))}]")
    words = f"vqr1 evaluate {_word('model', str(weights))} {sets}{READ_BY[config.objective]}{root}{threads}"
    name = folder.relative_to(config.runs)
    lines = {
        "look at": ", ".join(figures),
        "evaluate": words if config.data.test else "",
        "go on": f"the same command with {_word('name', str(name))} resume=true trainer.max_steps={2 * steps}",
        "send": " ".join(f"wandb sync {shlex.quote(str(run))}" for run in sorted(folder.glob("wandb/offline-run-*"))),
    }
    return "\n".join(f"  {what:<10}{how}" for what, how in lines.items() if how)


def _word(key: str, value: str) -> str:
    """A setting as the shell takes it."""
    bare = value.removeprefix("/")
    return shlex.quote(f"{key}={value if quoted(bare) == bare else quoted(value)}")
