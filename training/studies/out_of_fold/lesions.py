"""FDG lesions before refinement, with what the classifier sees of them and what the truth says: one CSV per patient."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from inference import Segmented
from petct.errors import CaseError
from petct.written_whole import written_whole
from postprocessing.lesions import Lesion, label_lesions, measure_lesions
from postprocessing.refine import Features, features_of, labels_with_disease
from postprocessing.shapes import require_shape

COLUMNS = (
    "case", "fold", "lesion", "psma_present", "log_volume", "suv_max", "volume_ml", "labels", "is_disease",
    "overlap_ml", "voxels", "suv_mean", "centre_z", "centre_y", "centre_x",
)  # fmt: skip


@dataclass(frozen=True)
class JudgedLesion:
    """An FDG lesion that networks found in a patient whom they had not seen.

    Attributes:
        case: The patient.
        fold: The fold whose networks found it.
        lesion: The lesion, before refinement.
        psma_present: Whether the final PSMA mask shows disease in a label that it touches.
        overlap_ml: How much of it is true disease, in mL.
    """

    case: str
    fold: int
    lesion: Lesion
    psma_present: bool
    overlap_ml: float

    @property
    def is_disease(self) -> bool:
        """Whether it touches true disease: what the classifier is to tell."""
        return self.overlap_ml > 0.0

    @property
    def features(self) -> Features:
        """What the classifier sees of it."""
        return features_of(self.lesion, psma_present=self.psma_present)


def judge_lesions(
    fdg: Segmented, *, psma: Segmented, truth: npt.NDArray[np.bool_], case: str, fold: int
) -> tuple[JudgedLesion, ...]:
    """Every lesion of an FDG mask before refinement.

    Args:
        fdg: FDG before refinement.
        psma: The final PSMA mask.
        truth: True FDG disease, (z, y, x).
        case: The patient.
        fold: The fold whose networks made both masks.

    Raises:
        ValueError: The truth has another shape.
    """
    require_shape(fdg.ttb.shape, truth=truth)
    numbered, count = label_lesions(fdg.ttb)
    true_voxels = np.bincount(numbered[fdg.ttb & truth], minlength=count + 1)
    diseased = labels_with_disease(psma.ttb, labels=psma.labels)
    measured = measure_lesions(numbered, pet_suv=fdg.pet_suv, labels=fdg.labels, voxel_ml=fdg.grid.voxel_ml)
    return tuple(
        JudgedLesion(
            case=case,
            fold=fold,
            lesion=lesion,
            psma_present=not lesion.labels.isdisjoint(diseased),
            overlap_ml=int(true_voxels[lesion.number]) * fdg.grid.voxel_ml,
        )
        for lesion in measured
    )


def lesion_row(judged: JudgedLesion) -> list[str]:
    """A lesion as a line of CSV under `COLUMNS`; numbers have all their digits, labels are separated by spaces."""
    lesion, features = judged.lesion, judged.features
    z, y, x = lesion.centre_zyx
    values: tuple[object, ...] = (
        judged.case, judged.fold, lesion.number, int(judged.psma_present), features.log_volume, lesion.suv_max,
        lesion.volume_ml, " ".join(map(str, sorted(lesion.labels))), int(judged.is_disease), judged.overlap_ml,
        lesion.voxels, lesion.suv_mean, z, y, x,
    )  # fmt: skip
    return [str(value) for value in values]


def write_lesions(path: Path, lesions: Iterable[JudgedLesion]) -> None:
    """Write lesions as CSV; whole or not at all."""
    with written_whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        writer.writerows(lesion_row(lesion) for lesion in lesions)


def read_lesions(path: Path, *, where: str) -> tuple[JudgedLesion, ...]:
    """Read what `write_lesions` wrote.

    Args:
        path: The CSV file.
        where: The file, as the user knows it.

    Raises:
        CaseError: The file is missing, its columns are not `COLUMNS`, or a line is not a lesion.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            header, *rows = list(csv.reader(stream)) or [[]]
    except FileNotFoundError as error:
        raise CaseError(where, "file is missing; `python -m training predict-oof` writes it") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CaseError(where, "file must be CSV in UTF-8", str(error)[:120]) from error
    if tuple(header) != COLUMNS:
        raise CaseError(where, f"columns must be {', '.join(COLUMNS)}", ", ".join(header)[:200] or "none")
    return tuple(_lesion(row, where=f"{where} line {line}") for line, row in enumerate(rows, start=2))


def _lesion(row: Sequence[str], *, where: str) -> JudgedLesion:
    try:
        value = dict(zip(COLUMNS, row, strict=True))
        lesion = Lesion(
            number=int(value["lesion"]),
            voxels=int(value["voxels"]),
            volume_ml=float(value["volume_ml"]),
            suv_max=float(value["suv_max"]),
            suv_mean=float(value["suv_mean"]),
            labels=frozenset(int(label) for label in value["labels"].split()),
            centre_zyx=(float(value["centre_z"]), float(value["centre_y"]), float(value["centre_x"])),
        )
        numbers = (lesion.volume_ml, lesion.suv_max, float(value["overlap_ml"]))
        if not all(np.isfinite(number) and number >= 0.0 for number in numbers):
            raise ValueError("volume, SUVmax and overlap must be finite and >= 0")
        return JudgedLesion(
            case=value["case"],
            fold=int(value["fold"]),
            lesion=lesion,
            psma_present=bool(int(value["psma_present"])),
            overlap_ml=float(value["overlap_ml"]),
        )
    except ValueError as error:
        raise CaseError(where, "line must be a lesion as predict-oof writes it", str(error)[:120]) from error
