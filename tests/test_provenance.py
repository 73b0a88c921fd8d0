"""The commit that a figure was made with: the package's own, or none."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from vqr1 import provenance


def commit_in(folder: Path) -> None:
    (folder / "file").write_text("x")
    for words in (["init", "-q"], ["add", "file"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the module as a package somewhere below a git repository."""

    def place(where: str) -> Path:
        folder = tmp_path / where / "vqr1"
        folder.mkdir(parents=True)
        shutil.copy(Path(provenance.__file__), folder / "provenance.py")
        monkeypatch.setattr(provenance, "__file__", str(folder / "provenance.py"))
        return tmp_path

    return place


def test_a_package_in_its_own_checkout_has_a_commit(package):
    commit_in(package("."))
    found = provenance.git_commit()
    assert found and found.endswith("+changes") and len(found) == 48  # the copied file is not committed


def test_a_package_installed_below_another_repository_has_none(package):
    commit_in(package("venv/lib/site-packages"))
    assert provenance.git_commit() is None


def test_a_package_outside_any_repository_has_none(package):
    package("anywhere")
    assert provenance.git_commit() is None
