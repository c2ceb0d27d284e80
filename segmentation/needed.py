"""Where probabilities are needed: where a voxel can end up in the mask, and as far around it as disease regrows.

A voxel below the SUV threshold is never disease, so what the networks say far from all voxels above it changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import maximum_filter1d

Mask = npt.NDArray[np.bool_]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Needed:
    """The voxels within reach of a voxel that can be disease, kept as their shadows along the three axes.

    A box is taken for needed when it meets all three shadows, which errs on the safe side.

    Attributes:
        shape: Number of voxels along the three axes.
        shadows: Shadow along axis 0, 1 and 2; each has the two other axes.
    """

    shape: tuple[int, int, int]
    shadows: tuple[Mask, Mask, Mask]

    @classmethod
    def around(cls, can_be_disease: Mask, *, reach: Sequence[int]) -> Needed:
        """All voxels within a box of so many voxels around each True one.

        Args:
            can_be_disease: Three axes.
            reach: Voxels along each of the axes, >= 0.
        """
        shadows = []
        for axis in range(3):
            shadow = np.asarray(can_be_disease.any(axis=axis), dtype=np.uint8)
            for number, other in enumerate(axis_ for axis_ in range(3) if axis_ != axis):
                shadow = maximum_filter1d(shadow, 2 * reach[other] + 1, axis=number, mode="constant", cval=0)
            shadows.append(np.asarray(shadow, dtype=np.bool_))
        z, y, x = can_be_disease.shape
        return cls((z, y, x), (shadows[0], shadows[1], shadows[2]))

    def transposed(self, axes: tuple[int, int, int]) -> Needed:
        """The same with its axes in another order."""
        shadows = []
        for axis in axes:
            shadow = self.shadows[axis]
            left, right = (other for other in axes if other != axis)
            shadows.append(shadow if left < right else shadow.T)
        first, second, third = (self.shape[axis] for axis in axes)
        return Needed((first, second, third), (shadows[0], shadows[1], shadows[2]))

    def within(self, box: Sequence[slice]) -> Needed:
        """What is needed in a box, counted from its first voxel; a shadow is that of the whole."""
        first, second, third = box
        z, y, x = (part.stop - part.start for part in box)
        return Needed(
            (z, y, x),
            (self.shadows[0][second, third], self.shadows[1][first, third], self.shadows[2][first, second]),
        )

    def meets(self, box: Sequence[slice]) -> bool:
        """Whether a box may hold a needed voxel."""
        first, second, third = box
        return bool(
            self.shadows[2][first, second].any()
            and self.shadows[1][first, third].any()
            and self.shadows[0][second, third].any()
        )

    def box(self, rows: slice = slice(None)) -> Box | None:
        """The box around all that is needed in some rows of the first axis, None if nothing is."""
        first, start = _range(self.shadows[2][rows].any(axis=1)), rows.start or 0
        second, third = _range(self.shadows[2][rows].any(axis=0)), _range(self.shadows[1][rows].any(axis=0))
        if first is None or second is None or third is None:
            return None
        return slice(first.start + start, first.stop + start), second, third


def _range(is_hit: Any) -> slice | None:
    (places,) = np.nonzero(is_hit)
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else None
