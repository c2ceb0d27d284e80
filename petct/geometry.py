"""Where voxels lie: grids, the only doors between numpy and SimpleITK, and resampling onto another grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from petct.errors import CaseError

GRID_TOLERANCE_MM = 0.01  # headers round to a few decimals; nobody could see a shift of a hundredth of a millimetre
AIR_HU = -1000.0
CORNER_TOLERANCE_MM = 0.5  # rounded spacings and NIfTI's quaternions add up over a grid; less than any voxel
_AXES = "xyz"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Grid:
    """A regular 3D voxel grid in the patient's LPS frame.

    Attributes:
        shape_zyx: Number of voxels along the numpy axes (z, y, x).
        spacing_mm_xyz: Voxel size in mm along SimpleITK's axes (x, y, z), each > 0.
        origin_mm_xyz: LPS position of the centre of voxel (0, 0, 0), in mm.
        direction: 3 x 3 direction cosines, row by row; column k is the LPS direction of SimpleITK axis k.
    """

    shape_zyx: tuple[int, int, int]
    spacing_mm_xyz: tuple[float, float, float]
    origin_mm_xyz: tuple[float, float, float]
    direction: tuple[float, float, float, float, float, float, float, float, float]

    @property
    def size_xyz(self) -> tuple[int, int, int]:
        """Number of voxels along SimpleITK's axes (x, y, z)."""
        z, y, x = self.shape_zyx
        return x, y, z

    @property
    def spacing_mm_zyx(self) -> tuple[float, float, float]:
        """Voxel size in mm along the numpy axes (z, y, x)."""
        x, y, z = self.spacing_mm_xyz
        return z, y, x

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in mL."""
        return float(np.prod(self.spacing_mm_xyz)) / 1000.0

    @property
    def index_to_mm_xyz(self) -> npt.NDArray[np.float64]:
        """3 x 3 matrix from a voxel index (x, y, z) to LPS millimetres from the origin."""
        matrix: npt.NDArray[np.float64] = np.reshape(self.direction, (3, 3)) * np.array(self.spacing_mm_xyz)
        return matrix

    def position_mm_xyz(self, index_zyx: tuple[float, float, float]) -> tuple[float, float, float]:
        """LPS position in mm of a voxel index (z, y, x), which may lie between voxels."""
        x, y, z = np.array(self.origin_mm_xyz) + self.index_to_mm_xyz @ np.array(index_zyx[::-1])
        return float(x), float(y), float(z)

    def corners_mm_xyz(self) -> npt.NDArray[np.float64]:
        """LPS positions in mm of the outer corners of the grid's box; shape (8, 3)."""
        index = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in self.size_xyz], indexing="ij")).reshape(3, -1)
        corners: npt.NDArray[np.float64] = np.array(self.origin_mm_xyz) + (self.index_to_mm_xyz @ index).T
        return corners


def grid_of(image: sitk.Image) -> Grid:
    """The grid of a 3D SimpleITK image."""
    x, y, z = image.GetSize()
    return Grid(
        shape_zyx=(z, y, x),
        spacing_mm_xyz=image.GetSpacing(),
        origin_mm_xyz=image.GetOrigin(),
        direction=image.GetDirection(),
    )


def check_same_grid(grid: Grid, other: Grid, *, where: str, name: str) -> None:
    """Two images may meet only when their voxels do.

    Args:
        grid: The grid that must match.
        other: The grid to match.
        where: What `grid` belongs to, for the error.
        name: What `other` belongs to, for the error.

    Raises:
        CaseError: Sizes differ, spacing or origin differ by more than 0.01 mm, or a corner by more than 0.5 mm.
    """
    if grid.shape_zyx != other.shape_zyx:
        raise CaseError(where, f"grid must match {name}", f"{grid.size_xyz} voxels (x, y, z) for {other.size_xyz}")
    rule = f"grid must match {name} within {GRID_TOLERANCE_MM} mm"
    for what, mine, theirs in (
        ("spacing", grid.spacing_mm_xyz, other.spacing_mm_xyz),
        ("origin", grid.origin_mm_xyz, other.origin_mm_xyz),
    ):
        difference_mm = np.abs(np.subtract(mine, theirs))
        axis = int(np.argmax(difference_mm))
        if difference_mm[axis] > GRID_TOLERANCE_MM:
            raise CaseError(where, rule, f"{what} that differs by {difference_mm[axis]:.4g} mm along {_AXES[axis]}")
    distance_mm = float(np.max(np.linalg.norm(grid.corners_mm_xyz() - other.corners_mm_xyz(), axis=1)))
    if distance_mm > CORNER_TOLERANCE_MM:
        raise CaseError(
            where, f"corners must lie within {CORNER_TOLERANCE_MM} mm of those of {name}", f"{distance_mm:.4g} mm"
        )


def to_array(image: sitk.Image) -> Array:
    """A copy of the image's voxels as (z, y, x)."""
    return sitk.GetArrayFromImage(image)


def to_image(array: Array, grid: Grid) -> sitk.Image:
    """Voxels (z, y, x) as an image on the grid.

    Raises:
        ValueError: The array's shape is not the grid's.
    """
    if array.shape != grid.shape_zyx:
        raise ValueError(f"array must have the grid's shape {grid.shape_zyx} (z, y, x), got {array.shape}")
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(grid.spacing_mm_xyz)
    image.SetOrigin(grid.origin_mm_xyz)
    image.SetDirection(grid.direction)
    return image


def resample_ct(ct: sitk.Image, grid: Grid) -> sitk.Image:
    """The CT on another grid: linear, -1000 HU outside the CT, float32."""
    return _resample(ct, grid, sitk.sitkLinear, fill=AIR_HU, pixel=sitk.sitkFloat32)


def resample_labels(labels: sitk.Image, grid: Grid) -> sitk.Image:
    """A label map on another grid: nearest neighbour, 0 outside, pixel type kept."""
    return _resample(labels, grid, sitk.sitkNearestNeighbor, fill=0.0, pixel=labels.GetPixelID())


def _resample(image: sitk.Image, grid: Grid, interpolator: int, *, fill: float, pixel: int) -> sitk.Image:
    return sitk.Resample(
        image,
        grid.size_xyz,
        sitk.Transform(),
        interpolator,
        grid.origin_mm_xyz,
        grid.spacing_mm_xyz,
        grid.direction,
        fill,
        pixel,
    )
