"""The last look at a mask before anybody can take it for a result: what lies on the disk, read by two programs."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from petct.errors import CaseError
from petct.geometry import Grid, check_same_grid, grid_of, to_array
from petct.headers import MOST_HEADER_BYTES
from petct.images import read_image
from petct.metaimage_header import read_metaimage_header

EXACT_MM = 1e-6  # text in a header keeps a double to the last bit; this only forgives another program's rounding

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Uptake:
    """What no voxel of a mask may contradict.

    Attributes:
        pet_suv: PET in SUV, (z, y, x).
        suv_threshold: A voxel below this SUV is never disease.
    """

    pet_suv: npt.NDArray[np.floating]
    suv_threshold: float


def check_mask_file(file: Path, *, mask: Mask, grid: Grid, uptake: Uptake | None) -> None:
    """Read a written mask back, by ITK and without it, and hold it against every promise about it.

    Args:
        file: A .mha file.
        mask: The TTB that was to be written, (z, y, x).
        grid: The grid of its PET.
        uptake: The PET and its threshold; None where they are not at hand, and then the uptake is not looked at.

    Raises:
        CaseError: The file is not 8-bit, not on the PET's grid, holds something else than 0 and 1 or than the mask, has
            disease below the threshold, or reads differently without ITK.
    """
    written = read_image(file, where=file.name)
    if written.GetPixelID() != sitk.sitkUInt8:
        raise CaseError(file.name, "mask must be written as 8-bit unsigned integer", written.GetPixelIDTypeAsString())
    _check_exact_grid(grid_of(written), grid, where=file.name)
    voxels = to_array(written)
    highest = int(voxels.max())
    if highest > 1:
        raise CaseError(file.name, "mask must hold 0 and 1 only", f"{highest}")
    different = int(np.count_nonzero(voxels != mask))
    if different:
        raise CaseError(file.name, "mask read back must be the mask written", f"{different} different voxels")
    if not np.array_equal(_read_without_itk(file), voxels):
        raise CaseError(file.name, "mask must read alike with and without ITK", "different voxels")
    if uptake is not None:
        _check_uptake(voxels.astype(np.bool_), uptake, where=file.name)


def _check_exact_grid(written: Grid, grid: Grid, *, where: str) -> None:
    check_same_grid(written, grid, where=where, name="the PET")
    for what, one, other in (
        ("spacing", written.spacing_mm_xyz, grid.spacing_mm_xyz),
        ("origin", written.origin_mm_xyz, grid.origin_mm_xyz),
        ("direction", written.direction, grid.direction),
    ):
        off = float(np.max(np.abs(np.subtract(one, other))))
        if off > EXACT_MM:
            raise CaseError(where, f"{what} must be exactly the PET's", f"one that differs by {off:.3g}")


def _read_without_itk(file: Path) -> npt.NDArray[np.uint8]:
    """The voxels of an 8-bit .mha file, (z, y, x), by the format's own description."""
    content = file.read_bytes()
    header = read_metaimage_header(content[:MOST_HEADER_BYTES], file_bytes=len(content), where=file.name)
    stored = content[header.voxels_at :]
    if header.compressed_bytes is not None:
        stored = zlib.decompress(stored[: header.compressed_bytes])
    x, y, z = header.size
    return np.frombuffer(stored, dtype=np.uint8).reshape(z, y, x)


def _check_uptake(found: Mask, uptake: Uptake, *, where: str) -> None:
    # A Python float, so that a float32 PET is compared in float32, as it was when the mask was made.
    disease_suv = uptake.pet_suv[found]
    below = disease_suv[~(disease_suv >= float(uptake.suv_threshold))]
    if below.size:
        rule = f"disease must be at or above {uptake.suv_threshold:g} SUV"
        raise CaseError(where, rule, f"{below.size} voxels below, the lowest at {below.min():g} SUV")
