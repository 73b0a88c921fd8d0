"""docs/data.md's way from one's own ratings to a trained policy, followed word by word on forty pictures."""

from __future__ import annotations

import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.support.runs import environment, forked
from tests.test_docs import ROOT


def blocks() -> list[list[str]]:
    """The indented blocks of the section."""
    section = (ROOT / "docs" / "data.md").read_text().split("## Your own ratings\n")[1].split("\n**")[0]
    return [block.replace("    ", "", 1).split("\n    ") for block in re.findall(r"(?:^ {4}.*\n)+", section, re.M)]


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    """Where the reader sits: the files that the section describes, below VQR1_DATA."""
    ratings, declaration, commands = blocks()
    assert "ratings.csv" in ratings[0] and "dataset.yaml" in declaration[0]
    folder = tmp_path / "data" / "mine"
    (folder / "pictures").mkdir(parents=True)
    (folder / "originals").mkdir()
    rows = [ratings[1]]
    for scene in range(10):
        noise = np.random.default_rng(scene).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        sharp = Image.fromarray(np.kron(noise, np.ones((12, 12, 1), np.uint8)))
        sharp.save(folder / "originals" / f"scene{scene}.png")
        for blur in range(4):
            name = f"scene{scene}_{blur}.png"
            sharp.filter(ImageFilter.GaussianBlur(blur)).save(folder / "pictures" / name)
            part = "train" if scene < 6 else "validation" if scene < 8 else "test"
            rows.append(f"{name},{90 - 20 * blur + 0.3 * scene:.1f},8,scene{scene},{part},scene{scene}.png")
    (folder / "ratings.csv").write_text("\n".join(rows) + "\n")
    (folder / "dataset.yaml").write_text("\n".join(declaration) + "\n")
    monkeypatch.chdir(tmp_path)
    for key, value in {**environment(), "VQR1_DATA": str(tmp_path / "data")}.items():
        monkeypatch.setenv(key, value)
    return tmp_path, [shlex.split(line)[1:] for line in "\n".join(commands).splitlines() if line]


def test_the_documented_way_trains_and_rates(at_home):
    folder, commands = at_home
    assert [words[0] for words in commands] == ["data", "data", "train", "evaluate", "train", "evaluate"]
    for words in commands[:4]:
        done = forked(words)
        assert done.returncode == 0, (words, done.stderr[-3000:])
    assert (folder / "mine.png").is_file()
    summary = json.loads((folder / "runs" / "trial" / "summary.json").read_text())
    assert summary["final"]["mine_test"]["n"] == 8
    assert "mine" in done.stdout and "SRCC" in done.stdout

    # The real run needs weights: here it is composed only.
    done = forked([*commands[4], "--cfg", "job"])
    assert done.returncode == 0
    assert "path: Qwen/Qwen2.5-VL-7B-Instruct" in done.stdout and "- mine" in done.stdout
    assert commands[4] == ["train", "data=mine", "policy=qwen2_5_vl_7b", "name=mine"]
    assert commands[5] == [word.replace("trial", "mine") for word in commands[3]]
