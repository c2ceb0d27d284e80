"""The network's input channels, built in one place for training and inference alike."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy.special import expit

from petct.geometry import Grid, grid_of, resample_ct, to_array, to_image
from petct.organs import Organ

SOFT_STEP_MM = 10.0  # width of the sigmoid's step from 0.1 to 0.9 (the paper's soft distance)
SOFT_TAU_MM = SOFT_STEP_MM / (2.0 * float(np.log(9.0)))  # expit(+-ln 9) is 0.9 and 0.1
# 40 mm from the surface the sigmoid is within 3e-8 of 0 or 1, below float32's resolution next to 1.
SOFT_REACH_MM = 40.0

Float = npt.NDArray[np.float32]


class OrganEncoding(StrEnum):
    """How a member sees the eight organs: not at all, as masks, or as a sigmoid of the signed distance."""

    NONE = "none"
    BINARY = "binary"
    SOFT_DISTANCE = "soft_distance"


@dataclass(frozen=True)
class ClipHU:
    """CT clipping limits in HU, chosen when a data set is built and kept with the model."""

    low_hu: float
    high_hu: float


def channel_names(encoding: OrganEncoding) -> tuple[str, ...]:
    """Names of the channels in their order; the first two are PET / threshold and CT."""
    organs = () if encoding is OrganEncoding.NONE else tuple(organ.name.lower() for organ in Organ)
    return ("pet_ratio", "ct", *organs)


def build_channels(
    pet: sitk.Image,
    *,
    ct: sitk.Image,
    organs: npt.NDArray[np.uint8] | None,
    suv_threshold: float,
    encoding: OrganEncoding,
    clip: ClipHU | None,
) -> Float:
    """Channels of one scan on the PET's grid.

    Args:
        pet: PET in SUV.
        ct: CT in HU, on any grid.
        organs: The eight organ classes on the PET's grid, (z, y, x); an absent organ gives a channel of zeros. Not
            used, and may be None, when the encoding is `none`.
        suv_threshold: SUV threshold of the scan, > 0; channel 0 is SUV / threshold.
        encoding: How the organs are shown.
        clip: Limits to clip the CT to before nnU-Net normalises it, or None.

    Returns:
        float32 channels, (channel, z, y, x): 2 without organs, 10 with.

    Raises:
        ValueError: The encoding needs organs and there are none, or their shape is not the PET's.
    """
    grid = grid_of(pet)
    names = channel_names(encoding)
    channels = np.empty((len(names), *grid.shape_zyx), dtype=np.float32)
    channels[0] = to_array(pet) / suv_threshold
    channels[1] = to_array(resample_ct(ct, grid))
    if clip is not None:
        np.clip(channels[1], clip.low_hu, clip.high_hu, out=channels[1])
    if encoding is OrganEncoding.NONE:
        return channels
    if organs is None or organs.shape != grid.shape_zyx:
        got = None if organs is None else organs.shape
        raise ValueError(f"organs must be on the PET's grid {grid.shape_zyx} (z, y, x), got {got}")
    for channel, organ in zip(channels[2:], Organ, strict=True):
        mask = organs == organ
        channel[...] = mask if encoding is OrganEncoding.BINARY else soft_distance(mask, grid=grid)
    return channels


def soft_distance(mask: npt.NDArray[np.bool_], *, grid: Grid) -> Float:
    """Sigmoid of the signed distance to a mask's boundary voxels, 0.5 on them, towards 1 inside.

    The distance is SimpleITK's signed Maurer distance: Euclidean, in mm, to the centres of the mask's boundary voxels.
    It is computed only within 40 mm of the mask's bounding box, beyond which the sigmoid is 0.

    Args:
        mask: The organ, (z, y, x).
        grid: The mask's grid.

    Returns:
        float32 in [0, 1], (z, y, x); zeros for an empty mask.
    """
    soft = np.zeros(mask.shape, dtype=np.float32)
    if not mask.any():
        return soft
    box = _box_around(mask, grid=grid, margin_mm=SOFT_REACH_MM)
    inside = mask[box]
    crop = Grid(inside.shape, grid.spacing_mm_xyz, (0.0, 0.0, 0.0), grid.direction)
    distance_mm = sitk.SignedMaurerDistanceMap(
        to_image(inside.astype(np.uint8), crop), insideIsPositive=True, squaredDistance=False, useImageSpacing=True
    )
    soft[box] = expit(to_array(distance_mm) / SOFT_TAU_MM)
    return soft


def _box_around(mask: npt.NDArray[np.bool_], *, grid: Grid, margin_mm: float) -> tuple[slice, slice, slice]:
    """The mask's bounding box with a margin, clipped to the grid; the mask must not be empty."""
    box = []
    for axis, spacing_mm in enumerate(grid.spacing_mm_zyx):
        others = tuple(other for other in range(3) if other != axis)
        (hit,) = np.nonzero(mask.any(axis=others))
        margin = int(np.ceil(margin_mm / spacing_mm))
        box.append(slice(max(int(hit[0]) - margin, 0), int(hit[-1]) + margin + 1))
    return box[0], box[1], box[2]
