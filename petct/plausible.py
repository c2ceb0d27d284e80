"""Whether uptake makes sense in a body: SUV or another unit, PSMA or FDG. Judged on a coarse grid, so in no time."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from petct.case import Tracer
from petct.errors import CaseError
from petct.geometry import grid_of, resample_ct, resample_labels, to_array
from petct.organs import Organ, labels_of

log = logging.getLogger(__name__)

# SUV is the uptake divided by what an even spread over the body would give, so its mean over a body is near 1: less
# what was excreted, what lies outside the scan, and decay that some scanners do not undo. Bq/mL is in the thousands.
BODY_MEAN_SUV = (0.02, 20.0)
USUAL_BODY_MEAN_SUV = (0.1, 4.0)
LEAST_BODY_ML = 20.0
LEAST_ORGAN_ML = 10.0  # a handful of voxels of a mask's rim says nothing
_BODY_ABOVE_HU = -300.0
_COARSE_MM = 8.0
# FDG: the brain burns sugar, at 3-6 times the liver, and the kidneys' cortex is near the liver. PSMA does not enter the
# brain, at a hundredth of the liver, and the kidneys' tubules express it, at 3-15 times the liver with 68Ga-PSMA-11.
# Between the limits neither is said: drugs, high blood sugar, much disease, other PSMA ligands, brain out of the scan.
BRAIN_TO_LIVER_OF_FDG = 1.0
BRAIN_TO_LIVER_OF_PSMA = 0.3
KIDNEY_TO_LIVER_OF_PSMA = 3.0
KIDNEY_TO_LIVER_OF_FDG = 1.7


def thin(image: sitk.Image, *, apart_mm: float) -> sitk.Image:
    """Every so manieth voxel, at most this far apart unless they were before: enough for medians, means and volumes."""
    steps = [max(1, int(apart_mm / spacing_mm)) for spacing_mm in image.GetSpacing()]
    thinned: sitk.Image = image[:: steps[0], :: steps[1], :: steps[2]]
    return thinned


def body_mean_suv(pet: sitk.Image, *, ct: sitk.Image) -> float | None:
    """Mean SUV over the body, or None where the scan shows less than 20 mL of it.

    Args:
        pet: PET in SUV; may be thinned.
        ct: CT in HU; may be thinned. The body is what is denser than -300 HU.
    """
    grid = grid_of(pet)
    body = to_array(resample_ct(ct, grid)) > _BODY_ABOVE_HU
    if np.count_nonzero(body) * grid.voxel_ml < LEAST_BODY_ML:
        return None
    return float(np.mean(to_array(pet)[body], dtype=np.float64))


def check_units(pet: sitk.Image, *, ct: sitk.Image, where: str) -> None:
    """A PET must be in SUV, whose mean over a body is near 1; warns where it is unusual.

    Args:
        pet: The PET.
        ct: The CT of the same scan, in HU.
        where: The PET, for the error.

    Raises:
        CaseError: The mean is below 0.02 or above 20, as in Bq/mL: a threshold in SUV would make a wrong mask.
    """
    mean_suv = body_mean_suv(thin(pet, apart_mm=_COARSE_MM), ct=thin(ct, apart_mm=_COARSE_MM))
    if mean_suv is None:
        return
    low, high = BODY_MEAN_SUV
    rule = "PET must be in SUV, with a mean of {:g}-{:g} over the body"
    if not low <= mean_suv <= high:
        raise CaseError(where, rule.format(low, high), f"{mean_suv:.4g}{', as Bq/mL have' if mean_suv > high else ''}")
    low, high = USUAL_BODY_MEAN_SUV
    if not low <= mean_suv <= high:
        log.warning("%s: %s, got %.4g", where, rule.format(low, high).replace("must", "should"), mean_suv)


def check_ct_shows_something(ct: sitk.Image, *, where: str) -> None:
    """A CT must not be one value all over, as when its voxels were lost on the way.

    Raises:
        CaseError: It is.
    """
    sample = to_array(thin(ct, apart_mm=_COARSE_MM))
    if sample.min() == sample.max():  # seldom enough to look at every voxel then
        voxels = to_array(ct)
        if voxels.min() == voxels.max():
            raise CaseError(where, "CT must show more than one value", f"{voxels.min():g} HU in every voxel")


def organ_medians_suv(pet: sitk.Image, *, organs: sitk.Image) -> dict[str, float]:
    """Median SUV of the larger soft organs.

    Args:
        pet: PET in SUV; may be thinned.
        organs: TotalSegmentator labels on any grid of the same frame.

    Returns:
        SUV by `brain`, `liver`, `kidney`, where at least 10 mL of it are in the PET.
    """
    grid = grid_of(pet)
    labels, suv = to_array(resample_labels(organs, grid)), to_array(pet)
    medians = {}
    for organ in (Organ.BRAIN, Organ.LIVER, Organ.KIDNEY):
        inside = suv[np.isin(labels, labels_of(organ))]
        if inside.size * grid.voxel_ml >= LEAST_ORGAN_ML:
            medians[organ.name.lower()] = float(np.median(inside))
    return medians


@dataclass(frozen=True)
class Contradiction:
    """A PET that does not look like the tracer that it is said to be.

    Attributes:
        rule: What should hold.
        got: What was seen instead.
        is_certain: Whether the brain says so, or the kidneys alone.
    """

    rule: str
    got: str
    is_certain: bool


def contradiction(medians_suv: Mapping[str, float], *, tracer: Tracer) -> Contradiction | None:
    """What speaks for the other tracer, or None.

    Args:
        medians_suv: Median SUV of `brain`, `liver` and `kidney`, as far as the PET shows them.
        tracer: What the PET is said to be.
    """
    liver_suv = medians_suv.get("liver", 0.0)
    if liver_suv <= 0.0:
        return None
    brain, kidney = (
        None if medians_suv.get(name) is None else medians_suv[name] / liver_suv for name in ("brain", "kidney")
    )
    by_brain = _vote(brain, psma=BRAIN_TO_LIVER_OF_PSMA, fdg=BRAIN_TO_LIVER_OF_FDG)
    by_kidney = _vote(kidney, psma=KIDNEY_TO_LIVER_OF_PSMA, fdg=KIDNEY_TO_LIVER_OF_FDG)
    against = [vote for vote in (by_brain, by_kidney) if vote not in (None, tracer)]
    if not against:
        return None
    seen = ", ".join(
        f"{name} at {ratio:.2g} times the liver"
        for name, ratio in (("brain", brain), ("kidneys", kidney))
        if ratio is not None
    )
    return Contradiction(
        rule=f"PET must be {tracer.name}; PSMA and FDG may be swapped",
        got=f"organs that look like {against[0].name}: {seen}" if against[0] else seen,
        is_certain=by_brain not in (None, tracer) and by_kidney is not tracer,
    )


def warn_of_other_tracer(pet: sitk.Image, *, organs: sitk.Image, tracer: Tracer, where: str) -> None:
    """Log a warning where the organs take up what they would of the other tracer.

    Args:
        pet: PET in SUV.
        organs: TotalSegmentator labels on any grid of the same frame.
        tracer: What the PET is said to be.
        where: The PET, for the log.
    """
    found = contradiction(organ_medians_suv(thin(pet, apart_mm=_COARSE_MM), organs=organs), tracer=tracer)
    if found is not None:
        log.warning("%s: %s, got %s", where, found.rule, found.got)


def _vote(ratio: float | None, *, psma: float, fdg: float) -> Tracer | None:
    """Which tracer a ratio to the liver speaks for, by the limits beyond which only one does."""
    if ratio is None:
        return None
    is_hotter_psma = psma > fdg
    if (ratio >= psma) if is_hotter_psma else (ratio <= psma):
        return Tracer.PSMA
    if (ratio <= fdg) if is_hotter_psma else (ratio >= fdg):
        return Tracer.FDG
    return None
