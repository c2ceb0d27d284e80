"""nnU-Net's sliding window, in float32.

The windows, their Gaussian weights and the mirrorings are those of nnU-Net's own predictor. What differs is the sum:
nnU-Net keeps it in half precision, which on a CPU is many times slower than float32 and rounds to whole logits in
the corners of the scan, where a window's weight is below half precision's smallest number.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from itertools import combinations, product

import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window

log = logging.getLogger(__name__)

# nnUNetPredictor's own arguments of compute_gaussian.
SIGMA_PER_WINDOW = 1.0 / 8
GAUSSIAN_PEAK = 10.0
SUM_DTYPE = torch.float32  # nnU-Net's is half; with half here the labels are nnU-Net's own, which a test shows
PROGRESS_INTERVAL_S = 10.0


@torch.no_grad()
def predict_logits(
    network: torch.nn.Module,
    data: torch.Tensor,
    *,
    window: Sequence[int],
    classes: int,
    mirrorings: Sequence[Sequence[int]],
    tile_step: float,
    device: torch.device,
    name: str,
) -> torch.Tensor:
    """Logits of a whole preprocessed scan.

    Args:
        network: The network, on `device`, in evaluation mode.
        data: Preprocessed channels on the CPU, (channel, and three axes in the network's order), float32.
        window: The patch size, in voxels along the network's axes.
        classes: How many classes the network has.
        mirrorings: Combinations of spatial axes (0, 1, 2) to flip, () for none; logits are averaged over them.
        tile_step: Step from window to window as a fraction of the window, in (0, 1].
        device: Where the network runs and where logits are summed. On CUDA the network runs with nnU-Net's autocast.
        name: What the progress lines in the log call this.

    Returns:
        `SUM_DTYPE` logits on the CPU, (class, and the three axes of `data`).
    """
    # A scan smaller than the window is padded with zeros around it, as nnU-Net does.
    padded, unpad = pad_nd_image(data, tuple(window), "constant", {"value": 0}, True, None)
    shape = padded.shape[1:]
    gaussian = compute_gaussian(
        tuple(window),
        sigma_scale=SIGMA_PER_WINDOW,
        value_scaling_factor=GAUSSIAN_PEAK,
        dtype=SUM_DTYPE,
        device=device,
    )
    logits = torch.zeros((classes, *shape), dtype=SUM_DTYPE, device=device)
    weights = torch.zeros(shape, dtype=SUM_DTYPE, device=device)
    tiles = _tiles(shape, window=window, tile_step=tile_step)
    said_s = time.monotonic()
    with (
        torch.autocast(device.type, enabled=device.type == "cuda"),
        torch.backends.cudnn.flags(enabled=True, benchmark=True),  # every window has the same size
    ):
        for done, tile in enumerate(tiles):
            if time.monotonic() - said_s >= PROGRESS_INTERVAL_S:
                said_s = time.monotonic()
                log.info("%s: %d of %d windows", name, done, len(tiles))
            prediction = _predict_window(network, padded[(slice(None), *tile)].to(device), mirrorings)
            logits[(slice(None), *tile)] += prediction * gaussian
            weights[tile] += gaussian
    logits /= weights
    return logits[(slice(None), *unpad[1:])].cpu()


def all_mirrorings(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Every combination of axes to flip, the unflipped one first: 8 for three axes, 1 for none."""
    return [flipped for count in range(len(axes) + 1) for flipped in combinations(axes, count)]


def _tiles(shape: Sequence[int], *, window: Sequence[int], tile_step: float) -> list[tuple[slice, ...]]:
    """Where the windows lie, in nnU-Net's order."""
    steps = compute_steps_for_sliding_window(tuple(shape), tuple(window), tile_step)
    return [
        tuple(slice(low, low + size) for low, size in zip(corner, window, strict=True)) for corner in product(*steps)
    ]


def _predict_window(network: torch.nn.Module, tile: torch.Tensor, mirrorings: Sequence[Sequence[int]]) -> torch.Tensor:
    """Logits of one window, (class, and three axes), averaged over the mirrorings."""
    total: torch.Tensor | None = None
    for flipped in mirrorings:
        axes = [axis + 1 for axis in flipped]  # the channel comes first
        logits = network(torch.flip(tile, axes)[None])[0].float()
        restored = torch.flip(logits, axes)
        total = restored if total is None else total.add_(restored)
    if total is None:
        raise ValueError("mirrorings must hold at least one entry, () for none")
    return total.div_(len(mirrorings))
