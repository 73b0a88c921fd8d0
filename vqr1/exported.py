"""What an exported model's folder says of itself beside its weights: the file ``rating.json``.

transformers and vLLM do not read it. ``vqr1 export`` writes it, and whoever rates with such a folder asks the prompt in
it and knows which sets it has learnt from. Read without torch.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from vqr1.errors import UserError

FILE = "rating.json"
FORMAT = 1


@dataclass(frozen=True)
class Exported:
    """The fields are those of the file."""

    __pydantic_config__ = ConfigDict(strict=True, allow_inf_nan=False)
    prompt: str  # in full, without the pictures
    min_pixels: int
    max_pixels: int
    max_tokens: int  # of the longest answer
    dtype: str  # of the weights: float32, bfloat16 or float16
    trained_on: list[str] | None  # sets it learnt from or was chosen by; None: not stated
    split_ratio: list[float]  # how these were divided: train, validation, test
    split_seed: int
    splits: dict[str, str]  # the hash of each set's split
    scales: dict[str, dict[str, Any]] = field(default_factory=dict)  # vqr1.evaluation.scale.Scale's records, by set
    objective: str = "rl2r"  # of vqr1.config.Objective, that it has learnt by: what it is asked and how it is read
    reference: bool = False  # whether the reference picture is shown before the picture


def write_exported(folder: Path, exported: Exported) -> None:
    content = {"format": FORMAT, **asdict(exported)}
    (folder / FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_exported(folder: Path) -> Exported | None:
    """What an exported folder says of itself; None where it is no exported one.

    Raises UserError, naming the file, where it is damaged or of a later format.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a readable JSON file ({error}); export the run again") from error
    written = found.pop("format", None) if isinstance(found, dict) else None
    if isinstance(written, int) and written > FORMAT:
        raise UserError(f"{path} is of format {written}, and this version reads {FORMAT}; install a newer vqr1")
    wrong = [each.name for each in fields(Exported) if not isinstance(found, dict) or each.name not in found]
    if written == FORMAT and not wrong:
        try:
            exported: Exported = TypeAdapter(Exported).validate_json(json.dumps(found))
            return exported
        except ValidationError as error:
            wrong = [".".join(map(str, each["loc"])) for each in error.errors(include_url=False, include_input=False)]
    raise UserError(
        f"{path}: {', '.join(wrong[:5]) or 'format'} is missing or of another type; it has to be as vqr1 export wrote "
        "it: export the run again"
    )
