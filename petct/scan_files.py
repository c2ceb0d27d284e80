"""The files that make up one scan, whichever layout they come from, and reading them into a checked scan."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from petct.case import Scan, Tracer
from petct.checks import check_ct, check_organs, check_overlap, check_pet, check_threshold
from petct.errors import CaseError, shown
from petct.images import check_regular, read_image
from petct.plausible import check_units, warn_of_other_tracer

_MOST_JSON_BYTES = 1 << 22  # inputs.json has about 10 KB; parsed, it takes up to thirty times its length


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
    check_units(pet, ct=ct, where=files.pet.where)
    organs = None
    if files.organs is not None:
        labels = read_image(files.organs.path, where=files.organs.where)
        organs = check_organs(labels, ct=ct, where=files.organs.where, ct_where=files.ct.where)
        warn_of_other_tracer(pet, organs=organs, tracer=files.tracer, where=files.pet.where)
    return Scan(tracer=files.tracer, pet=pet, ct=ct, organs=organs, suv_threshold=suv_threshold)


def read_json(file: CaseFile) -> object:
    """The content of a JSON file.

    Raises:
        CaseError: It cannot be read, is too long, is not JSON in UTF-8, or gives a key of an object twice.
    """
    try:
        check_regular(file.path, where=file.where)  # a pipe that nobody writes to would be waited for
        with file.path.open("rb") as stream:
            text = stream.read(_MOST_JSON_BYTES + 1)
        if len(text) > _MOST_JSON_BYTES:
            raise CaseError(file.where, f"file must have at most {_MOST_JSON_BYTES >> 20} MiB", "more")
        content: object = json.loads(text.decode("utf-8-sig"), object_pairs_hook=_object_of)
    except CaseError:
        raise
    except _KeyTwiceError as error:
        raise CaseError(file.where, "an object must not hold a key twice", shown(str(error))) from error
    # ValueError: not JSON, not UTF-8, a number of thousands of digits. RecursionError: thousands of brackets.
    except (OSError, ValueError, RecursionError) as error:
        raise CaseError(file.where, "file must be JSON in UTF-8", f"{type(error).__name__}: {error}"[:120]) from error
    return content


class _KeyTwiceError(Exception):
    """A key that is in an object twice; readers differ in which one counts."""


def _object_of(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content: dict[str, object] = {}
    for key, value in pairs:
        if key in content:
            raise _KeyTwiceError(key)
        content[key] = value
    return content
