"""Which files a patient's cases of a data set are made of, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import SimpleITK as sitk

from petct.case import Scan, Tracer
from petct.errors import CaseError
from petct.folders import CORRECTED_STEM, SCAN_FOLDERS, TRUTH_STEM, find_files, find_image
from petct.geometry import check_same_grid, grid_of
from petct.images import read_image
from petct.scan_files import CaseFile, ScanFiles, read_scan
from segmentation.weight_files import sha256_of
from training.datasets.descriptions import LESION_DATASETS
from training.datasets.organ_maps import computed_map


@dataclass(frozen=True)
class Sources:
    """Where files come from besides the patients' folders.

    Attributes:
        corrected: Folder with `train_XXXX/{PSMA,FDG}/TTB_fixed` or `TTB`, which goes before a TTB_fixed beside the
            original; or None.
        organs: Folder with computed organ maps.
    """

    corrected: Path | None
    organs: Path


def corrected_truth(patient: Path, *, tracer: Tracer, folder: Path | None) -> CaseFile | None:
    """A scan's corrected annotation, or None.

    Args:
        patient: The patient's folder, in which it may lie as TTB_fixed.
        tracer: Which scan.
        folder: A folder of corrected annotations by patient, or None.

    Raises:
        CaseError: It is there in more than one format.
    """
    name = SCAN_FOLDERS[tracer]
    if folder is not None:
        for stem in (CORRECTED_STEM, TRUTH_STEM):
            found = find_image(folder / patient.name, f"{name}/{stem}")
            if found is not None:
                return CaseFile(found.path, f"{folder / patient.name}/{found.where}")
    return find_image(patient, f"{name}/{CORRECTED_STEM}")


def count_corrected(patients: Sequence[Path], *, number: int, folder: Path | None) -> int:
    """How many patients have a corrected annotation of a data set's tracer."""
    tracer = LESION_DATASETS[number].tracer
    return sum(corrected_truth(patient, tracer=tracer, folder=folder) is not None for patient in patients)


def scan_files(patient: Path, *, tracer: Tracer, sources: Sources) -> tuple[ScanFiles, bool]:
    """A scan's files, with a computed organ map where the patient brings none; and whether it is a computed one.

    Raises:
        CaseError: A file is missing or doubled.
    """
    files = find_files(patient)[tracer]
    computed = computed_map(sources.organs, patient=patient.name, tracer=tracer)
    if files.organs is not None or not computed.is_file():
        return files, False
    return replace(files, organs=CaseFile(computed, str(computed))), True


def truth_file(patient: Path, *, number: int, sources: Sources) -> tuple[CaseFile, bool]:
    """The truth that a lesion data set uses, and whether it is a corrected one.

    Raises:
        CaseError: It is missing or doubled.
    """
    dataset = LESION_DATASETS[number]
    if dataset.is_corrected:
        corrected = corrected_truth(patient, tracer=dataset.tracer, folder=sources.corrected)
        if corrected is not None:
            return corrected, True
    stem = f"{SCAN_FOLDERS[dataset.tracer]}/{TRUTH_STEM}"
    truth = find_image(patient, stem)
    if truth is None:
        raise CaseError(f"{patient.name} {stem}.nii.gz", "file is missing")
    return truth, False


def read_named_scan(files: ScanFiles, *, patient: str) -> Scan:
    """Read a scan; a refusal names the patient, as many are read.

    Raises:
        CaseError: A file is unreadable or breaks a rule.
    """
    try:
        return read_scan(files)
    except CaseError as error:
        raise CaseError(f"{patient} {error.where}", error.rule, error.got) from error


def read_named_truth(truth: CaseFile, *, scan: Scan, patient: str) -> sitk.Image:
    """Read a truth that lies on its PET's grid.

    Raises:
        CaseError: It is unreadable, or on another grid.
    """
    where = f"{patient} {truth.where}"
    image = read_image(truth.path, where=where)
    check_same_grid(grid_of(image), grid_of(scan.pet), where=where, name="the PET")
    return image


def digests_of(used: Mapping[str, CaseFile | None], *, tracer: Tracer) -> dict[str, str]:
    """sha256 of the files that a data set uses of a scan, by what they are to it (`fdg pet`)."""
    return {f"{tracer} {name}": sha256_of(file.path) for name, file in used.items() if file is not None}
