"""How long networks take: predicted from their operations and the machine's speed, corrected by what was measured."""

from __future__ import annotations

import math
from collections import deque
from statistics import fmean, median_high

from operation.deadline_plan import FoldCost
from operation.machine_speed import MachineSpeed
from operation.network_cost import window_flops
from petct.channels import channel_names
from petct.manifest import Mode
from segmentation.pace import FoldWork, ScanFolds

# On the reference machine, with room to spare; see docs/performance.md for what was measured.
OPENING_S = 2.0  # reading, building or compiling a network
_SEEN_S_PER_VOXEL = 1e-8  # and channel: made, resampled, normalised
_PUT_S_PER_VOXEL = 3e-8  # logits resampled, softmax
_AFTER_S_PER_VOXEL = 1e-7  # threshold, regrow, refine, check, write
_MOST_DRIFT = 2.0
_OPENING_MARGIN = 1.25
_RECENT_OPENINGS = 5  # a single slow one, of a network that is not in the cache yet, does not count for all others
_MOST_UNSURE = 2.0

_Network = tuple[str, int]  # tracer and the number of the member's first fold


class Rates:
    """What everything costs on this machine, as far as is known by now.

    Args:
        speed: The machine's speed.
    """

    def __init__(self, speed: MachineSpeed) -> None:
        self.speed = speed
        self._ratios: dict[_Network, float] = {}  # measured over predicted
        self._openings_s: deque[float] = deque(maxlen=_RECENT_OPENINGS)
        self._flops: dict[_Network, float] = {}
        self._counted: dict[_Network, tuple[bool, dict[Mode, int]]] = {}  # whether exactly, and the windows

    def opened(self, seconds: float) -> None:
        """Take note of what it took to open a network."""
        self._openings_s.append(seconds)

    @property
    def opening_s(self) -> float:
        """Seconds to open a network: by the last ones rather more than it takes."""
        if not self._openings_s:
            return OPENING_S * self.slowness
        return _OPENING_MARGIN * median_high(self._openings_s)

    @property
    def ratio(self) -> float:
        """How many times longer than predicted networks take, on average."""
        return fmean(self._ratios.values()) if self._ratios else 1.0

    @property
    def slowness(self) -> float:
        """How many times longer than on the reference machine other work takes.

        Slow networks may mean a slow machine, or that its speed was measured wrongly: half of each is believed.
        """
        return self.speed.slowness * min(max(math.sqrt(self.ratio), 1.0), _MOST_DRIFT)

    def pass_s(self, work: FoldWork, *, scan: ScanFolds, mode: Mode) -> float:
        """Seconds of one window, once."""
        return self._predicted_s(work, scan=scan, mode=mode) * self._ratios.get(work.member, self.ratio)

    def measured(self, work: FoldWork, *, scan: ScanFolds, mode: Mode, pass_s: float, is_sure: bool = True) -> None:
        """Correct all predictions by what a window of one network took.

        A network that was measured before tells how the machine has changed since, and that holds for all of them.

        Args:
            work: One of the network's folds.
            scan: Its scan.
            mode: The mode that it was run in.
            pass_s: Seconds of one window, once.
            is_sure: Whether it may be believed if it is far from what was predicted.
        """
        ratio, network = pass_s / self._predicted_s(work, scan=scan, mode=mode), work.member
        if not is_sure:
            known = self._ratios.get(network, self.ratio)
            ratio = min(max(ratio, known / _MOST_UNSURE), known * _MOST_UNSURE)
        if network in self._ratios:
            drift = ratio / self._ratios[network]
            self._ratios = {other: before * drift for other, before in self._ratios.items()}
        self._ratios[network] = ratio

    def cost(self, work: FoldWork, *, scan: ScanFolds) -> FoldCost:
        """What a fold costs as far as is known; windows are counted, once for all folds of a member."""
        key = work.member
        if key not in self._counted or not self._counted[key][0]:
            is_exact = scan.has_looked
            self._counted[key] = is_exact, {mode: scan.windows(work.model, mode=mode) for mode in Mode}
        channels = len(channel_names(work.model.member.organ_encoding))
        per_voxel_s = channels * _SEEN_S_PER_VOXEL + _PUT_S_PER_VOXEL
        return FoldCost(
            task=work.task,
            rank=work.rank,
            share=work.share,
            windows=self._counted[key][1],
            mirrorings={mode: scan.mirrorings(work.model, mode=mode) for mode in Mode},
            pass_s={mode: self.pass_s(work, scan=scan, mode=mode) for mode in Mode},
            opening_s=self.opening_s,
            member_s=scan.voxels * per_voxel_s * self.slowness,
        )

    def after_s(self, voxels: int) -> float:
        """Seconds from the last window to masks on the disk, of PETs with so many voxels together."""
        return voxels * (_AFTER_S_PER_VOXEL + _PUT_S_PER_VOXEL) * self.slowness

    def _predicted_s(self, work: FoldWork, *, scan: ScanFolds, mode: Mode) -> float:
        network = work.member
        if network not in self._flops:
            self._flops[network] = window_flops(work.model)
        return self._flops[network] / self.speed.flops_per_s(scan.running, mode=mode)
