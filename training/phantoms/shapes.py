"""Rough ellipsoids and tapered tubes on a voxel canvas, computed only inside their own bounding box."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

ROUGHNESS_LENGTH_MM = 9.0
ROUGHNESS_LIMIT = 2.5
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Canvas:
    """An isotropic, axis-aligned voxel grid in patient millimetres, and a smooth random field on it.

    Attributes:
        tissue: uint8 (z, y, x), tissue numbers of `tissues`; painted in place.
        roughness: float32 (z, y, x), smooth, unit variance, limited to +-2.5.
        origin_mm_xyz: centre of the first voxel.
        spacing_mm: edge of a voxel.
    """

    tissue: np.ndarray
    roughness: np.ndarray
    origin_mm_xyz: tuple[float, float, float]
    spacing_mm: float

    def box(self, low_mm_xyz: np.ndarray, high_mm_xyz: np.ndarray) -> Box:
        """Slices (z, y, x) of the voxels between two corners, cropped to the canvas (possibly empty)."""
        origin = np.asarray(self.origin_mm_xyz)
        shape_xyz = np.asarray(self.tissue.shape[::-1])
        first = np.clip(np.floor((low_mm_xyz - origin) / self.spacing_mm), 0, shape_xyz).astype(int)
        last = np.clip(np.ceil((high_mm_xyz - origin) / self.spacing_mm) + 1, 0, shape_xyz).astype(int)
        return slice(first[2], last[2]), slice(first[1], last[1]), slice(first[0], last[0])

    def coordinates_mm_xyz(self, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates x, y, z of the voxels of a box, each shaped to broadcast over (z, y, x)."""
        z, y, x = (
            np.arange(part.start, part.stop, dtype=np.float32) * np.float32(self.spacing_mm) + np.float32(origin)
            for part, origin in zip(box, self.origin_mm_xyz[::-1], strict=True)
        )
        return x[None, None, :], y[None, :, None], z[:, None, None]

    def index_zyx(self, point_mm_xyz: np.ndarray) -> tuple[int, int, int]:
        """Nearest voxel (z, y, x) to a point."""
        index = np.rint((point_mm_xyz - np.asarray(self.origin_mm_xyz)) / self.spacing_mm).astype(int)
        return int(index[2]), int(index[1]), int(index[0])

    def point_mm_xyz(self, index_zyx: np.ndarray) -> np.ndarray:
        """Centre of a voxel in millimetres."""
        point: np.ndarray = np.asarray(self.origin_mm_xyz) + np.asarray(index_zyx)[::-1] * self.spacing_mm
        return point


def make_canvas(
    rng: np.random.Generator, *, low_mm_xyz: np.ndarray, high_mm_xyz: np.ndarray, spacing_mm: float
) -> Canvas:
    """Empty canvas (all air) between two corners, with its random field."""
    shape_xyz = np.ceil((high_mm_xyz - low_mm_xyz) / spacing_mm).astype(int) + 1
    tissue = np.zeros(shape_xyz[::-1], dtype=np.uint8)
    origin = (float(low_mm_xyz[0]), float(low_mm_xyz[1]), float(low_mm_xyz[2]))
    return Canvas(tissue, smooth_field(rng, tissue.shape, spacing_mm=spacing_mm), origin, spacing_mm)


def smooth_field(rng: np.random.Generator, shape_zyx: tuple[int, ...], *, spacing_mm: float) -> np.ndarray:
    """Gaussian random field of unit variance and a correlation length of about a centimetre, limited to +-2.5."""
    step = max(1, round(6.0 / spacing_mm))
    coarse_shape = [size // step + 2 for size in shape_zyx]
    coarse = rng.standard_normal(coarse_shape, dtype=np.float32)
    coarse = ndimage.gaussian_filter(coarse, ROUGHNESS_LENGTH_MM / (step * spacing_mm), mode="wrap")
    coarse /= coarse.std()
    field = coarse
    for axis, size in enumerate(shape_zyx):
        place = np.arange(size) / step
        low = place.astype(int)
        part = (place - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        field = field.take(low, axis=axis) * (1 - part) + field.take(low + 1, axis=axis) * part
    limited: np.ndarray = np.clip(field, -ROUGHNESS_LIMIT, ROUGHNESS_LIMIT).astype(np.float32)
    return limited


def ellipsoid_mask(
    canvas: Canvas,
    centre_mm_xyz: np.ndarray,
    *,
    radii_mm_xyz: np.ndarray,
    rotation: np.ndarray | None = None,
    roughness: float = 0.0,
    squareness: float = 0.0,
) -> tuple[Box, np.ndarray]:
    """Box and boolean mask (z, y, x) of an ellipsoid.

    Args:
        canvas: where it lies.
        centre_mm_xyz: its centre.
        radii_mm_xyz: its half axes.
        rotation: 3x3 matrix whose rows are the directions of the axes; None means x, y, z.
        roughness: standard deviation of the surface as a share of the radius.
        squareness: 0 an ellipsoid, towards 1 a box with round edges.
    """
    rows = np.eye(3) if rotation is None else rotation
    swell = (1.0 + ROUGHNESS_LIMIT * roughness) * (1.0 + 0.5 * squareness)
    reach = np.sqrt(((rows * radii_mm_xyz[:, None]) ** 2).sum(axis=0)) * swell
    box = canvas.box(centre_mm_xyz - reach, centre_mm_xyz + reach)
    x, y, z = canvas.coordinates_mm_xyz(box)
    dx, dy, dz = x - np.float32(centre_mm_xyz[0]), y - np.float32(centre_mm_xyz[1]), z - np.float32(centre_mm_xyz[2])
    parts = [
        ((dx * np.float32(row[0]) + dy * np.float32(row[1]) + dz * np.float32(row[2])) / np.float32(radius)) ** 2
        for row, radius in zip(rows, radii_mm_xyz, strict=True)
    ]
    level = parts[0] + parts[1] + parts[2]
    if squareness:
        a, b, c = parts
        level = level - np.float32(squareness) * (a * b + b * c + a * c) * np.float32(0.8)
        # The product term would let far corners back in; nothing outside the bounding box belongs to the shape.
        level = np.where((a < 1.0) & (b < 1.0) & (c < 1.0), level, np.float32(9.0))
    return box, level < (1.0 + np.float32(roughness) * canvas.roughness[box]) ** 2


def segment_mask(
    canvas: Canvas,
    start_mm_xyz: np.ndarray,
    end_mm_xyz: np.ndarray,
    *,
    radii_mm: tuple[float, float],
    flatness_xyz: np.ndarray,
    roughness: float = 0.0,
) -> tuple[Box, np.ndarray]:
    """Box and boolean mask (z, y, x) of a tapered tube with round ends; `flatness_xyz` stretches it per axis."""
    reach = max(radii_mm) * (1.0 + ROUGHNESS_LIMIT * roughness) * flatness_xyz
    box = canvas.box(np.minimum(start_mm_xyz, end_mm_xyz) - reach, np.maximum(start_mm_xyz, end_mm_xyz) + reach)
    offsets = [
        (axis - np.float32(start)) / np.float32(flat)
        for axis, start, flat in zip(canvas.coordinates_mm_xyz(box), start_mm_xyz, flatness_xyz, strict=True)
    ]
    along = ((end_mm_xyz - start_mm_xyz) / flatness_xyz).astype(np.float32)
    length2 = np.float32(max(float(along @ along), 1e-6))
    dot = offsets[0] * along[0] + offsets[1] * along[1] + offsets[2] * along[2]
    place = np.clip(dot / length2, 0.0, 1.0)
    square = offsets[0] ** 2 + offsets[1] ** 2 + offsets[2] ** 2
    distance2 = square - 2.0 * place * dot + place**2 * length2
    radius = np.float32(radii_mm[0]) + np.float32(radii_mm[1] - radii_mm[0]) * place
    return box, distance2 < (radius * (1.0 + np.float32(roughness) * canvas.roughness[box])) ** 2
