"""What many tests share: a small untrained policy, and the demonstration data."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

from tests.support.fault_table import fault
from vqr1.data import DATASETS
from vqr1.demo.specs import register_demonstration

register_demonstration()  # as the command line does
settings.register_profile("shared machine", deadline=None)  # a slow example is no failure
settings.load_profile("shared machine")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


__all__ = ["fault"]  # fixtures of other files


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-rows", type=Path, metavar="FOLDER", help="for the rows of docs/reliability.md")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that no worker is left with one of them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def no_device_and_precision_are_left_behind() -> Iterator[None]:
    """transformers writes a configuration's precision into the environment and its device into accelerate's one state.

    A test that pretends to have a GPU would leave both to the next test's Accelerator.
    """
    yield
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
    state = sys.modules.get("accelerate.state")
    if state is None:
        return
    on_cpu = state.PartialState._shared_state.get("_cpu", True)
    precision = state.AcceleratorState._shared_state.get("_mixed_precision", "no")
    if not on_cpu or precision != "no":
        state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def sized(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Lets a miniature be the published dataset."""

    def size(name: str, count: int) -> None:
        monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], size=count))

    return size


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for Ghostscript leaves this file where it was asked for anything."""
    from PIL import EpsImagePlugin

    ran, program = tmp_path / "ran", tmp_path / "programs" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {ran}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # not looked for yet
    return ran


def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this call of pytest that all its workers have in common."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def policy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained tiny policy, saved in the format of a Qwen2.5-VL."""
    from vqr1.demo.cold_start import corpus
    from vqr1.demo.tiny_policy import build_model, build_processor

    folder = tmp_path_factory.mktemp("policy")
    processor = build_processor(corpus())
    build_model(processor.tokenizer, seed=1).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both demonstration datasets, as ``make train`` draws them; in the folder VQR1_TEST_DATA where that is given."""
    from vqr1.demo.datasets import DEMO_DATASETS, load_pictures

    given = os.environ.get("VQR1_TEST_DATA")
    root = Path(given) if given else shared(tmp_path_factory) / "data"
    root.mkdir(parents=True, exist_ok=True)
    # Drawn once for all workers: each begins with another set, and then finds the other's or waits for it.
    names = list(DEMO_DATASETS)
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % len(names)
    for name in names[worker:] + names[:worker]:
        with FileLock(root / f"{name}.lock"):
            load_pictures(name, root / name)
    return root
