"""nnU-Net's sliding window, in float32.

The windows, their Gaussian weights and the mirrorings are those of nnU-Net's own predictor. What differs is the sum:
nnU-Net keeps it in half precision, which on a CPU is many times slower than float32 and rounds to whole logits in
the corners of the scan, where a window's weight is below half precision's smallest number.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product
from typing import Protocol

import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window

from petct.stages import count, stage
from segmentation.short_memory import Relief, Reliefs, Remedy

log = logging.getLogger(__name__)

# nnUNetPredictor's own arguments of compute_gaussian.
SIGMA_PER_WINDOW = 1.0 / 8
GAUSSIAN_PEAK = 10.0
SUM_DTYPE = torch.float32  # nnU-Net's is half; with half here the labels are nnU-Net's own, which a test shows
PROGRESS_INTERVAL_S = 10.0
_HOST = torch.device("cpu")


class Network(Protocol):
    """Computes the logits of windows.

    Attributes:
        at_once: How many windows keep it busy; fewer at a time take as long.
    """

    at_once: int

    def __call__(self, windows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Logits, float32 (class, and three axes) each, of windows (channel, and three axes) of one size."""
        ...

    def go_one_by_one(self) -> Relief | None:
        """Compute one window at a time from now on; None if that is what it does."""
        ...

    def leave_gpu(self) -> Relief | None:
        """Compute on the CPU from now on; None if that is what it does."""
        ...


@torch.no_grad()
def predict_logits(
    network: Network,
    data: torch.Tensor,
    *,
    window: Sequence[int],
    classes: int,
    mirrorings: Sequence[Sequence[int]],
    tile_step: float,
    device: torch.device,
    name: str,
    is_needed: Callable[[Sequence[slice]], bool] | None = None,
    is_sum_on_host: bool = False,
    make_room: Remedy | None = None,
) -> torch.Tensor:
    """Logits of a whole preprocessed scan.

    When memory runs out, windows that are done are kept, and the others go on with less: first one by one, then summed
    in the host's memory, then with the network on the CPU.

    Args:
        network: The network.
        data: Preprocessed channels on the CPU, (channel, and three axes in the network's order), float32.
        window: The patch size, in voxels along the network's axes.
        classes: How many classes the network has.
        mirrorings: Combinations of spatial axes (0, 1, 2) to flip, () for none; logits are averaged over them.
        tile_step: Step from window to window as a fraction of the window, in (0, 1].
        device: Where the network takes windows and logits are summed.
        name: What the progress lines in the log call this.
        is_needed: Whether anything in a part of `data` is needed; windows without are left out, all are run when None.
        is_sum_on_host: Whether logits are summed in the host's memory whatever the device.
        make_room: Gives back what others hold of the host's memory; asked first when that runs out.

    Returns:
        `SUM_DTYPE` logits on `device` or the host, (class, and the three axes of `data`); 0 where no window was run.

    Raises:
        CaseError: There is too little memory even so.
    """
    with stage("network"):
        # A scan smaller than the window is padded with zeros around it, as nnU-Net does.
        padded, unpad = pad_nd_image(data, tuple(window), "constant", {"value": 0}, True, None)
        shape = padded.shape[1:]
        tiles = _tiles(shape, window=window, tile_step=tile_step)
        if is_needed is not None:
            tiles = [tile for tile in tiles if is_needed(_without_padding(tile, unpad=unpad[1:]))]
        sums = _Sums(classes, shape, window=window, device=_HOST if is_sum_on_host else device)
        taken_on = device

        def leave_gpu() -> Relief | None:
            nonlocal taken_on
            relief = network.leave_gpu()
            taken_on = taken_on if relief is None else _HOST
            return relief

        reliefs = Reliefs(
            name,
            on_gpu=[lambda: network.go_one_by_one(), sums.leave_gpu, leave_gpu],
            on_host=[*([] if make_room is None else [make_room]), lambda: network.go_one_by_one()],
        )
        reliefs.run(sums.open, what="sum of the windows")
        said_s = time.monotonic()
        predicted = _predict_windows(
            network, padded, tiles=tiles, mirrorings=mirrorings, device=lambda: taken_on, reliefs=reliefs
        )
        for done, (tile, prediction) in enumerate(predicted):
            if time.monotonic() - said_s >= PROGRESS_INTERVAL_S:
                said_s = time.monotonic()
                log.info("%s: %d of %d windows", name, done, len(tiles))
            sums.add(tile, prediction, reliefs=reliefs)
        count("windows", len(tiles) * len(mirrorings))
        return reliefs.run(sums.mean, what="sum of the windows")[(slice(None), *unpad[1:])]


class _Sums:
    """Sums windows by their Gaussian weights; nothing is held until it is opened."""

    def __init__(self, classes: int, shape: Sequence[int], *, window: Sequence[int], device: torch.device) -> None:
        self._shape = (classes, *shape)
        self._window = tuple(window)
        self._device = device
        self._logits = self._weights = self._gaussian = torch.empty(0)

    def open(self) -> None:
        self._gaussian = compute_gaussian(
            self._window,
            sigma_scale=SIGMA_PER_WINDOW,
            value_scaling_factor=GAUSSIAN_PEAK,
            dtype=SUM_DTYPE,
            device=self._device,
        )
        self._logits = torch.zeros(self._shape, dtype=SUM_DTYPE, device=self._device)
        self._weights = torch.zeros(self._shape[1:], dtype=SUM_DTYPE, device=self._device)

    def leave_gpu(self) -> Relief | None:
        if self._device.type == "cpu":
            return None
        self._device = _HOST
        self._logits, self._weights, self._gaussian = (
            kept.to(_HOST) for kept in (self._logits, self._weights, self._gaussian)
        )
        return Relief("windows are summed in the host's memory")

    def add(self, tile: tuple[slice, ...], prediction: torch.Tensor, *, reliefs: Reliefs) -> None:
        weighted = reliefs.run(lambda: prediction.to(self._device) * self._gaussian, what="sum of the windows")
        # Nothing is allocated any more, so that no window is added by half.
        self._logits[(slice(None), *tile)] += weighted.to(self._device)
        self._weights[tile] += self._gaussian

    def mean(self) -> torch.Tensor:
        return self._logits.div_(self._weights.masked_fill_(self._weights == 0, 1.0))


def all_mirrorings(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Every combination of axes to flip, the unflipped one first: 8 for three axes, 1 for none."""
    return [flipped for count in range(len(axes) + 1) for flipped in combinations(axes, count)]


def windows_along(length: int, *, window: int, tile_step: float) -> int:
    """How many windows an axis takes; one that is shorter than the window is padded."""
    return len(compute_steps_for_sliding_window((max(length, window),), (window,), tile_step)[0])


def _tiles(shape: Sequence[int], *, window: Sequence[int], tile_step: float) -> list[tuple[slice, ...]]:
    """Where the windows lie, in nnU-Net's order."""
    steps = compute_steps_for_sliding_window(tuple(shape), tuple(window), tile_step)
    return [
        tuple(slice(low, low + size) for low, size in zip(corner, window, strict=True)) for corner in product(*steps)
    ]


def _without_padding(tile: Sequence[slice], *, unpad: Sequence[slice]) -> tuple[slice, ...]:
    """A window's place in the data before padding, as far as it has one."""
    return tuple(
        slice(max(0, part.start - inner.start), max(0, min(part.stop, inner.stop) - inner.start))
        for part, inner in zip(tile, unpad, strict=True)
    )


def _predict_windows(
    network: Network,
    padded: torch.Tensor,
    *,
    tiles: Sequence[tuple[slice, ...]],
    mirrorings: Sequence[Sequence[int]],
    device: Callable[[], torch.device],
    reliefs: Reliefs,
) -> Iterator[tuple[tuple[slice, ...], torch.Tensor]]:
    """Each window with its logits, (class, and three axes), averaged over the mirrorings."""
    if not mirrorings:
        raise ValueError("mirrorings must hold at least one entry, () for none")
    flips = [tuple(axis + 1 for axis in flipped) for flipped in mirrorings]  # the channel comes first
    asked = [(tile, number) for tile in tiles for number in range(len(flips))]
    total = torch.empty(0)
    done = 0
    while done < len(asked):

        def compute(done: int = done) -> list[torch.Tensor]:
            # However many there are: after a relief they are fewer than before.
            together = asked[done : done + network.at_once]
            shown = [torch.flip(padded[(slice(None), *tile)].to(device()), flips[number]) for tile, number in together]
            return network(shown)

        answers = reliefs.run(compute, what="network")
        for (tile, number), logits in zip(asked[done : done + len(answers)], answers, strict=True):
            restored = torch.flip(logits, flips[number])
            total = restored if number == 0 else total.to(restored.device).add_(restored)
            if number == len(flips) - 1:
                yield tile, total.div_(len(flips))
        done += len(answers)
