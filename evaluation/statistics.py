"""Means and medians with 95 % bootstrap confidence intervals, over patients."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 9999
SEED = 20250826  # any number; the same one gives the same interval again
FEWEST = 2  # patients; one says nothing about how much they differ


@dataclass(frozen=True)
class Interval:
    """An estimate over patients with its 95 % confidence interval.

    Attributes:
        value: The estimate; None when there was nothing to estimate it from.
        low: Lower end; None when fewer than two patients count.
        high: Upper end; None when fewer than two patients count.
        count: Number of patients that count.
    """

    value: float | None
    low: float | None
    high: float | None
    count: int


def mean_with_interval(values: Sequence[float | None], *, seed: int = SEED) -> Interval:
    """Mean over patients with its bootstrap interval; None is left out.

    Args:
        values: One number per patient, or None for one who has none.
        seed: Of the resampling.

    Raises:
        ValueError: A value is not finite.
    """
    return _with_interval(values, np.mean, seed=seed)


def median_with_interval(values: Sequence[float | None], *, seed: int = SEED) -> Interval:
    """Median over patients with its bootstrap interval; arguments and errors as in `mean_with_interval`."""
    return _with_interval(values, np.median, seed=seed)


def share_with_interval(parts: Sequence[int], wholes: Sequence[int], *, seed: int = SEED) -> Interval:
    """Sum of parts over sum of wholes, the patients resampled: a sensitivity, from lesions found and lesions there.

    A patient's lesions are alike, so it is the patients that are drawn again and not the lesions.

    Args:
        parts: Per patient.
        wholes: Per patient; one whose whole is 0 adds nothing and is left out.
        seed: Of the resampling.
    """
    pairs = np.array([(part, whole) for part, whole in zip(parts, wholes, strict=True) if whole], dtype=float)
    if not len(pairs):
        return Interval(value=None, low=None, high=None, count=0)

    def share(index: npt.NDArray[np.intp], axis: int) -> npt.NDArray[np.float64]:
        summed: npt.NDArray[np.float64] = pairs[index].sum(axis=axis - 1)  # scipy's last axis is the last but one here
        return summed[..., 0] / summed[..., 1]

    return _bootstrap(np.arange(len(pairs)), share, seed=seed)


def _with_interval(values: Sequence[float | None], statistic: Callable[..., object], *, seed: int) -> Interval:
    held = np.array([value for value in values if value is not None], dtype=float)
    if not np.isfinite(held).all():
        raise ValueError("values: must be finite or None")
    return _bootstrap(held, statistic, seed=seed) if held.size else Interval(value=None, low=None, high=None, count=0)


def _bootstrap(sample: npt.NDArray[np.generic], statistic: Callable[..., object], *, seed: int) -> Interval:
    """Percentile bootstrap: it stays within what was seen, so a Dice's interval never leaves [0, 1]."""
    value = float(np.asarray(statistic(sample, axis=-1)))
    if len(sample) < FEWEST:
        return Interval(value=value, low=None, high=None, count=len(sample))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # all the same: an interval of no width
        found = stats.bootstrap(
            (sample,), statistic, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="percentile",
            batch=1000, rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
    low, high = (value if math.isnan(end) else float(end) for end in (found.low, found.high))
    return Interval(value=value, low=low, high=high, count=len(sample))
