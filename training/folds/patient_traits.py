"""What differs between patients and should not differ between folds: measured on the truth, the grid and the organs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from petct.case import Tracer
from petct.checks import check_organs
from petct.errors import CaseError
from petct.folders import read_truth
from petct.geometry import Grid, check_same_grid, grid_of, resample_labels, to_array
from petct.images import read_image
from petct.scan_files import CaseFile, ScanFiles
from postprocessing.lesions import label_lesions
from postprocessing.refine import labels_with_disease
from training.datasets.sources import Sources, scan_files
from training.memory import checking_bytes
from training.processes import affordable_processes, in_processes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScanTraits:
    """One scan of a patient.

    Attributes:
        ttb_ml: True disease in mL.
        lesions: Number of true lesions (18-connected).
        voxel_ml: Volume of a PET voxel in mL.
        grid: Class of the PET grid (`grid_class`).
        alone_share: Share of the disease in labelled anatomy that lies in labels in which only this tracer shows
            disease; 0 when there is none, None when an organ map is missing.
    """

    ttb_ml: float
    lesions: int
    voxel_ml: float
    grid: str
    alone_share: float | None


@dataclass(frozen=True)
class PatientTraits:
    """One patient.

    Attributes:
        name: The patient's folder name.
        psma: The PSMA scan.
        fdg: The FDG scan.
    """

    name: str
    psma: ScanTraits
    fdg: ScanTraits

    def scan(self, tracer: Tracer) -> ScanTraits:
        """The scan of one tracer."""
        return self.psma if tracer is Tracer.PSMA else self.fdg

    def is_alone(self, tracer: Tracer) -> bool:
        """Whether this tracer shows disease and the other one shows none at all."""
        return self.scan(tracer).ttb_ml > 0 and all(self.scan(t).ttb_ml == 0 for t in Tracer if t is not tracer)


def grid_class(grid: Grid) -> str:
    """What scans of one scanner and protocol have in common: matrix and voxel size, not the number of slices.

    The number of slices follows from how far down the patient was scanned. Sizes are rounded to 0.1 mm, because
    headers of one scanner differ in the digits after that.
    """
    x, y, _ = grid.size_xyz
    return f"{x} x {y}, " + " x ".join(f"{spacing_mm:.1f}" for spacing_mm in grid.spacing_mm_xyz) + " mm"


def measure_patients(
    patients: Sequence[Path], *, organs: Path, processes: int
) -> tuple[list[PatientTraits], list[CaseError]]:
    """Measure patients side by side; a broken one is reported and the others go on.

    Args:
        patients: Patient folders in the training set's layout, with truth.
        organs: Folder of computed organ maps, for those who bring none; need not be there.
        processes: Patients measured at the same time; fewer where memory is short.

    Returns:
        The traits in the order of the folders, and what was wrong with those that are not among them.

    Raises:
        CaseError: A process was killed.
    """
    found: list[PatientTraits] = []
    broken: list[CaseError] = []
    # Checking opens the same files and the CT besides: what it takes is enough.
    processes = affordable_processes(processes, bytes_each=checking_bytes(patients))
    results = in_processes(partial(measure_patient, organs=organs), patients, processes=processes)
    for done, (folder, result) in enumerate(results, start=1):
        if isinstance(result, CaseError):
            broken.append(result)
            log.warning("%s (%d of %d)", result, done, len(patients))
            continue
        if isinstance(result, Exception):
            raise result
        found.append(result)
        scans = ", ".join(f"{t.name} {result.scan(t).ttb_ml:.1f} mL, {result.scan(t).lesions} lesions" for t in Tracer)
        log.info("%s: %s (%d of %d)", folder.name, scans, done, len(patients))
    return found, broken


def measure_patient(folder: Path, *, organs: Path) -> PatientTraits:
    """Measure one patient. The CT is not opened, and the PET for its grid only.

    Disease of one tracer alone is found per anatomical label, all of TotalSegmentator's: in the labels of the scans'
    own organ maps, so that nothing has to be registered. A label counts as diseased where at least one voxel of TTB
    lies in it, as in the refinement.

    Args:
        folder: The patient's folder in the training set's layout, with truth.
        organs: Folder of computed organ maps, for a scan that brings none.

    Raises:
        CaseError: A file is missing, unreadable or not on the PET's grid; names the patient.
    """
    try:
        sources = Sources(corrected=None, organs=organs)
        files = {tracer: scan_files(folder, tracer=tracer, sources=sources)[0] for tracer in Tracer}
        per_label = {}
        measured = {}
        for tracer in Tracer:
            grid, mask = _read_disease(folder, files[tracer])
            per_label[tracer] = _voxels_per_label(mask, grid=grid, organs=files[tracer].organs)
            measured[tracer] = (grid, int(mask.sum()), label_lesions(mask)[1])
    except CaseError as error:
        raise CaseError(f"{folder.name} {error.where}", error.rule, error.got) from error
    scans = {}
    for tracer, other in ((Tracer.PSMA, Tracer.FDG), (Tracer.FDG, Tracer.PSMA)):
        grid, voxels, lesions = measured[tracer]
        scans[tracer] = ScanTraits(
            ttb_ml=voxels * grid.voxel_ml,
            lesions=lesions,
            voxel_ml=grid.voxel_ml,
            grid=grid_class(grid),
            alone_share=_alone_share(per_label[tracer], other=per_label[other]),
        )
    return PatientTraits(name=folder.name, psma=scans[Tracer.PSMA], fdg=scans[Tracer.FDG])


def _read_disease(folder: Path, files: ScanFiles) -> tuple[Grid, npt.NDArray[np.bool_]]:
    grid = grid_of(read_image(files.pet.path, where=files.pet.where))
    truth = read_truth(folder, files.tracer)
    check_same_grid(grid_of(truth), grid, where=f"{files.tracer.name}/TTB", name="the PET")
    return grid, to_array(truth) > 0


def _voxels_per_label(mask: npt.NDArray[np.bool_], *, grid: Grid, organs: CaseFile | None) -> dict[int, int] | None:
    """Voxels of disease in each label that has any, without 0; None without an organ map."""
    if organs is None:
        return None
    image = read_image(organs.path, where=organs.where)
    # Only its values: that it lies on the CT's grid is checked where the CT is read.
    image = check_organs(image, ct=image, where=organs.where, ct_where=organs.where)
    labels = to_array(resample_labels(image, grid))
    voxels = np.bincount(labels[mask], minlength=1)
    return {label: int(voxels[label]) for label in labels_with_disease(mask, labels=labels)}


def _alone_share(per_label: dict[int, int] | None, *, other: dict[int, int] | None) -> float | None:
    if per_label is None or other is None:
        return None
    total = sum(per_label.values())
    return sum(voxels for label, voxels in per_label.items() if label not in other) / total if total else 0.0
