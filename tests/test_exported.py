"""rating.json, which an exported folder has beside its weights."""

import json
from dataclasses import asdict

import pytest

from vqr1.errors import UserError
from vqr1.exported import FILE, Exported, read_exported, write_exported

PROMPT = "Wie gut? 1 to 5 in <answer> tags.\nOnly that."
EXPORTED = Exported(PROMPT, 3136, 50176, 64, "float32", ["five"], [6.0, 2.0, 2.0], 7, {"five": "abc"})


def test_what_was_written_is_read(tmp_path):
    assert read_exported(tmp_path) is None
    write_exported(tmp_path, EXPORTED)
    assert read_exported(tmp_path) == EXPORTED
    assert read_exported(tmp_path).prompt == json.loads((tmp_path / FILE).read_text())["prompt"] == PROMPT


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a readable JSON file"),
        ("[]", "prompt, .* is missing or of another type"),
        (json.dumps(asdict(EXPORTED)), "format is missing"),
        (json.dumps({"format": 1, **asdict(EXPORTED), "prompt": None}), "prompt is missing or of another type"),
        (json.dumps({"format": 1, **asdict(EXPORTED), "max_pixels": True}), "max_pixels is missing"),
        (json.dumps({"format": 2}), r"of format 2, and this version reads 1; install a newer vqr1"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, content, message):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(UserError, match=rf"{FILE}.*{message}"):
        read_exported(tmp_path)
