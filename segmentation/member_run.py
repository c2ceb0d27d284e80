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
from segmentation.networks import open_folds
from segmentation.pace import Allowance, FoldGivenUp, FoldTask, Pace
from segmentation.packed_model import PackedModel
from segmentation.preprocessing import Preprocessed
from segmentation.running import Running, mirrorings_of
from segmentation.short_memory import Relief, Remedy
from segmentation.sliding_window import Network, predict_logits

log = logging.getLogger(__name__)


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
            CaseError: A fold's weights are not what the plans say, or its logits are not finite.
        """
        started_s = time.monotonic()
        folds = tuple(task.fold for task in self._waiting)
        model = replace(self.model, member=replace(self.model.member, folds=folds))
        opened = open_folds(
            model,
            mode=self._running.mode,
            backend=self._running.backend,
            device=self._running.device,
            windows_at_once=self._running.memory.windows_at_once,
        )
        for task in self._waiting[:most]:
            allowance = self._pace.allow(task)
            logits = None
            if allowance.mirrorings:
                _, network = next(opened)
                logits = self._fold_logits(network, task=task, allowance=allowance)
            if logits is None:
                self._waiting.clear()
                break
            del self._waiting[0]
            self._done.append(task.fold)
            # When a GPU was too small for a network, its logits are in the host's memory.
            self._sum = logits if self._sum is None else self._sum.to(logits.device).add_(logits)
        self._seconds += time.monotonic() - started_s

    def mean_logits(self) -> torch.Tensor | None:
        """The mean of the folds that were run, in the network's voxels; None when none was. To be asked for once."""
        if self._sum is None:
            return None
        folds = ", ".join(str(fold) for fold in self._done)
        log.info("%s: folds %s: %.1f s", self.model.where, folds, self._seconds)
        mean, self._sum = self._sum.div_(len(self._done)), None
        return mean

    def _fold_logits(self, network: Network, *, task: FoldTask, allowance: Allowance) -> torch.Tensor | None:
        """A fold's logits; None when it is given up."""
        while allowance.mirrorings:
            try:
                logits, run = self._predict(network, task=task, allowance=allowance)
            except FoldGivenUp:
                allowance = self._pace.allow(task)
                continue
            if not torch.isfinite(logits).all():
                raise CaseError(f"{self.model.where} fold {task.fold}", "logits must be finite", "NaN or infinity")
            self._pace.done(run, task=task)
            return logits
        return None

    def _predict(self, network: Network, *, task: FoldTask, allowance: Allowance) -> tuple[torch.Tensor, FoldRun]:
        running, model = self._running, self.model
        mirrorings = mirrorings_of(model, running=running, at_most=allowance.mirrorings)
        watched = WatchedNetwork(network, device=running.device, passed=allowance.passed)
        done = FoldRun(task.tracer, task.member, task.fold, mirrorings=len(mirrorings), windows=0, is_whole=True)
        options: dict[str, Any] = {
            "window": model.configuration.patch_size,
            "mirrorings": mirrorings,
            "tile_step": running.window_step,
            "device": running.device,
            "name": f"{model.where} fold {task.fold}",
            "is_needed": self._is_needed,
        }
        if allowance.next_mirrorings is None:
            logits = predict_logits(
                watched,
                self.seen.data,
                classes=len(Label),
                is_sum_on_host=running.memory.is_sum_on_host,
                make_room=self._make_room,
                **options,
            )
            return logits, replace(done, windows=watched.passes // len(mirrorings))
        found = predict_by_uptake(
            watched,
            self.seen.data,
            sum_on=torch.device("cpu") if running.memory.is_sum_on_host else running.device,
            next_mirrorings=allowance.next_mirrorings,
            **options,
        )
        return found.logits, replace(
            done,
            windows=found.mirrored,
            windows_unmirrored=found.unmirrored,
            is_whole=found.is_whole,
            is_by_uptake=True,
        )


class WatchedNetwork:
    """A network whose passes are counted, and told to whoever watches the clock.

    Args:
        network: The network.
        device: Where it takes windows.
        passed: Told before each call how many passes are done; on a GPU those of the last call may be under way still.

    Attributes:
        at_once: How many windows keep it busy.
        passes: How many windows it computed.
    """

    def __init__(self, network: Network, *, device: torch.device, passed: Callable[[int], None] | None) -> None:
        self._network = network
        self._has_events = passed is not None and device.type == "cuda"
        self._passed = passed
        self._ended: list[tuple[torch.cuda.Event, int]] = []
        self.at_once = network.at_once
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
        self._has_events = False
        return self._network.leave_gpu()

    def _passes_done(self) -> int:
        """How many are done: a GPU answers before it has computed, so the call before the last is waited for."""
        if not self._has_events:
            return self.passes
        if len(self._ended) < 2:
            return 0
        event, passes = self._ended.pop(0)
        event.synchronize()
        return passes
