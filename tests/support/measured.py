"""``python tests/support/measured.py FILE train ...`` is ``vqr1 train ...`` that writes its memory into FILE.

FILE becomes a JSON object of bytes: ``before``, resident as the loading of the policy begins, and ``peak``, the most
that was resident in the whole run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from vqr1 import cli


def status(field: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def main() -> None:
    from vqr1.training import build_trainer

    file = Path(sys.argv.pop(1))
    load = build_trainer.load_policy
    found: dict[str, int] = {}

    def load_policy(policy: Any) -> Any:
        found["before"] = status("VmRSS")
        return load(policy)

    build_trainer.load_policy = load_policy
    try:
        cli.main()
    finally:
        file.write_text(json.dumps({**found, "peak": status("VmHWM")}))


if __name__ == "__main__":
    main()
