"""Scores of other people's models, joined with a dataset's records by picture name."""

import os

import pytest

from tests.support.results import rows_of, write_results
from vqr1.data.sample import Sample
from vqr1.errors import UserError
from vqr1.evaluation.correlation import srcc
from vqr1.evaluation.results import SetFacts
from vqr1.evaluation.summary import summarise
from vqr1.scoring.external_scores import _Pictures, _read, load_result
from vqr1.scoring.sets import EvaluatedSet


@pytest.fixture
def root(tmp_path, sized):
    """KADID-10k in miniature: two references of the test split and one of the training split."""
    sized("kadid10k", 15)
    folder = tmp_path / "data" / "kadid10k"
    (folder / "images").mkdir(parents=True)
    names = [f"{ref}_01_{level:02}.png" for ref in ("I01", "I19", "I81") for level in range(1, 6)]
    rows = [f"{name},{name[:3]}.png,{4.9 - 0.5 * i % 3.8:.2f},0.2" for i, name in enumerate(names)]
    (folder / "dmos.csv").write_text("\n".join(["dist_img,ref_img,dmos,var", *rows]) + "\n")
    for name in names:
        (folder / "images" / name).touch()
    return tmp_path / "data"


def scores(root, lines, header="picture,score"):
    file = root.parent / "musiq.csv"
    file.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return file


def names(root):
    return sorted(path.name for path in (root / "kadid10k" / "images").iterdir())


def test_scores_are_joined_by_name(root):
    pictures = names(root)
    file = scores(root, [f"{name},{i}" for i, name in enumerate(pictures)][::-1])
    evaluation = load_result(f"MUSIQ:kadid10k={file}", root)
    rows = evaluation.rows["kadid10k"]
    assert {row.image_id: row.score for row in rows} == {f"kadid10k/{n}": i for i, n in enumerate(pictures)}
    assert (evaluation.name, evaluation.trained_on, evaluation.sets["kadid10k"].part) == ("MUSIQ", None, "all")
    assert load_result(f"kadid10k={file}", root).name == "musiq"
    (line,) = summarise([evaluation], rounds=20)
    assert line.figure("kadid10k", "srcc").mean == srcc([row.score for row in rows], [row.mos for row in rows])


@pytest.mark.parametrize("shape", ["{}", "images/{}", "kadid10k/{}", "IMAGES\\{}", "/home/x/images/{}"])
def test_folders_before_the_name_do_not_matter(root, shape):
    file = scores(root, [f"{shape.format(name)},1" for name in names(root)])
    assert all(row.score == 1 for row in load_result(f"kadid10k={file}", root).rows["kadid10k"])


def test_upper_and_lower_case_do_not_matter(root):
    file = scores(root, [f"{name.upper()},1" for name in names(root)])
    assert all(row.score == 1 for row in load_result(f"kadid10k={file}", root).rows["kadid10k"])


def test_what_has_no_score_is_missing_and_not_imputed(root):
    first, second, *_ = pictures = names(root)
    file = scores(root, [f"{first},"] + [f"{name},{i}" for i, name in enumerate(pictures[2:])])
    rows = {row.image_id: row for row in load_result(f"kadid10k={file}", root).rows["kadid10k"]}
    for name in (first, second):
        row = rows[f"kadid10k/{name}"]
        assert (row.status, row.score, row.reasoning) == ("missing", None, "no score in musiq.csv")


def test_what_was_trained_on_enters_by_its_test_split(root):
    file = scores(root, [f"{name},{i}" for i, name in enumerate(names(root))])
    evaluation = load_result(f"kadid10k={file}", root, ["kadid10k"])
    facts = evaluation.sets["kadid10k"]
    assert (facts.part, facts.trained_on, facts.pictures) == ("test", True, 10)
    assert {row.group for row in evaluation.rows["kadid10k"]} == {"I19", "I81"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["I01_01_01.png,good"], "musiq.csv, line 2: score 'good' must be a number; correct or drop the row"),
        (["I01_01_01.png,nan"], "musiq.csv, line 2: score nan is not finite"),
        (["I01_01_01.png,1", "t1.bmp,2"], "musiq.csv, line 3: 't1.bmp' is no picture of kadid10k; drop the row"),
        (["I01_01_01.png,1", "images/I01_01_01.png,1"], "line 3: images/I01_01_01.png appears twice; keep one score"),
        (["I01_01_01.png,"], "musiq.csv: no score of any picture of kadid10k"),
    ],
)
def test_a_bad_row_is_named(root, lines, message):
    with pytest.raises(ValueError, match=message):
        load_result(f"kadid10k={scores(root, lines)}", root)


def test_other_columns_are_named(root):
    file = scores(root, ["a,1"], header="name,prediction")
    with pytest.raises(
        ValueError, match=r"columns \['name', 'prediction'\], expected \['picture', 'score'\]; name the columns so"
    ):
        load_result(f"kadid10k={file}", root)


def pictures_of(*names, part="all"):
    samples = [Sample(f"/d/{name}", 1.0, None, "s", name, f"s/{name}") for name in names]
    return _Pictures(EvaluatedSet("s", SetFacts("S", len(names), part), samples)), samples


def test_a_name_that_two_pictures_share_is_refused():
    pictures, samples = pictures_of("a/1.png", "b/1.png")
    assert pictures.find("b/1.png", "here") == samples[1]
    assert pictures.find("c/2.png", "here") is None
    with pytest.raises(ValueError, match=r"here: 1.png may be s/a/1.png or s/b/1.png; give its folder and ending too"):
        pictures.find("1.png", "here")


@pytest.mark.parametrize(
    ("given", "is_it"),
    [
        *(("jpeg/img5.bmp", False), ("/home/x/jpeg/img5.bmp", False), ("live/jpeg/img5", False), ("k/img5.bmp", False)),
        *(("img5.bmp", True), ("IMG5", True), ("jp2k/img5.bmp", True), ("s/JP2K\\img5", True)),
        *(("/home/live/jp2k/img5.bmp", True), ("live/jp2k/img5", True)),
    ],
)
def test_a_picture_of_another_folder_is_another_one(given, is_it):
    pictures, (sample,) = pictures_of("jp2k/img5.bmp", part="test")
    assert pictures.find(given, "here") == (sample if is_it else None)


def test_a_whole_file_whose_names_are_repeated_in_folders_gives_a_part_its_own_scores(tmp_path):
    folders = ("jp2k", "jpeg", "wn")
    pictures, samples = pictures_of("jp2k/img1.bmp", "jpeg/img2.bmp", part="test")
    file = tmp_path / "a.csv"
    lines = [f"{name}/img{i}.bmp,{10 * at + i}" for at, name in enumerate(folders) for i in (1, 2, 3)]
    file.write_text("\n".join(["picture,score", *lines]) + "\n")
    assert _read(file, pictures) == {samples[0].image_id: 1, samples[1].image_id: 12}


def test_of_a_picture_in_a_folder_and_one_beside_it_the_one_with_more_of_the_name_is_meant():
    pictures, (inner, outer) = pictures_of("a/1.png", "1.png")
    assert pictures.find("/x/A/1.png", "here") == pictures.find("a/1.PNG", "here") == inner
    assert pictures.find("1.png", "here") == pictures.find("b/1.png", "here") == outer


def test_names_without_their_endings_are_enough_where_they_name_one_picture(root):
    pictures = names(root)
    file = scores(root, [f"{name[:-4]},{i}" for i, name in enumerate(pictures)])
    rows = load_result(f"kadid10k={file}", root).rows["kadid10k"]
    assert {row.image_id: row.score for row in rows} == {f"kadid10k/{n}": i for i, n in enumerate(pictures)}


@pytest.mark.parametrize(
    ("header", "row", "encoding"),
    [
        ("picture, score", "{}, {}", "utf-8"),
        ("picture;score", "{};{},5", "utf-8-sig"),
        ("picture\tscore", "{}\t{},5", "utf-16"),
        ("sep=;\npicture;score", "{};{}.5", "utf-8"),
    ],
)
def test_score_files_as_spreadsheets_save_them(root, header, row, encoding):
    file = root.parent / "musiq.csv"
    lines = [row.format(name, i) for i, name in enumerate(names(root))]
    file.write_text("\n".join([header, *lines, ""]), encoding=encoding)
    half = 0.5 if "5" in row else 0
    assert [row.score for row in load_result(f"kadid10k={file}", root).rows["kadid10k"]] == [
        i + half for i in range(15)
    ]


def declared(root, name):
    folder = root / name
    (folder / "pictures").mkdir(parents=True)
    pictures = [f"{i}.png" for i in range(4)]
    for each in pictures:
        (folder / "pictures" / each).touch()
    rows = "".join(f"{each},{i}\n" for i, each in enumerate(pictures))
    (folder / "ratings.csv").write_text("picture,score\n" + rows)
    (folder / "dataset.yaml").write_text(
        "form: csv\nlabels: ratings.csv\nimages: pictures\nhigher_is_better: true\nrange: [0, 5]\nspread: none\n"
        "group: image\ncolumns: {image: picture, mos: score}\n"
    )
    return folder / "ratings.csv"


@pytest.mark.parametrize("name", ["my-set", "my set", "2024.03", "demo_x"])
def test_a_set_of_ones_own_may_be_called_anything(root, name):
    file = declared(root, name)
    evaluation = load_result(f"MUSIQ:{name}={file}", root)
    assert (len(evaluation.rows[name]), evaluation.sets[name].part) == (4, "all")
    assert not evaluation.sets[name].pseudo_labels


@pytest.mark.parametrize("name", ["sub/mine", "../mine", "/mine"])
def test_a_name_that_is_no_folder_below_the_root_is_refused(root, name):
    file = declared(root, "mine")
    with pytest.raises(UserError, match=rf"data: '{name}' is no name of a dataset, which is one folder below the root"):
        load_result(f"{name}={file}", root)


def test_what_is_no_file_is_not_waited_for(root):
    os.mkfifo(root / "pipe.csv")
    for file, why in ((root / "pipe.csv", "is a named pipe"), (root, "is a folder")):
        with pytest.raises(UserError, match=rf"{file.name} {why}, not a regular file; give the scores of kadid10k as"):
            load_result(f"kadid10k={file}", root)


def test_a_folder_is_read_as_it_is(tmp_path):
    folder = write_results(tmp_path / "x", {"bid": rows_of("bid", 4)}, name="ours")
    assert load_result(str(folder), tmp_path).name == "ours"


def test_a_file_without_a_dataset_is_told_how(tmp_path):
    with pytest.raises(ValueError, match=r"a.csv: which dataset is it of\? write \[NAME:\]DATASET=a.csv"):
        load_result("a.csv", tmp_path)


def test_what_is_not_there_is_named(root):
    with pytest.raises(FileNotFoundError, match="no.csv is missing"):
        load_result("kadid10k=no.csv", root)
    with pytest.raises(FileNotFoundError, match="nowhere/evaluation.json is missing"):
        load_result("nowhere", root)
    with pytest.raises(ValueError, match="no dataset is called kadid"):
        load_result(f"kadid={scores(root, ['a,1'])}", root)
