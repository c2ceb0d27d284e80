"""Names of anatomy: TotalSegmentator's 117 labels, and the eight organ classes that the networks see."""

from __future__ import annotations

import json
from enum import IntEnum
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

LABEL_TABLE = Path(__file__).resolve().parent.parent / "resources" / "totalsegmentator_v2_total.json"


class Organ(IntEnum):
    """The eight organ classes of the method, in its channel order; 0 is everything else."""

    SPLEEN = 1
    KIDNEY = 2
    LIVER = 3
    LUNG = 4
    BRAIN = 5
    URINARY_BLADDER = 6
    BONE = 7
    THYROID = 8


_PAIRED_BONES = ("humerus", "scapula", "clavicula", "femur", "hip")

# TotalSegmentator v2 `total` names. Bone leaves the costal cartilages out, as the method does.
_NAMES: dict[Organ, tuple[str, ...]] = {
    Organ.SPLEEN: ("spleen",),
    Organ.KIDNEY: ("kidney_left", "kidney_right"),
    Organ.LIVER: ("liver",),
    Organ.LUNG: (
        "lung_upper_lobe_left",
        "lung_lower_lobe_left",
        "lung_upper_lobe_right",
        "lung_middle_lobe_right",
        "lung_lower_lobe_right",
    ),
    Organ.BRAIN: ("brain",),
    Organ.URINARY_BLADDER: ("urinary_bladder",),
    Organ.BONE: (
        "sacrum",
        "vertebrae_S1",
        *(f"vertebrae_L{n}" for n in range(5, 0, -1)),
        *(f"vertebrae_T{n}" for n in range(12, 0, -1)),
        *(f"vertebrae_C{n}" for n in range(7, 0, -1)),
        *(f"{bone}_left" for bone in _PAIRED_BONES),
        *(f"{bone}_right" for bone in _PAIRED_BONES),
        "skull",
        *(f"rib_{side}_{n}" for side in ("left", "right") for n in range(1, 13)),
        "sternum",
    ),
    Organ.THYROID: ("thyroid_gland",),
}


@cache
def totalsegmentator_labels() -> dict[int, str]:
    """Label number to name for all 117 classes of TotalSegmentator v2, task `total`."""
    table = json.loads(LABEL_TABLE.read_text(encoding="utf-8"))
    return {int(number): name for number, name in table["labels"].items()}


@cache
def _numbers() -> dict[str, int]:
    return {name: number for number, name in totalsegmentator_labels().items()}


def label_number(name: str) -> int:
    """The label number of a TotalSegmentator v2 `total` class.

    Raises:
        KeyError: There is no class of that name.
    """
    return _numbers()[name]


def labels_of(organ: Organ) -> tuple[int, ...]:
    """The TotalSegmentator labels that make up an organ class."""
    return tuple(label_number(name) for name in _NAMES[organ])


@cache
def _lookup() -> npt.NDArray[np.uint8]:
    table = np.zeros(256, dtype=np.uint8)
    for organ in Organ:
        table[list(labels_of(organ))] = organ
    return table


def collapse(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """Collapse TotalSegmentator labels to the eight organ classes, by name.

    Args:
        labels: Label map of any shape with values 0-117; all zero is an empty map.

    Returns:
        `Organ` values and 0, same shape.

    Raises:
        ValueError: A label is outside 0-117.
    """
    highest = max(totalsegmentator_labels())
    if labels.size and (int(labels.min()) < 0 or int(labels.max()) > highest):
        raise ValueError(f"organ labels must be within 0-{highest}, got {labels.min()}-{labels.max()}")
    organs: npt.NDArray[np.uint8] = _lookup()[labels]
    return organs
