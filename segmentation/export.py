"""Probabilities on the scan's grid out of a network's logits, equal to nnU-Net's export."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from petct.labels import Label
from segmentation.plans import Resampling
from segmentation.preprocessing import Placement
from segmentation.resampling import resample_slabs


def add_probabilities(
    total: npt.NDArray[np.float32],
    logits: torch.Tensor,
    *,
    placement: Placement,
    resampling: Resampling,
    weight: float,
    device: torch.device,
) -> None:
    """Add a member's weighted probabilities to a sum: logits resampled to the scan's voxels, softmax, crop undone.

    Nothing of the scan's size is held beside the sum: a slab at a time is resampled and added.

    Args:
        total: The sum so far, (class, z, y, x) on the scan's grid; changed in place.
        logits: (class, and the network's three axes).
        placement: Where the logits' voxels lie in the scan.
        resampling: How plans say that logits are resampled.
        weight: What the probabilities are multiplied with.
        device: Where to compute.
    """
    along = torch.from_numpy(total).permute(0, *(1 + axis for axis in placement.transpose))
    if placement.box_shape != placement.shape:
        # What was cropped away is background, as in nnU-Net.
        is_cropped = torch.ones(placement.shape, dtype=torch.bool)
        is_cropped[placement.crop] = False
        along[Label.BACKGROUND].add_(is_cropped, alpha=weight)
    inside = along[(slice(None), *placement.crop)]
    for rows, slab in resample_slabs(
        logits,
        resampling=resampling,
        shape=placement.box_shape,
        spacing_mm=placement.network_spacing_mm,
        new_spacing_mm=placement.spacing_mm,
        device=device,
    ):
        inside[:, rows].add_(torch.softmax(slab.float(), dim=0).cpu(), alpha=weight)
