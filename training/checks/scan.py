"""Checking one scan of a patient: files, geometry, units, threshold and truth."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from petct import plausible
from petct.case import Tracer
from petct.checks import check_ct, check_organs, check_overlap, check_pet, check_threshold
from petct.folders import SCAN_FOLDERS, THRESHOLD_NAME, TRUTH_STEM, find_image
from petct.geometry import check_same_grid, grid_of, to_array
from petct.images import read_image
from petct.scan_files import CaseFile, read_json
from training.checks.findings import Findings, Severity
from training.checks.organs import check_organ_map
from training.checks.tracer import check_fdg_threshold, check_tracer
from training.datasets.sources import corrected_truth

PSMA_THRESHOLD_SUV = 3.0  # the challenge's rule
FDG_THRESHOLD_SUV = (1.5, 6.0)  # typically 2.1-5
BONE_ABOVE_HU = 200.0
COARSE_MM = 4.0
# A physician's tool rounds SUV and thresholds; half a percent of the threshold is beyond doubt.
BELOW_TOLERANCE = 0.005
# A truth with more than a few voxels below the threshold was drawn at another threshold or on another scan.
BELOW_REFUSED_ABOVE = 0.10


@dataclass(frozen=True)
class CheckedScan:
    """What the checks of a patient as a whole need of a scan.

    Attributes:
        pet_digest: sha256 over the PET's voxels, or "" without a readable PET.
        ct: The CT, thinned to about 4 mm, or None without a readable one.
        ct_file: How findings name the CT.
    """

    pet_digest: str
    ct: sitk.Image | None
    ct_file: str


def check_scan(patient: Path, *, tracer: Tracer, corrected: Path | None, findings: Findings) -> CheckedScan:
    """Check every file of one scan but the registration.

    Args:
        patient: The patient's folder.
        tracer: Which scan.
        corrected: A folder of corrected annotations by patient, or None.
        findings: Where to note what is wrong.
    """
    name = SCAN_FOLDERS[tracer]
    if not (patient / name).is_dir():
        findings.add(name, "folder is missing")
        return CheckedScan("", None, name)
    threshold = _threshold(patient, tracer, findings)
    pet_file, pet = _image(patient, f"{name}/PET", findings)
    ct_file, ct = _image(patient, f"{name}/CT", findings)
    organ_file, organs = _image(patient, f"{name}/totseg_24", findings, is_needed=False)
    if pet is not None:
        findings.attempt(check_pet, pet, suv_threshold=threshold or PSMA_THRESHOLD_SUV, where=pet_file)
        _check_truths(patient, tracer=tracer, corrected=corrected, pet=pet, threshold=threshold, findings=findings)
    if ct is not None:
        is_hu = _check_ct(ct, file=ct_file, findings=findings)
        if organs is not None:
            organs = findings.attempt_strictly(check_organs, organs, ct=ct, where=organ_file, ct_where=ct_file)
    if pet is not None and ct is not None:
        findings.attempt(check_overlap, ct, pet, where=ct_file, pet_where=pet_file)
        _check_units(thin(pet), ct=ct, file=pet_file, findings=findings)
    if ct is not None and organs is not None and is_hu:  # a wrong CT would accuse the map of what is its own fault
        is_sound = check_organ_map(thin(organs), ct=thin(ct), file=organ_file, findings=findings)
        if pet is not None and is_sound:  # and a wrong map the PET
            medians_suv = plausible.organ_medians_suv(thin(pet), organs=organs)
            check_tracer(medians_suv, tracer=tracer, file=pet_file, findings=findings)
            if tracer is Tracer.FDG and threshold is not None:
                check_fdg_threshold(medians_suv, threshold, file=f"{name}/{THRESHOLD_NAME}", findings=findings)
    return CheckedScan(
        pet_digest="" if pet is None else hashlib.sha256(to_array(pet).data).hexdigest(),
        ct=None if ct is None else thin(ct),
        ct_file=ct_file,
    )


def thin(image: sitk.Image) -> sitk.Image:
    """Voxels about 4 mm apart: enough for medians and volumes, and quick for the largest scan."""
    return plausible.thin(image, apart_mm=COARSE_MM)


def _check_truths(
    patient: Path,
    *,
    tracer: Tracer,
    corrected: Path | None,
    pet: sitk.Image,
    threshold: float | None,
    findings: Findings,
) -> None:
    """Check the truth of a scan, and its corrected annotation where there is one."""
    file, truth = _image(patient, f"{SCAN_FOLDERS[tracer]}/{TRUTH_STEM}", findings)
    if truth is not None:
        check_truth(truth, pet=pet, threshold=threshold, file=file, findings=findings)
    fixed = findings.attempt(corrected_truth, patient, tracer=tracer, folder=corrected)
    truth = None if fixed is None else findings.attempt(read_image, fixed.path, where=fixed.where)
    if fixed is not None and truth is not None:
        check_truth(truth, pet=pet, threshold=threshold, file=fixed.where, findings=findings)


def check_truth(truth: sitk.Image, *, pet: sitk.Image, threshold: float | None, file: str, findings: Findings) -> None:
    """A truth must hold 0 and 1 on the PET's grid, and disease at or above the threshold only.

    Args:
        truth: The physician's mask.
        pet: PET in SUV.
        threshold: SUV threshold, or None when it could not be read.
        file: The mask, for the findings.
        findings: Where to note what is wrong.
    """
    before = len(findings.found)
    findings.attempt(check_same_grid, grid_of(truth), grid_of(pet), where=file, name="the PET")
    values = to_array(truth)
    others = np.unique(values[(values != 0) & (values != 1)])
    if others.size:
        shown = ", ".join(f"{value:g}" for value in others[:5])
        findings.add(file, "truth must hold 0 and 1 only", f"{others.size} other values: {shown}")
        return
    disease = values == 1
    if not disease.any():
        findings.warn(file, "truth should show disease", "an empty mask")
        return
    if threshold is None or len(findings.found) > before:
        return
    suv = to_array(pet)[disease]
    below = int(np.count_nonzero(suv < threshold * (1.0 - BELOW_TOLERANCE)))
    if below:
        share = below / suv.size
        voxels = "voxel" if below == 1 else "voxels"
        got = f"{below} {voxels} ({below * grid_of(pet).voxel_ml:.3g} mL, {share:.2g} of the truth) below it"
        severity = Severity.ERROR if share > BELOW_REFUSED_ABOVE else Severity.WARNING
        findings.add(file, f"disease must be at or above {threshold:g} SUV", got, severity=severity)


def _image(patient: Path, stem: str, findings: Findings, *, is_needed: bool = True) -> tuple[str, sitk.Image | None]:
    """The name and the voxels of an image; None, with a finding, where there is none to read."""
    before = len(findings.found)
    file: CaseFile | None = findings.attempt(find_image, patient, stem)
    if file is not None:
        return file.where, findings.attempt(read_image, file.path, where=file.where)
    where = f"{stem}.nii.gz"
    if len(findings.found) == before:
        if is_needed:
            findings.add(where, "file is missing")
        else:
            findings.warn(where, "file is missing; `dataset` computes it with TotalSegmentator")
    return where, None


def _threshold(patient: Path, tracer: Tracer, findings: Findings) -> float | None:
    where = f"{SCAN_FOLDERS[tracer]}/{THRESHOLD_NAME}"
    path = patient / where
    if not path.is_file():
        findings.add(where, "file is missing")
        return None
    threshold = findings.attempt(lambda: check_threshold(read_json(CaseFile(path, where)), where=where))
    if threshold is None:
        return None
    if tracer is Tracer.PSMA and threshold != PSMA_THRESHOLD_SUV:
        findings.warn(where, f"PSMA threshold should be {PSMA_THRESHOLD_SUV} SUV", f"{threshold:g} SUV")
    low, high = FDG_THRESHOLD_SUV
    if tracer is Tracer.FDG and not low <= threshold <= high:
        findings.warn(where, f"FDG threshold should be within {low:g}-{high:g} SUV", f"{threshold:g} SUV")
    return threshold


def _check_ct(ct: sitk.Image, *, file: str, findings: Findings) -> bool:
    """Whether it may be in HU."""
    before = len(findings.found)
    findings.attempt_strictly(check_ct, ct, where=file)
    if len(findings.found) > before:
        return False
    high_hu = float(np.max(to_array(thin(ct))))
    if high_hu < BONE_ABOVE_HU:
        findings.warn(file, f"CT should show bone above {BONE_ABOVE_HU:g} HU", f"a maximum of {high_hu:g} HU")
    return True


def _check_units(pet: sitk.Image, *, ct: sitk.Image, file: str, findings: Findings) -> None:
    """The mean over the body tells SUV from anything else."""
    mean_suv = plausible.body_mean_suv(pet, ct=ct)
    if mean_suv is None:
        return
    for (low, high), severity in (
        (plausible.BODY_MEAN_SUV, Severity.ERROR),
        (plausible.USUAL_BODY_MEAN_SUV, Severity.WARNING),
    ):
        if not low <= mean_suv <= high:
            rule = f"PET must be in SUV, with a mean of {low:g}-{high:g} over the body"
            got = f"{mean_suv:.4g}, as Bq/mL or kBq/mL have" if mean_suv > high else f"{mean_suv:.4g}"
            findings.add(file, rule, got, severity=severity)
            return
