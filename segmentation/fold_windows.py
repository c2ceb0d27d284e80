"""Which windows of a scan a network is shown: how many before anything is made, and the most important when time is up.

They are those of `sliding_window.predict_logits`, which a test compares.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window

from petct.geometry import Grid
from petct.labels import Label
from segmentation.crop import scan_box
from segmentation.needed import Needed
from segmentation.packed_model import PackedModel
from segmentation.plans import Recipe, Resampling, three
from segmentation.preprocessing import Placement
from segmentation.resampling import Box, Part
from segmentation.short_memory import Relief, Reliefs, Remedy
from segmentation.sliding_window import (
    GAUSSIAN_PEAK,
    SIGMA_PER_WINDOW,
    SUM_DTYPE,
    Network,
    predict_logits,
    windows_along,
)

log = logging.getLogger(__name__)

IsNeeded = Callable[[Sequence[slice]], bool]

# How many of the network's voxels away a spline of an order feels a voxel, to float32's precision.
_REACH = {0: 1, 1: 1, 2: 12, 3: 16, 4: 20, 5: 24}
_SURE_LOGIT = 30.0  # softmax of it beside zeros is 1 to float32's precision
_HOST = torch.device("cpu")
_PET = 0  # the first channel, whose order normalising keeps


def probability_resampling(model: PackedModel) -> Resampling:
    """How the model's plans say that logits are resampled."""
    return Resampling.from_plans(model.configuration.configuration, what="probabilities")


def whole_placement(grid: Grid, *, recipe: Recipe) -> Placement:
    """Where a network's voxels lie in a scan none of which is cropped away, as is nearly always so."""
    shape = three(grid.shape_zyx[axis] for axis in recipe.transpose)
    return Placement(
        transpose=recipe.transpose,
        shape=shape,
        box=three((0, size) for size in shape),
        spacing_mm=three(grid.spacing_mm_zyx[axis] for axis in recipe.transpose),
        network_spacing_mm=recipe.spacing_mm,
    )


def is_needed_in(model: PackedModel, *, placement: Placement, part: Part, needed: Needed) -> IsNeeded | None:
    """Whether a window matters to any voxel that is needed; None where that cannot be told.

    Args:
        model: The model.
        placement: Where the network's voxels lie in the scan.
        part: Which of the network's voxels windows are counted in.
        needed: Where probabilities are needed, (z, y, x).
    """
    spline = probability_resampling(model).spline
    if spline is None:
        return None
    inside = needed.transposed(placement.transpose).within(placement.crop)
    reach = _REACH[max(spline.order, spline.order_z)]
    return lambda tile: inside.meets(scan_box(tile, part=part, placement=placement, reach=reach))


def count_all_windows(shape: Sequence[int], *, window: Sequence[int], tile_step: float) -> int:
    """How many windows so many voxels take when all are run."""
    return math.prod(
        windows_along(length, window=size, tile_step=tile_step) for length, size in zip(shape, window, strict=True)
    )


def count_windows(region: Box, *, window: Sequence[int], tile_step: float, is_needed: IsNeeded | None) -> int:
    """How many windows a region of the network's voxels takes.

    Args:
        region: The region.
        window: The patch size.
        tile_step: Step of the sliding window as a fraction of the window, in (0, 1].
        is_needed: Whether a window, counted from the region's first voxel, is run; all are when None.
    """
    shape = [side.stop - side.start for side in region]
    if is_needed is None:
        return count_all_windows(shape, window=window, tile_step=tile_step)
    return sum(map(is_needed, _tiles(shape, window=window, tile_step=tile_step)))


@dataclass(frozen=True)
class ByUptake:
    """What windows said that were run from the highest uptake downwards.

    Attributes:
        logits: As of `predict_logits`, surely background where no window was.
        mirrored: How many windows were run with mirrorings.
        unmirrored: How many without, after those.
        is_whole: Whether these are all that matter.
    """

    logits: torch.Tensor
    mirrored: int
    unmirrored: int
    is_whole: bool


def predict_by_uptake(
    network: Network,
    data: torch.Tensor,
    *,
    window: Sequence[int],
    mirrorings: Sequence[Sequence[int]],
    tile_step: float,
    device: torch.device,
    name: str,
    is_needed: IsNeeded | None,
    next_mirrorings: Callable[[int], int],
    is_sum_on_host: bool = False,
    make_room: Remedy | None = None,
) -> ByUptake:
    """Logits of the windows with the highest uptake, one after the other, as many as there is time for.

    Args:
        network: The network.
        data: Preprocessed channels, (channel, and three axes), the PET first.
        window: The patch size.
        mirrorings: Combinations of axes to flip, the unflipped one first.
        tile_step: Step of the sliding window.
        device: Where the network takes windows and logits are summed.
        name: What the log calls this.
        is_needed: Whether a window is run; all are when None.
        next_mirrorings: Asked before each window with how many were run: with how many mirrorings it is run, all or one
            and then no more than one; 0 is the end.
        is_sum_on_host: Whether logits are summed in the host's memory whatever the device.
        make_room: Gives back what others hold of the host's memory; asked first when that runs out.

    Raises:
        CaseError: There is too little memory, whatever of it is given up.
    """
    shape = data.shape[1:]
    tiles = [tile for tile in _tiles(shape, window=window, tile_step=tile_step) if is_needed is None or is_needed(tile)]
    tiles.sort(key=lambda tile: -float(data[(_PET, *tile)].max()))
    sums = _Sums(shape, window=window, device=_HOST if is_sum_on_host else device)
    staying = _Staying(network, sums=sums, device=device)
    reliefs = Reliefs(name, on_gpu=[sums.leave_gpu], on_host=[] if make_room is None else [make_room])
    reliefs.run(sums.open, what="sum of the windows")

    def say(tile: Box, asked: int) -> torch.Tensor:
        return predict_logits(
            staying,
            data[(slice(None), *tile)],
            window=window,
            classes=len(Label),
            mirrorings=mirrorings[:asked],
            tile_step=tile_step,
            device=staying.device,
            name=name,
            is_sum_on_host=sums.device.type == "cpu",
            make_room=make_room,
        )

    done = {True: 0, False: 0}
    for number, tile in enumerate(tiles):
        asked = next_mirrorings(number)
        if not asked:
            break
        said = reliefs.run(partial(say, tile, asked), what="network")
        if said.device.type == "cpu":
            # The GPU had no room even for a sum of one window, which is said already.
            reliefs.run(sums.leave_gpu, what="sum of the windows")
        reliefs.run(partial(sums.add, tile, said), what="sum of the windows")
        done[asked >= len(mirrorings)] += 1
    logits = reliefs.run(sums.mean, what="sum of the windows")
    log.info("%s: %d of %d windows, those with the highest uptake first", name, sum(done.values()), len(tiles))
    return ByUptake(logits, done[True], done[False], sum(done.values()) == len(tiles))


class _Sums:
    """Sums windows of whatever size by the middle of their Gaussian weights; nothing is held until it is opened."""

    def __init__(self, shape: Sequence[int], *, window: Sequence[int], device: torch.device) -> None:
        self._shape = tuple(shape)
        self._window = tuple(window)
        self._logits = self._weights = self._gaussian = torch.empty(0)
        self.device = device

    def open(self) -> None:
        self._logits = torch.zeros((len(Label), *self._shape), dtype=SUM_DTYPE, device=self.device)
        self._weights = torch.zeros(self._shape, dtype=SUM_DTYPE, device=self.device)
        self._gaussian = compute_gaussian(
            self._window,
            sigma_scale=SIGMA_PER_WINDOW,
            value_scaling_factor=GAUSSIAN_PEAK,
            dtype=SUM_DTYPE,
            device=self.device,
        )

    def leave_gpu(self) -> Relief | None:
        if self.device.type == "cpu":
            return None
        held = self._logits, self._weights, self._gaussian
        self._logits, self._weights, self._gaussian = (kept.to(_HOST) for kept in held)
        self.device = _HOST
        return Relief("windows are summed in the host's memory")

    def add(self, tile: Box, said: torch.Tensor) -> None:
        weight = self._gaussian[_middle(said.shape[1:], window=self._window)]
        weighted = said.to(self.device) * weight
        # Nothing is allocated any more, so that no window is added by half.
        self._logits[(slice(None), *tile)] += weighted
        self._weights[tile] += weight

    def mean(self) -> torch.Tensor:
        """The mean, surely background where no window was."""
        is_unseen = self._weights == 0  # nothing is allocated after it
        self._logits /= self._weights.masked_fill_(is_unseen, 1.0)
        self._logits[Label.BACKGROUND].masked_fill_(is_unseen, _SURE_LOGIT)
        return self._logits


class _Staying:
    """A network that leaves a full GPU only after the sum of its windows: on a CPU it takes far longer, the sum not."""

    def __init__(self, network: Network, *, sums: _Sums, device: torch.device) -> None:
        self._network = network
        self._sums = sums
        self.device = device
        self.at_once = network.at_once

    def __call__(self, windows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        logits = self._network(windows)
        self.at_once = self._network.at_once
        return logits

    def go_one_by_one(self) -> Relief | None:
        relief = self._network.go_one_by_one()
        self.at_once = self._network.at_once
        return relief

    def leave_gpu(self) -> Relief | None:
        # Where it stays, there is too little memory for this window, and then the sum leaves.
        relief = self._network.leave_gpu() if self._sums.device.type == "cpu" else None
        if relief is not None:
            self.device = _HOST
        return relief


def _tiles(shape: Sequence[int], *, window: Sequence[int], tile_step: float) -> list[Box]:
    """What the windows show of a volume, in nnU-Net's order; one beyond its edges is counted only as far as them."""
    along = []
    for length, size in zip(shape, window, strict=True):
        (steps,) = compute_steps_for_sliding_window((max(length, size),), (size,), tile_step)
        along.append([slice(low, min(low + size, length)) for low in steps])
    return [three(tile) for tile in product(*along)]


def _middle(shape: Sequence[int], *, window: Sequence[int]) -> tuple[slice, ...]:
    """Where in a window a smaller volume lies, which is padded on both sides as nnU-Net does."""
    lows = [(size - length) // 2 for length, size in zip(shape, window, strict=True)]
    return tuple(slice(low, low + length) for low, length in zip(lows, shape, strict=True))
