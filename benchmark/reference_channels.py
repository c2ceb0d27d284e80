"""A scan and its channels as a user of nnU-Net's command line makes them: whole images, by SimpleITK's functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from petct.case import Tracer
from petct.channels import SOFT_TAU_MM, ClipHU, OrganEncoding
from petct.checks import check_threshold
from petct.errors import CaseError
from petct.folders import find_files
from petct.geometry import AIR_HU, grid_of, to_array, to_image
from petct.organs import Organ, collapse
from petct.scan_files import ScanFiles, read_json
from petct.stages import stage

CASE_ID = "case"  # nnU-Net's name of the scan in its folders


@dataclass(frozen=True)
class ReferenceScan:
    """One scan as it was read, and its organs on the PET's grid.

    Attributes:
        pet: PET in SUV.
        ct: CT in HU, on its own grid.
        labels: TotalSegmentator labels on the PET's grid.
        organs: `Organ` values and 0 on the PET's grid.
        suv_threshold: SUV at or above which a voxel may be disease.
    """

    pet: sitk.Image
    ct: sitk.Image
    labels: sitk.Image
    organs: sitk.Image
    suv_threshold: float


def read_scans(folder: Path) -> dict[Tracer, ReferenceScan]:
    """Read both scans of a case, without the checks that the product makes.

    Raises:
        CaseError: A file is missing, or the case brings no organ maps.
    """
    return {tracer: _read_scan(files) for tracer, files in find_files(folder).items()}


def write_channels(
    scan: ReferenceScan, *, encoding: OrganEncoding, clip: ClipHU | None, folder: Path, file_ending: str
) -> None:
    """Write one nnU-Net input folder: PET / threshold, CT, and the organs as the encoding shows them.

    Args:
        scan: The scan.
        encoding: How the member sees the organs.
        clip: Limits of the CT in HU, or None.
        folder: Made here.
        file_ending: Of the files, as the data set names it.
    """
    folder.mkdir(parents=True)
    images = _channels(scan, encoding=encoding, clip=clip)
    number = 0
    while True:
        with stage("channels"):
            image = next(images, None)
        if image is None:
            return
        with stage("write_channels"):
            sitk.WriteImage(image, str(folder / f"{CASE_ID}_{number:04d}{file_ending}"), useCompression=True)
        number += 1


def _channels(scan: ReferenceScan, *, encoding: OrganEncoding, clip: ClipHU | None) -> Iterator[sitk.Image]:
    yield sitk.Cast(scan.pet, sitk.sitkFloat32) / scan.suv_threshold
    ct = sitk.Resample(scan.ct, scan.pet, sitk.Transform(), sitk.sitkLinear, AIR_HU, sitk.sitkFloat32)
    yield ct if clip is None else sitk.Clamp(ct, sitk.sitkFloat32, clip.low_hu, clip.high_hu)
    if encoding is not OrganEncoding.NONE:
        for organ in Organ:
            mask = scan.organs == int(organ)
            yield mask if encoding is OrganEncoding.BINARY else _soft_distance(mask)


def _soft_distance(mask: sitk.Image) -> sitk.Image:
    if not to_array(mask).any():  # a distance to nothing
        empty: sitk.Image = sitk.Cast(mask, sitk.sitkFloat32)
        return empty
    distance_mm = sitk.SignedMaurerDistanceMap(mask, insideIsPositive=True, squaredDistance=False, useImageSpacing=True)
    soft: sitk.Image = sitk.Sigmoid(distance_mm, alpha=SOFT_TAU_MM, beta=0.0, outputMaximum=1.0, outputMinimum=0.0)
    return soft


def _read_scan(files: ScanFiles) -> ReferenceScan:
    if files.organs is None:
        raise CaseError(f"{files.tracer.name} organs", "organ map must come with the case")
    pet = sitk.ReadImage(str(files.pet.path))
    labels = sitk.ReadImage(str(files.organs.path))
    labels = sitk.Resample(labels, pet, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0, sitk.sitkUInt8)
    return ReferenceScan(
        pet=pet,
        ct=sitk.ReadImage(str(files.ct.path)),
        labels=labels,
        organs=to_image(collapse(to_array(labels)), grid_of(pet)),
        suv_threshold=check_threshold(read_json(files.threshold), where=files.threshold.where),
    )
