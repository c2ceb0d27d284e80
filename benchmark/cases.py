"""The cases of the benchmark: phantoms of a fixed seed on the PET grids that real scanners make most, or largest."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from petct.case import Tracer
from petct.errors import CaseError
from petct.folders import find_files
from petct.scan_files import CaseFile
from segmentation.weight_files import sha256_of
from training.phantoms.population import write_patients
from training.phantoms.scanner import PetGrid, PetGrids, PhantomSize

log = logging.getLogger(__name__)

# Of the 200 real PETs in training/phantoms/pet_grids.json: the most common, the median, the two with the most voxels.
COMMON = PetGrid(spacing_mm_zyx=(3.27, 2.8646, 2.8646), shape_zyx=(335, 192, 192))
MEDIAN = PetGrid(spacing_mm_zyx=(3.27, 3.6458, 3.6458), shape_zyx=(335, 192, 192))
LARGEST_PSMA = PetGrid(spacing_mm_zyx=(3.0, 1.591, 1.591), shape_zyx=(352, 512, 512))
LARGEST_FDG = PetGrid(spacing_mm_zyx=(1.5, 4.1139, 4.1139), shape_zyx=(1206, 180, 180))
DEMO_SEED = 2000  # behind those that the demo networks were trained on
# Both of this patient's CTs are drawn with the thinnest slices, 2 mm: 547 x 512 x 512 voxels with the common grid.
CLINICAL_SEED = 5


class CaseName(StrEnum):
    """The cases that the benchmark makes itself."""

    DEMO = "demo"
    COMMON = "common"
    MEDIAN = "median"
    LARGEST_PSMA = "largest-psma"
    LARGEST_FDG = "largest-fdg"


_PET_GRIDS: Mapping[CaseName, PetGrids] = {
    CaseName.COMMON: {Tracer.PSMA: COMMON, Tracer.FDG: COMMON},
    CaseName.MEDIAN: {Tracer.PSMA: MEDIAN, Tracer.FDG: MEDIAN},
    CaseName.LARGEST_PSMA: {Tracer.PSMA: LARGEST_PSMA, Tracer.FDG: COMMON},
    CaseName.LARGEST_FDG: {Tracer.PSMA: COMMON, Tracer.FDG: LARGEST_FDG},
}


@dataclass(frozen=True)
class BenchmarkCase:
    """A case on the disk.

    Attributes:
        name: What tables call it.
        folder: Where it lies, absolute.
        sha256: Digest of all the files that a run reads.
        scans: Per tracer what images it has, for people: kind of image to shape and spacing.
    """

    name: str
    folder: Path
    sha256: str
    scans: Mapping[str, Mapping[str, Any]]


def make_case(name: CaseName, *, work: Path) -> BenchmarkCase:
    """Make a case, unless it is in the work folder from an earlier run.

    It is made by another process, so that this one, which starts and watches the runs, stays small.

    Args:
        name: Which case.
        work: The benchmark's work folder; made if missing.
    """
    seed = DEMO_SEED if name is CaseName.DEMO else CLINICAL_SEED
    folder = work / "cases" / name
    patient = folder / f"train_{seed:04d}"
    if not patient.is_dir():
        log.info("case %s: made from seed %d", name, seed)
        size = PhantomSize.DEMO if name is CaseName.DEMO else PhantomSize.CLINICAL
        write_patients([seed], size=size, folder=folder, processes=1, pet_grids=_PET_GRIDS.get(name))
    return describe_case(patient, name=str(name))


def describe_case(folder: Path, *, name: str) -> BenchmarkCase:
    """A case that is there already; no voxel is looked at.

    Args:
        folder: In the platform's or the training set's layout.
        name: What tables call it.

    Raises:
        CaseError: The folder holds no case, a header cannot be read, or there are no organ maps.
    """
    digest = hashlib.sha256()
    scans: dict[str, dict[str, Any]] = {}
    for tracer, files in find_files(folder).items():
        if files.organs is None:
            raise CaseError(f"{folder.name} {tracer.name}", "a case to measure must bring its organ maps")
        for file in (files.pet, files.ct, files.organs, files.threshold):
            digest.update(f"{file.where} {sha256_of(file.path)}\n".encode())
        scans[tracer.value] = {"pet": _grid(files.pet), "ct": _grid(files.ct)}
    return BenchmarkCase(name=name, folder=folder.resolve(), sha256=digest.hexdigest(), scans=scans)


def _grid(image: CaseFile) -> dict[str, list[float]]:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(image.path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise CaseError(image.where, "image must be readable", str(error).splitlines()[-1]) from error
    return {
        "shape_zyx": [int(size) for size in reader.GetSize()[::-1]],
        "spacing_mm_zyx": [round(float(spacing_mm), 4) for spacing_mm in reader.GetSpacing()[::-1]],
    }
