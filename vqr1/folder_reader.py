"""Files of run and result folders, read as they may have become: cut, changed by hand or by others, of another kind.

Every complaint names the file, and the line where there are lines, as UserError.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vqr1.errors import UserError
from vqr1.folder_writer import read_json_lines

RESTORE = "restore the file"
DEEPEST = 100  # brackets within brackets of a YAML file
BITS, LETTERS = 64, 100  # of a whole number there, and of how it is written


class OtherYamlError(UserError):
    """Sound YAML that no command of vqr1 writes."""


def parsed(content: bytes) -> Any:
    """JSON in UTF-8 as plain values. Raises ValueError for anything else, for too many brackets too."""
    try:
        return json.loads(content.decode())
    except RecursionError as error:
        raise ValueError("brackets within brackets, too many to read") from error


def read_json(path: Path, remedy: str = RESTORE, /, **kinds: type) -> dict[str, Any]:
    """What a file of one JSON object holds, each key of ``kinds`` with a value of that type."""
    try:
        found = parsed(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {remedy}") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); {remedy}") from error
    check_kinds(found, str(path), remedy, kinds)
    return found


def read_rows(path: Path, remedy: str = "restore the line or delete it", /, **kinds: type) -> list[dict[str, Any]]:
    """As :func:`vqr1.folder_writer.read_json_lines`, each row with a value of its type for each key of ``kinds``."""
    rows = read_json_lines(path)
    for number, row in enumerate(rows, 1):
        check_kinds(row, f"{path}, line {number}", remedy, kinds)
    return rows


def check_kinds(found: Any, where: str, remedy: str, kinds: dict[str, type]) -> None:
    """Raises UserError for what is no object, or has no value of its type for a key of ``kinds``."""
    if not isinstance(found, dict):
        raise UserError(f"{where}: {str(found)[:80]!r} is not an object; {remedy}")
    for key, kind in kinds.items():
        if type(found.get(key)) is not kind:
            raise UserError(f"{where}: {key} is {str(found.get(key))[:80]!r}, which it cannot be; {remedy}")


def read_yaml(path: Path, remedy: str = RESTORE) -> dict[str, Any]:
    """What a file of settings by name holds, as :func:`settings_in`."""
    try:
        content = path.read_bytes().decode()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {remedy}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not YAML ({error}); {remedy}") from error
    return settings_in(content, str(path), remedy)


def settings_in(content: str, where: str, remedy: str) -> dict[str, Any]:
    """The settings by name of a text in YAML.

    Not read: aliases, a few lines of which make up gigabytes, and more than DEEPEST brackets within brackets, for which
    the parser takes minutes or ends the process. Raises OtherYamlError for these and for what has no settings by name,
    UserError for whole numbers of more than BITS.
    """
    import yaml

    loader, depth = _loader(where, remedy), 0
    try:
        for event in yaml.parse(content, loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > DEEPEST:
                what = "brackets within brackets, too many to read" if depth > DEEPEST else "an alias (*name)"
                raise OtherYamlError(f"{where}, line {event.start_mark.line + 1}: {what}; {remedy}")
        found = yaml.load(content, loader)  # noqa: S506 - a safe loader
    except UserError:
        raise
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:  # of !!tags
        raise UserError(f"{where}: not YAML ({' '.join(str(error).split())[:300]}); {remedy}") from error
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise OtherYamlError(f"{where} holds no settings by name; {remedy}")
    return found


def _loader(where: str, remedy: str) -> Any:
    """YAML's safe loader, which refuses large whole numbers: 1:59:59 is one to base 60, and takes the square of its
    length to read; and of one with thousands of digits Python makes no text."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # ten times as fast, and as safe
        def whole_number(self, node: Any) -> int:
            number: int = self.construct_yaml_int(node) if len(node.value) <= LETTERS else 1 << BITS
            if number.bit_length() > BITS:
                line = f"{where}, line {node.start_mark.line + 1}"
                raise UserError(f"{line}: a whole number of more than {BITS} bits; {remedy}")
            return number

    Loader.add_constructor("tag:yaml.org,2002:int", Loader.whole_number)
    return Loader
