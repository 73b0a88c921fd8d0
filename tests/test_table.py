"""The table from result files: its layout, the published rows, runs put together, and what is said below it."""

import json
import math
import statistics
import time

import pytest

from tests.support.results import rows_of, write_results
from vqr1.data import DATASETS
from vqr1.evaluation.compare import compare, comparison_text
from vqr1.evaluation.correlation import plcc, srcc
from vqr1.evaluation.paper import TABLE2, published
from vqr1.evaluation.render import as_json, escape, latex, markdown
from vqr1.evaluation.results import make_row, read_evaluation
from vqr1.evaluation.summary import over_runs, summarise
from vqr1.evaluation.table import benchmark_table, comparable
from vqr1.provenance import finite

ROUNDS = 50


def lines_of(*folders):
    return summarise([read_evaluation(folder) for folder in folders], ROUNDS)


def cells(lines, rows=()):
    """The main table: header, and rows by their first cell."""
    grid = benchmark_table(lines, list(rows)).main
    return grid.header, {row[0]: row for row in grid.rows}


@pytest.fixture
def eight(tmp_path):
    """A result on the paper's eight sets, each with 30 pictures."""
    return write_results(tmp_path / "eight", {name: rows_of(name, 30) for name in TABLE2}, name="ours")


def test_the_published_rows_are_whole():
    rows = published("2")
    assert len(rows) == 13
    (best,) = [row for row in rows if row.method == "VisualQuality-R1" and row.trained_on == "KADID-10k"]
    assert best.cells["bid"] == (0.790, 0.806)
    assert best.average == (0.777, 0.814)
    assert [row.trained_on for row in rows if row.method == "Qwen2.5-VL-7B"] == ["zero-shot"]
    # The paper's averages are the means of its cells, as far as its three digits tell (BRISQUE's has two).
    for row in rows:
        for i in range(2):
            mean = statistics.fmean(pair[i] for pair in row.cells.values())
            assert row.average[i] == pytest.approx(mean, abs=0.0015)


def test_tables_3_and_4_are_there_too():
    assert [row.method for row in published("3")] == [f"VisualQuality-R1, K = {k}" for k in (4, 5, 6)]
    assert published("3")[0].cells["bid"] == (None, 0.805)
    assert len(published("4")) == 5
    with pytest.raises(ValueError, match="published table '5': choose from 2, 3, 4"):
        published("5")


def test_titles_are_known_where_a_set_was_not_evaluated():
    assert set(TABLE2) <= set(DATASETS)


def test_the_layout_is_table_2s(eight):
    header, rows = cells(lines_of(eight), published("2"))
    assert header == ["Model", "Trained on", *TABLE2.values(), "Avg"]
    assert rows["NIQE (published)"][2] == "0.515 / 0.527"
    assert rows["NIQE (published)"][-1] == "0.482 / 0.519"
    evaluation = read_evaluation(eight)
    x, y = zip(*[(row.score, row.mos) for row in evaluation.rows["bid"]], strict=True)
    assert rows["ours"][2] == f"{srcc(x, y):.3f} / {plcc(x, y):.3f}"
    low = rows["95 % interval"][2]
    assert low.count("[") == 2 and low.count(",") == 2


def test_the_average_is_over_all_eight_or_not_given(eight, tmp_path):
    line = lines_of(eight)[0]
    mean = statistics.fmean(line.figure(name, "srcc").mean for name in TABLE2)
    _, rows = cells([line], published("2"))
    assert rows["ours"][-1].startswith(f"{mean:.3f} / ")
    seven = write_results(tmp_path / "seven", {name: rows_of(name, 30) for name in list(TABLE2)[1:]}, name="ours")
    _, rows = cells(lines_of(seven), published("2"))
    assert rows["ours"][2] == rows["ours"][-1] == "-"


def test_other_sets_come_after_and_published_rows_have_none(tmp_path):
    folder = write_results(tmp_path / "a", {"demo_five": rows_of("demo_five", 20)}, facts={"demo_five": {"title": "D"}})
    header, rows = cells(lines_of(folder), published("2"))
    assert header[-2:] == ["D", "Avg"]
    assert rows["NIQE (published)"][-2] == "-"
    assert rows["model"][2:10] == ["-"] * 8
    assert "/" in rows["model"][-2]
    header, _ = cells(lines_of(folder))
    assert header == ["Model", "Trained on", "D", "Avg"]


def test_published_rows_are_shown_where_a_column_is_shared(tmp_path):
    own = lines_of(write_results(tmp_path / "own", {"mine": rows_of("mine", 20)}))
    assert comparable(own, published("2")) == []
    both = lines_of(write_results(tmp_path / "both", {"mine": rows_of("mine", 20), "bid": rows_of("bid", 20)}))
    assert comparable(both, published("2")) == published("2")


def test_what_was_trained_on_is_marked(tmp_path):
    facts = {"spaq": {"trained_on": True, "part": "test"}}
    folder = write_results(
        tmp_path / "a", {"spaq": rows_of("spaq", 20)}, facts=facts, trained_on=["kadid10k", "spaq"], name="ours"
    )
    made = benchmark_table(lines_of(folder), published("2"))
    rows = {(row[0], row[1]): row for row in made.main.rows}
    assert rows["ours", "KADID-10k + SPAQ"][5].endswith("*")
    assert rows["VisualQuality-R1 (published)", "KADID-10k + SPAQ"][5] == "0.913 / 0.917*"
    assert rows["VisualQuality-R1 (published)", "KADID-10k"][5] == "0.875 / 0.878"
    ours = "* The set was trained on; the figure is of its test split only."
    theirs = "* in a published row: the set was trained on, as the paper says; not on which pictures."
    assert {ours, theirs} <= set(made.notes)
    alone = benchmark_table(lines_of(write_results(tmp_path / "b", {"bid": rows_of("bid", 20)})), published("2"))
    assert theirs in alone.notes and ours not in alone.notes


def test_the_validation_split_of_what_was_trained_on_is_no_test(tmp_path):
    facts = {"spaq": {"trained_on": True, "part": "validation split"}}
    folder = write_results(tmp_path / "a", {"spaq": rows_of("spaq", 20)}, facts=facts, trained_on=["spaq"], name="ours")
    notes = benchmark_table(lines_of(folder), []).notes
    assert "* The set was trained on; the figure is of its validation split only." in notes
    assert "ours, SPAQ: validation split only." in notes
    assert "ours, SPAQ: the weights were chosen on its validation split, so this is no test." in notes


def test_runs_of_one_model_are_put_together(tmp_path):
    folders = [
        write_results(tmp_path / f"run{seed}", {"bid": rows_of("bid", 40, seed=seed)}, seed=seed) for seed in range(3)
    ]
    (line,) = lines_of(*folders)
    values = [
        srcc([r.score for r in e.rows["bid"]], [r.mos for r in e.rows["bid"]]) for e in map(read_evaluation, folders)
    ]
    figure = line.figure("bid", "srcc")
    assert (figure.mean, figure.spread, figure.runs) == (
        pytest.approx(statistics.fmean(values)),
        pytest.approx(statistics.stdev(values)),
        3,
    )
    made = benchmark_table([line], [])
    assert made.main.rows[0][0] == "model, mean of 3 runs"
    assert made.main.rows[0][2].startswith(f"{figure.mean:.3f} ± {figure.spread:.3f} / ")
    assert len(made.main.rows) == 1  # each run's interval is among the details
    assert len(made.details.rows) == 3
    assert line.average(["bid"], "srcc").spread == pytest.approx(figure.spread)


def test_sets_of_one_run_may_lie_in_several_folders(tmp_path):
    parts = [write_results(tmp_path / name, {name: rows_of(name, 20)}, name="ours") for name in ("bid", "clive")]
    (line,) = lines_of(*parts)
    average = line.average(["bid", "clive"], "srcc")
    assert average.mean == pytest.approx(sum(line.figure(name, "srcc").mean for name in ("bid", "clive")) / 2)
    assert math.isnan(average.spread)


def test_another_question_is_another_line(tmp_path):
    one = write_results(tmp_path / "one", {"bid": rows_of("bid", 20)})
    two = write_results(tmp_path / "two", {"bid": rows_of("bid", 20)}, k=6)
    other = write_results(tmp_path / "other", {"bid": rows_of("bid", 20)}, name="other")
    labels = [row[0] for row in benchmark_table(lines_of(one, two, other), []).main.rows if row[0] != "95 % interval"]
    assert labels == ["model, k 3", "model, k 6", "other"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "are the same weights with the same seed on bid: no spread to show; leave one out"),
        (
            {"seed": 1, "facts": {"bid": {"labels_sha256": "1"}}},
            "on other pictures or opinion scores of bid; name them",
        ),
    ],
)
def test_runs_that_are_none_are_refused(tmp_path, change, message):
    one = write_results(tmp_path / "one", {"bid": rows_of("bid", 20)})
    two = write_results(tmp_path / "two", {"bid": rows_of("bid", 20)}, **change)
    with pytest.raises(ValueError, match=message):
        lines_of(one, two)
    with pytest.raises(ValueError, match="is given twice"):
        lines_of(one, one)


def test_an_undefined_run_makes_the_mean_undefined():
    assert math.isnan(over_runs([0.5, math.nan]).mean)
    assert over_runs([0.5]).mean == 0.5
    assert math.isnan(over_runs([0.5]).spread)


def test_who_does_not_enter_is_counted(tmp_path):
    rows = rows_of("bid", 10)
    rows[2] = make_row(rows[2].image_id, "bid", "2", 1.0, [None, None, None], "?")
    rows[3] = make_row(rows[3].image_id, "bid", "3", 1.0, [], "truncated")
    folder = write_results(tmp_path / "a", {"bid": rows}, facts={"bid": {"pictures": 12}})
    line = lines_of(folder)[0]
    (outcome,) = line.outcomes["bid"]
    counts = outcome.counts
    assert (counts.rated, counts.unreadable, counts.missing, counts.pending) == (8, 1, 1, 2)
    assert (counts.answers, counts.unreadable_answers) == (27, 3)
    made = benchmark_table([line], [])
    assert made.details.rows[0][10:16] == ["-", "-", "8 of 12", "1", "3 of 27", "1"]
    assert "model, BID: 2 of 12 pictures are not rated yet; evaluate again to finish." in made.notes
    assert any("1 pictures have no answer" in note for note in made.notes)
    kept = [row for row in rows if row.score is not None]
    assert outcome.measures.figures["srcc"] == srcc([row.score for row in kept], [row.mos for row in kept])


def test_constant_predictions_are_shown_as_such(tmp_path):
    rows = [make_row(f"bid/{i}", "bid", str(i), float(i), [3.0], "") for i in range(12)]
    made = benchmark_table(lines_of(write_results(tmp_path / "a", {"bid": rows})), published("2"))
    ours = made.main.rows[13]
    assert ours[2] == "undefined / undefined"
    assert "model, BID: constant predictions." in made.notes


def test_scenes_and_clive_are_explained_beside_published_rows(tmp_path):
    facts = {"sriqa": {"per_group_scale": True, "group": "scene"}}
    rows = {"sriqa": rows_of("sriqa", 66, groups=6), "clive": rows_of("clive", 20)}
    made = benchmark_table(lines_of(write_results(tmp_path / "a", rows, facts=facts)), published("2"))
    assert made.details.rows[0][-2:] == ["mean over 6 scenes", "6 scenes' values"]
    assert any(note.startswith("SRIQA: ours is the mean over scenes") for note in made.notes)
    assert any("the published rows kept its 7 training pictures (1169" in note for note in made.notes)
    assert not any(note.startswith("SRIQA") for note in benchmark_table(lines_of(tmp_path / "a"), []).notes)


def test_pseudo_labels_are_said(tmp_path):
    folder = write_results(
        tmp_path / "a", {"demo_five": rows_of("demo_five", 20)}, facts={"demo_five": {"pseudo_labels": True}}
    )
    assert any("pseudo-labels" in note for note in benchmark_table(lines_of(folder), []).notes)


def test_markdown_and_latex_are_tables(eight):
    made = benchmark_table(lines_of(eight), published("2"))
    text = markdown(made).splitlines()
    width = text[0].count("|")
    assert all(line.count("|") == width for line in text[: 2 + len(made.main.rows)])
    assert len({len(line) for line in text[: 2 + len(made.main.rows)]}) == 1
    tex = latex(made)
    body = tex[tex.index(r"\midrule") : tex.index(r"\bottomrule")].splitlines()[1:]
    assert {line.count("&") for line in body if line != r"\midrule"} == {10}
    assert all(line.endswith(r"\\") for line in body if line != r"\midrule")
    assert body.index(r"\midrule") == 13  # between what was published and what was measured
    assert r"95 \% interval" in tex


def test_latex_takes_any_name():
    assert escape(r"a_b & 50 % ~ \x {y} ± 1") == (r"a\_b \& 50 \% \textasciitilde{} \textbackslash{}x \{y\} $\pm$ 1")


@pytest.mark.parametrize("name", ["[ours]", "*ours"])
def test_a_name_is_no_argument_of_the_line_before_it_in_latex(tmp_path, name):
    tex = latex(benchmark_table(lines_of(write_results(tmp_path / "a", {"bid": rows_of("bid", 20)}, name=name)), []))
    assert f"\n{{}}{name} &" in tex


def test_names_cannot_steer_the_terminal(tmp_path):
    hostile = "\x1b]0;pwned\x07\x1b[31mred"
    folder = write_results(
        tmp_path / "a", {"bid": rows_of("bid", 20)}, name=hostile, facts={"bid": {"title": f"B {hostile}"}}
    )
    made = benchmark_table(lines_of(folder), published("2"))
    compared = comparison_text(hostile, hostile, compare(*[read_evaluation(folder)] * 2, 5))
    for text in (markdown(made), latex(made), compared):
        assert not [character for character in text if not (character.isprintable() or character == "\n")]
    assert r"\x1b[31mred" in markdown(made)


def test_json_holds_everything_and_no_nan(eight, tmp_path):
    undefined = write_results(
        tmp_path / "b", {"bid": [make_row(f"bid/{i}", "bid", str(i), float(i), [3.0], "") for i in range(12)]}, name="c"
    )
    lines = lines_of(eight, undefined)
    content = json.loads(
        json.dumps(finite(as_json(lines, published("2"), benchmark_table(lines, published("2")))), allow_nan=False)
    )
    first, second = content["models"]
    run = first["sets"]["bid"]["runs"][0]
    assert set(run["figures"]) == {"srcc", "plcc", "krcc", "plcc_fit", "rmse_fit", "pair_accuracy"}
    assert len(run["intervals"]["srcc"]) == 2
    assert run["counts"]["rated"] == 30
    assert second["sets"]["bid"]["merged"]["srcc"]["mean"] is None
    assert len(content["published"]) == 13


@pytest.mark.slow
def test_the_table_of_the_eight_sets_with_a_thousand_rounds_takes_seconds(tmp_path):
    # 28,827 pictures: half a minute is promised; this takes about four seconds alone on a core.
    sizes = dict(zip(TABLE2, (586, 1162, 10073, 11125, 1199, 1100, 600, 2982), strict=True))
    assert sum(sizes.values()) == 28827
    groups = {"liu13": 40, "sriqa": 100, "min19": 75, "agiqa3k": 300}
    sets = {name: rows_of(name, size, groups=groups.get(name)) for name, size in sizes.items()}
    folder = write_results(tmp_path / "a", sets, facts={"sriqa": {"per_group_scale": True, "group": "scene"}})
    began = time.process_time()
    (line,) = summarise([read_evaluation(folder)], rounds=1000)
    text = markdown(benchmark_table([line], published("2")))
    assert time.process_time() - began < 30
    assert "11125 of 11125" in text
