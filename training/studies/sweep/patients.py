"""One tracer's scans of all patients over both limits, and their means as CSV."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from petct.case import Tracer
from petct.folders import SCAN_FOLDERS, read_truth
from petct.geometry import check_same_grid, grid_of, to_array
from petct.manifest import TracerSettings
from petct.written_whole import written_whole
from training.studies.out_of_fold.predict import PROBABILITIES
from training.studies.out_of_fold.probabilities import read_candidates
from training.studies.out_of_fold.record import CaseRecord
from training.studies.sweep.limits import sweep_scan

log = logging.getLogger(__name__)

Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TracerSweep:
    """The scores of one tracer's scans; arrays are (patient, limit on P(ttb), limit on P(normal)).

    Attributes:
        tracer: The tracer.
        cases: The patients.
        folds: The fold that had not seen each of them.
        ttb_limits: Limits on P(ttb), rising.
        normal_limits: Limits on P(normal), rising.
        dice: Dice; nan where truth and mask are empty.
        fp_volume_ml: False-positive volume in mL.
        fn_volume_ml: False-negative volume in mL.
        manifest_point: Places of the manifest's own limits in the grid.
    """

    tracer: Tracer
    cases: tuple[str, ...]
    folds: tuple[int, ...]
    ttb_limits: tuple[float, ...]
    normal_limits: tuple[float, ...]
    dice: Float
    fp_volume_ml: Float
    fn_volume_ml: Float
    manifest_point: tuple[int, int]


def sweep_tracer(
    records: Sequence[CaseRecord], *, tracer: Tracer, oof: Path, patients: Path, settings: TracerSettings,
    limits: Sequence[float],
) -> TracerSweep:  # fmt: skip
    """Sweep one tracer's scans of all patients that were predicted out of fold.

    Args:
        records: The predicted patients.
        tracer: The tracer.
        oof: Folder of out-of-fold predictions.
        patients: Folder of train_XXXX with truth.
        settings: Regrowing, and limits to compare with; they join the grid when they are not in it.
        limits: Limits on both probabilities, rising.

    Raises:
        CaseError: A patient's probabilities or truth are missing or do not match.
    """
    ttb_limits = tuple(sorted({*limits, settings.ttb_probability}))
    normal_limits = tuple(sorted({*limits, settings.normal_probability}))
    sweeps = []
    for number, record in enumerate(records, start=1):
        scan = SCAN_FOLDERS[tracer]
        where = f"{record.case}/{scan}"
        candidates = read_candidates(oof / record.case / scan / PROBABILITIES, where=f"{where}/{PROBABILITIES}")
        truth = read_truth(patients / record.case, tracer)
        check_same_grid(grid_of(truth), candidates.grid, where=f"{where}/TTB", name="the out-of-fold prediction's")
        sweeps.append(
            sweep_scan(
                candidates,
                truth=to_array(truth) > 0,
                settings=settings,
                ttb_limits=ttb_limits,
                normal_limits=normal_limits,
            )
        )
        log.info("%s %s (%d of %d)", record.case, tracer.name, number, len(records))
    return TracerSweep(
        tracer=tracer,
        cases=tuple(record.case for record in records),
        folds=tuple(record.fold for record in records),
        ttb_limits=ttb_limits,
        normal_limits=normal_limits,
        dice=np.stack([sweep.dice for sweep in sweeps]),
        fp_volume_ml=np.stack([sweep.fp_volume_ml for sweep in sweeps]),
        fn_volume_ml=np.stack([sweep.fn_volume_ml for sweep in sweeps]),
        manifest_point=(
            ttb_limits.index(settings.ttb_probability),
            normal_limits.index(settings.normal_probability),
        ),
    )


def mean_over_patients(values: Float) -> Float:
    """Means of scores over patients, those without a score left out; nan where nobody has one."""
    has_score = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean: Float = np.where(has_score, values, 0.0).sum(axis=0) / has_score.sum(axis=0)
    return mean


def write_sweep(sweep: TracerSweep, path: Path) -> None:
    """The means over patients as CSV, a line for each pair of limits; whole or not at all."""
    means = [mean_over_patients(values) for values in (sweep.dice, sweep.fp_volume_ml, sweep.fn_volume_ml)]
    with written_whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        names = ("tracer", "ttb_probability", "normal_probability", "dice", "fp_volume_ml", "fn_volume_ml", "patients")
        writer.writerow(names)
        for i, ttb_limit in enumerate(sweep.ttb_limits):
            for j, normal_limit in enumerate(sweep.normal_limits):
                scores = ["" if math.isnan(mean[i, j]) else f"{mean[i, j]:.6f}" for mean in means]
                writer.writerow([sweep.tracer.value, ttb_limit, normal_limit, *scores, len(sweep.cases)])
