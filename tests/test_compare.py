"""The paired test of two result files: what it says, and what it refuses to compare."""

import dataclasses
import math

import numpy as np
import pytest

from tests.support.results import rows_of, write_results
from vqr1.evaluation.bootstrap import interval, resampled_correlations
from vqr1.evaluation.compare import compare, comparison_text
from vqr1.evaluation.correlation import plcc, srcc
from vqr1.evaluation.results import make_row, read_evaluation


def pair(tmp_path, one, other, **facts):
    sides = [
        read_evaluation(write_results(tmp_path / name, rows, name=name, facts=facts))
        for name, rows in (("a", one), ("b", other))
    ]
    return sides[0], sides[1]


def columns(rows):
    return np.array([row.score for row in rows]), np.array([row.mos for row in rows])


def test_the_difference_is_of_the_same_pictures_in_every_round(tmp_path):
    good, bad = rows_of("bid", 80, noise=0.5), rows_of("bid", 80, noise=3.0, seed=1)
    (found,) = compare(*pair(tmp_path, {"bid": good}, {"bid": bad}), rounds=300)
    (x, mos), (other, _) = columns(good), columns(bad)
    drawn = resampled_correlations([x, other], mos, np.arange(80), rounds=300)
    for i, (name, function) in enumerate((("srcc", srcc), ("plcc", plcc))):
        difference = found.differences[name]
        assert found.figures[name] == (function(x, mos), function(other, mos))
        assert difference.value == pytest.approx(function(x, mos) - function(other, mos))
        assert (difference.low, difference.high) == interval(drawn[i, 0] - drawn[i, 1])
        assert difference.low > 0 and difference.p < 0.02
    assert (found.pictures, found.of, found.resampled) == (80, 80, "80 pictures")


def test_swapping_the_models_mirrors_the_difference(tmp_path):
    a, b = pair(tmp_path, {"bid": rows_of("bid", 50)}, {"bid": rows_of("bid", 50, seed=1)})
    (there,), (back,) = compare(a, b, 200), compare(b, a, 200)
    one, other = there.differences["srcc"], back.differences["srcc"]
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))
    assert one.p == other.p


def test_a_model_does_not_differ_from_itself(tmp_path):
    a, b = pair(tmp_path, {"bid": rows_of("bid", 30)}, {"bid": rows_of("bid", 30)})
    (found,) = compare(a, b, 100)
    assert [(d.value, d.low, d.high, d.p) for d in found.differences.values()] == [(0, 0, 0, 1)] * 2


def test_the_order_of_lines_does_not_matter(tmp_path):
    good, bad = rows_of("bid", 40), rows_of("bid", 40, noise=2, seed=1)
    (straight,) = compare(*pair(tmp_path / "1", {"bid": good}, {"bid": bad}), rounds=50)
    (turned,) = compare(*pair(tmp_path / "2", {"bid": good}, {"bid": bad[::-1]}), rounds=50)
    assert turned == straight


def test_only_pictures_that_both_rated_are_compared(tmp_path):
    one, other = rows_of("bid", 40), rows_of("bid", 40, seed=1)
    one[3] = make_row("bid/00003.png", "bid", "3", one[3].mos, [None], "?")
    other[5] = make_row("bid/00005.png", "bid", "5", other[5].mos, [], "gone")
    (found,) = compare(*pair(tmp_path, {"bid": one}, {"bid": other}), rounds=50)
    kept = [i for i in range(40) if i not in (3, 5)]
    x, mos = columns([one[i] for i in kept])
    assert (found.pictures, found.of) == (38, 40)
    assert found.figures["srcc"][0] == srcc(x, mos)


def test_scenes_are_compared_scene_by_scene(tmp_path):
    one, other = rows_of("sriqa", 60, groups=6), rows_of("sriqa", 60, groups=6, noise=3, seed=1)
    facts = {"sriqa": {"per_group_scale": True, "group": "scene"}}
    (found,) = compare(*pair(tmp_path, {"sriqa": one}, {"sriqa": other}, **facts), rounds=400)
    gaps = []
    for scene in range(6):
        (x, mos), (z, _) = columns(one[scene::6]), columns(other[scene::6])
        gaps.append(srcc(x, mos) - srcc(z, mos))
    drawn = np.random.default_rng(0).integers(6, size=(400, 6))
    difference = found.differences["srcc"]
    assert difference.value == pytest.approx(np.mean(gaps))
    assert (difference.low, difference.high) == pytest.approx(interval(np.array(gaps)[drawn].mean(axis=1)))
    assert (found.scope, found.resampled) == ("mean over 6 scenes", "6 scenes' values")


def test_a_scene_without_a_correlation_of_either_is_left_out(tmp_path):
    one, other = rows_of("sriqa", 30, groups=5), rows_of("sriqa", 30, groups=5, seed=1)
    for i in range(0, 30, 5):
        one[i] = make_row(one[i].image_id, "sriqa", "0", one[i].mos, [3.0], "")
    facts = {"sriqa": {"per_group_scale": True, "group": "scene"}}
    (found,) = compare(*pair(tmp_path, {"sriqa": one}, {"sriqa": other}, **facts), rounds=50)
    assert found.scope == "mean over 4 scenes"
    assert not math.isnan(found.differences["srcc"].value)


def test_constant_predictions_are_undefined(tmp_path):
    flat = [make_row(row.image_id, "bid", row.group, row.mos, [3.0], "") for row in rows_of("bid", 20)]
    a, b = pair(tmp_path, {"bid": flat}, {"bid": rows_of("bid", 20)})
    found = compare(a, b, 50)
    assert math.isnan(found[0].differences["srcc"].p)
    assert "SRCC  undefined: constant predictions, or too few pictures" in comparison_text("a", "b", found)


def test_the_text_says_all(tmp_path):
    a, b = pair(tmp_path, {"bid": rows_of("bid", 20, groups=4)}, {"bid": rows_of("bid", 20, groups=4, seed=1)})
    text = comparison_text(a.name, b.name, compare(a, b, 50)).splitlines()
    assert text[0].startswith("a less b: difference [95 % interval], two-sided p")
    assert text[1] == "BID: 20 of 20 pictures rated by both, pooled, 4 images resampled"
    assert text[2] == "  only 4 to resample: interval and p are a rough guide"
    assert text[3].startswith("  SRCC  0.") and "p = " in text[3]


def test_sets_of_one_file_alone_are_left_out(tmp_path):
    bid, clive = {"bid": rows_of("bid", 20)}, {"clive": rows_of("clive", 20)}
    assert [c.name for c in compare(*pair(tmp_path / "1", {**bid, **clive}, bid), rounds=20)] == ["bid"]
    with pytest.raises(ValueError, match="a has bid and .*b has clive: no set in common to compare"):
        compare(*pair(tmp_path / "2", bid, clive))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mos": 9.0}, r"bid: bid/00002.png has mos .* in .*a and 9.0 in .*b; the labels changed"),
        ({"group": "z"}, r"bid: bid/00002.png has group 2 in .*a and z in .*b"),
        ({"image_id": "bid/x.png"}, r"bid: .*b lacks 1 pictures of .*a, bid/00002.png first"),
        (None, r"bid: .*b lacks 1 pictures of .*a, bid/00002.png first; .*finish an interrupted evaluation"),
    ],
)
def test_other_pictures_or_labels_are_refused(tmp_path, change, message):
    rows = rows_of("bid", 10)
    other = [dataclasses.replace(row, **change) if change and i == 2 else row for i, row in enumerate(rows)]
    if change is None:
        del other[2]
    with pytest.raises(ValueError, match=message):
        compare(*pair(tmp_path, {"bid": rows}, {"bid": other}))


def test_pictures_that_only_the_second_file_has_are_named_too(tmp_path):
    a, b = pair(tmp_path, {"bid": rows_of("bid", 10)[1:]}, {"bid": rows_of("bid", 10)})
    with pytest.raises(ValueError, match=r"bid: .*a lacks 1 pictures of .*b, bid/00000.png first"):
        compare(a, b)
