"""Two thousand label files and declarations, whole and damaged: read right, or refused by UserError, within seconds."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.faults_fuzz import limits
from vqr1.data import read_dataset
from vqr1.errors import UserError

NAMES = ["a.png", "b c.png", "sub/d.png", "é.png", "e,f.png", "12e4567", "0123", "true.png"]
WORDS = [
    *(b"\0", b'"', b"'", b"\\", b"\n", b"\r", b"\t", b",", b";", b":", b" ", b"#", b"|", b"%", b"@", b"`", b"\x1b"),
    *(b"&a ", b"*a", b"<<: *a", b"!!python/object/apply:os.system [ls]", b"!!int ", b"? ", b"- ", b"---\n", b"...\n"),
    *(b"%YAML 1." + b"9" * 5000 + b"\n", b'"\\UFFFFFFFF"', b'"\\ud800"', b"\\u0000", b"\\x", b"[" * 3000, b"{" * 3000),
    *(b"nan", b".nan", b"inf", b"-Infinity", b"1e999", b"9" * 400, b"9" * 5000, b"0x1f", b"1_0", b"1:30", b"TRUE"),
    *(b"true", b"null", b"~", b"[]", b"{}", b"[1, 2]", b"../", b"/dev/zero", b"C:", b".", b"x" * 300, b"x" * 5000),
    *(b"\xff", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\xe9", b"\xed\xa0\x80", "\u2028\uff15".encode()),
]  # fmt: skip

Whole = tuple[dict[str, float], bytes, bytes]  # scores by name, and the label file and the declaration with them


def scored(rng: random.Random) -> dict[str, float]:
    names = rng.sample(NAMES, rng.randint(3, len(NAMES)))
    return {name: rng.choice([1, 5, 2.5, round(rng.uniform(1, 5), rng.randint(0, 6))]) for name in names}


def declaration(rng: random.Random, form: str, *more: str) -> bytes:
    lines = [
        f"form: {form}",
        "labels: labels",
        "images: pictures",
        f"higher_is_better: {rng.choice(['true', 'True', 'yes'])}",
        f"range: {rng.choice(['[1, 5]', '[1.0, 5e0]', '[0, .inf]', '[null, null]'])}",
        "spread: none",
        "group: image",
        *rng.sample(["title: 1e3", "title: 'A: b'", "test_only: false", "# a comment"], 2)[: rng.randint(0, 1)],
        *more,
    ]
    rng.shuffle(lines)
    return ("\n".join(lines) + "\n").encode()


def csv_file(rng: random.Random) -> Whole:
    scores = scored(rng)
    separator = rng.choice(",;\t")
    thousands = separator != ";" and any(len(str(score)) == 5 for score in scores.values())  # as 4.125 may be
    comma = separator != "," and not thousands and rng.random() < 0.5
    rows = ["file" + separator + rng.choice(["", " "]) + "score"]
    for name, score in scores.items():
        number = str(score).replace(".", ",") if comma else str(score)
        rows.append(
            f'"{name}"{separator}{number}' if separator in name or rng.random() < 0.3 else name + separator + number
        )
    text = rng.choice(["\n", "\r\n", "\r"]).join([*rows, ""])
    encoding = rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16"])
    return scores, text.encode(encoding), declaration(rng, "csv", "columns: {image: file, mos: score}")


def json_file(rng: random.Random) -> Whole:
    scores = scored(rng)
    rows = [
        {"dataset_name": "x", "image": name if rng.random() < 0.5 else [name], "conversations": [{"value": score}]}
        for name, score in scores.items()
    ]
    text = "".join(json.dumps(row, ensure_ascii=rng.random() < 0.5) + "\n" for row in rows)
    return scores, text.encode(), declaration(rng, "json_lines")


def text_file(rng: random.Random) -> Whole:
    scores = {name: score for name, score in scored(rng).items() if not set(name) & set(" ,")}
    rows = [f"{name}{rng.choice([' ', ', ', chr(9)])}{score}\n" for name, score in scores.items()]
    return scores, "".join(rows).encode(), declaration(rng, "visualquality", "fields: [dist, mos]")


def damaged(rng: random.Random, data: bytes) -> bytes:
    for _ in range(rng.choice([1, 1, 2, 4])):
        at, other = sorted(rng.randint(0, len(data)) for _ in range(2))
        word, lines = rng.choice(WORDS), data.split(b"\n")
        encoding = rng.choice(["utf-16", "utf-16-le", "utf-32", "utf-8"])
        data = rng.choice(
            [
                data[:at] + word + data[at:],
                data[:at] + word + data[other:],
                data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :],
                data[:at] + data[other:],
                data[:other] + data[at:],
                data[:at],
                b"\n".join(rng.sample(lines, len(lines))),
                data + rng.choice(lines),
                data.decode("latin-1").encode(encoding),
            ]
        )
    return data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / "mine" / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / "pictures" / name).touch()
    return tmp_path / "mine"


def read(folder: Path, labels: bytes, declared: bytes) -> dict[str, float]:
    (folder / "labels").write_bytes(labels)
    (folder / "dataset.yaml").write_bytes(declared)
    with limits():
        samples = read_dataset("mine", folder.parent).all()
    assert all(math.isfinite(sample.mos) and Path(sample.image).is_file() for sample in samples)
    return {sample.image_id.removeprefix("mine/"): sample.mos for sample in samples}


FILES = [csv_file, json_file, text_file]


@pytest.mark.parametrize("make", FILES)
def test_whole_files_are_read_right(folder: Path, make: Callable[[random.Random], Whole]) -> None:
    for seed in range(200):
        scores, labels, declared = make(random.Random(seed))
        assert read(folder, labels, declared) == scores, seed


@pytest.mark.parametrize("which", ["labels", "declaration"])
@pytest.mark.parametrize("make", FILES)
def test_damaged_files_are_read_or_refused(folder: Path, make: Callable[[random.Random], Whole], which: str) -> None:
    refused = 0
    count = 240
    for seed in range(count):
        rng = random.Random(seed)
        _, labels, declared = make(rng)
        if which == "labels":
            labels = damaged(rng, labels)
        else:
            declared = damaged(rng, declared)
        try:
            read(folder, labels, declared)
        except UserError as error:
            refused += 1
            assert "mine" in str(error) and all(line.isprintable() for line in str(error).splitlines()), seed
            assert len(str(error)) < 1500, seed
        except Exception as error:
            error.add_note(f"seed {seed}: {declared!r} with {labels!r}"[:3000])
            raise
    assert count / 5 < refused < count  # neither is everything refused nor nothing
