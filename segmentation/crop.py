"""Which part of a scan the networks see in each mode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from petct.body import body_box
from petct.channels import ScanChannels
from petct.manifest import Mode
from petct.stages import stage
from segmentation.needed import Needed
from segmentation.preprocessing import Placement, whole_box
from segmentation.resampling import Box, Part
from segmentation.sliding_window import windows_along

AIR_MM = 20.0  # real air around the body, which the networks know from training; zeros would be soft tissue
# Share of the windows that a crop may leave at most: a balanced run keeps nnU-Net's own unless it can save half.
ANY_CROP = 1.0
WORTH_WINDOWS = {Mode.EXACT: 0.0, Mode.BALANCED: 0.5, Mode.FAST: ANY_CROP}
CONTEXT_MM = 60.0  # what a fast run shows the networks beyond the last voxel that matters


@dataclass(frozen=True)
class Surroundings:
    """What a crop must and may leave out, on the scan's grid, (z, y, x).

    Attributes:
        body: The patient's box with some air; None when nothing is cropped.
        needed: Where probabilities matter.
    """

    body: Box | None
    needed: Needed


def visible_box(
    surroundings: Surroundings, *, mode: Mode, shape_zyx: Sequence[int], spacing_mm_zyx: Sequence[float]
) -> Box:
    """The part of the scan that the networks see, (z, y, x).

    Exact: all of it. Balanced: the body. Fast: of the body what is near voxels that can end up in the mask. Needed
    voxels are never cut off.
    """
    whole = whole_box(shape_zyx)
    if mode is Mode.EXACT or surroundings.body is None:
        return whole
    box = surroundings.body
    needed = surroundings.needed.box()
    if needed is None:
        return box
    sides = []
    for axis, (inside, wanted) in enumerate(zip(box, needed, strict=True)):
        low, high = inside.start, inside.stop
        if mode is Mode.FAST:
            context = math.ceil(CONTEXT_MM / spacing_mm_zyx[axis])
            low, high = max(low, wanted.start - context), min(high, wanted.stop + context)
        sides.append(slice(min(low, wanted.start), max(high, wanted.stop)))
    first, second, third = sides
    return first, second, third


def network_region(
    box: Box, *, placement: Placement, window: Sequence[int], tile_step: float, worth_windows: float
) -> Box:
    """The network's voxels that show a part of the scan, at least as many as a window has where the scan has them.

    Where a window lies changes what a network says. So an axis is cropped only if that saves windows, and nothing is
    cropped unless that saves enough of them: otherwise they stay where nnU-Net has them in the whole scan. Where any
    crop is welcome, all axes are cropped: as many windows then overlap more.

    Args:
        box: The part, (z, y, x) on the scan's grid.
        placement: Where the network's voxels lie in the scan.
        window: The patch size.
        tile_step: Step of the sliding window as a fraction of the window, in (0, 1].
        worth_windows: Share of the whole scan's windows that a crop may leave at most.
    """
    sides: list[slice] = []
    fewer, all_windows = 1, 1
    for axis in range(3):
        low, high = placement.box[axis]
        size = placement.network_shape[axis]
        part = box[placement.transpose[axis]]
        per_voxel = size / (high - low)
        start = max(0, math.floor((part.start - low) * per_voxel))
        stop = min(size, math.ceil((part.stop - low) * per_voxel))
        length = max(stop - start, min(window[axis], size))
        in_part = windows_along(length, window=window[axis], tile_step=tile_step)
        in_all = windows_along(size, window=window[axis], tile_step=tile_step)
        if in_part == in_all and worth_windows < ANY_CROP:
            start, length = 0, size
        start = min(max(0, start - (length - (stop - start)) // 2), size - length)
        sides.append(slice(start, start + length))
        fewer, all_windows = fewer * in_part, all_windows * in_all
    if fewer > all_windows * worth_windows:
        return whole_box(placement.network_shape)
    first, second, third = sides
    return first, second, third


def scan_box(tile: Sequence[slice], *, part: Part, placement: Placement, reach: int) -> Box:
    """The scan's voxels that a part of the network's voxels may change, inside the placement's box, network's axes.

    Args:
        tile: The part, counted from the first voxel of `part`.
        part: Which of the network's voxels are there.
        placement: Where the network's voxels lie in the scan.
        reach: How many of the network's voxels away resampling still feels a voxel.
    """
    sides = []
    for axis in range(3):
        per_voxel = placement.box_shape[axis] / part.whole[axis]
        low, high = tile[axis].start + part.low[axis] - reach, tile[axis].stop + part.low[axis] + reach
        sides.append(
            slice(
                max(0, math.floor(low * per_voxel)), max(0, min(placement.box_shape[axis], math.ceil(high * per_voxel)))
            )
        )
    first, second, third = sides
    return first, second, third


def look_around(scan: ScanChannels, *, has_body: bool, reach_mm: float) -> Surroundings:
    """What a crop of a scan must and may leave out.

    Args:
        scan: The scan's channels.
        has_body: Whether the body is looked for.
        reach_mm: How far from a voxel that can be disease probabilities matter.
    """
    spacing = scan.grid.spacing_mm_zyx
    with stage("crop"):
        body = body_box(scan.ct_hu, spacing_mm_zyx=spacing, margin_mm=AIR_MM) if has_body else None
        # One voxel more, because a header's spacing is rounded.
        reach = [math.ceil(reach_mm / size) + 1 for size in spacing]
        needed = Needed.around(scan.can_be_disease, reach=reach)
    return Surroundings(body, needed)
