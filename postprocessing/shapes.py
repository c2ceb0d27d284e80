"""The check that voxel arrays lie on one grid."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt


def require_shape(shape_zyx: tuple[int, ...], **arrays: npt.NDArray[Any]) -> None:
    """Refuse arrays of another shape, which numpy might otherwise broadcast in silence.

    Args:
        shape_zyx: The shape that all must have, (z, y, x).
        **arrays: The arrays by the names that the error gives them.

    Raises:
        ValueError: The shape is not 3D, or an array has another.
    """
    if len(shape_zyx) != 3:
        raise ValueError(f"mask: must be 3D (z, y, x), got {len(shape_zyx)}D")
    for name, array in arrays.items():
        if array.shape != shape_zyx:
            raise ValueError(f"{name}: must have the mask's shape {shape_zyx} voxels (z, y, x), got {array.shape}")
