"""Reinforcement learning to rank: scores and human opinions in, one reward per response out.

The answers to an image are compared with the answers to every other image of the batch. How surely a response
puts its image above a rival (Thurstone's model) is held against whether people put it there; the agreement,
averaged over the rivals, is the response's reward. Who may be compared is data, a mask over pairs, and no
assumption about how the batch was drawn.

Shapes stand in names: B images, K responses to each, R values that stand for a rival (its mean, or its K
scores). A second B runs over the rivals. Equation numbers are those of VisualQuality-R1 (arXiv 2505.14460).
"""

import math

import torch
from torch import Tensor

from vqr1.ranking_options import Agreement, Opponent, Variance


def fidelity_reward(
    scores_BK: Tensor,
    mos_B: Tensor,
    *,
    readable_BK: Tensor | None = None,
    dataset_B: Tensor | None = None,
    mos_std_B: Tensor | None = None,
    opponent: Opponent | str = Opponent.mean,
    variance: Variance | str = Variance.sample,
    agreement: Agreement | str = Agreement.fidelity,
    gamma: float = 1e-6,
    root_epsilon: float = 0.0,
) -> Tensor:
    """How well each response orders its image among the rivals of the batch (Eq. 1-3).

        p_k(i,j) = Phi((q_k(x_i) - mean q(x_j)) / sqrt(var q(x_i) + var q(x_j) + gamma))            (1)
        p(i,j)   = 1, 1/2, 0 as MOS(x_i) >, =, < MOS(x_j)                                           (2)
        r_k(x_i) = mean over rivals j of sqrt(p p_k) + sqrt((1 - p)(1 - p_k))                       (3)

    Args:
        scores_BK: q, float32 or float64. NaN and infinity count as unreadable.
        mos_B: mean opinion scores, higher = better, each on its dataset's own scale, in either dtype.
        readable_BK: bool. An unreadable response enters no mean or variance and earns NaN. None: all are
            readable.
        dataset_B: integers; only images of one dataset are rivals. None: all images are of one dataset.
        mos_std_B: standard deviation s of each MOS; then p = Phi(dMOS / sqrt(s_i^2 + s_j^2)), and (2) where
            both are zero. None: (2).
        opponent: "mean" is (1); "each" is the probability average (7): p_k is the mean over k' of (1) with
            q_k'(x_j) for the rival's mean.
        variance: "sample" is the unbiased variance of the readable scores, "unit" puts 1 for both images.
        agreement: "fidelity" is (3); "binary" earns 1 where q_k against the rival has the order of the MOS,
            1/2 on a tie of either, else 0; with "each", averaged over the rival's scores. It reads orders
            alone: variance, gamma, mos_std_B and root_epsilon do not enter.
        gamma: keeps (1) finite, and decides how large a gap is certain where neither image has any spread.
        root_epsilon: added under both roots of (3). 1e-6 gives the published code's rewards, up to 1.001.

    Returns:
        reward_BK in [0, 1], in the dtype of scores_BK. NaN for an unreadable response, and throughout an
        image that has fewer than two readable responses or no rival; such an image is no rival of another.

    Raises:
        ValueError: an argument of the wrong shape, dtype or range, K < 2, or an unknown option.

    Two pictures, three answers to each. People like the first better; its answer of 2.0 disagrees:

        >>> scores_BK = torch.tensor([[4.0, 3.5, 2.0], [2.5, 3.0, 2.0]], dtype=torch.float64)
        >>> mos_B = torch.tensor([4.2, 2.1])
        >>> fidelity_reward(scores_BK, mos_B).round(decimals=2).tolist()
        [[0.95, 0.9, 0.58], [0.85, 0.75, 0.92]]
        >>> fidelity_reward(scores_BK, mos_B, agreement="binary").tolist()
        [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    """
    _check_options(opponent, variance, agreement, gamma, root_epsilon)
    _check_inputs(scores_BK, mos_B, readable_BK, dataset_B, mos_std_B, fewest=2)
    scores_BK, readable_BK = _readable(scores_BK, readable_BK)
    mean_B, variance_B = _moments(scores_BK, readable_BK)
    if opponent == "mean":
        rival_BR, counted_BR = mean_B[:, None], readable_BK.any(1, keepdim=True)
    else:
        rival_BR, counted_BR = scores_BK, readable_BK
    gap_BKBR = scores_BK[:, :, None, None] - rival_BR

    if agreement == "binary":
        better_BKB = _mean_where(_step(gap_BKBR), counted_BR, dim=-1)
        agree_BKB = _expected_order(better_BKB, _step(_differences(mos_B)).to(scores_BK)[:, None, :])
    else:
        if variance == "unit":
            variance_B = torch.ones_like(variance_B)
        root_BB = (variance_B[:, None] + variance_B + gamma).sqrt()
        # With gamma = 0 and no spread the root is zero; the clamp then leaves the limit: 0, 1/2 or 1.
        z_BKBR = gap_BKBR / root_BB.clamp(min=torch.finfo(root_BB.dtype).tiny)[:, None, :, None]
        better_BKBR = _phi(z_BKBR)
        if opponent == "mean":
            better_BKB, worse_BKB = better_BKBR[..., 0], _phi(-z_BKBR[..., 0])
        else:
            # Score k of image i is below score r of image j as often as that one is above it: half the work.
            weight_BR = counted_BR / counted_BR.sum(1, keepdim=True).to(scores_BK)
            better_BKB = torch.einsum("ikjr,jr->ikj", better_BKBR, weight_BR)
            worse_BKB = torch.einsum("jrik,jr->ikj", better_BKBR, weight_BR)
        p_BB = _preference(mos_B, mos_std_B).to(scores_BK)
        agree_BKB = (p_BB[:, None, :] * better_BKB + root_epsilon).sqrt()
        agree_BKB += (p_BB.T[:, None, :] * worse_BKB + root_epsilon).sqrt()  # 1 - p(i,j) = p(j,i)

    comparable_BB = _comparable(readable_BK, dataset_B, fewest=2)
    reward_BK = _mean_where(agree_BKB, comparable_BB[:, None, :], dim=-1)
    return reward_BK.masked_fill(~readable_BK, math.nan)


def pair_accuracy(
    scores_BK: Tensor, mos_B: Tensor, *, readable_BK: Tensor | None = None, dataset_B: Tensor | None = None
) -> Tensor:
    """The share of pairs whose mean scores have the order of their MOS.

        mean over pairs i < j, MOS(x_i) != MOS(x_j), of 1[sign(mean q(x_i) - mean q(x_j)) = sign(dMOS)]

    with 1/2 where the means tie, over the pairs of one dataset. Arguments as in `fidelity_reward`, except
    that K = 1 and a single readable response suffice: a mean needs no second one.

    Returns:
        A scalar in [0, 1], in the dtype of scores_BK; NaN where there is no such pair.

    Raises:
        ValueError: an argument of the wrong shape or dtype.

    The third picture's mean score should be the lowest, and is the second of three: two pairs in order, one not.

        >>> scores_BK = torch.tensor([[4.0, 3.0], [2.0, 2.0], [2.0, 3.0]])
        >>> pair_accuracy(scores_BK, torch.tensor([4.0, 3.0, 1.0])).item() == torch.tensor(2 / 3).item()
        True
    """
    _check_inputs(scores_BK, mos_B, readable_BK, dataset_B, None, fewest=1)
    scores_BK, readable_BK = _readable(scores_BK, readable_BK)
    mean_B, _ = _moments(scores_BK, readable_BK)
    order_BB = _step(_differences(mos_B)).to(scores_BK)
    agree_BB = _expected_order(_step(_differences(mean_B)), order_BB)
    counted_BB = _comparable(readable_BK, dataset_B, fewest=1) & (order_BB != 0.5)
    return _mean_where(agree_BB, counted_BB, dim=(0, 1))  # (i, j) and (j, i) agree alike


def _readable(scores_BK: Tensor, readable_BK: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scores with zero for what cannot be read, so that every sum stays finite, and the mask of the rest."""
    finite_BK = scores_BK.isfinite()
    readable_BK = finite_BK if readable_BK is None else finite_BK & readable_BK
    return scores_BK.masked_fill(~readable_BK, 0), readable_BK


def _moments(scores_BK: Tensor, readable_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance over the readable scores; finite but meaningless where they are too few."""
    count_B1 = readable_BK.sum(1, keepdim=True)
    # Averaging distances from one of the scores keeps equal scores exact: their mean ties with them, and they
    # have no spread.
    anchor_B1 = scores_BK.gather(1, readable_BK.int().argmax(1, keepdim=True))
    mean_B1 = anchor_B1 + ((scores_BK - anchor_B1) * readable_BK).sum(1, keepdim=True) / count_B1.clamp(min=1)
    square_BK = ((scores_BK - mean_B1) * readable_BK).square()
    return mean_B1[:, 0], square_BK.sum(1) / (count_B1[:, 0] - 1).clamp(min=1)


def _comparable(readable_BK: Tensor, dataset_B: Tensor | None, *, fewest: int) -> Tensor:
    """Which (image, rival) pairs count: two images of one dataset, each with enough readable responses."""
    enough_B = readable_BK.sum(1) >= fewest
    comparable_BB = (enough_B[:, None] & enough_B).fill_diagonal_(False)
    return comparable_BB if dataset_B is None else comparable_BB & (dataset_B[:, None] == dataset_B)


def _preference(mos_B: Tensor, mos_std_B: Tensor | None) -> Tensor:
    """p(i,j): Eq. 2, or Phi of the MOS gap over its standard deviation where there is one."""
    gap_BB = _differences(mos_B)
    if mos_std_B is None:
        return _step(gap_BB)
    spread_BB = torch.hypot(mos_std_B[:, None], mos_std_B)
    certain_BB = spread_BB == 0
    return torch.where(certain_BB, _step(gap_BB), _phi(gap_BB / spread_BB.masked_fill(certain_BB, 1)))


def _differences(values_B: Tensor) -> Tensor:
    return values_B[:, None] - values_B


def _expected_order(better: Tensor, order: Tensor) -> Tensor:
    """Probability that two orders agree, 1/2 where either is a tie."""
    return order * better + (1 - order) * (1 - better)


def _step(gap: Tensor) -> Tensor:
    """1, 1/2, 0 as gap >, =, < 0."""
    return 0.5 * (gap.sign() + 1)


def _phi(z: Tensor) -> Tensor:
    """Standard normal distribution function, to relative accuracy in the lower tail.

    Take _phi(-z) for 1 - _phi(z), which in float32 is 0 by z = 6; so is torch.special.ndtr(-z).
    """
    return 0.5 * torch.erfc(-math.sqrt(0.5) * z)


def _mean_where(values: Tensor, counted: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Mean over the counted entries; NaN (0 / 0) where there is none."""
    return values.masked_fill(~counted, 0).sum(dim) / counted.sum(dim)


def _check_options(opponent: str, variance: str, agreement: str, gamma: float, root_epsilon: float) -> None:
    for name, value, kind in (
        ("opponent", opponent, Opponent),
        ("variance", variance, Variance),
        ("agreement", agreement, Agreement),
    ):
        if value not in list(kind):
            raise ValueError(f"{name}={value!r} is unknown: use one of {', '.join(kind)}")
    for name, number in (("gamma", gamma), ("root_epsilon", root_epsilon)):
        if not 0 <= number < math.inf:
            raise ValueError(f"{name}={number} must be zero or a small positive number")


def _check_inputs(
    scores_BK: Tensor,
    mos_B: Tensor,
    readable_BK: Tensor | None,
    dataset_B: Tensor | None,
    mos_std_B: Tensor | None,
    *,
    fewest: int,
) -> None:
    if scores_BK.ndim != 2 or scores_BK.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"scores_BK must be (images, responses) in float32 or float64, not {tuple(scores_BK.shape)} in "
            f"{scores_BK.dtype}: view the answers as one row per image and convert them"
        )
    B, K = scores_BK.shape
    if fewest > K:
        raise ValueError(f"scores_BK has K = {K} responses per image: sample at least {fewest}")
    if readable_BK is not None and (readable_BK.shape != (B, K) or readable_BK.dtype != torch.bool):
        raise ValueError(f"readable_BK must be bool of the shape of scores_BK, {(B, K)}")
    for name, values_B in (("mos_B", mos_B), ("mos_std_B", mos_std_B)):
        if values_B is None:
            continue
        if values_B.shape != (B,) or not values_B.is_floating_point():
            raise ValueError(f"{name} must hold one floating-point number for each of the {B} images")
        if not values_B.isfinite().all():
            raise ValueError(f"{name} must be finite: leave unlabelled images out of the batch")
    if mos_std_B is not None and (mos_std_B < 0).any():
        raise ValueError("mos_std_B must not be negative: give standard deviations, or None without them")
    if dataset_B is not None and (
        dataset_B.shape != (B,) or dataset_B.is_floating_point() or dataset_B.dtype == torch.bool
    ):
        raise ValueError(f"dataset_B must hold one integer for each of the {B} images: number the datasets")
