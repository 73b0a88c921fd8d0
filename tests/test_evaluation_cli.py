"""``vqr1 table`` and ``vqr1 compare`` as they are called: what they print, write, need and refuse."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from PIL import Image

from tests.support.results import rows_of, write_results
from tests.support.runs import environment
from vqr1 import cli


@pytest.fixture
def results(tmp_path):
    sets = {"bid": rows_of("bid", 30), "clive": rows_of("clive", 30)}
    other = {"bid": rows_of("bid", 30, noise=3, seed=1)}
    return [
        str(write_results(tmp_path / "a", sets, name="ours")),
        str(write_results(tmp_path / "b", other, name="theirs")),
    ]


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["vqr1", *map(str, words)])
    cli.main()


def refused(monkeypatch, capsys, *words):
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, *words)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_table_prints_markdown(monkeypatch, capsys, results):
    call(monkeypatch, "table", *results)
    out = capsys.readouterr().out
    assert out.startswith("| Model ")
    assert all(name in out for name in ("| NIQE (published)", "| ours ", "| theirs ", "95 % interval"))


def test_a_set_of_ones_own_has_no_published_rows_around_it(monkeypatch, capsys, tmp_path):
    call(monkeypatch, "table", write_results(tmp_path / "a", {"mine": rows_of("mine", 30)}, name="ours"))
    out = capsys.readouterr().out
    assert "| ours " in out and "published" not in out and "BID" not in out


def test_table_prints_latex(monkeypatch, capsys, results):
    call(monkeypatch, "table", *results, "--latex", "--published", "4")
    out = capsys.readouterr().out
    assert out.startswith(r"\begin{tabular}")
    assert "binary reward (published)" in out and "NIQE" not in out


def test_table_writes_json_and_plots(monkeypatch, capsys, results, tmp_path):
    call(monkeypatch, "table", *results, "--json", tmp_path / "out" / "t.json", "--plots", tmp_path / "plots")
    content = json.loads((tmp_path / "out" / "t.json").read_text())
    assert [model["name"] for model in content["models"]] == ["ours", "theirs"]
    drawn = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert drawn == ["01_ours_bid.png", "01_ours_clive.png", "02_theirs_bid.png"]
    assert Image.open(tmp_path / "plots" / drawn[0]).size[0] > 400


def test_plots_of_what_has_no_curve(monkeypatch, tmp_path):
    flat = rows_of("bid", 12, noise=0)
    constant = [type(row)(**{**row.__dict__, "score": 3.0}) for row in flat]
    scenes = rows_of("sriqa", 33, groups=3)
    facts = {"sriqa": {"per_group_scale": True, "group": "scene"}}
    folder = write_results(tmp_path / "x", {"bid": constant, "sriqa": scenes}, name="a/b c", facts=facts)
    call(monkeypatch, "table", folder, "--plots", tmp_path / "plots")
    assert sorted(p.name for p in (tmp_path / "plots").iterdir()) == ["01_a-b-c_bid.png", "01_a-b-c_sriqa.png"]


def test_compare_prints_and_writes(monkeypatch, capsys, results, tmp_path):
    call(monkeypatch, "compare", *results, "--json", tmp_path / "c.json", "--rounds", "200")
    out = capsys.readouterr().out
    assert out.startswith("ours less theirs")
    assert "BID: 30 of 30 pictures rated by both" in out and "CLIVE" not in out
    content = json.loads((tmp_path / "c.json").read_text())
    assert set(content["sets"]["bid"]["differences"]["srcc"]) == {"value", "low", "high", "p"}


def test_what_is_wrong_is_one_message_and_exit_code_2(monkeypatch, capsys, results, tmp_path):
    assert "vqr1 table: nowhere/evaluation.json is missing" in refused(monkeypatch, capsys, "table", "nowhere")
    other = str(write_results(tmp_path / "c", {"bid": rows_of("bid", 29)}))
    assert "lacks 1 pictures of" in refused(monkeypatch, capsys, "compare", results[0], other)
    assert "invalid choice" in refused(monkeypatch, capsys, "table", results[0], "--published", "7")
    assert "the following arguments are required" in refused(monkeypatch, capsys, "compare", results[0])


@pytest.mark.parametrize("option", ["--json", "--plots"])
def test_what_cannot_be_written_is_named(monkeypatch, capsys, results, tmp_path, option):
    (tmp_path / "file").touch()
    said = refused(monkeypatch, capsys, "table", *results, "--rounds", "5", option, tmp_path / "file" / "out")
    assert said.startswith(f"vqr1 table: {option} {tmp_path}/file/out: ")
    assert "; give a place that can be written\n" in said


def test_another_models_scores_go_through_the_same_table(monkeypatch, capsys, tmp_path, sized):
    sized("kadid10k", 10)
    folder = tmp_path / "data" / "kadid10k"
    (folder / "images").mkdir(parents=True)
    names = [f"I19_01_{level:02}.png" for level in range(1, 6)] + [f"I81_02_{level:02}.png" for level in range(1, 6)]
    rows = [f"{name},{name[:3]}.png,{1 + 0.3 * i:.2f},0.2" for i, name in enumerate(names)]
    (folder / "dmos.csv").write_text("\n".join(["dist_img,ref_img,dmos,var", *rows]) + "\n")
    for name in names:
        (folder / "images" / name).touch()
    for model, order in (("good", names), ("bad", names[::-1])):
        lines = [f"{name},{i}" for i, name in enumerate(order)]
        (tmp_path / f"{model}.csv").write_text("\n".join(["picture,score", *lines]) + "\n")
    words = [f"Good:kadid10k={tmp_path}/good.csv", f"Bad:kadid10k={tmp_path}/bad.csv"]
    call(monkeypatch, "table", *words, "--root", tmp_path / "data", "--trained-on", "kadid10k", "--published", "none")
    out = capsys.readouterr().out
    assert "| Good          | KADID-10k  | 1.000 / 1.000*" in out
    assert "| Bad           | KADID-10k  | -1.000 / -1.000*" in out
    assert "Bad, KADID-10k: SRCC is negative" in out
    call(monkeypatch, "compare", *words, "--root", tmp_path / "data", "--rounds", "20")
    assert "1.000 - -1.000 = +2.000" in capsys.readouterr().out


def test_the_table_needs_neither_torch_nor_scipy_stats(results):
    code = (
        "import sys; from vqr1 import cli; sys.argv = ['vqr1', 'table', *sys.argv[1:]]; cli.main(); "
        "heavy = {'torch', 'transformers', 'scipy.stats', 'matplotlib', 'hydra', 'pandas'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run(
        [sys.executable, "-c", code, *results], check=True, capture_output=True, env=environment(), timeout=60
    )


def test_evaluate_says_what_is_wrong_before_anything_is_loaded(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "vqr1", "evaluate", "model=tiny"],
        capture_output=True, text=True, env=environment(), cwd=tmp_path, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "vqr1 evaluate: data= names no dataset" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_list_of_commands_names_them(monkeypatch, capsys):
    call_help = pytest.raises(SystemExit)
    with call_help:
        call(monkeypatch, "--help")
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in ("train", "evaluate", "table", "compare", "calibration"))
