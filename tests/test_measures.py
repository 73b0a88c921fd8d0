"""What is measured of a set: pooled and per scene, what is left out, and what is said of it."""

import math

import numpy as np
import pytest

from vqr1.evaluation.bootstrap import interval, resampled_correlations
from vqr1.evaluation.correlation import krcc, pair_accuracy, plcc, srcc
from vqr1.evaluation.logistic import fit_logistic
from vqr1.evaluation.measures import FIGURES, group_correlations, measure

RNG = np.random.default_rng(0)
Y = RNG.normal(size=60)
X = Y + RNG.normal(size=60)
PICTURES = [str(i) for i in range(60)]
SCENES = [f"x{i // 6}" for i in range(60)]


def test_pooled_figures_are_those_of_the_functions():
    measures = measure(X, Y, PICTURES)
    fit = fit_logistic(X, Y)
    expected = (srcc(X, Y), plcc(X, Y), krcc(X, Y), fit.plcc, fit.rmse, pair_accuracy(X, Y))
    assert measures.figures == dict(zip(FIGURES, expected, strict=True))
    drawn = resampled_correlations([X], Y, np.arange(60))
    assert measures.intervals == {"srcc": interval(drawn[0, 0]), "plcc": interval(drawn[1, 0])}
    assert (measures.scope, measures.resampled, measures.notes) == ("pooled", "60 pictures", ())


def test_groups_are_resampled_whole():
    measures = measure(X, Y, SCENES, group="reference")
    assert measures.figures == measure(X, Y, PICTURES).figures
    assert (measures.scope, measures.resampled) == ("pooled", "10 references")
    assert measures.intervals != measure(X, Y, PICTURES).intervals


def test_per_scene_figures_are_means_over_scenes():
    # Every scene has a scale of its own: pooled, the order of pictures is lost.
    offset = np.repeat(np.arange(10)[::-1] * 100, 6)
    measures = measure(X, Y + offset, SCENES, per_group=True, group="scene")
    parts = [slice(i, i + 6) for i in range(0, 60, 6)]
    for name, function in (("srcc", srcc), ("plcc", plcc), ("krcc", krcc), ("pair_accuracy", pair_accuracy)):
        assert measures.figures[name] == pytest.approx(np.mean([function(X[p], Y[p]) for p in parts]))
    rmse = [fit.rmse for p in parts if not math.isnan((fit := fit_logistic(X[p], Y[p] + offset[p])).rmse)]
    assert measures.figures["rmse_fit"] == pytest.approx(np.mean(rmse))
    assert measures.scope == "mean over 10 scenes"
    assert measures.pooled["srcc"] < measures.figures["srcc"] - 0.3


def test_per_scene_values_are_resampled():
    values = group_correlations(X, Y, np.arange(60) // 6)
    drawn = np.random.default_rng(0).integers(10, size=(1000, 10))
    low, high = np.quantile(values[0][drawn].mean(axis=1), [0.025, 0.975])
    measures = measure(X, Y, SCENES, per_group=True)
    assert measures.intervals["srcc"] == pytest.approx((low, high))


def test_scenes_that_cannot_be_measured_are_left_out_and_counted():
    scenes = ["a"] * 5 + ["b"] * 2 + ["c"] * 4 + ["d"] * 5
    mos = [1, 2, 3, 4, 5, 1, 2, 7, 7, 7, 7, 5, 4, 3, 2, 1]
    predictions = [1, 2, 3, 5, 4, 2, 1, 1, 2, 3, 4, 3, 3, 3, 3, 3]
    measures = measure(predictions, mos, scenes, per_group=True, group="scene")
    assert measures.scope == "mean over 2 scenes"
    assert measures.figures["srcc"] == pytest.approx(0.9)  # of a alone: d's predictions are constant
    assert measures.figures["pair_accuracy"] == pytest.approx((0.9 + 0.5) / 2)
    assert measures.notes[:3] == (
        "1 scene(s) left out: fewer than 3 pictures",
        "1 scene(s) left out: constant opinion scores",
        "1 scene(s) left out of those means: constant predictions",
    )


def test_constant_predictions_are_undefined_and_said_to_be():
    measures = measure([3.0] * 60, Y, PICTURES)
    assert all(math.isnan(measures.figures[name]) for name in FIGURES if name != "pair_accuracy")
    assert measures.figures["pair_accuracy"] == 0.5
    assert all(math.isnan(end) for ends in measures.intervals.values() for end in ends)
    assert measures.notes == ("constant predictions",)


def test_a_wrong_sign_is_said_for_the_fit_hides_it():
    measures = measure(-X, Y, PICTURES)
    assert measures.figures["srcc"] < 0 < measures.figures["plcc_fit"]
    assert measures.notes == ("SRCC is negative: higher scores go with worse pictures",)


def test_few_groups_are_said():
    assert measure(X, Y, [str(i % 3) for i in range(60)]).notes == (
        "only 3 to resample: the interval is a rough guide",
    )


@pytest.mark.parametrize("per_group", [False, True])
def test_nothing_rated_is_undefined(per_group):
    measures = measure([], [], [], per_group=per_group)
    assert all(math.isnan(value) for value in measures.figures.values())
    assert measures.notes
