"""The commit that a figure was made with: the package's own, or none."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from vqr1 import provenance


def commit_in(folder: Path, *files: str) -> None:
    (folder / "file").write_text("x")
    commit = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]
    for words in (["init", "-q"], ["add", "file", *files], commit):
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


def test_a_package_in_its_own_checkout_has_a_commit(package, monkeypatch):
    root = package(".")
    commit_in(root, "vqr1")
    found = provenance.git_commit()
    assert found and len(found) == 40
    (root / "file").write_text("y")
    assert provenance.git_commit() == f"{found}+changes"
    monkeypatch.setenv("GIT_DIR", str(root / "elsewhere"))  # as in a hook of another repository
    assert provenance.git_commit() == f"{found}+changes"


@pytest.mark.parametrize("where", ["venv/lib/site-packages", "."])  # pip install --target . puts it into the root
def test_a_package_that_the_repository_around_it_does_not_have_has_none(package, where):
    commit_in(package(where))
    assert provenance.git_commit() is None


def test_a_package_outside_any_repository_has_none(package):
    package("anywhere")
    assert provenance.git_commit() is None
