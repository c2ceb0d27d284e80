"""One patient's cases of a data set: what they are made of, and their files in nnU-Net's raw folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from petct.case import Scan, Tracer
from petct.channels import ClipHU, OrganEncoding, build_channels
from petct.errors import CaseError
from petct.folders import find_files
from petct.geometry import grid_of, resample_labels, to_array, to_image
from petct.labels import Label
from petct.organs import collapse
from petct.scan_files import CaseFile
from training.datasets.descriptions import LESION_DATASETS, ORGAN_DATASET_ID
from training.datasets.organ_images import organ_training_pair
from training.datasets.sources import (
    Sources,
    digests_of,
    read_named_scan,
    read_named_truth,
    scan_files,
    truth_file,
)

FILE_ENDING = ".mha"


@dataclass(frozen=True)
class PatientInputs:
    """What a patient's cases of a data set are made of.

    Attributes:
        digests: sha256 of each input file, by what it is to the data set.
        is_corrected: Whether the truth is a corrected annotation.
        has_computed_organs: Whether an organ map that is used was computed.
    """

    digests: Mapping[str, str]
    is_corrected: bool
    has_computed_organs: bool


def patient_inputs(patient: Path, *, number: int, sources: Sources) -> PatientInputs:
    """What a patient's cases would be made of now; nothing is written.

    Args:
        patient: The patient's folder.
        number: Data set number.
        sources: Where corrected annotations and computed organ maps are.

    Raises:
        CaseError: A file is missing or doubled.
    """
    if number == ORGAN_DATASET_ID:
        scans = find_files(patient).values()  # an organ network does not learn from another one's maps
        both: dict[str, str] = {}
        for scan in scans:
            both |= digests_of({"ct": scan.ct, "organs": scan.organs}, tracer=scan.tracer)
        return PatientInputs(both, is_corrected=False, has_computed_organs=False)
    dataset = LESION_DATASETS[number]
    files, is_computed = scan_files(patient, tracer=dataset.tracer, sources=sources)
    truth, is_corrected = truth_file(patient, number=number, sources=sources)
    has_organs = dataset.encoding is not OrganEncoding.NONE
    used: dict[str, CaseFile | None] = {"pet": files.pet, "ct": files.ct, "threshold": files.threshold, "truth": truth}
    if has_organs:
        used["organs"] = files.organs
    digests = digests_of(used, tracer=dataset.tracer)
    return PatientInputs(digests, is_corrected=is_corrected, has_computed_organs=has_organs and is_computed)


def write_patient(patient: Path, *, number: int, sources: Sources, clip: ClipHU | None, folder: Path) -> PatientInputs:
    """Write a patient's cases into the folder of a raw data set.

    Args:
        patient: The patient's folder.
        number: Data set number.
        sources: Where corrected annotations and computed organ maps are.
        clip: What to clip the CT to, or None.
        folder: With imagesTr and labelsTr.

    Raises:
        CaseError: A file is missing or breaks a rule.
    """
    if number == ORGAN_DATASET_ID:
        for tracer in Tracer:
            _write_organ_case(patient, tracer=tracer, folder=folder)
    else:
        _write_lesion_case(patient, number=number, sources=sources, clip=clip, folder=folder)
    return patient_inputs(patient, number=number, sources=sources)


def _write_lesion_case(patient: Path, *, number: int, sources: Sources, clip: ClipHU | None, folder: Path) -> None:
    dataset = LESION_DATASETS[number]
    files, _ = scan_files(patient, tracer=dataset.tracer, sources=sources)
    scan = read_named_scan(files, patient=patient.name)
    grid = grid_of(scan.pet)
    truth_at, _ = truth_file(patient, number=number, sources=sources)
    truth = read_named_truth(truth_at, scan=scan, patient=patient.name)
    organs = None
    if dataset.encoding is not OrganEncoding.NONE:
        organs = collapse(to_array(resample_labels(_organs(scan, patient=patient.name), grid)))
    channels = build_channels(
        scan.pet, ct=scan.ct, organs=organs, suv_threshold=scan.suv_threshold, encoding=dataset.encoding, clip=clip
    )
    for index, channel in enumerate(channels):
        _write(to_image(channel, grid), folder / "imagesTr" / f"{patient.name}_{index:04d}{FILE_ENDING}")
    labels = training_labels(to_array(truth), pet_suv=to_array(scan.pet), suv_threshold=scan.suv_threshold)
    _write(to_image(labels, grid), folder / "labelsTr" / f"{patient.name}{FILE_ENDING}")


def training_labels(
    truth: npt.NDArray[np.integer], *, pet_suv: npt.NDArray[np.floating], suv_threshold: float
) -> npt.NDArray[np.uint8]:
    """The challenge's labels: ttb where the physician drew, normal where else the PET is at or above the threshold.

    Args:
        truth: The physician's mask, (z, y, x).
        pet_suv: PET in SUV, same shape.
        suv_threshold: SUV threshold.

    Returns:
        `Label` values, same shape.
    """
    return np.select([truth > 0, pet_suv >= suv_threshold], [Label.TTB, Label.NORMAL], Label.BACKGROUND).astype(
        np.uint8
    )


def _write_organ_case(patient: Path, *, tracer: Tracer, folder: Path) -> None:
    scan = read_named_scan(find_files(patient)[tracer], patient=patient.name)
    ct, labels = organ_training_pair(scan.ct, organs=_organs(scan, patient=patient.name))
    name = f"{patient.name}_{tracer.value}"
    _write(ct, folder / "imagesTr" / f"{name}_0000{FILE_ENDING}")
    _write(labels, folder / "labelsTr" / f"{name}{FILE_ENDING}")


def _organs(scan: Scan, *, patient: str) -> sitk.Image:
    if scan.organs is None:
        raise CaseError(f"{patient} {scan.tracer}", "organ map totseg_24.nii.gz is missing")
    return scan.organs


def _write(image: sitk.Image, path: Path) -> None:
    # Uncompressed: nnU-Net reads these once, and compressing ten channels costs more than anything else here.
    sitk.WriteImage(image, str(path), useCompression=False)
