"""What an image file's header claims, read by us before ITK, and the limits to what it may claim.

ITK believes headers: it ends the whole process where a MetaImage has a hundred axes, allocates what a few lines ask
for, and passes silently over what it does not apply (intensity scales, units of length).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from petct.errors import CaseError

# The largest PET of the challenge has 92 million voxels; a whole-body CT of 512 x 512 at 1 mm half a thousand million.
MOST_VOXELS = 1 << 29
MOST_STORED_BYTES = 1 << 31
MOST_HEADER_BYTES = 1 << 16  # of a MetaImage: ten times any header seen


@dataclass(frozen=True)
class Header:
    """What a header says of the voxels that follow it. Built by the readers of the formats, then checked.

    Attributes:
        size: Number of voxels along each axis, x first; as many axes as the file has.
        components: Numbers per voxel, 1 for a scalar.
        component_bytes: Bytes per number, as stored.
        component: Name of the stored type (`32-bit float`).
        voxels_at: Where the voxels begin in the file; for NIfTI in the uncompressed file.
        byte_order: `<` for little-endian numbers, `>` for big-endian ones.
        is_scaled: Whether voxels are stored times a scale or without an offset, which ITK undoes.
        compressed_bytes: Length of the compressed voxels inside a .mha file; None when they are stored as they are.
        spacing_mm: Voxel size in mm along each axis, x first; () where only ITK works it out.
        origin_mm: LPS position of the first voxel's centre in mm; () where the file leaves it out or only ITK knows.
        direction: Direction cosines row by row, column k the direction of axis k; () likewise.
    """

    size: tuple[int, ...]
    components: int
    component_bytes: int
    component: str
    voxels_at: int
    byte_order: str
    is_scaled: bool = False
    compressed_bytes: int | None = None
    spacing_mm: tuple[float, ...] = ()
    origin_mm: tuple[float, ...] = ()
    direction: tuple[float, ...] = ()

    @property
    def is_float(self) -> bool:
        """Whether a number may be nan or infinite."""
        return self.component.endswith("float")

    @property
    def dtype(self) -> np.dtype[Any]:
        """Numpy's name for the stored type."""
        kind = "f" if self.is_float else "u" if "unsigned" in self.component else "i"
        return np.dtype(f"{self.byte_order}{kind}{self.component_bytes}")

    @property
    def stored_bytes(self) -> int:
        """Bytes of the voxels, uncompressed."""
        return math.prod(self.size) * self.components * self.component_bytes


def check_size(header: Header, *, where: str) -> None:
    """Refuse what is no 3D scalar image, or larger than any scan; nothing has been allocated yet.

    Args:
        header: What the file claims.
        where: The file, as the user knows it.

    Raises:
        CaseError: It is not 3D, not scalar, has no voxels, or too many.
    """
    size = header.size
    if len(size) != 3:
        raise CaseError(where, "image must be 3D", f"{len(size)}D, {size} voxels")
    if header.components != 1:
        got = f"{header.components} components (vector of {header.component})"
        raise CaseError(where, "image must be scalar", got)
    if min(size) < 1:
        raise CaseError(where, "image must have voxels along every axis", f"{size} (x, y, z)")
    voxels = math.prod(size)
    if voxels > MOST_VOXELS or header.stored_bytes > MOST_STORED_BYTES:
        rule = f"image must have at most {MOST_VOXELS} voxels and {MOST_STORED_BYTES >> 20} MiB"
        raise CaseError(where, rule, f"{size} (x, y, z), {header.stored_bytes / 2**20:.0f} MiB")


def not_an_image(file_bytes: int, *, where: str) -> CaseError:
    """The refusal of a file that is no image at all, whatever it is called."""
    rule = "image must be a MetaImage or NIfTI file with a whole header"
    return CaseError(where, rule, f"{file_bytes} bytes of something else")


def check_finite(values: Sequence[float], *, rule: str, where: str) -> None:
    """Refuse numbers of a header that are none; ITK takes some of them for 0.

    Raises:
        CaseError: One is nan or infinite.
    """
    if not all(map(math.isfinite, values)):
        raise CaseError(where, rule, ", ".join(f"{value:g}" for value in values))
