"""FDG lesions kept or dropped by what PSMA shows in the same anatomy, by their size and by their uptake."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from petct.manifest import Refinement
from petct.organs import totalsegmentator_labels
from postprocessing.lesions import Lesion, label_lesions, measure_lesions
from postprocessing.shapes import require_shape

log = logging.getLogger(__name__)

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.integer]


class Reason(StrEnum):
    """Why a lesion is kept, or dropped; the rules are asked in this order."""

    UNLABELLED = "touches no labelled anatomy"
    LARGE = "large"
    SUPPORTED = "supported by the classifier"
    UNSUPPORTED = "not supported by the classifier"


@dataclass(frozen=True)
class Features:
    """What the classifier sees of an FDG lesion; the names are those of the manifest's coefficients.

    Attributes:
        psma_present: 1 when PSMA shows disease in a label that the lesion touches, else 0.
        log_volume: Natural logarithm of (volume in mL + 1).
        suv_max: SUVmax.
    """

    psma_present: float
    log_volume: float
    suv_max: float


@dataclass(frozen=True)
class Decision:
    """What became of one FDG lesion.

    Attributes:
        lesion: The lesion.
        psma_present: Whether PSMA shows disease in a label that the lesion touches.
        probability: The classifier's p, whether or not it decided.
        reason: The rule that decided.
    """

    lesion: Lesion
    psma_present: bool
    probability: float
    reason: Reason

    @property
    def kept(self) -> bool:
        """Whether the lesion stays in the mask."""
        return self.reason is not Reason.UNSUPPORTED


@dataclass(frozen=True)
class Refined:
    """The refined FDG mask and how it came about.

    Attributes:
        mask: The lesions that were kept, (z, y, x).
        decisions: One per lesion, in the order of their numbers.
    """

    mask: Mask
    decisions: tuple[Decision, ...]


def refine(
    fdg_ttb: Mask,
    *,
    fdg_suv: npt.NDArray[np.floating],
    fdg_labels: Labels,
    psma_ttb: Mask,
    psma_labels: Labels,
    refinement: Refinement,
    voxel_ml: float,
) -> Refined:
    """Drop the FDG lesions that neither PSMA, nor their size and uptake, nor a rule support.

    A lesion that touches no labelled anatomy is kept if the manifest says so; one above the manifest's volume is kept;
    any other is kept when the classifier's p reaches the manifest's limit. The scans meet in anatomy only, so their
    grids may differ.

    Args:
        fdg_ttb: FDG disease, (z, y, x).
        fdg_suv: FDG PET in SUV, same shape.
        fdg_labels: TotalSegmentator labels on the FDG PET's grid, same shape.
        psma_ttb: The final PSMA disease, (z, y, x) of the PSMA PET.
        psma_labels: TotalSegmentator labels on the PSMA PET's grid, same shape as `psma_ttb`.
        refinement: Coefficients and rules.
        voxel_ml: Volume of an FDG PET voxel in mL.

    Returns:
        The mask without the dropped lesions, and all decisions; an empty mask gives an empty one and no decisions.

    Raises:
        ValueError: Arrays of one scan differ in shape.
    """
    require_shape(fdg_ttb.shape, fdg_suv=fdg_suv, fdg_labels=fdg_labels)
    diseased = labels_with_disease(psma_ttb, labels=psma_labels)
    lesions, count = label_lesions(fdg_ttb)
    decisions = tuple(
        decide(lesion, psma_diseased=diseased, refinement=refinement)
        for lesion in measure_lesions(lesions, pet_suv=fdg_suv, labels=fdg_labels, voxel_ml=voxel_ml)
    )
    keep = np.zeros(count + 1, dtype=bool)
    keep[[decision.lesion.number for decision in decisions if decision.kept]] = True
    mask = fdg_ttb.copy()
    # Only the lesions' voxels are looked up: numpy turns an index array into int64, eight times the mask's own memory.
    mask[fdg_ttb] = keep[lesions[fdg_ttb]]
    _report(decisions, refinement=refinement)
    return Refined(mask=mask, decisions=decisions)


def labels_with_disease(ttb: Mask, *, labels: Labels) -> frozenset[int]:
    """The labels, without 0, in which at least one voxel of a disease mask lies.

    Args:
        ttb: Disease, (z, y, x).
        labels: TotalSegmentator labels, same shape.

    Raises:
        ValueError: The shapes differ.
    """
    require_shape(ttb.shape, labels=labels)
    return frozenset(int(label) for label in np.unique(labels[ttb])) - {0}


def features_of(lesion: Lesion, *, psma_present: bool) -> Features:
    """The features of an FDG lesion, for fitting the classifier and for using it."""
    return Features(
        psma_present=float(psma_present), log_volume=float(np.log1p(lesion.volume_ml)), suv_max=lesion.suv_max
    )


def probability_of(features: Features, *, refinement: Refinement) -> float:
    """The classifier's p that a lesion is disease, in [0, 1]."""
    return float(
        expit(
            refinement.psma_present * features.psma_present
            + refinement.log_volume * features.log_volume
            + refinement.suv_max * features.suv_max
            + refinement.intercept
        )
    )


def decide(lesion: Lesion, *, psma_diseased: frozenset[int], refinement: Refinement) -> Decision:
    """Keep or drop one FDG lesion.

    Args:
        lesion: The FDG lesion.
        psma_diseased: Labels in which PSMA shows disease.
        refinement: Coefficients and rules.
    """
    psma_present = not lesion.labels.isdisjoint(psma_diseased)
    probability = probability_of(features_of(lesion, psma_present=psma_present), refinement=refinement)
    if refinement.keep_unlabelled and not lesion.labels:
        reason = Reason.UNLABELLED
    elif lesion.volume_ml > refinement.keep_above_ml:
        reason = Reason.LARGE
    elif probability >= refinement.keep_probability:
        reason = Reason.SUPPORTED
    else:
        reason = Reason.UNSUPPORTED
    return Decision(lesion=lesion, psma_present=psma_present, probability=probability, reason=reason)


def _report(decisions: tuple[Decision, ...], *, refinement: Refinement) -> None:
    names = totalsegmentator_labels()
    dropped = [decision for decision in decisions if not decision.kept]
    for decision in dropped:
        lesion = decision.lesion
        anatomy = ", ".join(names.get(label, f"label {label}") for label in sorted(lesion.labels))
        z, y, x = (round(index) for index in lesion.centre_zyx)
        log.info(
            "FDG refine: lesion %d dropped, p %.3f < %g: %s PSMA disease in %s, volume %.2f mL, SUVmax %.2f, "
            "centre at voxel (%d, %d, %d) (x, y, z)",
            lesion.number,
            decision.probability,
            refinement.keep_probability,
            "with" if decision.psma_present else "no",
            anatomy or "no labelled anatomy",
            lesion.volume_ml,
            lesion.suv_max,
            x,
            y,
            z,
        )
    why = Counter(decision.reason for decision in decisions)
    log.info(
        "FDG refine: %d lesions, %d kept (%d by p >= %g, %d above %g mL, %d touching no labelled anatomy), "
        "%d dropped (%.2f mL)",
        len(decisions),
        len(decisions) - len(dropped),
        why[Reason.SUPPORTED],
        refinement.keep_probability,
        why[Reason.LARGE],
        refinement.keep_above_ml,
        why[Reason.UNLABELLED],
        len(dropped),
        sum(decision.lesion.volume_ml for decision in dropped),
    )
