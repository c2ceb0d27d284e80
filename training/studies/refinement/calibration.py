"""Whether p means what it says: how far its mean is off, and whether it is too sure of itself or not sure enough."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

Float = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_NEAREST = 1e-9  # to 0 and 1, where the logit has no end
_STEPS = 30
_HALVINGS = 20
_TOLERANCE = 1e-8


def in_the_large(p: Float, *, is_disease: Mask) -> float:
    """Mean p minus the share that is disease; 0 is perfect, above 0 p is too high."""
    return float(p.mean() - is_disease.mean())


def slope(p: Float, *, is_disease: Mask) -> float:
    """Slope of a logistic regression of the truth on the logit of p (Cox 1958), without regularisation.

    It is fitted by Newton's method with halved steps; with two coefficients that is far faster than a solver for many,
    and thousands of resamples ask for it.

    Args:
        p: Within 0-1, shape (lesion,).
        is_disease: The truth.

    Returns:
        1 is perfect; below 1 p is too near 0 and 1, above 1 not near enough. nan where the truth has one kind only, p
        is the same everywhere, or p tells the kinds apart without error: then no slope fits best.
    """
    raw = logit(np.clip(p, _NEAREST, 1.0 - _NEAREST))
    spread = float(raw.std())
    if spread < _TOLERANCE or is_disease.all() or not is_disease.any():
        return math.nan
    diseased, healthy = raw[is_disease], raw[~is_disease]
    if diseased.min() >= healthy.max() or diseased.max() <= healthy.min():
        return math.nan
    x, y = (raw - raw.mean()) / spread, is_disease.astype(np.float64)
    fitted = np.zeros(2)
    likelihood = _log_likelihood(fitted, x, y)
    for _ in range(_STEPS):
        expected = expit(fitted[0] + fitted[1] * x)
        weight = expected * (1.0 - expected)
        gradient = np.array([(y - expected).sum(), ((y - expected) * x).sum()])
        a, b, c = weight.sum(), (weight * x).sum(), (weight * x * x).sum()
        determinant = a * c - b * b
        if not determinant > 0.0:
            return math.nan
        step = np.array([c * gradient[0] - b * gradient[1], a * gradient[1] - b * gradient[0]]) / determinant
        if np.abs(step).max() < _TOLERANCE:
            return float(fitted[1] / spread)
        for _ in range(_HALVINGS):
            risen = _log_likelihood(fitted + step, x, y)
            if risen >= likelihood:
                break
            step = step / 2.0
        fitted, likelihood = fitted + step, risen
    return math.nan


def _log_likelihood(coefficients: Float, x: Float, y: Float) -> float:
    value = coefficients[0] + coefficients[1] * x
    return float((y * value - np.logaddexp(0.0, value)).sum())
