"""Whether a resumed run finds the data, the policy and the examples that it began with, by their content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vqr1.config import Config
from vqr1.errors import UserError
from vqr1.folder_reader import RESTORE, check_kinds, read_json, read_rows


def check_contents(
    run: Path,
    config: Config,
    pictures: Sequence[dict[str, Any]],
    policy: Mapping[str, str],
    taught: Mapping[str, Mapping[str, str]],
) -> list[str]:
    """Returns warnings where the run began before its folder noted one of them.

    ``pictures``, ``policy`` and ``taught`` are as in pictures.jsonl, policy.json and taught.json. Raises UserError
    where scores, spreads, parts, pictures, weights, examples or the user's own files are others.
    """
    if (run / "pictures.jsonl").is_file() and (run / "policy.json").is_file():
        _check_pictures(run, config, pictures)
        _check_policy(run, config, policy)
        notes = []
    else:
        notes = [f"warning: {run} does not say what its data and its policy were, so they are not compared"]
    if (run / "taught.json").is_file():
        _check_taught(run, config, taught)
    elif taught:
        notes.append(f"warning: {run} does not say what its examples were, so they are not compared")
    return notes


def asked(config: Config) -> str:
    """How to go on, as on the command line."""
    return f"resume={str(config.resume).lower()}"


def _check_pictures(run: Path, config: Config, pictures: Sequence[dict[str, Any]]) -> None:
    before, now = (
        {(row["image_id"], row["part"]): row for row in rows}
        for rows in (read_rows(run / "pictures.jsonl", image_id=str, part=str), pictures)
    )
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if changed:
        key = next((key for key in changed if key in before and key in now), changed[0])
        raise UserError(
            f"{asked(config)}, but {len(changed)} of {len(now)} pictures are not as {run} began with them: "
            f"{key[0]} ({key[1]}) {_difference(before.get(key), now.get(key))}; put the data back or start another run"
        )


def _check_policy(run: Path, config: Config, policy: Mapping[str, str]) -> None:
    other = _other(read_json(run / "policy.json"), policy)
    if other is not None:
        raise UserError(
            f"{asked(config)}, but {other} of policy.path={config.policy.path} is not the file that {run} began with; "
            "give the same policy or start another run"
        )


def _check_taught(run: Path, config: Config, taught: Mapping[str, Mapping[str, str]]) -> None:
    file = run / "taught.json"
    stored = {"files": {}, "examples": {}} | read_json(file)  # what was not taught is not in it
    check_kinds(stored, str(file), RESTORE, {"files": dict, "examples": dict})
    other = _other(stored["files"], taught.get("files", {}))  # the cause before what follows from it
    if other is not None:
        raise UserError(
            f"{asked(config)}, but {other} of depict.content={config.depict.content} is not the file that {run} began "
            "with; put it back or start another run"
        )
    name = _other(stored["examples"], taught.get("examples", {}))
    if name is not None:
        raise UserError(
            f"{asked(config)}, but the examples of {name} are not those that {run} began with, though its pictures and "
            "their scores are: its scale, its references or its distortions have changed; put its dataset.yaml back or "
            "start another run"
        )


def _other(before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """The first name whose digest is another, or is there once alone."""
    return next((name for name in sorted({**before, **now}) if before.get(name) != now.get(name)), None)


def _difference(before: dict[str, Any] | None, now: dict[str, Any] | None) -> str:
    """What sets two rows of pictures.jsonl apart, in words."""
    if before is None or now is None:
        return "is new" if before is None else "is gone"
    said = {"mos": "score", "mos_std": "spread"}
    other = [key for key in said if before.get(key) != now.get(key)]
    found = [f"had {said[key]} {before.get(key)} and has {now.get(key)}" for key in other]
    contents = {"content": "has another content", "reference": "has another reference"}
    return ", ".join([*found, *(said for key, said in contents.items() if before.get(key) != now.get(key))])
