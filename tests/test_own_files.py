"""Files of one's own as people and programs really leave them: read right, or refused with file, line and remedy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.miniatures import json_rows, picture
from vqr1.data import find_spec, read_dataset, reading
from vqr1.data.command import run
from vqr1.data.labels import LabelRow
from vqr1.data.reading import PictureFiles
from vqr1.data.sample import Sample
from vqr1.errors import UserError

DECLARATION = """form: csv
labels: ratings.csv
images: pictures
higher_is_better: true
range: [1, 5]
spread: none
group: image
columns: {image: file, mos: score}
"""
NAMES = [f"p{i}.png" for i in range(6)]
SCORES = [1.5, 2, 2.5, 3, 3.5, 4.125]


def made(root: Path, text: str | None = None, encoding: str = "utf-8", **changes: str) -> Path:
    """A set called mine; ``changes`` replace lines of the declaration by their keys."""
    folder = root / "mine"
    for name in NAMES:
        picture(folder / "pictures" / name)
    text = table() if text is None else text
    (folder / "ratings.csv").write_bytes(text.encode(encoding))
    lines = {line.partition(":")[0]: line for line in DECLARATION.splitlines()}
    lines |= {key: f"{key}: {value}" for key, value in changes.items()}
    (folder / "dataset.yaml").write_text("\n".join(lines.values()) + "\n")
    return folder


def table(separator: str = ",", comma: bool = False, header: str = "file{}score", last: str = "") -> str:
    scores = [str(score).replace(".", ",") if comma else str(score) for score in SCORES]
    scores = [f'"{score}"' if comma and separator == "," else score for score in scores]
    rows = [f"{name}{separator}{score}" for name, score in zip(NAMES, scores, strict=True)]
    return "\n".join([header.format(separator), *rows, last]) + "\n"


def found(root: Path) -> dict[str, Sample]:
    return {sample.image_id.partition("/")[2]: sample for sample in read_dataset("mine", root).all()}


def scores(root: Path) -> list[float]:
    samples = found(root)
    return [samples[name].mos for name in NAMES]


def refused(root: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_dataset("mine", root)
    assert "authors" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (table(), "utf-8-sig"),
        (table(), "utf-16"),
        (table(), "utf-32"),
        (table(";", comma=True), "utf-8-sig"),
        (table(";"), "utf-8"),
        (table("\t"), "utf-16"),
        (table("; ", header='"file"; "score"'), "utf-8"),
        ("sep=;\n" + table(";", comma=True), "utf-8"),
        (table(header="file, score"), "utf-8"),
        (table().replace("\n", "\r\n"), "utf-8"),
        (table().replace("\n", "\r"), "utf-8"),
        (table(last=",\n,"), "utf-8"),
        (table(header="file,score,,").replace("4.125", "4.125,,"), "utf-8"),
        (table(header="file,note,score").replace("png,", f'png,"{"long " * 40000}",'), "utf-8"),
    ],
)
def test_csv_files_as_spreadsheets_save_them(tmp_path, text, encoding):
    made(tmp_path, text, encoding)
    assert scores(tmp_path) == SCORES


@pytest.mark.parametrize("separator", [",", "\t"])
def test_decimal_commas_beside_other_separators(tmp_path, separator):
    made(tmp_path, table(separator, comma=True).replace("4,125", "4,12"))
    assert scores(tmp_path) == [*SCORES[:-1], 4.12]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # 4,125 between commas or tabs may be four thousand; 3.5 beside 2,5 may be either.
        (table(comma=True), "line 2: score '1,5' must be a number, with a decimal point in the whole column"),
        (table("\t", comma=True), "line 2: score '1,5' must be a number, with a decimal point in the whole column"),
        ("sep=|\n" + table("|", comma=True), "line 3: score '1,5' must be a number, with a decimal point in the whole"),
        (table(";", comma=True).replace("3,5", "3.5"), "line 2: score '1,5' must be a number, with a decimal point"),
        (
            table("|"),
            r"ratings.csv: columns \['file\|score'\], expected \['file', 'score'\]; correct columns: in dataset",
        ),
        (table().replace("2.5", "TRUE"), "line 4: score 'TRUE' must be a number"),
        (table().replace("2.5", "2_5"), "line 4: score '2_5' must be a number"),
        (table().replace("2.5", "12e4567"), r"line 4: mos inf is outside 1 to 5; correct the row, or range: in mine/"),
        (table().replace("2.5", "nan"), "line 4: mos nan is outside 1 to 5; correct the row"),
        (table().replace("2.5", ""), "line 4: score '' must be a number"),
        (table().replace("p3.png", '"p3.png'), "line 5: a quote that is opened here is not closed"),
        (table().replace("file", '"file'), "line 1: a quote that is opened here is not closed"),
        (
            table().replace("p3.png", '"p3.png').replace("p5.png", 'p5.png"'),
            "line 5: a quote that is opened here goes on",
        ),
        (table().replace("p3", '"' + "x" * 200_000), "line 5: a quote that is opened here is not closed"),
        (table().replace("p3", "p\0"), "ratings.csv, line 5: a zero byte, which no text holds"),
        (table().replace("p3.png", "."), r"line 5: '.' is no name of a picture; give a path below"),
        (
            table().replace("p3", "x" * 300),
            r"line 5: .*xxx... cannot be read .File name too long.; give a picture file",
        ),
        (table().replace("p3", "x" * 5000), r"line 5: .*xxx... cannot be read .File name too long.; give a picture"),
        (table().replace("p3.png,3", "p3.png,3,2"), "line 5: more values than columns"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(tmp_path, text, message):
    made(tmp_path, text)
    refused(tmp_path, message)


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("latin-1", "ratings.csv, line 5: 0xe9 is not text in UTF-8 .*; save the file as UTF-8"),
        ("utf-16-le", "ratings.csv, line 1: a zero byte, which no text holds; save the file as UTF-8"),
    ],
)
def test_an_encoding_that_nothing_tells_is_named_with_its_line(tmp_path, encoding, message):
    made(tmp_path, table().replace("p3", "é" if encoding == "latin-1" else "p3"), encoding)
    refused(tmp_path, message)
    made(tmp_path)
    (tmp_path / "mine" / "dataset.yaml").write_bytes(DECLARATION.encode() + b"# \xe9\n")
    refused(tmp_path, "dataset.yaml, line 9: 0xe9 is not text in UTF-8")


PARTS = {
    "train": ("Train", "0.0", " TRAINING"),
    "validation": ("val", "Valid", "1.00"),
    "test": ("TEST", "2", "testing"),
}


def test_parts_are_read_in_every_spelling(tmp_path):
    words = [word for part in PARTS.values() for word in part]
    names = [f"q{i}.png" for i in range(len(words))]
    rows = [f"{name},{2 + i / 8},{word}" for i, (name, word) in enumerate(zip(names, words, strict=True))]
    folder = made(tmp_path, "\n".join(["file,score,part", *rows]), columns="{image: file, mos: score, part: part}")
    for name in names:
        picture(folder / "pictures" / name)
    assert {part: len(samples) for part, samples in read_dataset("mine", tmp_path).parts().items()} == dict.fromkeys(
        PARTS, 3
    )
    (folder / "ratings.csv").write_text("file,score,part\nq0.png,3,dev\n")
    refused(
        tmp_path, r"line 2: part 'dev'; use train, validation or test .train, training, 0; validation, valid, val, 1;"
    )


@pytest.mark.parametrize("word", ["nan", "NaN", "<NA>", "None", "#N/A", " "])
def test_a_group_that_stands_for_nothing_joins_no_pictures(tmp_path, word):
    text = table(header="file,score,scene").replace("\n", ",park\n").replace("scene,park", "scene")
    columns = "{image: file, mos: score, group: scene}"
    made(tmp_path, text.replace("2.5,park", f"2.5,{word}").replace("\n,park", ""), group="reference", columns=columns)
    refused(tmp_path, r"ratings.csv, line 4: (group .* stands for a value that is missing|scene is empty)")


@pytest.mark.parametrize("value", [True, False, None, "", 10**400, [3]])
def test_a_truth_of_a_spreadsheet_is_no_score(value):
    with pytest.raises(UserError, match="line 3: mos .* must be a number; correct or drop the row"):
        LabelRow({"mos": value}, "line 3").number("mos")


def test_a_pattern_whose_bracket_finds_nothing_is_refused(tmp_path):
    made(tmp_path, group="'^(x?)'")
    refused(tmp_path, r"line 2: p0.png does not fit the pattern")


def test_stds_that_no_ratings_have_are_refused(tmp_path):
    text = "file,score,sd\n" + "".join(f"{name},3,{{}}\n" for name in NAMES)
    columns = "{image: file, mos: score, spread: sd}"
    most = 4 / 2**0.5  # of two ratings, 1 and 5, divided by n - 1
    made(tmp_path, text.replace("{}", f"{most:.15g}"), spread="std", columns=columns)
    assert found(tmp_path)["p0.png"].mos_std == pytest.approx(most)
    made(tmp_path, text.replace("{}", "2.9"), spread="std", columns=columns)
    refused(tmp_path, r"line 2: no ratings within 1 to 5 have a std of 2.9, at most 2.83; is the spread .* a variance")
    made(tmp_path, text.replace("{}", "8"), spread="variance", columns=columns)
    assert found(tmp_path)["p0.png"].mos_std == pytest.approx(8**0.5)
    made(tmp_path, text.replace("{}", "8.2"), spread="variance", columns=columns)
    refused(tmp_path, r"line 2: no ratings within 1 to 5 have a std of 2.86")
    made(tmp_path, text.replace("{}", "800"), spread="std", columns=columns, range="[1, null]")
    assert found(tmp_path)["p0.png"].mos_std == 800


@pytest.mark.parametrize("limits", ["[0, null]", "[0, .inf]", "[-.inf, .inf]", "[~, 5]", "[1e0, 05]"])
def test_a_range_may_be_open(tmp_path, limits):
    made(tmp_path, range=limits)
    assert scores(tmp_path) == SCORES
    if limits != "[1e0, 05]":
        made(tmp_path, range=limits, higher_is_better="false")
        refused(tmp_path, "an open one has none: give both ends, or negate the scores in the file")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"range": "[1, .nan]"}, "line 5, range: range must be .low, high., two numbers"),
        ({"range": "[5, 1]"}, "line 5, range: range must be .low, high., the lower number first"),
        ({"range": "[true, 5]"}, "line 5, range: range must be .low, high., two numbers"),
        ({"range": "[1, 0x10]"}, "line 5, range: range must be .low, high., two numbers"),
        ({"range": "[1, 1:30]"}, "line 5, range: range must be .low, high., two numbers"),
        ({"higher_is_better": "1"}, "line 4, higher_is_better: true or false is expected"),
        ({"labels": "[ratings.csv]"}, "line 2, labels: Input should be a valid string"),
        ({"group": "'(a{99999999999})'"}, "group: .*"),
        ({"labels": "x" * 5000}, r"cannot be read .File name too long.; correct labels: in"),
        ({"labels": '"a\\0b"'}, r"has a name that no file can have; correct labels: in"),
        ({"labels": "pictures"}, r"pictures is a folder, not a regular file; correct labels: in .*dataset.yaml"),
        ({"images": "ratings.csv"}, r"ratings.csv is a file, not a folder; correct images: in .*dataset.yaml"),
        ({"labels": "/proc/self/mem"}, r"/proc/self/mem cannot be read .Input/output error."),
        ({"labels": "/dev/zero"}, r"/dev/zero is a device, not a regular file; correct labels: in"),
        ({"title": '"\\ud800"'}, "dataset.yaml: .*surrogates not allowed"),
        ({"title": '"\\UFFFFFFFF"'}, "dataset.yaml: "),
        ({"title": "a\ntitle: b"}, "dataset.yaml, line 10: title is there twice"),
        ({"title": "[" * 10_000}, "dataset.yaml: lists within lists, too many to read"),
        ({"title": "x" * 70_000}, "dataset.yaml has 70.* bytes, and 16000 are the most"),
        ({"title": "&a [*a]"}, r"line 9: an alias .\*name.; write the value itself"),
        ({"x": "&a [x, x]\ny: &b [*a, *a]\nz: [*b, *b]"}, r"line 10: an alias .\*name.; write the value itself"),
        ({"? [a]\n": ""}, "line 9: a key that is no text|expected"),
    ],
)
def test_a_declaration_that_cannot_be_read_is_named_with_its_line(tmp_path, changes, message):
    made(tmp_path, **changes)
    refused(tmp_path, message)


@pytest.mark.parametrize("name", ["12e4567", "1.e+5", "true", "0123", "no", "1:30"])
def test_a_name_that_yaml_would_read_as_something_else_is_a_text(tmp_path, name):
    folder = made(tmp_path, columns=f"{{image: file, mos: {name}}}", labels=name, title=name)
    (folder / "ratings.csv").unlink()
    (folder / name).write_text(table(header=f"file,{name}"))
    assert scores(tmp_path) == SCORES
    assert find_spec("mine", tmp_path).title == name


@pytest.mark.parametrize(
    ("field", "value"),
    [("image", 7), ("image", [True]), ("image", ["\ud800.png"]), ("image", {}), ("dataset_name", 12), ("mos", True),
     ("mos", [3]), ("mos", None), ("mos", 10**400), ("mos", "3,5")],
)  # fmt: skip
def test_json_names_are_texts_and_scores_numbers(tmp_path, field, value):
    import json

    folder = made(tmp_path, form="json_lines", labels="rows.jsonl", columns="null")
    json_rows(folder / "rows.jsonl", *[("set", name, score) for name, score in zip(NAMES, SCORES, strict=True)])
    assert scores(tmp_path) == SCORES
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    if field == "mos":
        rows[2]["conversations"][-1]["value"] = value
    else:
        rows[2][field] = value
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused(tmp_path, r"rows.jsonl, line 3: .*correct or drop the row")


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, '{"image": "a", "image": "b"}', "7", "null", '"text"'])
def test_json_that_is_no_row_is_named(tmp_path, text):
    folder = made(tmp_path, form="json_lines", labels="rows.jsonl", columns="null")
    (folder / "rows.jsonl").write_text(f"\n{text}\n")
    refused(tmp_path, r"rows.jsonl, line 2: expected dataset_name, image and conversations .*; correct or drop the row")


@pytest.mark.parametrize("name", ["dataset.yaml", "ratings.csv", "pictures/p3.png"])
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path, name):
    folder = made(tmp_path)
    target = folder / name
    for make, why in [
        (os.mkfifo, "is a named pipe, not a regular file"),
        (os.mkdir, "is a folder, not a regular file"),
        (lambda path: path.symlink_to("gone"), "is a symbolic link to gone, which is not there"),
        (lambda path: path.symlink_to(path), "is a symbolic link that leads back to itself"),
    ]:
        target.unlink()
        make(target)
        refused(tmp_path, f"{target.name} {why}")
        target.rmdir() if target.is_dir() else target.unlink()
        target.touch()


def test_a_pipe_under_a_name_of_another_case_is_not_waited_for(tmp_path):
    folder = made(tmp_path)
    (folder / "pictures" / "p3.png").unlink()
    os.mkfifo(folder / "pictures" / "P3.PNG")
    refused(tmp_path, "line 5: .*P3.PNG is a named pipe, not a regular file")


def test_a_set_and_its_files_may_be_links(tmp_path):
    made(tmp_path / "storage")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "mine").symlink_to(tmp_path / "storage" / "mine")
    assert scores(tmp_path / "root") == SCORES
    (tmp_path / "root" / "lost").symlink_to(tmp_path / "gone")
    with pytest.raises(
        UserError, match=r"dataset.yaml is missing, since .*lost is a symbolic link to .*gone, which is"
    ):
        read_dataset("lost", tmp_path / "root")


@pytest.mark.parametrize("name", ["sub/mine", "../mine", "mine/", ".", "..", "", "a\\b"])
def test_a_name_of_a_set_is_one_folder_below_the_root(tmp_path, name):
    made(tmp_path)
    with pytest.raises(UserError, match="is no name of a dataset, which is one folder below the root"):
        read_dataset(name, tmp_path)


@pytest.mark.parametrize("name", ["a\x1b[31m", "a\n", " a", "x" * 300, "\udce9"])
def test_a_name_of_a_set_can_be_printed(tmp_path, name):
    with pytest.raises(UserError, match="is no name of a dataset: at most 255 bytes that can be printed") as caught:
        read_dataset(name, tmp_path)
    assert str(caught.value).isprintable()


def test_names_cannot_steer_the_terminal(tmp_path, capsys):
    hostile = "\x1b]0;pwned\x07\x1b[31mred.png"
    folder = made(tmp_path, table().replace("p0.png", hostile))
    assert run(["check", "mine", f"--root={tmp_path}"]) == 1
    picture(folder / "pictures" / hostile)
    (folder / "pictures" / hostile.upper()).touch()
    run(["check", "mine", f"--root={tmp_path}"])
    out = capsys.readouterr().out
    assert r"\x1b[31mred.png" in out
    assert all(line.isprintable() for line in out.splitlines())


def test_many_names_are_found_as_few_are(tmp_path, monkeypatch):
    """From a listing of each folder, where a stat of each name would take longer."""
    folder = tmp_path / "pictures"
    (folder / "a" / "b.png").mkdir(parents=True)
    for name in ("one.png", "a/two.png", "a/Three.PNG"):
        (folder / name).touch()
    (folder / "link.png").symlink_to(folder / "one.png")
    (folder / "gone.png").symlink_to(folder / "nothing.png")
    (folder / "round.png").symlink_to(folder / "round.png")
    os.mkfifo(folder / "pipe.png")
    names = ["one.png", "a/two.png", "a/three.png", "link.png", "two.png", "c/one.png", "one.png/two.png"]
    names += ["gone.png", "round.png", "pipe.png", "a/b.png", "../one.png"]

    def found():
        files = PictureFiles(folder)
        results = []
        for name in names:
            try:
                results.append(files.path_of(name, "line 1"))
            except UserError as error:
                results.append(str(error))
        return results, files.renamed

    few = found()
    monkeypatch.setattr(reading, "MANY", 1)
    assert found() == few
    paths = [result and Path(result).name for result in few[0][:7]]
    assert paths == ["one.png", "two.png", "Three.PNG", "link.png", None, None, None]
    assert [result.split(" ")[0] for result in few[0][7:]] == ["line"] * 5
