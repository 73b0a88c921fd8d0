"""Files as they should be, with what they say, and files that are spoilt: strategies for tests that read hostile input.

A reader reads right, or refuses with UserError, which names the file; never another exception, never longer than
SECONDS, never with GIGABYTES of memory more than before.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vqr1.errors import UserError

# What rows of docs/reliability.md say of how files are made, and of what becomes of them.
GENERATED, ONE_WRONG, SPOILT = "whole, of known content", "one wrong value", "changed bytes or values"
READ_OR_REFUSED = "read, or refused by name"
SECONDS, PATIENCE = 5, 60
TIMERS = (signal.ITIMER_REAL, signal.ITIMER_PROF)
GIGABYTES = 2
LONGEST = 3000  # characters of a message
Read = TypeVar("Read")

WORDS = [
    *(b"\0", b'"', b"'", b"\\", b"\n", b"\r\n", b"\t", b",", b";", b":", b" ", b"#", b"&", b"<", b"\x1b", b"-", b"/"),
    *(b"nan", b"NaN", b"inf", b"-Infinity", b"1e999", b"9" * 400, b"9" * 5000, b"0x1f", b"1_0", b"1,5", b"-0"),
    *(b"true", b"null", b"None", b"[]", b"{}", b'""', b"{", b"[" * 3000, b'{"a":' * 3000, b"x" * 5000, b"../"),
    *(b"\xff", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\xe9", b"\xed\xa0\x80", b'"\\ud800"', b"/dev/zero"),
    *(b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0", b"*a", b"&a ", b"!!python/name:os.system "),
    *(b"\xe2\x80\xa8\xef\xbc\x95", b"1e-999"),
]


class TooLongError(BaseException):
    """Not done in time. No reader takes it for an error in its file."""


class Tally:
    """How many examples were read and refused, and the slowest of them."""

    def __init__(self) -> None:
        self.read = self.refused = 0
        self.slowest = 0.0

    def tried(self, read: Callable[[], Read], *names: Path | str) -> Read | None:
        """What ``read`` gives, None where it refuses with a message that holds one of ``names``.

        Asserts all that the module's docstring says.
        """
        began = time.process_time()
        try:
            with limits():
                found = read()
        except UserError as error:
            self.refused += 1
            said = str(error)
            assert any(str(name) in said for name in names), said
            assert len(said) < LONGEST and said.replace("\n", "").replace("\t", "").isprintable(), said
            assert " object at 0x" not in said  # another in each process: results of ranks would differ
            return None
        finally:
            self.slowest = max(self.slowest, time.process_time() - began)
        self.read += 1
        return found


@contextmanager
def limits() -> Iterator[None]:
    """TooLongError after SECONDS, and MemoryError for more than GIGABYTES.

    The seconds are the processor's, for others may have it; what waits for something has PATIENCE.
    """

    def stop(*_: object) -> None:
        raise TooLongError(f"not done after {SECONDS} s, or waiting")

    with open("/proc/self/statm") as file:  # noqa: PTH123 - ten thousand times
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = [signal.signal(number, stop) for number in (signal.SIGALRM, signal.SIGPROF)]
    resource.setrlimit(resource.RLIMIT_AS, (used + GIGABYTES * 2**30, hard))
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        for timer, number, usual in zip(TIMERS, (signal.SIGALRM, signal.SIGPROF), before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, usual)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def counts(quick: int, full: int) -> pytest.MarkDecorator:
    """How many examples the quick suite tries, the same ones each time, and the full one."""
    each = [pytest.param(quick, id="quick"), pytest.param(full, id="full", marks=pytest.mark.full)]
    return pytest.mark.parametrize("count", each)


def tried_on(count: int, strategy: st.SearchStrategy[Any]) -> Callable[[Callable[[Any], None]], None]:
    """Runs a function of one example at once, on so many."""

    def run(each: Callable[[Any], None]) -> None:
        few = count < 1000
        slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
        settings(max_examples=count, derandomize=few, database=None, deadline=None, suppress_health_check=slow)(
            given(strategy)(each)
        )()

    return run


@st.composite
def spoilt(draw: st.DrawFn, content: bytes, words: list[bytes] = WORDS) -> bytes:
    """``content`` after one to four changes, each anywhere."""
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 4]))):
        at, other = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
        change = draw(st.sampled_from(["byte", "bit", "word", "word", "over", "cut", "again", "end", "swap", "line"]))
        if change == "byte":
            content = content[:at] + bytes([draw(st.integers(0, 255))]) + content[at + 1 :]
        elif change == "bit" and at < len(content):
            content = content[:at] + bytes([content[at] ^ (1 << draw(st.integers(0, 7)))]) + content[at + 1 :]
        elif change == "word":
            content = content[:at] + draw(st.sampled_from(words)) + content[at:]
        elif change == "over":
            word = draw(st.sampled_from(words))
            content = content[:at] + word + content[at + len(word) :]
        elif change == "cut":
            content = content[:at] + content[other:]
        elif change == "again":
            content = content[:other] + content[at:]
        elif change == "end":
            content = content[:at]
        elif change == "swap":
            content = content[other:] + content[at:other] + content[:at]
        else:
            lines = content.split(b"\n")
            content = b"\n".join([*lines, lines[draw(st.integers(0, len(lines) - 1))]])
    return content


HUGE = 10**400  # more than a float holds
NUMBERS = st.one_of(st.floats(), st.integers(-3, 12), st.sampled_from([HUGE, -HUGE, 2**63]))
TEXTS = st.text(max_size=8) | st.sampled_from(["../x", "/", "\0", "\ud800", "x" * 4000])
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def other_values(draw: st.DrawFn, content: Any) -> Any:
    """``content``, plain values as of JSON, with one value somewhere in it replaced, left out or added."""
    places = [*_places(content)]
    at = draw(st.sampled_from(places))
    change = draw(st.sampled_from(["other", "other", "gone", "more"]))
    return _changed(content, at, change, draw(VALUES))


def _places(content: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in pairs:
        yield from _places(value, (*at, key))


def _changed(content: Any, at: tuple[Any, ...], change: str, value: Any) -> Any:
    if not at:
        if change == "more" and isinstance(content, dict):
            return {**content, "more": value}
        return [*content, value] if change == "more" and isinstance(content, list) else value
    first, *rest = at
    copy = dict(content) if isinstance(content, dict) else list(content)
    if change == "gone" and not rest:
        del copy[first]
    else:
        copy[first] = _changed(content[first], tuple(rest), change, value)
    return copy


# Scores and spreads as texts that say exactly what they mean, and ways to write the same number.
SCORES = st.one_of(
    st.integers(100, 500).map(lambda hundredths: f"{hundredths / 100:.2f}"),
    st.sampled_from(["1", "5", "1.0", "5.00", "2.", "+3", "35e-1", "1.000000001", "4.999999"]),
    st.floats(1, 5).map(repr),
)
NO_SCORES = ["", "abc", "nan", "-inf", "1e999", "5.1", "0.99", "-3", "1_0", "0x3", "３", "3.5.1", "--3", "3 5", "2/3"]
FINE_NAMES = [
    *("a.png", "b c.png", "sub/d.png", "é.png", "e,f.png", 'g"h.png', "i;j.png", "12e4567", "0123", "true.png"),
    *("#k.png", "l=m.png", "'n'.png", "nan", "o\u2028.png", "日本.png", "p\u00a0q.png", "-r.png", "=s.png"),
]  # fmt: skip
PARTS = ["train", "validation", "test"]


@dataclass(frozen=True)
class Rated:
    """A row of a label file, as texts."""

    name: str
    score: str
    spread: str
    group: str
    part: str

    @property
    def record(self) -> tuple[str, float, float, str, str]:
        return self.name, float(self.score), float(self.spread), self.group, self.part


@st.composite
def rated(draw: st.DrawFn, without: str = "") -> list[Rated]:
    """Rows of FINE_NAMES without certain characters, in groups each of which is in one part."""
    names = [name for name in FINE_NAMES if not set(name) & set(without)]
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=6, unique=True))
    part_of = draw(st.fixed_dictionaries({group: st.sampled_from(PARTS) for group in ("g1", "h, 2", "ü")}))
    return [
        Rated(name, draw(SCORES), draw(st.sampled_from(["0", "0.25", "1e-3", "2.5"])), group, part_of[group])
        for name in chosen
        for group in [draw(st.sampled_from(list(part_of)))]
    ]


def quoted(text: str, separator: str, always: bool) -> str:
    if always or set(text) & {separator, '"'} or text != text.strip() or text.startswith("'"):
        return '"' + text.replace('"', '""') + '"'
    return text


@st.composite
def encoded(draw: st.DrawFn, lines: list[str], plain: bool = False) -> bytes:
    """Lines as text in one of the encodings that are read, with one of the ends of a line."""
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    text = end.join(lines) + draw(st.sampled_from(["", end, end + end]))
    codings = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]
    if plain:
        codings = codings[:2]
    coding = draw(st.sampled_from(codings))
    big = draw(st.booleans()) and coding in ("utf-16", "utf-32")
    return ("\ufeff" + text).encode(f"{coding}-be") if big else text.encode(coding)


@st.composite
def tables(draw: st.DrawFn, rows: list[Rated]) -> bytes:
    """The rows as a csv: columns in any order and more of them, commas, semicolons or tabs, quotes, decimal commas."""
    separator = draw(st.sampled_from(",;\t"))
    texts = [text for row in rows for text in (row.score, row.spread)]
    thousands = any(re.fullmatch(r"[1-9]\.\d{3}", text) for text in texts) and separator != ";"
    plain = not thousands and not any("e" in text or text.endswith(".") for text in texts)
    comma = separator != "," and plain and draw(st.booleans())
    columns = draw(st.permutations(["file", "score", "sd", "scene", "split", "remark"]))
    always, blank = draw(st.booleans()), draw(st.sampled_from(["", "", " "]))
    words = {"train": ["train", "Training", "0", "0.0"], "validation": ["val", "VALID", "1"], "test": ["test", "2.0"]}
    lines = [separator.join(columns)]
    for row in rows:
        number = [text.replace(".", ",") if comma else text for text in (row.score, row.spread)]
        values = {
            "file": row.name,
            "score": number[0],
            "sd": number[1],
            "scene": row.group,
            "split": draw(st.sampled_from(words[row.part])),
            "remark": draw(st.sampled_from(["", "so, so", 'a "b"', "long " * 50, "\u2028"])),
        }
        lines.append((separator + blank).join(quoted(values[column], separator, always) for column in columns))
        lines += [""] * draw(st.integers(0, 1))
    if draw(st.booleans()):
        lines.insert(0, f"sep={separator}")
    return draw(encoded(lines))
