"""The tests that need a GPU, as a part of the GPU check:  python -m vqr1.bench.gpu_tests RESULT [--device cpu]"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from vqr1.bench.gpu import TESTS


class Outcomes:
    """What became of each test."""

    def __init__(self) -> None:
        self.by_name: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.by_name[report.nodeid.partition("::")[2]] = report.outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    asked = parser.parse_args()
    os.environ["VQR1_TEST_DEVICE"] = asked.device
    outcomes = Outcomes()
    code = pytest.main(["-q", "-p", "no:cacheprovider", "-m", "gpu", str(TESTS)], plugins=[outcomes])
    found = outcomes.by_name
    result = {
        "passed": sum(outcome == "passed" for outcome in found.values()),
        "failed": [name for name, outcome in found.items() if outcome == "failed"],
        "skipped": [name for name, outcome in found.items() if outcome == "skipped"],
    }
    asked.result.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(int(code))


if __name__ == "__main__":
    main()
