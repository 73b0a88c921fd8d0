"""``python tests/support/fake_run.py train ...`` stands for a run of three steps that can be stopped and gone on with.

It leaves what a sweep looks at: a line of metrics.jsonl for each step, and summary.json at the end. With the name of
a file in FAKE_PAUSE it waits after its second step, until that file is there or a signal comes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

STEPS = 3


def main() -> None:
    settings = dict(word.split("=", 1) for word in sys.argv[2:])
    folder = Path(settings["runs"]) / settings["name"]
    folder.mkdir(parents=True, exist_ok=True)

    def leave(number: int, frame: FrameType | None) -> None:  # and save, as a run does
        (folder / "signal").write_text(signal.Signals(number).name)
        sys.exit(130 if number == signal.SIGINT else 75)

    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, leave)
    (folder / "process").write_text(str(os.getpid()))
    place = {"gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "cores": sorted(os.sched_getaffinity(0))}
    (folder / "place").write_text(json.dumps(place))
    (folder / "words").write_text("\n".join(sys.argv))
    print("a fake run", flush=True)
    (folder / "environment").write_text("\n".join(os.environ))
    metrics = folder / "metrics.jsonl"
    done = len(metrics.read_text().splitlines()) if metrics.is_file() else 0
    if settings["resume"] != "auto" and done:
        sys.exit(2)
    with metrics.open("a") as file:
        for step in range(done + 1, STEPS + 1):
            file.write(json.dumps({"step": step}) + "\n")
            file.flush()
            while step == 2 and not Path(os.environ.get("FAKE_PAUSE", __file__)).exists():
                time.sleep(0.02)
    (folder / "summary.json").write_text(json.dumps({"steps": STEPS}))


if __name__ == "__main__":
    main()
