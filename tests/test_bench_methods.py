"""The methods side by side: what the table holds of result files written by hand, and how commands are timed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.results import write_results
from vqr1.bench.methods import ROWS, TRAININGS, arguments, bench, result_of, run_of, seconds_of, table, vqr1
from vqr1.evaluation.results import make_row

ROW = {row.name: row for row in ROWS}


def rows(dataset: str, score):
    """Four references of three pictures, the scores of which are ``score(reference, picture)``."""
    return [
        make_row(f"{dataset}/{r}-{i}", dataset, str(r), 10.0 * r + i, [float(score(r, i))], "so", tokens=6, passes=2)
        for r in range(4)
        for i in range(3)
    ]


def done(row, seed, out, score, seconds):
    asked = arguments(["--out", str(out)])
    folder = result_of(row, seed, asked)
    write_results(folder, {name: rows(name, score) for name in ("demo_five", "demo_hundred")}, name=row.name)
    (folder / "table.json").write_text("{}")
    seconds_of(folder).write_text(json.dumps(seconds))
    seconds_of(run_of(row.training, seed, asked)).write_text(json.dumps(10 * seconds))
    return asked


def test_a_row_of_one_seed_has_its_interval_and_its_costs(tmp_path):
    row = ROW["levels, soft"]
    asked = done(row, 0, tmp_path, lambda r, i: r - 0.1 * i, 2.4)
    first, second = table(ROWS, asked).rows
    header = table(ROWS, asked).header
    cells = dict(zip(header, first, strict=True))
    assert (cells["Method"], cells["Set"], cells["SRCC within"]) == ("levels, soft", "demo_five", "-1.000")
    assert [cells[of] for of in ("pictures", "seeds", "tokens", "passes")] == ["12", "1", "6.0", "2.0"]
    assert (cells["training, CPU s"], cells["scoring, CPU s"]) == ("24", "2")
    assert second[0] == "" and second[1] == "demo_hundred" and second[-2:] == ["", ""]


def test_a_row_of_several_seeds_has_mean_and_spread(tmp_path):
    row = ROW["levels, hard"]
    done(row, 0, tmp_path, lambda r, i: 10 * r + i, 1.0)
    asked = done(row, 1, tmp_path, lambda r, i: -(10 * r + i), 3.0)
    cells = table([row], asked).rows[0]
    assert cells[2:4] == ["0.000", "± 1.414"]
    assert cells[-2:] == ["20", "2"]


def test_a_table_of_nothing_yet_is_written_where_no_run_has_made_the_folder(tmp_path, capsys):
    assert bench(arguments(["--table", "--out", str(tmp_path / "new")])) == 0
    assert "SRCC within" in capsys.readouterr().out
    assert json.loads((tmp_path / "new" / "methods.json").read_text())["rows"] == []


def test_every_row_has_a_training_and_a_folder_of_its_own():
    assert {row.training for row in ROWS} == set(TRAININGS)
    assert len({row.folder for row in ROWS}) == len(ROWS)


def test_commands_are_timed_by_what_they_used_and_their_failure_is_told(tmp_path):
    log, seconds = tmp_path / "it.log", tmp_path / "it.seconds.json"
    vqr1(["--version"], log, seconds)
    once = json.loads(seconds.read_text())
    assert once > 0 and log.read_text().strip()
    with pytest.raises(subprocess.CalledProcessError):
        vqr1(["no-such-command"], log, seconds)
    assert json.loads(seconds.read_text()) > once
    assert not Path("it.log").exists()
