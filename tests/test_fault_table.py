"""The table of docs/reliability.md."""

from types import SimpleNamespace

import pytest

from tests.support.fault_table import BEGIN, END, write_row, write_table


def test_what_tests_say_in_the_same_words_is_one_row(tmp_path):
    page, rows = tmp_path / "page.md", tmp_path / "rows"
    page.write_text(f"# Page\n\n{BEGIN}\n\nof before\n\n{END}\n\nmore\n")
    for i, seconds in enumerate((0.5, 0.25)):
        tally = SimpleNamespace(read=1000, refused=i, slowest=seconds)
        write_row(rows, f"tests/test_faults_fuzz.py::test[{i}/x]", ["label files", "spoilt", "read", "nothing"], tally)
    write_row(rows, "tests/test_faults_disk.py::test", ["a disk", "filled", "one message", "a step"])
    write_table(rows, page)
    assert [" ".join(line.split()) for line in page.read_text().splitlines() if line and "|--" not in line] == [
        "# Page",
        BEGIN,
        "## Disks, folders and streams",
        "| Fault | How it is put in | What happens | What is lost |",
        "| A disk | filled | one message | a step |",
        "## Input files",
        "| Fault | How it is put in | What happens | What is lost |",
        "| Label files | spoilt | read (2,000 read, 1 refused, the slowest in 0.50 s) | nothing |",
        END,
        "more",
    ]


def test_a_row_of_no_area_is_refused(tmp_path):
    (tmp_path / "page.md").write_text(f"{BEGIN}{END}")
    write_row(tmp_path / "rows", "tests/test_other.py::test", ["a", "b", "c", "d"])
    with pytest.raises(ValueError, match="test_other.py::test is of no area"):
        write_table(tmp_path / "rows", tmp_path / "page.md")
