"""Lesions: the connected components of a disease mask, and what is measured on each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import cc3d
import numpy as np
import numpy.typing as npt

from postprocessing.shapes import require_shape

CONNECTIVITY: Final = 18  # faces and edges, as in the challenge's metrics; voxels that share a corner only are apart


@dataclass(frozen=True)
class Lesion:
    """One connected component of a disease mask.

    Attributes:
        number: Its value in the array of lesions, from 1.
        voxels: Number of voxels.
        volume_ml: Volume in mL.
        suv_max: Highest SUV.
        suv_mean: Mean SUV.
        labels: TotalSegmentator labels that it touches, that is, in which at least one of its voxels lies; without 0.
        centre_zyx: Its centroid in voxel indices (z, y, x).
    """

    number: int
    voxels: int
    volume_ml: float
    suv_max: float
    suv_mean: float
    labels: frozenset[int]
    centre_zyx: tuple[float, float, float]


def label_lesions(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.unsignedinteger], int]:
    """Number the lesions of a mask.

    Args:
        mask: Disease, (z, y, x).

    Returns:
        Unsigned integers, (z, y, x), 0 outside and 1 to n in the lesions; and n, which is 0 for an empty mask.

    Raises:
        ValueError: The mask is not 3D.
    """
    require_shape(mask.shape)
    lesions, count = cc3d.connected_components(mask.astype(bool, copy=False), connectivity=CONNECTIVITY, return_N=True)
    return lesions, int(count)


def measure_lesions(
    lesions: npt.NDArray[np.unsignedinteger],
    *,
    pet_suv: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    voxel_ml: float,
) -> tuple[Lesion, ...]:
    """Measure every lesion, in the order of their numbers.

    Only the lesions' own voxels are read out, so time and memory do not grow with the number of lesions times the grid.

    Args:
        lesions: Numbered lesions as from `label_lesions`, (z, y, x).
        pet_suv: PET in SUV, (z, y, x).
        labels: TotalSegmentator labels, 0 where there is no anatomy, (z, y, x).
        voxel_ml: Volume of a voxel in mL.

    Returns:
        One record per lesion; none for an empty array.

    Raises:
        ValueError: The arrays differ in shape.
    """
    require_shape(lesions.shape, pet_suv=pet_suv, labels=labels)
    inside = lesions > 0
    if not inside.any():
        return ()
    statistics: dict[str, Any] = dict(cc3d.statistics(lesions, no_slice_conversion=True))
    voxels, centres_zyx = statistics["voxel_counts"], statistics["centroids"]
    count = len(voxels) - 1
    number = lesions[inside].astype(np.int64)
    suv = pet_suv[inside].astype(np.float64)
    suv_max = np.full(count + 1, -np.inf)
    np.maximum.at(suv_max, number, suv)
    suv_sum = np.bincount(number, weights=suv, minlength=count + 1)
    touched = _labels_touched(number, labels[inside], count=count)
    return tuple(
        Lesion(
            number=n,
            voxels=int(voxels[n]),
            volume_ml=int(voxels[n]) * voxel_ml,
            suv_max=float(suv_max[n]),
            suv_mean=float(suv_sum[n] / voxels[n]),
            labels=touched[n],
            centre_zyx=(float(centres_zyx[n, 0]), float(centres_zyx[n, 1]), float(centres_zyx[n, 2])),
        )
        for n in range(1, count + 1)
    )


def _labels_touched(
    number: npt.NDArray[np.int64], label: npt.NDArray[np.integer], *, count: int
) -> list[frozenset[int]]:
    """Labels other than 0 by lesion number, from each voxel's lesion number and label."""
    touched: list[set[int]] = [set() for _ in range(count + 1)]
    base = int(label.max()) + 1
    for pair in np.unique(number * base + label.astype(np.int64)):
        n, value = divmod(int(pair), base)
        touched[n].add(value)
    return [frozenset(values - {0}) for values in touched]
