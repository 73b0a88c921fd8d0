"""What the command line has that Hydra does not: ``--root FOLDER``, and ``data=`` with names of datasets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from vqr1.data import DATASETS, check_name
from vqr1.errors import UserError
from vqr1.packaged import packaged

PARTS = ("train", "validation", "test")
TOGETHER = "+"  # data=bid+spaq: both sets in one run


def train_words(words: Sequence[str]) -> list[str]:
    """The words of ``vqr1 train`` as Hydra reads them.

    ``data=NAME`` chooses a file of conf/data where there is one of that name, else the dataset for training, validation
    and testing; ``data=[A,B]`` chooses several datasets. Registers what the words name.
    """
    made = []
    for word in root_words(words, "data.root"):
        values = _values(word)
        if values:
            names = [TOGETHER.join(value) for value in values]
            register_sets(names)
            word = "data=" + ",".join(map(quoted, names))
        made.append(word)
    register_sets(DATASETS)
    return made


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
        made.append(word)
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


def _values(word: str) -> list[list[str]]:
    """The values of ``data=A,[B,C]``, each a list of names; nothing for any other word."""
    key, _, text = word.partition("=")
    if key != "data" or re.search(r"[()${}]", text):
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
    """What is missing from the command line, where that is what Hydra's ``refusal`` says."""
    found = re.match(r"You must specify '(\w+)'", refusal)
    if not found or found[1] not in MISSING:
        return None
    options = sorted(file.stem for file in (packaged("conf") / found[1]).glob("*.yaml"))
    return MISSING[found[1]].format(options=", ".join(options))


def quoted(value: str) -> str:
    """A text for Hydra's grammar, which would read numbers, commas, equal signs and brackets in it."""
    if re.fullmatch(r"[A-Za-z_][\w./+-]*", value) and value.lower() not in ("null", "true", "false", "nan", "inf"):
        return value
    return "'" + value.replace("'", r"\'") + "'"
