"""nnU-Net's spline resampling, each axis one matrix product.

nnU-Net resamples with skimage's `resize`, a spline of SciPy's: linear in the voxels, and the same along every line of
an axis. So each axis is a matrix, which SciPy itself gives when it is asked to resample unit vectors, and what gathered
64 neighbours for every voxel is three matrix products. What is not linear, the clipping to the range of the input, is
done as `resize` does it. All goes slab by slab, so that little is held between the input and the output.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nnunetv2.preprocessing.resampling.utils import recursive_find_resampling_fn_by_name
from scipy.ndimage import map_coordinates, zoom

from segmentation.plans import Resampling, Spline

log = logging.getLogger(__name__)

# Voxels of one channel, by device: on a CPU 2 MiB that stay in its cache; on a GPU enough to keep it busy.
SLAB_VOXELS = {"cpu": 2**19, "cuda": 2**24}
# Rows of a matrix that are multiplied at a time: more drag more zeros along, fewer keep the product from its best.
BAND_ROWS = {"cpu": 16, "cuda": 128}

Band = tuple[slice, slice, torch.Tensor]


def resample_slabs(
    data: torch.Tensor,
    *,
    resampling: Resampling,
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    new_spacing_mm: Sequence[float],
    device: torch.device,
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Resample a volume, slab by slab along its first axis.

    Args:
        data: (channel, and three axes), floating point.
        resampling: The function to be equal to.
        shape: Number of voxels along the three axes afterwards.
        spacing_mm: Voxel size of `data`; like `new_spacing_mm` it decides only whether an axis is resampled by itself.
        new_spacing_mm: Voxel size afterwards.
        device: Where to compute.

    Yields:
        Which rows of the first axis, and these rows, (channel, and three axes), with the data's type, on `device`.
        Float64 is computed with float64, anything else with float32.
    """
    new_shape = tuple(int(size) for size in shape)
    if tuple(data.shape[1:]) == new_shape:
        for rows in _slabs(new_shape, device=device):
            yield rows, data[:, rows].to(device)
    elif (spline := resampling.spline) is not None:
        yield from _spline_slabs(
            data,
            spline=spline,
            shape=new_shape,
            separate=spline.separate_axis(spacing_mm, new_spacing_mm),
            device=device,
        )
    else:
        _report_foreign(resampling.function)
        function = recursive_find_resampling_fn_by_name(resampling.function)
        resampled = function(data.cpu().numpy(), new_shape, spacing_mm, new_spacing_mm, **dict(resampling.options))
        yield slice(0, new_shape[0]), torch.as_tensor(resampled).to(device)


def resample(data: torch.Tensor, *, out: torch.Tensor, **arguments: Any) -> None:
    """Resample a volume into `out`, whose shape is the one to reach; arguments as those of `resample_slabs`."""
    for rows, slab in resample_slabs(data, shape=out.shape[1:], **arguments):
        out[:, rows] = slab


def _spline_slabs(
    data: torch.Tensor, *, spline: Spline, shape: tuple[int, ...], separate: int | None, device: torch.device
) -> Iterator[tuple[slice, torch.Tensor]]:
    """As `resample_slabs`; `separate` is the axis that is resampled by itself."""
    dtype = torch.float64 if data.dtype == torch.float64 else torch.float32
    matrices = [
        _matrix(old, new, order=spline.order_z if axis == separate else spline.order, separate=axis == separate)
        for axis, (old, new) in enumerate(zip(data.shape[1:], shape, strict=True))
    ]
    bands = [_bands(matrix, dtype=dtype, device=device) for matrix in matrices]
    together = [axis for axis in range(3) if axis != separate]
    # nnU-Net calls `resize`, and so clips, once per channel, or per slice where an axis is resampled by itself.
    over = [1 + axis for axis in together]
    low, high = (limit(over, keepdim=True).to(device, dtype) for limit in (data.amin, data.amax))
    changes = [old != new for old, new in zip(data.shape[1:], shape, strict=True)]
    for rows in _slabs(shape, device=device):
        columns = _columns(matrices[0][rows], dtype=dtype)
        bands[0] = _bands(matrices[0][rows, columns], dtype=dtype, device=device)
        slab = data[:, columns].to(device, dtype)
        for axis in together:
            slab = _multiply(bands[axis], slab, axis=axis) if changes[axis] else slab
        slab = slab.clamp(*((limit[:, columns] if separate == 0 else limit) for limit in (low, high)))
        if separate is not None and changes[separate]:
            slab = _multiply(bands[separate], slab, axis=separate)
        yield rows, slab.to(data.dtype)


def _blocks(size: int, *, thickness: int) -> list[slice]:
    return [slice(low, min(low + thickness, size)) for low in range(0, size, thickness)]


def _slabs(shape: Sequence[int], *, device: torch.device) -> list[slice]:
    return _blocks(shape[0], thickness=max(1, SLAB_VOXELS[device.type] // (shape[1] * shape[2])))


def _columns(matrix: npt.NDArray[np.float64], *, dtype: torch.dtype) -> slice:
    """The columns that matter to a matrix: from voxel to voxel a spline's weights fall by a factor of 2 to 4."""
    (used,) = np.nonzero((np.abs(matrix) > 0.1 * torch.finfo(dtype).eps).any(axis=0))
    return slice(int(used[0]), int(used[-1]) + 1)


def _bands(matrix: npt.NDArray[np.float64], *, dtype: torch.dtype, device: torch.device) -> list[Band]:
    """A matrix as blocks of rows, each with the columns that matter to it."""
    return [
        (rows, columns, torch.from_numpy(matrix[rows, columns].copy()).to(device, dtype))
        for rows in _blocks(matrix.shape[0], thickness=BAND_ROWS[device.type])
        for columns in (_columns(matrix[rows], dtype=dtype),)
    ]


def _multiply(bands: Sequence[Band], data: torch.Tensor, *, axis: int) -> torch.Tensor:
    """A matrix times every line of (channel, and three axes) along one of the three axes."""
    shape = list(data.shape)
    shape[1 + axis] = bands[-1][0].stop
    product = data.new_empty(shape)
    for rows, columns, matrix in bands:
        lines = data.narrow(1 + axis, columns.start, columns.stop - columns.start)
        if axis == 0:
            block = torch.matmul(matrix, lines.flatten(2)).unflatten(2, lines.shape[2:])
        else:
            block = torch.matmul(matrix, lines) if axis == 1 else torch.matmul(lines, matrix.T)
        product.narrow(1 + axis, rows.start, rows.stop - rows.start).copy_(block)
    return product


@functools.lru_cache(maxsize=32)  # members, scans, and the two axes of a slice share them
def _matrix(old: int, new: int, *, order: int, separate: bool) -> npt.NDArray[np.float64]:
    """What nnU-Net does along one axis, as (new, old): to an axis by itself, or to one of several."""
    if old == new:
        return np.eye(new)
    if separate:  # nnU-Net's own way for such an axis, which does not clip
        places = (old / new * (np.arange(new) + 0.5) - 0.5)[None]
        columns = [map_coordinates(unit, places, order=order, mode="nearest") for unit in np.eye(old)]
    else:  # what `resize` comes down to, but for the clipping
        columns = [zoom(unit, new / old, order=order, mode="nearest", grid_mode=True) for unit in np.eye(old)]
    return np.stack(columns, axis=1)


@functools.cache
def _report_foreign(function: str) -> None:
    log.warning("plans name the resampling %s, which is left to nnU-Net and takes longer", function)
