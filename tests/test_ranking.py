"""The ranking reward against loops written from the equations, and against what it must do by symmetry."""

import itertools
import math
import statistics
import time
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vqr1.ranking import fidelity_reward, pair_accuracy

nan, inf = math.nan, math.inf
VARIANTS = list(itertools.product(("mean", "each"), ("sample", "unit"), ("fidelity", "binary")))
GAMMA = 1e-6


def phi(z: float) -> float:
    return math.erfc(-z / math.sqrt(2)) / 2


def step(gap: float) -> float:
    return 1.0 if gap > 0 else 0.5 if gap == 0 else 0.0


def readable_rows(scores_BK: Tensor, readable_BK: Tensor | None) -> list[list[float]]:
    masks = torch.ones_like(scores_BK, dtype=torch.bool) if readable_BK is None else readable_BK
    return [
        [q for q, good in zip(row, mask, strict=True) if good and math.isfinite(q)]
        for row, mask in zip(scores_BK.tolist(), masks.tolist(), strict=True)
    ]


def oracle(
    scores_BK: Tensor,
    mos_B: Tensor,
    readable_BK: Tensor | None = None,
    dataset_B: Tensor | None = None,
    mos_std_B: Tensor | None = None,
    opponent: str = "mean",
    variance: str = "sample",
    agreement: str = "fidelity",
    gamma: float = GAMMA,
    root_epsilon: float = 0.0,
) -> Tensor:
    """Eq. 1-3 and 7, image by image, response by response, rival by rival."""
    rows, mos = readable_rows(scores_BK, readable_BK), mos_B.tolist()
    spread = [0.0] * len(mos) if mos_std_B is None else mos_std_B.tolist()
    dataset = [0] * len(mos) if dataset_B is None else dataset_B.tolist()

    def agree(q: float, i: int, j: int) -> float:
        against = [statistics.fmean(rows[j])] if opponent == "mean" else rows[j]
        if agreement == "binary":
            order = step(mos[i] - mos[j])
            hits = [0.5 if 0.5 in (order, step(q - r)) else float(order == step(q - r)) for r in against]
            return statistics.fmean(hits)
        both = 2 if variance == "unit" else statistics.variance(rows[i]) + statistics.variance(rows[j])
        p_k = statistics.fmean([phi((q - r) / math.sqrt(both + gamma)) for r in against])
        q_k = statistics.fmean([phi((r - q) / math.sqrt(both + gamma)) for r in against])
        s = math.hypot(spread[i], spread[j])
        p, not_p = (phi((mos[i] - mos[j]) / s), phi((mos[j] - mos[i]) / s)) if s else (step(mos[i] - mos[j]),) * 2
        if not s:
            not_p = 1 - p
        return math.sqrt(p * p_k + root_epsilon) + math.sqrt(not_p * q_k + root_epsilon)

    reward = torch.full(scores_BK.shape, nan, dtype=torch.float64)
    for i, k in itertools.product(range(scores_BK.shape[0]), range(scores_BK.shape[1])):
        q = scores_BK[i, k].item()
        readable = math.isfinite(q) and (readable_BK is None or bool(readable_BK[i, k]))
        rivals = [j for j in range(len(mos)) if j != i and dataset[j] == dataset[i] and len(rows[j]) > 1]
        if readable and len(rows[i]) > 1 and rivals:
            reward[i, k] = statistics.fmean([agree(q, i, j) for j in rivals])
    return reward


def close(actual: Tensor, expected: Tensor, atol: float = 1e-9, rtol: float = 0.0) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol, equal_nan=True)


def batch(seed: int = 0, B: int = 9, K: int = 5) -> tuple[Tensor, Tensor]:
    """Scores in quarters and MOS in halves, so that ties occur, and one image without spread."""
    generator = torch.Generator().manual_seed(seed)
    scores_BK = torch.randint(4, 21, (B, K), generator=generator).double() / 4
    scores_BK[1] = 3.25
    return scores_BK, torch.randint(2, 11, (B,), generator=generator).double() / 2


MASK = torch.tensor(
    [[1, 1, 1, 1, 1]] * 3 + [[1, 0, 1, 1, 0], [1, 0, 0, 0, 0], [0] * 5, [1, 1, 1, 0, 1], [1] * 5, [1] * 5]
).bool()
DATASET = torch.tensor([0, 1, 0, 1, 1, 0, 0, 1, 7])  # image 8 is alone in its dataset
MOS_STD = torch.tensor([0.0, 0.5, 0, 1, 0, 0.3, 2, 0, 1], dtype=torch.float64)


@pytest.mark.parametrize(("opponent", "variance", "agreement"), VARIANTS)
@pytest.mark.parametrize("readable_BK", [None, MASK], ids=["all", "masked"])
@pytest.mark.parametrize("dataset_B", [None, DATASET], ids=["one", "three"])
@pytest.mark.parametrize("mos_std_B", [None, MOS_STD], ids=["hard", "soft"])
@pytest.mark.parametrize("root_epsilon", [0.0, 1e-6])
def test_equals_the_loops(opponent, variance, agreement, readable_BK, dataset_B, mos_std_B, root_epsilon):
    scores_BK, mos_B = batch()
    scores_BK[7, 1], scores_BK[7, 2] = nan, -inf
    options = {
        "readable_BK": readable_BK,
        "dataset_B": dataset_B,
        "mos_std_B": mos_std_B,
        "opponent": opponent,
        "variance": variance,
        "agreement": agreement,
        "root_epsilon": root_epsilon,
    }
    expected = oracle(scores_BK, mos_B, **options)
    assert expected.isfinite().sum() >= 20
    close(fidelity_reward(scores_BK, mos_B, **options), expected)


def test_closed_form_with_the_unbiased_variance():
    scores_BK = torch.tensor([[1.0, 3.0], [4.0, 4.0]], dtype=torch.float64)  # variances 2 and 0
    expected = [
        [math.sqrt(phi(3 / math.sqrt(2))), math.sqrt(phi(1 / math.sqrt(2)))],
        [math.sqrt(phi(2 / math.sqrt(2)))] * 2,
    ]
    reward_BK = fidelity_reward(scores_BK, torch.tensor([1.0, 2.0]), gamma=0.0)
    close(reward_BK, torch.tensor(expected, dtype=torch.float64), atol=1e-12)


def test_fixed_variance_is_case_v():
    scores_BK = torch.tensor([[1.0, 3.0], [4.0, 5.0]], dtype=torch.float64)
    reward_BK = fidelity_reward(scores_BK, torch.tensor([1.0, 2.0]), opponent="each", variance="unit", gamma=0.25)
    p = (phi(3 / 1.5) + phi(4 / 1.5)) / 2  # sqrt(1 + 1 + gamma) = 1.5
    assert reward_BK[0, 0].item() == pytest.approx(math.sqrt(p), abs=1e-12)


def test_equal_opinions_are_best_served_by_equal_scores():
    scores_BK = torch.tensor([[3.0, 3.0, 4.0], [3.0, 3.0, 3.0]], dtype=torch.float64)
    reward_BK = fidelity_reward(scores_BK, torch.tensor([2.0, 2.0]), variance="unit")
    assert reward_BK[0, 0].item() == 1.0  # p = p_k = 1/2
    assert reward_BK[0, 2] < reward_BK[0, 0]


def test_each_is_mean_when_the_rivals_have_no_spread():
    scores_BK, mos_B = batch(3)
    scores_BK[1:] = scores_BK[1:, :1]
    close(
        fidelity_reward(scores_BK, mos_B, opponent="each")[0],
        fidelity_reward(scores_BK, mos_B)[0],
        atol=1e-12,
    )


def test_soft_preference_sharpens_to_the_hard_one():
    scores_BK, mos_B = batch(4)
    mos_B = torch.arange(9.0, dtype=torch.float64)
    tiny_B = torch.full_like(mos_B, 1e-3)
    close(fidelity_reward(scores_BK, mos_B, mos_std_B=tiny_B), fidelity_reward(scores_BK, mos_B), atol=1e-12)
    wide = fidelity_reward(scores_BK, mos_B, mos_std_B=torch.full_like(mos_B, 1e9))
    close(wide, fidelity_reward(scores_BK, torch.ones_like(mos_B)), atol=1e-8)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    B, K = draw(st.integers(2, 6)), draw(st.integers(2, 4))

    def numbers(low: int, high: int, size: int) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=size, max_size=size))

    scores = torch.tensor(numbers(8, 40, B * K), dtype=torch.float64).view(B, K) / 8
    readable = torch.tensor(numbers(0, 4, B * K)).view(B, K) > 0
    return scores, torch.tensor(numbers(1, 5, B), dtype=torch.float64), readable


@settings(max_examples=60, deadline=None)
@given(batches(), st.sampled_from(VARIANTS), st.randoms(use_true_random=False))
def test_symmetries(drawn, variant, random):
    scores_BK, mos_B, readable_BK = drawn
    options = dict(zip(("opponent", "variance", "agreement"), variant, strict=True))
    reward_BK = fidelity_reward(scores_BK, mos_B, readable_BK=readable_BK, **options)
    images = torch.tensor(random.sample(range(len(mos_B)), len(mos_B)))
    responses = torch.tensor(random.sample(range(scores_BK.shape[1]), scores_BK.shape[1]))

    def order(values: Tensor) -> Tensor:
        return values[images][:, responses]

    permuted = fidelity_reward(order(scores_BK), mos_B[images], readable_BK=order(readable_BK), **options)
    close(permuted, order(reward_BK))
    close(fidelity_reward(-scores_BK, -mos_B, readable_BK=readable_BK, **options), reward_BK)
    close(fidelity_reward(scores_BK + 64, 3 * mos_B - 7, readable_BK=readable_BK, **options), reward_BK)


@pytest.mark.parametrize(("opponent", "variance", "agreement"), VARIANTS)
def test_a_dataset_is_deaf_to_another(opponent, variance, agreement):
    options = {"opponent": opponent, "variance": variance, "agreement": agreement}
    (scores_BK, mos_B), (other_BK, other_B) = batch(1), batch(2)
    both = fidelity_reward(
        torch.cat([scores_BK, other_BK]),
        torch.cat([mos_B, 20 * other_B]),
        dataset_B=torch.tensor([3] * 9 + [-1] * 9),
        **options,
    )
    close(both[:9], fidelity_reward(scores_BK, mos_B, **options), atol=1e-15)
    close(both[9:], fidelity_reward(other_BK, other_B, **options), atol=1e-15)


@pytest.mark.parametrize(("opponent", "variance", "agreement"), VARIANTS)
@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_what_is_not_finite_stays_where_it_is(opponent, variance, agreement, bad):
    options = {"opponent": opponent, "variance": variance, "agreement": agreement}
    scores_BK, mos_B = batch(5)
    spoilt_BK = torch.cat([scores_BK, torch.full((9, 1), bad, dtype=torch.float64)], dim=1)
    reward_BK = fidelity_reward(spoilt_BK, mos_B, **options)
    close(reward_BK[:, :5], fidelity_reward(scores_BK, mos_B, **options), atol=1e-15)
    assert reward_BK[:, 5].isnan().all()


@pytest.mark.parametrize("opponent", ["mean", "each"])
def test_an_image_with_one_readable_response_is_as_good_as_absent(opponent):
    scores_BK, mos_B = batch(6)
    readable_BK = torch.ones_like(scores_BK, dtype=torch.bool)
    readable_BK[4, 1:] = False
    readable_BK[6] = False
    reward_BK = fidelity_reward(scores_BK, mos_B, readable_BK=readable_BK, opponent=opponent)
    rest = [0, 1, 2, 3, 5, 7, 8]
    close(reward_BK[rest], fidelity_reward(scores_BK[rest], mos_B[rest], opponent=opponent), atol=1e-15)
    assert reward_BK[[4, 6]].isnan().all()


@pytest.mark.parametrize("opponent", ["mean", "each"])
def test_an_image_without_a_rival_earns_nan(opponent):
    scores_BK, mos_B = batch(7, B=3)
    assert fidelity_reward(scores_BK[:1], mos_B[:1], opponent=opponent).isnan().all()
    reward_BK = fidelity_reward(scores_BK, mos_B, dataset_B=torch.tensor([0, 1, 0]), opponent=opponent)
    assert reward_BK.isnan().all(dim=1).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [0.0, GAMMA])
@pytest.mark.parametrize("opponent", ["mean", "each"])
def test_no_spread_saturates(dtype, gamma, opponent):
    """3.1 has no exact mean in binary when six of them are summed, and the tie must survive."""
    scores_BK = torch.tensor([[3.1] * 6, [3.1] * 6, [3.12] * 6], dtype=dtype)
    options = {"gamma": gamma, "opponent": opponent}
    agrees = fidelity_reward(scores_BK, torch.tensor([2.0, 2.0, 4.0]), **options)
    close(agrees, torch.ones(3, 6, dtype=dtype), atol=1e-6)
    fooled = fidelity_reward(scores_BK, torch.tensor([4.0, 4.0, 2.0]), **options)
    close(fooled, torch.tensor([[0.5], [0.5], [0.0]], dtype=dtype).expand(3, 6), atol=1e-6)
    tied = fidelity_reward(scores_BK[:2], torch.tensor([2.0, 4.0]), agreement="binary", opponent=opponent)
    assert (tied == 0.5).all()


def test_gamma_decides_what_a_gap_means_without_spread():
    scores_BK = torch.tensor([[3.0, 3.0], [3.1, 3.1]], dtype=torch.float64)
    mos_B = torch.tensor([1.0, 2.0])
    for gamma in (1e-6, 1e-2, 1.0):
        expected = math.sqrt(phi(0.1 / math.sqrt(gamma)))
        assert fidelity_reward(scores_BK, mos_B, gamma=gamma)[0, 0].item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("opponent", "variance", "agreement"), VARIANTS)
def test_huge_gaps(dtype, opponent, variance, agreement):
    scores_BK = torch.tensor([[-1e6, -1e6 - 1], [0.0, 1], [1e6, 1e6 + 1]], dtype=dtype)
    options = {"opponent": opponent, "variance": variance, "agreement": agreement}
    right = fidelity_reward(scores_BK, torch.tensor([1.0, 2, 3]), **options)
    wrong = fidelity_reward(scores_BK, torch.tensor([3.0, 2, 1]), **options)
    assert (right == 1).all()
    assert (wrong == 0).all()


@pytest.mark.parametrize("opponent", ["mean", "each"])
@pytest.mark.parametrize("z", [3.0, 6.0, 8.0, 12.0])
def test_float32_keeps_the_tail(opponent, z):
    """A response on the wrong side by z still earns sqrt(Phi(-z)); 1 - Phi(z) would be 0 by z = 6."""
    q = 1 + z * math.sqrt(2)
    scores_BK = torch.tensor([[q, q], [1.0, 1.0]])
    reward_BK = fidelity_reward(scores_BK, torch.tensor([1.0, 2.0]), variance="unit", gamma=0.0, opponent=opponent)
    assert reward_BK.dtype == torch.float32
    expected = math.sqrt(phi(-z))
    assert reward_BK[0, 0].item() == pytest.approx(expected, rel=1e-4)
    assert reward_BK[1, 0].item() == pytest.approx(expected, rel=1e-4)


def test_float32_agrees_with_float64():
    scores_BK, mos_B = batch(8)
    for opponent in ("mean", "each"):
        single = fidelity_reward(scores_BK.float(), mos_B, opponent=opponent)
        double = fidelity_reward(scores_BK, mos_B.float(), opponent=opponent)
        assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
        close(single.double(), double, atol=1e-5)


def test_opinions_are_ordered_in_their_own_precision():
    scores_BK = torch.tensor([[1.0, 1.0], [5.0, 5.0]])
    assert (fidelity_reward(scores_BK, torch.tensor([1.0, 1.0 + 1e-9], dtype=torch.float64)) == 1).all()


def published_reward(scores_BK: Tensor, mos_B: Tensor) -> Tensor:
    """The formula of the published code: 1e-6 beside the variances and under both roots."""
    normal, epsilon = torch.distributions.Normal(0.0, 1.0), 1e-6
    reward_BK = torch.zeros_like(scores_BK)
    B, K = scores_BK.shape
    for i, k, j in itertools.product(range(B), range(K), range(B)):
        if i == j:
            continue
        spread = torch.sqrt(scores_BK[i].var() + scores_BK[j].var() + epsilon)
        p_k = normal.cdf((scores_BK[i, k] - scores_BK[j].mean()) / spread)
        p = step((mos_B[i] - mos_B[j]).item())
        fidelity = torch.sqrt(p * p_k + epsilon) + torch.sqrt((1 - p) * (1 - p_k) + epsilon)
        reward_BK[i, k] += fidelity / (B - 1)
    return reward_BK


def test_root_epsilon_gives_the_published_numbers():
    scores_BK, mos_B = batch(9)
    close(fidelity_reward(scores_BK, mos_B, root_epsilon=1e-6), published_reward(scores_BK, mos_B))
    sure_BK, order_B = torch.tensor([[1.0, 1.0], [5.0, 5.0]], dtype=torch.float64), torch.tensor([1.0, 2.0])
    assert fidelity_reward(sure_BK, order_B, root_epsilon=1e-6).max().item() == pytest.approx(1.001, abs=1e-6)
    assert fidelity_reward(sure_BK, order_B).max().item() == 1.0


@pytest.mark.parametrize(("opponent", "limit_ms"), [("mean", 10), ("each", 60)])
def test_is_fast(opponent, limit_ms):
    scores_BK = 1 + 4 * torch.rand(128, 6, generator=torch.Generator().manual_seed(0))
    mos_B, dataset_B = scores_BK.mean(1), torch.arange(128) % 3
    threads, taken = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for _ in range(11):
            start = time.thread_time()  # of this thread alone: other processes do not count
            fidelity_reward(scores_BK, mos_B, dataset_B=dataset_B, opponent=opponent)
            taken.append(time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    assert 1000 * statistics.median(taken) < limit_ms


def pair_oracle(scores_BK: Tensor, mos_B: Tensor, readable_BK: Tensor | None, dataset_B: Tensor | None) -> float:
    rows, mos = readable_rows(scores_BK, readable_BK), mos_B.tolist()
    hits = []
    for i, j in itertools.combinations(range(len(mos)), 2):
        same = dataset_B is None or dataset_B[i] == dataset_B[j]
        if same and rows[i] and rows[j] and mos[i] != mos[j]:
            order = step(statistics.fmean(rows[i]) - statistics.fmean(rows[j]))
            hits.append(0.5 if order == 0.5 else float(order == step(mos[i] - mos[j])))
    return statistics.fmean(hits) if hits else nan


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("readable_BK", [None, MASK], ids=["all", "masked"])
@pytest.mark.parametrize("dataset_B", [None, DATASET], ids=["one", "three"])
def test_pair_accuracy_equals_the_loops(seed, readable_BK, dataset_B):
    scores_BK, mos_B = batch(seed)
    scores_BK[0, 0], scores_BK[7, 3] = nan, inf
    accuracy = pair_accuracy(scores_BK, mos_B, readable_BK=readable_BK, dataset_B=dataset_B)
    assert accuracy.item() == pytest.approx(pair_oracle(scores_BK, mos_B, readable_BK, dataset_B), abs=1e-12)


def test_pair_accuracy_by_hand():
    mos_B = torch.tensor([1.0, 2.0, 2.0, 4.0])
    scores_BK = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    assert pair_accuracy(scores_BK, mos_B).item() == 1
    assert pair_accuracy(-scores_BK, mos_B).item() == 0
    assert pair_accuracy(torch.full((4, 3), 3.1), mos_B).item() == 0.5
    scores_BK[3] = 2.5  # of five pairs with different MOS, (1,2) (1,3) (1,4) (2,4) right, (3,4) wrong
    assert pair_accuracy(scores_BK, mos_B).item() == pytest.approx(4 / 5)
    assert pair_accuracy(scores_BK, torch.ones(4)).isnan()
    assert pair_accuracy(scores_BK[:1], mos_B[:1]).isnan()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("scores_BK", {"scores_BK": torch.ones(4)}),
        ("scores_BK", {"scores_BK": torch.ones(4, 3, 1)}),
        ("scores_BK", {"scores_BK": torch.ones(4, 3, dtype=torch.int64)}),
        ("scores_BK", {"scores_BK": torch.ones(4, 3, dtype=torch.bfloat16)}),
        ("K = 1", {"scores_BK": torch.ones(4, 1), "readable_BK": None}),
        ("mos_B", {"mos_B": torch.ones(3)}),
        ("mos_B", {"mos_B": torch.ones(4, 1)}),
        ("mos_B", {"mos_B": torch.ones(4, dtype=torch.int64)}),
        ("mos_B", {"mos_B": torch.tensor([1, 2, 3, nan])}),
        ("mos_std_B", {"mos_std_B": torch.ones(5)}),
        ("mos_std_B", {"mos_std_B": torch.tensor([1, 1, 1, -0.1])}),
        ("mos_std_B", {"mos_std_B": torch.tensor([1, 1, 1, inf])}),
        ("readable_BK", {"readable_BK": torch.ones(4, 3)}),
        ("readable_BK", {"readable_BK": torch.ones(3, 4, dtype=torch.bool)}),
        ("dataset_B", {"dataset_B": torch.zeros(4)}),
        ("dataset_B", {"dataset_B": torch.zeros(3, dtype=torch.int64)}),
        ("dataset_B", {"dataset_B": torch.zeros(4, dtype=torch.bool)}),
        ("opponent", {"opponent": "median"}),
        ("variance", {"variance": "one"}),
        ("agreement", {"agreement": "hinge"}),
        ("gamma", {"gamma": -1e-6}),
        ("gamma", {"gamma": nan}),
        ("root_epsilon", {"root_epsilon": -1e-6}),
    ],
)
def test_wrong_arguments_are_named(name, change):
    arguments: dict[str, Any] = {
        "scores_BK": torch.rand(4, 3),
        "mos_B": torch.rand(4),
        "readable_BK": torch.ones(4, 3, dtype=torch.bool),
        "dataset_B": torch.zeros(4, dtype=torch.int64),
        "mos_std_B": torch.rand(4),
    }
    fidelity_reward(**arguments)
    with pytest.raises(ValueError, match=name):
        fidelity_reward(**(arguments | change))


def test_pair_accuracy_checks_its_arguments():
    with pytest.raises(ValueError, match="K = 0"):
        pair_accuracy(torch.ones(4, 0), torch.ones(4))
    with pytest.raises(ValueError, match="mos_B"):
        pair_accuracy(torch.ones(4, 1), torch.ones(3))
