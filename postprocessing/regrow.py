"""Predicted disease grown back to the SUV threshold's outline, but not into organs with uptake of their own."""

from __future__ import annotations

from collections.abc import Set

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from petct.organs import Organ
from postprocessing.shapes import require_shape

# Spacings in headers are rounded: with 3.4999999 or 3.5000001 mm, a radius of 7 mm means two voxels all the same.
TIE_TOLERANCE_MM = 1e-3

Mask = npt.NDArray[np.bool_]


def regrow(
    ttb: Mask,
    *,
    normal: Mask,
    pet_suv: npt.NDArray[np.floating],
    organs: npt.NDArray[np.uint8],
    suv_threshold: float,
    radius_mm: float,
    protected: Set[Organ],
    spacing_mm_zyx: tuple[float, float, float],
) -> Mask:
    """Grow predicted disease by a radius and cut it to the voxels that can be disease.

    In this order: every voxel whose centre is within the radius of the centre of a predicted one is added; what was
    added inside a protected organ is taken back, so only predicted voxels stay there; normal uptake is removed; and so
    is all that lies below the SUV threshold, protected organs included. Every predicted voxel is a seed, whether inside
    a protected organ (it may grow out of it) or below the SUV threshold (it grows, and is then cut itself).

    Args:
        ttb: Predicted disease, (z, y, x).
        normal: Predicted physiological uptake, (z, y, x).
        pet_suv: PET in SUV, (z, y, x).
        organs: `Organ` values and 0, (z, y, x).
        suv_threshold: A voxel is kept at or above this SUV.
        radius_mm: Euclidean radius in true mm, >= 0; a distance that equals it to within 0.001 mm is within it, and 0
            adds nothing.
        protected: Organs inside which nothing is grown.
        spacing_mm_zyx: Voxel size in mm along (z, y, x).

    Returns:
        The regrown disease, (z, y, x); empty where nothing was predicted.

    Raises:
        ValueError: The arrays differ in shape, or the radius is negative or not finite.
    """
    require_shape(ttb.shape, normal=normal, pet_suv=pet_suv, organs=organs)
    if not (np.isfinite(radius_mm) and radius_mm >= 0):
        raise ValueError(f"regrow radius: must be finite and >= 0, got {radius_mm} mm")
    mask = np.zeros_like(ttb)
    # Nothing is grown further than this box, which is small beside the scan.
    box = _box_around(ttb, radius_mm=radius_mm, spacing_mm_zyx=spacing_mm_zyx)
    grown = _grow(ttb[box], radius_mm=radius_mm, spacing_mm_zyx=spacing_mm_zyx)
    for organ in protected:
        grown &= organs[box] != organ
    grown |= ttb[box]
    grown &= ~normal[box]
    # A Python float, so that a float32 PET is compared in float32 and a voxel at the threshold is kept.
    grown &= pet_suv[box] >= float(suv_threshold)
    mask[box] = grown
    return mask


def _box_around(seeds: Mask, *, radius_mm: float, spacing_mm_zyx: tuple[float, float, float]) -> tuple[slice, ...]:
    """The seeds' bounding box grown by the radius, within the grid; empty when there are none."""
    box = []
    for axis, spacing_mm in enumerate(spacing_mm_zyx):
        (hit,) = np.nonzero(seeds.any(axis=tuple(other for other in range(3) if other != axis)))
        if not len(hit):
            return (slice(0, 0),) * 3
        margin = int((radius_mm + TIE_TOLERANCE_MM) / spacing_mm)
        box.append(slice(max(int(hit[0]) - margin, 0), int(hit[-1]) + margin + 1))
    return tuple(box)


def _grow(seeds: Mask, *, radius_mm: float, spacing_mm_zyx: tuple[float, float, float]) -> Mask:
    """The seeds and every voxel within the radius of one."""
    grown = seeds.copy()
    shape = np.array(seeds.shape)[:, None]
    # A seed whose six neighbours are seeds is never the nearest to a voxel outside: the neighbour towards it is nearer.
    surface = np.array(np.nonzero(seeds & ~ndimage.binary_erosion(seeds)))
    for step in _steps_within(radius_mm, spacing_mm_zyx=spacing_mm_zyx):
        reached = surface + step[:, None]
        z, y, x = reached[:, ((reached >= 0) & (reached < shape)).all(axis=0)]
        grown[z, y, x] = True
    return grown


def _steps_within(radius_mm: float, *, spacing_mm_zyx: tuple[float, float, float]) -> npt.NDArray[np.int64]:
    """Index steps (z, y, x) from a voxel's centre to all centres within the radius; shape (n, 3)."""
    reach_mm = radius_mm + TIE_TOLERANCE_MM
    spacing_mm = np.array(spacing_mm_zyx)
    reach = np.floor(reach_mm / spacing_mm).astype(int)
    steps: npt.NDArray[np.int64] = np.argwhere(np.ones(2 * reach + 1, dtype=bool)) - reach
    is_within: Mask = np.linalg.norm(steps * spacing_mm, axis=1) <= reach_mm
    return steps[is_within]
