"""Who may import whom (docs/architecture.md), read from the source, and where the top-level folders are."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import vqr1
from vqr1.cli import packaged

PACKAGE = Path(vqr1.__file__).parent
LINES = 430

# Rooms by their name below vqr1, and what each may import of the package; a room always imports itself. A room that is
# not here yet must be put here.
ROOMS: dict[str, set[str]] = {
    "answer": set(),
    "ranking": set(),
    "regression": set(),
    "levels": set(),
    "comparison": set(),
    "batches": set(),
    "cohorts": set(),
    "rollout_settings": set(),
    "config": {"rollout_settings"},
    "config_checks": {"config", "rollout_settings"},
    "evaluation": set(),
    "provenance": set(),
    "data": set(),
    "reward": {"answer", "ranking", "regression"},
    "rollout": {"answer", "config", "data", "rollout_settings"},
    "policy": {"answer", "config", "data", "rollout"},
    "report": {"answer", "evaluation"},
    "scoring": {
        "answer",
        "comparison",
        "config",
        "data",
        "rollout_settings",
        "evaluation",
        "levels",
        "policy",
        "provenance",
        "rollout",
    },
    "training": {
        "answer",
        "batches",
        "cohorts",
        "config",
        "data",
        "rollout_settings",
        "evaluation",
        "policy",
        "provenance",
        "report",
        "reward",
        "rollout",
    },
    "launching": {"cli", "config", "data", "rollout_settings", "policy", "training"},
}
DOORS = {"__init__", "__main__", "cli"}  # lazily, these may import anything
WITHOUT_TORCH = {
    "answer",
    "levels",
    "comparison",
    "evaluation",
    "provenance",
    "cohorts",
    "config",
    "rollout_settings",
    "batches",
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(node: ast.AST, file: Path) -> Iterator[tuple[str, bool]]:
    """Every module that is imported, dotted, and whether as soon as the file is."""

    def walk(node: ast.AST, at_once: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((name.name, at_once) for name in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{file}: imports are absolute here"
                # `from vqr1 import config` imports vqr1.config.
                yield from ((f"{child.module}.{name.name}", at_once) for name in child.names)
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from walk(child, at_once and not inside)

    yield from walk(node, True)


def imported(file: Path) -> list[tuple[str, bool]]:
    return list(imports(ast.parse(file.read_text()), file))


def test_the_reader_sees_every_kind_of_import():
    source = (
        "import vqr1.reward as r\nfrom vqr1 import config\nclass A:\n  def f(self):\n    from torch.nn import Module\n"
    )
    found = list(imports(ast.parse(source), PACKAGE))
    assert found == [("vqr1.reward", True), ("vqr1.config", True), ("torch.nn.Module", False)]


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_room_imports_only_what_it_may(file):
    room = room_of(file)
    if room in DOORS:
        return
    assert room in ROOMS, f"vqr1.{room} is new: say in ROOMS and docs/architecture.md what it may import"
    used = {name.split(".")[1] for name, _ in imported(file) if name.startswith("vqr1.")}
    assert used <= ROOMS[room] | {room}


@pytest.mark.parametrize("room", sorted(WITHOUT_TORCH))
def test_these_do_without_torch(room):
    for file in (file for file in modules() if room_of(file) == room):
        assert not [name for name, _ in imported(file) if name.split(".")[0] in ("torch", "transformers", "trl")]


@pytest.mark.parametrize("door", sorted(DOORS - {"__main__"}))
def test_the_doors_open_nothing_before_they_are_used(door):
    at_once = {name.split(".")[0] for name, now in imported(PACKAGE / f"{door}.py") if now}
    assert at_once <= {"__future__", "argparse", "os", "sys", "collections", "datetime", "pathlib", "typing"}


def test_arrows_run_one_way():
    TopologicalSorter({room: used - DOORS for room, used in ROOMS.items()}).prepare()  # raises CycleError for a circle


def test_nobody_imports_training_scoring_or_report_but_the_command_line():
    ends = {"training", "scoring", "report"}
    users = {
        (room_of(file), name.split(".")[1])
        for file in modules()
        for name, _ in imported(file)
        if name.startswith("vqr1.") and name.split(".")[1] in ends and room_of(file) not in DOORS
    }
    # A run is started by launching and ends by drawing its curves.
    outside = {(user, used) for user, used in users if user != used}
    assert outside == {("launching", "training"), ("training", "report")}


def test_no_file_is_too_long():
    lengths = {str(file.relative_to(PACKAGE)): len(file.read_text().splitlines()) for file in modules()}
    assert {name: length for name, length in lengths.items() if length > LINES} == {}


def test_the_configuration_and_the_launchers_are_found():
    assert (packaged("conf") / "train.yaml").is_file()
    assert (packaged("launch") / "accelerate" / "zero3.yaml").is_file()
