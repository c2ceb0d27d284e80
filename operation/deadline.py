"""A case's time limit: what of the ensemble is run so that masks are there in time, and as much as fits.

Before anything is computed, what the manifest asks for is priced by the machine's speed. When it needs only a small
part of the time, nothing more is done about it. Otherwise windows are counted exactly and the first network is timed on
a window of noise, and `operation.deadline_plan` gives up what does not fit. The plan is made anew before every fold out
of what was measured until then; a fold that turns out too slow is given up in the middle. The first fold of a scan that
cannot end even without mirrorings shows its network the windows with the highest uptake, as many as there is time for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch

from operation.deadline_books import MARGIN, Books
from operation.deadline_plan import Plan
from operation.deadline_watch import Watch
from operation.machine_speed import MachineSpeed, measure_speed
from petct.decisions import decide
from petct.manifest import Mode
from segmentation.fold_runs import Executed, FoldRun
from segmentation.pace import Allowance, FoldTask, ScanFolds

_COMFORTABLE = 6.0  # times as long as predicted; the quick measurement is not wrong by more
_FIRST_MARGIN = 1.1  # the mode is chosen for good, after one network was timed
_PILOT_SHARE = 0.1  # a window that takes longer than this share of what is left is not worth timing
_STALL = (
    3.0  # times as long as predicted: a window is timed again if that is no more than such a share, or not believed
)
_NEARLY_DONE = 0.25  # a fold with less than this left is not given up for being slow
_LEAST_ORGANS_SHARE = 0.5  # of what is left may go to finding the organs, whatever the networks take

# Measures a device, the second time with windows of a size.
Measure = Callable[[torch.device, Sequence[int] | None], MachineSpeed]


class Deadline:
    """A time limit for one case.

    Args:
        limit_s: Seconds that the case may take, > 0.
        started_s: When it started, by the clock.
        clock: Seconds.
        measure: Measures the machine.
    """

    is_hurried = True

    def __init__(
        self,
        limit_s: float,
        *,
        started_s: float,
        clock: Callable[[], float] = time.monotonic,
        measure: Measure = measure_speed,
    ) -> None:
        self._limit_s = limit_s
        self._started_s = started_s
        self._clock = clock
        self._measure = measure
        self._lock = threading.RLock()
        self._speed: MachineSpeed | None = None
        self._begun: Books | None = None
        self._tried: dict[FoldTask, int] = {}  # with how many mirrorings a fold was begun last
        self._watch: Watch | None = None

    @property
    def executed(self) -> Executed:
        """What has been run so far."""
        return Executed(Mode.EXACT, ()) if self._begun is None else self._begun.executed

    def organ_timeout_s(self, wanted_s: float, *, scans: Sequence[ScanFolds], cts: int) -> float:
        """How long finding the organs may take for each of so many CTs: what the networks' least work leaves."""
        books = self._open(scans)
        least_s = 0.0
        for first in books.starters.values():
            cost = books.cost(first)
            least_s += MARGIN * (cost.member_s + cost.seconds(mode=Mode.FAST, mirrorings=1))
        allowed_s = max(books.left_s - least_s, _LEAST_ORGANS_SHARE * books.left_s, 1.0) / max(cts, 1)
        if allowed_s >= wanted_s:
            return wanted_s
        because = f"{books.left_s:.0f} s are left, and the networks take {least_s:.0f} s at least"
        decide("organs", f"at most {allowed_s:.0f} s for each CT", because=because)
        return allowed_s

    def begin(self, scans: Sequence[ScanFolds]) -> None:
        """Choose and settle what the scans' ensembles are to do, PSMA first."""
        with self._lock:
            self._begun = books = self._open(scans)
            plan = wanted = books.wanted()
            if _COMFORTABLE * wanted.seconds > books.left_s:
                wanted, plan = _careful_plan(books, measure=self._measure)
            because = books.reason(wanted, but=plan)
            books.is_settled = True
            for scan in scans:
                scan.settle(mode=plan.mode, first=books.starters[scan.name])
            if plan.mode is not books.mode:
                decide("mode", f"{plan.mode} instead of {books.mode}", because=because, is_loss=True)
                books.mode = plan.mode
            # What is left out may fit after all: whatever really is given up is said when it is.
            of = f" of {_amount(wanted)}" if plan.mirrorings != wanted.mirrorings else ""
            decide("time plan", f"{_amount(plan)}{of}", because=because)

    def is_wanted(self, tasks: Iterable[FoldTask]) -> bool:
        """Whether any of the folds may still be run; once not, never again."""
        with self._lock:
            books = self._books
            waiting = [task for task in tasks if task not in books.given_up]
            if any(task in books.runs or task == books.current for task in waiting):
                return True
            # Less of what is being run is left than all of it, but how much is not known: nothing is counted.
            plan = books.fit(without=books.current)
            if books.left_s > 0 and any(plan.mirrorings[task] for task in waiting):
                return True
            for task in waiting:
                self._give_up(task, plan)
            return False

    def allow(self, task: FoldTask) -> Allowance:
        """How a fold may be run now; asked once more after it was given up in the middle."""
        with self._lock:
            books = self._books
            self._learn(task)
            books.current = task
            if task in books.given_up:
                return Allowance(mirrorings=0)
            plan, cost = books.fit(), books.cost(task)
            tried = self._tried.get(task)
            mirrorings = plan.mirrorings[task] if tried is None else min(plan.mirrorings[task], tried // 2)
            if books.is_protected(task):
                mirrorings = max(mirrorings, 1)
                if tried is not None or plan.mirrorings != books.wanted().mirrorings:
                    return self._one_by_one(task, plan, mirrorings=mirrorings)
            if mirrorings == 0:
                self._give_up(task, plan)
                return Allowance(mirrorings=0)
            self._say_mirrorings(task, mirrorings, plan)
            self._tried[task] = mirrorings
            self._watch = Watch(
                self._clock,
                passes=cost.windows[books.mode] * mirrorings,
                pass_s=cost.pass_s[books.mode],
                end_s=lambda slower: books.hard_end_s(task, slower=slower),
                is_worth=lambda pass_s, left: self._is_worth(task, mirrorings=mirrorings, pass_s=pass_s, left=left),
            )
            return Allowance(mirrorings=mirrorings, passed=self._watch.passed)

    def done(self, run: FoldRun, *, task: FoldTask) -> None:
        """Keep that a fold has been run."""
        with self._lock:
            books = self._books
            if self._watch is not None:
                self._watch.finish(run.windows * run.mirrorings + run.windows_unmirrored)
            self._learn(task)
            books.runs[task] = run
            books.current = None
            if not run.is_whole:
                # Another fold would be averaged with one that lacks windows.
                books.given_up.update(other for other in books.works if other.tracer == task.tracer and other != task)
            if not run.is_whole or run.windows_unmirrored:
                chosen = str(run).partition(": ")[2] if run.windows + run.windows_unmirrored else "an empty mask"
                decide(str(task), chosen, because=f"{books.left_s:.1f} s are left", is_loss=True)

    def _is_worth(self, task: FoldTask, *, mirrorings: int, pass_s: float, left: int) -> bool:
        """Whether a fold that is slower than planned is still to be ended as it was begun."""
        with self._lock:
            books = self._books
            cost = books.cost(task)
            passes = cost.windows[books.mode] * mirrorings
            if left < _NEARLY_DONE * passes:
                return True
            books.measured(task, pass_s=pass_s)
            rest = replace(
                cost,
                mirrorings=dict.fromkeys(Mode, mirrorings),
                pass_s=dict.fromkeys(Mode, left * pass_s / passes),
                opening_s=0.0,
            )
            if books.fit(instead=rest).mirrorings[task] == mirrorings:
                return True
            anew = min(books.fit().mirrorings[task], mirrorings // 2)
            if books.is_protected(task):
                anew = max(anew, 1)
            return anew * cost.windows[books.mode] >= left

    def _one_by_one(self, task: FoldTask, plan: Plan, *, mirrorings: int) -> Allowance:
        """A scan's first fold in such a way that it can be ended at any window."""
        books = self._books
        self._say_mirrorings(task, mirrorings, plan)
        fair_end_s, cost = books.fair_end_s(task), books.cost(task)

        def end_s(slower: float) -> float:
            # A scan's first window is worth more than another's second.
            one_window_end_s = books.one_window_end_s(task, slower=slower)
            if not watch.has_begun:
                return one_window_end_s
            return min(max(books.hard_end_s(task, slower=slower), fair_end_s), one_window_end_s)

        watch = self._watch = Watch(
            self._clock,
            passes=cost.windows[books.mode] * mirrorings,
            pass_s=cost.pass_s[books.mode],
            end_s=end_s,
            is_worth=lambda pass_s, left: self._is_worth(task, mirrorings=mirrorings, pass_s=pass_s, left=left),
        )
        return Allowance(
            mirrorings=mirrorings, next_mirrorings=lambda done: watch.next_mirrorings(done, mirrorings=mirrorings)
        )

    def _say_mirrorings(self, task: FoldTask, mirrorings: int, plan: Plan) -> None:
        books = self._books
        wanted = books.cost(task).mirrorings[books.mode]
        if mirrorings < wanted:
            because = books.reason(books.wanted(), but=plan)
            decide(str(task), f"{mirrorings} of {wanted} mirrorings", because=because, is_loss=True)

    def _give_up(self, task: FoldTask, plan: Plan) -> None:
        books = self._books
        chosen = "given up, and the mask is empty" if books.is_protected(task) else "given up"
        because = books.reason(books.wanted(), but=plan)
        books.given_up.add(task)
        decide(str(task), chosen, because=because, is_loss=True)

    def _learn(self, task: FoldTask) -> None:
        """Take over what watching a fold told, and watch it no longer."""
        if self._watch is not None:
            self._books.rates.opened(self._watch.opening_s)
            if self._watch.pass_s is not None:
                self._books.measured(task, pass_s=self._watch.pass_s, is_sure=self._watch.is_sure)
        self._watch = None

    def _open(self, scans: Sequence[ScanFolds]) -> Books:
        if self._speed is None:
            self._speed = self._measure(scans[0].running.device, None)
        return Books(self._limit_s, started_s=self._started_s, clock=self._clock, scans=scans, speed=self._speed)

    @property
    def _books(self) -> Books:
        if self._begun is None:
            raise ValueError("begin must be called first")
        return self._begun


def _careful_plan(books: Books, *, measure: Measure) -> tuple[Plan, Plan]:
    """What is asked for, and what of it fits, after windows were counted and the first network was timed."""
    for scan in books.scans.values():
        scan.look()
    if _COMFORTABLE * books.wanted().seconds > books.left_s:
        _time_window(books, measure=measure)
    plan = books.fit(margin=_FIRST_MARGIN)
    if not plan.fits:
        books.start_with_the_cheapest()
        plan = books.fit(margin=_FIRST_MARGIN)
    return books.wanted(), plan


def _time_window(books: Books, *, measure: Measure) -> None:
    """Time the first network on a window, or the one that takes the least, or if even that is too slow a part of it."""
    first = next(iter(books.starters.values()))
    quickest = min(books.costs(), key=lambda cost: cost.pass_s[books.mode]).task
    for task in (first, quickest):
        scan, work, pass_s = books.scans[task.tracer], books.works[task], books.cost(task).pass_s[books.mode]
        if pass_s < _PILOT_SHARE * books.left_s:
            left_s, timed_s = books.left_s, scan.time_window(work)
            books.rates.opened(left_s - books.left_s - timed_s)
            is_sure = timed_s <= _STALL * pass_s
            if not is_sure and timed_s < _PILOT_SHARE * books.left_s:
                timed_s, is_sure = min(timed_s, scan.time_window(work)), True
            books.measured(task, pass_s=timed_s, is_sure=is_sure)
            return
    speed = measure(scan.running.device, work.model.configuration.patch_size)
    books.measured(task, pass_s=pass_s * books.rates.speed.torch_flops_per_s / speed.torch_flops_per_s)


def _amount(plan: Plan) -> str:
    """How much a plan runs, for the log."""
    kept = [mirrorings for mirrorings in plan.mirrorings.values() if mirrorings]
    return f"{len(kept)} folds with {sum(kept)} mirrorings"
