"""The demonstration as a check of a GPU:  python -m vqr1.bench.demonstration {run,resume,zero3} RESULT --folder FOLDER

run: the demonstration by vLLM where it is installed, for some steps, its SRCC beside that of the same steps on a CPU.
resume: the same run killed in its middle and resumed; how much the two differ from there on.
zero3: two steps under ZeRO-3 with one process beside the same steps without.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import vqr1
from vqr1.packaged import packaged
from vqr1.provenance import git_commit
from vqr1.rollout_settings import vllm_installed

CPU = Path(__file__).parent / "demonstration_cpu.json"  # made by: run, on a CPU
SETS = ("demo_five_test", "demo_hundred_test")
POLL = 0.2  # seconds


def words(folder: Path, name: str, asked: argparse.Namespace, *more: str) -> list[str]:
    """The demonstration's run of a name, by vLLM where it is; evaluated at both ends only."""
    engine = "vllm_colocate" if vllm_installed() else "transformers"
    return [
        "train",
        "experiment=demo",
        f"name={name}",
        f"runs={folder / 'runs'}",
        "logger=disabled",
        f"rollout={engine}",
        # A measurement goes on and reports the canary; a run would stop at it.
        *(["rollout.vllm.canary_stop=false"] if vllm_installed() else []),
        f"trainer.max_steps={asked.steps}",
        f"trainer.save_steps={asked.steps // 3}",
        "evaluation.every=0",
        f"evaluation.test_k={asked.answers}",
        "evaluation.proof=false",
        *(f"evaluation.max_pictures={n}" for n in [asked.pictures] if n),
        *more,
    ]


def start(command: Sequence[str]) -> subprocess.Popen[Any]:
    return subprocess.Popen([sys.executable, "-m", *command], env=environment())


def environment() -> dict[str, str]:
    """This checkout's package for the processes that are started, wherever they are started from."""
    path = os.pathsep.join(filter(None, [str(Path(vqr1.__file__).parent.parent), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


def finish(process: subprocess.Popen[Any]) -> None:
    if process.wait():
        raise SystemExit(f"{process.args!r} ended with exit code {process.returncode}")


def rows(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run that may be writing them."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def srcc(run: Path) -> dict[str, dict[str, float]]:
    summary = json.loads((run / "summary.json").read_text())
    return {end: {name: summary[end][name]["srcc"] for name in SETS} for end in ("start", "final")}


def run(asked: argparse.Namespace) -> dict[str, Any]:
    shutil.rmtree(asked.folder / "runs" / "whole", ignore_errors=True)
    began = time.monotonic()
    finish(start(["vqr1", *words(asked.folder, "whole", asked)]))
    seconds = time.monotonic() - began
    found = asked.folder / "runs" / "whole"
    canary = [row["canary/logp_difference"] for row in rows(found) if "canary/logp_difference" in row]
    import torch

    on_gpu = torch.cuda.is_available()
    return {
        "steps": asked.steps,
        "answers": asked.answers,
        "vllm": vllm_installed(),
        "machine": torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine(),
        "date": date.today().isoformat(),
        "commit": git_commit(),
        "seconds": seconds,
        "canary_max": max(canary) if canary else None,
        "srcc": srcc(found),
        "cpu": json.loads(CPU.read_text()) if CPU.is_file() else None,
    }


def resume(asked: argparse.Namespace) -> dict[str, Any]:
    """Kill a run behind its first checkpoint, resume it, and compare it with the undisturbed one."""
    runs = asked.folder / "runs"
    if not (runs / "whole" / "summary.json").is_file():
        run(asked)
    shutil.rmtree(runs / "killed", ignore_errors=True)
    killed = words(asked.folder, "killed", asked)
    first = asked.steps // 3
    process = start(["vqr1", *killed])
    while process.poll() is None and not any(row["step"] > first for row in rows(runs / "killed")):
        time.sleep(POLL)
    if process.poll() is not None:
        raise SystemExit(f"the run ended with exit code {process.returncode} before it could be killed")
    process.send_signal(signal.SIGKILL)
    process.wait()
    last = max(row["step"] for row in rows(runs / "killed"))
    finish(start(["vqr1", *killed, "resume=true"]))
    whole, again = rows(runs / "whole"), rows(runs / "killed")
    return {
        "killed_after_step": last,
        "checkpoint": first,
        "equal": whole == again,
        "before": apart(whole, again, range(first + 1)),  # how much two undisturbed runs differ on this device
        "after": apart(whole, again, range(first + 1, asked.steps + 1)),
        "srcc": {name: srcc(runs / name)["final"] for name in ("whole", "killed")},
    }


def apart(one: list[dict[str, Any]], other: list[dict[str, Any]], steps: range) -> dict[str, Any]:
    """The largest relative difference of any metric over the steps that both have, and which metric and step it is."""
    found: dict[str, Any] = {"largest": 0.0, "metric": None, "step": None}
    mine, theirs = ({(row["step"], "train/loss" in row): row for row in all_rows} for all_rows in (one, other))
    for key in sorted(mine.keys() & theirs.keys()):
        if key[0] not in steps:
            continue
        for name in mine[key].keys() & theirs[key].keys():
            a, b = mine[key][name], theirs[key][name]
            if a is None or b is None or a == b:
                continue
            relative = abs(a - b) / max(abs(a), abs(b))
            if relative > found["largest"]:
                found = {"largest": relative, "metric": name, "step": key[0]}
    return found


def zero3(asked: argparse.Namespace) -> dict[str, Any]:
    """Losses and gradient norms of the first steps, with one process under ZeRO-3 and without."""
    steps = ["trainer.max_steps=2", "trainer.save_steps=2", "data.validation=[]", "data.test=[]"]
    steps += ["rollout=transformers"]
    found = {}
    configuration = str(packaged("launch") / "accelerate" / "zero3.yaml")
    accelerate = ["accelerate.commands.launch", "--config_file", configuration, "--num_processes", "1", "-m", "vqr1"]
    for name, before, launcher in (("single", ["vqr1"], "none"), ("zero3", accelerate, "zero3")):
        shutil.rmtree(asked.folder / "runs" / name, ignore_errors=True)
        finish(start([*before, *words(asked.folder, name, asked, *steps, f"launcher={launcher}")]))
        found[name] = [
            {key: row.get(key) for key in ("step", "train/loss", "train/grad_norm", "train/reward")}
            for row in rows(asked.folder / "runs" / name)
            if "train/loss" in row
        ]
    return {**found, "apart": apart(found["single"], found["zero3"], range(3))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "resume", "zero3"])
    parser.add_argument("result", type=Path)
    parser.add_argument("--folder", type=Path, required=True, help="for the runs")
    parser.add_argument("--steps", type=int, default=120, help="a multiple of 3")
    parser.add_argument("--answers", type=int, default=48, help="to each test picture")
    parser.add_argument("--pictures", type=int, help="of each set, for a rehearsal")
    asked = parser.parse_args()
    found = {"run": run, "resume": resume, "zero3": zero3}[asked.what](asked)
    asked.result.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
