"""``vqr1 doctor``, from the composed configuration to what is printed and the exit code."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

from vqr1.config import Config
from vqr1.doctor.finding import Finding, as_json, as_text
from vqr1.doctor.machine import Facts, installed_version, machine_findings
from vqr1.doctor.probe import PROBES, Probe
from vqr1.errors import show
from vqr1.gpus import Driver, ask_driver
from vqr1.prerequisites import place_caches, shared_memory_free

ON_GPU = ("vllm", "deepspeed", "flash_attn")  # take long to load, and matter on a GPU alone


def doctor(config: Config, asked: str | None, json: bool) -> int:
    """Print what this machine has and lacks for ``config``: 0 where the run would begin, 2 where something is missing.

    ``asked`` are the user's words; without any, ``config`` is what ``make train`` runs.
    """
    home = place_caches()
    facts = look(ask_driver(), home)
    lines = findings(config, facts, whole=asked is None)
    show((as_json if json else as_text)(lines, f"vqr1 train {asked}" if asked else "make train"))
    return 2 if any(line.state == "missing" for line in lines) else 0


def look(driver: Driver, home: str | None = None, environment: Mapping[str, str] = os.environ) -> Facts:
    names = [name for name in PROBES if find_spec(name) and (driver.cards or name not in ON_GPU)]
    probes = {name: Probe(name) for name in names}
    return Facts(
        driver=driver,
        probes={name: probe.result() for name, probe in probes.items()},
        shared_memory=shared_memory_free(),
        home=home,
        environment=environment,
    )


def findings(
    config: Config, facts: Facts, whole: bool, installed: Callable[[str], str | None] = installed_version
) -> list[Finding]:
    """Of the machine and of the run; ``whole``: also of data and policies that the run does not name.

    A line of the run's takes the place of those of the machine's on the same matter.
    """
    root, runs = Path(config.data.root).expanduser(), Path(config.runs)
    machine = list(machine_findings(facts, root, runs, installed))
    if not facts.torch:
        return machine
    from vqr1.doctor.run import run_findings

    run = list(run_findings(config, facts.probes))
    if whole:
        return machine + [line for line in run if line.state != "ok"]
    told = {line.what for line in run}
    return [line for line in machine if line.what not in told] + run
