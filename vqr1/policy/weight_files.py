"""What a model's folder holds, read from the headers of its files before anything is loaded.

transformers draws every parameter at random that a folder lacks, and leaves out what it does not know. So names and
shapes are compared here with those of the model that config.json describes; where one is missing, unknown or of another
shape, nothing is loaded. Weights are read from safetensors files alone, which hold numbers; pickled ones can run code.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from vqr1.errors import UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER, ADAPTER_SETTINGS = "adapter_model.safetensors", "adapter_config.json"
MODEL_TYPE = "qwen2_5_vl"
ARCHITECTURE = "Qwen2_5_VLForConditionalGeneration"
LARGEST_HEADER = 100_000_000  # bytes, safetensors' own limit
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
SHOWN = 4  # names of each kind in a message

# What wrappers put into the names of the parameters they hold.
WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "activation checkpointing",
    "base_model.model.": "PEFT",
    "module.": "DistributedDataParallel or DeepSpeed",
}

Shapes = dict[str, tuple[int, ...]]


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model, whether or not they are there.

    Raises UserError for an index that names anything else.
    """
    index = folder / INDEX
    if not index.is_file():
        return [folder / SINGLE]
    if (folder / SINGLE).is_file():
        raise UserError(f"{folder} holds both {SINGLE} and {INDEX}: remove the one that is not the model's")
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise UserError(f"{index} has no weight_map, which says which file holds what; fetch it again")
    files = sorted({str(name) for name in names.values()})
    for name in files:
        if not re.fullmatch(r"[\w.\- ]+\.safetensors", name):
            raise UserError(
                f"{index} names {name!r}: weights are read from *.safetensors files beside the index, and from nothing "
                "else; a pickled file can run code"
            )
    return [folder / name for name in files]


def refuse_pickles(folder: Path) -> None:
    """Raises UserError naming the pickled weights that a folder holds in place of safetensors."""
    found = sorted(file.name for file in folder.glob("*") if file.suffix in PICKLES)
    if found:
        raise UserError(
            f"{folder} holds weights as {found[0]}, and no {SINGLE}: a pickled file can run code and is not read. "
            "Convert it where you trust it, with transformers' save_pretrained, or fetch the safetensors files"
        )


def read_json(path: Path) -> dict[str, Any]:
    """Raises UserError where ``path`` is not a JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a readable JSON file ({error}); fetch or write it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds {type(content).__name__} where settings by name are meant")
    return content


class DamagedError(Exception):
    """A safetensors file is not whole; says why, without its name."""


def whole_shapes(path: Path) -> Shapes:
    """The tensors of a safetensors file by name, from its header. Raises DamagedError where the file is not whole."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER):
            raise DamagedError(f"its header should be {length} bytes, and the file has {size}")
        content = file.read(length)
    try:
        header = json.loads(content)
        header.pop("__metadata__", None)
        shapes = {name: tuple(map(int, tensor["shape"])) for name, tensor in header.items()}
        end = max((int(tensor["data_offsets"][1]) for tensor in header.values()), default=0)
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DamagedError(f"header: {type(error).__name__}") from error
    if any(not 0 <= each < 1 << 63 for each in (end, *chain.from_iterable(shapes.values()))):
        raise DamagedError("its header has a size or place that is negative or has more than 63 bits")
    if 8 + length + end != size:
        raise DamagedError(f"it should have {8 + length + end} bytes, and has {size}")
    return shapes


def read_shapes(path: Path) -> Shapes:
    """As :func:`whole_shapes`, of a file that a user gave. Raises UserError where it is not whole or cannot be read."""
    try:
        return whole_shapes(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; fetch it again") from error
    except DamagedError as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); fetch or write it again") from error


def stored_shapes(folder: Path) -> Shapes:
    """Every tensor of a model's folder by its name there. Raises UserError for damaged files and doubled names."""
    found: Shapes = {}
    for file in weight_files(folder):
        shapes = read_shapes(file)
        doubled = found.keys() & shapes.keys()
        if doubled:
            raise UserError(f"{file}: {min(doubled)} is in another file of {folder} too; fetch the folder again")
        found |= shapes
    return found


def current_name(name: str) -> str:
    """A parameter's name in the loaded model. The hub's files have ``visual...``, ``model.layers...`` and so on."""
    if name.startswith("visual."):
        return f"model.{name}"
    if name.startswith("model.") and not name.startswith(("model.visual.", "model.language_model.")):
        return f"model.language_model.{name.removeprefix('model.')}"
    return name


def parameter_count(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def described_model(folder: Path) -> Any:
    """The model that a folder's config.json describes, without memory for its weights. No code of the folder is run.

    Raises UserError for another kind of model, for one that needs code of its own, and for settings that do not fit.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    from transformers.modeling_utils import set_zero3_state

    path = folder / "config.json"
    settings = read_json(path)
    kind = settings.get("model_type")
    if kind != MODEL_TYPE:
        raise (
            needs_code(folder, f"model_type {kind}, auto_map")
            if "auto_map" in settings
            else UserError(f"{path}: model_type is {kind}; a policy is a Qwen2.5-VL ({MODEL_TYPE})")
        )
    for part in (settings, *settings.values()):
        if isinstance(part, dict) and "/" in (kernel := str(part.get("attn_implementation"))):
            raise needs_code(folder, f"attn_implementation {kernel}, a kernel from the hub")
    if "transformers_weights" in settings:
        raise UserError(f"{path}: transformers_weights names other files than {SINGLE}; take it out")
    if (folder / ADAPTER_SETTINGS).is_file():
        raise UserError(f"{folder} holds an adapter ({ADAPTER_SETTINGS}) beside weights; give merged weights alone")
    if settings.get("architectures") != [ARCHITECTURE]:  # TRL loads the reference by this name
        raise UserError(f"{path}: architectures is {settings.get('architectures')}; it has to be [{ARCHITECTURE!r}]")
    tensors = len(stored_shapes(folder))
    try:
        # Attention is policy.attention's choice, and what the folder names may not be installed.
        config: Any = Qwen2_5_VLConfig.from_pretrained(str(folder), local_files_only=True, attn_implementation="eager")
        layers = max(config.text_config.num_hidden_layers, 0) + max(config.vision_config.depth, 0)
        if layers > tensors:
            raise UserError(f"{path} says {layers} layers, and the files beside it hold {tensors} tensors in all")
        # Under ZeRO-3 transformers would shard the parts of a model as they are made: it is told that this is done.
        with set_zero3_state(), torch.device("meta"):
            return Qwen2_5_VLForConditionalGeneration(config)
    except UserError:
        raise
    except (
        *(StrictDataclassError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, OSError),
        *(RuntimeError, AssertionError),  # torch's, of sizes below 0 or beyond any memory
    ) as error:
        raise UserError(f"{path}: not the settings of a Qwen2.5-VL ({error}); fetch it again") from error


def needs_code(folder: Path, what: str) -> UserError:
    return UserError(
        f"{folder} needs code of its own ({what}), and vqr1 runs none that a model's folder brings; give a "
        "Qwen2.5-VL in transformers' own format"
    )


def check_folder(folder: Path) -> Any:
    """The model that a folder describes, without its weights. Raises UserError where these do not fit it."""
    found = stored_shapes(folder)
    refuse_wrapped(folder, found)
    model = described_model(folder)
    check_fit(
        folder,
        {current_name(name): shape for name, shape in found.items()},
        {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()},
        tied=model.all_tied_weights_keys,
    )
    return model


def refuse_wrapped(folder: Path, names: Iterable[str]) -> None:
    """Raises UserError for the names that a wrapper gives."""
    for name in names:
        for word, wrapper in WRAPPERS.items():
            if word in name:
                raise UserError(
                    f"{folder}: the parameters are named as {wrapper} names them ({name}). Save the model inside it "
                    f"(its save_pretrained, after merging an adapter), or take {word!r} out of every name"
                )


def check_fit(
    source: Path,
    found: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    tied: Iterable[str] = (),
) -> None:
    """Raises UserError, with some names, where parameters are missing, unknown or of another shape.

    ``tied`` ones are copies of others and may be missing.
    """
    missing = sorted(expected.keys() - found.keys() - set(tied))
    unknown = sorted(found.keys() - expected.keys())
    other = [
        f"{name} {list(found[name])} in place of {list(shape)}"
        for name, shape in sorted(expected.items())
        if name in found and found[name] != shape
    ]
    parts = [
        f"{len(names)} {what} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
        for names, what in ((missing, "missing"), (unknown, "not known"), (other, "of another shape"))
        if names
    ]
    if parts:
        raise UserError(
            f"{source} does not hold the parameters of the model that it describes: {'; '.join(parts)}. Nothing stands "
            "in for them: fetch the folder again, write it with save_pretrained, or mend its configuration"
        )


def check_adapter_files(folder: Path) -> None:
    """Raises UserError unless a folder holds a LoRA adapter as a whole safetensors file."""
    kind = read_json(folder / ADAPTER_SETTINGS).get("peft_type")
    if kind != "LORA":
        raise UserError(f"{folder / ADAPTER_SETTINGS}: peft_type is {kind}; an adapter of vqr1 is LORA")
    if not (folder / ADAPTER).is_file():
        refuse_pickles(folder)
        raise UserError(f"{folder} has {ADAPTER_SETTINGS} and no {ADAPTER}; copy it there, or evaluate another one")
    read_shapes(folder / ADAPTER)


def check_adapter(model: Any, folder: Path) -> None:
    """Raises UserError where an adapter's file does not hold what a model with adapters (a PeftModel) has.

    PEFT warns of what is missing and leaves out what it does not know.
    """
    from peft import get_peft_model_state_dict

    check_adapter_files(folder)
    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    check_fit(
        folder / ADAPTER,
        read_shapes(folder / ADAPTER),
        {name: tuple(tensor.shape) for name, tensor in expected.items()},
    )
