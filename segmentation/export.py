"""Probabilities on the scan's grid out of a network's logits, equal to nnU-Net's export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from petct.labels import Label
from petct.stages import stage
from segmentation.needed import Needed
from segmentation.plans import Resampling, three
from segmentation.preprocessing import Placement, whole_box
from segmentation.resampling import Box, Part, resample_slabs
from segmentation.short_memory import Relief, Reliefs

_HOST = torch.device("cpu")


@dataclass
class Added:
    """How much of a member is in the sum, so that nothing is added twice when the rest is.

    Attributes:
        has_background: Whether what was cropped away is.
        rows: How many of the crop's rows along the network's first axis are.
    """

    has_background: bool = False
    rows: int = 0


def add_probabilities(
    total: npt.NDArray[np.float32],
    logits: torch.Tensor,
    *,
    placement: Placement,
    part: Part,
    resampling: Resampling,
    weight: float,
    needed: Needed | None,
    device: torch.device,
    name: str = "member",
    held: Box | None = None,
    added: Added | None = None,
) -> None:
    """Add a member's weighted probabilities to a sum: logits resampled to the scan's voxels, softmax, crop undone.

    Nothing of the scan's size is held beside the sum: a slab at a time is resampled and added. When the GPU is full,
    slabs that are added stay so, and the others are made on the host.

    Args:
        total: The sum so far, (class, z, y, x) on the scan's grid; changed in place.
        logits: (class, and the network's three axes), on any device.
        placement: Where the network's voxels lie in the scan.
        part: Which of the network's voxels the logits are of; beyond them, the outermost go on.
        resampling: How plans say that logits are resampled.
        weight: What the probabilities are multiplied with.
        needed: Where probabilities are needed, with the axes (z, y, x); everywhere when None. Elsewhere nothing may be
            added.
        device: Where to compute.
        name: What the log and an error call the member.
        held: The part of the scan's grid, (z, y, x), that the sum holds; all of it when None. With `needed.box()` its
            voxels are bit by bit what they are in the whole sum.
        added: What of the member is in the sum already; kept up to date, so that what failed for want of memory can go
            on from there. Nothing is when None.

    Raises:
        CaseError: There is too little memory.
    """
    with stage("export"):
        along = torch.from_numpy(total).permute(0, *(1 + axis for axis in placement.transpose))
        holds = whole_box(placement.shape) if held is None else three(held[axis] for axis in placement.transpose)
        so_far = Added() if added is None else added
        # What was cropped away is background, as in nnU-Net.
        if not so_far.has_background:
            for box in _around(placement.crop, whole=holds):
                along[(Label.BACKGROUND, *_counted_from(box, holds))].add_(weight)
            so_far.has_background = True
        asked = needed.transposed(placement.transpose).within(placement.crop) if needed is not None else None
        # In voxels of the crop, from which the sum may cut off more.
        kept = _counted_from(_common(placement.crop, holds), placement.crop)
        computed_on = device

        def wanted(rows: slice) -> Box | None:
            rows = slice(max(rows.start, so_far.rows), rows.stop)
            if rows.start >= rows.stop:
                return None
            box = whole_box(placement.box_shape) if asked is None else asked.box(rows)
            common = None if box is None else _common((rows, box[1], box[2]), kept)
            return common if common is not None and all(side.start < side.stop for side in common) else None

        def add() -> None:
            for box, slab in resample_slabs(
                logits,
                resampling=resampling,
                shape=placement.box_shape,
                spacing_mm=placement.network_spacing_mm,
                new_spacing_mm=placement.spacing_mm,
                device=computed_on,
                part=part,
                wanted=wanted,
            ):
                probabilities = torch.softmax(slab.float(), dim=0).cpu()
                place = _counted_from(box, _counted_from(holds, placement.crop))
                along[(slice(None), *place)].add_(probabilities, alpha=weight)
                so_far.rows = box[0].stop

        def leave_gpu() -> Relief | None:
            nonlocal computed_on, logits
            if computed_on.type == "cpu":
                return None
            computed_on, logits = _HOST, logits.to(_HOST)
            return Relief("probabilities are computed on the CPU")

        Reliefs(name, on_gpu=[leave_gpu], on_host=[]).run(add, what="probabilities")


def _common(box: Sequence[slice], other: Sequence[slice]) -> Box:
    """What two boxes share, along an axis without any an empty slice inside the second."""
    starts = [min(max(a.start, b.start), b.stop) for a, b in zip(box, other, strict=True)]
    stops = [min(a.stop, b.stop) for a, b in zip(box, other, strict=True)]
    return three(slice(start, max(start, stop)) for start, stop in zip(starts, stops, strict=True))


def _counted_from(box: Sequence[slice], origin: Sequence[slice]) -> Box:
    """A box counted from the first voxel of another."""
    return three(slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, origin, strict=True))


def _around(crop: Sequence[slice], *, whole: Box) -> Iterator[Box]:
    """What a box has outside a crop, in boxes that share no voxel."""
    left = list(whole)
    for axis, inside in enumerate(_common(crop, whole)):
        for side in (slice(whole[axis].start, inside.start), slice(inside.stop, whole[axis].stop)):
            if side.start < side.stop:
                yield three([*left[:axis], side, *left[axis + 1 :]])
        left[axis] = inside
