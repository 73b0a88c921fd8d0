"""Files of run folders that were cut or changed are named, with the line where there are lines."""

from __future__ import annotations

import pytest

from vqr1.errors import UserError
from vqr1.folder_reader import read_json, read_rows, read_yaml
from vqr1.folder_writer import read_json_lines


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, r"not JSON \(brackets within brackets"),
        (b'{"step": 1, "\xff": 2}', "not JSON"),
        ('{"step": 1}'.encode("utf-16"), "not JSON"),
        (b"[1]", r"'\[1\]' is not an object"),
        (b'{"step": "1"}', "step is '1', which it cannot be"),
        (b'{"step": true}', "step is 'True', which it cannot be"),
        (b"{}", "step is 'None', which it cannot be"),
    ],
)
def test_json_that_is_not_as_it_was_written(content, why, tmp_path):
    file = tmp_path / "summary.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"summary.json: {why}.*; put it back"):
        read_json(file, "put it back", step=int)


@pytest.mark.parametrize("line", [b"[" * 100_000, b'{"step": 1.5}', b'{"stop": 1}'])
def test_a_row_that_is_not_as_it_was_written(line, tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1}\n' + line + b"\n")
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2: .*; restore the line or delete it"):
        read_rows(file, step=int)


def test_a_line_of_many_brackets_is_named(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b"[" * 100_000 + b"\n")
    with pytest.raises(UserError, match=r"metrics.jsonl, line 1: not JSON"):
        read_json_lines(file)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("- " * 200_000, "line 1: brackets within brackets"),  # ends a process that hands it to libyaml
        ("a: &a [1]\nb: [*a, *a]", "line 2: an alias"),
        ("a: 1\nb: 0x" + 4000 * "f", "line 2: a whole number of more than 64 bits"),
        ("a: -" + 30 * "9", "line 1: a whole number of more than 64 bits"),
        ("a: {b: [0b" + 65 * "1" + "]}", "line 1: a whole number of more than 64 bits"),
        ("a: 1" + 100_000 * ":59", "line 1: a whole number of more than 64 bits"),
        ("a: !!int '1" + 100_000 * ":59" + "'", "line 1: a whole number of more than 64 bits"),
        ("a: !!int [1]", "not YAML"),
        ("a: !!int x", "not YAML"),
        ("a: !!int ''", "not YAML"),
        ("a: !!bool x", "not YAML"),
        ("a: 2020-99-99", "not YAML"),
        ("a: [", "not YAML"),
        ("a: \0", "not YAML"),
        ("- a", "holds no settings by name"),
        ("1: 2", "holds no settings by name"),
        ("", "holds no settings by name"),
    ],
)
def test_yaml_that_is_not_as_it_was_written(content, why, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=rf"config.yaml[:,]? {why}.*; restore the file"):
        read_yaml(file)
