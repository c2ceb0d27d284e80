"""What must hold before anything is computed, and what is merely suspicious and only logged."""

from __future__ import annotations

import logging
import math
import sys

import numpy as np
import SimpleITK as sitk

from petct.errors import CaseError, shown
from petct.geometry import Grid, check_same_grid, grid_of, to_array
from petct.organs import totalsegmentator_labels

log = logging.getLogger(__name__)

# Reconstruction gives no negative SUV worth the name, but resampling with splines undershoots next to hot kidneys, by
# up to about a tenth of them. The upper limit keeps a CT, which starts near -1000, from passing for a PET.
NEGATIVE_SHARE_OF_MAXIMUM = 0.1
NEGATIVE_ALWAYS_ALLOWED_SUV = 0.5
NEGATIVE_NEVER_ALLOWED_SUV = 20.0
PLAUSIBLE_MAXIMUM_SUV = 1000.0  # bladder and kidneys reach a few hundred; Bq/mL is in the thousands
# Nothing is at 1e9 SUV and everything at 1e-9: either mask would say something about the patient, and be wrong.
POSSIBLE_THRESHOLD_SUV = (0.1, 100.0)
PLAUSIBLE_THRESHOLD_SUV = (1.0, 10.0)  # PSMA: 3; FDG: liver mean + 2 SD, typically 2.1-5
AIR_AT_LEAST_BELOW_HU = -500.0  # every CT of a patient shows some air
# A PET of the widest field of view is covered by a third under an ordinary CT; half a body's CT covers a sixth.
OVERLAP_REFUSED_BELOW = 0.05
OVERLAP_SUSPICIOUS_BELOW = 0.15
_SAMPLES_PER_AXIS = 24


def check_threshold(value: object, *, where: str) -> float:
    """An SUV threshold as JSON gives it: a bare number, or `{"suv_threshold": number}`.

    Raises:
        CaseError: It is neither, or not finite, not > 0, or not within 0.1-100 SUV.
    """
    number = value
    if isinstance(value, dict):
        if "suv_threshold" not in value:
            raise CaseError(where, "SUV threshold must be a number or hold suv_threshold", shown(value))
        number = value["suv_threshold"]
    # bool is an int to Python, but true is no threshold.
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise CaseError(where, "SUV threshold must be a number", shown(number))
    if not abs(number) <= sys.float_info.max:  # math.isfinite fails on the whole numbers beyond float's range
        raise CaseError(where, "SUV threshold must be finite", f"{number}"[:80])
    if number <= 0:
        raise CaseError(where, "SUV threshold must be > 0", f"{number}")
    low, high = POSSIBLE_THRESHOLD_SUV
    if not low <= number <= high:
        raise CaseError(where, f"SUV threshold must be within {low:g}-{high:g}", f"{number:g}")
    low, high = PLAUSIBLE_THRESHOLD_SUV
    if not low <= number <= high:
        log.warning("%s: SUV threshold %g is outside the usual %g-%g", where, number, low, high)
    return float(number)


def check_pet(pet: sitk.Image, *, suv_threshold: float, where: str) -> None:
    """A PET must be finite, show something, and be no more negative than noise.

    Warns where it does not look like SUV, has nothing at the threshold, or lies in an unusual orientation.

    Raises:
        CaseError: It breaks a rule.
    """
    low_suv, high_suv = _finite_range(pet, where=where)
    if high_suv <= 0.0:
        raise CaseError(where, "PET must have voxels above 0 SUV", f"a maximum of {high_suv:g} SUV")
    allowed_suv = float(
        np.clip(NEGATIVE_SHARE_OF_MAXIMUM * high_suv, NEGATIVE_ALWAYS_ALLOWED_SUV, NEGATIVE_NEVER_ALLOWED_SUV)
    )
    if low_suv < -allowed_suv:
        raise CaseError(where, f"PET must not be negative beyond noise (-{allowed_suv:.3g} SUV)", f"{low_suv:.6g} SUV")
    if high_suv > PLAUSIBLE_MAXIMUM_SUV:
        log.warning("%s: the maximum of %.6g does not look like SUV", where, high_suv)
    if high_suv < suv_threshold:
        log.warning("%s: no voxel reaches the threshold, the maximum is %.3g SUV", where, high_suv)
    # Networks see voxel axes, whatever directions these have in the patient.
    along = np.diag(np.reshape(pet.GetDirection(), (3, 3)))
    if np.any(along < math.cos(math.pi / 4)):
        log.warning("%s: the voxel axes do not run left, posterior, superior as in the training set", where)


def check_ct(ct: sitk.Image, *, where: str) -> None:
    """A CT must be finite. Warns where it does not look like HU.

    Raises:
        CaseError: A voxel is not finite.
    """
    low_hu, _ = _finite_range(ct, where=where)
    if low_hu > AIR_AT_LEAST_BELOW_HU:
        log.warning("%s: the lowest value is %.6g, which does not look like HU", where, low_hu)


def check_overlap(ct: sitk.Image, pet: sitk.Image, *, where: str, pet_where: str) -> None:
    """A CT must lie where the PET lies. Warns where it covers unusually little of it.

    Args:
        ct: The CT.
        pet: The PET of the same scan.
        where: The CT, for the error.
        pet_where: The PET, for the error.

    Raises:
        CaseError: The CT's box covers less than 5 % of the PET's.
    """
    share = _share_covered(grid_of(pet), grid_of(ct))
    if share < OVERLAP_REFUSED_BELOW:
        rule = f"CT must cover at least {OVERLAP_REFUSED_BELOW:.0%} of {pet_where}"
        raise CaseError(where, rule, f"{share:.1%}")
    if share < OVERLAP_SUSPICIOUS_BELOW:
        log.warning("%s: the CT covers only %.0f %% of %s", where, 100.0 * share, pet_where)


def check_organs(organs: sitk.Image, *, ct: sitk.Image, where: str, ct_where: str) -> sitk.Image:
    """A label map must hold TotalSegmentator's labels on the CT's grid; an empty one warns.

    Args:
        organs: The label map, of any pixel type that holds whole numbers only.
        ct: The CT that it belongs to.
        where: The label map, for the error.
        ct_where: The CT, for the error.

    Returns:
        The label map as uint8.

    Raises:
        CaseError: Values are not whole, not 0-117, or the grid is not the CT's.
    """
    check_same_grid(grid_of(organs), grid_of(ct), where=where, name=ct_where)
    low, high = _finite_range(organs, where=where)
    highest = max(totalsegmentator_labels())
    if low < 0 or high > highest:
        raise CaseError(where, f"organ labels must be within 0-{highest}", f"{low:g} to {high:g}")
    # Tools that know only floats write labels as floats. Slab by slab: a whole-body float64 map is 2 GB.
    if organs.GetPixelID() in (sitk.sitkFloat32, sitk.sitkFloat64):
        for z in range(organs.GetDepth()):
            slab = to_array(organs[:, :, z : z + 1])
            fraction = slab[slab != np.rint(slab)]
            if fraction.size:
                raise CaseError(where, "organ labels must be whole numbers", f"{fraction[0]:g}")
    if high == 0:
        log.warning("%s: the organ map is empty", where)
    whole: sitk.Image = sitk.Cast(organs, sitk.sitkUInt8)
    return whole


def _finite_range(image: sitk.Image, *, where: str) -> tuple[float, float]:
    """Lowest and highest voxel, without a copy; ITK's own statistics take twenty times as long."""
    voxels = sitk.GetArrayViewFromImage(image)
    low, high = float(voxels.min()), float(voxels.max())  # numpy's are nan where any voxel is
    if not (math.isfinite(low) and math.isfinite(high)):
        raise CaseError(where, "every voxel must be finite", "nan or infinite voxels")
    return low, high


def _share_covered(grid: Grid, other: Grid) -> float:
    """The share of a grid's box that lies inside another grid's box, from 24 x 24 x 24 points spread over it."""
    steps = [(np.arange(_SAMPLES_PER_AXIS) + 0.5) / _SAMPLES_PER_AXIS * n - 0.5 for n in grid.size_xyz]
    index = np.array(np.meshgrid(*steps, indexing="ij")).reshape(3, -1)
    points_mm = grid.index_to_mm_xyz @ index + np.reshape(grid.origin_mm_xyz, (3, 1))
    other_index = np.linalg.solve(other.index_to_mm_xyz, points_mm - np.reshape(other.origin_mm_xyz, (3, 1)))
    end = np.reshape(other.size_xyz, (3, 1)) - 0.5
    return float(np.mean(np.all((other_index >= -0.5) & (other_index <= end), axis=0)))
