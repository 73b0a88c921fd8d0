"""Scores of many pictures from comparisons among them, by maximum a posteriori (MAP) estimation.

C is (N, N) over N pictures: C[i, j] is how often, or with what probability, picture i was preferred to picture j. The
scores maximise

    sum_ij C_ij log F(s_i - s_j) - prior / 2 sum_i s_i^2

with F the normal distribution function (Thurstone's Case V, with the standard deviation of a difference as the unit) or
the logistic one (Bradley and Terry). The normal prior makes it strictly concave, so there is one optimum, its scores
sum to 0, and a picture in no comparison is at 0. Compare2Score (arXiv 2405.19298) has the normal one with prior = 1;
its published code takes log max(F, 1e-6), which has no gradient beyond 4.75, and a fixed number of steps of Adam.

Nothing saturates here: the maximum is found by the derivatives of log F alone, which are computed without F.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.sparse import coo_array, csr_array, diags_array, issparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import cg
from scipy.special import erfcx, expit

from vqr1.comparison.words import check_probabilities

# In scores. The step of Newton's method is the distance to the optimum but for its square, so the step that is this
# short is the last.
EXACT = 1e-8
NEAR = 1e-4  # steps this short are taken whole: no curvature changes by more than a fraction over them
MOST_STEPS = 200
MOST_PER_PRIOR = 1e8  # comparisons of a pair: beyond, rounding moves scores by more than EXACT


class Link(StrEnum):
    """How a gap between two scores becomes a probability."""

    normal = "normal"  # Thurstone's Case V
    logistic = "logistic"  # Bradley and Terry


def link_derivatives(gap: np.ndarray, link: Link | str) -> tuple[np.ndarray, np.ndarray]:
    """The first derivative of log F at a gap between scores, and minus the second.

        normal:    F'/F = phi / Phi (Mills' ratio, inverted),  r (r + gap)
        logistic:  F'/F = 1 - F,                               F (1 - F)

    Both are positive, to relative accuracy for gaps of any size that is not positive; for large positive ones they
    tend to 0. Raises ValueError for another link.

        >>> link_derivatives(np.array([0.0]), "logistic")
        (array([0.5]), array([0.25]))
    """
    if link == Link.logistic:
        return expit(-gap), expit(gap) * expit(-gap)
    if link != Link.normal:
        raise ValueError(f"link={link!r} is unknown: use one of {', '.join(Link)}")
    ratio = math.sqrt(2 / math.pi) / erfcx(-math.sqrt(0.5) * gap)  # 1 / inf = 0 beyond a gap of 37
    # Far out the sum cancels; 1 - 1 / gap^2 is then exact to rounding.
    far = np.minimum(gap, -1e4)
    return ratio, np.where(gap < -1e4, 1 - 1 / far**2, ratio * (ratio + gap))


@dataclass(frozen=True)
class Parts:
    """The parts of a comparison graph: no picture of one was compared, however indirectly, with one of another.

    Scores are comparable within a part. Between two parts only the prior ties them: each sums to 0 by itself.
    """

    of_picture: np.ndarray  # (N,) integers: the part of each picture, 0 the largest
    sizes: tuple[int, ...]  # pictures in each, falling; a picture in no comparison is a part of 1

    @property
    def connected(self) -> bool:
        return len(self.sizes) <= 1

    def in_words(self) -> str:
        """One sentence: whether all pictures are on one scale, and which are not."""
        if self.connected:
            return f"the comparisons join all {sum(self.sizes)} pictures"
        if self.sizes[0] == 1:
            return f"no comparison joins any two of the {len(self.sizes)} pictures, which all have score 0"
        alone = self.sizes.count(1)
        joined = self.sizes[: len(self.sizes) - alone]
        said = [f"{len(joined)} {'part' if len(joined) == 1 else 'parts'} of {_listed(joined)} pictures"] * bool(joined)
        if alone:
            said.append(f"{alone} {'picture' if alone == 1 else 'pictures'} in no comparison, with score 0")
        return (
            f"the comparisons fall into {' and '.join(said)}: scores of different parts have no common zero; "
            "ask for more pairs"
        )


def _listed(sizes: Sequence[int]) -> str:
    shown = [str(size) for size in sizes[:5]] + (["..."] if len(sizes) > 5 else [])
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


@dataclass(frozen=True)
class MapScores:
    """The scores that are most probable given comparisons, and whether these join all pictures."""

    scores: np.ndarray  # (N,) float64, higher = better, in standard deviations of a difference (normal link) or logits
    parts: Parts  # say `parts.in_words()` where it is not connected


def comparison_matrix(n: int, first_M: ArrayLike, second_M: ArrayLike, preference_M: ArrayLike) -> csr_array:
    """C of M comparisons: p is added to C[second, first] and 1 - p to C[first, second].

    Args:
        n: number of pictures.
        first_M, second_M: integers from 0 to n - 1, the pictures of each comparison. A pair may come several times.
        preference_M: p, the probability that the second is better (`preference`); 1/2 for a draw.

    Returns:
        C (n, n), sparse, float64, with a zero diagonal.

    Raises:
        ValueError: arrays of different length, a picture that is not there or is compared with itself, a preference
            that is no probability.

        >>> comparison_matrix(2, [0, 0], [1, 1], [1.0, 0.5]).toarray().tolist()
        [[0.0, 0.5], [1.5, 0.0]]
    """
    first, second = np.asarray(first_M), np.asarray(second_M)
    p = np.asarray(preference_M, dtype=float)
    if not (first.shape == second.shape == p.shape and p.ndim == 1):
        raise ValueError(
            f"{first.shape} first pictures, {second.shape} second ones and {p.shape} preferences: give one of each "
            "for every comparison"
        )
    for pictures in (first, second):
        if pictures.size and not np.issubdtype(pictures.dtype, np.integer):
            raise ValueError(f"pictures are given by their numbers, not as {pictures.dtype}")
        if pictures.size and not (pictures.min() >= 0 and pictures.max() < n):
            raise ValueError(f"a comparison of picture {pictures.min()} or {pictures.max()}: there are 0 to {n - 1}")
    if (first == second).any():
        raise ValueError(f"picture {first[first == second][0]} is compared with itself: leave such pairs out")
    check_probabilities(p)
    row, column = np.concatenate([second, first]), np.concatenate([first, second])
    entries = coo_array((np.concatenate([p, 1 - p]), (row.astype(np.int64), column.astype(np.int64))), shape=(n, n))
    return entries.tocsr()


def comparison_parts(C: ArrayLike | csr_array) -> Parts:
    """The parts of the graph that joins pictures i and j where C[i, j] + C[j, i] > 0. Raises as `map_scores`.

    Both the scores' meaning and Zermelo's condition for scores without a prior rest on it (Ford 1957).

        >>> comparison_parts([[0, 1, 0], [0, 0, 0], [0, 0, 0]]).sizes
        (2, 1)
    """
    return _parts(_checked(C))


def _parts(C: csr_array) -> Parts:
    number, label = connected_components(C, directed=False)
    sizes = np.bincount(label, minlength=number)
    order = np.argsort(-sizes, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(number)
    return Parts(rank[label], tuple(int(size) for size in sizes[order]))


def map_scores(C: ArrayLike | csr_array, *, link: Link | str = Link.normal, prior: float = 1.0) -> MapScores:
    """The scores of N pictures that maximise the module's posterior, by Newton's method with the exact Hessian.

    A step solves (prior I + Laplacian) p = gradient by conjugate gradients and is shortened to the maximum along p
    where it passes it, so every step ascends and the method converges from 0. Properties: permuting the pictures
    permutes the scores, C transposed negates them, C and prior scaled alike change nothing, more wins of a picture
    never lower its score.

    Args:
        C: (N, N), dense or scipy.sparse, finite and not negative, zero diagonal. Draws add 1/2 to both entries.
        link: "normal" (Thurstone's Case V) or "logistic" (Bradley and Terry).
        prior: the precision lambda of the normal prior on every score, positive.

    Returns:
        Scores with an error below 1e-8 (below rounding for well-posed ones), and the parts of the comparison graph.

    Raises:
        ValueError: C that is not square, has a negative or non-finite entry or one on the diagonal; a prior that is not
            positive or below 1e-8 of an entry; an unknown link.

    One win is one comparison, s_0 = -s_1, and F'/F(2 s_0) = s_0:

        >>> map_scores([[0, 1], [0, 0]]).scores.round(6).tolist()
        [0.382638, -0.382638]
    """
    C = _checked(C)
    if not 0 < prior < math.inf:
        raise ValueError(f"prior={prior} must be a positive number: without a prior some scores have no maximum")
    with np.errstate(over="ignore"):
        over_prior = C.data / prior
    if (over_prior > MOST_PER_PRIOR).any():
        raise ValueError(
            f"C has an entry of {C.data.max():g} for a prior of {prior:g}: over {MOST_PER_PRIOR:g} times the prior is "
            "lost in rounding; raise the prior"
        )
    parts = _parts(C)
    posterior = _Posterior(C, over_prior, parts, link)
    s = np.zeros(C.shape[0])
    for _ in range(MOST_STEPS):
        step = posterior.newton_step(s)
        size = float(np.abs(step).max())
        s = s + (step if size <= NEAR else posterior.length(s, step) * step)
        if size <= EXACT:
            return MapScores(s, parts)
    raise RuntimeError(f"no maximum after {MOST_STEPS} steps of Newton's method: the last one was {size}")


class _Posterior:
    """The posterior's derivatives, with C over the prior, so that the prior is 1."""

    def __init__(self, C: csr_array, over_prior: np.ndarray, parts: Parts, link: Link | str):
        self.won, self.lost = C.tocoo().coords
        self.count, self.link, self.n = over_prior, link, C.shape[0]
        self.part, self.size = parts.of_picture, np.asarray(parts.sizes)

    def _onto(self, weight: np.ndarray, picture: np.ndarray) -> np.ndarray:
        return np.bincount(picture, weight, minlength=self.n).astype(float)  # integers where there is none

    def _balanced(self, x: np.ndarray) -> np.ndarray:
        """With sum 0 in each part, as gradient and step have but for rounding, which many comparisons make large."""
        return x - (np.bincount(self.part, x) / self.size)[self.part]

    def newton_step(self, s: np.ndarray) -> np.ndarray:
        pull, curvature = link_derivatives(s[self.won] - s[self.lost], self.link)
        pull, curvature = self.count * pull, self.count * curvature
        gradient = self._balanced(self._onto(pull, self.won) - self._onto(pull, self.lost) - s)
        diagonal = 1 + self._onto(curvature, self.won) + self._onto(curvature, self.lost)
        one_way = coo_array((curvature, (self.won, self.lost)), shape=(self.n, self.n)).tocsr()
        minus_hessian = diags_array(diagonal) - one_way - one_way.T
        # A solution that is not exact is still uphill: the next step makes up for it.
        scale = diags_array(1 / diagonal)
        step, _ = cg(minus_hessian, gradient, rtol=1e-10, atol=0.0, M=scale, maxiter=10 * self.n)
        return self._balanced(step)

    def length(self, s: np.ndarray, step: np.ndarray) -> float:
        """How far to go along a step, at most 1: to the maximum along it."""
        gap, change = s[self.won] - s[self.lost], step[self.won] - step[self.lost]

        def slope(t: float) -> float:
            pull, _ = link_derivatives(gap + t * change, self.link)
            return float(self.count * pull @ change - (s + t * step) @ step)

        return 1.0 if slope(1.0) >= 0 else brentq(slope, 0.0, 1.0, rtol=1e-3)


def _checked(C: ArrayLike | csr_array) -> csr_array:
    matrix = csr_array(C if issparse(C) else np.asarray(C, dtype=float), dtype=float, copy=True)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.shape[0]:
        raise ValueError(f"C has shape {matrix.shape}: it is (pictures, pictures), preferred by row, rival by column")
    wrong = matrix.data[~((matrix.data >= 0) & (matrix.data < math.inf))]
    if wrong.size:
        raise ValueError(f"C has an entry of {wrong[0]}: it counts wins or sums probabilities, so from 0 up and finite")
    if matrix.diagonal().any():
        raise ValueError(f"C says that picture {matrix.diagonal().nonzero()[0][0]} was compared with itself")
    matrix.eliminate_zeros()
    return matrix
