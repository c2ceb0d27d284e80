"""What a case's deadline knows: what has been run, what is left to do and takes how long, and when it has to end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from operation.deadline_plan import FoldCost, Plan, fit
from operation.deadline_rates import Rates
from operation.machine_speed import MachineSpeed
from petct.manifest import Mode
from segmentation.fold_runs import Executed, FoldRun
from segmentation.pace import FoldTask, FoldWork, ScanFolds

MARGIN = 1.05  # what predictions are taken for, times themselves
_FIXED_RESERVE_S, _FIXED_RESERVE_SHARE = 10.0, 0.05  # for the process to end; whichever is less


class Books:
    """The state of one case.

    Args:
        limit_s: Seconds that the case may take.
        started_s: When it started, by the clock.
        clock: Seconds.
        scans: Its scans' ensembles, PSMA first.
        speed: The machine's speed.

    Attributes:
        scans: The ensembles by their tracers' names.
        works: All folds.
        starters: The fold that is run first on each scan.
        runs: What has been run.
        given_up: What will not be run.
        current: The fold that is being run.
        mode: The mode of all.
        is_settled: Whether the mode stays as it is.
        rates: What everything takes.
    """

    def __init__(
        self,
        limit_s: float,
        *,
        started_s: float,
        clock: Callable[[], float],
        scans: Sequence[ScanFolds],
        speed: MachineSpeed,
    ) -> None:
        self._end_s = started_s + limit_s - min(_FIXED_RESERVE_S, _FIXED_RESERVE_SHARE * limit_s)
        self._voxels = sum(scan.voxels for scan in scans)
        self._clock = clock
        self.scans = {scan.name: scan for scan in scans}
        self.works: dict[FoldTask, FoldWork] = {work.task: work for scan in scans for work in scan.folds()}
        self.starters = {scan.name: scan.folds()[0].task for scan in scans}
        self.runs: dict[FoldTask, FoldRun] = {}
        self.given_up: set[FoldTask] = set()
        self.current: FoldTask | None = None
        self.mode = scans[0].running.mode
        self.is_settled = False
        self.rates = Rates(speed)

    @property
    def executed(self) -> Executed:
        """What has been run."""
        return Executed(self.mode, tuple(self.runs.values()))

    @property
    def end_s(self) -> float:
        """When the last window has to be done, by the clock."""
        return self._end_s - self.rates.after_s(self._voxels)

    @property
    def left_s(self) -> float:
        """Seconds for what is left to do."""
        return self.end_s - self._clock()

    def fit(
        self,
        *,
        left_s: float | None = None,
        margin: float = MARGIN,
        without: FoldTask | None = None,
        instead: FoldCost | None = None,
    ) -> Plan:
        """The plan for all folds that have not been run and are not given up.

        Args:
            left_s: Seconds for them; what is left if it is not given.
            margin: How much longer than predicted everything is taken to last.
            without: A fold that is left out.
            instead: A fold's cost, instead of the one that is known.
        """
        costs = [instead if instead and instead.task == cost.task else cost for cost in self.costs()]
        shares = {self.works[task].member: self.works[task].share for task in self.runs}
        done_shares: dict[str, float] = {}
        for (tracer, _), share in shares.items():
            done_shares[tracer] = done_shares.get(tracer, 0.0) + share
        return fit(
            [cost for cost in costs if cost.task != without],
            mode=self.mode,
            left_s=(self.left_s if left_s is None else left_s) / margin,
            protected=self.protected().values(),
            done_shares=done_shares,
            may_change_mode=not self.is_settled,
        )

    def wanted(self) -> Plan:
        """All that has not been run and is not given up."""
        return self.fit(left_s=math.inf)

    def costs(self) -> list[FoldCost]:
        """What these folds cost."""
        return [self.cost(task) for task in self.works if task not in self.runs and task not in self.given_up]

    def has_time(self, task: FoldTask) -> bool:
        """Whether there is time to make what a fold sees; otherwise it would be made for nothing."""
        return self.left_s > self.cost(task).member_s

    def waiting_from(self, task: FoldTask) -> list[FoldTask]:
        """Those of a fold and the later ones of its member that have not been run and are not given up."""
        work = self.works[task]
        after = (other for other in self.works.values() if other.member == work.member and other.rank >= work.rank)
        return [one.task for one in after if one.task not in self.runs and one.task not in self.given_up]

    def cost(self, task: FoldTask) -> FoldCost:
        """A fold's cost as far as is known; what its member sees is there once another of its folds was begun."""
        work = self.works[task]
        cost = self.rates.cost(work, scan=self.scans[task.tracer])
        begun = {self.works[other].member for other in (*self.runs, *([self.current] if self.current else []))}
        return replace(cost, member_s=0.0) if work.member in begun else cost

    def least_s(self, task: FoldTask) -> float:
        """Seconds of a fold without mirrorings."""
        return self.cost(task).seconds(mode=self.mode, mirrorings=1)

    def protected(self) -> dict[str, FoldTask]:
        """The first fold of each scan of which nothing has been run, by tracer."""
        has_run = {task.tracer for task in self.runs}
        return {
            tracer: task
            for tracer, task in self.starters.items()
            if tracer not in has_run and task not in self.given_up
        }

    def is_protected(self, task: FoldTask) -> bool:
        """Whether it is one of them."""
        return self.protected().get(task.tracer) == task

    def hard_end_s(self, task: FoldTask, *, slower: float = 1.0) -> float:
        """When a fold has to be at its end, so that the other scan gets its least.

        Args:
            task: The fold.
            slower: How many times as long as is known networks take.
        """
        others = [other for other in self.protected().values() if other.tracer != task.tracer]
        least_s = sum(self.cost(other).member_s + slower * self.least_s(other) for other in others)
        return self.end_s - MARGIN * least_s

    def one_window_end_s(self, task: FoldTask, *, slower: float) -> float:
        """The same where the other scan's least is a single window."""
        end_s = self.end_s
        for other in self.protected().values():
            if other.tracer != task.tracer:
                cost = self.cost(other)
                end_s -= MARGIN * (cost.member_s + cost.opening_s + slower * cost.pass_s[self.mode])
        return end_s

    def fair_end_s(self, task: FoldTask) -> float:
        """The same where there is not even time for that: each scan gets its share of what is left."""
        needs_s = {
            tracer: max(self.cost(first).member_s + self.least_s(first), 1e-3)
            for tracer, first in self.protected().items()
        }
        return self._clock() + self.left_s * needs_s[task.tracer] / sum(needs_s.values())

    def start_with_the_cheapest(self) -> None:
        """Run first on each scan what takes the least time."""
        costs = self.costs()
        for tracer in self.starters:
            own = [cost for cost in costs if cost.task.tracer == tracer and cost.rank == 0]
            cheapest = min(own, key=lambda cost: cost.member_s + cost.seconds(mode=Mode.FAST, mirrorings=1))
            self.starters[tracer] = cheapest.task

    def measured(self, task: FoldTask, *, pass_s: float, is_sure: bool = True) -> None:
        """Take over what a window of a fold's network took; if that is not sure, not more than twice what is known."""
        scan = self.scans[task.tracer]
        self.rates.measured(self.works[task], scan=scan, mode=self.mode, pass_s=pass_s, is_sure=is_sure)

    def reason(self, wanted: Plan, *, but: Plan) -> str:
        """Why not all that is wanted is run, in numbers."""
        speed = self.rates.speed.torch_flops_per_s / self.rates.ratio / 1e9
        rest = "" if wanted.seconds == but.seconds else f"; that takes {but.seconds:.0f} s"
        return (
            f"all takes {wanted.seconds:.0f} s of the {self.left_s:.0f} s that are left, at {speed:.0f} GFLOP/s{rest}"
        )
