"""A scan as a network sees it, equal to nnU-Net's DefaultPreprocessor, each distinct channel made once.

nnU-Net's steps: axes in the network's order, crop to what is not zero in every channel, normalise, resample. PET and CT
are the same for members with and without organs, so members whose plans treat them alike share them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nnunetv2
import numpy as np
import numpy.typing as npt
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import get_bbox_from_mask
from nnunetv2.preprocessing.cropping.cropping import create_nonzero_mask
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

from petct.channels import Channel
from petct.geometry import Grid
from petct.stages import stage
from segmentation.plans import Normalisation, Recipe, resampled_shape, three
from segmentation.resampling import Box, Part, resample

Float = npt.NDArray[np.float32]
Range = tuple[int, int]

SHARED_CHANNELS = ("pet_ratio", "ct")


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
        return resampled_shape(self.box_shape, spacing_mm=self.spacing_mm, new_spacing_mm=self.network_spacing_mm)


@dataclass(frozen=True)
class Preprocessed:
    """A scan, or a region of it, as a network sees it.

    Attributes:
        data: float32 on the CPU, (channel, and the network's three axes).
        placement: Where the scan's voxels lie.
        part: Which of the network's voxels `data` holds.
    """

    data: torch.Tensor
    placement: Placement
    part: Part


class ScanPreprocessor:
    """Preprocesses the channels of one scan, and remembers those that other networks may ask for again.

    Args:
        grid: The scan's grid.
        build: Builds a channel on the grid, (z, y, x).
        device: Where channels are resampled.
        does_remember: Whether PET and CT are kept for other networks that see them alike.
    """

    def __init__(
        self, grid: Grid, build: Callable[[Channel], Float], *, device: torch.device, does_remember: bool = True
    ) -> None:
        self._grid = grid
        self._build = build
        self._device = device
        self._does_remember = does_remember
        self._boxes: dict[Channel, list[list[int]]] = {}
        self._remembered: dict[Hashable, torch.Tensor] = {}

    def run(
        self, channels: Sequence[Channel], *, recipe: Recipe, region: Callable[[Placement], Box] | None
    ) -> Preprocessed:
        """The channels as a network sees them.

        Args:
            channels: What the network sees; PET and CT are not made again for a network that sees them alike.
            recipe: The network's recipe.
            region: Chooses the network's voxels that are wanted; all of them when None.

        Returns:
            The channels in the network's axes and voxels; the voxels of a region are what they are in the whole.

        Raises:
            ValueError: A channel is not on the grid.
        """
        with stage("preprocess"):
            built: dict[Channel, Float] = {}
            placement = self._place(channels, recipe=recipe, built=built)
            shape = placement.box_shape if recipe.resampling.is_idle else placement.network_shape
            # Only a spline can be asked for a part of what it makes.
            is_whole = region is None or recipe.resampling.spline is None
            chosen = whole_box(shape) if region is None or is_whole else region(placement)
            is_masked = any(how.is_masked for how in recipe.normalisations)
            outside = _outside(self._all(channels, recipe=recipe, built=built))[placement.crop] if is_masked else None
            data = torch.empty((len(channels), *(part.stop - part.start for part in chosen)), dtype=torch.float32)
            for number, (channel, how) in enumerate(zip(channels, recipe.normalisations, strict=True)):
                # What a masked channel becomes depends on all the others; organs are seen by few networks alike.
                key = (channel, placement, how, recipe.resampling, *_edges(chosen))
                may_share = self._does_remember and channel.name in SHARED_CHANNELS and not how.is_masked
                if may_share and key in self._remembered:
                    data[number] = self._remembered[key]
                    continue
                voxels = built.pop(channel, None)
                along = (self._made(channel) if voxels is None else voxels).transpose(recipe.transpose)
                resample(
                    torch.from_numpy(_normalise(along[placement.crop], how=how, outside=outside))[None],
                    out=data[number, None],
                    region=chosen,
                    shape=shape,
                    resampling=recipe.resampling,
                    spacing_mm=placement.spacing_mm,
                    new_spacing_mm=placement.network_spacing_mm,
                    device=self._device,
                )
                if may_share:
                    self._remembered[key] = data[number].clone()  # a view would keep all the channels
            return Preprocessed(data, placement, Part(three(shape), three(side.start for side in chosen)))

    def _made(self, channel: Channel) -> Float:
        with stage("channels"):
            voxels = self._build(channel)
        if voxels.shape != self._grid.shape_zyx:
            shape = self._grid.shape_zyx
            raise ValueError(f"channel {channel.name} must be on the grid {shape} (z, y, x), got {voxels.shape}")
        return voxels

    def _place(self, channels: Sequence[Channel], *, recipe: Recipe, built: dict[Channel, Float]) -> Placement:
        """Where nnU-Net's crop lies: the bounding box of the voxels that are not zero in every channel.

        What had to be built for that is left in `built`.
        """
        whole = [[0, size] for size in self._grid.shape_zyx]
        box: list[list[int]] | None = None
        # The CT first: it is not zero in air, so that mostly nothing else has to be looked at.
        for channel in sorted(channels, key=lambda channel: channel.name != "ct"):
            if channel not in self._boxes:
                built[channel] = self._made(channel)
                self._boxes[channel] = _used_box(built[channel])
            if mine := self._boxes[channel]:
                sides = zip(box or mine, mine, strict=True)
                box = [[min(a[0], b[0]), max(a[1], b[1])] for a, b in sides]
            if box == whole:
                break
        around = box or whole
        return Placement(
            transpose=recipe.transpose,
            shape=three(self._grid.shape_zyx[axis] for axis in recipe.transpose),
            box=three((int(around[axis][0]), int(around[axis][1])) for axis in recipe.transpose),
            spacing_mm=three(self._grid.spacing_mm_zyx[axis] for axis in recipe.transpose),
            network_spacing_mm=recipe.spacing_mm,
        )

    def _all(self, channels: Sequence[Channel], *, recipe: Recipe, built: dict[Channel, Float]) -> Float:
        for channel in channels:
            if channel not in built:
                built[channel] = self._made(channel)
        return np.stack([built[channel] for channel in channels]).transpose(0, *(1 + a for a in recipe.transpose))


def whole_box(shape: Sequence[int]) -> Box:
    """All voxels of a volume with three axes."""
    return three(slice(0, int(size)) for size in shape)


def _used_box(channel: Float) -> list[list[int]]:
    """The bounding box of what is not zero, [] when all is."""
    faces = [channel.take(end, axis=axis) for axis in range(3) for end in (0, -1)]
    if all(face.any() for face in faces):
        return [[0, size] for size in channel.shape]
    # nnU-Net fills holes first, which moves no bounding box.
    return get_bbox_from_mask(channel != 0) if channel.any() else []


def _edges(box: Box) -> tuple[tuple[int, int], ...]:
    return tuple((part.start, part.stop) for part in box)


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
