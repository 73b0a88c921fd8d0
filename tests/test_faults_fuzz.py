"""Answers and label files of one's own, whole and spoilt: read right, or refused with file and line, within seconds."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from tests.support.faults_fuzz import (
    FINE_NAMES,
    GENERATED,
    NO_SCORES,
    ONE_WRONG,
    READ_OR_REFUSED,
    SPOILT,
    Rated,
    Tally,
    counts,
    encoded,
    other_values,
    quoted,
    rated,
    spoilt,
    tables,
    tried_on,
)
from vqr1.answer import follows_format, read_score
from vqr1.data import read_dataset

pytestmark = pytest.mark.faults

PIECES = [
    *("<answer>", "</answer>", "<think>", "</think>", "<answer", "answer>", "</answer >", "<Answer>", "<ans", "wer>"),
    *("3", "5", "4.25", "5.0", "5.01", "0", "1.", ".5", "12", "３", "٣", "3,5", "-2", "+4", "1e0", "nan", "4/5"),
    *("**3**", " "),
    *("\n", "\t", "\r\n", "\u2028", "\u00a0", "\0", "\ud800", "so", "1" * 5000, "1." + "0" * 5000, "<" * 5000),
]  # fmt: skip


def by_hand(text: str) -> float | None:
    """The grammar of docs/method.md, character by character."""
    start, end = text.find("<answer>"), text.find("</answer>")
    if not 0 <= start < end or (start, end) != (text.rfind("<answer>"), text.rfind("</answer>")):
        return None
    inside = text[start + len("<answer>") : end].strip()
    whole, point, decimals = inside[:1], inside[1:2], inside[2:]
    if whole not in tuple("12345") or (point and (point != "." or not decimals)):
        return None
    if any(digit not in ("0" if whole == "5" else "0123456789") for digit in decimals):
        return None
    return float(inside)


answers = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=9).map("".join),
    st.tuples(*[st.sampled_from(PIECES)] * 3).map(lambda parts: f"{parts[0]}<answer>{parts[1]}</answer>{parts[2]}"),
    st.text(alphabet="<>/answer think12345.0 \n", max_size=40),
    st.from_regex(r"<answer>\s*[0-9]\.?[0-9]{0,4}\s*</answer>", fullmatch=True),
)


@counts(500, 10_000)
def test_answers(count: int, fault: Callable[..., None]) -> None:
    tally = Tally()

    @tried_on(count, answers)
    def each(text: str) -> None:
        score = tally.tried(lambda: read_score(text))
        assert score == by_hand(text)
        for thinking in (False, True):
            assert not follows_format(text, thinking) or score is not None

    fault("answers of any text", how=GENERATED, happens="read as the grammar says", lost="nothing", tally=tally)


@counts(200, 2000)
def test_where_expected_scores_are_looked_for(count: int) -> None:
    """The number's place, whatever the tokens; and the tree of numbers holds what is read, and nothing else."""
    from vqr1.policy.expected import CHARACTERS, END, Digits, tokens_before_score

    tally = Tally()
    digits = Digits.of(2)
    below = {
        (above, column): node
        for node, (above, column) in enumerate(zip(digits.above, digits.column, strict=True))
        if node  # the place where the tree hangs is below nothing
    }
    leaves = {(leaf.node, leaf.column): leaf.score for leaf in digits.leaves}

    def walked(number: str) -> float | None:
        node = 0
        for character in number:
            column = CHARACTERS.index(character)
            if (node, column) in leaves:
                return leaves[node, column]
            if (node, column) not in below or not number:
                return None
            node = below[node, column]
        return leaves.get((node, END))

    @tried_on(count, st.tuples(answers, st.lists(st.integers(1, 4), max_size=30), st.text("0123456789.", max_size=5)))
    def each(example: tuple[str, list[int], str]) -> None:
        text, lengths, number = example
        tokens, rest = [], text
        for length in lengths:
            tokens.append(rest[:length])
            rest = rest[length:]
        tokens.append(rest)
        found = tally.tried(lambda: tokens_before_score(tokens))
        before, tag, _ = text.partition("<answer>")
        if not tag or "</answer>" in before:
            assert found is None
        elif found is not None:
            behind = "".join(tokens[:found])[len(before) + len(tag) :]
            assert not behind.strip() and len("".join(tokens[:found])) >= len(before + tag)
        if by_hand(text) is not None and found is not None and text.count("<answer>") == 1:
            assert read_score(f"<answer>{''.join(tokens[found:]).partition('</answer>')[0]}</answer>") == by_hand(text)
        decimals = number.partition(".")[2]
        kept = number[: len(number) - max(0, len(decimals) - 2)]
        # Decimals beyond the last that is walked are cut off, and not looked at.
        assert walked(kept) == read_score(f"<answer>{kept}</answer>")


# --- Label files of one's own

DECLARED = """\
labels: labels
images: pictures
higher_is_better: true
range: [1, 5]
"""
CSV = (
    DECLARED
    + "form: csv\nspread: std\ngroup: reference\n"
    + "columns: {image: file, mos: score, spread: sd, group: scene, part: split}\n"
)
JSON = DECLARED + "form: json_lines\nspread: none\ngroup: image\n"
TEXT = DECLARED + "form: visualquality\nspread: none\ngroup: reference\nfields: [ref, dist, mos]\n"
PYIQA = DECLARED + "form: pyiqa\nspread: std\ngroup: reference\npart: split\n"


def bare(rows: list[Rated]) -> set[tuple[Any, ...]]:
    return {(row.name, float(row.score)) for row in rows}


@st.composite
def json_lines(draw: st.DrawFn, rows: list[Rated]) -> bytes:
    lines = []
    for row in rows:
        score = draw(st.sampled_from([row.score, float(row.score)]))
        fields = {"dataset_name": "x", "image": [row.name], "conversations": [{"value": "rate"}, {"value": score}]}
        lines.append(json.dumps(fields, ensure_ascii=draw(st.booleans())))
    return draw(encoded(lines))


@st.composite
def texts(draw: st.DrawFn, rows: list[Rated]) -> bytes:
    bare_comma = [","] * (not any(row.name[-1].isdigit() for row in rows))  # it would be between two digits
    blank = draw(st.sampled_from([" ", "\t", "  ", ", ", *bare_comma]))
    return draw(encoded([blank.join(["ü.png", row.name, row.score]) for row in rows]))


@st.composite
def pyiqa_files(draw: st.DrawFn, rows: list[Rated]) -> bytes:
    lines = ["ref_name,dist_name,mos,std,split"]
    for row in rows:
        values = (row.group, row.name, row.score, row.spread, str(PARTS_OF_PYIQA[row.part]))
        lines.append(",".join(quoted(value, ",", draw(st.booleans())) for value in values))
    return draw(encoded(lines))


PARTS_OF_PYIQA = {"train": 0, "validation": 1, "test": 2}
APART = " ,\u00a0\u2028"  # what separates the values of a text
FORMS: dict[str, tuple[str, str, Callable[[list[Rated]], st.SearchStrategy[bytes]]]] = {
    "csv": (CSV, "", tables),
    "json": (JSON, "", json_lines),
    "text": (TEXT, APART, texts),
    "pyiqa": (PYIQA, "", pyiqa_files),
}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    for name in FINE_NAMES:
        path = tmp_path / "mine" / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "mine"


def records(mine: Path, whole: bool) -> set[tuple[Any, ...]]:
    """What is read: name and score, and with ``whole`` spread, group and part."""
    found = set()
    for part, samples in read_dataset("mine", mine.parent).parts().items():
        for sample in samples:
            assert math.isfinite(sample.mos) and Path(sample.image).is_file()
            name = sample.image_id.removeprefix("mine/")
            found.add((name, sample.mos, sample.mos_std, sample.group, part) if whole else (name, sample.mos))
    return found


@pytest.mark.parametrize("form", FORMS)
@counts(60, 1500)
def test_whole_label_files(form: str, count: int, mine: Path, fault: Callable[..., None]) -> None:
    declared, without, make = FORMS[form]
    (mine / "dataset.yaml").write_text(declared)
    tally, whole = Tally(), form in ("csv", "pyiqa")

    @tried_on(count, rated(without).flatmap(lambda rows: st.tuples(st.just(rows), make(rows))))
    def each(example: tuple[list[Rated], bytes]) -> None:
        rows, labels = example
        (mine / "labels").write_bytes(labels)
        found = tally.tried(lambda: records(mine, whole), mine)
        assert found == ({row.record for row in rows} if whole else bare(rows))

    assert not tally.refused
    fault("label files of one's own", how=GENERATED, happens="read right", lost="nothing", tally=tally)


@pytest.mark.parametrize("form", FORMS)
@counts(40, 500)
def test_one_wrong_value_is_refused_with_its_line(
    form: str, count: int, mine: Path, fault: Callable[..., None]
) -> None:
    """A score that is none, or a name of no picture."""
    declared, without, _ = FORMS[form]
    (mine / "dataset.yaml").write_text(declared)
    tally = Tally()
    wrong = st.tuples(st.just("score"), st.sampled_from(NO_SCORES)) | st.tuples(
        st.just("name"), st.sampled_from(["", "../x.png", "/etc/passwd", "gone.png", "a\\..\\..\\b", "C:/a.png", "."])
    )

    @tried_on(count, st.tuples(rated(without), wrong, st.integers(0, 5)))
    def each(example: tuple[list[Rated], tuple[str, str], int]) -> None:
        rows, (field, text), at = example
        at %= len(rows)
        if (not text or " " in text) and form == "text":
            return  # a number of values is what is refused then
        rows = [replace(row, **{field: text}) if i == at else row for i, row in enumerate(rows)]
        lines, first = plain_lines(form, rows)
        (mine / "labels").write_text("\n".join(lines) + "\n", encoding="utf-8")
        line = f"{mine / 'labels'}, line {at + first}:"
        assert tally.tried(lambda: records(mine, True), line) is None

    assert not tally.read
    fault("label files of one's own", how=ONE_WRONG, happens="refused with its line", lost="nothing", tally=tally)


def plain_lines(form: str, rows: list[Rated]) -> tuple[list[str], int]:
    """Lines as plain as can be, and the number of the first that is a row."""
    if form == "json":
        return [
            json.dumps({"dataset_name": "x", "image": row.name, "conversations": [{"value": row.score}]})
            for row in rows
        ], 1
    if form == "text":
        return [f"ü {row.name} {row.score}" for row in rows], 1
    header = {"csv": "scene,file,score,sd,split", "pyiqa": "ref_name,dist_name,mos,std,split"}[form]
    values = ((row.group, row.name, row.score, row.spread, row.part) for row in rows)
    return [header, *(",".join(quoted(value, ",", False) for value in row) for row in values)], 2


@pytest.mark.parametrize("form", FORMS)
@counts(150, 1000)
def test_spoilt_label_files(form: str, count: int, mine: Path, fault: Callable[..., None]) -> None:
    """What is read of one is in it: no score and no name is made up."""
    declared, without, make = FORMS[form]
    (mine / "dataset.yaml").write_text(declared)
    tally = Tally()

    @tried_on(count, rated(without).flatmap(make).flatmap(spoilt))
    def each(labels: bytes) -> None:
        (mine / "labels").write_bytes(labels)
        found = tally.tried(lambda: records(mine, False), mine)
        numbers = numbers_of(labels)
        assert all(1 <= score <= 5 and score in numbers for _, score in found or ())

    assert tally.read and tally.refused
    fault("label files of one's own", how=SPOILT, happens=READ_OR_REFUSED, lost="nothing", tally=tally)


def numbers_of(labels: bytes) -> set[float]:
    """All numbers that any reading of the bytes as text shows, with a point or a comma."""
    found = set()
    for coding in ("utf-8", "utf-16", "utf-16-be", "utf-32", "utf-32-be"):
        text = labels.decode(coding, errors="replace").replace('\\"', '"').replace("\0", "")
        for word in re.findall(r"[0-9.,eE+-]+", re.sub(r"\\u00(2b|2B)", "+", text)):
            for number in {word, *word.split(","), word.replace(",", "."), word.strip(",")}:
                try:
                    found.add(float(number))
                except ValueError:
                    continue
    return found


@counts(100, 1500)
def test_spoilt_declarations(count: int, mine: Path, fault: Callable[..., None]) -> None:
    (mine / "labels").write_text("file,score,sd,scene,split\na.png,3,0,g,train\n")
    tally = Tally()

    @tried_on(count, st.sampled_from([CSV, JSON, TEXT, PYIQA]).map(str.encode).flatmap(spoilt))
    def each(declared: bytes) -> None:
        (mine / "dataset.yaml").write_bytes(declared)
        tally.tried(lambda: records(mine, False), mine)

    fault("dataset.yaml", how=SPOILT, happens=READ_OR_REFUSED, lost="nothing", tally=tally)


ROW = {"dataset_name": "x", "image": ["a.png"], "conversations": [{"value": "rate"}, {"value": 3.5}]}


@counts(100, 1000)
def test_json_rows_of_other_values(count: int, mine: Path, fault: Callable[..., None]) -> None:
    (mine / "dataset.yaml").write_text(JSON)
    tally = Tally()

    @tried_on(count, other_values(ROW))
    def each(row: Any) -> None:
        (mine / "labels").write_text(json.dumps(row) + "\n")
        found = tally.tried(lambda: records(mine, False), mine)
        assert found is None or len(found) == 1

    assert tally.read and tally.refused
    fault("label files of one's own", how=SPOILT, happens=READ_OR_REFUSED, lost="nothing", tally=tally)
