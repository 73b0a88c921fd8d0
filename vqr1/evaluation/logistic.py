"""The four-parameter logistic curve from predictions to opinion scores, and what is measured after it.

The Video Quality Experts Group fits it before Pearson's correlation, so that a model is not blamed for a curved scale
(VQEG, Final report on the validation of objective models of video quality assessment, 2000)::

    y(x) = (b1 - b2) / (1 + exp(-(x - b3) / b4)) + b2

The curve may fall, so it hides a wrong sign: read the SRCC beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from vqr1.evaluation.correlation import is_constant, plcc

PARAMETERS = 4
EXACT = 1e-9  # of the variance: what is left of it then is no reason to go on
NAN = float("nan")


@dataclass(frozen=True)
class Fit:
    """A fitted curve and how well opinion scores follow it; or, with NaN in place of numbers, why there is none."""

    parameters: tuple[float, float, float, float] = (NAN, NAN, NAN, NAN)  # b1 to b4
    plcc: float = NAN
    rmse: float = NAN  # on the scale of the opinion scores
    reason: str | None = None  # why the fit is missing

    def curve(self, predictions: ArrayLike) -> np.ndarray:
        """The opinion scores that the curve gives to predictions."""
        b1, b2, b3, b4 = self.parameters
        with np.errstate(over="ignore", invalid="ignore"):
            return b2 + (b1 - b2) * _logistic((np.asarray(predictions, dtype=float) - b3) / b4)


def fit_logistic(predictions: ArrayLike, mos: ArrayLike) -> Fit:
    """Least squares from the customary start (max y, min y, mean x, std x / 4). Never raises: see ``reason``."""
    x, y = np.asarray(predictions, dtype=float), np.asarray(mos, dtype=float)
    reason = _refused(x, y)
    if reason:
        return Fit(reason=reason)
    with np.errstate(all="ignore"):  # what overflows is not finite, and said to be so
        scale_x, scale_y = _scale(x), _scale(y)
        try:
            solution = _solve((x / scale_x[1]) - scale_x[0], (y / scale_y[1]) - scale_y[0])
        except (ValueError, np.linalg.LinAlgError) as error:
            return Fit(reason=f"the logistic fit failed ({error})")
        if solution is None:
            return Fit(reason="the logistic fit did not converge")
        return _measured(x, y, _unscaled(solution, scale_x, scale_y))


def _refused(x: np.ndarray, y: np.ndarray) -> str | None:
    if x.shape != y.shape or x.ndim != 1:
        return f"{x.shape} predictions for {y.shape} opinion scores"
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return "a prediction or an opinion score is not finite"
    if len(x) <= PARAMETERS:
        return f"{len(x)} pictures for {PARAMETERS} parameters"
    if is_constant(x):
        return "constant predictions"
    return "constant opinion scores" if is_constant(y) else None


def _scale(values: np.ndarray) -> tuple[float, float]:
    """Mean and unit, so that ``values / unit - mean`` has mean 0 and std 1, whatever the size of the values."""
    largest = float(np.abs(values).max())
    scaled = values / largest
    spread = float(scaled.std())
    return float(scaled.mean()) / spread, largest * spread


def _logistic(z: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-z)), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * z))


def _solve(x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """(b1, b2, b3, 1 / b4) for x and y of mean 0 and std 1; None where no minimum was found.

    1 / b4 in place of b4, since a flat curve is then a number like any other. Data on a straight line or a step are met
    only by ever larger parameters; the search ends where next to nothing is left.
    """
    from scipy.optimize import least_squares  # a second to load: only where a curve is fitted

    def residuals(b: np.ndarray) -> np.ndarray:
        return b[1] + (b[0] - b[1]) * _logistic(b[3] * (x - b[2])) - y

    def jacobian(b: np.ndarray) -> np.ndarray:
        s = _logistic(b[3] * (x - b[2]))
        steep = (b[0] - b[1]) * s * (1 - s)
        return np.stack([s, 1 - s, -b[3] * steep, (x - b[2]) * steep], axis=1)

    start = np.array([y.max(), y.min(), 0.0, 4.0])
    found = least_squares(residuals, start, jacobian, method="lm", ftol=1e-7, max_nfev=2000)
    ended = found.success or 2 * found.cost < EXACT * len(y)
    return found.x if ended and np.isfinite(found.x).all() and found.x[3] != 0 else None


def _unscaled(b: np.ndarray, scale_x: tuple[float, float], scale_y: tuple[float, float]) -> tuple[float, ...]:
    (mean_x, unit_x), (mean_y, unit_y) = scale_x, scale_y
    return (
        float((b[0] + mean_y) * unit_y),
        float((b[1] + mean_y) * unit_y),
        float((b[2] + mean_x) * unit_x),
        float(unit_x / b[3]),
    )


def _measured(x: np.ndarray, y: np.ndarray, parameters: tuple[float, ...]) -> Fit:
    b1, b2, b3, b4 = parameters
    fit = Fit((b1, b2, b3, b4))
    fitted = fit.curve(x)
    rmse = float(np.sqrt(np.mean((fitted - y) ** 2)))
    if not np.isfinite(rmse):
        return Fit(reason="the logistic fit is not finite")
    if is_constant(fitted):
        return Fit(reason="the logistic fit is flat")
    return Fit((b1, b2, b3, b4), plcc(fitted, y), rmse)
