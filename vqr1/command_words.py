"""What the command line has that Hydra does not: ``--root FOLDER``, ``data=`` with names of datasets, names as text."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Sequence

from vqr1.data import DATASETS, check_name
from vqr1.errors import UserError
from vqr1.packaged import packaged

PARTS = ("train", "validation", "test")
TOGETHER = "+"  # data=bid+spaq: both sets in one run
# Settings that are text, whatever number their letters could be to Hydra: 1e3, true, 1_000.
TRAIN_TEXTS = {
    *("name", "runs", "experiment_name", "policy.path", "rollout.prompt", "logger.project", "logger.group"),
    *("data.root", "data.cache", *(f"data.{part}" for part in PARTS)),
}
STUDY = "study_"  # files of conf/experiment that sweep settings of another experiment begin so
BASE = "BASE"  # in the environment: which one
EVALUATE_TEXTS = {"model", "name", "folder", "root", "prompt", "trained_on"}


def train_words(words: Sequence[str]) -> list[str]:
    """The words of ``vqr1 train`` as Hydra reads them.

    ``data=NAME`` chooses a file of conf/data where there is one of that name, else the dataset for training, validation
    and testing; ``data=[A,B]`` chooses several datasets. ``experiment=study_k`` becomes
    ``experiment=[kadid10k,study_k]``. Registers what the words name.
    """
    made = []
    for word in map(on_its_base, root_words(words, "data.root")):
        values = _values(word)
        if values:
            names = [TOGETHER.join(value) for value in values]
            register_sets(names)
            word = "data=" + ",".join(map(quoted, names))
        made.append(as_text(word, TRAIN_TEXTS))
    register_sets(DATASETS)
    return made


def one_run_words(words: Sequence[str]) -> list[str]:
    """:func:`train_words` for a command that looks at one run, also where the words are a study's."""
    made = train_words(words)
    return made if {"-m", "--multirun"} & set(made) else [*made, "hydra.mode=RUN"]


def on_its_base(word: str) -> str:
    """``experiment=`` with a study, and with what is studied before it: the experiment that BASE names, or kadid10k.

    Raises UserError where BASE names none, and for several studies one after the other.
    """
    values = _values(word, "experiment")
    if not any(name.startswith(STUDY) for value in values for name in value):
        return word
    if len(values) > 1 and not word.startswith("experiment=["):
        joined = ",".join(name for value in values for name in value)
        raise UserError(f"{word}: one command runs one study; experiment=[{joined}] crosses what they sweep")
    names = [name for value in values for name in value]
    if all(name.startswith(STUDY) for name in names):
        base = os.environ.get(BASE) or "kadid10k"
        known = sorted(file.stem for file in (packaged("conf") / "experiment").glob("*.yaml"))
        if base not in known or base.startswith(STUDY):
            others = ", ".join(name for name in known if not name.startswith(STUDY))
            raise UserError(f"{BASE}={base} in the environment is no experiment for a study; choose from {others}")
        names.insert(0, base)
    return f"experiment=[{','.join(names)}]"


def register_sets(names: Iterable[str]) -> None:
    """Let Hydra find datasets in the group ``data``, but for names that a file of conf/data has."""
    from hydra.core.config_store import ConfigStore

    files = {file.stem for file in (packaged("conf") / "data").glob("*.yaml")}
    for name in names:
        if name in files:
            continue
        sets = name.split(TOGETHER)
        for each in sets:
            check_name(each)
        ConfigStore.instance().store(group="data", name=name, node={part: list(sets) for part in PARTS})


def evaluate_words(words: Sequence[str]) -> list[str]:
    """The words of ``vqr1 evaluate`` as Hydra reads them: ``data=NAME`` is a list of one."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().repo.pop("data", None)  # a setting here, and with what train_words registers a group
    made = []
    for word in root_words(words, "root"):
        values = _values(word)
        if values:
            sets = [name for value in values for name in value]
            word = f"data=[{','.join(map(quoted, sets))}]"
        made.append(as_text(word, EVALUATE_TEXTS))
    return made


def root_words(words: Sequence[str], key: str) -> list[str]:
    """``--root FOLDER``, which every command takes, as the setting ``key``."""
    made = []
    left = iter(words)
    for word in left:
        if word == "--root" or word.startswith("--root="):
            folder = word.removeprefix("--root").removeprefix("=") or next(left, "")
            if not folder:
                raise UserError("--root needs a folder: --root FOLDER")
            word = f"{key}={quoted(folder)}"
        made.append(word)
    return made


def as_text(word: str, texts: Container[str]) -> str:
    """A word whose setting is among ``texts``, with quotes around what Hydra would read as a number or truth.

    Hydra would make 1000.0 of 1e3, and give that as the text. Words with quotes or functions stay as they are.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, equals, text = word.partition("=")
    if not equals or key.lstrip("+") not in texts or re.search(r"[\"'(){}$\\]", text):
        return word

    def kept(part: str) -> str:
        if not part.strip() or part in "[],":
            return part
        try:
            value = OverridesParser.create().parse_override(f"x={part}").value()
        except HydraException:  # a tilde, say
            value = 0
        return part if value is None or isinstance(value, str) else quoted(part.strip())

    parts = re.split(r"([\[\],])", text)
    return f"{key}={''.join(map(kept, parts))}"


def _values(word: str, group: str = "data") -> list[list[str]]:
    """The values of ``data=A,[B,C]``, each a list of names; nothing for any other word."""
    key, _, text = word.partition("=")
    if key != group or re.search(r"[()${}]", text):
        return []
    values = re.findall(r"\[[^\[\]]*\]|[^\[\],]+", text)
    names = [[name.strip(" '\"") for name in value.strip("[]").split(",")] for value in values]
    return names if all(name and name != "null" for value in names for name in value) else []


# What is said in place of Hydra's words, where a group has no choice yet.
MISSING = {
    "data": "data= is missing. data=NAME takes a dataset (vqr1 data list; a folder with a dataset.yaml is one too), "
    "data=[A,B] several. To try vqr1 without pictures of your own: experiment=demo",
    "policy": "policy= is missing. Choose from {options}; policy.path=FOLDER beside it takes weights from a folder. To "
    "try vqr1 without a download: experiment=demo",
}


def missing_choice(refusal: str) -> str | None:
    """What is missing from the command line, or here for it, where that is what Hydra's ``refusal`` says."""
    if launcher := re.search(r"Could not find 'hydra/launcher/(joblib|submitit_\w+)'", refusal):
        package = f"hydra-{launcher[1].partition('_')[0]}-launcher"
        return f"hydra/launcher={launcher[1]} needs a package that is not here: pip install {package}"
    found = re.match(r"You must specify '(\w+)'", refusal)
    if not found or found[1] not in MISSING:
        return None
    options = sorted(file.stem for file in (packaged("conf") / found[1]).glob("*.yaml"))
    return MISSING[found[1]].format(options=", ".join(options))


def quoted(value: str) -> str:
    """A text for Hydra's grammar, which would read numbers, commas, equal signs and brackets in it."""
    if re.fullmatch(r"[A-Za-z_][\w./+-]*", value, re.ASCII) and value.lower() not in (
        "null",
        "true",
        "false",
        "nan",
        "inf",
    ):
        return value
    return "'" + value.replace("'", r"\'") + "'"
