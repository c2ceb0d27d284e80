"""How far two runs' masks are apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation.overlap import dice
from petct.case import Tracer
from petct.geometry import check_same_grid, grid_of, to_array
from petct.images import read_image
from petct.output import mask_file


@dataclass(frozen=True)
class MaskDifference:
    """A mask beside the one it should be.

    Attributes:
        dice: Of the two; None when both are empty, which is perfect agreement that Dice does not define.
        differing_voxels: Voxels in one and not in the other.
        differing_voxel_fraction: The same as a fraction of all voxels of the PET.
        volume_ml: The mask's volume.
        expected_volume_ml: The volume it should have.
    """

    dice: float | None
    differing_voxels: int
    differing_voxel_fraction: float
    volume_ml: float
    expected_volume_ml: float


Differences = Mapping[Tracer, MaskDifference]


def compare_outputs(output: Path, *, expected: Path) -> dict[Tracer, MaskDifference]:
    """Compare both masks of an output folder with those of another.

    Raises:
        CaseError: A mask is missing, unreadable, or on another grid.
    """
    return {
        tracer: compare_masks(mask_file(output, tracer), expected=mask_file(expected, tracer), tracer=tracer)
        for tracer in Tracer
    }


def compare_masks(mask: Path, *, expected: Path, tracer: Tracer) -> MaskDifference:
    """Compare two mask files of one scan.

    Raises:
        CaseError: One is missing or unreadable, or their grids differ.
    """
    where = f"{tracer.name} {mask.name}"
    image, expected_image = read_image(mask, where=where), read_image(expected, where=f"{where} to compare with")
    grid = grid_of(image)
    check_same_grid(grid, grid_of(expected_image), where=where, name="the one to compare with")
    ours, theirs = to_array(image) != 0, to_array(expected_image) != 0
    overlap = dice(ours, truth=theirs)
    differing = int(np.count_nonzero(ours != theirs))
    return MaskDifference(
        dice=None if math.isnan(overlap) else float(overlap),
        differing_voxels=differing,
        differing_voxel_fraction=differing / ours.size,
        volume_ml=int(np.count_nonzero(ours)) * grid.voxel_ml,
        expected_volume_ml=int(np.count_nonzero(theirs)) * grid.voxel_ml,
    )


def worst(differences: Iterable[MaskDifference]) -> tuple[float | None, float | None]:
    """The lowest Dice and the highest fraction of differing voxels.

    Returns:
        Dice, None when none is defined; and the fraction, None when there is nothing to compare.
    """
    found = list(differences)
    scores = [difference.dice for difference in found if difference.dice is not None]
    fractions = [difference.differing_voxel_fraction for difference in found]
    return min(scores, default=None), max(fractions, default=None)
