"""What a voxel of the phantom is made of: TotalSegmentator's 117 labels, and what those leave out."""

from enum import IntEnum

import numpy as np

from petct.organs import label_number, totalsegmentator_labels


class Tissue(IntEnum):
    """Tissues with no label of their own; 1-117 are TotalSegmentator's, 0 is the air around the patient."""

    FAT = 130
    MUSCLE = 131
    VISCERAL_FAT = 132
    PAROTID_GLAND = 133
    SUBMANDIBULAR_GLAND = 134
    LACRIMAL_GLAND = 135
    URETER = 136
    VOCAL_CORD = 137
    TONSIL = 138
    AIRWAY = 139
    LIMB_BONE = 140
    SPINAL_CANAL = 141
    KIDNEY_PELVIS_LEFT = 150
    KIDNEY_PELVIS_RIGHT = 151
    MYOCARDIUM = 152
    JEJUNUM = 153
    WHITE_MATTER = 154
    COLON_GAS = 155
    STOMACH_GAS = 156


# Parts of an organ that look different in CT or PET but carry the organ's label.
PART_OF = {
    Tissue.KIDNEY_PELVIS_LEFT: "kidney_left",
    Tissue.KIDNEY_PELVIS_RIGHT: "kidney_right",
    Tissue.MYOCARDIUM: "heart",
    Tissue.JEJUNUM: "small_bowel",
    Tissue.WHITE_MATTER: "brain",
    Tissue.COLON_GAS: "colon",
    Tissue.STOMACH_GAS: "stomach",
}

LUNGS = tuple(
    f"lung_{lobe}"
    for lobe in ("upper_lobe_left", "lower_lobe_left", "upper_lobe_right", "middle_lobe_right", "lower_lobe_right")
)


def tissue_number(name: str) -> int:
    """Number of a tissue: a TotalSegmentator v2 name, or the name of a `Tissue` in lower case."""
    upper = name.upper()
    return int(Tissue[upper]) if upper in Tissue.__members__ else label_number(name)


def tissue_set(*names: str) -> np.ndarray:
    """Boolean table of 256 entries that is true for the tissues named."""
    table = np.zeros(256, dtype=bool)
    table[[tissue_number(name) for name in names]] = True
    return table


def label_table() -> np.ndarray:
    """Table of 256 uint8 entries from tissue number to TotalSegmentator label (0: no label)."""
    table = np.zeros(256, dtype=np.uint8)
    for number in totalsegmentator_labels():
        table[number] = number
    for part, organ in PART_OF.items():
        table[part] = label_number(organ)
    return table
