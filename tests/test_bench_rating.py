"""The benchmark of ways to a score: what its tables hold of result files that are written by hand."""

from __future__ import annotations

from pathlib import Path

from vqr1.bench.rating import Row, arguments, of_means, replayed, table
from vqr1.evaluation.results import Evaluation, SetFacts, make_row

NUMBER = 12
NOISY = [1.0, 2.0] * 24  # a standard error that 48 answers do not bring below 0.05


def evaluation(scores_of, tokens=10) -> Evaluation:
    rows = [
        make_row(f"set/{i}", "set", f"{i}", float(i), scores_of(i), "so", tokens=tokens * len(scores_of(i)))
        for i in range(NUMBER)
    ]
    return Evaluation("folder", "model", {}, None, {"set": SetFacts("Set", NUMBER, "all")}, {"set": rows})


def test_equal_answers_stop_at_the_fewest_and_are_not_worth_as_many():
    grid = replayed(evaluation(lambda i: [1 + i / 4] * 48), targets=[0.05])
    assert grid.rows == [["set", "0.05", "6.0", "1.000", "6", "1.000", "2", "-200%"]]


def test_pictures_of_which_half_are_noisy_take_what_they_need():
    # 6 answers for even pictures, 48 for odd ones: 27 on average. Two answers already have the mean of 48.
    grid = replayed(evaluation(lambda i: [i / 4 + x for x in NOISY] if i % 2 else [i / 4 + 1.5] * 48), targets=[0.05])
    assert grid.rows == [["set", "0.05", "27.0", "1.000", "27", grid.rows[0][5], "2", "-1250%"]]


def test_means_are_of_the_first_answers_that_can_be_read():
    rows = evaluation(lambda i: [float(NUMBER - i), None, float(3 * i)]).rows["set"]
    assert of_means(rows, [1] * NUMBER) == of_means(rows, [2] * NUMBER) == -1
    assert of_means(rows, [3] * NUMBER) == 1
    unread = evaluation(lambda i: [None] if i > 3 else [float(i)]).rows["set"]
    assert of_means(unread, [1] * NUMBER) == 1


def test_the_first_way_is_what_others_are_compared_with():
    first = Row("greedy", evaluation(lambda i: [float(i)]), 2.4)
    other = Row("mean of 2", evaluation(lambda i: [float(-i), float(-i)], tokens=7), None)
    (one, two) = table([first, other]).rows
    assert one[:3] + one[6:] == ["greedy", "set", "1.000", "", "", "1.0", "10.0", "2"]
    assert two[:3] + two[6:] == ["mean of 2", "set", "-1.000", "-2.000", "[-2.000, -2.000]", "2.0", "14.0", "-"]


def test_words():
    asked = arguments(["runs/NAME", "--without-thinking", "runs/OTHER"])
    assert (asked.data, asked.threads) == (["demo_five", "demo_hundred"], 1)
    assert asked.out == Path("evaluations/bench-rating")
