"""Disease and normal uptake out of the ensemble's probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from petct.labels import Label


@dataclass(frozen=True)
class Prediction:
    """What the ensemble says about each voxel of a PET.

    Attributes:
        ttb: Disease, bool, (z, y, x).
        normal: Physiological uptake, bool, (z, y, x).
    """

    ttb: npt.NDArray[np.bool_]
    normal: npt.NDArray[np.bool_]


def threshold(
    probabilities: npt.NDArray[np.float32], *, ttb_probability: float, normal_probability: float
) -> Prediction:
    """Cut the probabilities of disease and of normal uptake, each by its own limit, strictly above it.

    As the three probabilities of a voxel sum to 1, limits that sum to 1 or more (0.5 and 0.5, 0.25 and 0.75) make no
    voxel both. Lower limits can: such a voxel is in both masks here, and `regrow` removes it as normal uptake.

    Args:
        probabilities: P(background), P(ttb), P(normal), (3, z, y, x).
        ttb_probability: A voxel is ttb where P(ttb) is above this.
        normal_probability: A voxel is normal where P(normal) is above this.

    Raises:
        ValueError: The probabilities are not (3, z, y, x).
    """
    if probabilities.ndim != 4 or probabilities.shape[0] != len(Label):
        raise ValueError(f"probabilities: must be ({len(Label)}, z, y, x), got shape {probabilities.shape}")
    # Python floats, so that float32 probabilities are compared in float32 and a tie stays a tie.
    return Prediction(
        ttb=probabilities[Label.TTB] > float(ttb_probability),
        normal=probabilities[Label.NORMAL] > float(normal_probability),
    )
