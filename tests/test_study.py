"""Tables of a study from made run folders: hand values, one seed, missing cells, unequal seeds, undefined figures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from vqr1.config import RewardConfig, as_dict
from vqr1.errors import UserError
from vqr1.evaluation.summary import Figure
from vqr1.packaged import packaged
from vqr1.report.command import run as report
from vqr1.report.runs import find_runs
from vqr1.report.study import (
    MEAN,
    REWARD_WORDS,
    REWARDS,
    Cell,
    compared,
    crosses,
    layout,
    sets_of,
    studies,
    value,
)
from vqr1.report.study_text import study_text

CONFIG: dict[str, Any] = {
    "data": {"train": ["bid"], "validation": ["bid"], "test": ["bid", "live"], "root": "data"},
    "policy": {"path": "tiny"},
    "rollout": {"k": 6},
    "reward": as_dict(RewardConfig()),
    "trainer": {"beta": 0.04, "max_steps": 2},
    "experiment_name": "demo_short",
    "seed": 0,
    "name": "one",
}


def made(folder: Path, srcc: float | None = 0.5, finished: bool = True, **words: Any) -> Path:
    """A run of two steps whose test SRCC is ``srcc`` on bid and 0.2 higher on live; plcc is 0.1 above both."""
    config = json.loads(json.dumps(CONFIG))
    for word, setting in words.items():
        section, _, name = word.rpartition("__")
        (config[section] if section else config)[name] = setting
    count = len(list(folder.iterdir())) if folder.is_dir() else 0
    run = folder / f"job-{count:02}"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    live = None if srcc is None else srcc + 0.2
    figures = {"eval/bid_test/srcc": srcc, "eval/live_test/srcc": live}
    figures |= {key.replace("srcc", "plcc"): x and x + 0.1 for key, x in figures.items()}
    rows = [
        {"step": 0, "eval/bid/srcc": 0.1, "eval/bid_test/srcc": 0.1, "eval/live_test/srcc": 0.1},
        {"step": 1, "eval/bid/srcc": 0.9},
        {"step": 2, "train/reward": 1.5},
        {"step": 2, "eval/bid/srcc": 0.8, **figures},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if finished:
        (run / "summary.json").write_text(json.dumps({"steps": 2, "best_step": 1}))
    return folder


def study(folder: Path, **against: str) -> Any:
    [found] = studies(find_runs([folder]), {word.replace("__", "."): value for word, value in against.items()})
    return found


def sweep(folder: Path, **by_seed: list[float | None]) -> Path:
    """Runs of K: ``k4=[SRCC of seed 0, of seed 1, ...]``."""
    for name, values in by_seed.items():
        for seed, srcc in enumerate(values):
            made(folder, srcc, rollout__k=int(name.removeprefix("k")), seed=seed)
    return folder


def test_means_and_spreads_by_hand(tmp_path):
    found = layout(study(sweep(tmp_path, k4=[0.4, 0.5, 0.6], k6=[0.7, 0.7, 0.7])))
    assert (found.sets, found.figures) == (["bid_test", "live_test"], ("srcc", "plcc"))
    (four, cells), (six, _) = found.rows
    assert (four.values, four.seeds, six.values) == ({"rollout.k": 4}, [0, 1, 2], {"rollout.k": 6})
    srcc, plcc = cells["bid_test"]
    assert srcc.values == (0.4, 0.5, 0.6)
    assert srcc.figure == Figure(pytest.approx(0.5), pytest.approx(0.1), 3)
    assert plcc.figure.mean == pytest.approx(0.6)
    assert cells[MEAN][0].figure.mean == pytest.approx(0.6)  # (0.5 + 0.7) / 2


def test_only_what_differs_is_an_axis_and_the_seed_is_none(tmp_path):
    sweep(tmp_path, k4=[0.5], k6=[0.5])
    assert study(tmp_path).axes == ["rollout.k"]
    made(tmp_path, trainer__beta=0.0)
    assert study(tmp_path).axes == ["rollout.k", "trainer.beta"]
    made(tmp_path / "other", experiment_name="another")
    assert [each.experiment for each in studies(find_runs([tmp_path]))] == ["demo_short", "another"]


def test_the_step_is_the_last_or_the_best_one(tmp_path):
    found = study(sweep(tmp_path, k4=[0.5]))
    [run] = found.runs
    assert (value(run, "eval/bid/srcc", "final"), value(run, "eval/bid/srcc", "best")) == (0.8, 0.9)
    assert value(run, "train/reward", "final") == 1.5
    assert value(run, "eval/bid_test/srcc", "best") is None  # test pictures are rated at both ends only
    assert (sets_of(found, "final"), sets_of(found, "best")) == (["bid_test", "live_test"], ["bid"])


def test_an_undefined_figure_leaves_its_setting_undefined(tmp_path):
    found = study(sweep(tmp_path, k4=[0.5, None], k6=[0.5, 0.6]))
    undefined = layout(found).rows[0][1]["bid_test"][0]
    assert undefined.undefined == 1
    assert math.isnan(undefined.figure.mean)
    assert math.isnan(layout(found).rows[0][1][MEAN][0].figure.mean)
    test = compared(found)[0]
    assert (test.undefined, test.test.pairs) == (1, 0)
    assert "undefined in 1 of 2" in study_text(found)
    assert "the setting is not tested" in study_text(found)
    assert max(len(line) for line in study_text(found).splitlines() if not line.startswith("|")) <= 120


def test_unfinished_and_second_runs_are_listed_and_not_averaged(tmp_path):
    sweep(tmp_path, k4=[0.4], k6=[0.5])
    made(tmp_path, 0.9, finished=False, seed=1)
    made(tmp_path, 0.9, seed=0)
    found = study(tmp_path)
    assert [setting.seeds for setting in found.settings] == [[0], [0]]
    assert layout(found).rows[1][1]["bid_test"][0].values == (0.5,)
    assert [why for _, why in found.left_out] == [
        "without an end, last step 2",
        f"a second run with seed 0, beside {tmp_path / 'job-01'}",
    ]
    assert "2 of 4 runs" in study_text(found)
    assert "job-02: without an end" in study_text(found)


def test_a_setting_without_a_finished_run_has_empty_cells(tmp_path):
    made(tmp_path, rollout__k=4, finished=False)
    made(tmp_path, rollout__k=6)
    found = study(tmp_path)
    assert layout(found).rows[0][1]["bid_test"] == (Cell(()), Cell(()))
    assert Cell(()).figure is None
    assert compared(found) == []


def test_k_over_beta_with_missing_cells_and_unequal_seeds(tmp_path):
    for k, beta, seed, srcc in [(4, 0.0, 0, 0.4), (4, 0.0, 1, 0.6), (4, 0.04, 0, 0.3), (6, 0.04, 0, 0.7)]:
        made(tmp_path, srcc, rollout__k=k, trainer__beta=beta, seed=seed)
    [cross] = crosses(study(tmp_path), "eval/bid_test/srcc")
    assert (cross.row, cross.column, cross.fixed) == ("rollout.k", "trainer.beta", {})
    assert (cross.row_values, cross.column_values) == ([4, 6], [0.0, 0.04])
    assert [[cell.values for cell in line] for line in cross.cells] == [[(0.4, 0.6), (0.3,)], [(), (0.7,)]]
    assert "| 4                        | 0.500 ± 0.141 (2) | 0.300 (1) |" in study_text(study(tmp_path))


def test_other_swept_words_give_a_table_each(tmp_path):
    for rate in (1, 2):
        for k in (4, 6):
            for beta in (0.0, 0.04):
                if (rate, beta) != (2, 0.0):
                    made(tmp_path, rollout__k=k, trainer__beta=beta, trainer__max_steps=rate)
    found = crosses(study(tmp_path), "eval/bid_test/srcc")
    assert [cross.fixed for cross in found] == [{"trainer.max_steps": 1}, {"trainer.max_steps": 2}]
    [turned, _] = crosses(study(tmp_path), "train/reward", words=("trainer.beta", "rollout.k"))
    assert (turned.row, turned.row_values) == ("trainer.beta", [0.0, 0.04])
    with pytest.raises(UserError, match=r"trainer\.epsilon is the same in all these runs; they differ in rollout\.k, "):
        crosses(study(tmp_path), "train/reward", words=("rollout.k", "trainer.epsilon"))
    assert crosses(study(made(tmp_path / "alone")), "train/reward") == []


def test_settings_are_paired_with_the_default_by_seed(tmp_path):
    # Seeds 0, 1, 2 of K = 4 and 1, 2, 3 of K = 6: the pairs are those of 1 and 2, -0.1 and -0.3.
    for seed, srcc in enumerate([0.9, 0.5, 0.6]):
        made(tmp_path, srcc, rollout__k=4, seed=seed)
    for seed, srcc in enumerate([0.6, 0.9, 0.1], start=1):
        made(tmp_path, srcc, rollout__k=6, seed=seed)
    found = study(tmp_path)
    assert found.default.values == {"rollout.k": 6}  # the paper's
    mean, bid, live = compared(found)
    assert [each.column for each in (mean, bid, live)] == [MEAN, "bid_test", "live_test"]
    assert (bid.setting.values, bid.test.pairs) == ({"rollout.k": 4}, 2)
    assert bid.test.mean == pytest.approx(-0.2)
    assert bid.test.sign_p == 0.5  # 2 of 4 signs
    other = compared(study(tmp_path, rollout__k="4"))
    assert other[1].test.mean == pytest.approx(0.2)


def test_holm_is_over_the_settings_of_a_column(tmp_path):
    found = study(sweep(tmp_path, k4=[0.1, 0.2, 0.35], k5=[0.4, 0.45, 0.5], k6=[0.5, 0.6, 0.7]))
    four, five = [each for each in compared(found) if each.column == "bid_test"]
    small, large = sorted([four.test.t_p, five.test.t_p])
    assert sorted([four.t_holm, five.t_holm]) == pytest.approx([min(2 * small, 1), max(2 * small, large)])


def test_intervals_are_of_three_seeds_or_more(tmp_path):
    said = study_text(study(sweep(tmp_path, k4=[0.3, 0.4, 0.5], k6=[0.7, 0.8])))
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines() if line.startswith("|")]
    four = next(i for i, line in enumerate(lines) if line[0] == "4")
    assert lines[four][2] == "0.500 ± 0.100"  # PLCC, 0.1 above
    # 4.302653, the 97.5 % quantile of t with 2 degrees of freedom, by 0.1 / sqrt(3) is 0.248.
    assert lines[four + 1][:3] == ["95 % interval", "", "[0.252, 0.748]"]
    assert [line[0] for line in lines].count("95 % interval") == 1


def test_one_seed_is_said_to_be_no_test(tmp_path):
    said = study_text(study(sweep(tmp_path, k4=[0.4], k6=[0.5])))
    assert "1 seed in common: no test" in said
    assert "interval" not in layout_part(said)


def test_five_seeds_are_said_to_be_too_few(tmp_path):
    values = [0.1, 0.2, 0.3, 0.4, 0.5]
    said = study_text(study(sweep(tmp_path, k4=[x + 0.1 + x / 10 for x in values], k6=values)))
    said = " ".join(said.split())  # lines are wrapped
    assert "5 seeds in common: too few for the sign-flip test, whose p is at least 0.0625" in said
    assert "it takes 6 seeds" in said


def layout_part(said: str) -> str:
    return said.split("Paired over")[0]


def test_no_default_is_said_and_another_can_be_named(tmp_path):
    sweep(tmp_path, k4=[0.4, 0.5], k5=[0.5, 0.6])
    assert study(tmp_path).default is None
    assert "name one with --against" in study_text(study(tmp_path))
    assert study(tmp_path, rollout__k="5").default.values == {"rollout.k": 5}
    with pytest.raises(UserError, match=r"^no run has rollout\.k=9; compare with a setting that there is"):
        study(tmp_path, rollout__k="9")
    with pytest.raises(UserError, match=r"^rollout\.l=4: these runs differ in rollout\.k only"):
        study(tmp_path, rollout__l="4")


def with_reward(folder: Path, name: str, srcc: float = 0.5, **words: Any) -> None:
    values = dict(zip(REWARD_WORDS, REWARDS[name], strict=False))
    made(folder, srcc, **{word.replace(".", "__"): each for word, each in values.items()}, **words)


def test_the_rewards_are_those_of_conf():
    for name, words in REWARDS.items():
        said = yaml.safe_load((packaged("conf") / "reward" / f"{name}.yaml").read_text())
        base = yaml.safe_load((packaged("conf") / "reward" / "ranking.yaml").read_text())
        known = {word.removeprefix("reward."): each for word, each in zip(REWARD_WORDS, words, strict=False)}
        settings = as_dict(RewardConfig()) | base
        assert settings | said | {"defaults": None} == settings | known | {"defaults": None}


def test_the_rewards_of_table_4_are_one_axis_in_its_order(tmp_path):
    for i, name in enumerate(sorted(REWARDS)):
        for seed in (0, 1, 2):
            with_reward(tmp_path, name, 0.1 * i + 0.01 * seed * i, seed=seed)
    found = study(tmp_path)
    assert found.axes == ["reward"]
    assert [setting.values["reward"] for setting in found.settings] == list(REWARDS)
    assert found.default.values == {"reward": "ranking"}
    made_layout = layout(found)
    said = study_text(found)
    rows = [line.split("|")[1].strip() for line in said.splitlines() if line.startswith("|")]
    assert rows[2] == "q-insight regression (published)"
    assert rows[2:7] == [f"{row.method} (published)" for row in made_layout.published]
    assert rows[7:17:2] == [
        "Q-Insight's regression", "binary reward", "probability average (Eq. 7)", "fixed variance of one",
        "VisualQuality-R1",
    ]  # fmt: skip
    assert "0.784 / 0.796" in said  # published, on bid
    assert "By mean SRCC, best first: Q-Insight's regression 0.540, VisualQuality-R1 0.430" in said
    said = " ".join(said.split())  # lines are wrapped
    assert "eight test sets): VisualQuality-R1 0.777, probability average (Eq. 7) 0.774, binary reward 0.772" in said


def test_other_rewards_are_told_apart_by_their_settings(tmp_path):
    with_reward(tmp_path, "ranking")
    made(tmp_path, reward__agreement="binary", reward__variance="unit")
    assert set(study(tmp_path).axes) == {"reward.variance", "reward.agreement"}


def test_k_has_the_layout_of_table_3(tmp_path):
    said = study_text(study(sweep(tmp_path, k4=[0.4, 0.5], k5=[0.4, 0.5], k6=[0.5, 0.6])))
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines() if line.startswith("|")]
    assert lines[0] == ["rollout.k", "seeds", "bid_test", "live_test", "mean"]
    assert lines[2] == ["VisualQuality-R1, K = 4 (published)", "", "0.805", "-", "-"]
    assert lines[5] == ["4", "2", "0.550 ± 0.071", "0.750 ± 0.071", "0.650 ± 0.071"]
    assert "PLCC; an undefined" in said


def test_names_cannot_steer_a_terminal(tmp_path):
    made(tmp_path, experiment_name="a\x1b[31m|b")
    said = study_text(study(tmp_path))
    assert "\x1b" not in said
    assert "1 of 1 runs, which differ in their seed only" in said


def test_the_command_prints_every_experiment(tmp_path, capsys):
    sweep(tmp_path / "one", k4=[0.4, 0.5], k6=[0.5, 0.6])
    made(tmp_path / "two", experiment_name="another")
    report(["--table", str(tmp_path)])
    said = capsys.readouterr().out
    assert said.startswith("demo_short: 4 of 4 runs, which differ in rollout.k. Figures of the last step")
    assert "\nanother: 1 of 1 runs" in said
    report(["--table", str(tmp_path / "one"), "--against", "rollout.k=4", "--step", "best"])
    assert "less rollout.k=4" in capsys.readouterr().out
    with pytest.raises(UserError, match="--against rollout.k: give a setting and its value"):
        report(["--table", str(tmp_path / "one"), "--against", "rollout.k"])
