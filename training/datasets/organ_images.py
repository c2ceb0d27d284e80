"""CT and organ labels as TotalSegmentator shows them to its 6 mm network, with labels a small network can learn."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from petct.geometry import Grid, check_same_grid, grid_of, resample_ct, resample_labels, to_array, to_image
from petct.organs import label_number, totalsegmentator_labels

ORGAN_SPACING_MM = 6.0  # TotalSegmentator's `fastest` model

# What the demo organ network tells apart. 117 classes are too many for a network that trains on a CPU in minutes, so
# neighbours of one kind bear the name of one of them; what is not here is background.
_OWN = (
    *("spleen", "kidney_right", "kidney_left", "liver", "stomach", "lung_upper_lobe_left", "lung_lower_lobe_left"),
    *("lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right", "thyroid_gland", "colon"),
    *("urinary_bladder", "prostate", "heart", "aorta", "brain", "skull", "sternum"),
    *(f"{bone}_{side}" for bone in ("humerus", "scapula", "clavicula", "femur", "hip") for side in ("left", "right")),
)
_SHARED = {
    "small_bowel": ("duodenum", "small_bowel"),
    "sacrum": ("sacrum", "vertebrae_S1"),
    "vertebrae_L3": tuple(f"vertebrae_L{n}" for n in range(1, 6)),
    "vertebrae_T9": tuple(f"vertebrae_T{n}" for n in range(7, 13)),
    "vertebrae_T4": tuple(f"vertebrae_T{n}" for n in range(1, 7)),
    "vertebrae_C4": tuple(f"vertebrae_C{n}" for n in range(1, 8)),
    "rib_left_6": tuple(f"rib_left_{n}" for n in range(1, 13)),
    "rib_right_6": tuple(f"rib_right_{n}" for n in range(1, 13)),
}


@cache
def organ_training_labels() -> dict[str, int]:
    """nnU-Net's labels of the demo organ network: TotalSegmentator's names, numbered without gaps from background 0."""
    names = sorted({*_OWN, *_SHARED}, key=label_number)
    return {"background": 0} | {name: number for number, name in enumerate(names, start=1)}


def organ_training_pair(ct: sitk.Image, *, organs: sitk.Image) -> tuple[sitk.Image, sitk.Image]:
    """A CT and its organ labels, resampled to 6 mm and turned to RAS+ as TotalSegmentator does before its network.

    Args:
        ct: CT in HU.
        organs: TotalSegmentator's 117 labels on the CT's grid.

    Returns:
        CT (float32, HU) and labels of `organ_training_labels` (uint8) on one 6 mm grid whose axes run to the patient's
        right, front and head.
    """
    check_same_grid(grid_of(organs), grid_of(ct), where="organs", name="the CT")
    ct_ras = sitk.DICOMOrient(ct, "RAS")
    fine = grid_of(ct_ras)
    coarse = Grid(
        shape_zyx=_coarse_shape(fine),
        spacing_mm_xyz=(ORGAN_SPACING_MM, ORGAN_SPACING_MM, ORGAN_SPACING_MM),
        origin_mm_xyz=fine.origin_mm_xyz,
        direction=fine.direction,
    )
    labels = to_array(resample_labels(sitk.DICOMOrient(organs, "RAS"), coarse))
    return resample_ct(ct_ras, coarse), to_image(_lookup()[labels], coarse)


@cache
def _lookup() -> npt.NDArray[np.uint8]:
    """From TotalSegmentator's label to the network's."""
    table = np.zeros(max(totalsegmentator_labels()) + 1, dtype=np.uint8)
    numbers = organ_training_labels()
    for name, members in ({name: (name,) for name in _OWN} | _SHARED).items():
        table[[label_number(member) for member in members]] = numbers[name]
    return table


def _coarse_shape(fine: Grid) -> tuple[int, int, int]:
    z, y, x = np.rint(np.multiply(fine.shape_zyx, fine.spacing_mm_zyx) / ORGAN_SPACING_MM).astype(int).tolist()
    return z, y, x
