"""Probabilities on the scan's grid out of a network's logits, equal to nnU-Net's export."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from petct.labels import Label
from petct.stages import stage
from segmentation.needed import Needed
from segmentation.plans import Resampling
from segmentation.preprocessing import Placement
from segmentation.resampling import Part, resample_slabs


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
) -> None:
    """Add a member's weighted probabilities to a sum: logits resampled to the scan's voxels, softmax, crop undone.

    Nothing of the scan's size is held beside the sum: a slab at a time is resampled and added.

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
    """
    with stage("export"):
        along = torch.from_numpy(total).permute(0, *(1 + axis for axis in placement.transpose))
        if placement.box_shape != placement.shape:
            # What was cropped away is background, as in nnU-Net.
            is_cropped = torch.ones(placement.shape, dtype=torch.bool)
            is_cropped[placement.crop] = False
            along[Label.BACKGROUND].add_(is_cropped, alpha=weight)
        inside = along[(slice(None), *placement.crop)]
        asked = needed.transposed(placement.transpose).within(placement.crop) if needed is not None else None
        for box, slab in resample_slabs(
            logits,
            resampling=resampling,
            shape=placement.box_shape,
            spacing_mm=placement.network_spacing_mm,
            new_spacing_mm=placement.spacing_mm,
            device=device,
            part=part,
            wanted=asked.box if asked is not None else None,
        ):
            inside[(slice(None), *box)].add_(torch.softmax(slab.float(), dim=0).cpu(), alpha=weight)
