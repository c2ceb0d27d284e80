"""The benchmark's JSON: medians, ratios of medians of the same runs, agreement. What is missing is null."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmark.comparison import Differences, compare_outputs, worst
from benchmark.plan import Plan
from benchmark.rounds import masks_folder
from benchmark.run_log import REFERENCE, RunRecord
from petct.case import Tracer
from petct.errors import CaseError
from petct.output import mask_file
from segmentation.weight_files import sha256_of

PARTS = ("total", "network", "non_network")


def summarise(plan: Plan, *, setting: Mapping[str, Any], records: Sequence[RunRecord], folder: Path) -> dict[str, Any]:
    """All results of a plan.

    Args:
        plan: What was run.
        setting: What it was run on.
        records: The runs, good and failed.
        folder: Where their masks lie.

    Returns:
        JSON: the setting, `reference` (null when it was left out), `modes` by name, and all `runs`.
    """
    by_name = {who: [record for record in records if record.who == who] for who in plan.names}
    reference = _summary_of(by_name[REFERENCE], folder=folder) if plan.has_reference else None
    modes = {}
    for mode in plan.modes:
        ours = _summary_of(by_name[mode], folder=folder)
        modes[str(mode)] = {
            **{f"ratio_{part}": _ratio(reference, ours, part=part) for part in PARTS},
            **_agreement(mode, plan=plan, by_name=by_name, folder=folder),
            **ours,
            "reference_median_s": None if reference is None else reference["median_s"],
        }
    return {
        **setting,
        "repeats": plan.repeats,
        "compared_with": plan.compared_with,
        "reference": reference,
        "modes": modes,
        "runs": [asdict(record) for record in records],
    }


def is_complete(summary: Mapping[str, Any]) -> bool:
    """Whether everything was run and compared, and nothing failed."""
    reference = [] if summary["reference"] is None else [summary["reference"]]
    return all(
        part["good_runs"] == summary["repeats"] and part["failed_runs"] == 0 and part.get("comparison_error") is None
        for part in [*reference, *summary["modes"].values()]
    )


def _summary_of(records: Sequence[RunRecord], *, folder: Path) -> dict[str, Any]:
    good = [record for record in records if record.is_good]
    failed = [record for record in records if not record.is_good]
    seconds = {
        "total": [record.total_s for record in good],
        "network": [record.network_s for record in good if record.network_s is not None],
        "non_network": [record.non_network_s for record in good if record.non_network_s is not None],
    }
    return {
        "peak_host_mib": _highest(record.peak_host_mib for record in good),
        "peak_process_mib": _highest(record.peak_process_mib for record in good),
        "peak_gpu_mib": _highest(record.peak_gpu_mib for record in good),
        "median_s": {part: _median(values) for part, values in seconds.items()},
        "min_s": {part: min(values, default=None) for part, values in seconds.items()},
        "max_s": {part: max(values, default=None) for part, values in seconds.items()},
        "stages_s": _median_stages(good),
        "is_the_same_every_round": _is_the_same(good, folder=folder),
        "good_runs": len(good),
        "failed_runs": len(failed),
        "error": failed[-1].error if failed else None,
    }


def _agreement(who: str, *, plan: Plan, by_name: Mapping[str, Sequence[RunRecord]], folder: Path) -> dict[str, Any]:
    """The worst of all rounds, per tracer and of both; each run beside the one of its own round, else the first."""
    found: dict[str, Any] = {"dice": None, "differing_voxel_fraction": None, "tracers": None, "comparison_error": None}
    expected = [record for record in by_name.get(plan.compared_with or "", ()) if record.is_good]
    ours = [record for record in by_name[who] if record.is_good]
    if not expected or not ours:
        return found
    compared: dict[tuple[tuple[str, ...], tuple[str, ...]], Differences] = {}
    try:
        for record in ours:
            other = next((other for other in expected if other.round == record.round), expected[0])
            outputs = [masks_folder(folder, number=run.round, who=run.who) for run in (record, other)]
            digests = (_mask_digests(outputs[0]), _mask_digests(outputs[1]))
            if digests not in compared:
                compared[digests] = compare_outputs(outputs[0], expected=outputs[1])
    except CaseError as error:
        return found | {"comparison_error": str(error)}
    tracers = {
        tracer: max((differences[tracer] for differences in compared.values()), key=lambda one: one.differing_voxels)
        for tracer in Tracer
    }
    dice, fraction = worst(tracers.values())
    return found | {
        "dice": dice,
        "differing_voxel_fraction": fraction,
        "tracers": {tracer.value: asdict(difference) for tracer, difference in tracers.items()},
    }


def _is_the_same(records: Sequence[RunRecord], *, folder: Path) -> bool | None:
    if len(records) < 2:
        return None
    outputs = [masks_folder(folder, number=record.round, who=record.who) for record in records]
    return len({_mask_digests(output) for output in outputs}) == 1


def _mask_digests(output: Path) -> tuple[str, ...]:
    files = [mask_file(output, tracer) for tracer in Tracer]
    return tuple(sha256_of(file) if file.is_file() else "" for file in files)


def _ratio(reference: Mapping[str, Any] | None, ours: Mapping[str, Any], *, part: str) -> float | None:
    theirs_s, ours_s = None if reference is None else reference["median_s"][part], ours["median_s"][part]
    return theirs_s / ours_s if theirs_s is not None and ours_s else None


def _median_stages(records: Sequence[RunRecord]) -> dict[str, float]:
    names = dict.fromkeys(name for record in records for name in record.stages_s)
    return {name: statistics.median(record.stages_s.get(name, 0.0) for record in records) for name in names}


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _highest(values: Any) -> float | None:
    return max((value for value in values if value is not None), default=None)
