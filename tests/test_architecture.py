"""Who may import whom (docs/architecture.md), read from the source, and where the top-level folders are."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import vqr1
from vqr1.packaged import packaged

PACKAGE = Path(vqr1.__file__).parent
LINES = 430

# Rooms by their name below vqr1, and what each imports of the package beside itself: no more, and no less.
ROOMS: dict[str, set[str]] = {
    "answer": set(),
    "ranking": {"ranking_options"},
    "ranking_options": set(),
    "regression": set(),
    "levels": set(),
    "picture_prompts": set(),
    "picture_errors": set(),
    "questions": {"votes"},
    "votes": {"evaluation"},
    "batches": set(),
    "cohorts": set(),
    "meeting": set(),
    "metric_names": set(),
    "packaged": set(),
    "child_process": set(),
    "sharing": {"child_process", "config", "machine_choices", "meeting", "packaged", "slots"},
    "help_text": {"packaged"},
    "command_options": {"provenance"},
    "dashboard": {"command_options", "config", "metric_names", "packaged", "prerequisites"},
    "sweep": {"child_process", "config", "config_checks", "slots"},
    "slots": {"child_process", "gpus"},
    "gpus": set(),
    "doctor": {
        "child_process",
        "config",
        "data",
        "fitting",
        "gpus",
        "launching",
        "machine_choices",
        "packaged",
        "policy",
        "prerequisites",
        "rollout_settings",
    },
    "prerequisites": {"config", "estimate", "fitting", "gpus", "machine_choices", "policy", "rollout_settings"},
    "estimate": set(),
    "fitting": {"answer", "batches", "config", "config_checks", "data", "estimate", "levels", "rollout_settings"},
    "plan": {
        "cohorts",
        "config",
        "config_checks",
        "data",
        "estimate",
        "fitting",
        "machine_choices",
        "rollout_settings",
    },
    "rollout_settings": set(),
    "command_words": {"data", "packaged"},
    "config": {"packaged", "ranking_options", "rollout_settings"},
    "config_checks": {"answer", "config", "ranking_options", "rollout_settings"},
    "folder_writer": set(),
    "folder_reader": {"folder_writer"},
    "unfinished": {"command_options", "folder_reader", "folder_writer"},
    "screen": {"config"},
    "standard_streams": set(),
    "next_steps": {"command_words", "config", "packaged"},
    "evaluation": {"folder_writer", "rating_statistics"},
    "rating_statistics": set(),
    "comparison": set(),
    "pairing": {"comparison"},
    "depiction": {"picture_prompts"},
    "provenance": set(),
    "machine_choices": {
        "batches",
        "command_words",
        "config",
        "config_checks",
        "estimate",
        "fitting",
        "policy",
        "rollout_settings",
    },
    "data": {"command_options", "packaged", "picture_errors"},
    "reward": {"answer", "ranking", "regression"},
    "rollout": {"answer", "data"},
    "policy": {"answer", "comparison", "config", "data", "depiction", "levels", "votes"},
    "collapse": set(),
    "exported": set(),
    "report": {
        "answer",
        "collapse",
        "command_options",
        "config",
        "evaluation",
        "folder_reader",
        "folder_writer",
        "picture_errors",
    },
    "answering": {
        "answer",
        "comparison",
        "config",
        "config_checks",
        "data",
        "depiction",
        "exported",
        "folder_reader",
        "levels",
        "picture_prompts",
        "policy",
        "rating_statistics",
        "rollout",
        "rollout_settings",
    },
    "rating": {
        "answering",
        "command_options",
        "data",
        "evaluation",
        "exported",
        "machine_choices",
        "policy",
        "provenance",
        "rating_statistics",
        "rollout_settings",
        "sharing",
        "unfinished",
    },
    "asking": {
        "answering",
        "command_options",
        "comparison",
        "data",
        "evaluation",
        "packaged",
        "pairing",
        "picture_prompts",
        "provenance",
        "questions",
        "rollout_settings",
        "unfinished",
        "votes",
    },
    "scoring": {
        "answering",
        "comparison",
        "config",
        "config_checks",
        "data",
        "evaluation",
        "folder_writer",
        "packaged",
        "pairing",
        "provenance",
        "rollout_settings",
        "sharing",
        "votes",
    },
    "export": {
        "answering",
        "command_options",
        "data",
        "evaluation",
        "exported",
        "folder_reader",
        "folder_writer",
        "levels",
        "policy",
        "rollout",
        "rollout_settings",
    },
    "training": {
        "answer",
        "batches",
        "child_process",
        "cohorts",
        "collapse",
        "comparison",
        "config",
        "config_checks",
        "data",
        "depiction",
        "estimate",
        "evaluation",
        "fitting",
        "folder_reader",
        "folder_writer",
        "levels",
        "machine_choices",
        "meeting",
        "metric_names",
        "next_steps",
        "pairing",
        "picture_errors",
        "picture_prompts",
        "policy",
        "provenance",
        "report",
        "reward",
        "rollout",
        "rollout_settings",
        "screen",
        "standard_streams",
    },
    "demo": {"answer", "config", "data", "evaluation", "packaged", "policy", "rollout", "training"},
    "bench": {
        "answer",
        "answering",
        "comparison",
        "config",
        "data",
        "demo",
        "estimate",
        "evaluation",
        "fitting",
        "gpus",
        "machine_choices",
        "packaged",
        "pairing",
        "policy",
        "provenance",
        "rating_statistics",
        "rollout",
        "rollout_settings",
        "scoring",
        "training",
    },
    "launching": {
        "child_process",
        "command_words",
        "config",
        "data",
        "demo",
        "estimate",
        "fitting",
        "machine_choices",
        "next_steps",
        "policy",
        "prerequisites",
        "rollout_settings",
        "sharing",
        "sweep",
        "training",
    },
}
GROUND = {"errors"}  # any room may import these; they import nothing
DOORS = {"__init__", "__main__", "cli", "cli_results"}  # lazily, these may import anything
WITHOUT_TORCH = {
    "errors",
    "estimate",
    "fitting",
    "plan",
    "answer",
    "child_process",
    "gpus",
    "help_text",
    "slots",
    "next_steps",
    "sweep",
    "command_options",
    "command_words",
    "evaluation",
    "exported",
    "folder_reader",
    "folder_writer",
    "unfinished",
    "screen",
    "standard_streams",
    "provenance",
    "cohorts",
    "config",
    "config_checks",
    "packaged",
    "ranking_options",
    "rating_statistics",
    "levels",
    "questions",
    "votes",
    "comparison",
    "pairing",
    "picture_prompts",
    "depiction",
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
            for_types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            yield from walk(child, at_once and not inside and not for_types)

    yield from walk(node, True)


def imported(file: Path) -> list[tuple[str, bool]]:
    return list(imports(ast.parse(file.read_text()), file))


def test_the_reader_sees_every_kind_of_import():
    source = (
        "import vqr1.reward as r\nfrom vqr1 import config\nclass A:\n  def f(self):\n    from torch.nn import Module\n"
    )
    found = list(imports(ast.parse(source), PACKAGE))
    assert found == [("vqr1.reward", True), ("vqr1.config", True), ("torch.nn.Module", False)]


def rooms_used_by(file: Path) -> set[str]:
    """The other rooms that a file imports, at once or later."""
    return {name.split(".")[1] for name, _ in imported(file) if name.startswith("vqr1.")} - {room_of(file)} - GROUND


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_room_imports_only_what_it_may(file):
    room = room_of(file)
    if room in DOORS:
        return
    if room in GROUND:
        assert rooms_used_by(file) == set()
        return
    assert room in ROOMS, f"vqr1.{room} is new: say in ROOMS and docs/architecture.md what it may import"
    assert rooms_used_by(file) <= ROOMS[room]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_may_import_only_what_it_does(room):
    files = [file for file in modules() if room_of(file) == room]
    assert files, f"there is no vqr1.{room}"
    assert set().union(*map(rooms_used_by, files)) == ROOMS[room]


@pytest.mark.parametrize("room", sorted(WITHOUT_TORCH))
def test_these_do_without_torch(room):
    for file in (file for file in modules() if room_of(file) == room):
        assert not [name for name, _ in imported(file) if name.split(".")[0] in ("torch", "transformers", "trl")]


@pytest.mark.parametrize("door", sorted(DOORS - {"__main__"}))
def test_the_doors_open_nothing_before_they_are_used(door):
    at_once = {name.split(".")[0] for name, now in imported(PACKAGE / f"{door}.py") if now}
    assert at_once <= {"__future__", "argparse", "os", "sys", "collections", "datetime", "pathlib", "typing"}


def test_arrows_between_rooms_run_one_way():
    TopologicalSorter(ROOMS).prepare()  # raises CycleError for a circle


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_arrows_between_files_run_one_way():
    """What a file imports as soon as it is loaded, the doors among them."""
    names = {module_name(file) for file in modules()}

    def used(file: Path) -> set[str]:
        # `vqr1.config.Config` is of the module vqr1.config.
        found = {name for name, at_once in imported(file) if at_once and name.startswith("vqr1.")}
        return {name if name in names else name.rpartition(".")[0] for name in found} - {module_name(file)}

    graph = {module_name(file): used(file) for file in modules()}
    assert set().union(*graph.values()) <= names
    TopologicalSorter(graph).prepare()


def users_of(*ends: str) -> set[tuple[str, str]]:
    """Who imports these rooms from outside of them, the command line apart."""
    found = {(room_of(file), used) for file in modules() for used in rooms_used_by(file)}
    return {(user, used) for user, used in found if used in ends and user not in DOORS}


def test_the_product_knows_nothing_of_demonstration_and_benchmarks():
    assert users_of("demo", "bench") == {("launching", "demo"), ("bench", "demo")}


def test_nobody_imports_training_scoring_rating_asking_or_report_but_the_command_line():
    # A run is started by launching and ends by drawing its curves.
    product = {
        (user, used)
        for user, used in users_of("training", "scoring", "rating", "asking", "report")
        if user not in ("demo", "bench")
    }
    assert product == {("launching", "training"), ("training", "report")}


@pytest.mark.slow
def test_training_loads_neither_the_demonstration_nor_what_only_that_needs():
    code = "import sys, vqr1.training.run; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    loaded = set(done.stdout.split())
    assert "vqr1.training.trainer" in loaded
    assert not [name for name in loaded if name.split(".")[0] == "skimage"]
    assert not [name for name in loaded if name.startswith(("vqr1.demo", "vqr1.bench"))]


def test_help_loads_nothing_heavy():
    command = [sys.executable, "-X", "importtime", "-m", "vqr1", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "vqr1" in loaded
    assert not loaded & {"torch", "transformers", "hydra", "omegaconf", "numpy"}


def test_no_file_is_too_long():
    lengths = {str(file.relative_to(PACKAGE)): len(file.read_text().splitlines()) for file in modules()}
    assert {name: length for name, length in lengths.items() if length > LINES} == {}


def test_the_configuration_and_the_launchers_are_found():
    assert (packaged("conf") / "train.yaml").is_file()
    assert (packaged("launch") / "accelerate" / "zero3.yaml").is_file()
