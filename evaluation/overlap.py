"""Dice: twice the overlap of two masks over the sum of their sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from petct.organs import Organ


def dice(prediction: npt.NDArray[Any], *, truth: npt.NDArray[Any]) -> float:
    """Dice of two masks, 2 |prediction and truth| / (|prediction| + |truth|).

    Args:
        prediction: A mask; what is not 0 is inside.
        truth: A mask of the same shape.

    Returns:
        A number in [0, 1], 0 when only one of them is empty; nan when both are, as in the challenge's own metrics.

    Raises:
        ValueError: The shapes differ.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction: must have the truth's shape {truth.shape}, got {prediction.shape}")
    predicted, true = prediction.astype(bool, copy=False), truth.astype(bool, copy=False)
    size = np.count_nonzero(predicted) + np.count_nonzero(true)
    return 2.0 * np.count_nonzero(predicted & true) / size if size else math.nan


def organ_dice(prediction: npt.NDArray[np.uint8], *, truth: npt.NDArray[np.uint8]) -> dict[Organ, float]:
    """Dice of each of the eight organ classes, in their order.

    Args:
        prediction: `Organ` values and 0.
        truth: The same, of the same shape.

    Returns:
        Dice by organ; nan for an organ that neither has.

    Raises:
        ValueError: The shapes differ.
    """
    return {organ: dice(prediction == organ, truth=truth == organ) for organ in Organ}


def mean_dice(scores: Mapping[Organ, float]) -> float:
    """Mean over the organs that have a Dice; nan when none has.

    An organ that only the prediction or only the truth has counts with its Dice of 0.
    """
    defined = [score for score in scores.values() if not math.isnan(score)]
    return math.fsum(defined) / len(defined) if defined else math.nan
