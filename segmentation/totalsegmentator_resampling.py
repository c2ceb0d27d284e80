"""TotalSegmentator's resampling of the CT to its network's voxels, and of the labels back, around the patient only.

TotalSegmentator resamples the whole CT first. The patient's box is cut out after that, so that every voxel that the
network sees has the value that TotalSegmentator would give it. It runs inside TotalSegmentator's process only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from nibabel.orientations import io_orientation
from scipy import ndimage

Affine = npt.NDArray[np.float64]


class BodyResampling:
    """Resampling of one CT, there and back.

    Args:
        box_xyz: Lower and upper limit of the patient along the axes of the CT's file, ((x, x), (y, y), (z, z)).
        shape_xyz: The CT's number of voxels along them.
        affine: The CT's, which says how its axes run through the patient.
        least_ras: The network's window, in its voxels along the axes from right to left, back to front and upwards.
            A smaller box is widened, because nnU-Net fills up with soft tissue what a window lacks.
    """

    def __init__(
        self,
        box_xyz: Sequence[tuple[int, int]],
        *,
        shape_xyz: Sequence[int],
        affine: Affine,
        least_ras: Sequence[int],
    ) -> None:
        self._least = tuple(least_ras)
        self._box: list[tuple[int, int]] = [(0, 0)] * 3
        orientation: npt.NDArray[Any] = io_orientation(affine)  # type: ignore[no-untyped-call]
        # TotalSegmentator turns the CT so that its axes run right to left, back to front and upwards.
        for (axis, direction), (low, high), size in zip(orientation, box_xyz, shape_xyz, strict=True):
            self._box[int(axis)] = (low, high) if direction > 0 else (size - high, size - low)
        self._resampled_shape: tuple[int, ...] = ()
        self._resampled_box: tuple[slice, ...] = ()

    def change_spacing(
        self,
        image: Any,
        new_spacing: Sequence[float],
        target_shape: Sequence[int] | None = None,
        *,
        order: int,
        dtype: type,
        force_affine: Affine | None = None,
        **_workers: object,
    ) -> Any:
        """In place of `totalsegmentator.nnunet.change_spacing`, with its arguments.

        Without a target shape, the CT in the network's voxel size, cut to the patient; with one, labels that were found
        in there, on the whole CT's grid.
        """
        if target_shape is None:
            return self._shrink(image, new_spacing, order=order, dtype=dtype)
        if order != 0:
            raise ValueError(f"labels must be resampled with order 0, got {order}")
        labels = self._restore(np.asanyarray(image.dataobj), tuple(target_shape), dtype=dtype)
        return type(image)(labels, force_affine)

    def _shrink(self, image: Any, spacing_mm: Sequence[float], *, order: int, dtype: npt.DTypeLike) -> Any:
        if order != 1:
            raise ValueError(f"the CT must be resampled with order 1, got {order}")
        data = np.asanyarray(image.dataobj)
        zoom = np.array(image.header.get_zooms()) / np.array(spacing_mm)
        if np.all(zoom == 1.0):
            dtype = data.dtype  # TotalSegmentator leaves such a CT as it is, with its fractions
        self._resampled_shape = tuple(round(size * factor) for size, factor in zip(data.shape, zoom, strict=True))
        self._resampled_box = tuple(
            _widened(_resampled_limits(limits, size=old, resampled=new), least=least, size=new)
            for limits, least, old, new in zip(self._box, self._least, data.shape, self._resampled_shape, strict=True)
        )
        resampled = _zoom_linearly(data, shape=self._resampled_shape, box=self._resampled_box, dtype=dtype)
        affine = np.copy(image.affine)
        affine[:3, :3] /= zoom
        affine[:3, 3] += affine[:3, :3] @ [part.start for part in self._resampled_box]
        return type(image)(resampled, affine)

    def _restore(self, labels: npt.NDArray[Any], shape: tuple[int, ...], *, dtype: type) -> npt.NDArray[Any]:
        inner, sources = [], []
        for part, old, new in zip(self._resampled_box, self._resampled_shape, shape, strict=True):
            # The nearest neighbour along each axis, found by the function that TotalSegmentator uses on all three.
            source = ndimage.zoom(np.arange(old, dtype=np.float64), new / old, mode="nearest", order=0).astype(np.intp)
            is_inside = (source >= part.start) & (source < part.stop)
            first = int(np.argmax(is_inside))
            inner.append(slice(first, first + int(np.count_nonzero(is_inside))))
            sources.append(source[is_inside] - part.start)
        # In the order in which NIfTI is written.
        restored: npt.NDArray[Any] = np.zeros(shape, dtype=dtype, order="F")
        x, y, z = sources
        for target, source in enumerate(z, start=inner[2].start):
            restored[inner[0], inner[1], target] = labels[np.ix_(x, y, [source])][..., 0]
        return restored


def _zoom_linearly(
    data: npt.NDArray[Any], *, shape: Sequence[int], box: Sequence[slice], dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    """A box of what `scipy.ndimage.zoom(data, order=1, mode="nearest")` gives in float64, bit for bit, then truncated.

    SciPy's own goes through a CT whose first axis is the fastest in memory against the grain, ten times slower, and
    knows no box. Bits count, because a rounding error below a whole number is truncated to the number before it.
    """
    lower, upper = zip(
        *(_neighbours(size, new, part) for size, new, part in zip(data.shape, shape, box, strict=True)), strict=True
    )
    resampled: npt.NDArray[Any] = np.empty([part.stop - part.start for part in box], dtype=dtype, order="F")
    for number in range(resampled.shape[2]):
        # (y, x), as the slices lie in memory.
        total = np.zeros((resampled.shape[1], resampled.shape[0]))
        slices = [
            (data[..., index[number]].T.astype(np.float64), weight[number]) for index, weight in (lower[2], upper[2])
        ]
        # SciPy's order: the last axis fastest, and the weights multiplied one by one.
        for x, weight_x in (lower[0], upper[0]):
            for y, weight_y in (lower[1], upper[1]):
                for hu, weight_z in slices:
                    total += hu[np.ix_(y, x)] * weight_x * weight_y[:, None] * weight_z
        resampled[..., number] = total.T.astype(dtype)
    return resampled


def _neighbours(size: int, resampled: int, part: slice) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Index and weight of the lower and of the upper neighbour of each voxel in a part of a resampled axis."""
    step = (size - 1) / (resampled - 1) if resampled > 1 else 1.0
    position = np.minimum(step * np.arange(part.start, part.stop), size - 1)
    index = np.floor(position).astype(np.intp)
    share = position - index
    return (index, 1.0 - share), (np.minimum(index + 1, size - 1), share)


def _resampled_limits(limits: tuple[int, int], *, size: int, resampled: int) -> slice:
    """The voxels after resampling, which keeps the first and the last one's centre, that limits from before touch."""
    step = (resampled - 1) / (size - 1) if size > 1 else 0.0
    low, high = math.floor(limits[0] * step), math.ceil((limits[1] - 1) * step) + 1
    return slice(max(0, low), min(resampled, high))


def _widened(part: slice, *, least: int, size: int) -> slice:
    """A slice of at least so many voxels about the same middle, as far as there are any."""
    missing = max(0, min(least, size) - (part.stop - part.start))
    low = min(max(0, part.start - missing // 2), size - (part.stop - part.start) - missing)
    return slice(low, low + part.stop - part.start + missing)
