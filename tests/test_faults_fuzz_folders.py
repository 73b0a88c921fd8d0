"""Folders of runs, results, ratings and questions, spoilt: gone on with and shown as they are, or refused by file."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st

from tests.support.faults_fuzz import READ_OR_REFUSED, SPOILT, Tally, counts, other_values, spoilt, tried_on
from tests.support.made_runs import make_run
from tests.support.question_files import depictqa, llvisionqa, micbench, qbench2, written
from tests.support.results import rows_of, write_results
from vqr1.answering.model import find_model
from vqr1.answering.settings import AnswerSettings
from vqr1.asking.published import read_choices, read_pairs
from vqr1.cli_results import calibration, compare, table
from vqr1.config import Config, EvaluationConfig, PolicyConfig
from vqr1.evaluation.results import read_evaluation
from vqr1.exported import Exported, read_exported, write_exported
from vqr1.rating.rating import Rating
from vqr1.rating.written import row_of, unfinished_ratings
from vqr1.report.command import run as report
from vqr1.scoring.anchored import read_or_solve
from vqr1.scoring.result_folder import ResultFolder
from vqr1.training.best_weights import BestWeights
from vqr1.training.content_rows import read_content
from vqr1.training.run_folder import RunFolder, is_finished, take_stopped
from vqr1.unfinished import stamp

pytestmark = pytest.mark.faults


def spoilt_files(folder: Path, *names: str) -> st.SearchStrategy[tuple[str, bytes]]:
    """One of the files, with bytes changed or, where it is JSON, a value."""

    contents = {name: (folder / name).read_bytes() for name in names}  # now, and not when some are spoilt

    def of(name: str) -> st.SearchStrategy[tuple[str, bytes]]:
        content = contents[name]
        ways = [spoilt(content)]
        if name.endswith(".json"):
            ways.append(other_values(json.loads(content)).map(lambda value: json.dumps(value).encode()))
        if name.endswith(".yaml"):
            ways.append(other_values(yaml.safe_load(content)).map(lambda value: yaml.safe_dump(value).encode()))
        if name.endswith(".jsonl"):
            ways.append(other_lines(content.splitlines()))
        return st.one_of(ways).map(lambda changed: (name, changed))

    return st.sampled_from(names).flatmap(of)


@st.composite
def other_lines(draw: st.DrawFn, lines: list[bytes]) -> bytes:
    at = draw(st.integers(0, len(lines) - 1))
    changed = json.dumps(draw(other_values(json.loads(lines[at])))).encode()
    return b"\n".join([*lines[:at], changed, *lines[at + 1 :], b""])


def quietly(command: Callable[..., Any], *words: Any) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        command(*words)
    return out.getvalue()


def tried_with(folder: Path, files: tuple[str, ...], count: int, read: Callable[[], Any], *names: Path | str) -> Tally:
    """``read`` with each of the files spoilt, the folder being as before each time."""
    tally, before = Tally(), folder.with_name(folder.name + " before")
    shutil.copytree(folder, before)

    @tried_on(count, spoilt_files(folder, *files))
    def each(example: tuple[str, bytes]) -> None:
        shutil.rmtree(folder)
        shutil.copytree(before, folder)
        name, content = example
        (folder / name).write_bytes(content)
        tally.tried(read, *(names or (folder,)))

    assert tally.read and tally.refused
    return tally


# --- Results

RESULT = ("evaluation.json", "results.jsonl")


@counts(50, 1000)
def test_spoilt_results(count: int, tmp_path: Path, fault: Callable[..., None]) -> None:
    rows = {"bid": rows_of("bid", 6, groups=3), "spaq": rows_of("spaq", 4)}
    folder = write_results(tmp_path / "a", rows, trained_on=["kadid10k"])
    write_results(tmp_path / "b", rows, name="other", seed=1)

    def read() -> None:
        read_evaluation(folder)
        quietly(table, [str(folder), "--rounds", "2"])
        quietly(compare, [str(folder), str(tmp_path / "b"), "--rounds", "2"])
        quietly(calibration, [str(folder), "--rounds", "2"])

    tally = tried_with(folder, RESULT, count, read)
    fault("result files", how=SPOILT, happens=READ_OR_REFUSED, lost="nothing", tally=tally)


@counts(40, 500)
def test_spoilt_evaluations_that_are_gone_on_with(count: int, tmp_path: Path, fault: Callable[..., None]) -> None:
    rows = rows_of("bid", 6)
    folder = write_results(tmp_path / "a", {"bid": rows})
    record = json.loads((folder / "evaluation.json").read_text())

    def read() -> None:
        result = ResultFolder(folder)
        result.open(record, [[row.image_id for row in rows[i : i + 2]] for i in (0, 2, 4)])
        result.close()

    tally = tried_with(folder, RESULT, count, read)
    fault("result files", how=SPOILT, happens="gone on with or refused", lost="nothing", tally=tally)


# --- Runs


def settings() -> Config:
    trainer = {"images_per_step": 16, "learning_rate": 1e-6, "max_steps": 20}
    return Config(policy=PolicyConfig(path="tiny"), trainer=trainer, evaluation=EvaluationConfig(), resume=True)


SPLITS = {"five": {"hash": "a", "train": {"pictures": 2, "groups": ["g", "h"]}}}
PICTURES = [
    {"image_id": f"five/{i}.png", "part": "train", "mos": 2.5 + i, "mos_std": None, "content": f"{i}" * 32}
    for i in range(3)
]
POLICY = {"model.safetensors": "0" * 64}


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A run with a checkpoint at step 10, which has come to step 12."""
    folder = RunFolder(tmp_path / "runs" / "a", writes=True)
    first = settings()
    first.resume = False
    folder.open(first, SPLITS, pictures=PICTURES, policy=POLICY)
    for step in range(1, 13):
        folder.append("metrics.jsonl", {"step": step, "train/loss": 0.5}, {"step": step, "eval/five/srcc": 0.1 * step})
        folder.append("answers.jsonl", {"step": step, "set": "five", "image_id": "five/0.png", "scores": [3.0, None]})
        folder.append("timings.jsonl", {"step": step, "speed/step_seconds": 1.5})
    folder.close()
    for name, content in (("checkpoint-10/trainer_state.json", {}), ("best/step.json", {"step": 10})):
        (folder.path / name).parent.mkdir()
        (folder.path / name).write_text(json.dumps(content))
    (folder.path / "summary.json").write_text(json.dumps({"steps": 12, "epochs": 1.5, "seed": 0}))
    (folder.path / "stopped.json").write_text(json.dumps({"step": 10, "signal": "SIGTERM", "exit_code": 75}))
    return folder.path


RUN = (
    *("config.yaml", "versions.json", "splits.json", "pictures.jsonl", "policy.json", "metrics.jsonl", "answers.jsonl"),
    *("timings.jsonl", "summary.json", "stopped.json", "checkpoint-10/trainer_state.json", "best/step.json"),
)


@counts(60, 1000)
def test_spoilt_runs_that_are_gone_on_with(count: int, begun: Path, fault: Callable[..., None]) -> None:
    def read() -> None:
        run = RunFolder(begun, writes=True)
        is_finished(begun, settings())
        run.finished(settings())
        take_stopped(begun)
        BestWeights(begun).restore(10, [10])
        try:
            run.open(settings(), SPLITS, pictures=PICTURES, policy=POLICY)
        finally:
            run.close()

    tally = tried_with(begun, RUN, count, read, begun.name)
    fault("run folders", how=SPOILT, happens="gone on with or refused", lost="nothing", tally=tally)


@counts(40, 500)
def test_spoilt_runs_that_are_rated_with(count: int, begun: Path, fault: Callable[..., None]) -> None:
    (begun / "best" / "config.json").write_text("{}")
    tally = tried_with(
        begun,
        ("config.yaml", "splits.json"),
        count,
        lambda: find_model(AnswerSettings(model=str(begun)), weights=False),
    )
    fault("run folders", how=SPOILT, happens="rated with or refused", lost="nothing", tally=tally)


SHOWN = ("config.yaml", "metrics.jsonl", "answers.jsonl", "timings.jsonl", "summary.json", "versions.json")


@counts(20, 200)
def test_spoilt_runs_in_reports(count: int, tmp_path: Path, fault: Callable[..., None]) -> None:
    folder = make_run(tmp_path / "runs" / "a", steps=4, evaluations=2, probes=1)
    other = make_run(tmp_path / "runs" / "b", steps=4, evaluations=2, probes=1, seed=1)

    def read() -> None:
        quietly(report, [str(folder), str(other)])
        quietly(report, [str(folder), str(other), "--table"])

    read()  # imports what it needs
    tally = tried_with(folder, SHOWN, count, read)
    fault("run folders", how=SPOILT, happens="shown in a report or refused", lost="nothing", tally=tally)


# --- Ratings, answers and exports that are gone on with


@counts(40, 500)
def test_spoilt_ratings_that_are_gone_on_with(count: int, tmp_path: Path, fault: Callable[..., None]) -> None:
    asked, target = {"model": "tiny", "k": 3}, tmp_path / "ratings.csv"
    photos = [tmp_path / f"{i}.png" for i in range(3)]
    first = unfinished_ratings("--csv", target)
    first.open(asked)
    for photo in photos:
        photo.touch()
        first.append([row_of(str(photo), Rating(3.5, 0.5, [3.0, 4.0, None], "so", "ok", 3, 20), stamp(str(photo)))])
    first.close()

    def read() -> None:
        again = unfinished_ratings("--csv", target)
        try:
            assert all(isinstance(each.answers, int) for each in again.open(asked).values())
        finally:
            again.close()

    tally = tried_with(first.path, ("asked.json", "ratings.jsonl"), count, read)
    fault("unfinished ratings", how=SPOILT, happens="gone on with or refused", lost="nothing", tally=tally)


@counts(40, 500)
def test_spoilt_exports_and_anchors(count: int, tmp_path: Path, fault: Callable[..., None]) -> None:
    folder = tmp_path / "exported"
    folder.mkdir()
    write_exported(folder, Exported("How good?", 784, 7840, 64, "float32", ["five"], [6, 2, 2], 0, {"five": "a" * 16}))
    anchors = {
        "five": {"anchors": [{"image_id": "five/0.png", "score": 0.5}], "line": {"slope": 1.0, "intercept": 0.0}}
    }
    (folder / "anchors.json").write_text(json.dumps(anchors))

    def read() -> None:
        (folder / "config.json").write_text("{}")
        read_exported(folder)
        find_model(AnswerSettings(model=str(folder)), weights=False)
        read_or_solve(folder / "anchors.json", [], lambda _: {})

    tally = tried_with(folder, ("rating.json", "anchors.json"), count, read)
    fault("exported folders and anchors", how=SPOILT, happens=READ_OR_REFUSED, lost="nothing", tally=tally)


# --- Questions

QUESTIONS = {"llvisionqa": llvisionqa, "qbench2": qbench2, "micbench": micbench, "depictqa": depictqa}


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("kind", QUESTIONS)
@counts(15, 500)
def test_spoilt_questions(kind: str, count: int, lines: bool, tmp_path: Path, fault: Callable[..., None]) -> None:
    folder = tmp_path / "asked"
    folder.mkdir()
    name = "rows.jsonl" if lines else "rows.json"
    file = written(folder, name, [QUESTIONS[kind](), QUESTIONS[kind]()], lines)
    reader = read_pairs if kind == "depictqa" else read_choices

    def read() -> None:
        for question in reader(file).questions:
            pictures = [question.first, question.second] if kind == "depictqa" else question.pictures
            assert all(Path(picture).is_file() for picture in pictures)

    tally = tried_with(folder, (name,), count, read)
    fault("files of questions", how=SPOILT, happens=READ_OR_REFUSED, lost="nothing", tally=tally)


@counts(40, 500)
def test_spoilt_content_rows(count: int, tmp_path: Path, fault: Callable[..., None]) -> None:
    folder = tmp_path / "content"
    folder.mkdir()
    rows = [{"query": "What is it?", "answer": "A dog.", "image": "p0.png"}, depictqa()]
    file = written(folder, "rows.jsonl", rows, lines=True)

    def read() -> None:
        assert all(Path(picture).is_file() for example in read_content(file) for picture in example.pictures)

    tally = tried_with(folder, ("rows.jsonl",), count, read)
    fault("content rows", how=SPOILT, happens=READ_OR_REFUSED, lost="nothing", tally=tally)
