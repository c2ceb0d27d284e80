"""How much memory one case takes, from the headers of the largest, so that processes can be counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import SimpleITK as sitk

from petct.channels import OrganEncoding, channel_names
from petct.errors import CaseError
from petct.folders import SCAN_FOLDERS, find_image

PROCESS_BYTES = 600 << 20  # Python with numpy, scipy and SimpleITK; nnU-Net's workers bring torch along
FLOAT_BYTES = 4


def largest_voxels(patients: Sequence[Path]) -> tuple[int, int]:
    """Voxels of the largest PET and of the largest CT; 0 where no header can be read. No voxel is."""
    pet = ct = 0
    for patient in patients:
        for name in SCAN_FOLDERS.values():
            pet, ct = max(pet, _voxels(patient, f"{name}/PET")), max(ct, _voxels(patient, f"{name}/CT"))
    return pet, ct


def checking_bytes(patients: Sequence[Path]) -> int:
    """Peak memory of checking the largest patient: PET, truth, CT and organ map with a copy of the larger ones."""
    pet, ct = largest_voxels(patients)
    return PROCESS_BYTES + pet * 4 * FLOAT_BYTES + ct * 3 * FLOAT_BYTES


def writing_bytes(patients: Sequence[Path], *, encoding: OrganEncoding) -> int:
    """Peak memory of writing the largest case: all channels, three arrays of the PET's size, CT and organ map."""
    pet, ct = largest_voxels(patients)
    return PROCESS_BYTES + pet * (len(channel_names(encoding)) + 4) * FLOAT_BYTES + ct * 2 * FLOAT_BYTES


def preprocessing_bytes(patients: Sequence[Path], *, channels: int) -> int:
    """Peak memory of nnU-Net on the largest case: it reads, stacks, copies, crops and resamples all channels."""
    pet, _ = largest_voxels(patients)
    return 2 * PROCESS_BYTES + pet * 4 * (channels + 1) * FLOAT_BYTES


def _voxels(patient: Path, stem: str) -> int:
    try:
        file = find_image(patient, stem)
        if file is None:
            return 0
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(file.path))
        reader.ReadImageInformation()
        return math.prod(reader.GetSize())
    except (CaseError, RuntimeError):  # a broken file is the check's to name
        return 0
