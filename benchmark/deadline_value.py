"""How much of an ensemble a run is worth, and how much it could have been for somebody who knew everything before."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmark.simulated_scan import MIRRORINGS, SimulatedScan
from operation.deadline_plan import Plan, fit
from petct.manifest import Mode
from segmentation.fold_runs import Executed, FoldRun
from segmentation.running import FAST_MIRRORINGS


def value_of(executed: Executed, *, scans: Sequence[SimulatedScan], mode: Mode) -> float:
    """Share of an ensemble: of each scan's mean, how much is there, a fold without mirrorings counting for 0.8.

    Of folds of which only some windows were run, so much counts. Each scan is worth as much as the other.

    Args:
        executed: What was run.
        scans: The scans.
        mode: The mode that was asked for.
    """
    total = 0.0
    for scan in scans:
        works = scan.folds()
        folds = {work.task.member: sum(one.task.member == work.task.member for one in works) for work in works}
        shares = {(work.task.member, work.task.fold): work.share / folds[work.task.member] for work in works}
        for run in executed.of(scan.name):
            windows = scan.windows_of(run.member)
            value = run.windows * mirrored_value(run.mirrorings, mode=mode)
            value += run.windows_unmirrored * mirrored_value(1, mode=mode)
            total += shares[run.member, run.fold] * value / windows / len(scans)
    return total


def mirrored_value(mirrorings: int, *, mode: Mode) -> float:
    """What a fold is worth with so many mirrorings: 0.8 with one, 1 with all that are asked for."""
    most = FAST_MIRRORINGS if mode is Mode.FAST else MIRRORINGS
    return 0.8 + 0.2 * math.log2(mirrorings) / math.log2(most) if mirrorings else 0.0


def best_value(scans: Sequence[SimulatedScan], *, flops: float) -> float:
    """The value of what fits, by the planner's own order, in so many operations."""
    mode = scans[0].running.mode
    plan = known_plan(scans, flops=flops)
    windows = {
        (work.task.tracer, work.task.member): scan.windows_of(work.task.member)
        for scan in scans
        for work in scan.folds()
    }
    runs = tuple(
        FoldRun(task.tracer, task.member, task.fold, mirrorings, windows[task.tracer, task.member], is_whole=True)
        for task, mirrorings in plan.mirrorings.items()
        if mirrorings and plan.fits
    )
    return value_of(Executed(plan.mode, runs), scans=scans, mode=mode)


def least_flops(scans: Sequence[SimulatedScan], *, windows: int) -> float:
    """What so many windows of each scan take, with everything around them."""
    return sum(
        min(cost.member_s + cost.opening_s + windows * cost.pass_s[Mode.FAST] for cost in scan.costs())
        for scan in scans
    )


def known_plan(scans: Sequence[SimulatedScan], *, flops: float) -> Plan:
    """The plan for so many operations when it is known what everything takes."""
    costs, mode = [cost for scan in scans for cost in scan.costs()], scans[0].running.mode
    firsts = [scan.folds()[0].task for scan in scans]
    plan = fit(costs, mode=mode, left_s=flops, protected=firsts, may_change_mode=True)
    if plan.fits:
        return plan
    cheapest = [min(scan.costs(), key=lambda cost: cost.seconds(mode=Mode.FAST, mirrorings=1)).task for scan in scans]
    return fit(costs, mode=mode, left_s=flops, protected=cheapest, may_change_mode=True)
