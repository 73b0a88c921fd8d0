"""Result files: what a row says, what comes back, and what damage is named."""

import dataclasses
import json

import pytest

from tests.support.results import rows_of, write_results
from vqr1.errors import UserError
from vqr1.evaluation.results import ROWS, SETTINGS, make_row, read_evaluation, read_rows


def test_a_row_by_hand():
    row = make_row("bid/a.jpg", "bid", "a.jpg", 2.5, [3.0, None, 4.0], "why")
    assert (row.score, row.std, row.status) == (3.5, pytest.approx(0.5**0.5), "ok")
    assert json.loads(row.line()) == {
        "image_id": "bid/a.jpg", "dataset": "bid", "group": "a.jpg", "mos": 2.5, "score": 3.5, "std": 0.5**0.5,
        "scores": [3.0, None, 4.0], "reasoning": "why", "status": "ok",
        "stds": None, "weights": None, "tokens": None, "passes": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("scores", "score", "std", "status"),
    [
        ([4.0], 4.0, None, "ok"),
        ([None, 4.0], 4.0, None, "ok"),
        ([2.0, 2.0], 2.0, 0.0, "ok"),
        ([None, None], None, None, "unreadable"),
        ([], None, None, "missing"),
    ],
)
def test_nothing_is_imputed(scores, score, std, status):
    row = make_row("a", "bid", "a", 1.0, scores, "")
    assert (row.score, row.std, row.status) == (score, std, status)


def test_what_was_written_comes_back(tmp_path):
    rows = {"bid": rows_of("bid", 5), "clive": rows_of("clive", 4)}
    folder = write_results(tmp_path / "a", rows, name="ours", trained_on=["kadid10k"], facts={"bid": {"part": "test"}})
    read = read_evaluation(folder)
    assert read.rows == rows
    assert (read.name, read.trained_on, read.settings["k"]) == ("ours", ["kadid10k"], 3)
    assert (read.sets["bid"].part, read.sets["clive"].pictures) == ("test", 4)


def test_exact_distributions_come_back_and_lines_of_an_older_version_do(tmp_path):
    exact = make_row(
        "bid/e", "bid", "e", 2.0, [3.0, None], "", stds=[0.5, None], weights=[0.9, 0.1], tokens=22, passes=4
    )
    assert (exact.score, exact.std) == (3.0, 0.5)  # of a single distribution its own
    folder = write_results(tmp_path / "a", {"bid": [exact, *rows_of("bid", 5)]})
    assert read_evaluation(folder).rows["bid"][0] == exact
    lines = [json.loads(line) for line in (folder / ROWS).read_text().splitlines()]
    for line in lines:
        del line["stds"], line["weights"], line["tokens"], line["passes"]
    (folder / ROWS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_evaluation(folder).rows["bid"][1:] == rows_of("bid", 5)


def test_a_torn_last_line_is_left_out(tmp_path):
    folder = write_results(tmp_path / "a", {"bid": rows_of("bid", 5)})
    whole = (folder / ROWS).read_bytes()
    for cut in (1, 20, 100):
        (folder / ROWS).write_bytes(whole[:-cut])
        assert len(read_rows(folder / ROWS)) == 4
    (folder / ROWS).write_bytes(b"")
    assert read_rows(folder / ROWS) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "fine"}, "line 2: bid/00001.png has status 'fine'"),
        ({"score": None}, "line 2: bid/00001.png has status 'ok' and score None; ok has a score"),
        ({"status": "unreadable"}, "line 2: bid/00001.png has status 'unreadable' and score .*; ok has a score"),
        ({"mos": None}, "line 2: not a result .mos: Input should be a valid number"),
        ({"image_id": "bid/00000.png"}, "bid/00000.png appears more than once; keep one line per picture"),
        ({"image_id": [1]}, "line 2: not a result .image_id: Input should be a valid string"),
        ({"stds": [0.1]}, "line 2: bid/00001.png has stds or weights, but not one for each score"),
        ({"weights": 1}, "line 2: not a result .weights: Input should be a valid array"),
        ({"score": 10**400}, "line 2: not a result"),
        ({"mos": float("nan")}, "line 2: not a result .mos: Input should be a finite number"),
        ({"std": -0.1}, "line 2: bid/00001.png has a negative std or weight"),
        ({"stds": [0.1, -0.1, 0.1]}, "line 2: bid/00001.png has a negative std or weight"),
        ({"std": 1.7e308}, r"line 2: bid/00001.png has 1.7e\+308, over 1e\+100; restore the file or evaluate again"),
        ({"tokens": 10**400}, "line 2: bid/00001.png has 10000.*, over "),
        ({"passes": -1.7e308}, "line 2: bid/00001.png has -1.7e"),
        ({"mos": 1e101}, "line 2: bid/00001.png has 1e.101, over "),
        ({"scores": [None, -1e101, None]}, "line 2: bid/00001.png has -1e.101, over "),
        ({"std": "wide"}, "line 2: not a result .std: Input should be a valid number"),
        ({"scores": ["3", None, None]}, "line 2: not a result .scores.0: Input should be a valid number"),
        ({"extra": 1}, "line 2: not a result .*extra.*; restore the file or evaluate again"),
    ],
)
def test_a_damaged_row_is_named(tmp_path, change, message):
    rows = [dataclasses.asdict(row) for row in rows_of("bid", 3)]
    rows[1].update(change)
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=message):
        read_rows(path)


def test_a_line_that_is_no_json_is_named(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(rows_of("bid", 1)[0].line() + "{torn\n")
    with pytest.raises(ValueError, match=r"results.jsonl, line 2: not a result"):
        read_rows(path)


def test_a_row_of_another_set_is_named(tmp_path):
    folder = write_results(tmp_path / "a", {"bid": rows_of("bid", 3)})
    with (folder / ROWS).open("a") as file:
        file.write(rows_of("clive", 1)[0].line())
    with pytest.raises(ValueError, match="clive/00000.png is of clive, which evaluation.json does not name"):
        read_evaluation(folder)


@pytest.mark.parametrize("pictures", [2, -3, 10**400], ids=["fewer", "negative", "of 401 digits"])
def test_another_number_of_pictures_than_the_record_says_is_refused(tmp_path, pictures):
    folder = write_results(tmp_path / "a", {"bid": rows_of("bid", 3)}, facts={"bid": {"pictures": pictures}})
    with pytest.raises(
        UserError, match=r"results.jsonl has 3 pictures of bid, and evaluation.json says -?\d+; restore"
    ):
        read_evaluation(folder)


@pytest.mark.parametrize("absent", [ROWS, SETTINGS])
def test_a_missing_file_is_named(tmp_path, absent):
    folder = write_results(tmp_path / "a", {"bid": rows_of("bid", 3)})
    (folder / absent).unlink()
    with pytest.raises(FileNotFoundError, match=f"{absent} is missing; give a folder that vqr1 evaluate wrote"):
        read_evaluation(folder)


@pytest.mark.parametrize(
    "record", ["{", "[]", "{}", '{"sets": {"bid": {}}}', "[" * 5000, b"\xff", '{"name": 1, "settings": {}, "sets": {}}']
)
def test_a_damaged_record_is_named(tmp_path, record):
    folder = write_results(tmp_path / "a", {"bid": rows_of("bid", 3)})
    (folder / SETTINGS).write_bytes(record if isinstance(record, bytes) else record.encode())
    with pytest.raises(ValueError, match=r"evaluation.json: not a record of vqr1 evaluate .*; evaluate again"):
        read_evaluation(folder)
