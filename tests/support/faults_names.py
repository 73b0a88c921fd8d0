"""Faults of models and of what they say: folders that are not what they should be, answers that teach nothing."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vqr1 import launching
from vqr1.launching import Hooks

RAN = "ran"  # the file that code of a model's folder leaves where it is run
WEIGHTS = "model.safetensors"
LOOPS = "".join("{% for i in range(99999) %}" for _ in range(3)) + "{% endfor %}" * 3


def answers(kind: str) -> None:
    """All answers of a run are ``same`` or ``unreadable``. For tests/support/fault_program.py."""
    text = {"same": "<think>a</think><answer>3.00</answer>", "unreadable": "I cannot say"}[kind]
    launching.start = partial(launching.start, hooks=Hooks(script=lambda *_: text))  # type: ignore[assignment]


class Evil:
    """Leaves a file where it is unpickled."""

    def __init__(self, mark: Path):
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._mark,))


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.is_file() else {}), **values}))


def code(folder: Path, *names: str, **values: Any) -> None:
    """A module in ``folder``, which would leave a file, and settings in ``names`` that ask for it."""
    (folder / "evil.py").write_text(f"open({str(folder / RAN)!r}, 'w')\nclass Evil: pass\n")
    for name in names:
        edit(folder / name, **values)


def processor_code(folder: Path) -> None:
    named = ("processor_config.json", "tokenizer_config.json")
    code(folder, *named, auto_map={"AutoProcessor": "evil.Evil"}, processor_class="Evil")


def model_code(folder: Path) -> None:
    code(folder, "config.json", auto_map={"AutoConfig": "evil.Evil"}, model_type="evilmodel")


def kernel(folder: Path) -> None:
    edit(folder / "config.json", attn_implementation="someone/evil")


def cut(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def giant_header(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", 2**62) + b"{}")


def deep(folder: Path) -> None:
    """3,000 layers in its settings, and the weights of two."""
    text = json.loads((folder / "config.json").read_text()).get("text_config", {})
    text.pop("layer_types", None)  # whose number transformers would compare
    edit(folder / "config.json", num_hidden_layers=3000, text_config={**text, "num_hidden_layers": 3000})


def index(folder: Path, name: str) -> None:
    """An index in place of the weights, which names ``name``, a pickle or a file of the folder beside."""
    outside = folder / name
    (folder / WEIGHTS).rename(folder.parent / "outside.safetensors")
    if outside.suffix != ".safetensors":
        outside.write_bytes(pickle.dumps(Evil(folder / RAN)))
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(folder / RAN)))


def half_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text()[: path.stat().st_size // 3])


def template(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "chat_template.jinja").write_text(text) and None  # type: ignore[func-returns-value]


# What is wrong with a model's folder: how it is put in, and what the message says of it.
FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a processor with code of its own": (processor_code, "needs code of its own"),
    "a model with code of its own": (model_code, "needs code of its own"),
    "attention that is fetched from the hub": (kernel, "needs code of its own"),
    "weights cut in half": (cut, f"{WEIGHTS}: not a whole safetensors file"),
    "a header of 2^62 bytes": (giant_header, f"{WEIGHTS}: not a whole safetensors file"),
    "3,000 layers in config.json": (deep, "config.json says 3003 layers"),
    "an index that names a pickle": (partial(index, name="w.bin"), "w.bin"),
    "an index that names a file outside": (partial(index, name="../outside.safetensors"), "../outside.safetensors"),
    "pickled weights": (pickled, "pytorch_model.bin"),
    "half a tokenizer": (half_tokenizer, "does not load"),
    "a chat template of gigabytes": (template("{{ 'x' * 3000000000 }}"), "more than 1024 MB"),
    "a chat template without an end": (template(LOOPS), "not done after 10 seconds"),
    "a chat template without a picture": (template("{{ messages[0]['content'][-1]['text'] }}"), "makes 0 places"),
    "a chat template with two pictures": (template("<|image_pad|><|image_pad|>"), "makes 2 places"),
    "a chat template that reaches for Python": (template("{{ ''.__class__.__mro__ }}"), "SecurityError"),
    "a chat template that steers the terminal": (template("{{ raise_exception('\x1b[31mred') }}"), r"\x1b[31mred"),
}


def harmed(policy: Path, folder: Path, what: str) -> str:
    """A copy of ``policy`` in ``folder`` with one of :data:`FOLDERS` put in; returns what the message is to say."""
    shutil.copytree(policy, folder)
    harm, message = FOLDERS[what]
    harm(folder)
    return message


def pickled_state(path: Path) -> None:
    """A pickle, as torch writes one, in place of a file that a checkpoint is resumed from."""
    torch.save({"state": Evil(path.parent / RAN)}, path)
