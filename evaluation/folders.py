"""The files of a judgement: folders of patients with the truth, and folders of predictions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from petct.case import Tracer
from petct.errors import CaseError
from petct.folders import SCAN_FOLDERS
from petct.images import IMAGE_SUFFIXES
from petct.output import mask_file
from petct.scan_files import CaseFile

PROBABILITY_NAME = "TTB_probability"


@dataclass(frozen=True)
class TruthFiles:
    """One scan to judge by.

    Attributes:
        case: The patient's folder name.
        tracer: Which of the patient's scans.
        truth: The true disease.
        pet: PET in SUV.
        organs: TotalSegmentator label map, on any grid of the same frame, or None.
    """

    case: str
    tracer: Tracer
    truth: CaseFile
    pet: CaseFile
    organs: CaseFile | None


@dataclass(frozen=True)
class PredictionFiles:
    """One run's prediction of a scan.

    Attributes:
        mask: The predicted disease.
        probability: Probability of disease on the PET's grid, or None.
    """

    mask: CaseFile
    probability: CaseFile | None


def find_patients(folder: Path) -> list[str]:
    """The patients of a folder by name, in order: every sub-folder that holds a PSMA or an FDG folder.

    Raises:
        CaseError: The folder is none, or holds no patient.
    """
    if not folder.is_dir():
        raise CaseError(str(folder), "must be a folder of patients", "a file" if folder.exists() else "nothing")
    names = [
        path.name
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and any((path / scan).is_dir() for scan in SCAN_FOLDERS.values())
    ]
    if not names:
        raise CaseError(str(folder), "must hold patients' folders with PSMA/ and FDG/", "none")
    return names


def find_truth(folder: Path, *, case: str, tracer: Tracer) -> TruthFiles:
    """The files to judge a scan by.

    Raises:
        CaseError: The truth or the PET is missing, or there in two formats.
    """
    scan = folder / case / SCAN_FOLDERS[tracer]
    return TruthFiles(
        case=case,
        tracer=tracer,
        truth=_required_image(scan, "TTB"),
        pet=_required_image(scan, "PET"),
        organs=_image(scan, "totseg_24"),
    )


def find_prediction(folder: Path, *, case: str, tracer: Tracer) -> PredictionFiles | None:
    """A run's files of a scan, in the training set's layout or as the container writes them; None when it has none.

    Raises:
        CaseError: The mask is there twice.
    """
    scan = folder / case / SCAN_FOLDERS[tracer]
    container = mask_file(folder / case, tracer)
    mask = _image(scan, "TTB")
    if mask is not None and container.is_file():
        raise CaseError(str(folder / case), f"{tracer} mask must be one file", f"{mask.path.name} and {container.name}")
    if mask is None and container.is_file():
        mask = CaseFile(container, str(container))
    return None if mask is None else PredictionFiles(mask=mask, probability=_image(scan, PROBABILITY_NAME))


def _required_image(scan: Path, stem: str) -> CaseFile:
    image = _image(scan, stem)
    if image is None:
        raise CaseError(str(scan / f"{stem}.nii.gz"), "file is missing")
    return image


def _image(scan: Path, stem: str) -> CaseFile | None:
    paths = [path for suffix in IMAGE_SUFFIXES if (path := scan / (stem + suffix)).is_file()]
    if len(paths) > 1:
        raise CaseError(str(scan / stem), "must be one file", ", ".join(path.name for path in paths))
    return CaseFile(paths[0], str(paths[0])) if paths else None
