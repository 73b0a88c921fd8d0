"""Is one setting better than another? A paired test over the seeds that both were run with.

Runs with one seed draw the same pictures in the same order from the same start, so their difference has less spread
than either. A study has few seeds, so two tests are given. The t test assumes differences from a normal distribution.
The sign-flip test (Fisher's randomisation test of paired differences) assumes that a difference is as likely to be
negative as positive, and counts all 2^n signs; with n pairs its p is never below 2 / 2^n.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.05  # that a p has to reach
EXACT = 16  # pairs up to which every combination of signs is counted
DRAWN = 9999  # combinations that are drawn where there are more


@dataclass(frozen=True)
class SeedTest:
    """One setting less another. NaN where there are too few pairs for the figure."""

    pairs: int
    mean: float
    spread: float  # sample standard deviation of the differences
    low: float  # 95 % interval of the mean, by Student's t
    high: float
    t_p: float  # paired t test, two-sided; NaN too where all differences are equal
    sign_p: float  # sign-flip test, two-sided


def paired_seeds(differences: Sequence[float]) -> SeedTest:
    """The test of ``differences``, one number per seed."""
    n = len(differences)
    nan = math.nan
    if n < 2:
        return SeedTest(n, differences[0] if n else nan, nan, nan, nan, nan, nan)
    from scipy import stats

    values = np.asarray(differences, dtype=float)
    mean, spread = statistics.fmean(differences), statistics.stdev(differences)
    exact = n <= EXACT
    flipped = stats.permutation_test(
        (values,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf if exact else DRAWN,
        rng=0,
    )
    if spread <= 1e-9 * max(map(abs, differences)):  # equal but for rounding
        return SeedTest(n, mean, spread, mean, mean, nan, float(flipped.pvalue))
    p = float(stats.ttest_1samp(values, 0.0).pvalue)
    return SeedTest(n, mean, spread, *student_interval(mean, spread, n), p, float(flipped.pvalue))


def student_interval(mean: float, spread: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a mean over ``n`` runs, by Student's t; 2 runs or more."""
    from scipy import stats

    half = float(stats.t.ppf(0.975, n - 1)) * spread / math.sqrt(n)
    return mean - half, mean + half


def least_p(pairs: int) -> float:
    """The smallest p that the sign-flip test has with so many pairs."""
    return min(1.0, 2.0 / 2**pairs)


def pairs_needed(comparisons: int = 1) -> int:
    """The fewest pairs with which the sign-flip test can reach :data:`LEVEL` after Holm's correction."""
    pairs = 1
    while least_p(pairs) * comparisons > LEVEL:
        pairs += 1
    return pairs


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p of several tests, in their order: smallest first, p (m - i), never below the one before. NaN is
    no test and stays NaN.
    """
    tests = sorted((i for i in range(len(p)) if not math.isnan(p[i])), key=lambda i: p[i])
    adjusted = [math.nan] * len(p)
    largest = 0.0
    for rank, i in enumerate(tests):
        largest = max(largest, min(1.0, (len(tests) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted
