"""Where in the body disease is found, missed and made up: volumes by region, from a TotalSegmentator label map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from evaluation.lesionwise import Lesions
from evaluation.metrics import Overlap
from petct.errors import CaseError
from petct.geometry import to_array
from petct.organs import Organ, label_number, labels_of, totalsegmentator_labels

UNLABELLED: Final = "unlabelled"  # most lymph nodes among it
OTHER: Final = "other"  # labelled, and in none of the regions below: pancreas, heart, vessels, muscles, ...

# Besides the method's eight organ classes: where disease of the prostate sits, and where tracers go without disease.
_MORE_REGIONS: Mapping[str, tuple[str, ...]] = {
    "prostate": ("prostate",),
    "stomach_and_bowel": ("esophagus", "stomach", "duodenum", "small_bowel", "colon"),
    "heart_and_vessels": (
        "heart", "aorta", "pulmonary_vein", "brachiocephalic_trunk", "subclavian_artery_right",
        "subclavian_artery_left", "common_carotid_artery_right", "common_carotid_artery_left",
        "brachiocephalic_vein_left", "brachiocephalic_vein_right", "atrial_appendage_left", "superior_vena_cava",
        "inferior_vena_cava", "portal_vein_and_splenic_vein", "iliac_artery_left", "iliac_artery_right",
        "iliac_vena_left", "iliac_vena_right",
    ),
}  # fmt: skip
REGIONS: Final = (*(organ.name.lower() for organ in Organ), *_MORE_REGIONS, OTHER, UNLABELLED)


@dataclass(frozen=True)
class RegionVolumes:
    """Volumes in one region, in mL; over all regions each adds up to the scan's.

    Attributes:
        truth_ml: True disease.
        predicted_ml: Predicted disease.
        fp_ml: Its part of the scan's false-positive volume.
        fn_ml: Its part of the scan's false-negative volume.
    """

    truth_ml: float
    predicted_ml: float
    fp_ml: float
    fn_ml: float


def region_map(labels: sitk.Image, *, where: str) -> npt.NDArray[np.uint8]:
    """Region of each voxel, as its place in `REGIONS`, (z, y, x).

    Args:
        labels: TotalSegmentator v2 `total` label map.
        where: The file, for the error.

    Raises:
        CaseError: A value is not one of its labels.
    """
    found = to_array(labels)
    highest = max(totalsegmentator_labels())
    wrong = found[~((found >= 0) & (found <= highest) & (found == np.floor(found)))]
    if wrong.size:
        raise CaseError(where, f"organ labels must be whole numbers within 0-{highest}", f"{wrong[0]:g}")
    regions: npt.NDArray[np.uint8] = _lookup()[found.astype(np.uint8, copy=False)]
    return regions


def measure_regions(overlap: Overlap, *, regions: npt.NDArray[np.uint8], voxel_ml: float) -> dict[str, RegionVolumes]:
    """Volumes of one scan by region, in the order of `REGIONS`.

    Args:
        overlap: The masks and lesions in their box.
        regions: The region map of that box.
        voxel_ml: Volume of a voxel in mL.
    """

    def volumes_ml(inside: npt.NDArray[np.bool_]) -> list[float]:
        return [count * voxel_ml for count in np.bincount(regions[inside], minlength=len(REGIONS)).tolist()]

    columns = (
        volumes_ml(overlap.truth),
        volumes_ml(overlap.prediction),
        volumes_ml(_untouched(overlap.predicted)),
        volumes_ml(_untouched(overlap.true)),
    )
    return {name: RegionVolumes(*row) for name, *row in zip(REGIONS, *columns, strict=True)}


def _untouched(lesions: Lesions) -> npt.NDArray[np.bool_]:
    inside: npt.NDArray[np.bool_] = np.concatenate(([False], ~lesions.is_touched))[lesions.numbered]
    return inside


@cache
def _lookup() -> npt.NDArray[np.uint8]:
    table = np.full(256, REGIONS.index(OTHER), dtype=np.uint8)
    table[0] = REGIONS.index(UNLABELLED)
    for organ in Organ:
        table[list(labels_of(organ))] = REGIONS.index(organ.name.lower())
    for region, names in _MORE_REGIONS.items():
        table[[label_number(name) for name in names]] = REGIONS.index(region)
    return table
