"""Ratings of one's own, and label files in the three common forms."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.support.miniatures import json_rows, lines, picture
from vqr1.data import find_spec, read_dataset
from vqr1.data.sample import Sample

CSV = {
    "form": "csv",
    "labels": "ratings.csv",
    "images": "pictures",
    "higher_is_better": True,
    "range": [0, 10],
    "spread": "std",
    "group": "reference",
    "columns": {"image": "file", "mos": "score", "spread": "sd", "group": "scene", "part": "split"},
}


def declare(root: Path, *labels: str, pictures: tuple[str, ...] = ("a.png", "b.png", "c.png"), **settings) -> Path:
    declaration = {key: value for key, value in {**CSV, **settings}.items() if value is not None}
    lines(root / "mine" / "dataset.yaml", yaml.safe_dump(declaration))
    lines(root / "mine" / declaration["labels"], *labels)
    for name in pictures:
        picture(root / "mine" / "pictures" / name)
    return root


def mine(root: Path) -> dict[str, Sample]:
    return {sample.image_id.partition("/")[2]: sample for sample in read_dataset("mine", root).all()}


ROWS = ("file,score,sd,scene,split", "a.png,9,1.5,park,train", "b.png,4,0.5,park,training", "c.png,1,2,sea,test")


def test_a_csv_with_named_columns(tmp_path):
    splits = read_dataset("mine", declare(tmp_path, *ROWS, title="Mine"))
    assert [[sample.image_id for sample in part] for part in splits.parts().values()] == [
        ["mine/a.png", "mine/b.png"],
        [],
        ["mine/c.png"],
    ]
    first = splits.train[0]
    assert (first.mos, first.mos_std, first.group, first.dataset) == (9, 1.5, "park", "mine")
    assert Path(first.image) == tmp_path / "mine" / "pictures" / "a.png"
    spec = find_spec("mine", tmp_path)
    assert (spec.title, spec.range, spec.split, spec.spread) == ("Mine", (0, 10), "official", "std")


def test_lower_is_better_is_reflected_about_the_middle_of_the_range(tmp_path):
    found = mine(declare(tmp_path, *ROWS, higher_is_better=False))
    assert [found[name].mos for name in ("a.png", "b.png", "c.png")] == [1, 6, 9]


def test_a_variance_becomes_a_standard_deviation(tmp_path):
    assert mine(declare(tmp_path, *ROWS, spread="variance"))["c.png"].mos_std == pytest.approx(2**0.5)


def test_no_spread_each_its_own_group_and_split_by_content(tmp_path):
    columns = {"image": "file", "mos": "score"}
    splits = read_dataset("mine", declare(tmp_path, *ROWS, spread="none", group="image", columns=columns))
    assert splits.division == "content"
    assert {sample.mos_std for sample in splits.all()} == {None}
    assert {sample.group for sample in splits.all()} == {"a.png", "b.png", "c.png"}


def test_groups_by_a_pattern(tmp_path):
    columns = {**CSV["columns"], "part": None}
    found = mine(declare(tmp_path, *ROWS, group=r"^(\w)", columns=columns))
    assert {name: sample.group for name, sample in found.items()} == {"a.png": "a", "b.png": "b", "c.png": "c"}
    with pytest.raises(ValueError, match=r"group is image, reference, or a pattern with one pair of brackets"):
        mine(declare(tmp_path, *ROWS, group="^[ab]"))
    with pytest.raises(ValueError, match=r"ratings.csv, line 4: c.png does not fit the pattern .*; correct group"):
        mine(declare(tmp_path, *ROWS, group="^([ab])"))


def test_all_for_testing(tmp_path):
    columns = {**CSV["columns"], "part": None}
    splits = read_dataset("mine", declare(tmp_path, *ROWS, test_only=True, columns=columns))
    assert (splits.train, splits.validation, len(splits.test)) == ([], [], 3)


@pytest.mark.parametrize(
    ("fields", "rows"),
    [
        (["ref", "dist", "mos", "std"], ["I01.png a.png 4.1 0.7", "I01.png b.png 2.5 0.8", "I02.png c.png 1 1"]),
        (["ref", "dist", "mos"], ["I01.png a.png 4.1", "I01.png b.png 2.5", "I02.png c.png 1"]),
    ],
)
def test_visualqualitys_text_with_references(tmp_path, fields, rows):
    settings = {"form": "visualquality", "fields": fields, "spread": "none", "columns": None}
    found = mine(declare(tmp_path, *rows, **settings))
    assert {name: (sample.mos, sample.mos_std, sample.group) for name, sample in found.items()} == {
        "a.png": (4.1, None, "I01.png"),
        "b.png": (2.5, None, "I01.png"),
        "c.png": (1, None, "I02.png"),
    }


@pytest.mark.parametrize(
    ("fields", "row"), [(["dist", "mos", "std"], "a.png 4.1 12.5"), (["dist", "mos"], "a.png 4.1")]
)
def test_visualqualitys_text_without_references(tmp_path, fields, row):
    settings = {"form": "visualquality", "fields": fields, "spread": "none", "columns": None, "group": "image"}
    (sample,) = mine(declare(tmp_path, row, **settings)).values()
    assert (sample.mos, sample.mos_std, sample.group) == (4.1, None, "a.png")
    with pytest.raises(ValueError, match=r"line 1: no reference; set group: image, or a pattern, in dataset.yaml"):
        mine(declare(tmp_path, row, **{**settings, "group": "reference"}))


def test_visualqualitys_spread_is_on_another_scale_and_refused(tmp_path):
    settings = {"form": "visualquality", "fields": ["dist", "mos", "std"], "columns": None, "group": "image"}
    with pytest.raises(ValueError, match=r"dataset.yaml: these files rescale mos but not std.*: set spread: none"):
        mine(declare(tmp_path, "a.png 4.1 12.5", **settings))


def test_another_number_of_values_is_named(tmp_path):
    settings = {"form": "visualquality", "fields": ["dist", "mos"], "spread": "none", "columns": None, "group": "image"}
    with pytest.raises(ValueError, match=r"ratings.csv, line 2: 3 values, expected 2 \(dist mos\); correct fields: in"):
        mine(declare(tmp_path, "a.png 4.1", "b.png 3 0.5", **settings))


@pytest.mark.parametrize(
    ("fields", "row"), [("dist mos std", "a.png 3,5"), ("dist mos std", "a.png,1,234"), ("dist mos", "p1,234")]
)
def test_a_comma_that_may_be_in_a_number_or_between_two_is_refused(tmp_path, fields, row):
    settings = {"form": "visualquality", "spread": "none", "columns": None, "group": "image"}
    with pytest.raises(ValueError, match=rf"ratings.csv, line 1: '{row}' has a comma between digits, .* decimal point"):
        mine(declare(tmp_path, row, **settings, fields=fields.split()))
    (sample,) = mine(declare(tmp_path, "a.png,3.5, 0.7", **settings, fields=["dist", "mos", "std"])).values()
    assert sample.mos == 3.5


JSON = {"form": "json_lines", "labels": "rows.jsonl", "spread": "none", "columns": None, "group": "image"}


def test_visualqualitys_training_rows(tmp_path):
    declare(tmp_path, **JSON)
    rows = [("KADID", "a.png", 4.5), ("SPAQ", "b.png", 3), ("KADID", "c.png", "1.25")]
    json_rows(tmp_path / "mine" / "rows.jsonl", *rows)
    with pytest.raises(
        ValueError, match=r"rows.jsonl, line 2: dataset_name SPAQ after KADID; .* name one with dataset:"
    ):
        mine(tmp_path)
    declare(tmp_path, **JSON, dataset="KADID")
    json_rows(tmp_path / "mine" / "rows.jsonl", *rows)
    assert {name: sample.mos for name, sample in mine(tmp_path).items()} == {"a.png": 4.5, "c.png": 1.25}


@pytest.mark.parametrize(
    "row", ["{", '{"image": ["a.png"]}', "3", '{"dataset_name": "K", "image": ["a"], "conversations": []}']
)
def test_a_training_row_of_another_shape_is_named(row, tmp_path):
    declare(tmp_path, row, **JSON)
    with pytest.raises(ValueError, match=r"rows.jsonl, line 1: expected dataset_name, image and conversations"):
        mine(tmp_path)


def test_a_training_row_with_two_pictures_is_refused(tmp_path):
    row = '{"dataset_name": "K", "image": ["a.png", "b.png"], "conversations": [{"value": 3}]}'
    declare(tmp_path, row, **JSON)
    with pytest.raises(ValueError, match=r"line 1: 2 images; a row rates one picture"):
        mine(tmp_path)


PYIQA = {"form": "pyiqa", "columns": None, "labels": "meta_info.csv"}


def test_pyiqas_order_without_references(tmp_path):
    rows = ("img_name,mos,std,official_split", "a.png,9,1,train", "b.png,4,2,val", "c.png,1,0.5,test")
    splits = read_dataset("mine", declare(tmp_path, *rows, **PYIQA, group="image", part="official_split"))
    assert [[sample.mos for sample in part] for part in splits.parts().values()] == [[9], [4], [1]]
    assert splits.validation[0].mos_std == 2


def test_pyiqas_order_with_references_and_numbered_parts(tmp_path):
    rows = ("ref_name,dist_name,dmos,std,ratio802_seed123_split_01", "r.png,a.png,9,1,0", "r.png,b.png,4,2,0")
    part = {"part": "ratio802_seed123_split_01", "higher_is_better": False}
    splits = read_dataset("mine", declare(tmp_path, *rows, "s.png,c.png,1,1,2", **PYIQA, **part))
    assert [(sample.mos, sample.group) for sample in splits.train] == [(1, "r.png"), (6, "r.png")]
    assert [(sample.mos, sample.group) for sample in splits.test] == [(9, "s.png")]


def test_pyiqas_columns_renamed_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"meta_info.csv: columns .*, expected \['img_name', 'mos', 'std'\]"):
        mine(declare(tmp_path, "img_name,mos", "a.png,3", **PYIQA, group="image"))


def test_a_group_in_two_parts_is_refused(tmp_path):
    rows = (*ROWS[:3], "c.png,1,2,park,test")
    with pytest.raises(
        ValueError, match=r"group park is in train and in test \(mine/c.png\); put all its pictures into"
    ):
        mine(declare(tmp_path, *rows))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("c.png,11,2,sea,test", "line 4: mos 11 is outside 0 to 10"),
        ("c.png,eleven,2,sea,test", "line 4: score 'eleven' must be a number"),
        ("c.png,1,-2,sea,test", "line 4: the ratings' std -2 is negative"),
        ("c.png,1,2,sea,dev", "line 4: part 'dev'; use train, validation or test"),
        ("c.png,1,2,,test", "line 4: scene is empty; fill it in or drop the row"),
        ("a.png,1,2,sea,test", "line 4: mine/a.png appears more than once; keep one row per picture"),
        ("../c.png,1,2,sea,test", "line 4: ../c.png leaves .*pictures; give a path below it"),
        ("d.png,1,2,sea,test", "line 4: .*d.png is missing"),
    ],
)
def test_a_bad_row_is_named(row, message, tmp_path):
    with pytest.raises(ValueError, match=rf"ratings.csv, {message}"):
        mine(declare(tmp_path, *ROWS[:3], row))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "tsv"}, "form: Input should be 'csv', 'visualquality'"),
        ({"higher_is_better": None}, "higher_is_better: Field required"),
        ({"range": None}, "range: Field required"),
        ({"range": [10, 0]}, r"range must be \[low, high\]"),
        ({"colums": {}}, "colums: Extra inputs are not permitted"),
        ({"columns": None}, "form csv needs columns"),
        ({"fields": ["dist", "mos"]}, "fields is for form visualquality; leave it out"),
        ({"spread": "none"}, "spread and columns.spread belong together"),
        ({"columns": {"image": "file", "mos": "score", "spread": "sd"}}, "group: reference needs columns.group"),
        ({"group": "("}, "missing \\)|unterminated"),
    ],
)
def test_a_wrong_declaration_is_refused_by_its_key(settings, message, tmp_path):
    with pytest.raises(ValueError, match=rf"mine/dataset.yaml: .*{message}.*; docs/data.md shows a declaration"):
        mine(declare(tmp_path, *ROWS, **settings))


def test_a_declaration_of_files_that_are_not_there(tmp_path):
    declare(tmp_path, *ROWS, images="photos")
    with pytest.raises(FileNotFoundError, match=r"mine/photos is missing; correct images: in .*dataset.yaml"):
        mine(tmp_path)
    (tmp_path / "mine" / "ratings.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"ratings.csv is missing; correct labels: in .*dataset.yaml"):
        mine(tmp_path)


def test_an_undeclared_name_says_how_to_declare_it(tmp_path):
    with pytest.raises(ValueError, match=r"no dataset is called mine; .*, or declare your own in .*mine/dataset.yaml"):
        mine(tmp_path)
