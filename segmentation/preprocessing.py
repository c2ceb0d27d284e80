"""A scan as a network sees it, equal to nnU-Net's DefaultPreprocessor, each distinct channel made once.

nnU-Net's steps: axes in the network's order, crop to what is not zero in every channel, normalise, resample. PET and CT
are the same for members with and without organs, so members whose plans treat them alike share them.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nnunetv2
import numpy as np
import numpy.typing as npt
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import get_bbox_from_mask
from nnunetv2.preprocessing.cropping.cropping import create_nonzero_mask
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

from petct.geometry import Grid
from segmentation.plans import Normalisation, Recipe, three
from segmentation.resampling import resample

Float = npt.NDArray[np.float32]
Range = tuple[int, int]


@dataclass(frozen=True)
class Placement:
    """Where preprocessed voxels lie in their scan; everything along the network's axes.

    Attributes:
        transpose: The array axis (z, y, x) that each of the network's axes is.
        shape: The scan's number of voxels.
        box: The part of the scan that was not cropped away, from the first voxel to behind the last.
        spacing_mm: The scan's voxel size.
        network_spacing_mm: The network's voxel size.
    """

    transpose: tuple[int, int, int]
    shape: tuple[int, int, int]
    box: tuple[Range, Range, Range]
    spacing_mm: tuple[float, float, float]
    network_spacing_mm: tuple[float, float, float]

    @property
    def crop(self) -> tuple[slice, ...]:
        """The box as an index of the scan."""
        return tuple(slice(low, high) for low, high in self.box)

    @property
    def box_shape(self) -> tuple[int, ...]:
        """Number of voxels of the box, in the scan's voxels."""
        return tuple(high - low for low, high in self.box)

    @property
    def network_shape(self) -> tuple[int, ...]:
        """Number of voxels of the box, in the network's voxels."""
        return tuple(int(size) for size in compute_new_shape(self.box_shape, self.spacing_mm, self.network_spacing_mm))


@dataclass(frozen=True)
class Preprocessed:
    """A scan as a network sees it.

    Attributes:
        data: float32 on the CPU, (channel, and the network's three axes).
        placement: Where these voxels lie in the scan.
    """

    data: torch.Tensor
    placement: Placement


class ScanPreprocessor:
    """Preprocesses the channels of one scan, and remembers those that other networks may ask for again.

    Args:
        grid: The scan's grid.
        device: Where channels are resampled.
    """

    def __init__(self, grid: Grid, *, device: torch.device) -> None:
        self._grid = grid
        self._device = device
        self._remembered: dict[Hashable, torch.Tensor] = {}

    def run(self, channels: Float, *, recipe: Recipe, shared: Sequence[Hashable]) -> Preprocessed:
        """The channels as a network sees them.

        Args:
            channels: (channel, z, y, x) on the grid; left as they are.
            recipe: The network's recipe.
            shared: What the first channels show, one entry each: where another call says the same, the channel is not
                made again. The channels beyond are not remembered.

        Returns:
            The channels in the network's axes and voxels.
        """
        placement = _place(channels, grid=self._grid, recipe=recipe)
        along = channels.transpose(0, *(1 + axis for axis in recipe.transpose))
        outside = _outside(along)[placement.crop] if any(how.is_masked for how in recipe.normalisations) else None
        shape = placement.box_shape if recipe.resampling.is_idle else placement.network_shape
        data = torch.empty((len(channels), *shape), dtype=torch.float32)
        for number, (channel, how) in enumerate(zip(along, recipe.normalisations, strict=True)):
            # What a masked channel becomes depends on all the others.
            may_share = number < len(shared) and not how.is_masked
            key = (shared[number], placement, how, recipe.resampling) if may_share else None
            if key in self._remembered:
                data[number] = self._remembered[key]
                continue
            normalised = _normalise(channel[placement.crop], how=how, outside=outside)
            resample(
                torch.from_numpy(normalised)[None],
                out=data[number, None],
                resampling=recipe.resampling,
                spacing_mm=placement.spacing_mm,
                new_spacing_mm=placement.network_spacing_mm,
                device=self._device,
            )
            if key is not None:
                self._remembered[key] = data[number].clone()  # a view would keep all the channels
        return Preprocessed(data, placement)


def _place(channels: Float, *, grid: Grid, recipe: Recipe) -> Placement:
    """Where nnU-Net's crop lies: the bounding box of the voxels that are not zero in every channel."""
    whole = [[0, size] for size in grid.shape_zyx]
    is_used = np.zeros(grid.shape_zyx, dtype=np.bool_)
    box = whole
    for channel in channels:
        is_used |= channel != 0
        box = get_bbox_from_mask(is_used)  # nnU-Net fills holes first, which moves no bounding box
        if box == whole:
            break
    return Placement(
        transpose=recipe.transpose,
        shape=three(grid.shape_zyx[axis] for axis in recipe.transpose),
        box=three((box[axis][0], box[axis][1]) for axis in recipe.transpose),
        spacing_mm=three(grid.spacing_mm_zyx[axis] for axis in recipe.transpose),
        network_spacing_mm=recipe.spacing_mm,
    )


def _outside(channels: Float) -> npt.NDArray[np.int8]:
    """nnU-Net's sign for voxels that are zero in every channel and not a hole: -1, else 0."""
    return np.where(create_nonzero_mask(channels), np.int8(0), np.int8(-1))


def _normalise(channel: Float, *, how: Normalisation, outside: npt.NDArray[np.int8] | None) -> Float:
    """The channel normalised by nnU-Net's own class, as a copy in the order of its axes."""
    normaliser = _normaliser_class(how.scheme)(
        use_mask_for_norm=how.is_masked, intensityproperties=dict(how.intensities)
    )
    copy = np.array(channel, dtype=np.float32, order="C")  # nnU-Net's classes work in place
    return np.ascontiguousarray(normaliser.run(copy, outside))


@functools.cache
def _normaliser_class(scheme: str) -> Any:
    folder = Path(nnunetv2.__path__[0]) / "preprocessing" / "normalization"
    found = recursive_find_python_class(str(folder), scheme, "nnunetv2.preprocessing.normalization")
    if found is None:
        raise ValueError(f"nnU-Net must have the normalisation that plans name, got {scheme}")
    return found
