"""How cost grows with voxels, members, folds and organ channels: cold runs of points, and what a step adds."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from pathlib import Path

from benchmark.plan import Plan, describe_setting, runs_folder
from benchmark.rounds import run_rounds
from benchmark.run_log import RunRecord

log = logging.getLogger(__name__)

ALLOWED_SHARE = 0.05  # a member may cost its network time and this share of it


class Quantity(StrEnum):
    """What grows."""

    VOXELS = "voxels"
    MEMBERS = "members"
    FOLDS = "folds"
    CHANNELS = "channels"


@dataclass(frozen=True)
class Point:
    """One setting of a quantity.

    Attributes:
        quantity: What grows.
        label: Its value, for people.
        plan: What to run; one mode, no reference.
    """

    quantity: Quantity
    label: str
    plan: Plan


@dataclass(frozen=True)
class Cost:
    """A point's runs.

    Attributes:
        quantity: What grows.
        label: Its value.
        pet_voxels: Voxels of both PETs.
        total_s: Median wall time of the whole process; None when no run was good.
        network_s: Median wall time of the sliding windows; None when the program did not tell.
        rest_s: Median over runs of wall time that is not the network's.
        rest_range_s: Least and most of it.
        peak_host_mib: Highest peak memory of all processes of a run.
        peak_gpu_mib: Highest peak GPU memory; None without a GPU.
        runs: Number of good runs.
        load_before: The machine's highest load average over a minute before a run.
        error: The last line of a run that failed; None when none did.
    """

    quantity: Quantity
    label: str
    pet_voxels: int
    total_s: float | None
    network_s: float | None
    rest_s: float | None
    rest_range_s: tuple[float, float] | None
    peak_host_mib: float | None
    peak_gpu_mib: float | None
    runs: int
    load_before: float | None
    error: str | None


@dataclass(frozen=True)
class Step:
    """What going from one point to another costs.

    Attributes:
        label: From which to which.
        network_s: Network time added.
        rest_s: Other time added.
    """

    label: str
    network_s: float
    rest_s: float

    @property
    def rest_share(self) -> float | None:
        """Other time added per network time added; None when there is no network time to hold it against."""
        return self.rest_s / self.network_s if self.network_s > 0.0 else None

    @property
    def passes(self) -> bool | None:
        """Whether it costs its network time plus 5 % or less; None when that cannot be said."""
        return None if self.rest_share is None else self.rest_share <= ALLOWED_SHARE


def run_points(points: Sequence[Point], *, repeats: int, work: Path) -> list[Cost]:
    """Run all points in rounds, so that what disturbs one disturbs all; runs that are there are not run again.

    Args:
        points: What to run; equal plans are run once.
        repeats: Rounds.
        work: Folder for the runs.
    """
    folders = [_folder(point.plan, work=work) for point in points]
    records: dict[Path, list[RunRecord]] = {}
    for number in range(repeats):
        for place, (point, folder) in enumerate(zip(points, folders, strict=True), start=1):
            if any(not record.is_good for record in records.get(folder, ())):
                continue  # it would fail again
            log.info(
                "%s %s, round %d of %d (%d of %d)",
                *(point.quantity, point.label, number + 1, repeats, place, len(points)),
            )
            records[folder] = run_rounds(replace(point.plan, repeats=number + 1), models=work, folder=folder)
    return [cost_of(point, records=records[folder]) for point, folder in zip(points, folders, strict=True)]


def cost_of(point: Point, *, records: Sequence[RunRecord]) -> Cost:
    """What a point's runs say."""
    good = [record for record in records if record.is_good]
    rest_s = [record.non_network_s for record in good if record.non_network_s is not None]
    gpu = [record.peak_gpu_mib for record in good if record.peak_gpu_mib is not None]
    return Cost(
        quantity=point.quantity,
        label=point.label,
        pet_voxels=sum(_voxels(scan["pet"]["shape_zyx"]) for scan in point.plan.case.scans.values()),
        total_s=_median([record.total_s for record in good]),
        network_s=_median([record.network_s for record in good if record.network_s is not None]),
        rest_s=_median(rest_s),
        rest_range_s=(min(rest_s), max(rest_s)) if rest_s else None,
        peak_host_mib=max((record.peak_host_mib for record in good), default=None),
        peak_gpu_mib=max(gpu, default=None),
        runs=len(good),
        load_before=max((record.load_before for record in good), default=None),
        error=next((record.error for record in reversed(records) if not record.is_good), None),
    )


def steps(costs: Sequence[Cost]) -> list[Step]:
    """What each point adds to the one before, and last what all add to the first, of points that have both times.

    Args:
        costs: Of one quantity, in the order of growing.
    """
    known = [
        (cost.label, cost.network_s, cost.rest_s)
        for cost in costs
        if cost.network_s is not None and cost.rest_s is not None
    ]
    pairs = list(pairwise(known))
    if len(pairs) > 1:
        pairs.append((known[0], known[-1]))
    return [Step(f"{old[0]} to {new[0]}", new[1] - old[1], new[2] - old[2]) for old, new in pairs]


def _folder(plan: Plan, *, work: Path) -> Path:
    (mode,) = plan.modes
    return runs_folder(plan, setting={**describe_setting(plan), "mode": str(mode)}, work=work)


def _voxels(shape: Sequence[int]) -> int:
    return shape[0] * shape[1] * shape[2]


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None
