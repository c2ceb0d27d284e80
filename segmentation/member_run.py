"""One member on one scan: its folds, as far as they are run, averaged as logits."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from petct.errors import CaseError
from petct.labels import Label
from segmentation.fold_runs import FoldRun
from segmentation.fold_windows import is_needed_in, predict_by_uptake
from segmentation.needed import Needed
from segmentation.opened_folds import OpenedFolds
from segmentation.pace import Allowance, FoldGivenUp, FoldTask, Pace
from segmentation.packed_model import PackedModel
from segmentation.preprocessing import Preprocessed
from segmentation.running import Running, mirrorings_of
from segmentation.short_memory import Relief, Reliefs, Remedy
from segmentation.sliding_window import Network, predict_logits

log = logging.getLogger(__name__)

_HOST = torch.device("cpu")


class MemberRun:
    """A member's folds on a scan, in their order; those that are done stay so whatever becomes of the next.

    Args:
        model: The member's model.
        seen: The scan as its networks see it.
        tasks: Its folds on this scan.
        needed: Where probabilities are needed; everywhere when None.
        running: How networks are run.
        pace: Decides which folds are run, and how.
        make_room: Gives back what others hold of the host's memory.
    """

    def __init__(
        self,
        model: PackedModel,
        seen: Preprocessed,
        *,
        tasks: Sequence[FoldTask],
        needed: Needed | None,
        running: Running,
        pace: Pace,
        make_room: Remedy | None = None,
    ) -> None:
        self.model = model
        self.seen = seen
        self.needed = needed
        self._waiting = list(tasks)
        self._running = running
        self._pace = pace
        self._make_room = make_room
        self._is_needed = None
        if needed is not None:
            self._is_needed = is_needed_in(model, placement=seen.placement, part=seen.part, needed=needed)
        self._sum: torch.Tensor | None = None
        self._done: list[int] = []
        self._seconds = 0.0

    def run_folds(self, most: int | None = None) -> None:
        """Run the folds that have not been, at most so many, until one is given up: those after it matter less.

        Raises:
            CaseError: A fold's weights are not what the plans say, its logits are not finite, or memory is too short.
        """
        started_s = time.monotonic()
        folds = [task.fold for task in self._waiting]
        opened = OpenedFolds(self.model, folds=folds, running=self._running, make_room=self._make_room)
        for task in self._waiting[:most]:
            if not self._run_fold(opened, task=task):
                self._waiting.clear()
                break
            del self._waiting[0]
        self._seconds += time.monotonic() - started_s

    def mean_logits(self) -> torch.Tensor | None:
        """The mean of the folds that were run, in the network's voxels; None when none was. To be asked for once."""
        if self._sum is None:
            return None
        folds = ", ".join(str(fold) for fold in self._done)
        log.info("%s: folds %s: %.1f s", self.model.where, folds, self._seconds)
        mean, self._sum = self._sum.div_(len(self._done)), None
        return mean

    def _run_fold(self, opened: OpenedFolds, *, task: FoldTask) -> bool:
        """Run a fold, and add its logits to the sum; whether it was not given up."""
        allowance = self._pace.allow(task)
        if not allowance.mirrorings:
            return False
        network = WatchedNetwork(opened.open_next(), device=opened.device)
        while allowance.mirrorings:
            network.watch(allowance.passed)
            try:
                logits, run = self._predict(network, task=task, allowance=allowance)
            except FoldGivenUp:
                allowance = self._pace.allow(task)
                continue
            self._add(logits, fold=task.fold)
            self._pace.done(run, task=task)
            return True
        return False

    def _predict(
        self, network: WatchedNetwork, *, task: FoldTask, allowance: Allowance
    ) -> tuple[torch.Tensor, FoldRun]:
        running, model = self._running, self.model
        mirrorings = mirrorings_of(model, running=running, at_most=allowance.mirrorings)
        done = FoldRun(task.tracer, task.member, task.fold, mirrorings=len(mirrorings), windows=0, is_whole=True)
        options: dict[str, Any] = {
            "window": model.configuration.patch_size,
            "mirrorings": mirrorings,
            "tile_step": running.window_step,
            "device": network.device,
            "name": f"{model.where} fold {task.fold}",
            "is_needed": self._is_needed,
            "is_sum_on_host": running.memory.is_sum_on_host,
            "make_room": self._make_room,
        }
        if allowance.next_mirrorings is None:
            logits = predict_logits(network, self.seen.data, classes=len(Label), **options)
            return logits, replace(done, windows=network.passes // len(mirrorings))
        found = predict_by_uptake(network, self.seen.data, next_mirrorings=allowance.next_mirrorings, **options)
        return found.logits, replace(
            done,
            windows=found.mirrored,
            windows_unmirrored=found.unmirrored,
            is_whole=found.is_whole,
            is_by_uptake=True,
        )

    def _add(self, logits: torch.Tensor, *, fold: int) -> None:
        """Check a fold's logits, and add them to the sum."""
        name, added = f"{self.model.where} fold {fold}", [logits]

        def leave_gpu() -> Relief | None:
            if added[0].device.type == "cpu":
                return None
            added[0] = added[0].to(_HOST)
            return Relief("folds are summed in the host's memory")

        def add() -> torch.Tensor:
            # What is tried takes as much memory as logits do, or more: one class at a time.
            if not all(torch.isfinite(of_class).all() for of_class in added[0]):
                raise CaseError(name, "logits must be finite", "NaN or infinity")
            if self._sum is None:
                return added[0]
            # When a GPU was too small for a network, its logits are in the host's memory, and so is the sum then.
            devices = self._sum.device, added[0].device
            place = next((device for device in devices if device.type == "cpu"), devices[0])
            self._sum, added[0] = self._sum.to(place), added[0].to(place)
            return self._sum.add_(added[0])

        make_room: list[Remedy] = [] if self._make_room is None else [self._make_room]
        self._sum = Reliefs(name, on_gpu=[leave_gpu], on_host=make_room).run(add, what="sum of the folds")
        self._done.append(fold)


class WatchedNetwork:
    """A network whose passes are counted, and told to whoever watches the clock.

    Args:
        network: The network.
        device: Where it takes windows.

    Attributes:
        device: Where it takes windows now.
        at_once: How many windows keep it busy.
        passes: How many windows it computed since it was watched last.
    """

    def __init__(self, network: Network, *, device: torch.device) -> None:
        self._network = network
        self.device = device
        self.at_once = network.at_once
        self.watch(None)

    def watch(self, passed: Callable[[int], None] | None) -> None:
        """Count passes anew.

        Args:
            passed: Told before each call how many passes are done; on a GPU those of the last call may be under way
                still.
        """
        self._passed = passed
        self._ended: list[tuple[torch.cuda.Event, int]] = []
        self._known = 0
        self.passes = 0

    def __call__(self, windows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Logits of windows."""
        if self._passed is not None:
            self._passed(self._passes_done())
        logits = self._network(windows)
        self.at_once = self._network.at_once
        self.passes += len(windows)
        if self._has_events:
            event = torch.cuda.Event()
            event.record()
            self._ended.append((event, self.passes))
        return logits

    def go_one_by_one(self) -> Relief | None:
        """Compute one window at a time from now on."""
        relief = self._network.go_one_by_one()
        self.at_once = self._network.at_once
        return relief

    def leave_gpu(self) -> Relief | None:
        """Compute on the CPU from now on."""
        relief = self._network.leave_gpu()
        if relief is not None:
            self.device = _HOST
        return relief

    @property
    def _has_events(self) -> bool:
        return self._passed is not None and self.device.type == "cuda"

    def _passes_done(self) -> int:
        """How many are done: a GPU answers before it has computed, so the call before the last is waited for."""
        if not self._has_events:
            return self.passes
        if len(self._ended) > 1:
            event, self._known = self._ended.pop(0)
            event.synchronize()
        # After a call that failed there is no more to wait for than what was known before it.
        return self._known
