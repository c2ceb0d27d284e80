"""A case in a folder: the training set's layout, and telling it from the platform's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from petct.case import Case, Tracer
from petct.errors import CaseError, one_line
from petct.geometry import grid_of, to_array
from petct.images import IMAGE_SUFFIXES, check_regular, read_image
from petct.plausible import check_ct_shows_something
from petct.scan_files import CaseFile, ScanFiles, read_scan
from petct.sockets import find_socket_files, is_platform_layout

log = logging.getLogger(__name__)

SCAN_FOLDERS = {Tracer.PSMA: "PSMA", Tracer.FDG: "FDG"}
THRESHOLD_NAME = "threshold.json"
TRUTH_STEM = "TTB"
CORRECTED_STEM = "TTB_fixed"  # a corrected annotation, beside the original


def read_case(folder: Path, *, found: Callable[[Mapping[Tracer, ScanFiles]], None] | None = None) -> Case:
    """Read and check a case in the platform's layout or the training set's, whichever the folder holds.

    Args:
        folder: The platform's input folder, or one patient's folder with PSMA/ and FDG/. It may be a link.
        found: Told of the files before any of them is read.

    Returns:
        The case, named after its folder.

    Raises:
        CaseError: The folder holds neither layout or both, or a file is missing or breaks a rule.
    """
    files = find_files(folder)
    if found is not None:
        found(files)
    # Unpacking is most of reading, and two threads unpack side by side.
    with ThreadPoolExecutor(len(Tracer)) as threads:
        psma, fdg = threads.map(read_scan, (files[Tracer.PSMA], files[Tracer.FDG]))
    for scan in (psma, fdg):
        check_ct_shows_something(scan.ct, where=files[scan.tracer].ct.where)
    if _is_same_image(psma.pet, fdg.pet):
        where, other = files[Tracer.FDG].pet.where, files[Tracer.PSMA].pet.where
        log.warning("%s: must not be %s once more, voxel for voxel; is it the right file?", where, other)
    return Case(name=one_line(folder.name or folder.resolve().name), psma=psma, fdg=fdg)


def _is_same_image(image: sitk.Image, other: sitk.Image) -> bool:
    if grid_of(image) != grid_of(other) or image.GetPixelID() != other.GetPixelID():
        return False
    return bool(np.array_equal(to_array(image), to_array(other)))


def find_files(folder: Path) -> dict[Tracer, ScanFiles]:
    """The files of both scans, in either layout; no image is opened.

    Raises:
        CaseError: The folder cannot be read, holds neither layout or both, or a file is missing or doubled.
    """
    try:
        return _find_files(folder)
    except OSError as error:  # in a container, folders often belong to somebody else
        raise CaseError(str(folder), "input must be readable", str(error)) from error


def _find_files(folder: Path) -> dict[Tracer, ScanFiles]:
    if not folder.is_dir():
        raise CaseError(str(folder), "input must be a folder", "nothing" if not folder.exists() else "a file")
    is_training = any((folder / name).is_dir() for name in SCAN_FOLDERS.values())
    is_platform = is_platform_layout(folder)
    if is_training and is_platform:
        rule = "input must hold one case, in the platform's layout or the training set's"
        raise CaseError(str(folder), rule, "both")
    if is_platform:
        return find_socket_files(folder)
    if is_training:
        return {tracer: _scan_files(folder, tracer) for tracer in Tracer}
    held = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    rule = "input must hold inputs.json and images/, or PSMA/ and FDG/"
    raise CaseError(str(folder), rule, ", ".join(held[:5]) if held else "an empty folder")


def _scan_files(folder: Path, tracer: Tracer) -> ScanFiles:
    """One scan of the training set's layout. TTB (the truth) and rigid.tfm are left alone: the method uses neither."""
    scan = SCAN_FOLDERS[tracer]
    threshold = folder / scan / THRESHOLD_NAME
    files = ScanFiles(
        tracer=tracer,
        pet=_required_image(folder, f"{scan}/PET"),
        ct=_required_image(folder, f"{scan}/CT"),
        organs=find_image(folder, f"{scan}/totseg_24"),
        threshold=CaseFile(threshold, f"{scan}/{THRESHOLD_NAME}"),
    )
    check_regular(threshold, where=files.threshold.where)
    if not threshold.exists():
        raise CaseError(files.threshold.where, "file is missing")
    return files


def _required_image(folder: Path, stem: str) -> CaseFile:
    image = find_image(folder, stem)
    if image is None:
        raise CaseError(f"{stem}.nii.gz", "file is missing")
    return image


def find_image(folder: Path, stem: str) -> CaseFile | None:
    """The image of a patient by its place without the file format (`PSMA/PET`), or None.

    Raises:
        CaseError: There is one in more than one format, or no regular file in its place.
    """
    for suffix in IMAGE_SUFFIXES:
        check_regular(folder / (stem + suffix), where=stem + suffix)
    names = [stem + suffix for suffix in IMAGE_SUFFIXES if (folder / (stem + suffix)).is_file()]
    if len(names) > 1:
        raise CaseError(stem, "must be one file", ", ".join(names))
    return CaseFile(folder / names[0], names[0]) if names else None


def read_truth(folder: Path, tracer: Tracer) -> sitk.Image:
    """A physician's mask of a patient in the training set's layout (`PSMA/TTB.nii.gz`).

    Raises:
        CaseError: The file is missing or unreadable.
    """
    truth = _required_image(folder, f"{SCAN_FOLDERS[tracer]}/{TRUTH_STEM}")
    return read_image(truth.path, where=truth.where)
