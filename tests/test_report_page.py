"""The page of vqr1 report as text: what it holds, what it escapes, what it refuses. tests/test_page.py opens it."""

import base64
import hashlib
import json
import os
import re
import shutil
import struct
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.faults_pictures import PROGRAM, damaged_avif, iptc
from tests.support.made_runs import make_run, make_sweep, write_lines
from vqr1.errors import UserError
from vqr1.report.arms import arms_of, curve, spread_out
from vqr1.report.command import run as report
from vqr1.report.page import as_json, duration, fixed, packed, page
from vqr1.report.probes import STRIP, Pictures, strip
from vqr1.report.remarks import remarks
from vqr1.report.runs import find_runs, read_run
from vqr1.report.style import running_mean

HOSTILE = "</script><img src=x onerror=alert(1)><!--{{ 7 * 7001 }}"
UPLOT = {
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    "LICENSE.uPlot": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
}


class Read(HTMLParser):
    """Elements, attributes and texts, as a browser would read them."""

    def __init__(self, content: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.said = ""
        self._in = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self._in = tag if tag in ("script", "style") else ""
        self.said += " " if tag in ("td", "th", "dd", "dt", "br", "p", "li", "span", "small") else ""
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            self.scripts.append(data)
        elif self._in == "style":
            self.styles.append(data)
        else:
            self.said += data

    @property
    def words(self) -> str:
        return " ".join(self.said.split())

    @property
    def data(self) -> Any:
        return json.loads(self.scripts[0])


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sweep(tmp_path_factory.mktemp("runs") / "sweep-demo-0", (2, 4), (0.0, 0.04), (0, 1), probes=1)


@pytest.fixture(scope="module")
def shown(sweep: Path) -> Read:
    return Read(page(find_runs([sweep])))


def test_the_page_tells_what_was_run_and_only_what_differs(shown: Read) -> None:
    assert "8 runs, 4 settings" in shown.words
    table = shown.words[shown.words.index("What was run") :]
    differing, _, common = table.partition("Settings that all")
    assert "k=2, beta=0.04" in differing
    assert "rollout.temperature" not in differing
    assert "rollout.temperature 1.0" in common
    assert "rollout.k" not in common
    assert "vqr1 0.2.0" in differing, "versions"
    assert "In all 6 min of training and 11 min of evaluations" in differing  # 8 x 30 x 1.5 s, 8 x 7 x 12 s
    assert "Warnings" not in shown.words


def test_the_final_table_has_means_and_ranges_over_seeds(shown: Read) -> None:
    """SRCC on demo_five is 0.6 + 0.02 k - beta + 0.01 seed."""
    assert "k=4, beta=0.04 0.645 0.640 to 0.650 0.250" in shown.words
    assert "demo_five_test 140 test pictures; supervised ceiling 0.820; label ceiling 0.970" in shown.words


def test_a_sweep_is_a_table_of_k_and_beta_with_paired_tests(shown: Read) -> None:
    """The paper's default, K 6 and beta 0.04, is not among these runs, so none is tested."""
    assert "rollout.k \\ trainer.beta 0.0 0.04 2 0.645 ± 0.007 (2) 0.605 ± 0.007 (2) 4 0.685" in shown.words
    assert [value for tag, name, value in shown.attributes if tag == "td" and (value or "").startswith("h")][:4] == [
        "h4", "h0", "h8", "h4",
    ]  # fmt: skip
    assert "Settings by test set: SRCC / PLCC" in shown.words
    assert "Paired over seeds" not in shown.words


def test_the_default_is_what_others_are_tested_against(tmp_path: Path) -> None:
    words = Read(page(find_runs([make_sweep(tmp_path / "sweep", (4, 6), (0.04,), (0, 1, 2), probes=0)]))).words
    assert "Paired over seeds: SRCC less that of rollout.k=6" in words
    assert "rollout.k=4 demo_five_test 3 -0.040" in words
    assert "VisualQuality-R1, K = 6 (published)" not in words, "the paper has no figure of these sets"


def test_the_tables_alone_on_the_terminal(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report([str(sweep), "--table", "--against", "rollout.k=4", "--against", "trainer.beta=0.0"])
    text = capsys.readouterr().out
    assert "| rollout.k " in text
    assert "rollout.k=4, trainer.beta=0.0" in text
    assert not (sweep / "report.html").exists()
    with pytest.raises(UserError, match="--against k: give a setting and its value"):
        report([str(sweep), "--table", "--against", "k"])


def test_every_figure_is_named_and_has_its_numbers_beside_it(shown: Read) -> None:
    figures = [value for tag, name, value in shown.attributes if tag == "figure" and name == "id"]
    named = [value for tag, name, value in shown.attributes if tag == "figure" and name == "aria-labelledby"]
    captions = [value for tag, name, value in shown.attributes if tag == "figcaption" and name == "id"]
    assert named == captions == [f"{figure}-t" for figure in figures]
    assert len(figures) == len(shown.data["figures"]) > 10
    assert shown.words.count("Numbers of ") == len(figures)
    for wanted in (
        "Reward: mean", "Reward: standard deviation", "Fidelity", "SRCC: demo_five", "SRCC: demo_hundred",
        "Score std: demo_five", "Score std within pictures, in training", "Score std between pictures, in training",
        "KL", "Entropy",
    ):  # fmt: skip
        assert f"{wanted} " in shown.words


def test_curves_are_packed_with_gaps(sweep: Path) -> None:
    runs = find_runs([sweep])
    first, second = (
        [run for run in runs if run.config["rollout"]["k"] == 2 and run.config["trainer"]["beta"] == beta]
        for beta in (0.0, 0.04)
    )
    for row in (row for run in first for row in run.metrics if row["step"] == 5):
        row["policy/kl"] = None
    for row in (row for run in second for row in run.metrics if row["step"] == 7):
        row.pop("policy/kl", None)
    content = page(runs)
    read = Read(content)
    index = next(i for i, name in enumerate(re.findall(r"<b>([^<]+)</b> <span>", content)) if name == "KL")
    one, other = read.data["figures"][index]["series"][:2]
    steps = unpacked(read.data["figures"][index]["steps"])
    assert steps == list(range(1, 31))
    assert one["name"] == "k=2, beta=0.0"
    mean, low, high = (unpacked(one[key]) for key in ("mean", "low", "high"))
    undefined = [step for step, value in zip(steps, mean, strict=True) if value != value]
    assert undefined == [5], "undefined is NaN, and bridged by nothing"
    assert all(b <= m <= h for b, m, h in zip(low, mean, high, strict=True) if m == m)
    assert unpacked(other["mean"])[6] == float("inf"), "a step that was not measured is no gap"


def unpacked(text: str) -> list[float]:
    content = base64.b64decode(text)
    return list(struct.unpack(f"<{len(content) // 4}f", content))


def test_packed_and_json() -> None:
    assert unpacked(packed([1.5, float("inf")])) == [1.5, float("inf")]
    assert "<" not in as_json({"a": "</script><!--"})
    assert json.loads(as_json({"a": "</script><!--"})) == {"a": "</script><!--"}
    assert [fixed(None), fixed(0.12345), fixed(0.0), fixed(1e-6), fixed(123456.0)] == [
        "undefined", "0.123", "0.000", "1.00e-06", "1.23e+05",
    ]  # fmt: skip
    assert [duration(12), duration(600), duration(7260)] == ["12 s", "10 min", "2 h 01 min"]


def test_nothing_that_runs_or_is_fetched_but_the_page_s_own(tmp_path: Path) -> None:
    """Answers, names of pictures, runs and experiments are others' words."""
    folder = tmp_path / "<b>run" / "&amp;"
    make_run(folder, experiment=HOSTILE, answer=HOSTILE, image_id=HOSTILE + "{i}", probes=1, ended=False)
    with (folder / "answers.jsonl").open("a") as file:
        file.write(json.dumps({"step": 30, "set": HOSTILE, "image_id": HOSTILE, "answers": [HOSTILE]}) + "\n")
    content = page(find_runs([tmp_path]))
    read = Read(content)
    assert "img" in read.tags  # the probe picture
    assert not [value for tag, name, value in read.attributes if name.startswith("on") or name == "style"]
    sources = [value for _, name, value in read.attributes if name in ("src", "href", "action", "data")]
    assert all(str(source).startswith(("data:image/jpeg;base64,", "#")) for source in sources)
    assert len(read.scripts) == 2
    assert "49007" not in read.words, "a template in an answer is text"
    assert read.words.count(HOSTILE) >= 4
    assert "&amp;" in content
    assert "<b>run" not in content
    policy = next(
        value for tag, name, value in read.attributes if tag == "meta" and (value or "").startswith("default")
    )
    for allowed, text in (("script-src", read.scripts[1]), ("style-src", read.styles[0])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{allowed} 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


def test_uplot_is_the_published_one_with_its_licence() -> None:
    for name, digest in UPLOT.items():
        content = files("vqr1.report").joinpath("page_files", name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest, name
    assert b"MIT License" in files("vqr1.report").joinpath("page_files", "LICENSE.uPlot").read_bytes()


def test_experiments_are_shown_apart(sweep: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", experiment="kadid10k", probes=0)
    read = Read(page(find_runs([sweep, other])))
    assert "9 runs of 2 experiments, which are not compared with each other" in read.words
    assert [value for tag, name, value in read.attributes if tag == "section" and name == "id"] == ["e0", "e1"]
    assert "reward.agreement" not in read.words.partition("Settings that all")[0]


def test_a_run_without_an_end_is_shown_as_such(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "killed", ended=False, canary=True)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "eval/demo_five/srcc": null}\n{"step": 31, "canary/logp_difference": 0.5}\n{"ste')
    (folder / "resumed.jsonl").write_text('{"step": 12}\n')
    read = Read(page([read_run(folder)]))
    for said in (
        "killed: without an end",
        "its last step is 31",
        "metrics.jsonl: 1 unreadable line is left out",
        "resumed from step 12",
        "SRCC on demo_five is undefined at step 30",
        "canary/logp_difference is over rollout.vllm.canary_limit=0.1 in 1 of 31 steps, step 31 first",
    ):
        assert said in read.words
    assert "Canary: mean" in read.words


def test_a_last_evaluation_is_not_taken_for_a_final_one(tmp_path: Path) -> None:
    finished = make_run(tmp_path / "a", seed=0)
    killed = make_run(tmp_path / "b", seed=1, ended=False)
    words = Read(page([read_run(finished), read_run(killed)])).words
    assert "demo 0.640 0.560 to 0.700 0.250" in words, "the finished run alone, with its interval"
    assert "demo" in words
    assert ", not finished 0.650" in Read(page([read_run(killed)])).words


def test_what_went_wrong_while_it_learnt_is_a_warning(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "bad", steps=60)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert remarks(read_run(folder)) == []
    for row in rows:
        if "rollout/unreadable" in row:
            row["rollout/unreadable"] = 0.3
            row["reward/zero_spread"] = 0.75
            row["rollout/score_std_between"] = 1.0 if row["step"] <= 10 else 0.1
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    unreadable, spread, collapse = remarks(read_run(folder))
    assert unreadable == "30% of the answers could not be read in the last 10 steps (rollout/unreadable)"
    assert spread.startswith("75% of the pictures got one score in all their answers")
    assert collapse.startswith("step 20: all pictures are coming to get the same score")


def test_a_run_without_figures_sets_or_pictures(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "empty", probes=0, ended=False)
    for name in ("metrics.jsonl", "timings.jsonl", "answers.jsonl", "versions.json"):
        (folder / name).unlink()
    assert "No set was evaluated at the end" in Read(page([read_run(folder)])).words


def test_a_run_that_was_shown_answers_has_no_figures_of_drawn_ones(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", answers=1, answer="better, similar, worse")
    drawn = ("score_std", "unreadable")
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**settings, "objective": "comparison"}))
    summary = json.loads((folder / "summary.json").read_text())
    for end in ("start", "final"):
        summary[end] = {n: {k: v for k, v in row.items() if k not in drawn} for n, row in summary[end].items()}
    (folder / "summary.json").write_text(json.dumps(summary))
    rows = [
        {
            key: value
            for key, value in row.items()
            if key == "step" or (key.startswith("eval/") and not key.endswith(drawn))
        }
        for row in map(json.loads, (folder / "metrics.jsonl").open())
    ]
    write_lines(folder / "metrics.jsonl", [{**row, "train/loss": 0.5} if len(row) == 1 else row for row in rows])
    words = Read(page([read_run(folder)])).words
    assert "by comparisons with a few training pictures" in words and "first of its K" not in words
    assert "Loss" in words and "no measure of progress" not in words
    assert "score std" not in words and "unreadable" not in words


def test_scores_by_comparisons_fill_their_own_drawing() -> None:
    steps = [{"scores": [score], "mean": score} for score in (-0.25, 0.75)]
    height = STRIP[1]
    assert [y for _, y in strip(steps, 0.5, None)["dots"]] == [height - 4, 4]
    assert strip(steps, 0.5, None)["mos"] is None  # it is on another scale
    assert [y for _, y in strip(steps[:1], 2.0, None)["dots"]] == [height / 2]


def test_published_rows_stand_beside_sets_that_are_shared(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "kadid", experiment="kadid10k")
    summary = json.loads((folder / "summary.json").read_text())
    summary["final"] = {"koniq10k_test": {"srcc": 0.81, "plcc": None, "n": 2015}}
    (folder / "summary.json").write_text(json.dumps(summary))
    words = Read(page([read_run(folder)])).words
    assert "Beside the paper's Table 2" in words
    assert "kadid demo_five + demo_hundred 0.810 / undefined" in words
    assert "0.830 / 0.840" in words  # VisualQuality-R1, trained on KADID-10k
    assert "Beside the paper" not in Read(page([read_run(make_run(tmp_path / "demo"))])).words


def test_samples_of_training_with_rewards_and_advantages(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "one")
    rows = [
        {"step": step, "dataset": "demo_five", "image_id": f"picture {i}", "picture": "pictures/0.jpg", "mos": 3.0,
         "prompt": "rate", "answers": ["first", HOSTILE], "scores": [3.25, None], "rewards": [1.5, 0.0],
         "advantages": [0.75, -0.75]}
        for step in range(10, 31, 5) for i in range(3)
    ]  # fmt: skip
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = Read(page([read_run(folder)])).words
    assert f"3.25 1.500 0.75 first none 0.000 -0.75 {HOSTILE}" in words
    shown = words[words.index("Samples of training One") if "Samples of training One" in words else 0 :]
    assert all(f"step {step} picture 1" in shown for step in (10, 20, 30))
    assert "picture 2" not in shown, "two of each step"


def test_pictures_come_from_the_run_folder_and_may_be_gone(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "one", probes=1)
    run = read_run(folder)
    made = Pictures()([run], run.answers[0])
    assert made is not None
    assert (made["width"], made["height"]) == (128, 96)
    for content in (b"no picture", damaged_avif()):
        (folder / "pictures" / "0.jpg").write_bytes(content)
        assert Pictures()([run], run.answers[0]) is None
    (folder / "pictures" / "0.jpg").unlink()
    os.mkfifo(folder / "pictures" / "0.jpg")  # to open it would be to wait
    assert Pictures()([run], run.answers[0]) is None
    shutil.rmtree(folder / "pictures")
    assert "The picture is not kept" in Read(page([run])).words


@pytest.mark.parametrize("content", [PROGRAM, iptc(PROGRAM)])
def test_a_program_in_postscript_among_the_pictures_is_not_run(
    tmp_path: Path, ghostscript: Path, content: bytes
) -> None:
    run = read_run(make_run(tmp_path / "one", probes=1))
    (run.folder / "pictures" / "0.jpg").write_bytes(content)
    assert Pictures()([run], run.answers[0]) is None
    assert not ghostscript.exists()


def test_arms_are_in_the_order_of_their_values(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path / f"{k}", k=k, probes=0, steps=6)) for k in (10, 2, 4)]
    assert [arm.name for arm in arms_of(runs)] == ["k=2", "k=4", "k=10"]
    assert [arm.name for arm in arms_of(runs[:1])] == ["10"], "one run is called by its name"
    assert curve(arms_of(runs)[0], "no/metric", smooth=True) is None


def test_runs_with_one_seed_are_not_taken_for_several(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path / name, probes=0, steps=6)) for name in ("a", "b")]
    assert "several of its runs have the same seed" in Read(page(runs)).words


def test_the_running_mean_and_the_choice_of_steps() -> None:
    assert running_mean([1.0, None, 2.0]) == [1.0, None, pytest.approx(1.1)]  # 0.9 + 0.1 x 2
    assert spread_out([0, 1, 2, 3, 4, 5, 6, 7, 8], 3) == [0, 4, 8]
    assert spread_out([1, 2], 3) == [1, 2]


def test_the_command_writes_one_file(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pages" / "study.html"
    report([str(sweep), "--out", str(out)])
    assert [file.name for file in out.parent.iterdir()] == ["study.html"]
    assert out.read_text().startswith("<!doctype html>")
    assert f"{out}: 8 runs, 0." in capsys.readouterr().err


def test_what_no_text_holds_is_shown(sweep: Path, tmp_path: Path) -> None:
    run = shutil.copytree(next(sweep.glob("*/config.yaml")).parent, tmp_path / "run")
    (run / "versions.json").write_text('{"vqr1": "\\ud800"}')
    report([str(run), "--out", str(tmp_path / "page.html")])
    assert "\\ud800" in (tmp_path / "page.html").read_text()


def test_bad_input_is_one_message(sweep: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        report([str(tmp_path)])
    with pytest.raises(UserError, match="nowhere is not a folder"):
        report([str(tmp_path / "nowhere")])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--out .*give a place that can be written"):
        report([str(sweep), "--out", str(tmp_path / "file" / "page.html")])
