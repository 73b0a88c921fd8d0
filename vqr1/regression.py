"""Q-Insight's reward, the baseline that learning to rank is measured against.

Shapes as in `ranking`: B images, K responses to each.
"""

import math

import torch
from torch import Tensor

LOWEST, HIGHEST = 1.0, 5.0  # the scale that the prompt asks for


def regression_reward(
    scores_BK: Tensor,
    mos_B: Tensor,
    mos_low_B: Tensor,
    mos_high_B: Tensor,
    *,
    threshold: float = 0.35,
    readable_BK: Tensor | None = None,
) -> Tensor:
    """Whether each score hits the MOS, rescaled linearly to the scale of the answers.

        r_k(x_i) = 1 if |q_k(x_i) - (1 + 4 (MOS(x_i) - low) / (high - low))| < threshold, else 0

    Source: the score reward of Q-Insight (arXiv 2503.22679), the baseline in Table 4 of
    VisualQuality-R1, whose footnote 3 has the rescaling. The ranking reward needs no scale and no threshold.

    Args:
        scores_BK: q, float32 or float64. NaN and infinity count as unreadable.
        mos_B: mean opinion scores, each on its dataset's own scale, higher = better.
        mos_low_B, mos_high_B: the ends of that scale, for each image.
        threshold: the open half-width of a hit, on the scale [1, 5].
        readable_BK: bool; None: all are readable.

    Returns:
        reward_BK, 0 or 1 in the dtype of scores_BK; NaN for an unreadable response.

    Raises:
        ValueError: an argument of the wrong shape or dtype, a MOS outside its scale, threshold <= 0.
    """
    _check(scores_BK, mos_B, mos_low_B, mos_high_B, threshold, readable_BK)
    readable_BK = scores_BK.isfinite() if readable_BK is None else readable_BK & scores_BK.isfinite()
    target_B = LOWEST + (HIGHEST - LOWEST) * (mos_B - mos_low_B) / (mos_high_B - mos_low_B)
    hit_BK = (scores_BK - target_B[:, None]).abs() < threshold
    return hit_BK.to(scores_BK.dtype).masked_fill(~readable_BK, math.nan)


def _check(
    scores_BK: Tensor,
    mos_B: Tensor,
    mos_low_B: Tensor,
    mos_high_B: Tensor,
    threshold: float,
    readable_BK: Tensor | None,
) -> None:
    if scores_BK.ndim != 2 or scores_BK.dtype not in (torch.float32, torch.float64):
        raise ValueError("scores_BK must be (images, responses) in float32 or float64: one row per image")
    for name, values_B in (("mos_B", mos_B), ("mos_low_B", mos_low_B), ("mos_high_B", mos_high_B)):
        if values_B.shape != scores_BK.shape[:1] or not values_B.is_floating_point():
            raise ValueError(f"{name} must hold one floating-point number for each row of scores_BK")
    if readable_BK is not None and (readable_BK.shape != scores_BK.shape or readable_BK.dtype != torch.bool):
        raise ValueError("readable_BK must be bool of the shape of scores_BK")
    if not (mos_low_B < mos_high_B).all():
        raise ValueError("mos_low_B must lie below mos_high_B: give the ends of each dataset's scale")
    if not ((mos_low_B <= mos_B) & (mos_B <= mos_high_B)).all():
        raise ValueError("mos_B must lie between mos_low_B and mos_high_B: correct the scale of its dataset")
    if not threshold > 0:
        raise ValueError(f"threshold={threshold} must be positive: no score would hit (0.35 in Q-Insight)")
