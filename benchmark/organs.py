"""TotalSegmentator's own command beside our way of running it: time, memory, and what the maps have in common.

The command runs once per CT, as a user would run it; ours runs once for both CTs of a patient. Every run is a process
of its own, and the ways take turns, so that what disturbs one disturbs all.
"""

from __future__ import annotations

import json
import logging
import math
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmark.measure import ColdRun, run_cold
from evaluation.overlap import organ_dice
from petct.case import Tracer
from petct.errors import CaseError
from petct.folders import find_files
from petct.geometry import check_same_grid, grid_of, to_array
from petct.images import read_image
from petct.manifest import OrganTask, read_manifest
from petct.organs import Organ, collapse
from segmentation.totalsegmentator import check_organ_weights

log = logging.getLogger(__name__)

Labels = npt.NDArray[np.uint8]

ROOT = Path(__file__).resolve().parent.parent
_TASK_OPTIONS = {OrganTask.TOTAL: [], OrganTask.FAST: ["--fast"], OrganTask.FASTEST: ["--fastest"]}
_DEVICE_OPTIONS = {"cpu": "cpu", "cuda": "gpu"}
_NIFTI = (".nii", ".nii.gz")  # all that the command reads
_LAST_CHARACTERS = 300


class Way(StrEnum):
    """TotalSegmentator's command; ours on the whole CT; ours on the patient's box."""

    STOCK = "stock"
    WHOLE = "whole"
    BODY = "body"


@dataclass(frozen=True)
class Agreement:
    """A map beside the command's own.

    Attributes:
        dice: Of each of the eight classes, None where neither map has it.
        equal_fraction: Of the voxels that either map labels (of 117 labels), those with equal labels; 1 if there are
            none.
        differing_voxels: All others of them.
    """

    dice: Mapping[Organ, float | None]
    equal_fraction: float
    differing_voxels: int


def compare_maps(labels: Labels, *, stock: Labels) -> Agreement:
    """Compare two maps of TotalSegmentator's labels.

    Raises:
        ValueError: Their shapes differ.
    """
    if labels.shape != stock.shape:
        raise ValueError(f"maps must have one shape, got {labels.shape} and {stock.shape}")
    labelled = int(np.count_nonzero((labels > 0) | (stock > 0)))
    differing = int(np.count_nonzero(labels != stock))
    scores = organ_dice(collapse(labels), truth=collapse(stock))
    return Agreement(
        dice={organ: None if math.isnan(score) else score for organ, score in scores.items()},
        equal_fraction=1.0 - differing / labelled if labelled else 1.0,
        differing_voxels=differing,
    )


def measure_patient(patient: Path, *, manifest: Path, device: str, repeats: int, work: Path) -> dict[str, Any]:
    """Run all ways in turns on both CTs of a patient.

    Args:
        patient: A case in either layout.
        manifest: Whose task and weights of TotalSegmentator are used.
        device: `cpu` or `cuda`.
        repeats: How many rounds.
        work: Empty folder for maps and logs.

    Returns:
        Per way the runs and their medians, and for ours the agreement with the command; ready for JSON.

    Raises:
        CaseError: A CT is missing or not NIfTI, the weights are missing, or a run fails.
    """
    cts = _cts(patient)
    settings = read_manifest(manifest).organs
    check_organ_weights(settings, where="organs")
    runs: dict[Way, list[dict[str, float]]] = {way: [] for way in Way}
    for number in range(repeats):
        for way in Way:
            folder = work / way
            folder.mkdir(exist_ok=True)
            if way is Way.STOCK:
                measured = _run_stock(cts, task=settings.task, weights=settings.weights, device=device, folder=folder)
            else:
                measured = _run_ours(cts, manifest=manifest, device=device, folder=folder, way=way)
            runs[way].append(measured)
            log.info(
                "%s %s: %.1f s, %.0f MiB (%d of %d)",
                patient.name,
                way,
                measured["wall_s"],
                measured["peak_host_mib"],
                number + 1,
                repeats,
            )
    medians = {way: {key: statistics.median(run[key] for run in runs[way]) for key in runs[way][0]} for way in Way}
    return {
        "patient": patient.name,
        "ways": {
            way: {
                **medians[way],
                "ratio": medians[Way.STOCK]["wall_s"] / medians[way]["wall_s"],
                "runs": runs[way],
                "agreement": _agreements(work, way=way),
            }
            for way in Way
        },
    }


def measured_ways(patients: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each way's medians over patients, and its lowest agreement with the command over all CTs and organs."""
    rows = []
    for way in Way:
        found = [patient["ways"][way] for patient in patients]
        agreements = [agreement for entry in found for agreement in entry["agreement"]]
        dice = [score for agreement in agreements for score in agreement["dice"].values() if score is not None]
        rows.append(
            {
                "way": way.value,
                "wall_s": statistics.median(entry["wall_s"] for entry in found),
                "ratio": statistics.median(entry["ratio"] for entry in found),
                "peak_host_mib": max(entry["peak_host_mib"] for entry in found),
                "lowest_dice": min(dice, default=None),
                "mean_dice": statistics.fmean(dice) if dice else None,
                "lowest_equal_fraction": min((entry["equal_fraction"] for entry in agreements), default=None),
            }
        )
    return rows


def _cts(patient: Path) -> list[Path]:
    files = find_files(patient)
    for tracer in Tracer:
        if not files[tracer].ct.path.name.endswith(_NIFTI):
            raise CaseError(
                files[tracer].ct.where, "TotalSegmentator's command reads NIfTI", str(files[tracer].ct.path)
            )
    return [files[tracer].ct.path.resolve() for tracer in Tracer]


def _run_stock(cts: Sequence[Path], *, task: OrganTask, weights: Path, device: str, folder: Path) -> dict[str, float]:
    home = folder / "home"
    home.mkdir(exist_ok=True)
    # Without these it would draw an identity and send statistics.
    configuration = {"totalseg_id": "none", "send_usage_stats": False, "prediction_counter": 0}
    (home / "config.json").write_text(json.dumps(configuration), encoding="utf-8")
    environment = {**os.environ, "TOTALSEG_WEIGHTS_PATH": str(weights), "TOTALSEG_HOME_DIR": str(home)}
    program = Path(sys.executable).with_name("TotalSegmentator")
    options = ["--ml", *_TASK_OPTIONS[task], "--device", _DEVICE_OPTIONS[device]]
    runs = []
    for number, ct in enumerate(cts):
        command = [sys.executable, str(program), "-i", str(ct), "-o", str(folder / f"{number}.nii.gz"), *options]
        runs.append(_good(run_cold(command, log=folder / "log.txt", folder=folder, environment=environment), folder))
    # Its runs follow each other: their times add up, their memory does not.
    return {
        "wall_s": sum(run.wall_s for run in runs),
        "peak_host_mib": max(run.peak_host_mib for run in runs),
    }


def _run_ours(cts: Sequence[Path], *, manifest: Path, device: str, folder: Path, way: Way) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmark.our_organs", "--cts", *map(str, cts), "--output", str(folder)]
    command += ["--manifest", str(manifest.resolve()), "--device", device]
    if way is Way.BODY:
        command.append("--crop-to-body")
    run = _good(run_cold(command, log=folder / "log.txt", folder=ROOT, environment=os.environ), folder)
    return {"wall_s": run.wall_s, "peak_host_mib": run.peak_host_mib}


def _good(run: ColdRun, folder: Path) -> ColdRun:
    if run.exit_code != 0:
        last = (folder / "log.txt").read_text(encoding="utf-8", errors="replace")[-_LAST_CHARACTERS:]
        raise CaseError(
            f"organs, {folder.name}", "run must end without an error", f"exit status {run.exit_code}: {last}"
        )
    return run


def _agreements(work: Path, *, way: Way) -> list[dict[str, Any]]:
    found = []
    for number, tracer in enumerate(Tracer):
        image = read_image(work / way / f"{number}.nii.gz", where=f"{tracer.name} {way} map")
        stock = read_image(work / Way.STOCK / f"{number}.nii.gz", where=f"{tracer.name} stock map")
        check_same_grid(grid_of(image), grid_of(stock), where=f"{tracer.name} {way} map", name="the command's")
        agreement = compare_maps(to_array(image), stock=to_array(stock))
        found.append(
            {
                "tracer": tracer.value,
                "dice": {organ.name.lower(): score for organ, score in agreement.dice.items()},
                "equal_fraction": agreement.equal_fraction,
                "differing_voxels": agreement.differing_voxels,
            }
        )
    return found
