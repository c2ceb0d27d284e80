"""nnU-Net's spline resampling, each axis one matrix product.

nnU-Net resamples with skimage's `resize`, a spline of SciPy's: linear in the voxels, and the same along every line of
an axis. So each axis is a matrix, which SciPy itself gives when it is asked to resample unit vectors, and what gathered
64 neighbours for every voxel is three matrix products. What is not linear, the clipping to the range of the input, is
done as `resize` does it. All goes slab by slab, so that little is held between the input and the output.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nnunetv2.preprocessing.resampling.utils import recursive_find_resampling_fn_by_name
from scipy.ndimage import map_coordinates, zoom

from segmentation.plans import Resampling, Spline, three

log = logging.getLogger(__name__)

# Voxels of one channel, by device: on a CPU 2 MiB that stay in its cache; on a GPU enough to keep it busy.
SLAB_VOXELS = {"cpu": 2**19, "cuda": 2**24}
# Rows of a matrix that are multiplied at a time: more drag more zeros along, fewer keep the product from its best.
BAND_ROWS = {"cpu": 16, "cuda": 128}

Band = tuple[slice, slice, torch.Tensor]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Part:
    """A part of a volume.

    Attributes:
        whole: Number of voxels of the volume along the three axes.
        low: The part's first voxel.
    """

    whole: tuple[int, int, int]
    low: tuple[int, int, int]


def resample_slabs(
    data: torch.Tensor,
    *,
    resampling: Resampling,
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    new_spacing_mm: Sequence[float],
    device: torch.device,
    part: Part | None = None,
    wanted: Callable[[slice], Box | None] | None = None,
) -> Iterator[tuple[Box, torch.Tensor]]:
    """Resample a volume, slab by slab along its first axis.

    Args:
        data: (channel, and three axes), floating point.
        resampling: The function to be equal to.
        shape: Number of voxels along the three axes afterwards.
        spacing_mm: Voxel size of `data`; like `new_spacing_mm` it decides only whether an axis is resampled by itself.
        new_spacing_mm: Voxel size afterwards.
        device: Where to compute.
        part: What `data` is a part of; beyond it, its outermost voxels go on. Only splines can do that.
        wanted: What is wanted of some rows of the first axis, None for nothing; all of them unless given.

    Yields:
        Which voxels, and these voxels, (channel, and three axes), with the data's type, on `device`. Float64 is
        computed with float64, anything else with float32.

    Raises:
        ValueError: `data` is a part of a volume, and the function is not a spline.
    """
    new_shape = three(int(size) for size in shape)
    source = part or Part(three(data.shape[1:]), (0, 0, 0))
    boxes = _boxes(new_shape, wanted=wanted, device=device)
    if (spline := resampling.spline) is not None or source.whole == new_shape:
        yield from _spline_slabs(
            data,
            source=source,
            spline=spline or Spline(),
            shape=new_shape,
            separate=spline.separate_axis(spacing_mm, new_spacing_mm) if spline else None,
            boxes=boxes,
            device=device,
        )
        return
    if source.whole != tuple(data.shape[1:]):
        raise ValueError(f"a part of a volume must be resampled by a spline, got {resampling.function}")
    _report_foreign(resampling.function)
    function = recursive_find_resampling_fn_by_name(resampling.function)
    resampled = function(data.cpu().numpy(), new_shape, spacing_mm, new_spacing_mm, **dict(resampling.options))
    whole = torch.as_tensor(resampled).to(device)
    for box in boxes:
        yield box, whole[(slice(None), *box)]


def resample(data: torch.Tensor, *, out: torch.Tensor, region: Box, **arguments: Any) -> None:
    """Resample a volume into `out`, which holds a region of it; arguments as those of `resample_slabs`."""

    def wanted(rows: slice) -> Box | None:
        first = slice(max(rows.start, region[0].start), min(rows.stop, region[0].stop))
        return (first, region[1], region[2]) if first.start < first.stop else None

    for box, slab in resample_slabs(data, wanted=wanted, **arguments):
        place = tuple(slice(b.start - r.start, b.stop - r.start) for b, r in zip(box, region, strict=True))
        out[(slice(None), *place)] = slab


def _spline_slabs(
    data: torch.Tensor,
    *,
    source: Part,
    spline: Spline,
    shape: tuple[int, int, int],
    separate: int | None,
    boxes: Iterable[Box],
    device: torch.device,
) -> Iterator[tuple[Box, torch.Tensor]]:
    """As `resample_slabs`; `separate` is the axis that is resampled by itself."""
    dtype = torch.float64 if data.dtype == torch.float64 else torch.float32
    together = [axis for axis in range(3) if axis != separate]
    is_changed = source.whole != shape
    # nnU-Net calls `resize`, and so clips, once per channel, or per slice where an axis is resampled by itself.
    over = [1 + axis for axis in together]
    limits = [limit(over, keepdim=True).to(device, dtype) for limit in (data.amin, data.amax)] if is_changed else []
    for box in boxes:
        lines = [
            _lines(
                (source.whole[axis], shape[axis]),
                (source.low[axis], source.low[axis] + data.shape[1 + axis]),
                (box[axis].start, box[axis].stop),
                order=spline.order_z if axis == separate else spline.order,
                separate=axis == separate,
                dtype=dtype,
                device=device,
            )
            for axis in range(3)
        ]
        slab = data[(slice(None), *(columns for columns, _ in lines))].to(device, dtype)
        for axis in together:
            slab = _multiply(lines[axis][1], slab, axis=axis)
        if is_changed:
            low, high = (
                limit if separate is None else limit[(slice(None),) * (1 + separate) + (lines[separate][0],)]
                for limit in limits
            )
            slab = slab.clamp(low, high)
        if separate is not None:
            slab = _multiply(lines[separate][1], slab, axis=separate)
        yield box, slab.to(data.dtype)


def _boxes(
    shape: tuple[int, int, int], *, wanted: Callable[[slice], Box | None] | None, device: torch.device
) -> Iterator[Box]:
    """What is wanted, slab by slab."""
    thickness = max(1, SLAB_VOXELS[device.type] // (shape[1] * shape[2]))
    for rows in _blocks(shape[0], thickness=thickness):
        box = (rows, slice(0, shape[1]), slice(0, shape[2])) if wanted is None else wanted(rows)
        if box is not None:
            yield box


def _blocks(size: int, *, thickness: int) -> list[slice]:
    return [slice(low, min(low + thickness, size)) for low in range(0, size, thickness)]


def _columns(matrix: npt.NDArray[np.float64], *, dtype: torch.dtype) -> slice:
    """The columns that matter to a matrix: from voxel to voxel a spline's weights fall by a factor of 2 to 4."""
    (used,) = np.nonzero((np.abs(matrix) > 0.1 * torch.finfo(dtype).eps).any(axis=0))
    return slice(int(used[0]), int(used[-1]) + 1)


@functools.lru_cache(maxsize=4096)  # the slabs of all channels and members share them
def _lines(
    sizes: tuple[int, int],
    part: tuple[int, int],
    rows: tuple[int, int],
    *,
    order: int,
    separate: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[slice, list[Band] | None]:
    """How voxels `rows` of an axis come out of the voxels `part` of it.

    Returns:
        Which voxels of the part matter, and what they are multiplied with: a matrix as blocks of rows, each with the
        columns that matter to it, or None where voxels stay what they are.
    """
    low, high = part
    if sizes[0] == sizes[1] and low <= rows[0] and rows[1] <= high:
        return slice(rows[0] - low, rows[1] - low), None
    whole = _matrix(*sizes, order=order, separate=separate)[slice(*rows)]
    matrix = whole[:, low:high].copy()
    matrix[:, 0] += whole[:, :low].sum(axis=1)
    matrix[:, -1] += whole[:, high:].sum(axis=1)
    columns = _columns(matrix, dtype=dtype)
    return columns, _bands(matrix[:, columns], dtype=dtype, device=device)


def _bands(matrix: npt.NDArray[np.float64], *, dtype: torch.dtype, device: torch.device) -> list[Band]:
    """A matrix as blocks of rows, each with the columns that matter to it."""
    return [
        (rows, columns, torch.from_numpy(matrix[rows, columns].copy()).to(device, dtype))
        for rows in _blocks(matrix.shape[0], thickness=BAND_ROWS[device.type])
        for columns in (_columns(matrix[rows], dtype=dtype),)
    ]


def _multiply(bands: Sequence[Band] | None, data: torch.Tensor, *, axis: int) -> torch.Tensor:
    """A matrix times every line of (channel, and three axes) along one of the three axes; without one, the data."""
    if bands is None:
        return data
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
