"""From the standard man's coordinates to one patient: the body's build, and a painter that applies it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.phantoms.shapes import Canvas, ellipsoid_mask, segment_mask
from training.phantoms.tissues import tissue_number

# The standard man, in mm: x to his left, y to his back, z to his head; z = 0 is mid thigh, 1055 the top of the head.
STANDARD_LOW_MM_XYZ = np.array([-240.0, -135.0, 0.0])
STANDARD_HIGH_MM_XYZ = np.array([240.0, 130.0, 1060.0])
Point = tuple[float, float, float]


@dataclass(frozen=True)
class Build:
    """How one patient differs from the standard man as a whole: scale, bends of the trunk, width along z, fat."""

    scale_xyz: tuple[float, float, float]
    bend_mm_xy: tuple[float, float]
    bend_phase_xy: tuple[float, float]
    width_wave: float
    width_phase: float
    extra_fat_mm: float

    def width(self, z_mm: np.ndarray | float) -> np.ndarray:
        """Factor on x and y lengths at a standard height."""
        width: np.ndarray = 1.0 + self.width_wave * np.sin(np.asarray(z_mm) / 130.0 + self.width_phase)
        return width

    def shift_mm(self, z_mm: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Sideways shift in x and y at a standard height."""
        wave = np.asarray(z_mm) / 170.0
        return (
            self.bend_mm_xy[0] * np.sin(wave + self.bend_phase_xy[0]),
            self.bend_mm_xy[1] * np.sin(wave + self.bend_phase_xy[1]),
        )

    def point(self, standard_mm_xyz: Sequence[float] | np.ndarray) -> np.ndarray:
        """The patient's point for a point of the standard man."""
        x, y, z = standard_mm_xyz
        shift_x, shift_y = self.shift_mm(z)
        width = self.width(z)
        return np.array(
            [
                x * self.scale_xyz[0] * width + shift_x,
                y * self.scale_xyz[1] * width + shift_y,
                z * self.scale_xyz[2],
            ]
        )

    @property
    def mean_scale(self) -> float:
        """One factor for lengths with no direction."""
        return float(np.cbrt(np.prod(self.scale_xyz)))


def draw_build(rng: np.random.Generator, *, overall_scale: float) -> Build:
    """A random build around an overall scale."""
    scale = overall_scale * rng.normal(1.0, [0.025, 0.03, 0.02])
    return Build(
        scale_xyz=(float(scale[0]), float(scale[1]), float(scale[2])),
        bend_mm_xy=(float(rng.normal(0, 4.0)), float(rng.normal(0, 4.0))),
        bend_phase_xy=(float(rng.uniform(0, 6.28)), float(rng.uniform(0, 6.28))),
        width_wave=float(rng.uniform(0.0, 0.035)),
        width_phase=float(rng.uniform(0, 6.28)),
        extra_fat_mm=float(rng.uniform(-4.0, 9.0)),
    )


class Painter:
    """Paints shapes of the standard man on a patient's canvas, each with its own variation of place and size."""

    def __init__(self, canvas: Canvas, *, build: Build, rng: np.random.Generator) -> None:
        """Paint on `canvas` with `build`; `rng` draws the variation of each organ."""
        self.canvas = canvas
        self.build = build
        self.rng = rng

    def ellipsoid(
        self,
        name: str,
        centre: Point,
        *,
        radii: Point,
        shift_mm: float = 2.0,
        size_spread: float = 0.06,
        roughness: float = 0.06,
        squareness: float = 0.0,
        tilt_deg_xyz: Point = (0.0, 0.0, 0.0),
        over: np.ndarray | None = None,
    ) -> np.ndarray:
        """Paint an ellipsoid given in standard mm; `over` limits it to tissues. Returns the patient's centre."""
        size = np.exp(self.rng.normal(0.0, size_spread))
        middle = self.build.point(np.asarray(centre) + self.rng.normal(0.0, shift_mm, 3))
        scaled = np.asarray(radii) * np.asarray(self.build.scale_xyz) * size
        rotation = _rotation(tilt_deg_xyz) if any(tilt_deg_xyz) else None
        box, mask = ellipsoid_mask(
            self.canvas, middle, radii_mm_xyz=scaled, rotation=rotation, roughness=roughness, squareness=squareness
        )
        self.fill(name, box, mask, over=over)
        return middle

    def tube(
        self,
        name: str,
        points: Sequence[Point],
        *,
        radii: Sequence[float],
        flatness: Point = (1.0, 1.0, 1.0),
        shift_mm: float = 0.0,
        roughness: float = 0.06,
        over: np.ndarray | None = None,
    ) -> None:
        """Paint a tube along a polyline given in standard mm, one radius per point (a single one serves all)."""
        widths = [float(r) * self.build.mean_scale for r in (radii if len(radii) > 1 else list(radii) * len(points))]
        shift = self.rng.normal(0.0, shift_mm, 3)
        path = [self.build.point(np.asarray(p) + shift) for p in points]
        for i in range(len(path) - 1):
            box, mask = segment_mask(
                self.canvas,
                path[i],
                path[i + 1],
                radii_mm=(widths[i], widths[i + 1]),
                flatness_xyz=np.asarray(flatness),
                roughness=roughness,
            )
            self.fill(name, box, mask, over=over)

    def stack_level(
        self, table: np.ndarray, *, grow_mm: float = 0.0, squareness: float = 0.35
    ) -> tuple[slice, np.ndarray]:
        """Level (z, y, x) of a stack of ellipses, below 1 inside, and the z slices it covers.

        Args:
            table: rows of z, half width, half depth, y of the centre in standard mm, z ascending.
            grow_mm: added to half width and half depth.
            squareness: 0 ellipses, towards 1 rectangles.
        """
        canvas, build = self.canvas, self.build
        heights = table[[0, -1], 0] * build.scale_xyz[2]
        low, high = np.array([-1e4, -1e4, heights[0]]), np.array([1e4, 1e4, heights[1]])
        box = canvas.box(low, high)
        x, y, z = canvas.coordinates_mm_xyz(box)
        standard_z = z[:, 0, 0] / build.scale_xyz[2]
        shift_x, shift_y = build.shift_mm(standard_z)
        width = build.width(standard_z)
        half_x = np.interp(standard_z, table[:, 0], table[:, 1]) * build.scale_xyz[0] * width + grow_mm
        half_y = np.interp(standard_z, table[:, 0], table[:, 2]) * build.scale_xyz[1] * width + grow_mm
        centre_y = np.interp(standard_z, table[:, 0], table[:, 3]) * build.scale_xyz[1] * width + shift_y
        u = ((x - _column(shift_x)) / _column(np.maximum(half_x, 1.0))) ** 2
        v = ((y - _column(centre_y)) / _column(np.maximum(half_y, 1.0))) ** 2
        level = u + v - np.float32(squareness) * np.minimum(u, 1.0) * np.minimum(v, 1.0)
        return box[0], level * (1.0 - 0.025 * canvas.roughness[box])

    def stack(self, name: str, table: np.ndarray, *, grow_mm: float = 0.0, over: np.ndarray | None = None) -> None:
        """Paint a stack of ellipses (see `stack_level`)."""
        slices, level = self.stack_level(table, grow_mm=grow_mm)
        self.fill(name, (slices, slice(None), slice(None)), level < 1.0, over=over)

    def fill(
        self, name: str, box: tuple[slice, slice, slice], mask: np.ndarray, *, over: np.ndarray | None = None
    ) -> None:
        """Set the tissue of a box where the mask holds, only over the tissues allowed."""
        view = self.canvas.tissue[box]
        view[mask if over is None else mask & over[view]] = tissue_number(name)


def _column(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=np.float32)[:, None, None]


def _rotation(tilt_deg_xyz: Point) -> np.ndarray:
    a, b, c = np.deg2rad(tilt_deg_xyz)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    rotation: np.ndarray = about_z @ about_y @ about_x
    return rotation
