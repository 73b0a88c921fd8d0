"""Options of several commands: what argparse reads them as, and files that they name."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from vqr1.errors import UserError, show
from vqr1.provenance import finite


class Parser(argparse.ArgumentParser):
    """argparse's, whose messages repeat words as they are; here their control characters are shown."""

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        show(message or "", end="", file=sys.stderr)
        sys.exit(status)


def count(text: str) -> int:
    """A whole number above 0, for argparse."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def path(text: str) -> Path:
    """A path for argparse, with the home folder in place of ``~``."""
    if not text:
        raise argparse.ArgumentTypeError("an empty name is no path")
    return Path(os.path.expanduser(text))  # noqa: PTH111 - Path.expanduser raises where there is no home


def write_json(path: Path, content: dict[str, Any]) -> None:
    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(finite(content), indent=2) + "\n")

    written("--json", path, write)


def written(option: str, path: Path, write: Callable[[], Any]) -> Any:
    """What ``write`` returns. What is asked to be written where nothing can be is the user's error."""
    try:
        return write()
    except OSError as error:
        raise UserError(f"{option} {path}: {error.strerror or error}; give a place that can be written") from error
