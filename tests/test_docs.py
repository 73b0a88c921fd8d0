"""The documents are correct about names: links, files, modules and their contents, make targets, commands, settings."""

from __future__ import annotations

import ast
import re
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.test_architecture import ROOMS
from vqr1.cli import COMMANDS
from vqr1.config import Config, LevelsConfig
from vqr1.config_checks import OURS
from vqr1.plan import PlanSettings

ROOT = Path(__file__).parents[1]
CHANGELOG = ROOT / "CHANGELOG.md"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WIDTH = 120
# Folders that a path may be relative to, and files and folders that a run or a user creates.
HOMES = ("", "vqr1/", "vqr1/training/", "vqr1/evaluation/", "vqr1/data/", "vqr1/report/", "tests/", "conf/")
MADE = {
    *(
        "best/",
        "best/step.json",
        "best-N/",
        "final/",
        "run/",
        "config.yaml",
        "splits.json",
        "pictures.jsonl",
        "policy.json",
        "taught.json",
        "versions.json",
        "stopped.json",
        "summary.json",
        "wandb.json",
        "wandb/",
        "wandb/earlier-N",
        "gpu.md",
        "rating.json",
        "anchors.json",
        "config.json",
        "processor_config.json",
        "generation_config.json",
    ),
    *(
        "metrics.jsonl",
        "timings.jsonl",
        "answers.jsonl",
        "samples.jsonl",
        "results.jsonl",
        "evaluation.json",
        "gpu.jsonl",
    ),
    *("table.md", "table.json", "multirun.yaml", "dataset.yaml", "curves.png", "reasoning.png", "logs.tar.gz"),
    *("conf/local", "conf/local/default.yaml", "tests/", "data/"),
}
SUFFIXES = "py|md|yaml|json|jsonl|csv|png|sh|txt|toml|jinja"
SECTIONS = ("data", "policy", "levels", "rollout", "reward", "evaluation", "logger", "trainer", "plan")  # of settings


def text_of(document: Path) -> str:
    return document.read_text()


def quoted(document: Path) -> list[str]:
    """The text in single backticks outside of code blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text_of(document), flags=re.DOTALL))


def code(document: Path) -> str:
    """Lines of code blocks, by fences or by indentation."""
    text = text_of(document)
    fenced = re.findall(r"```\w*\n(.*?)```", text, flags=re.DOTALL)
    return "\n".join([*fenced, *re.findall(r"^ {4}(.*)$", text, flags=re.MULTILINE), *quoted(document)])


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives the headings."""
    headings = re.findall(r"^#+ (.*)$", text_of(document), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def names_in(file: Path) -> set[str]:
    """The names that a module defines or imports at its top level, for types too, and the methods of its classes."""
    found: set[str] = set()
    body = ast.parse(file.read_text()).body
    for_types = [node for node in body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    for node in [*body, *(inner for block in for_types for inner in block.body)]:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{method.name}" for method in node.body if isinstance(method, ast.FunctionDef)}
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.asname or alias.name for alias in node.names}
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def is_there(dotted: str) -> bool:
    """Whether ``vqr1.a.b.name`` is a module, a package, or a name in one of them."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:end])
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if file.is_file():
            rest = ".".join(parts[end:])
            return not rest or rest in names_in(file)
    return False


@pytest.mark.parametrize("document", [*DOCUMENTS, CHANGELOG], ids=lambda document: document.name)
def test_relative_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(document)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = document.parent / path if path else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_named_files_exist(document):
    for word in quoted(document):
        path = word.split("#")[0]
        if not re.fullmatch(rf"[\w./-]+(/|\.({SUFFIXES}))|(vqr1|tests|conf|launch|docs)/[\w./-]+", path):
            continue
        if document.name == "data.md" and not path.startswith(("vqr1/", "tests/", "conf/", "docs/")):
            continue  # files of the datasets
        if path not in MADE and not path.startswith(("runs/", "evaluations/", "data/demo_")):
            assert any((ROOT / (home + path)).exists() for home in HOMES), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_named_modules_exist_and_have_what_is_named(document):
    for dotted in re.findall(r"(?<![\w/.])vqr1(?:\.\w+)+", code(document)):
        assert is_there(dotted), dotted
    modules = {file.stem: file for file in (ROOT / "vqr1").rglob("*.py")}
    for module, name in re.findall(r"^(\w+)\.([a-z]\w*)\b(?![.=])", "\n".join(quoted(document)), flags=re.MULTILINE):
        if module in modules and module not in SECTIONS and not re.fullmatch(f"{SUFFIXES}|zip", name):
            settings = {field.name for field in fields(LevelsConfig)} if module == "levels" else set()  # a section too
            assert name in names_in(modules[module]) | settings, f"{module}.{name}"


def test_the_changelog_leads_to_what_exists():
    rows = re.findall(r"^ *\|(.*)\|(.*)\|$", text_of(CHANGELOG), flags=re.MULTILINE)
    moved = [(before, after) for before, after in rows if "`vqr1" in after]
    assert moved
    for _, after in moved:
        module = ""
        for dotted in re.findall(r"`([\w.]+)`", after):
            module = dotted if dotted.startswith("vqr1.") else module
            assert is_there(dotted if dotted == module else f"{module}.{dotted}"), dotted


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_named_targets_and_commands_exist(document):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    asked = code(document)
    assert set(re.findall(r"(?<![\w-])make ([a-z][a-z-]*)", asked)) <= targets
    commands = set(re.findall(r"(?:^|[`(;] ?|do )vqr1 ([a-z]+)", asked, flags=re.MULTILINE))
    assert commands <= set(COMMANDS)


def settings(schema: Any, section: str = "") -> set[str]:
    """The dotted names of a schema's settings."""
    found: set[str] = set()
    for field in fields(schema):
        name = section + field.name
        value = getattr(schema, field.name)
        found |= {name} | (settings(value, f"{name}.") if is_dataclass(value) else set())
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_named_settings_exist(document):
    listed = yaml.safe_load((ROOT / "conf" / "trainer" / "grpo.yaml").read_text())
    known = settings(Config()) | {f"trainer.{key}" for key in {*listed, *OURS}} | settings(PlanSettings(), "plan.")
    sections = "|".join(SECTIONS)
    for name in re.findall(rf"(?<![\w.+/])(?:{sections})(?:\.[a-z_]+)+(?![\w(/.])", code(document)):
        of_trl = name.startswith("trainer.") and f"+{name}" in text_of(document)
        of_module = is_there(f"vqr1.{name}")
        is_file = re.search(rf"\.({SUFFIXES})$", name)
        assert name in known or of_trl or of_module or is_file, name
    for group, choice in re.findall(rf"(?<![\w.])({sections}|experiment)=([a-z]\w*)", code(document)):
        folder = ROOT / "conf" / group
        if group not in ("data", "evaluation"):  # any dataset's name; and a setting of vqr1 evaluate
            assert (folder / f"{choice}.yaml").is_file(), f"{group}={choice}"


def test_the_table_of_imports_is_the_one_that_is_tested():
    rows = re.findall(r"^\| `(\w+)/?` \|.*\| (.+) \|$", text_of(ROOT / "docs" / "architecture.md"), flags=re.MULTILINE)
    table = {name: set(re.findall(r"`(\w+)`", imported)) for name, imported in rows if name != "cli"}
    assert table == ROOMS


@pytest.mark.parametrize("document", [*DOCUMENTS, CHANGELOG], ids=lambda document: document.name)
def test_lines_are_no_wider_than_code(document):
    wide = [line for line in text_of(document).splitlines() if len(line) > WIDTH and "|" not in line]
    assert [line for line in wide if " " in line.strip()] == []
