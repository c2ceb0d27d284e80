"""How many bytes raw data sets will take, from headers, so that a disk that is too small is found before hours of work.

The raw files are not compressed: channels and voxels say it all.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import SimpleITK as sitk

from petct.case import Tracer
from petct.channels import channel_names
from petct.errors import CaseError
from petct.folders import SCAN_FOLDERS, find_image
from training.datasets.descriptions import LESION_DATASETS, ORGAN_DATASET_ID, dataset_name
from training.datasets.organ_images import ORGAN_SPACING_MM

FLOAT_BYTES = 4
LABEL_BYTES = 1
GB = 1e9


def check_disk_space(numbers: Sequence[int], *, patients: Sequence[Path], nnunet: Path) -> None:
    """Refuse to write raw data sets that the disk has no room for.

    A data set that is replaced stays until the new one is whole, and gives its room to those that come after it.

    Args:
        numbers: The data sets to write, in this order.
        patients: The patients' folders.
        nnunet: Folder of nnUNet_raw; need not be there yet.

    Raises:
        CaseError: Less is free than they take.
    """
    needed = taken = 0
    for number in numbers:
        taken += raw_bytes(number, patients=patients)
        needed = max(needed, taken)
        taken -= _held_bytes(nnunet / "nnUNet_raw" / dataset_name(number))
    there = next(folder for folder in (nnunet.absolute(), *nnunet.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        rule = f"{len(numbers)} raw data sets of {len(patients)} patients need {needed / GB:.3g} GB of free disk"
        raise CaseError(str(nnunet), rule, f"{free / GB:.3g} GB")


def raw_bytes(number: int, *, patients: Sequence[Path]) -> int:
    """What a raw data set takes, nearly: channels and labels of all cases; no voxel is read.

    Args:
        number: Data set number.
        patients: The patients' folders; what has no header that can be read counts nothing.
    """
    if number == ORGAN_DATASET_ID:
        coarse_mm3 = ORGAN_SPACING_MM**3
        volumes_mm3 = [_size(patient, f"{SCAN_FOLDERS[t]}/CT")[1] for patient in patients for t in Tracer]
        return sum(math.ceil(mm3 / coarse_mm3) for mm3 in volumes_mm3) * (FLOAT_BYTES + LABEL_BYTES)
    dataset = LESION_DATASETS[number]
    voxels = sum(_size(patient, f"{SCAN_FOLDERS[dataset.tracer]}/PET")[0] for patient in patients)
    return voxels * (len(channel_names(dataset.encoding)) * FLOAT_BYTES + LABEL_BYTES)


def _size(patient: Path, stem: str) -> tuple[int, float]:
    """Voxels and volume in mm3, by the header."""
    try:
        file = find_image(patient, stem)
        if file is None:
            return 0, 0.0
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(file.path))
        reader.ReadImageInformation()
    except (CaseError, RuntimeError):  # a broken file is the check's to name
        return 0, 0.0
    voxels = math.prod(reader.GetSize())
    return voxels, voxels * math.prod(reader.GetSpacing())


def _held_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
