"""The CT's clipping limits: percentiles over all voxels of a data set, by a histogram in one pass."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from petct.case import Tracer
from petct.channels import ClipHU
from petct.errors import CaseError
from petct.geometry import grid_of, resample_ct, to_array
from training.datasets.refused import leave_out_refused, refusal_of
from training.datasets.sources import Sources, read_named_scan, scan_files
from training.processes import in_processes

CLIP_PERCENTILES = (5.0, 95.0)  # the paper's
HISTOGRAM_HU = (-4096, 4096)  # a bin for each whole HU; what lies outside counts in the last one
Counts = npt.NDArray[np.int64]

log = logging.getLogger(__name__)


def clip_limits(
    patients: Sequence[Path], *, tracer: Tracer, sources: Sources, processes: int, leaves_out_broken: bool = False
) -> ClipHU:
    """The 5th and 95th percentile of the CT on the PET's grid, pooled over the patients' voxels, in whole HU.

    The voxels are those that a network sees: -1000 HU where the CT does not reach is among them.

    Args:
        patients: The patients' folders.
        tracer: Whose scans.
        sources: Where files come from.
        processes: Cases read at the same time.
        leaves_out_broken: Whether patients whose scan is broken are left out.

    Raises:
        RefusedPatientsError: Scans are broken; all were tried.
        CaseError: The percentiles are equal.
    """
    log.info("%s: percentiles of the CT over %d patients", tracer.name, len(patients))
    total: Counts = np.zeros(HISTOGRAM_HU[1] - HISTOGRAM_HU[0] + 1, dtype=np.int64)
    refused = {}
    count = partial(_histogram, tracer=tracer, sources=sources)
    for number, (patient, counts) in enumerate(in_processes(count, patients, processes=processes), start=1):
        if isinstance(counts, Exception):
            refused[patient.name] = refusal_of(counts, patient=patient.name)
            log.warning("%s (%d of %d)", refused[patient.name], number, len(patients))
            continue
        total += counts
        log.info("%s: CT percentiles (%d of %d)", patient.name, number, len(patients))
    where = f"{tracer.name} CT percentiles"
    leave_out_refused(refused, total=len(patients), where=where, is_allowed=leaves_out_broken)
    low_hu, high_hu = (histogram_percentile(total, percentile) for percentile in CLIP_PERCENTILES)
    if low_hu >= high_hu:
        raise CaseError(
            f"{tracer.name} CT", "percentiles must differ to be clipped to", f"{low_hu:g} and {high_hu:g} HU"
        )
    log.info("%s: the CT is clipped to %g to %g HU", tracer.name, low_hu, high_hu)
    return ClipHU(low_hu=low_hu, high_hu=high_hu)


def histogram_percentile(counts: Counts, percentile: float) -> float:
    """The lowest whole HU that this share of the voxels does not exceed.

    Args:
        counts: Voxels per whole HU from -4096 to 4096.
        percentile: In (0, 100].
    """
    reached = np.cumsum(counts) >= percentile / 100.0 * counts.sum()
    return float(HISTOGRAM_HU[0] + int(np.argmax(reached)))


def _histogram(patient: Path, *, tracer: Tracer, sources: Sources) -> Counts:
    files, _ = scan_files(patient, tracer=tracer, sources=sources)
    scan = read_named_scan(files, patient=patient.name)
    hu = to_array(resample_ct(scan.ct, grid_of(scan.pet)))
    bins = np.clip(np.rint(hu), *HISTOGRAM_HU).astype(np.int32).ravel() - HISTOGRAM_HU[0]
    counts: Counts = np.bincount(bins, minlength=HISTOGRAM_HU[1] - HISTOGRAM_HU[0] + 1).astype(np.int64)
    return counts
