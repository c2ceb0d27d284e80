"""Patients' traits as columns of numbers, over which folds are balanced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from petct.case import Tracer
from training.folds.patient_traits import PatientTraits

SPREAD_WEIGHT = 0.5  # of a volume's spread, beside 1 of the volume itself


@dataclass(frozen=True)
class Trait:
    """One column.

    Attributes:
        name: What it is, with its unit.
        values: One number per patient; nan where it is unknown, which counts as average.
        weight: Its part in the sum that is made small.
        is_log: Whether the values are ln(1 + x) of what the name says; a table shows x.
    """

    name: str
    values: tuple[float, ...]
    weight: float = 1.0
    is_log: bool = False


def traits_of(patients: Sequence[PatientTraits], *, folds: int) -> tuple[Trait, ...]:
    """The columns of patients, in the order of the patients.

    Volumes and counts reach over three decades, so that one patient would decide a mean: their logarithms are taken. Of
    volumes the spread is balanced too (squared distance from the mean in standard deviations): a fold of middling
    patients only has the right mean, and is wrong. A scanner's grid counts by the size of its voxels, and as a class of
    its own when there are enough patients for every fold to get one; the classes share the weight of one trait.

    Args:
        patients: The patients.
        folds: Number of folds.
    """
    traits: list[Trait] = []
    for tracer in Tracer:
        name = tracer.name
        scans = [patient.scan(tracer) for patient in patients]
        volume = [scan.ttb_ml for scan in scans]
        shares = [np.nan if scan.alone_share is None else scan.alone_share for scan in scans]
        traits += [
            _log_trait(f"{name} TTB, mL", volume),
            Trait(f"{name} TTB spread", _squared_distance(np.log1p(volume)), weight=SPREAD_WEIGHT),
            _log_trait(f"{name} lesions", [scan.lesions for scan in scans]),
            _log_trait(f"{name} voxel, mm3", [1000.0 * scan.voxel_ml for scan in scans]),
            Trait(f"{name}-only patient", tuple(float(patient.is_alone(tracer)) for patient in patients)),
            Trait(f"{name}-only share", tuple(shares)),
        ]
        common = [grid for grid, count in Counter(scan.grid for scan in scans).items() if count >= folds]
        traits += [
            Trait(f"{name} {grid}", tuple(float(scan.grid == grid) for scan in scans), weight=1.0 / len(common))
            for grid in sorted(common)
        ]
    return tuple(traits)


def standardised(trait: Trait) -> npt.NDArray[np.float64] | None:
    """A column with mean 0 and standard deviation 1, unknown values 0; None when all that are known are equal."""
    values = np.array(trait.values, dtype=float)
    known = values[~np.isnan(values)]
    if not known.size or np.ptp(known) == 0.0:
        return None
    scaled: npt.NDArray[np.float64] = np.nan_to_num((values - known.mean()) / known.std())
    return scaled


def _log_trait(name: str, values: Sequence[float]) -> Trait:
    return Trait(name, tuple(np.log1p(values).tolist()), is_log=True)


def _squared_distance(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    deviation = values.std() or 1.0
    return tuple((((values - values.mean()) / deviation) ** 2).tolist())
