"""Checking an organ map against its CT: TotalSegmentator's version 2 numbers must lie where their names say."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from petct.geometry import grid_of, to_array
from petct.organs import Organ, label_number, labels_of, totalsegmentator_labels
from petct.plausible import LEAST_ORGAN_ML
from training.checks.findings import Findings, Severity

# What the median CT of anatomy is, generously, in HU: lungs are full of air, parenchyma is near water, with contrast
# above, brain and muscle take up little of that, and most bones hold enough cortex to be above them.
LUNG_HU = (-1050.0, -400.0)
CONTRASTED_HU = (-60.0, 350.0)
SOFT_HU = (-80.0, 130.0)
BONE_HU = (50.0, 1500.0)
_CONTRASTED = (
    *("spleen", "kidney_right", "kidney_left", "liver", "pancreas", "thyroid_gland", "heart", "aorta"),
    *("inferior_vena_cava", "portal_vein_and_splenic_vein"),
)
_SOFT = (
    *("brain", "spinal_cord", "esophagus"),
    *(
        f"{muscle}_{side}"
        for muscle in ("gluteus_maximus", "gluteus_medius", "autochthon", "iliopsoas")
        for side in ("left", "right")
    ),
)
# Of the judged names. A sound map has one or two by disease or noise; version 1 read as version 2 has nearly half,
# though most of its vertebrae and ribs are still taken for bones.
MISPLACED_SHARE_REFUSED = 0.2
FEWEST_JUDGED = 3
HIGHEST_OF_VERSION_1 = 104


def check_organ_map(organs: sitk.Image, *, ct: sitk.Image, file: str, findings: Findings) -> bool:
    """Whether the labels lie where their names say; notes which do not.

    Args:
        organs: Labels 0-117 on the CT's grid; the images may be thinned alike.
        ct: CT in HU.
        file: The map, for the findings.
        findings: Where to note what is wrong.

    Returns:
        False when the map is refused, so that nothing else should be judged by it.
    """
    labels, hu = to_array(organs), to_array(ct)
    voxel_ml = grid_of(organs).voxel_ml
    misplaced, judged = [], 0
    for name, (low_hu, high_hu) in _expected_hu().items():
        inside = hu[labels == label_number(name)]
        if inside.size * voxel_ml < LEAST_ORGAN_ML:
            continue
        judged += 1
        median_hu = float(np.median(inside))
        if not low_hu <= median_hu <= high_hu:
            misplaced.append(f"{name} at a median of {median_hu:.0f} HU")
    if judged >= FEWEST_JUDGED and len(misplaced) > MISPLACED_SHARE_REFUSED * judged:
        present = np.unique(labels)
        highest = int(present[-1])
        version = f", highest label {highest} as in version 1" if highest <= HIGHEST_OF_VERSION_1 else ""
        got = f"{', '.join(misplaced[:3])} ({len(misplaced)} of {judged} organs{version})"
        findings.add(file, "labels must be numbered as in TotalSegmentator v2 and lie on this CT", got)
        return False
    if misplaced:
        findings.warn(file, "organs should lie where the CT shows their tissue", ", ".join(misplaced[:5]))
    _check_places(labels, organs, file=file, findings=findings)
    return True


def _expected_hu() -> dict[str, tuple[float, float]]:
    """Range of the median HU by name of the label."""
    names = totalsegmentator_labels()
    expected = {names[number]: LUNG_HU for number in labels_of(Organ.LUNG)}
    expected |= {names[number]: BONE_HU for number in labels_of(Organ.BONE)}
    return expected | dict.fromkeys(_CONTRASTED, CONTRASTED_HU) | dict.fromkeys(_SOFT, SOFT_HU)


def _check_places(labels: npt.NDArray[np.uint8], organs: sitk.Image, *, file: str, findings: Findings) -> None:
    """Head above lung above bladder, liver on the right and larger than the spleen: a mirrored map has good HU."""
    centres = {}
    for name in ("brain", "lung_upper_lobe_right", "liver", "spleen", "urinary_bladder"):
        index = np.argwhere(labels == label_number(name))
        if len(index) * grid_of(organs).voxel_ml >= LEAST_ORGAN_ML:
            z, y, x = index.mean(axis=0)
            centres[name] = grid_of(organs).position_mm_xyz((z, y, x))
    for above, below in (
        ("brain", "lung_upper_lobe_right"),
        ("lung_upper_lobe_right", "urinary_bladder"),
        ("liver", "urinary_bladder"),
    ):
        if above in centres and below in centres and centres[above][2] <= centres[below][2]:
            deeper_mm = centres[below][2] - centres[above][2]
            findings.add(file, f"{above} must lie above {below}", f"{above} {deeper_mm:.0f} mm below it")
    if "liver" in centres and "spleen" in centres and centres["liver"][0] >= centres["spleen"][0]:
        left_mm = centres["liver"][0] - centres["spleen"][0]
        # Situs inversus is rare, a header turned over less so.
        findings.add(file, "liver should lie right of the spleen", f"liver {left_mm:.0f} mm left of it",
                     severity=Severity.WARNING)  # fmt: skip
    liver, spleen = (np.count_nonzero(labels == label_number(name)) for name in ("liver", "spleen"))
    if spleen > liver > 0:
        findings.warn(file, "liver should be larger than the spleen", f"{liver / spleen:.2g} times its volume")
