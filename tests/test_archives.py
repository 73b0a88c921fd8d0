"""Archives as people unpack, copy and complete them: what is read all the same, and what is refused in which words."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from tests.support.miniatures import MINIATURES, bapps, bid, lines, picture, pipal, spaq, xlsx
from tests.test_declared import ROWS, declare
from vqr1.config import Config, DataConfig
from vqr1.data import DATASETS, read_dataset
from vqr1.data.bapps import read_bapps
from vqr1.training.run_data import read_data

SPAQ_STD = "MOS Std and Image attribute scores.xlsx"


@pytest.mark.parametrize("name", MINIATURES)
def test_what_a_mac_leaves_behind_is_nobodys(name, tmp_path):
    """Every file has a twin with a name that begins with ``._``, and ``__MACOSX`` holds them once more."""
    folder = MINIATURES[name](tmp_path / name)
    before = read_dataset(name, tmp_path)
    for file in [file for file in folder.rglob("*") if file.is_file()]:
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        \0\2\0\0\0\xb0")
        twin = folder / "__MACOSX" / file.relative_to(folder)
        twin.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, twin)
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    assert read_dataset(name, tmp_path) == before


def test_what_a_mac_leaves_behind_is_no_pair(tmp_path):
    judge = bapps(tmp_path / "bapps") / "2afc" / "train" / "traditional" / "judge"
    (judge / "._000000.npy").write_bytes(b"\0\5\x16\7")
    assert len(read_bapps(tmp_path / "bapps")["train"]) == 3


@pytest.mark.parametrize("name", ["._a.png", ".hidden/a.png", "__MACOSX/a.png"])
def test_a_row_that_names_what_a_mac_leaves_behind_is_named(name, tmp_path):
    folder = declare(tmp_path, ROWS[0], f"{name},3,0.5,x,train") / "mine"
    picture(folder / "pictures" / name)
    with pytest.raises(ValueError, match=r"ratings.csv, line 2: .* leaves behind, and no picture; drop the row"):
        read_dataset("mine", tmp_path)


def test_spaqs_standard_deviations_are_read_where_they_are(tmp_path):
    folder = spaq(tmp_path / "spaq")
    rows = [[f"{i:05}.jpg", 10 + 7.5 * i, 12.5, 50] for i in range(1, 11)]
    xlsx(folder / "Annotations" / SPAQ_STD, ["Image  name", "MOS", "MOS_std ", "Brightness"], *rows)
    splits = read_dataset("spaq", tmp_path)
    assert {sample.mos_std for sample in splits.all()} == {12.5}
    assert "columns MOS and MOS_std, a std" in splits.notes[0]
    xlsx(folder / "Annotations" / SPAQ_STD, ["Image name", "MOS", "Brightness"], ["00001.jpg", 50, 50])
    with pytest.raises(ValueError, match=r"Std and .*xlsx: columns .*'Brightness'\], expected one of standard dev.*"):
        read_dataset("spaq", tmp_path)


def test_a_declaration_of_a_published_set_is_refused_with_a_place_where_it_works(tmp_path):
    folder = spaq(tmp_path / "spaq")
    (folder / "dataset.yaml").write_text("form: csv\n")
    with pytest.raises(ValueError, match=rf"spaq/dataset.yaml would not be read: .* such as {tmp_path / 'my_spaq'}, "):
        read_dataset("spaq", tmp_path)


@pytest.mark.parametrize(("score", "read"), [("100.00000000000001", 100.0), ("-1e-14", 0.0)])
def test_what_float_arithmetic_leaves_beyond_a_range_is_its_end(score, read, tmp_path):
    labels = MINIATURES["sriqa"](tmp_path / "sriqa") / "MOS" / "x1.txt"
    text = labels.read_text()
    labels.write_text(text.replace(",20\n", f",{score}\n"))
    found = {sample.mos for sample in read_dataset("sriqa", tmp_path).all() if sample.group == "x1"}
    assert found == {0.0, 10.0, read}
    labels.write_text(text.replace(",20\n", ",100.001\n"))
    with pytest.raises(ValueError, match=r"x1.txt, line 3: score 100.001 is outside 0 to 100"):
        read_dataset("sriqa", tmp_path)


@pytest.mark.parametrize("labels", ["DatabaseGrades.xls", "DatabaseGrades.xlsx"])
@pytest.mark.parametrize("within", ["beside", "in"])
def test_bids_pictures_in_their_own_folder(labels, within, tmp_path):
    expected = read_dataset("bid", bid(tmp_path / "one" / "bid").parent).all()
    folder = bid(tmp_path / "two" / "bid")
    if labels.endswith("x"):
        import xlrd

        sheet = xlrd.open_workbook(folder / "DatabaseGrades.xls").sheet_by_index(0)
        xlsx(folder / labels, *(sheet.row_values(i) for i in range(sheet.nrows)))
        (folder / "DatabaseGrades.xls").unlink()
    inner = folder / "ImageDatabase"
    inner.mkdir()
    for file in folder.glob("*.JPG" if within == "beside" else "*.*"):
        file.rename(inner / file.name)
    found = read_dataset("bid", folder.parent).all()
    assert [(s.image_id, s.mos, s.mos_std) for s in found] == [(s.image_id, s.mos, s.mos_std) for s in expected]
    assert all(Path(s.image).parent == inner for s in found)


@pytest.mark.parametrize("inside", ["PIPAL", "PIPAL/training", "Train_Label"])
def test_pipal_one_folder_deeper_says_what_to_move(inside, tmp_path):
    made = pipal(tmp_path / "made")
    if inside == "Train_Label":
        target = tmp_path / "pipal" / inside
        (made / "Train_Label").rename(made / "inner")
        (made / inside).mkdir()
        (made / "inner").rename(made / inside / inside)
        made.rename(tmp_path / "pipal")
        inner = target / inside
    else:
        target = tmp_path / "pipal"
        inner = target / inside
        inner.parent.mkdir(parents=True)
        made.rename(inner)
    with pytest.raises(FileNotFoundError, match=rf"move the contents of {inner} to {target}\n"):
        read_dataset("pipal", tmp_path)


def test_a_readme_is_no_label_file(tmp_path):
    folder = MINIATURES["liu13"](tmp_path / "liu13")
    (folder / "readme.txt").write_text("Thank you.\nThis is a data set of 3\nYear 2013\n")
    assert len(read_dataset("liu13", tmp_path).all()) == 8
    (folder / "liu13.txt").rename(folder / "any name.txt")
    assert len(read_dataset("liu13", tmp_path).all()) == 8
    (folder / "any name.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"liu13/liu13.txt is missing\n"):
        read_dataset("liu13", tmp_path)


def test_live_says_that_the_realigned_scores_are_a_download_of_their_own(tmp_path):
    (tmp_path / "live").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"dmos_realigned.mat is missing\n.*dmos_realigned.mat is a separate down"
    ):
        read_dataset("live", tmp_path)


def test_flive_names_where_its_label_files_are():
    assert "from the folder database of the repository github.com/baidut/PaQ-2-PiQ" in DATASETS["flive"].fetch


@pytest.mark.parametrize("name", ["kadid10k", "mine"])
def test_a_root_or_a_set_that_is_a_file_is_named(name, tmp_path):
    (tmp_path / "root").touch()
    with pytest.raises(ValueError, match=rf"the root of the datasets, {tmp_path / 'root'}, is a file; set VQR1_DATA"):
        read_dataset(name, tmp_path / "root")
    (tmp_path / "kadid10k").touch()
    with pytest.raises(ValueError, match=r"kadid10k is a file; kadid10k is read from a folder of this name"):
        read_dataset("kadid10k", tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("kadid10k", "dmos.csv", "dist_img,ref_img,dmos,var\n"),
        ("kadid10k", "dmos.csv", ""),
        ("liu13", "liu13.txt", ""),
        ("pipal", "Train_Label/A0001.txt", ""),
        ("spaq", "Annotations/MOS and Image attribute scores.xlsx", None),
    ],
)
def test_a_label_file_without_rows_is_named(name, file, content, tmp_path):
    labels = MINIATURES[name](tmp_path / name) / file
    for other in labels.parent.glob("*.txt"):
        other.write_text("")
    xlsx(labels, ["Image name", "MOS"]) if content is None else labels.write_text(content)
    with pytest.raises(
        ValueError, match=rf"{name}.*(no rows \(labels {labels.parts[-1][:4]}|no rows \(labels Train|columns \[\])"
    ):
        read_dataset(name, tmp_path)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_name_in_either_unicode_form_is_found_and_its_scene_is_one(form, tmp_path):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    scene, name = "caf\u00e9", "\u00e9t\u00e9"
    rows = [f"{name}{i}.png,{1 + i},0.5,{scene},train" for i in range(2)]
    rows = [unicodedata.normalize("NFC", rows[0]), unicodedata.normalize("NFD", rows[1])]
    folder = declare(tmp_path, ROWS[0], *rows) / "mine"
    for file in list((folder / "pictures").rglob("*.png")):
        file.unlink()
    for i in range(2):
        picture(folder / "pictures" / unicodedata.normalize(other, f"{name}{i}.png"))
    assert len(read_dataset("mine", tmp_path).all()) == 2
    assert len({sample.group for sample in read_dataset("mine", tmp_path).all()}) == 1


def own(root: Path, name: str, part: str, images: str = "pictures") -> Path:
    """Eight rated pictures, all in one part."""
    folder = root / name
    for i in range(8):
        picture(root / "first" / "pictures" / f"{i}.png")
    lines(folder / "ratings.csv", "file,score,part", *(f"{i}.png,{1 + 0.4 * i},{part}" for i in range(8)))
    (folder / "dataset.yaml").write_text(
        f"form: csv\nlabels: ratings.csv\nimages: {images}\nhigher_is_better: true\nrange: [1, 5]\nspread: none\n"
        "group: image\ncolumns: {image: file, mos: score, part: part}\n"
    )
    return folder


@pytest.mark.parametrize("way", ["declared", "linked"])
def test_a_picture_that_two_sets_share_is_in_one_part_of_the_run(way, tmp_path):
    own(tmp_path, "first", "train")
    second = own(tmp_path, "second", "test", "../first/pictures" if way == "declared" else "pictures")
    if way == "linked":
        (second / "pictures").symlink_to(tmp_path / "first" / "pictures")
    config = Config(data=DataConfig(root=str(tmp_path), train=["first"], test=["second"]))
    with pytest.raises(
        ValueError, match=r"first/0.png \(train\) and second/0.png \(test\) are one picture file.* 8 such"
    ):
        read_data(config)
    own(tmp_path, "second", "train", "../first/pictures" if way == "declared" else "pictures")
    config.data.train, config.data.test = ["first", "second"], []
    assert len(read_data(config).train) == 16
