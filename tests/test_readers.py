"""Every dataset in miniature, read as its authors meant it, traps included."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from tests.support.miniatures import (
    KONIQ_MEANS,
    LIVE_COPIES,
    MINIATURES,
    bapps,
    cells,
    csiq,
    flive,
    koniq10k,
    lines,
    picture,
    tid2013,
    xls,
    xlsx,
)
from vqr1.data import DATASETS, read_dataset
from vqr1.data.bapps import read_bapps
from vqr1.data.reading import MissingPicturesError
from vqr1.data.sample import Sample
from vqr1.errors import UserError


def made(name: str, root: Path, **options) -> Path:
    MINIATURES[name](root / name, **options)
    return root


def by_name(samples: list[Sample]) -> dict[str, Sample]:
    return {sample.image_id.partition("/")[2]: sample for sample in samples}


def everything(name: str, root: Path) -> dict[str, Sample]:
    return by_name(read_dataset(name, root).all())


def test_every_dataset_that_is_not_made_here_has_a_miniature():
    assert set(MINIATURES) == {name for name, spec in DATASETS.items() if not spec.pseudo_labels}


@pytest.mark.parametrize("name", MINIATURES)
def test_a_miniature_is_read_by_its_spec(name, tmp_path):
    spec = DATASETS[name]
    splits = read_dataset(name, made(name, tmp_path))
    samples = splits.all()
    assert len(samples) > 2
    low, high = spec.range
    for sample in samples:
        assert sample.dataset == name and sample.image_id.startswith(f"{name}/")
        assert low <= sample.mos <= high
        assert Path(sample.image).is_file()
        assert (sample.mos_std is None) == (spec.spread == "none")
    assert (splits.train == []) == (spec.split == "test")
    assert splits.notes


def test_sizes_are_the_published_ones():
    expected = {"kadid10k": 10125, "spaq": 11125, "koniq10k": 10073, "clive": 1162, "bid": 586, "csiq": 866}
    expected |= {"live": 779, "tid2013": 3000, "pipal": 23200, "agiqa3k": 2982, "liu13": 1199, "sriqa": 1100}
    expected |= {"min19": 600, "flive": 39810}
    assert {name: DATASETS[name].size for name in expected} == expected
    # The paper's eight test sets.
    eight = ("bid", "clive", "koniq10k", "spaq", "liu13", "sriqa", "min19", "agiqa3k")
    assert sum(expected[name] for name in eight) == 28827


def test_only_sriqa_has_a_scale_to_each_group():
    assert [name for name, spec in DATASETS.items() if spec.per_group_scale] == ["sriqa"]
    assert [name for name, spec in DATASETS.items() if not spec.higher_is_better_in_file] == ["csiq", "live"]
    assert {name for name, spec in DATASETS.items() if spec.split == "test"} == {"liu13", "sriqa", "min19"}


def test_kadid10ks_var_is_a_variance(tmp_path):
    assert {sample.mos_std for sample in everything("kadid10k", made("kadid10k", tmp_path)).values()} == {0.5}


def test_spaq_reads_mos_and_no_attribute(tmp_path):
    found = everything("spaq", made("spaq", tmp_path))
    assert {name: sample.mos for name, sample in found.items()} == {f"{i:05}.jpg": 10 + 7.5 * i for i in range(1, 11)}
    assert all(sample.group == name for name, sample in found.items())


def test_spaq_without_the_folder_annotations(tmp_path):
    folder = made("spaq", tmp_path) / "spaq"
    labels = next((folder / "Annotations").iterdir())
    labels.rename(folder / labels.name)
    assert len(everything("spaq", tmp_path)) == 10


@pytest.mark.parametrize("sets", [True, False])
def test_both_koniq_files_give_mos_on_the_scale_of_the_spread(tmp_path, sets):
    koniq10k(tmp_path / "koniq10k", sets=sets)
    splits = read_dataset("koniq10k", tmp_path)
    found = by_name(splits.all())
    assert [found[f"{i}.jpg"].mos for i in range(4)] == pytest.approx(KONIQ_MEANS, abs=1e-6)
    assert {sample.mos_std for sample in found.values()} == {0.5}
    assert splits.division == ("official" if sets else "content")
    if sets:
        assert [len(part) for part in splits.parts().values()] == [2, 1, 1]
        assert splits.test[0].image_id == "koniq10k/3.jpg"
    else:
        assert "split by content" in splits.notes[0]


def test_koniqs_official_split_is_preferred_where_both_files_are(tmp_path):
    koniq10k(tmp_path / "koniq10k", sets=True)
    koniq10k(tmp_path / "koniq10k", sets=False)
    assert read_dataset("koniq10k", tmp_path).division == "official"


def test_koniqs_small_pictures_serve_where_the_large_ones_are_missing(tmp_path):
    folder = koniq10k(tmp_path / "koniq10k")
    (folder / "1024x768").rename(folder / "512x384")
    assert "512x384" in read_dataset("koniq10k", tmp_path).train[0].image


def test_a_z_score_in_koniqs_file_of_grades_is_refused(tmp_path):
    labels = koniq10k(tmp_path / "koniq10k", sets=False) / "koniq10k_scores_and_distributions.csv"
    labels.write_text(labels.read_text().replace("1.500000", "25.0"))
    with pytest.raises(
        ValueError, match=r"line 3: MOS 25, but the mean of the votes c1..c5 is 1.500; use the authors'"
    ):
        read_dataset("koniq10k", tmp_path)


def test_clives_seven_training_pictures_are_left_out(tmp_path):
    splits = read_dataset("clive", made("clive", tmp_path))
    found = by_name(splits.all())
    assert sorted(found) == [f"{i}.bmp" for i in range(3, 8)]
    # The scores stay beside their names: the first picture kept is the eighth of twelve on 10 to 90.
    assert found["3.bmp"].mos == pytest.approx(10 + 80 * 7 / 11)
    assert found["3.bmp"].mos_std == 18.5
    assert "7 training pictures left out" in splits.notes[0]


def test_bids_spread_comes_from_the_single_grades(tmp_path):
    found = everything("bid", made("bid", tmp_path))
    assert sorted(found) == [f"DatabaseImage{i:04}.JPG" for i in (1, 2, 590)]
    stds = [found[f"DatabaseImage{i:04}.JPG"].mos_std for i in (1, 2, 590)]
    assert stds == pytest.approx([1.0, 0.0, math.sqrt(0.5)])  # of 4 5 3, of 1 1 1, of 2.5 3.5, with n - 1
    assert found["DatabaseImage0590.JPG"].mos == 3.0


@pytest.mark.parametrize(
    ("number", "grade", "message"),
    [
        (1.9, 4.0, "Image Number 1.9 is no whole number; correct or drop the row"),
        ("nan", 4.0, "Image Number nan is no whole number"),
        ("inf", 4.0, "Image Number inf is no whole number"),
        (1, "nan", "Grade #1 nan is not finite; correct it or leave it empty"),
        (1, "-inf", "Grade #1 -inf is not finite"),
    ],
)
def test_a_number_of_bids_that_names_no_picture_or_is_no_grade_is_refused(tmp_path, number, grade, message):
    folder = made("bid", tmp_path) / "bid"
    header = ["Image Number", "Average Subjective Grade", "Grade #1", "Grade #2"]
    xls(folder / "DatabaseGrades.xls", header, [2, 1.0, 1.0, 1.0], [number, 4.0, grade, 4.0])
    with pytest.raises(UserError, match=rf"DatabaseGrades.xls, sheet Sheet1, row 3: {message}"):
        read_dataset("bid", tmp_path)


@pytest.mark.parametrize("excel", [False, True])
def test_csiqs_dmos_is_turned_round(tmp_path, excel):
    csiq(tmp_path / "csiq", excel=excel)
    found = everything("csiq", tmp_path)
    assert len(found) == 18
    assert [found[f"awgn/1600.AWGN.{level}.png"].mos for level in (1, 2, 3)] == pytest.approx([0.75, 0.49, 0.23])
    sample = found["jpeg2000/aerial_city.jpeg2000.1.png"]
    assert (sample.group, sample.mos_std) == ("aerial_city", 0.05)


def test_csiq_with_a_header_and_a_running_number(tmp_path):
    folder = csiq(tmp_path / "csiq")
    (folder / "csiq.beta.txt").unlink()
    header = "image dst_idx dst_type dst_lev dmos_std dmos"
    lines(folder / "csiq_dmos.txt", header, "1600 1 noise 1 0.061 0.062", "1600 3 jpeg 2000 2 0.1 0.5")
    found = everything("csiq", tmp_path)
    assert {name: sample.mos for name, sample in found.items()} == {
        "awgn/1600.AWGN.1.png": pytest.approx(0.938),
        "jpeg2000/1600.jpeg2000.2.png": 0.5,
    }


def test_lives_copies_of_references_are_left_out(tmp_path):
    folder = made("live", tmp_path) / "live"
    splits = read_dataset("live", tmp_path)
    found = by_name(splits.all())
    assert len(found) == 779 == 982 - LIVE_COPIES
    labels = loadmat(folder / "dmos_realigned.mat", squeeze_me=True)
    # The 228th entry is the first picture of the second folder.
    for index, name in ((0, "jp2k/img1.bmp"), (227, "jpeg/img1.bmp"), (981, "fastfading/img174.bmp")):
        assert (name not in found) == (labels["orgs"][index] == 1)
        if name in found:
            assert found[name].mos == pytest.approx(100 - labels["dmos_new"][index])
            assert found[name].group == f"ref{index % 29:02}"
    assert max(sample.mos for sample in found.values()) <= 80  # a copy would have 100
    assert "203 copies of references left out" in splits.notes[0]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        *(("orgs", value, f"orgs {value}, expected 0 or 1; use the authors'") for value in (float("nan"), 2, 0.5, -1)),
        ("orgs", np.array([0, 1]), r"orgs array\(.*0, 1.*\) must be a number; correct or drop the row"),
        ("orgs", "no", "orgs 'no' must be a number"),
        ("refnames_all", np.array([1, 2]), r"refnames_all array\(.*1, 2.*\) is no text"),
    ],
)
def test_a_cell_of_lives_that_says_nothing_is_refused(tmp_path, column, value, message):
    file = made("live", tmp_path) / "live" / ("refnames_all.mat" if column == "refnames_all" else "dmos_realigned.mat")
    labels = loadmat(file)
    values = cells(labels[column].ravel().tolist())
    kept = int(np.flatnonzero(loadmat(file.with_name("dmos_realigned.mat"))["orgs"].ravel() == 0)[3])
    values[kept, 0] = value
    savemat(file, {name: each for name, each in labels.items() if name[0] != "_"} | {column: values})
    with pytest.raises(UserError, match=rf"dmos_realigned.mat, entry {kept + 1}: {message}"):
        read_dataset("live", tmp_path)


def test_live_of_another_release_is_refused(tmp_path):
    folder = made("live", tmp_path) / "live"
    savemat(folder / "refnames_all.mat", {"refnames_all": np.array(["a.bmp"] * 779, dtype=object)})
    with pytest.raises(ValueError, match=r"dmos_realigned.mat: lengths differ \(.*refnames_all 779\); use label files"):
        read_dataset("live", tmp_path)


def test_tid2013s_names_may_differ_in_case(tmp_path):
    splits = read_dataset("tid2013", made("tid2013", tmp_path))
    found = by_name(splits.all())
    assert len(found) == 20
    assert found["I25_24_3.bmp"].image.endswith("i25_24_3.bmp")
    assert (found["I25_24_3.bmp"].mos, found["I25_24_3.bmp"].mos_std) == (3.46, 0.13)
    assert {sample.group for sample in found.values()} == {"I01", "I25"}
    assert "10 names differ in case or Unicode form" in splits.notes[-1]
    assert "line 11: I25_01_1.bmp is i25_01_1.bmp on disk" in splits.notes[-1]


def test_tid2013s_spreads_must_belong_to_its_scores(tmp_path):
    folder = tid2013(tmp_path / "tid2013")
    lines(folder / "mos_std.txt", "0.1", "0.2")
    with pytest.raises(ValueError, match=r"lengths differ \(mos_with_names 20, mos_std 2\); use label files of one"):
        read_dataset("tid2013", tmp_path)


def test_pipals_pictures_lie_in_several_folders(tmp_path):
    found = everything("pipal", made("pipal", tmp_path))
    assert found["A0001_00_01.bmp"].mos == 1399.5
    assert Counter(sample.group for sample in found.values()) == {"A0001": 4, "A0002": 4}
    assert {Path(sample.image).parent.name for sample in found.values()} == {"Distortion_1", "Distortion_2"}


def test_agiqa3k_reads_quality_not_alignment_and_groups_by_prompt(tmp_path):
    found = everything("agiqa3k", made("agiqa3k", tmp_path))
    assert [found[f"AttnGAN_normal_{i:03}.jpg"].mos for i in (0, 5)] == [0.5, 3.5]  # alignment falls here
    assert found["AttnGAN_normal_003.jpg"].group == "a dog, sitting"
    assert len({sample.group for sample in found.values()}) == 4


@pytest.mark.parametrize("name", ["liu13", "min19"])
def test_scenes_of_a_published_label_file(name, tmp_path):
    root = made(name, tmp_path)
    splits = read_dataset(name, root)
    assert (splits.train, splits.validation) == ([], [])
    found = by_name(splits.test)
    assert (found["2_1.png"].mos, found["2_1.png"].group) == (-1.5, "s2")
    labels = root / name / f"{name}.txt"
    labels.rename(labels.with_name("something.txt"))  # the only text file
    assert len(read_dataset(name, root).test) == 8


def test_sriqas_scenes_keep_their_scales(tmp_path):
    splits = read_dataset("sriqa", made("sriqa", tmp_path))
    assert (splits.train, len(splits.test)) == ([], 6)
    found = by_name(splits.test)
    assert [found[f"x{i}_SeeSRx4.png"].mos for i in (1, 2)] == [10, 70]
    assert [found[f"x{i}_SeeSRx4.png"].group for i in (1, 2)] == ["x1", "x2"]


def test_a_picture_of_another_scene_is_refused(tmp_path):
    labels = made("sriqa", tmp_path) / "sriqa" / "MOS" / "x1.txt"
    labels.write_text(labels.read_text().replace("x1_Swin", "x2_Swin"))
    with pytest.raises(ValueError, match=r"x1.txt, line 3: x2_SwinIRx4.png is not of scene x1"):
        read_dataset("sriqa", tmp_path)


def test_a_scene_of_two_pictures_is_refused(tmp_path):
    labels = made("sriqa", tmp_path) / "sriqa" / "MOS" / "x2.txt"
    labels.write_text("\n".join(labels.read_text().splitlines()[:2]))
    with pytest.raises(ValueError, match=r"scene x2 has fewer than 3 pictures, .*; add its pictures or drop its rows"):
        read_dataset("sriqa", tmp_path)


@pytest.mark.parametrize("where", ["", "database"])
def test_flives_official_split(tmp_path, where):
    folder = flive(tmp_path / "flive")
    for name in ("labels640.csv", "labels=640_padded.csv"):
        (folder / name).rename(folder / where / name)
    splits = read_dataset("flive", tmp_path)
    names = [sorted(by_name(part)) for part in splits.parts().values()]
    assert names == [[f"voc_emotic_ava/{i}.jpg" for i in part] for part in ((0, 1, 2), (3,), (4, 5))]


@pytest.mark.parametrize(
    ("old", "new"),
    [("voc_emotic_ava/", "VOC_Emotic_AVA/"), ("voc_emotic_ava/", "DATABASE/voc_emotic_ava\\"), (",True", ",TRUE")],
)
def test_flives_official_split_knows_a_picture_by_another_case_of_its_name(tmp_path, old, new):
    folder = flive(tmp_path / "flive")
    for name in ("labels640.csv", "labels=640_padded.csv"):
        (folder / name).write_text((folder / name).read_text().replace(old, new))
    splits = read_dataset("flive", tmp_path)
    assert [len(part) for part in splits.parts().values()] == [3, 1, 2]


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (
            "labels640.csv",
            "/5.jpg",
            "/50.jpg",
            "line 2: .*/50.jpg is a test picture that labels_image.csv does not have",
        ),
        ("labels=640_padded.csv", "True", "1.0", "line 5: is_valid '1.0', expected True or False; use label files of"),
        ("labels=640_padded.csv", "True", "wahr", "line 5: is_valid 'wahr', expected True or False; use label files"),
    ],
)
def test_a_part_of_flive_that_is_not_understood_is_refused(tmp_path, name, old, new, message):
    file = flive(tmp_path / "flive") / name
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(ValueError, match=rf"{name}, {message}"):
        read_dataset("flive", tmp_path)


def test_flive_without_its_split_files_says_so(tmp_path):
    flive(tmp_path / "flive", official=False)
    splits = read_dataset("flive", tmp_path)
    assert splits.division == "content" and "split by content" in splits.notes[0]


def test_bapps_is_pairs(tmp_path):
    parts = read_bapps(bapps(tmp_path / "bapps"))
    assert {part: len(pairs) for part, pairs in parts.items()} == {"train": 3, "validation": 3}
    pair = parts["validation"][1]
    assert pair.preference == pytest.approx(0.4)
    assert (pair.group, pair.pair_id) == ("cnn", "bapps/val/cnn/000001")
    assert [Path(path).parent.name for path in (pair.reference, pair.first, pair.second)] == ["ref", "p0", "p1"]


def test_bapps_is_refused_where_something_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"2afc is missing\n  To get it: download the 2AFC part"):
        read_bapps(tmp_path / "bapps")
    folder = bapps(tmp_path / "bapps")
    np.save(folder / "2afc" / "val" / "cnn" / "judge" / "000001.npy", np.array([1.5]))
    with pytest.raises(ValueError, match=r"000001.npy: judge 1.5 is outside 0 to 1"):
        read_bapps(folder)
    (folder / "2afc" / "train" / "traditional" / "p1" / "000002.png").unlink()
    with pytest.raises(ValueError, match=r"000002.npy: .*p1/000002.png is missing; unpack the whole archive"):
        read_bapps(folder)


# Bad input, of every dataset. Each message names file, row and remedy.


@pytest.mark.parametrize("name", MINIATURES)
def test_a_missing_dataset_says_what_to_fetch_and_where_to_put_it(name, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        read_dataset(name, tmp_path)
    assert str(error.value).startswith(f"{name}: {tmp_path / name}")
    assert "is missing\n  To get it: " in str(error.value)
    assert "{" not in str(error.value)


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"The root .*nowhere is missing: set VQR1_DATA, or give --root FOLDER"):
        read_dataset("kadid10k", tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["kadid10k", "tid2013", "koniq10k", "clive"])
def test_a_dataset_one_folder_too_deep_is_found_out(name, tmp_path):
    MINIATURES[name](tmp_path / name / "unpacked")
    inner = tmp_path / name / "unpacked"
    with pytest.raises(FileNotFoundError, match=rf"is there: move the contents of {inner} to {tmp_path / name}\n"):
        read_dataset(name, tmp_path)


def test_a_root_one_folder_too_deep_is_found_out(tmp_path):
    MINIATURES["kadid10k"](tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"move the contents of {tmp_path} to {tmp_path / 'kadid10k'}\n"):
        read_dataset("kadid10k", tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "old", "new"),
    [
        ("koniq10k", "koniq10k_distributions_sets.csv", ",MOS,", ",mos_z,"),
        ("agiqa3k", "data.csv", "mos_quality", "quality"),
        ("flive", "labels_image.csv", "name,mos", "name,MOS_zscore"),
    ],
)
def test_renamed_columns_are_refused_with_those_expected(name, file, old, new, tmp_path):
    labels = made(name, tmp_path) / name / file
    labels.write_text(labels.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=rf"{file}: columns .*, expected .*; use the authors' {file}"):
        read_dataset(name, tmp_path)


def test_renamed_columns_of_a_spreadsheet_are_refused(tmp_path):
    made("spaq", tmp_path)
    xlsx(tmp_path / "spaq" / "Annotations" / "MOS and Image attribute scores.xlsx", ["Image", "Score"], ["a", 1])
    with pytest.raises(
        ValueError, match=r"scores.xlsx: columns \[\['Image', 'Score'\]\], expected \['Image name', 'MOS'\]"
    ):
        read_dataset("spaq", tmp_path)
    made("bid", tmp_path)
    xls(tmp_path / "bid" / "DatabaseGrades.xls", ["Image", "Grade"], [1, 2])
    with pytest.raises(ValueError, match=r"DatabaseGrades.xls: columns .*, expected \['Image Number', 'Average"):
        read_dataset("bid", tmp_path)


def test_other_variables_of_a_matlab_file_are_refused(tmp_path):
    made("clive", tmp_path)
    savemat(tmp_path / "clive" / "Data" / "AllMOS_release.mat", {"MOS": np.zeros(12)})
    with pytest.raises(ValueError, match=r"AllMOS_release.mat: variables \['MOS'\], expected \['AllMOS_release'\]"):
        read_dataset("clive", tmp_path)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("spaq", "Annotations/MOS and Image attribute scores.xlsx"),
        ("bid", "DatabaseGrades.xls"),
        ("clive", "Data/AllMOS_release.mat"),
        ("live", "dmos_realigned.mat"),
    ],
)
@pytest.mark.parametrize("content", [b"", b"<html>please log in</html>" * 20])
def test_a_download_that_is_no_label_file_is_named(name, file, content, tmp_path):
    (made(name, tmp_path) / name / file).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{Path(file).name}: not a readable .* file .*; fetch it again"):
        read_dataset(name, tmp_path)


def test_a_label_file_in_another_encoding_is_named(tmp_path):
    labels = made("agiqa3k", tmp_path) / "agiqa3k" / "data.csv"
    labels.write_bytes(labels.read_bytes().replace(b"a cat", "né".encode("latin-1")))
    with pytest.raises(ValueError, match=r"data.csv, line 2: 0xe9 is not text in UTF-8 .*; save the file as UTF-8"):
        read_dataset("agiqa3k", tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "message"),
    [
        ("kadid10k", "dmos.csv", "I01_01_02.png,I01.png,3.50", "I01_01_02.png,I01.png,good", "line 3: dmos 'good'"),
        ("tid2013", "mos_with_names.txt", "5.89000 ", "5,89 ", "line 1: 3 values, expected 2"),
        ("tid2013", "mos_with_names.txt", "5.89000", "nan", "line 1: mos nan is outside 0 to 9"),
        ("pipal", "Train_Label/A0001.txt", "1399.5", "13995", "line 2: elo 13995 is outside 900 to 1850"),
        ("csiq", "csiq.beta.txt", "0.25", "25", "line 1: dmos 25 is outside 0 to 1"),
        ("csiq", "csiq.beta.txt", "noise", "snow", "line 1: type 'snow', expected one of noise, awgn"),
        (
            "koniq10k",
            "koniq10k_distributions_sets.csv",
            "0.5,training",
            "51,training",
            "line 2: SD 51 is outside 0 to 4",
        ),
        ("koniq10k", "koniq10k_distributions_sets.csv", "validation", "dev", "line 4: set 'dev', expected one of"),
        ("koniq10k", "koniq10k_distributions_sets.csv", ",73,", ",-73,", "line 2: votes .* must not be negative"),
        (
            "agiqa3k",
            "data.csv",
            "1.100,0.4",
            "1.100,",
            "line 3: mos_quality '1.100' and std_quality '' must be numbers",
        ),
        ("agiqa3k", "data.csv", "a tree", "a tree, tall", "line 6: more values than columns; put quotes around"),
        ("flive", "labels_image.csv", "voc_emotic_ava/1.jpg", "", "line 3: name is empty; fill it in or drop the row"),
    ],
)
def test_a_bad_row_is_named(name, file, old, new, message, tmp_path):
    labels = made(name, tmp_path) / name / file
    text = labels.read_text()
    assert old in text
    labels.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=rf"{Path(file).name}, {message}"):
        read_dataset(name, tmp_path)


def test_a_bad_row_of_a_spreadsheet_is_named_as_excel_counts(tmp_path):
    made("spaq", tmp_path)
    header = ["Image name", "MOS"]
    labels = tmp_path / "spaq" / "Annotations" / "MOS and Image attribute scores.xlsx"
    xlsx(labels, header, ["00001.jpg", 50.5], ["00002.jpg", "?"])
    with pytest.raises(ValueError, match=r"scores.xlsx, sheet Sheet1, row 3: MOS '\?' must be a number"):
        read_dataset("spaq", tmp_path)
    xlsx(labels, header, ["00001.jpg", 50.5], ["00002.jpg", 505])
    with pytest.raises(ValueError, match=r"row 3: MOS 505 is outside 0 to 100; use the authors' own label file"):
        read_dataset("spaq", tmp_path)


def turned(name: str, folder: Path) -> None:
    """The scores of a miniature, their order reversed within the range."""
    if name == "csiq":
        labels = folder / "csiq.beta.txt"
        rows = [line.rsplit("\t", 1) for line in labels.read_text().splitlines()]
        lines(labels, *(f"{start}\t{1 - float(dmos)}" for start, dmos in rows))
    elif name == "tid2013":
        labels = folder / "mos_with_names.txt"
        rows = [line.split() for line in labels.read_text().splitlines()]
        lines(labels, *(f"{8 - float(mos)} {name}" for mos, name in rows))
    else:
        labels = folder / "dmos.csv"
        header, *rows = labels.read_text().splitlines()
        cut = [row.split(",") for row in rows]
        lines(labels, header, *(f"{a},{b},{6 - float(mos):.2f},{var}" for a, b, mos, var in cut))


@pytest.mark.parametrize("name", ["kadid10k", "tid2013", "csiq"])
def test_scores_in_the_wrong_orientation_are_refused(name, tmp_path):
    turned(name, made(name, tmp_path) / name)
    with pytest.raises(
        ValueError,
        match=r"wrong orientation: they rise with the distortion level .*less distortion -1.00\).* use the auth",
    ):
        read_dataset(name, tmp_path)


def test_a_row_that_stands_twice_is_named_with_the_other(tmp_path):
    labels = made("tid2013", tmp_path) / "tid2013" / "mos_with_names.txt"
    labels.write_text(labels.read_text().replace("I01_01_2", "I01_01_1"))
    with pytest.raises(ValueError, match=r"names.txt, line 2: .* more than once; keep one row .*names.txt, line 1\)"):
        read_dataset("tid2013", tmp_path)


def test_two_names_of_one_file_are_one_picture(tmp_path):
    labels = made("flive", tmp_path) / "flive" / "labels_image.csv"
    labels.write_text(labels.read_text().replace("voc_emotic_ava/1.jpg", "VOC_emotic_ava/0.jpg"))
    with pytest.raises(ValueError, match=r"line 3: flive/VOC_emotic_ava/0.jpg appears more than once"):
        read_dataset("flive", tmp_path)


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "a/../../secret.jpg", "/etc/secret.jpg", "..\\\\secret.jpg", "C:\\x.jpg"]
)
def test_a_name_that_leaves_the_folder_is_refused(name, tmp_path):
    labels = made("flive", tmp_path) / "flive" / "labels_image.csv"
    picture(tmp_path / "flive" / "secret.jpg")
    labels.write_text(labels.read_text().replace("voc_emotic_ava/1.jpg", name))
    with pytest.raises(ValueError, match=r"labels_image.csv, line 3: .* leaves .*database; give a path below it"):
        read_dataset("flive", tmp_path)


def test_a_name_in_another_unicode_form_is_found_and_noted(tmp_path):
    folder = made("flive", tmp_path, official=False) / "flive"
    composed, decomposed = "caf\u00e9.jpg", "cafe\u0301.jpg"
    picture(folder / "database" / "voc_emotic_ava" / decomposed)
    labels = folder / "labels_image.csv"
    labels.write_text(labels.read_text() + f"voc_emotic_ava/{composed},50\n", encoding="utf-8")
    splits = read_dataset("flive", tmp_path)
    assert by_name(splits.all())[f"voc_emotic_ava/{composed}"].image.endswith(decomposed)
    assert splits.notes[-1].startswith("1 names differ in case or Unicode form") and "line 8" in splits.notes[-1]


def test_a_name_that_fits_two_files_is_refused(tmp_path):
    folder = made("flive", tmp_path) / "flive"
    for name in ("X.jpg", "x.JPG"):
        picture(folder / "database" / "voc_emotic_ava" / name)
    if len(list((folder / "database" / "voc_emotic_ava").glob("[xX].*"))) < 2:
        pytest.skip("this file system ignores case")
    labels = folder / "labels_image.csv"
    labels.write_text(labels.read_text() + "voc_emotic_ava/x.jpg,50\n")
    with pytest.raises(ValueError, match=r"line 8: voc_emotic_ava/x.jpg fits several files .*; write its name as"):
        read_dataset("flive", tmp_path)


def test_missing_pictures_are_counted_and_the_others_kept(tmp_path):
    folder = made("spaq", tmp_path) / "spaq"
    for i in (3, 7):
        (folder / "TestImage" / f"{i:05}.jpg").unlink()
    with pytest.raises(
        MissingPicturesError, match=r"row 4: .*00003.jpg is missing; unpack .* \(1 more are missing\)"
    ) as error:
        read_dataset("spaq", tmp_path)
    assert [Path(path).name for _, path in error.value.missing] == ["00003.jpg", "00007.jpg"]
    assert len(error.value.rest.all()) == 8
