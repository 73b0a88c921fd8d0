"""Scores read as the mean opinion scores of one dataset: a rising logistic curve, fitted on its validation part.

A policy's scores rank pictures; their scale is the policy's own. The curve is the four-parameter logistic of
:mod:`vqr1.evaluation.logistic`, told so that it rises::

    MOS(score) = low + (high - low) / (1 + exp(-(score - centre) / width)),    low < high, width > 0

It changes no ranking. It holds for pictures like those of the dataset: another one has another scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from vqr1.errors import UserError
from vqr1.evaluation.logistic import Fit, fit_logistic


@dataclass(frozen=True)
class MosMap:
    """A curve from a policy's scores to the MOS of one dataset. Raises ValueError for one that does not rise."""

    dataset: str
    low: float  # what the curve tends to for the lowest scores, on the MOS scale
    high: float  # and for the highest
    centre: float  # the score of the MOS half-way
    width: float  # on the scale of the scores
    pictures: int  # that it was fitted on
    fitted_from: float  # lowest and highest score of these: beyond, the curve is a guess
    fitted_to: float
    rmse: float  # on these pictures, on the MOS scale: four parameters were fitted to them, so test on others

    def __post_init__(self) -> None:
        numbers = [value for name, value in asdict(self).items() if name != "dataset"]
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in numbers):
            raise ValueError(f"a map to the MOS of {self.dataset} with what is no finite number: {numbers}")
        if not (self.low < self.high and self.width > 0):
            raise ValueError(
                f"the map to the MOS of {self.dataset} does not rise: low {self.low:g}, high {self.high:g}, "
                f"width {self.width:g}"
            )

    def __call__(self, scores: ArrayLike) -> np.ndarray:
        """The MOS of scores, float64 of their shape, within [low, high]. NaN stays NaN."""
        return Fit((self.high, self.low, self.centre, self.width)).curve(scores)

    def slope(self, scores: ArrayLike) -> np.ndarray:
        """The derivative of the curve, in MOS per score. Zero far from the centre, NaN for NaN."""
        with np.errstate(over="ignore"):
            z = np.abs((np.asarray(scores, dtype=float) - self.centre) / self.width)
        decay = np.exp(-z)  # at most 1
        return (self.high - self.low) / self.width * decay / (1 + decay) ** 2

    def std(self, scores: ArrayLike, stds: ArrayLike) -> np.ndarray:
        """The standard deviations of scores on the MOS scale, to first order: slope times std."""
        return self.slope(scores) * np.asarray(stds, dtype=float)

    def inverse(self, mos: ArrayLike) -> np.ndarray:
        """The scores that have these MOS. No score has a MOS of ``low`` or less, nor of ``high`` or more: there the
        limit is taken, minus or plus infinity, so that the inverse rises throughout. NaN stays NaN."""
        y = np.asarray(mos, dtype=float)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside = self.centre + self.width * (np.log(y - self.low) - np.log(self.high - y))
        return np.where(y <= self.low, -np.inf, np.where(y >= self.high, np.inf, inside))

    def record(self) -> dict[str, Any]:
        """Plain values, for JSON or the front matter of a model card; see `from_record`."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> MosMap:
        """The map of `record`. Raises UserError for what is none."""
        names = [field.name for field in fields(cls)]
        if not isinstance(record, Mapping) or set(record) != set(names):
            raise UserError(
                f"not a map from scores to MOS: {record!r}; its fields are {', '.join(names)}; fit it again"
            )
        try:
            return cls(**record)
        except (ValueError, TypeError) as error:
            raise UserError(f"not a map from scores to MOS ({error}); fit it again") from error

    def in_words(self) -> str:
        """One sentence for a model card."""
        return (
            f"MOS of {self.dataset} = {self.low:.4g} + {self.high - self.low:.4g} / "
            f"(1 + exp(-(score - {self.centre:.4g}) / {self.width:.4g})), fitted on {self.pictures} pictures with "
            f"scores from {self.fitted_from:.4g} to {self.fitted_to:.4g} (RMSE {self.rmse:.3g} on these)"
        )


def fit_mos_map(scores: ArrayLike, mos: ArrayLike, dataset: str) -> MosMap:
    """The curve from n scores to the n MOS of a dataset, higher = better, by least squares. Leave unreadable ones out.

    Raises UserError, with the reason, where there is no such curve or the best one falls: a policy that ranks the wrong
    way round is not put right by a map.
    """
    fit = fit_logistic(scores, mos)
    if fit.reason:
        raise UserError(
            f"no map from scores to the MOS of {dataset}: {fit.reason}; fit on a larger validation part, of pictures "
            "that the policy rates differently"
        )
    b1, b2, b3, b4 = fit.parameters
    low, high, width = (b2, b1, b4) if b4 > 0 else (b1, b2, -b4)  # the same curve, told from the other end
    if low >= high:
        raise UserError(
            f"no map from scores to the MOS of {dataset}: the curve falls from {low:g} to {high:g}, so higher scores "
            "go with worse pictures; see the SRCC of vqr1 evaluate, and whether the MOS have higher = better"
        )
    x = np.asarray(scores, dtype=float)
    return MosMap(dataset, low, high, b3, width, len(x), float(x.min()), float(x.max()), fit.rmse)
