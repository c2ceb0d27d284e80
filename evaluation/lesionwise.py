"""Which lesions of the truth are found and which of the prediction are false: what the volumes of both are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from postprocessing.lesions import label_lesions
from postprocessing.shapes import require_shape


@dataclass(frozen=True)
class Lesions:
    """The lesions of one mask, in the order of their numbers, and which of them another mask touches.

    Attributes:
        numbered: 0 outside, 1 to n in the lesions, (z, y, x).
        voxels: Number of voxels of each lesion, shape (n,).
        is_touched: Whether the other mask has a voxel in it, shape (n,).
    """

    numbered: npt.NDArray[np.unsignedinteger]
    voxels: npt.NDArray[np.int64]
    is_touched: npt.NDArray[np.bool_]

    @property
    def count(self) -> int:
        """Number of lesions."""
        return len(self.voxels)

    @property
    def touched(self) -> int:
        """Number of lesions that the other mask touches."""
        return int(self.is_touched.sum())

    @property
    def untouched_voxels(self) -> int:
        """Number of voxels in lesions that the other mask does not touch."""
        return int(self.voxels[~self.is_touched].sum())


def find_lesions(mask: npt.NDArray[np.bool_], *, other: npt.NDArray[np.bool_]) -> Lesions:
    """Number the lesions (18-connected, as in the challenge's metrics) of a mask, and see which another mask touches.

    One common voxel is enough, as in the challenge's false-positive and false-negative volume.

    Args:
        mask: Disease, (z, y, x); empty gives no lesions.
        other: Disease after somebody else, same shape.

    Raises:
        ValueError: The mask is not 3D or the shapes differ.
    """
    require_shape(mask.shape, other=other)
    numbered, count = label_lesions(mask)
    is_touched = np.zeros(count + 1, dtype=bool)
    is_touched[numbered[mask & other]] = True
    voxels = np.bincount(numbered[mask], minlength=count + 1).astype(np.int64)
    return Lesions(numbered=numbered, voxels=voxels[1:], is_touched=is_touched[1:])


@dataclass(frozen=True)
class LesionScores:
    """What a curve of sensitivity over false positives is drawn from: the highest value in each predicted lesion.

    Attributes:
        true: For each true lesion the highest score of the predicted lesions that touch it; None when none does.
        false: The score of each predicted lesion that touches no true one.
    """

    true: tuple[float | None, ...]
    false: tuple[float, ...]


def score_lesions(predicted: Lesions, *, true: Lesions, values: npt.NDArray[np.floating]) -> LesionScores:
    """Score every lesion by the highest value in the predicted lesion: a probability, or SUV.

    Args:
        predicted: The prediction's lesions.
        true: The truth's lesions on the same grid.
        values: A finite number per voxel, same grid.

    Raises:
        ValueError: The shapes differ.
    """
    require_shape(predicted.numbered.shape, truth=true.numbered, values=values)
    inside = predicted.numbered > 0
    scores = np.full(predicted.count + 1, -np.inf)
    np.maximum.at(scores, predicted.numbered[inside], values[inside])
    both = inside & (true.numbered > 0)
    best = np.full(true.count + 1, -np.inf)
    np.maximum.at(best, true.numbered[both], scores[predicted.numbered[both]])
    return LesionScores(
        true=tuple(float(score) if score > -np.inf else None for score in best[1:]),
        false=tuple(scores[1:][~predicted.is_touched].tolist()),
    )
