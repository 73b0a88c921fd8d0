"""YAML whose values are the texts that are written.

YAML would read the names ``1.e+5``, ``0123``, ``no`` and ``1:30`` as 100000, 83, false and 90. Whoever uses a
value knows what it must be. Not read: aliases (a few lines of them make up gigabytes) and keys that are there twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from vqr1.data.files import check_file, read_text
from vqr1.errors import UserError

LARGEST = 16_000  # bytes; a declaration has some hundred, and the parser takes seconds for brackets within brackets
NULL = ("", "~", "null", "Null", "NULL")

Lines = dict[tuple[str | int, ...], int]  # where a value begins, by keys and indices


class _Loader(yaml.BaseLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="an alias (*name); write the value itself", problem_mark=mark)
        return super().compose_node(parent, index)


def read_yaml(file: Path, remedy: str) -> tuple[Any, Lines]:
    """The mappings, lists, texts and Nones of a file, and their lines. Raises UserError with the line."""
    check_file(file, remedy)
    if file.stat().st_size > LARGEST:
        raise UserError(f"{file} has {file.stat().st_size} bytes, and {LARGEST} are the most; {remedy}")
    text = read_text(file, remedy)
    lines: Lines = {}
    try:
        return _value(yaml.compose(text, _Loader), (), lines), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{file}{line}: {error.problem or error.context}; {remedy}") from error
    except RecursionError as error:
        raise UserError(f"{file}: lists within lists, too many to read; {remedy}") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the latter for an escape or a version too large
        raise UserError(f"{file}: {' '.join(str(error).split())}; {remedy}") from error


def _value(node: Any, place: tuple[str | int, ...], lines: Lines) -> Any:
    if node is None:
        return None
    lines[place] = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        return [_value(each, (*place, i), lines) for i, each in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        node.value.encode()  # an escape may make half a surrogate pair
        return None if node.style is None and node.value in NULL else node.value
    found: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.value in found:
            what = "a key that is no text" if not isinstance(key, yaml.ScalarNode) else f"{key.value} is there twice"
            raise yaml.MarkedYAMLError(problem=what, problem_mark=key.start_mark)
        key.value.encode()
        found[key.value] = _value(value, (*place, key.value), lines)
    return found
