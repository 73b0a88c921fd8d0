"""The environments that the Makefile makes, by a uv that notes what it is asked."""

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
FAKE_UV = """#!/bin/sh
echo "$@" >>"$UV_LOG"
for last; do :; done
[ "$1" = venv ] && mkdir -p "$last/bin" && touch "$last/bin/python" && chmod +x "$last/bin/python"
exit 0
"""


@pytest.fixture
def make(tmp_path):
    """Runs make's targets with ``gpu``, an nvidia-smi on PATH; returns what uv was asked to install."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    programs, log = tmp_path / "bin", tmp_path / "log"
    programs.mkdir()
    for name in ("bash", "sh", "make", "mkdir", "touch", "chmod", "test"):
        (programs / name).symlink_to(str(shutil.which(name)))
    (programs / "uv").write_text(FAKE_UV)
    (programs / "uv").chmod(0o755)

    def run(*words: str, gpu: bool = False) -> list[str]:
        log.write_text("")
        driver = programs / "nvidia-smi"
        driver.touch(0o755) if gpu else driver.unlink(missing_ok=True)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
        environment.pop("EXTRAS", None)
        environment |= {"PATH": str(programs), "UV_LOG": str(log)}
        done = subprocess.run(["make", "env", *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [line.rpartition(" ")[2] for line in log.read_text().splitlines() if "--editable" in line]

    return run


def test_a_machine_with_a_gpu_adds_to_the_environment_that_one_without_has_made(make):
    assert make() == [".[dev]"]
    assert make() == []
    assert make(gpu=True) == [".[dev,gpu]"]
    assert make(gpu=True) == make() == []
    assert make("EXTRAS=dev,gpu") == [] and make("EXTRAS=dev,gpu,flash") == [".[dev,gpu,flash]"]


def test_changed_requirements_are_installed_whatever_the_extras(make, tmp_path):
    make(), make(gpu=True)
    later = (tmp_path / ".venv/.made-dev,gpu").stat().st_mtime + 10
    os.utime(tmp_path / "constraints.txt", (later, later))
    assert make() == [".[dev]"] and make(gpu=True) == [".[dev,gpu]"]


def test_every_requirement_has_a_pin_within_its_range():
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for requirement in map(Requirement, sum(extras.values(), project["dependencies"])):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement
