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

from operation.deadline_books import MARGIN, Books
from operation.deadline_pilot import Measure, first_plan
from operation.deadline_plan import Plan
from operation.deadline_watch import Watch
from operation.machine_speed import MachineSpeed, measure_speed
from petct.decisions import decide
from petct.manifest import Mode, OrganSettings
from segmentation.fold_runs import Executed, FoldRun
from segmentation.pace import Allowance, FoldTask, ScanFolds
from segmentation.totalsegmentator import HurriedOrganSettings

_NEARLY_DONE = 0.25  # a fold with less than this left is not given up for being slow
_LEAST_ORGANS_SHARE = 0.5  # of what is left may go to finding the organs, whatever the networks take


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
        self._speeds: dict[str, MachineSpeed] = {}  # by the kind of device: it may have been too small
        self._begun: Books | None = None
        self._tried: dict[FoldTask, int] = {}  # with how many mirrorings a fold was begun last
        self._watch: Watch | None = None

    @property
    def executed(self) -> Executed:
        """What has been run so far."""
        return Executed(Mode.EXACT, ()) if self._begun is None else self._begun.executed

    def organ_settings(self, wanted: OrganSettings, *, scans: Sequence[ScanFolds], cts: int) -> OrganSettings:
        """How the organs of so many CTs are found, all of them in no more time than the networks' least work leaves."""
        books = self._open(scans)
        least_s = 0.0
        for first in books.starters.values():
            cost = books.cost(first)
            least_s += MARGIN * (cost.member_s + cost.seconds(mode=Mode.FAST, mirrorings=1))
        total_s = max(books.left_s - least_s, _LEAST_ORGANS_SHARE * books.left_s, 1.0)
        if total_s >= cts * wanted.timeout_s:
            return wanted
        because = f"{books.left_s:.0f} s are left, and the networks take {least_s:.0f} s at least"
        decide("organs", f"at most {total_s:.0f} s for {'the CT' if cts == 1 else f'{cts} CTs'}", because=because)
        return HurriedOrganSettings(**vars(wanted), total_s=total_s)

    def begin(self, scans: Sequence[ScanFolds]) -> None:
        """Choose and settle what the scans' ensembles are to do, PSMA first."""
        with self._lock:
            self._begun = books = self._open(scans)
            wanted, plan = first_plan(books, measure=self._measure)
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
            if any(plan.mirrorings[task] and books.has_time(task) for task in waiting):
                return True
            self._give_up(waiting, because=books.reason(books.wanted(), but=plan))
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
            if books.is_protected(task) and books.left_s > 0:
                mirrorings = max(mirrorings, 1)
                if tried is not None or plan.mirrorings != books.wanted().mirrorings:
                    return self._one_by_one(task, plan, mirrorings=mirrorings)
            if mirrorings == 0 or books.left_s <= 0:  # a network would be opened for nothing
                self._give_up([task], because=books.reason(books.wanted(), but=plan))
                return Allowance(mirrorings=0)
            self._say_mirrorings(task, mirrorings, plan)
            self._tried[task] = mirrorings
            self._watch = Watch(
                self._clock,
                passes=cost.windows[books.mode] * mirrorings,
                pass_s=cost.pass_s[books.mode],
                is_open=tried is not None,
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
            if not run.is_whole or run.windows_unmirrored:
                chosen = str(run).partition(": ")[2] if run.windows + run.windows_unmirrored else "an empty mask"
                decide(str(task), chosen, because=f"{books.left_s:.1f} s are left", is_loss=True)
            if not run.is_whole:
                # Another fold would be averaged with one that lacks windows.
                others = [other for other in books.works if other.tracer == task.tracer]
                self._give_up(others, because=f"{task} lacks windows, and whole folds are not averaged with it")

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
            is_open=task in self._tried,
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

    def _give_up(self, tasks: Iterable[FoldTask], *, because: str) -> None:
        """Give up those of the folds that have not been run, each with those after it of its member, and say so."""
        books = self._books
        for task in tasks:
            is_empty, given_up = books.is_protected(task), books.waiting_from(task)
            if given_up:
                books.given_up.update(given_up)
                chosen = "given up, and the mask is empty" if is_empty else "given up"
                decide(_names(given_up), chosen, because=because, is_loss=True)

    def _learn(self, task: FoldTask) -> None:
        """Take over what watching a fold told, and watch it no longer."""
        if self._watch is not None:
            if self._watch.opening_s is not None:
                self._books.rates.opened(self._watch.opening_s)
            if self._watch.pass_s is not None:
                self._books.measured(task, pass_s=self._watch.pass_s, is_sure=self._watch.is_sure)
        self._watch = None

    def _open(self, scans: Sequence[ScanFolds]) -> Books:
        device = scans[0].running.device
        if device.type not in self._speeds:
            self._speeds[device.type] = self._measure(device, None)
        speed = self._speeds[device.type]
        return Books(self._limit_s, started_s=self._started_s, clock=self._clock, scans=scans, speed=speed)

    @property
    def _books(self) -> Books:
        if self._begun is None:
            raise ValueError("begin must be called first")
        return self._begun


def _amount(plan: Plan) -> str:
    """How much a plan runs, for the log."""
    kept = [mirrorings for mirrorings in plan.mirrorings.values() if mirrorings]
    return f"{len(kept)} folds with {sum(kept)} mirrorings"


def _names(tasks: Sequence[FoldTask]) -> str:
    """What the log calls some folds of one member."""
    first, folds = tasks[0], ", ".join(str(task.fold) for task in tasks)
    return f"{first.tracer} {first.member} folds {folds}" if len(tasks) > 1 else str(first)
