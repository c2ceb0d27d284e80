"""The files that make up one scan, whichever layout they come from, and reading them into a checked scan."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from petct.case import Scan, Tracer
from petct.checks import check_ct, check_organs, check_overlap, check_pet, check_threshold
from petct.errors import CaseError
from petct.images import read_image


@dataclass(frozen=True)
class CaseFile:
    """An existing file of a case.

    Attributes:
        path: The file.
        where: How errors name it: its place in the case's folder (`FDG/CT.nii.gz`).
    """

    path: Path
    where: str


@dataclass(frozen=True)
class ScanFiles:
    """The files of one scan.

    Attributes:
        tracer: Which tracer.
        pet: PET in SUV.
        ct: CT in HU.
        organs: TotalSegmentator label map on the CT's grid, or None.
        threshold: JSON with the SUV threshold.
    """

    tracer: Tracer
    pet: CaseFile
    ct: CaseFile
    organs: CaseFile | None
    threshold: CaseFile


def read_scan(files: ScanFiles) -> Scan:
    """Read and check one scan, cheap checks first.

    Raises:
        CaseError: A file is unreadable or breaks a rule.
    """
    suv_threshold = check_threshold(read_json(files.threshold), where=files.threshold.where)
    pet = read_image(files.pet.path, where=files.pet.where)
    check_pet(pet, suv_threshold=suv_threshold, where=files.pet.where)
    ct = read_image(files.ct.path, where=files.ct.where)
    check_ct(ct, where=files.ct.where)
    check_overlap(ct, pet, where=files.ct.where, pet_where=files.pet.where)
    organs = None
    if files.organs is not None:
        labels = read_image(files.organs.path, where=files.organs.where)
        organs = check_organs(labels, ct=ct, where=files.organs.where, ct_where=files.ct.where)
    return Scan(tracer=files.tracer, pet=pet, ct=ct, organs=organs, suv_threshold=suv_threshold)


def read_json(file: CaseFile) -> object:
    """The content of a JSON file.

    Raises:
        CaseError: It cannot be read or is not JSON in UTF-8.
    """
    try:
        content: object = json.loads(file.path.read_text(encoding="utf-8-sig"))
    # ValueError: not JSON, not UTF-8, a number of thousands of digits. RecursionError: thousands of brackets.
    except (OSError, ValueError, RecursionError) as error:
        raise CaseError(file.where, "file must be JSON in UTF-8", f"{type(error).__name__}: {error}"[:120]) from error
    return content
