"""Label files of the published sets, written otherwise and spoilt: read alike, or refused with file and line."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import strategies as st

from tests.support.faults_archives import TABLES, TEXTS, Matlab, TextLabels, Workbook, spoilt_inside, unchanged
from tests.support.faults_fuzz import GENERATED, ONE_WRONG, READ_OR_REFUSED, SPOILT, Tally, counts, spoilt, tried_on
from tests.support.miniatures import MINIATURES, bapps, csiq
from vqr1.data import read_dataset
from vqr1.data.bapps import read_bapps
from vqr1.data.sample import Splits

pytestmark = pytest.mark.faults

ALL: dict[str, TextLabels | Workbook | Matlab] = {**TEXTS, **TABLES}


@pytest.fixture
def archive(name: str, tmp_path: Path) -> Path:
    folder = tmp_path / name.split(".")[0]
    return csiq(folder, excel=True) if name == "csiq.xlsx" else MINIATURES[name](folder)


def read(folder: Path) -> Splits:
    return read_dataset(folder.name, folder.parent)


@pytest.mark.parametrize("name", ALL)
@counts(12, 250)
def test_the_same_labels_written_otherwise(name: str, count: int, archive: Path, fault: Callable[..., None]) -> None:
    labels = ALL[name]
    whole, tally = read(archive).parts(), Tally()
    content, write = unchanged(archive, labels.file)

    @tried_on(count, labels.otherwise(content))
    def each(other: bytes) -> None:
        write(other)
        found = tally.tried(lambda: read(archive), archive)
        assert found is not None and found.parts() == whole

    assert not tally.refused
    fault("label files of published sets", how=GENERATED, happens="read right", lost="nothing", tally=tally)


@pytest.mark.parametrize("name", ALL)
@counts(12, 100)
def test_one_wrong_number_is_refused_with_its_line(
    name: str, count: int, archive: Path, fault: Callable[..., None]
) -> None:
    labels, tally = ALL[name], Tally()
    content, write = unchanged(archive, labels.file)

    @tried_on(count, labels.with_a_wrong_number(content))
    def each(example: tuple[bytes, str]) -> None:
        wrong, line = example
        write(wrong)
        tally.tried(lambda: read(archive), line)

    assert not tally.read
    fault("label files of published sets", how=ONE_WRONG, happens="refused with its line", lost="nothing", tally=tally)


@pytest.mark.parametrize("name", ALL)
@counts(25, 500)
def test_spoilt_label_files_of_published_sets(name: str, count: int, archive: Path, fault: Callable[..., None]) -> None:
    labels, tally = ALL[name], Tally()
    content, write = unchanged(archive, labels.file)
    examples = spoilt(content)
    if labels.file.endswith(".xlsx"):
        examples = st.one_of(examples, spoilt_inside(content), spoilt_inside(content))

    @tried_on(count, examples)
    def each(other: bytes) -> None:
        write(other)
        splits = tally.tried(lambda: read(archive), archive)
        for sample in splits.all() if splits else ():
            assert math.isfinite(sample.mos) and Path(sample.image).is_file()

    assert tally.refused
    fault("label files of published sets", how=SPOILT, happens=READ_OR_REFUSED, lost="nothing", tally=tally)


@counts(20, 300)
def test_spoilt_judgements(count: int, tmp_path: Path, fault: Callable[..., None]) -> None:
    folder, tally = bapps(tmp_path / "bapps"), Tally()
    content, write = unchanged(folder, "2afc/train/traditional/judge/000001.npy")

    @tried_on(count, spoilt(content))
    def each(other: bytes) -> None:
        write(other)
        pairs = tally.tried(lambda: read_bapps(folder), folder)
        assert all(0 <= pair.preference <= 1 for part in (pairs or {}).values() for pair in part)

    assert tally.refused
    fault("judgements of BAPPS", how=SPOILT, happens=READ_OR_REFUSED, lost="nothing", tally=tally)
