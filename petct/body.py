"""Where the patient is in a CT: the box that holds the body, without the air and the table around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

TISSUE_HU = -500.0  # halfway between air and fat; the lungs' air lies inside the patient anyway
PLATE_MM = 10.0  # shells of tables, mattresses, blankets, straps and tubes are thinner; limbs are twice as thick
PATIENT_ML = 150.0  # a hand without its fingers; what else lies loose in a scan is smaller
_SAMPLE_MM = 5.0  # two samples at most hit a plate, which tells it from a limb
_CELL_MM = 10.0  # components and growth need no more
_GROWTH_MM = 30.0  # fingers, ears and toes are thin too, but not far from what is thick

Array = npt.NDArray[Any]
Bool = npt.NDArray[np.bool_]


def body_box(
    ct_hu: npt.NDArray[np.floating[Any] | np.integer[Any]],
    *,
    spacing_mm_zyx: tuple[float, float, float],
    margin_mm: float,
) -> tuple[slice, slice, slice]:
    """The box around the patient: the largest thick body in the scan, and every other one that may be a limb.

    It errs on the large side: whatever is thick and touches the patient, or is large by itself, is taken for a part of
    the patient. A patient whom the scan cuts off ends where the scan ends.

    Args:
        ct_hu: CT in HU, (z, y, x), in any orientation.
        spacing_mm_zyx: Voxel size in mm.
        margin_mm: What to keep around the patient, where the scan has it.

    Returns:
        Slices along z, y and x; all of the scan when it shows nobody.

    Raises:
        ValueError: The array is not 3D or has no voxels, a spacing is not > 0, or the margin is not >= 0.
    """
    if ct_hu.ndim != 3 or ct_hu.size == 0:
        raise ValueError(f"CT must be 3D with voxels, got shape {ct_hu.shape}")
    if not all(spacing > 0 for spacing in spacing_mm_zyx) or not margin_mm >= 0:
        raise ValueError(f"spacing must be > 0 and margin >= 0, got {spacing_mm_zyx} mm and {margin_mm} mm")
    steps = [max(1, int(_SAMPLE_MM / spacing)) for spacing in spacing_mm_zyx]
    step_mm = np.multiply(steps, spacing_mm_zyx)
    is_tissue = ct_hu[:: steps[0], :: steps[1], :: steps[2]] > TISSUE_HU
    # A plate along an axis fills at most the first term's number of samples in a row.
    is_thick = _open(is_tissue, widths=[math.ceil(PLATE_MM / step) + 1 for step in step_mm])
    factors = [max(1, round(_CELL_MM / step)) for step in step_mm]
    cell_mm = step_mm * factors
    is_patient = _patient(_pool(is_thick, factors), cell_ml=float(np.prod(cell_mm)) / 1000.0)
    if not is_patient.any():
        z, y, x = ct_hu.shape
        return slice(0, z), slice(0, y), slice(0, x)
    is_patient = ndimage.binary_dilation(
        is_patient, np.ones((3, 3, 3)), iterations=math.ceil(_GROWTH_MM / min(cell_mm)), mask=_pool(is_tissue, factors)
    )
    bounds = []
    for axis, size in enumerate(ct_hu.shape):
        cells = np.flatnonzero(is_patient.any(axis=tuple({0, 1, 2} - {axis})))
        voxels = factors[axis] * steps[axis]
        # The patient may begin right after a sample that is still air.
        margin = math.ceil(margin_mm / spacing_mm_zyx[axis]) + steps[axis] - 1
        low, high = int(cells[0]) * voxels - margin, (int(cells[-1]) + 1) * voxels + margin
        bounds.append(slice(max(low, 0), min(high, size)))
    return bounds[0], bounds[1], bounds[2]


def _open(mask: Bool, *, widths: Sequence[int]) -> Bool:
    """What a box of `widths` samples along the axes, inside the mask and inside the scan, can reach."""
    widths = [min(width, size) for width, size in zip(widths, mask.shape, strict=True)]
    opened = np.pad(mask, [(width - 1, width - 1) for width in widths])
    for combine in (np.logical_and, np.logical_or):
        for axis, width in enumerate(widths):
            opened = _slide(opened, combine, axis=axis, width=width)
    return opened


def _slide(mask: Bool, combine: np.ufunc, *, axis: int, width: int) -> Bool:
    """All or any of every `width` neighbours along an axis, which becomes shorter by `width - 1`."""
    mask = np.moveaxis(mask, axis, 0)
    covered = 1
    while covered < width:
        shift = min(covered, width - covered)
        mask = combine(mask[:-shift], mask[shift:])
        covered += shift
    return np.moveaxis(mask, 0, axis)


def _pool(mask: Bool, factors: Sequence[int]) -> Bool:
    """Cells of `factors` samples along the axes that hold any of the mask; the last ones may be cut off."""
    for axis, factor in enumerate(factors):
        mask = np.moveaxis(mask, axis, 0)
        pooled = mask[::factor].copy()
        for offset in range(1, factor):
            rest = mask[offset::factor]
            pooled[: len(rest)] |= rest
        mask = np.moveaxis(pooled, 0, axis)
    return mask


def _patient(is_thick: Bool, *, cell_ml: float) -> Bool:
    """Cells of all the components that are large enough to be a limb."""
    labels, _ = ndimage.label(is_thick, np.ones((3, 3, 3)))
    is_large = np.bincount(labels.ravel()) * cell_ml >= PATIENT_ML
    is_large[0] = False
    patient: Bool = is_large[labels]
    return patient
