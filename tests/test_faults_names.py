"""Names and texts of others that would steer a terminal, or lead out of their folder, in every command."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.support.exports import lora_run
from tests.support.made_runs import make_run
from tests.support.miniatures import picture
from tests.support.question_files import llvisionqa, written
from tests.support.results import rows_of, write_results
from tests.support.runs import QUICK, forked, words
from vqr1.cli import COMMANDS

pytestmark = pytest.mark.faults

HOSTILE = "\x1b]0;pwned\x07\x1b[31mred\x9b1m"  # a terminal's title, a colour, a sequence of one byte


def dataset(root: Path) -> None:
    """A set called mine whose title, pictures and contents have hostile names."""
    names = [f"{i}{HOSTILE}.png" for i in range(20)]
    for seed, name in enumerate(names):
        picture(root / "mine" / name, seed=seed)
    table = [f"{name},{1 + i / 5}" for i, name in enumerate(names)]
    (root / "mine" / "ratings.csv").write_text("\n".join(["file,score", *table]) + "\n")
    declared = {
        "form": "csv", "labels": "ratings.csv", "images": ".", "higher_is_better": True, "range": [1, 5],
        "title": f"Mine {HOSTILE}", "spread": "none", "group": "image", "columns": {"image": "file", "mos": "score"},
    }  # fmt: skip
    (root / "mine" / "dataset.yaml").write_text(yaml.safe_dump(declared))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a hostile name that holds a set, photos, results, a run, a sweep's job, questions."""
    place = tmp_path_factory.mktemp("hostile") / HOSTILE
    dataset(place / "root")
    picture(place / "photo.png", seed=1)
    for seed in (0, 1):
        write_results(
            place / f"result{seed}", {"bid": rows_of("bid", 30, seed=seed)},
            name=f"{HOSTILE}{seed}", facts={"bid": {"title": f"B {HOSTILE}"}},
        )  # fmt: skip
    make_run(place / "run", experiment=HOSTILE, image_id=HOSTILE + "{i}.png")
    lora_run(place / "adapter")
    written(place, "questions.json", [llvisionqa(question=f"How is {HOSTILE}?")])
    return place


def said(asked: list[str], code: int) -> str:
    """What a command writes, no letter of which is a control character."""
    done = forked(asked)
    text = done.stdout + done.stderr
    assert done.returncode == code, text[-3000:]
    raw = [line for line in text.splitlines() if not line.replace("\t", "").isprintable()]
    assert raw == []
    return text


RUN = words({**QUICK, "data": "mine", "data.root": "'{}/root'", "runs": "'{}/runs'", "name": "x"})[1:]
# What each command is given: its words, with {} for the place, and its exit code. Errors come first.
DOORS: dict[str, list[tuple[list[str], int]]] = {
    "train": [
        (["experiment=demo", f"name='{HOSTILE}'"], 2),
        (["experiment=demo", f"data='{HOSTILE}'"], 2),
        (RUN, 0),
        (RUN, 2),  # is there already
    ],
    "plan": [(["experiment=demo", f"data='{HOSTILE}'"], 2), (["experiment=demo", "runs='{}'"], 0)],
    "data": [
        (["check", HOSTILE], 1),
        (["show", HOSTILE], 2),
        (["check", "mine", "--root", "{}/root"], 0),
        (["show", "mine", "--root", "{}/root", "--out", "{}/sheet.png"], 0),
    ],
    "doctor": [([f"data='{HOSTILE}'"], 2)],  # and below
    "rate": [(["{}/none.png", "--model", "tiny"], 2), (["{}/photo.png", "--model", "tiny"], 0)],
    "ask": [
        (["2afc", "--data", HOSTILE, "--model", "tiny"], 2),
        (["2afc", "--data", "mine", "--root", "{}/root", "--model", "tiny", "--limit", "6", "--rounds", "1"], 0),
        (["mcq", "--file", "{}/none.json", "--model", "tiny"], 2),
        (["mcq", "--file", "{}/questions.json", "--model", "tiny", "--json", "{}/root"], 2),
    ],
    "evaluate": [
        (["model=tiny", f"data='{HOSTILE}'"], 2),
        (["model=tiny", "data=mine", f"name='{HOSTILE}'"], 2),
        (["model=tiny", "data=mine", "root='{}/root'", "folder='{}/evaluation'", "k=1", "max_tokens=8"], 0),
    ],
    "table": [(["{}/none"], 2), (["{}/result0", "{}/result1", "--rounds", "20", "--plots", "{}/plots"], 0)],
    "compare": [(["{}/none", "{}/none"], 2), (["{}/result0", "{}/result1", "--rounds", "20"], 0)],
    "calibration": [(["{}/none"], 2), (["{}/result0", "--rounds", "20"], 0)],
    "report": [(["{}/none"], 2), (["{}/run"], 0), (["{}/run", "--table"], 0)],
    "export": [(["{}/none", "{}/exported"], 2), (["{}/adapter", "{}/exported", "--unchecked"], 0)],
    "dashboard": [([HOSTILE], 2), (["a/b", "--sets", HOSTILE, "--print"], 0)],
    "stopped": [(["{}/run"], 1)],
}


NAMES = {"../../x": "lead out", "/tmp/x": "absolute", "a//b": "empty", "a\nb": "not seen", "~/x": "runs="}
OFTEN = ("train", "table", "report", "stopped")  # in the quick suite


@pytest.mark.full
def test_the_doctor_shows_names_as_they_are(place):
    assert r"\x1b" in said(["doctor", "experiment=demo", f"data.root='{place}/none'"], 0)


def test_every_command_has_its_words_here():
    assert DOORS.keys() == COMMANDS.keys()


@pytest.mark.parametrize(
    "command", [each if each in OFTEN else pytest.param(each, marks=pytest.mark.full) for each in DOORS]
)
def test_no_name_steers_the_terminal(command, place, fault):
    for asked, code in [*DOORS[command], ([f"--{HOSTILE}"], 2)]:
        text = said([command, *(word.replace("{}", str(place)) for word in asked)], code)
        assert r"\x1b" in text or r"\u001b" in text or "mine" in asked, text[-3000:]
    fault(
        "control characters in names, titles and words of every command",
        how="an escape sequence in names of folders, sets, pictures, models and options",
        happens=r"shown as `\x1b`",
        lost="nothing",
    )


@pytest.mark.parametrize("name", ["../../x", *(pytest.param(name, marks=pytest.mark.full) for name in list(NAMES)[1:])])
def test_a_name_leads_nowhere_else(name, data_root, tmp_path, fault):
    given = f"name='{name}'"
    for asked in (
        [*words({**QUICK, "data.root": data_root, "runs": tmp_path / "a" / "b"}), given],
        ["evaluate", "model=tiny", "data=demo_five", f"root={data_root}", given],
    ):
        done = forked(asked)
        assert done.returncode == 2 and NAMES[name] in done.stderr and "Traceback" not in done.stderr
        assert f"name={name!r}" in done.stderr
    assert list(tmp_path.iterdir()) == []
    given = ", ".join(f"`name={each!r}`" for each in NAMES)
    fault("a name that is no folder below runs", how=given, happens="refused, exit 2", lost="nothing")


@pytest.mark.parametrize(
    "name", ["sub/mine", *(pytest.param(name, marks=pytest.mark.full) for name in ("../mine", "/m"))]
)
def test_a_set_is_a_folder_below_the_root(name, tmp_path, fault):
    dataset(tmp_path / "root" / "sub")
    done = forked(words({**QUICK, "data": name, "data.root": tmp_path / "root", "runs": tmp_path, "name": "x"}))
    assert done.returncode == 2 and "is no name of a dataset" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists()
    given = "`data=sub/mine`, `data=../mine`, `data=/m`"
    fault("a set that is no folder below the root", how=given, happens="refused, exit 2", lost="nothing")
