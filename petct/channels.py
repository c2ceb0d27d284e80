"""The network's input channels, built in one place for training and inference alike."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

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


@dataclass(frozen=True)
class Channel:
    """What one channel shows.

    Attributes:
        name: `pet_ratio`, `ct` or an organ's name.
        encoding: How an organ is shown; `none` for PET and CT.
        clip: Limits of the CT, or None.
    """

    name: str
    encoding: OrganEncoding = OrganEncoding.NONE
    clip: ClipHU | None = None


def channels_of(encoding: OrganEncoding, clip: ClipHU | None) -> tuple[Channel, ...]:
    """The channels of a network in their order: PET / threshold, CT, and the eight organs if it sees them."""
    seen = (Channel("pet_ratio"), Channel("ct", clip=clip))
    if encoding is OrganEncoding.NONE:
        return seen
    return (*seen, *(Channel(organ.name.lower(), encoding=encoding) for organ in Organ))


def channel_names(encoding: OrganEncoding) -> tuple[str, ...]:
    """Names of the channels in their order; the first two are PET / threshold and CT."""
    return tuple(channel.name for channel in channels_of(encoding, None))


class ScanChannels:
    """Builds the channels of one scan on the PET's grid, one at a time.

    Args:
        pet: PET in SUV.
        ct: CT in HU, on any grid.
        organs: The eight organ classes on the PET's grid, (z, y, x); may be None when no channel shows them.
        suv_threshold: SUV threshold of the scan, > 0; the PET is shown as SUV / threshold.

    Raises:
        ValueError: The organs' shape is not the PET's.
    """

    def __init__(
        self, pet: sitk.Image, *, ct: sitk.Image, organs: npt.NDArray[np.uint8] | None, suv_threshold: float
    ) -> None:
        self.grid = grid_of(pet)
        if organs is not None and organs.shape != self.grid.shape_zyx:
            raise ValueError(f"organs must be on the PET's grid {self.grid.shape_zyx} (z, y, x), got {organs.shape}")
        self._pet = pet
        self._ct = ct
        self._organs = organs
        self._suv_threshold = suv_threshold

    def build(self, channel: Channel) -> Float:
        """One channel, float32 (z, y, x), the caller's own; an absent organ gives zeros.

        Raises:
            ValueError: The channel shows an organ and there are none.
        """
        if channel.name == "pet_ratio":
            ratio: Float = (sitk.GetArrayViewFromImage(self._pet) / self._suv_threshold).astype(np.float32, copy=False)
            return ratio
        if channel.name == "ct":
            ct_hu: Float = self.ct_hu.copy()
            if channel.clip is not None:
                np.clip(ct_hu, channel.clip.low_hu, channel.clip.high_hu, out=ct_hu)
            return ct_hu
        if self._organs is None:
            raise ValueError(f"organs must be on the PET's grid {self.grid.shape_zyx} (z, y, x), got None")
        mask: npt.NDArray[np.bool_] = self._organs == Organ[channel.name.upper()]
        if channel.encoding is OrganEncoding.BINARY:
            return mask.astype(np.float32)
        return soft_distance(mask, grid=self.grid)

    @property
    def can_be_disease(self) -> npt.NDArray[np.bool_]:
        """Whether a voxel's SUV is at or above the threshold, (z, y, x)."""
        above: npt.NDArray[np.bool_] = sitk.GetArrayViewFromImage(self._pet) >= self._suv_threshold
        return above

    @cached_property
    def ct_hu(self) -> Float:
        """The CT in HU on the PET's grid, float32 (z, y, x)."""
        return to_array(resample_ct(self._ct, self.grid))


def build_channels(
    pet: sitk.Image,
    *,
    ct: sitk.Image,
    organs: npt.NDArray[np.uint8] | None,
    suv_threshold: float,
    encoding: OrganEncoding,
    clip: ClipHU | None,
) -> Float:
    """All channels that a network sees of one scan, on the PET's grid.

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
    scan = ScanChannels(pet, ct=ct, organs=organs, suv_threshold=suv_threshold)
    names = channels_of(encoding, clip)
    channels = np.empty((len(names), *scan.grid.shape_zyx), dtype=np.float32)
    for number, channel in enumerate(names):
        channels[number] = scan.build(channel)
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
