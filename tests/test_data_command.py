"""``vqr1 data``: what it prints, what it finds, and its exit code."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.support.miniatures import MINIATURES, bapps, kadid10k, lines, picture
from vqr1.data import DATASETS, read_dataset
from vqr1.data.command import run
from vqr1.data.contact_sheet import contact_sheet, spread_over
from vqr1.data.sample import Sample
from vqr1.data.splits import split_hash
from vqr1.errors import UserError


def checked(capsys, *words) -> tuple[int, str]:
    code = run(["check", *words])
    return code, capsys.readouterr().out


def test_the_list_has_every_dataset_with_size_orientation_and_licence(capsys):
    assert run(["list"]) == 0
    text = capsys.readouterr().out
    for name, spec in DATASETS.items():
        assert f"\n{name}: {spec.title}\n  {spec.size} pictures" in "\n" + text
        assert spec.licence in text
    assert (
        "csiq: CSIQ\n  866 pictures, 0 to 1, in the file LOWER is better, turned round on reading; spread: std" in text
    )
    assert "one scale to each scene; spread: none; for testing only" in text
    assert "1199 pictures, scale as published, higher" in text
    assert "bapps: BAPPS" in text


def test_a_sound_set_passes_and_its_split_is_named(capsys, tmp_path, sized):
    kadid10k(tmp_path / "kadid10k", references=20)
    sized("kadid10k", 200)
    code, text = checked(capsys, "kadid10k", f"--root={tmp_path}")
    assert code == 0, text
    assert "found        labels dmos.csv, pictures images/" in text
    assert "rows         200 of 200 published" in text
    assert "scores       1.3 to 4.2 after reading, higher is better; spread 0.5 to 0.5" in text
    assert "mean correlation -1.00 over 40 series" in text
    splits = read_dataset("kadid10k", tmp_path)
    assert f"split        official, {split_hash(splits)}: train 140 (14 references), validation 50 (5 ref" in text
    assert "pictures     200 opened, 0 unreadable" in text
    assert text.endswith("all is well\n")


@pytest.mark.parametrize("name", [name for name in MINIATURES if name != "live"])
def test_every_miniature_can_be_checked(name, capsys, tmp_path):
    MINIATURES[name](tmp_path / name)
    code, text = checked(capsys, name, f"--root={tmp_path}")
    problems = [line for line in text.splitlines() if "PROBLEM" in line]
    assert code == 1
    assert all("rows where" in line or "part is empty" in line for line in problems), problems


def test_missing_and_unreadable_pictures_and_another_version(capsys, tmp_path):
    folder = kadid10k(tmp_path / "kadid10k")
    for level in range(1, 6):
        (folder / "images" / f"I01_01_{level:02}.png").unlink()
    (folder / "images" / "I02_01_01.png").write_bytes(b"\x89PNG")
    whole = picture(folder / "whole.jpg").read_bytes()
    (folder / "images" / "I02_01_02.png").write_bytes(whole[: len(whole) // 2])
    (folder / "images" / "I03_02_05.png").unlink()
    code, text = checked(capsys, "kadid10k", f"--root={tmp_path}")
    assert code == 1
    assert "dmos.csv, line 2: " in text and "I01_01_01.png is missing; unpack the whole archive there" in text
    assert "... and 1 more of this kind" in text
    assert "24 rows where 10125 were published" in text
    for name in ("I02_01_01.png", "I02_01_02.png"):
        assert f"PROBLEM      kadid10k/{name}: " in text and "replace the file or leave it out" in text
    assert "22 opened, 2 unreadable" in text


def test_the_same_pixels_under_two_names(capsys, tmp_path, sized):
    folder = kadid10k(tmp_path / "kadid10k", references=8)
    sized("kadid10k", 80)
    images = folder / "images"
    shutil.copy(images / "I01_01_01.png", images / "I01_01_02.png")  # within a group
    Image.open(images / "I01_02_01.png").save(images / "I02_02_01.png", compress_level=0)  # other bytes, other group
    shutil.copy(images / "I01_02_02.png", images / "I07_02_02.png")  # I07 is a validation reference
    code, text = checked(capsys, "kadid10k", f"--root={tmp_path}")
    assert code == 1
    assert "duplicates   2 of different content, 1 within a group" in text
    assert "I01_02_01.png and kadid10k/I02_02_01.png are the same picture, rated 4.1 and 4.1; drop one" in text
    assert (
        "kadid10k/I07_02_02.png are the same picture, in train and in validation; what is trained on would be" in text
    )


def test_pictures_of_one_colour_are_no_duplicates(capsys, tmp_path):
    folder = kadid10k(tmp_path / "kadid10k")
    for name in ("I01_01_01.png", "I02_01_01.png"):
        Image.new("RGB", (32, 32), "grey").save(folder / "images" / name)
    _, text = checked(capsys, "kadid10k", f"--root={tmp_path}")
    assert "pictures     30 opened, 0 unreadable, 2 of one colour" in text
    assert "duplicates   0 of different content, 0 within a group" in text


def test_pictures_that_two_sets_share(capsys, tmp_path):
    kadid10k(tmp_path / "kadid10k")
    MINIATURES["spaq"](tmp_path / "spaq")
    for i in (1, 2):
        shutil.copy(
            tmp_path / "kadid10k" / "images" / f"I01_01_0{i}.png", tmp_path / "spaq" / "TestImage" / f"0000{i}.jpg"
        )
    code, text = checked(capsys, "kadid10k", "spaq", f"--root={tmp_path}")
    assert code == 1
    assert "PROBLEM kadid10k and spaq share 2 pictures, such as " in text
    assert "do not train on one and test on the other" in text


def test_one_kinds_scores_under_anothers_name(capsys, tmp_path):
    labels = kadid10k(tmp_path / "kadid10k") / "dmos.csv"
    header, *rows = labels.read_text().splitlines()
    first = {row[:3] + row[6:9]: row.split(",")[2] for row in rows if "_01_" in row[:7]}
    cut = [row.split(",") for row in rows]
    lines(labels, header, *(f"{a},{b},{first[a[:3] + a[6:9]]},{var}" for a, b, _, var in cut))
    _, text = checked(capsys, "kadid10k", f"--root={tmp_path}")
    assert "kinds 01 and 02 have the same scores throughout; one has the labels of the other" in text


def test_an_empty_part_is_a_problem(capsys, tmp_path):
    MINIATURES["bid"](tmp_path / "bid")
    _, text = checked(capsys, "bid", f"--root={tmp_path}", "--ratio=1,0,0")
    assert "the test part is empty; give more groups, or another --ratio or --seed" in text


def test_seed_and_ratio_divide_anew(capsys, tmp_path):
    MINIATURES["spaq"](tmp_path / "spaq")
    hashes = set()
    for words in ([], ["--seed=1"], ["--seed=2"], ["--ratio=5,0,5"], []):
        _, text = checked(capsys, "spaq", f"--root={tmp_path}", *words)
        hashes.add(text.split("split        content, ")[1][:16])
    assert len(hashes) == 4


def test_a_set_that_cannot_be_read_does_not_keep_others_from_being_checked(capsys, tmp_path):
    kadid10k(tmp_path / "kadid10k")
    code, text = checked(capsys, "spaq", "kadid10k", f"--root={tmp_path}")
    assert code == 1
    assert "PROBLEM      spaq: " in text and "To get it: " in text
    assert "pictures     30 opened" in text


def test_pairs_are_checked(capsys, tmp_path):
    folder = bapps(tmp_path / "bapps")
    code, text = checked(capsys, "bapps", f"--root={tmp_path}")
    assert (code, "train        3 pairs (traditional), second preferred by 47%" in text) == (0, True)
    (folder / "2afc" / "val" / "cnn" / "p0" / "000000.png").write_bytes(b"")
    assert checked(capsys, "bapps", f"--root={tmp_path}")[0] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "spaq", "root=x"], "root=x is no name of a dataset; options are written --root x"),
        (["show", "seed=1"], "seed=1 is no name of a dataset; options are written --seed 1"),
        (["check", "spaq", "--ratio", "6,two"], "--ratio 6,two: .*write --ratio 6,2,2"),
        (["check", "spaq", "--ratio", "6,2"], "give three shares"),
    ],
)
def test_wrong_words_are_refused(words, message):
    with pytest.raises(UserError, match=message):
        run(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check"], "the following arguments are required: NAME"),
        (["show", "a", "b"], "unrecognized arguments: b"),
        (["check", "spaq", "--rot", "x"], "unrecognized arguments: --rot x"),
        (["check", "spaq", "--seed", "one"], "argument --seed: invalid int value: 'one'"),
        (["list", "spaq"], "unrecognized arguments: spaq"),
        (["chekc", "spaq"], "invalid choice: 'chekc'"),
    ],
)
def test_what_is_no_option_is_refused(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        run(words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_sheet_that_cannot_be_written_is_refused(tmp_path):
    MINIATURES["spaq"](tmp_path / "spaq")
    for out in (tmp_path / "sheet.xyz", tmp_path / "nowhere" / "sheet.png"):
        with pytest.raises(UserError, match=f"--out {out}: .*; give a file such as spaq.png"):
            run(["show", "spaq", f"--root={tmp_path}", "--count=4", f"--out={out}"])


def test_the_root_comes_from_the_environment(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("VQR1_DATA", str(tmp_path))
    kadid10k(tmp_path / "kadid10k")
    assert f"kadid10k in {tmp_path / 'kadid10k'}" in checked(capsys, "kadid10k")[1]


def rated(count):
    return [Sample(f"{i}.png", float(i * i), None, "set", str(i), f"set/{i}") for i in range(count)]


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [(11, 3, [0, 5, 10]), (11, 11, list(range(11))), (4, 9, [0, 1, 2, 3]), (11, 1, [5]), (0, 3, [])],
)
def test_the_sheet_goes_over_the_whole_range(total, count, expected):
    chosen = spread_over(rated(total)[::-1], count)
    assert [int(sample.group) for sample in chosen] == expected


def test_a_contact_sheet_shows_the_pictures_worst_first(capsys, tmp_path):
    MINIATURES["spaq"](tmp_path / "spaq")
    for i, colour in ((1, "red"), (10, "blue")):
        Image.new("RGB", (400, 300), colour).save(tmp_path / "spaq" / "TestImage" / f"{i:05}.jpg", quality=100)
    out = tmp_path / "sheet.png"
    assert run(["show", "spaq", f"--root={tmp_path}", "--count=4", f"--out={out}"]) == 0
    sheet = np.asarray(Image.open(out).convert("RGB")).astype(int)
    red = np.argwhere((sheet[..., 0] > 200) & (sheet[..., 2] < 60))
    blue = np.argwhere((sheet[..., 2] > 200) & (sheet[..., 0] < 60))
    assert len(red) > 20000 and len(blue) > 20000
    assert red[:, 1].max() < blue[:, 1].min()  # one row of four: the worst is on the left


def test_a_sheet_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="empty: no pictures to show"):
        contact_sheet([], "empty")
    MINIATURES["sriqa"](tmp_path / "sriqa")
    with pytest.raises(ValueError, match="--part trian: choose from train, validation, test, all"):
        run(["show", "sriqa", f"--root={tmp_path}", "--part=trian"])
    with pytest.raises(ValueError, match="--count 0: set it to 1 or more"):
        run(["show", "sriqa", f"--root={tmp_path}", "--count=0"])


def test_the_command_as_a_process(tmp_path):
    command, words = [sys.executable, "-m", "vqr1", "data"], ["spaq", f"--root={tmp_path}"]
    done = subprocess.run([*command, "check", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "To get it" in done.stdout
    done = subprocess.run([*command, "show", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("vqr1 data: spaq: ")
