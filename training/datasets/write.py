"""nnU-Net's raw data sets, written from patients in the training set's layout."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from petct.case import Tracer
from petct.channels import OrganEncoding, build_channels, channel_names
from petct.errors import CaseError
from petct.folders import read_case, read_truth
from petct.geometry import check_same_grid, grid_of, resample_labels, to_array, to_image
from petct.labels import Label
from petct.organs import collapse
from training.datasets.descriptions import LESION_DATASETS, ORGAN_DATASET_ID, dataset_name
from training.datasets.organ_images import organ_training_labels, organ_training_pair

FILE_ENDING = ".mha"
log = logging.getLogger(__name__)


def write_dataset(number: int, *, patients: Sequence[Path], raw: Path, processes: int) -> Path:
    """Write one data set into nnU-Net's raw folder; whole or not at all.

    Args:
        number: Data set number.
        patients: Patient folders in the training set's layout, each with organ maps (`totseg_24.nii.gz`).
        raw: nnU-Net's `nnUNet_raw` folder.
        processes: Cases written at the same time.

    Returns:
        The data set's folder. One that is already there is left as it is.

    Raises:
        CaseError: A patient is broken, or has no organ map.
    """
    folder = raw / dataset_name(number)
    if folder.exists():
        log.info("%s is there already", folder.name)
        return folder
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    (part / "imagesTr").mkdir(parents=True)
    (part / "labelsTr").mkdir()
    write: Callable[..., int] = _write_organ_cases if number == ORGAN_DATASET_ID else _write_lesion_case
    try:
        with get_context("spawn").Pool(processes) as pool:
            jobs = [pool.apply_async(write, (number, patient, part)) for patient in patients]
            cases = 0
            for job, patient in zip(jobs, patients, strict=True):
                cases += job.get()
                log.info("%s: %s, %d cases so far", folder.name, patient.name, cases)
        _write_description(number, part, cases=cases)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _write_lesion_case(number: int, patient: Path, folder: Path) -> int:
    dataset = LESION_DATASETS[number]
    scan = read_case(patient).scan(dataset.tracer)
    grid = grid_of(scan.pet)
    truth = read_truth(patient, dataset.tracer)
    check_same_grid(grid_of(truth), grid, where=f"{patient.name} {dataset.tracer} TTB", name="the PET")
    organs = None
    if dataset.encoding is not OrganEncoding.NONE:
        if scan.organs is None:
            raise CaseError(f"{patient.name} {dataset.tracer}", "organ map totseg_24.nii.gz is missing")
        organs = collapse(to_array(resample_labels(scan.organs, grid)))
    channels = build_channels(
        scan.pet, ct=scan.ct, organs=organs, suv_threshold=scan.suv_threshold, encoding=dataset.encoding, clip=None
    )
    for index, channel in enumerate(channels):
        _write(to_image(channel, grid), folder / "imagesTr" / f"{patient.name}_{index:04d}{FILE_ENDING}")
    ttb = to_array(truth) > 0
    hot = to_array(scan.pet) >= scan.suv_threshold
    labels = np.select([ttb, hot], [Label.TTB, Label.NORMAL], Label.BACKGROUND).astype(np.uint8)
    _write(to_image(labels, grid), folder / "labelsTr" / f"{patient.name}{FILE_ENDING}")
    return 1


def _write_organ_cases(number: int, patient: Path, folder: Path) -> int:
    case = read_case(patient)
    for tracer in Tracer:
        scan = case.scan(tracer)
        if scan.organs is None:
            raise CaseError(f"{patient.name} {tracer}", "organ map totseg_24.nii.gz is missing")
        ct, labels = organ_training_pair(scan.ct, organs=scan.organs)
        name = f"{patient.name}_{tracer.value}"
        _write(ct, folder / "imagesTr" / f"{name}_0000{FILE_ENDING}")
        _write(labels, folder / "labelsTr" / f"{name}{FILE_ENDING}")
    return len(Tracer)


def _write(image: sitk.Image, path: Path) -> None:
    # Uncompressed: nnU-Net reads these once, and compressing ten channels costs more than anything else here.
    sitk.WriteImage(image, str(path), useCompression=False)


def _write_description(number: int, folder: Path, *, cases: int) -> None:
    if number == ORGAN_DATASET_ID:
        channels = ["CT"]
        labels = organ_training_labels()
    else:
        # nnU-Net chooses the normalisation by this name: CT as CT, everything else is left as it is.
        channels = ["CT" if name == "ct" else "noNorm" for name in channel_names(LESION_DATASETS[number].encoding)]
        labels = {label.name.lower(): int(label) for label in Label}
    description = {
        "channel_names": {str(index): name for index, name in enumerate(channels)},
        "labels": labels,
        "numTraining": cases,
        "file_ending": FILE_ENDING,
        "overwrite_image_reader_writer": "SimpleITKIO",
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=1), encoding="utf-8")
