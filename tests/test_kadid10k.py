"""KADID-10k as its authors distribute it, in miniature: their label file over empty placeholder files."""

from collections import Counter

import pytest

from vqr1.data import read_dataset
from vqr1.data.kadid10k import read_kadid10k

HEADER = "dist_img,ref_img,dmos,var"


def write(folder, rows, header=HEADER, pictures=True):
    (folder / "images").mkdir(parents=True)
    (folder / "dmos.csv").write_text("\n".join([header, *rows]) + "\n")
    if pictures:
        for row in rows:
            (folder / "images" / row.split(",")[0]).touch()
    return folder


def full_grid():
    """81 references, 25 types, five levels, in the authors' order."""
    return [
        f"I{ref:02}_{kind:02}_{level:02}.png,I{ref:02}.png,{5 - 0.8 * level:.2f},0.{level}"
        for ref in range(1, 82)
        for kind in range(1, 26)
        for level in range(1, 6)
    ]


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write(root / "kadid10k", full_grid())
    return read_dataset("kadid10k", root)


def test_the_split_is_49_16_16_by_reference(splits):
    parts = [splits.train, splits.validation, splits.test]
    assert [len(part) for part in parts] == [6125, 2000, 2000]
    references = [{sample.group for sample in part} for part in parts]
    assert [len(names) for names in references] == [49, 16, 16]
    assert set.union(*references) == {f"I{ref:02}" for ref in range(1, 82)}
    assert set(Counter(sample.group for part in parts for sample in part).values()) == {125}
    # Two references of the published lists.
    assert "I07" in references[1]
    assert "I81" in references[2]


def test_a_row_becomes_a_record(tmp_path):
    folder = write(tmp_path, ["I01_01_01.png,I01.png,4.57,0.49"])
    (sample,) = read_kadid10k(folder).train
    assert sample.image == str(folder / "images" / "I01_01_01.png")
    assert (sample.mos, sample.dataset, sample.group) == (4.57, "kadid10k", "I01")
    assert sample.image_id == "kadid10k/I01_01_01.png"
    assert sample.mos_std == pytest.approx(0.7)  # the column is the variance


def test_a_reference_in_another_case_keeps_its_part(tmp_path):
    rows = [f"{name},{ref},4.57,0.49" for name, ref in (("I19_01_01.png", "i19.png"), ("I19_01_02.png", "I19.PNG"))]
    splits = read_kadid10k(write(tmp_path, rows))
    assert [sample.group for sample in splits.test] == ["I19", "I19"] and not splits.train


def test_windows_line_ends_and_byte_order_mark(tmp_path):
    folder = write(tmp_path, ["I01_01_01.png,I01.png,4.57,0.49"])
    labels = folder / "dmos.csv"
    labels.write_bytes(b"\xef\xbb\xbf" + labels.read_bytes().replace(b"\n", b"\r\n"))
    assert read_kadid10k(folder).train[0].mos == 4.57


def test_without_the_label_file_it_says_what_to_fetch(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        read_dataset("kadid10k", tmp_path)
    folder = tmp_path / "kadid10k"
    assert str(error.value).startswith(
        f"kadid10k: {folder / 'dmos.csv'} is missing\n  To get it: download kadid10k.zip"
    )
    assert str(error.value).endswith(f"dmos.csv and the folder images are in {folder}")


@pytest.mark.parametrize("header", ["dist_img,ref_img,dmos", "dist_img,ref_img,dmos,std", "I01_01_01.png,I01.png,4,1"])
def test_other_columns_are_refused(tmp_path, header):
    folder = write(tmp_path, ["I01_01_01.png,I01.png,4.57,0.49"], header)
    with pytest.raises(ValueError, match=r"dmos.csv: columns .*, expected .*; use the authors' dmos.csv"):
        read_kadid10k(folder)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("I01_01_02.png,I01.png,good,0.49", "dmos 'good' and var '0.49' must be numbers"),
        ("I01_01_02.png,I01.png,4.57,", "dmos '4.57' and var '' must be numbers"),
        ("I01_01_02.png,I01.png", "dmos None and var None must be numbers"),
        ("I01_01_02.png,I01.png,57.3,0.49", "dmos 57.3 is outside 1 to 5"),
        ("I01_01_02.png,I01.png,nan,0.49", "dmos nan is outside 1 to 5"),
        ("I01_01_02.png,I01.png,4.57,-0.1", "var -0.1 is negative"),
        ("I01_01_02.png,../I01.png,4.57,0.49", r"\.\./I01.png leaves .*images; give a path below it"),
        ("I01_01_02.png,/etc/I01.png,4.57,0.49", r"/etc/I01.png leaves .*images; give a path below it"),
        *(
            (f"I01_01_02.png,{ref},4.57,0.49", f"ref_img {ref}, expected I01.png to I81.png; use the authors'")
            for ref in ("I82.png", "I1.png", "I19 .png", "original.png")
        ),
    ],
)
def test_a_bad_label_is_refused_with_its_line(tmp_path, row, message):
    folder = write(tmp_path, ["I01_01_01.png,I01.png,4.57,0.49", row])
    with pytest.raises(ValueError, match=rf"dmos.csv, line 3: .*{message}"):
        read_kadid10k(folder)


def test_a_missing_picture_is_named_with_its_line(tmp_path):
    folder = write(tmp_path, ["I01_01_01.png,I01.png,4.57,0.49", "I01_01_02.png,I01.png,4.33,0.6"])
    (folder / "images" / "I01_01_02.png").unlink()
    with pytest.raises(ValueError, match=r"dmos.csv, line 3: .*I01_01_02.png is missing; unpack the whole archive"):
        read_kadid10k(folder)


def test_a_picture_that_stands_twice_is_refused(tmp_path):
    write(tmp_path / "kadid10k", ["I01_01_01.png,I01.png,4.57,0.49"] * 2)
    with pytest.raises(ValueError, match=r"kadid10k/I01_01_01.png appears more than once; keep one row"):
        read_dataset("kadid10k", tmp_path)


def test_an_unknown_dataset_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="no dataset is called kadid; choose from kadid10k"):
        read_dataset("kadid", tmp_path)
