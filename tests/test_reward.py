"""The rewards as TRL calls them: keyword arguments, one conversation to an answer, K rows to a picture."""

import json
import math
import random
import statistics
from pathlib import Path

import pytest
import torch
from trl.trainer.utils import nanstd

from tests.support.runs import forked_script
from vqr1.ranking import fidelity_reward
from vqr1.regression import regression_reward
from vqr1.reward import FormatReward, RankingReward, RegressionReward

nan = math.nan
METRICS = {
    "reward/fidelity",
    "reward/pair_accuracy",
    "reward/zero_spread",
    "reward/no_rival",
    "rollout/score_mean",
    "rollout/score_std",
    "rollout/score_std_between",
    "rollout/unreadable",
}


def answer(score):
    """What the policy says; None is an answer without a score, as long as any other."""
    said = "I cannot tell." if score is None else f"<answer>{score}</answer>"
    return [{"role": "assistant", "content": f"<think>The sky is smooth.</think> {said}"}]


def columns(pictures):
    """What TRL hands over, of pictures ``(dataset, mos, scores)`` or ``(dataset, mos, scores, mos_std)``."""
    rows = [
        {
            "completions": answer(score),
            "image_id": f"{dataset}/{i}",
            "dataset": dataset,
            "mos": mos,
            "mos_std": std[0] if std else None,
            "image": f"{i}.png",
            "group": "a",
            "prompts": [{"role": "user", "content": "Rate it."}],
        }
        for i, (dataset, mos, scores, *std) in enumerate(pictures)
        for score in scores
    ]
    return {key: [row[key] for row in rows] for key in rows[0]}


def tensors(pictures):
    scores_BK = torch.tensor([[nan if s is None else s for s in p[2]] for p in pictures], dtype=torch.float64)
    mos_B = torch.tensor([p[1] for p in pictures], dtype=torch.float64)
    names = list(dict.fromkeys(p[0] for p in pictures))
    return scores_BK, mos_B, torch.tensor([names.index(p[0]) for p in pictures])


def logged(reward, pictures):
    metrics = {}
    return reward(**columns(pictures), log_metric=metrics.__setitem__), metrics


FIVE = [
    ("five", 4.0, [4.0, 3.5, 3.75]),
    ("five", 2.0, [2.5, 3.0, 1.75]),
    ("five", 3.0, [3.0, 3.25, 2.0]),
]
MIXED = [FIVE[0], ("hundred", 80.0, [3.0, 4.0, 4.5]), FIVE[1], ("hundred", 20.0, [2.0, 1.5, 3.5])]


@pytest.mark.parametrize("pictures", [FIVE, MIXED])
@pytest.mark.parametrize(
    "settings", [{}, {"opponent": "each", "variance": "unit"}, {"agreement": "binary"}, {"gamma": 0.5}]
)
def test_it_is_the_ranking_of_the_scores(pictures, settings):
    scores_BK, mos_B, dataset_B = tensors(pictures)
    expected_BK = fidelity_reward(scores_BK, mos_B, dataset_B=dataset_B, **settings)
    given = RankingReward(3, cohort_size=None, **settings)(**columns(pictures))
    assert given == pytest.approx(expected_BK.flatten().tolist(), abs=1e-15)


def test_the_spread_of_the_opinions_is_used_where_asked():
    pictures = [(*picture, std) for picture, std in zip(FIVE, (0.5, 0.25, 1.0), strict=True)]
    scores_BK, mos_B, _ = tensors(pictures)
    mos_std_B = torch.tensor([0.5, 0.25, 1.0], dtype=torch.float64)
    soft = RankingReward(3, cohort_size=None, use_mos_std=True)(**columns(pictures))
    assert soft == pytest.approx(fidelity_reward(scores_BK, mos_B, mos_std_B=mos_std_B).flatten().tolist(), abs=1e-15)
    hard = RankingReward(3, cohort_size=None)(**columns(pictures))
    assert hard == pytest.approx(fidelity_reward(scores_BK, mos_B).flatten().tolist(), abs=1e-15)


def test_answers_in_any_order_keep_their_rewards():
    pictures = [*MIXED, ("five", 5.0, [4.75, None, 5.0])]
    table = columns(pictures)
    rewards = RankingReward(3, cohort_size=None)(**table)
    order = list(range(len(rewards)))
    random.Random(0).shuffle(order)
    shuffled = RankingReward(3, cohort_size=None)(**{key: [v[i] for i in order] for key, v in table.items()})
    assert shuffled == pytest.approx([rewards[i] for i in order], abs=1e-15)


@pytest.mark.parametrize("unreadable_reward", [0.0, -0.5])
def test_an_unreadable_answer_earns_what_is_set_and_moves_nobody(unreadable_reward):
    pictures = [("five", 4.0, [4.0, None, 3.75]), *FIVE[1:]]
    scores_BK, mos_B, _ = tensors(pictures)
    expected_BK = fidelity_reward(scores_BK, mos_B)  # NaN for the unreadable one
    expected_BK[0, 1] = unreadable_reward
    rewards = RankingReward(3, cohort_size=None, unreadable_reward=unreadable_reward)(**columns(pictures))
    assert rewards == pytest.approx(expected_BK.flatten().tolist(), abs=1e-15)


def test_an_unreadable_answer_can_be_left_to_the_format():
    pictures = [("five", 4.0, [4.0, None, 3.75]), *FIVE[1:]]
    rewards = RankingReward(3, cohort_size=None, unreadable_reward=None)(**columns(pictures))
    assert [reward is None for reward in rewards] == [i == 1 for i in range(len(rewards))]


def test_without_a_comparison_all_answers_of_a_picture_earn_none():
    pictures = [("five", 3.5, [None, 3.0, None]), *FIVE]
    rewards = RankingReward(3, cohort_size=None)(**columns(pictures))
    assert rewards[:3] == [None, None, None]
    # Its one readable score moved nobody: the others earn what they earn without it.
    assert rewards[3:] == pytest.approx(RankingReward(3, cohort_size=None)(**columns(FIVE)), abs=1e-15)


def test_a_picture_alone_in_its_dataset_earns_none():
    rewards = RankingReward(3, cohort_size=None)(**columns([*FIVE, ("hundred", 50.0, [3.0, None, 4.0])]))
    assert rewards[9:] == [None, None, None]
    assert None not in rewards[:9]


def test_nothing_readable_at_all():
    rewards, metrics = logged(RankingReward(2, cohort_size=None), [("five", mos, [None, None]) for mos in (1.0, 2.0)])
    assert rewards == [None] * 4
    assert metrics["rollout/unreadable"] == metrics["reward/no_rival"] == 1.0
    undefined = METRICS - {"rollout/unreadable", "reward/no_rival"}
    assert all(math.isnan(metrics[name]) for name in undefined)


def test_a_cohort_is_ranked_by_itself():
    rng = random.Random(3)
    pictures = [
        (("five", "hundred")[i // 4 % 2], rng.uniform(1, 5), [round(rng.uniform(1, 5), 2) for _ in range(3)])
        for i in range(16)
    ]
    apart = [
        reward
        for first in range(0, 16, 4)
        for reward in RankingReward(3, cohort_size=None)(**columns(pictures[first : first + 4]))
    ]
    assert RankingReward(3, cohort_size=4)(**columns(pictures)) == pytest.approx(apart, abs=1e-15)
    assert RankingReward(3, cohort_size=None)(**columns(pictures)) != pytest.approx(apart, abs=1e-3)


def test_two_datasets_in_a_cohort_stay_apart():
    rewards = RankingReward(3, cohort_size=4)(**columns(MIXED))
    alone = RankingReward(3, cohort_size=None)(**columns([MIXED[0], MIXED[2]]))
    assert rewards[:3] + rewards[6:9] == pytest.approx(alone, abs=1e-15)


def test_published_numbers_by_settings():
    """Eight pictures to a device, 1e-6 beside the variances and under both roots."""
    rng = random.Random(1)
    pictures = [("kadid10k", rng.uniform(1, 5), [round(rng.uniform(1, 5), 2) for _ in range(6)]) for _ in range(16)]
    rewards = RankingReward(6, cohort_size=8, root_epsilon=1e-6)(**columns(pictures))

    def published(i, q):
        total = 0.0
        device = range(i // 8 * 8, i // 8 * 8 + 8)
        for j in device:
            if j != i:
                (_, mos, own), (_, other_mos, others) = pictures[i], pictures[j]
                root = math.sqrt(statistics.variance(own) + statistics.variance(others) + 1e-6)
                p_k = (1 + math.erf((q - statistics.mean(others)) / root / math.sqrt(2))) / 2
                p = 1.0 if mos > other_mos else 0.0
                total += math.sqrt(p * p_k + 1e-6) + math.sqrt((1 - p) * (1 - p_k) + 1e-6)
        return total / 7

    assert rewards == pytest.approx([published(i, q) for i in range(16) for q in pictures[i][2]], abs=1e-9)


def test_metrics_by_hand():
    pictures = [
        ("five", 4.0, [4.0, 4.0, 4.0]),  # mean 4, no spread
        ("five", 3.0, [2.0, 3.0, None]),  # mean 2.5, std sqrt(1/2)
        ("five", 1.0, [3.0, 2.0, 4.0]),  # mean 3, std 1: above the picture that people liked better
        ("hundred", 9.0, [5.0, None, None]),  # too few answers, and alone
    ]
    rewards, metrics = logged(RankingReward(3, cohort_size=None), pictures)
    assert set(metrics) == METRICS
    assert metrics["rollout/score_mean"] == pytest.approx((12 + 5 + 9 + 5) / 9)
    assert metrics["rollout/score_std"] == pytest.approx((0 + math.sqrt(0.5) + 1) / 3)
    assert metrics["rollout/score_std_between"] == pytest.approx(statistics.stdev([4, 2.5, 3, 5]))
    assert metrics["rollout/unreadable"] == pytest.approx(3 / 12)
    assert metrics["reward/zero_spread"] == pytest.approx(1 / 3)
    assert metrics["reward/no_rival"] == pytest.approx(1 / 4)
    assert metrics["reward/pair_accuracy"] == pytest.approx(2 / 3)
    readable = [r for i, r in enumerate(rewards[:9]) if i != 5]  # the unreadable answer's 0 is no fidelity
    assert metrics["reward/fidelity"] == pytest.approx(statistics.fmean(readable))


def test_equal_scores_have_no_spread_whatever_they_are():
    # 3.3 + 3.3 + 3.3 is not 3 * 3.3: a mean taken of the scores themselves would leave a spread of 4e-16.
    pictures = [("five", float(i), [i / 100] * 6) for i in range(100, 501)]
    _, metrics = logged(RankingReward(6, cohort_size=None), pictures)
    assert metrics["reward/zero_spread"] == 1.0
    assert metrics["rollout/score_std"] == 0.0


def test_metrics_are_optional():
    assert RankingReward(3, cohort_size=None)(**columns(FIVE)) == logged(RankingReward(3, cohort_size=None), FIVE)[0]


def test_a_dataset_without_the_spread_of_its_opinions_needs_no_column_of_it():
    given = columns(FIVE)
    del given["mos_std"]
    assert RankingReward(3, cohort_size=None)(**given) == RankingReward(3, cohort_size=None)(**columns(FIVE))
    with pytest.raises(ValueError, match="use_mos_std=True needs a mos_std column"):
        RankingReward(3, cohort_size=None, use_mos_std=True)(**given)


def test_regression_is_a_hit_on_each_datasets_own_scale():
    # 80 of 0..100 is 4.2 of 1..5.
    pictures = [("five", 4.0, [4.0, 4.3, 4.4]), ("hundred", 80.0, [4.2, 3.9, None])]
    reward = RegressionReward(3, ranges={"hundred": (0, 100), "five": (1, 5)}, threshold=0.35, unreadable_reward=-1.0)
    rewards, metrics = logged(reward, pictures)
    assert rewards == [1.0, 1.0, 0.0, 1.0, 1.0, -1.0]
    assert metrics["reward/regression"] == pytest.approx(4 / 5)
    assert "reward/fidelity" not in metrics
    assert metrics["rollout/unreadable"] == pytest.approx(1 / 6)
    scores_BK, mos_B, _ = tensors(pictures)
    low_B, high_B = torch.tensor([[1.0, 0.0], [5.0, 100.0]], dtype=torch.float64)
    expected_BK = regression_reward(scores_BK, mos_B, low_B, high_B, threshold=0.35)
    assert rewards[:5] == expected_BK.flatten().tolist()[:5]


def test_the_binary_reward_is_logged_as_what_it_is():
    rewards, metrics = logged(RankingReward(3, cohort_size=None, agreement="binary"), FIVE)
    assert metrics["reward/binary"] == pytest.approx(statistics.fmean(rewards))
    assert set(metrics) == METRICS - {"reward/fidelity"} | {"reward/binary"}


def test_regression_needs_no_rival():
    reward = RegressionReward(2, ranges={"five": (1, 5)}, threshold=0.35)
    assert reward(**columns([("five", 2.0, [2.1, 3.0])])) == [1.0, 0.0]


def test_a_format_reward_is_of_the_answer_alone():
    good, bare = answer(3.0), [{"role": "assistant", "content": "<answer>3</answer>"}]
    completions = [good, bare, answer(None), answer(9)]
    metrics = {}
    thinking = FormatReward(thinking=True)(
        completions=completions, image_id=["a"] * 4, mos=[1.0] * 4, log_metric=metrics.__setitem__
    )
    assert thinking == [1.0, 0.0, 0.0, 0.0]
    assert metrics == {"reward/format": 0.25}
    assert FormatReward(thinking=False)(completions=completions) == [0.0, 1.0, 0.0, 0.0]


def test_names_are_what_trl_logs_them_under():
    assert RankingReward(3, cohort_size=None).__name__ == "fidelity"
    assert RankingReward(3, cohort_size=None, agreement="binary").__name__ == "binary"
    assert RegressionReward(3, ranges={}, threshold=0.35).__name__ == "regression"
    assert FormatReward(True).__name__ == "format"


# The advantages of TRL, from (rows, rewards): `sum_then_normalize` and `normalize_then_sum`.


def summed_first(rewards, k):
    total = rewards.nansum(1).view(-1, k)
    return (total - total.mean(1, keepdim=True)) / (total.std(1, keepdim=True) + 1e-4)


def normalised_first(rewards, k):
    groups = rewards.view(-1, k, rewards.shape[1])
    own = (groups - groups.nanmean(1, keepdim=True)) / (nanstd(groups, dim=1, keepdim=True) + 1e-4)
    total = own.nansum(2).flatten()
    return ((total - total.mean()) / (total.std() + 1e-4)).view(-1, k)


def group_of(fidelity, form):
    return torch.tensor([fidelity, form], dtype=torch.float64).T


WHOLE = group_of([0.78, 0.79, 0.80, 0.81, 0.82, 0.80], [1, 1, 1, 1, 1, 1])
UNREADABLE = group_of([0.78, 0.79, 0.80, 0.81, 0.82, 0.0], [1, 1, 1, 1, 1, 0])
LEFT_OUT = group_of([0.78, 0.79, 0.80, 0.81, 0.82, math.nan], [1, 1, 1, 1, 1, 0])  # unreadable_reward=None
FORMLESS = group_of([0.78, 0.79, 0.80, 0.81, 0.82, 0.80], [1, 1, 1, 1, 1, 0])


@pytest.mark.parametrize("rest", [0, 7])
def test_one_unreadable_answer_hides_the_order_of_the_others(rest):
    """What the docstring of vqr1.reward says, alone in a batch and beside seven whole groups."""
    groups = {"whole": WHOLE, "unreadable": UNREADABLE, "left out": LEFT_OUT, "formless": FORMLESS}
    batches = {name: torch.cat([group, *[WHOLE] * rest]) for name, group in groups.items()}
    spread = {
        (name, how.__name__): how(batch, 6)[0, :5].std().item()
        for name, batch in batches.items()
        for how in (summed_first, normalised_first)
    }
    assert spread["whole", "summed_first"] > 1
    assert spread["whole", "normalised_first"] > 1
    # Beside an unreadable answer the five share +0.41, and normalising first does not help: its 0 is in the fidelity.
    assert summed_first(batches["unreadable"], 6)[0, :5].tolist() == pytest.approx([0.41] * 5, abs=0.03)
    assert spread["unreadable", "summed_first"] < 0.03
    assert spread["unreadable", "normalised_first"] < 0.05
    # Left out of the fidelity, it is punished by the format alone.
    assert spread["left out", "normalised_first"] > 0.7
    assert normalised_first(batches["left out"], 6)[0].argmin() == 5
    # Beside one that can be read but breaks the format, it does.
    assert spread["formless", "summed_first"] < 0.05
    assert spread["formless", "normalised_first"] > 0.7


def ranks(table, world):
    """Rewards and metrics of ``world`` processes, each given its consecutive share of the rows."""
    done = forked_script(Path(__file__).parent / "support" / "reward_on_ranks.py", json.dumps(table), ranks=world)
    assert done.returncode == 0, done.stderr[-4000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(found) == world
    return found


@pytest.mark.slow
@pytest.mark.distributed
def test_two_ranks_pay_what_one_pays():
    rng = random.Random(5)
    pictures = [
        (name, rng.uniform(*ends), [round(rng.uniform(1, 5), 2) for _ in range(3)], 0.5)
        for name, ends in [("five", (1, 5)), ("five", (1, 5)), ("hundred", (0, 100)), ("hundred", (0, 100))] * 2
    ]
    pictures[0] = ("five", 4.0, [4.0, None, 3.5], 0.5)  # its second answer earns -1 in "cohort"
    pictures[6] = ("hundred", 50.0, [None, 2.0, None], 0.5)  # earns None, and in "cohort" so does its one rival
    # Three answers to each of eight pictures: rank 0 has the first four pictures' rows.
    table = columns(pictures)
    (alone,) = ranks(table, 1)
    first, second = ranks(table, 2)
    assert -1.0 in alone["cohort"]["rewards"]
    for name in ("batch", "cohort", "regression", "format"):
        assert first[name]["rewards"] + second[name]["rewards"] == alone[name]["rewards"]
    for name in ("batch", "cohort", "regression"):
        assert first[name]["metrics"] == second[name]["metrics"] == alone[name]["metrics"]
    assert None in alone["batch"]["rewards"]
    # Not by each rank ranking its own: the halves alone earn something else.
    half = len(table["image_id"]) // 2
    (half_alone,) = ranks({key: values[:half] for key, values in table.items()}, 1)
    assert half_alone["batch"]["rewards"] != alone["batch"]["rewards"][:half]
    # TRL averages over ranks, which have equally many answers.
    shares = [rank["format"]["metrics"]["reward/format"] for rank in (first, second)]
    assert statistics.fmean(shares) == pytest.approx(alone["format"]["metrics"]["reward/format"])
