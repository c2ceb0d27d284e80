"""The deadline planner against simulated devices: slow, ever slower, standing still, and measured wrongly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean

import torch

from benchmark.deadline_value import best_value, known_plan, least_flops, value_of
from benchmark.simulated_device import Behaviour, SimulatedDevice, slowness_of
from benchmark.simulated_scan import SimulatedMember, SimulatedScan, after_s
from operation.deadline import Deadline
from operation.machine_speed import MachineSpeed
from petct.case import Tracer
from petct.channels import OrganEncoding
from petct.manifest import Architecture, Mode
from segmentation.fold_runs import Executed
from segmentation.pace import FoldWork

ENOUGH_WINDOWS = 10
_EASILY = 0.75
_FEW_PASSES = 0.02
_SECOND_ERROR = 0.25  # of the quick measurement's on a logarithmic scale: 1.5 times where that is wrong by 5 times


@dataclass(frozen=True)
class Outcome:
    """How a simulated case ended.

    Attributes:
        folds: All folds that were asked for, by their names.
        executed: What was run.
        ended_s: When masks would have been on the disk.
        otherwise_ended_s: The same if the last piece of work, which nothing interrupts, had not been begun, and no
            stall had come then.
        limit_s: When they had to be there.
        value: Share of the ensemble that was run, see `value_of`.
        best: The same of what somebody would have run who knew everything before.
        has_time: Whether there was time for ten windows of each scan, with all the work around them.
        is_steady: Whether the device stayed as it was.
        fits_easily: Whether the device was steady, all of the ensemble took three quarters of the time at most, and a
            single window of some network no more than a fiftieth.
    """

    folds: tuple[str, ...]
    executed: Executed
    ended_s: float
    otherwise_ended_s: float
    limit_s: float
    value: float
    best: float
    has_time: bool
    is_steady: bool
    fits_easily: bool

    @property
    def is_late(self) -> bool:
        """Whether work was begun when there was no time for more than what comes after the networks."""
        return self.otherwise_ended_s > self.limit_s

    @property
    def empty_masks(self) -> int:
        """Scans of which not one window was run."""
        windows = [sum(run.windows + run.windows_unmirrored for run in self.executed.of(one.name)) for one in Tracer]
        return windows.count(0)


def simulate(
    scans: Sequence[SimulatedScan], *, device: SimulatedDevice, limit_s: float, measured_error: float
) -> Outcome:
    """Run a case.

    Args:
        scans: Its scans.
        device: What they run on; the case's earlier work has passed on its clock.
        limit_s: The time limit.
        measured_error: How many times too fast the device is taken for when it is measured the quick way.
    """

    def measure(_: torch.device, window: Sequence[int] | None) -> MachineSpeed:
        # A window's first stage takes a twentieth of it, and is nearer to the truth.
        if window is not None:
            device.compute(min(cost.pass_s[mode] for scan in scans for cost in scan.costs()) / 20)
        error = measured_error if window is None else measured_error**_SECOND_ERROR
        speed = device.behaviour.flops_per_s * error
        return MachineSpeed(speed, slowness=slowness_of(speed))

    mode = scans[0].running.mode
    pace = Deadline(limit_s, started_s=0.0, clock=device.clock, measure=measure)
    flops = device.flops_between(device.now_s, limit_s) - device.other_flops(after_s(scans))
    best = best_value(scans, flops=flops)
    has_time = least_flops(scans, windows=ENOUGH_WINDOWS) <= flops
    passes = [cost.pass_s[scans[0].running.mode] for scan in scans for cost in scan.costs()]
    fits_easily = (
        device.behaviour.is_steady
        and known_plan(scans, flops=math.inf).seconds <= _EASILY * flops
        and min(passes) <= _FEW_PASSES * flops
    )
    pace.begin(scans)
    goes_on = {scan.name: _run(scan, scan.folds()[:1], pace=pace, is_ready=False) for scan in scans}
    for scan in scans:
        works = scan.folds()
        first = works[0].member
        if goes_on[scan.name]:
            _run(scan, [work for work in works[1:] if work.member == first], pace=pace, is_ready=True)
        for member in dict.fromkeys(work.member for work in works if work.member != first):
            _run(scan, [work for work in works if work.member == member], pace=pace, is_ready=False)
    otherwise_ended_s = device.would_end_s(device.begun_s, after_s(scans))
    device.work(after_s(scans))
    return Outcome(
        folds=tuple(str(work.task) for scan in scans for work in scan.folds()),
        executed=pace.executed,
        ended_s=device.now_s,
        limit_s=limit_s,
        otherwise_ended_s=otherwise_ended_s,
        value=value_of(pace.executed, scans=scans, mode=mode),
        best=best,
        has_time=has_time,
        is_steady=device.behaviour.is_steady,
        fits_easily=fits_easily,
    )


def _run(scan: SimulatedScan, works: Sequence[FoldWork], *, pace: Deadline, is_ready: bool) -> bool:
    """Folds of one member, if they are wanted; whether none was given up."""
    if not works or (not is_ready and not pace.is_wanted(work.task for work in works)):
        return False
    return scan.run(works, pace=pace, is_ready=is_ready)


def random_case(random: Random) -> Outcome:
    """A case with a random ensemble on a random device, whatever its time allows: from all of it to next to nothing."""
    device = SimulatedDevice(behaviour=Behaviour(flops_per_s=1.0), random=random)
    mode = random.choice(list(Mode))
    scans = [_random_scan(tracer.name, mode=mode, device=device, random=random) for tracer in Tracer]
    limit_s = random.choice([300.0, 600.0, 1500.0, 1500.0, 1500.0, 3600.0])
    before_s = random.uniform(0.0, 0.3) * limit_s
    all_flops = known_plan(scans, flops=math.inf).seconds
    # As many times as there is time for, all of the ensemble can be run.
    times = math.exp(random.uniform(math.log(1 / 60), math.log(8.0)))
    kind = random.choice(["steady", "steady", "slower and slower", "stall"])
    device.behaviour = Behaviour(
        flops_per_s=times * all_flops / (limit_s - before_s),
        halves_after_s=random.uniform(0.2, 2.0) * limit_s if kind == "slower and slower" else math.inf,
        stall_at_s=random.uniform(0.0, 1.0) * limit_s if kind == "stall" else math.inf,
        stall_s=random.uniform(0.02, 0.3) * limit_s,
        noise=random.choice([0.0, 0.02, 0.1]),
    )
    device.now_s = before_s
    return simulate(scans, device=device, limit_s=limit_s, measured_error=math.exp(random.uniform(-1, 1) * math.log(5)))


def _random_scan(name: str, *, mode: Mode, device: SimulatedDevice, random: Random) -> SimulatedScan:
    exact = random.randint(4, 60)
    balanced = max(1, round(exact / random.uniform(1.0, 5.0)))
    windows = {Mode.EXACT: exact, Mode.BALANCED: balanced, Mode.FAST: max(1, round(balanced / random.uniform(1, 2)))}
    members = [
        SimulatedMember(
            architecture=random.choice(list(Architecture)),
            encoding=random.choice(list(OrganEncoding)),
            folds=random.choice([1, 1, 2, 5]),
            weight=random.choice([1.0, 1.0, 2.0]),
            windows=windows,
        )
        for _ in range(random.randint(1, 5))
    ]
    return SimulatedScan(name, members=members, voxels=random.randint(10**6, 9 * 10**7), mode=mode, device=device)


@dataclass(frozen=True)
class Summary:
    """What many cases come to.

    Attributes:
        cases: How many.
        late: How many were late: by more than one piece of work, which nothing interrupts.
        beyond_limit: How many were beyond the limit at all.
        beyond_at_rest: Those of them on steady devices.
        without_windows: Scans without a single window, whose mask is empty, in cases with time for ten of each scan.
        short: Cases with less time than that.
        short_without: Scans of those without a single window.
        in_part: Scans of which only the windows with the highest uptake were run.
        all_fit: Cases all of which fitted, with a quarter of the time to spare, on a steady device.
        all_run: Those of them of which all was run.
        kept: Share of the best value, mean over the cases in which anything can be had.
        kept_tenth: The same, of the case at the lowest tenth.
    """

    cases: int
    late: int
    beyond_limit: int
    beyond_at_rest: int
    without_windows: int
    short: int
    short_without: int
    in_part: int
    all_fit: int
    all_run: int
    kept: float
    kept_tenth: float


def summarise(outcomes: Sequence[Outcome]) -> Summary:
    """What outcomes come to."""
    scans = [one.executed.of(tracer.name) for one in outcomes for tracer in Tracer]
    shares = sorted(min(one.value / one.best, 1.0) for one in outcomes if one.best > 0)
    fitting = [one for one in outcomes if one.fits_easily]
    return Summary(
        cases=len(outcomes),
        late=sum(one.is_late for one in outcomes),
        beyond_limit=sum(one.ended_s > one.limit_s for one in outcomes),
        beyond_at_rest=sum(one.ended_s > one.limit_s for one in outcomes if one.is_steady),
        without_windows=sum(one.empty_masks for one in outcomes if one.has_time),
        short=sum(not one.has_time for one in outcomes),
        short_without=sum(one.empty_masks for one in outcomes if not one.has_time),
        in_part=sum(
            any(run.windows + run.windows_unmirrored > 0 and not run.is_whole for run in runs) for runs in scans
        ),
        all_fit=len(fitting),
        all_run=sum(one.value > 1.0 - 1e-9 for one in fitting),
        kept=fmean(shares) if shares else 1.0,
        kept_tenth=shares[len(shares) // 10] if shares else 1.0,
    )
