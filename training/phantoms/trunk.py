"""The body's outline, its limbs, fat, muscles, the cavity of the trunk and the lungs."""

import numpy as np

from training.phantoms.painter import Painter
from training.phantoms.tissues import tissue_set

# Rows: z, half width, half depth, y of the centre (standard mm).
OUTLINE = np.array(
    [
        [120, 160, 95, 8],
        [200, 166, 103, 8],
        [300, 158, 103, 5],
        [400, 146, 102, 0],
        [500, 148, 107, -2],
        [600, 154, 112, -4],
        [700, 158, 105, 0],
        [750, 156, 90, 6],
        [785, 128, 74, 12],
        [808, 78, 64, 14],
        [830, 60, 58, 12],
        [890, 57, 58, 8],
        [915, 55, 60, 5],
    ],
    dtype=float,
)
# The rib cage above, the wall of belly and pelvis below: what lies inside is lung, organs and visceral fat.
CAGE = np.array(
    [
        [165, 30, 35, 12],
        [205, 62, 62, 14],
        [250, 85, 76, 10],
        [300, 106, 80, 2],
        [350, 122, 82, -4],
        [450, 127, 87, -4],
        [500, 131, 91, -4],
        [550, 136, 95, -6],
        [600, 134, 95, -7],
        [650, 127, 90, -5],
        [700, 114, 80, 2],
        [740, 95, 66, 10],
        [770, 72, 50, 18],
        [797, 40, 30, 26],
    ],
    dtype=float,
)
WALL_MM = 7.0


def paint_outline(painter: Painter) -> None:
    """Fat and muscle of trunk, neck, arms and thighs, and the cavity filled with visceral fat."""
    extra = painter.build.extra_fat_mm
    for tissue, inset in (("fat", 0.0), ("muscle", 9.0 + max(extra, -2.0))):
        painter.stack(tissue, OUTLINE, grow_mm=extra - inset)
        for side in (1, -1):
            arm = [(side * x, y, z) for x, y, z in arm_path(extra)]
            painter.tube(
                tissue, arm, radii=[r + 0.3 * extra - 0.55 * inset for r in (44, 42, 38, 35, 31, 24)], roughness=0.025
            )
            painter.tube(
                tissue,
                [(side * 84, 6, 190), (side * 90, 4, 80), (side * 94, 2, -30)],
                radii=[r + 0.3 * extra - 0.7 * inset for r in (76, 78, 73)],
                roughness=0.025,
            )
    painter.stack("visceral_fat", CAGE, grow_mm=-WALL_MM)


def arm_path(extra_fat_mm: float) -> list[tuple[float, float, float]]:
    """Axis of the left arm, from shoulder to wrist; more fat pushes it outwards."""
    out = max(extra_fat_mm, 0.0)
    return [
        (148, 12, 772),
        (176 + out, 14, 690),
        (186 + out, 16, 600),
        (192 + out, 18, 500),
        (198 + out, 4, 390),
        (202 + out, -18, 265),
    ]


def paint_muscles(painter: Painter) -> None:
    """Labelled muscles: gluteal, paraspinal and iliopsoas."""
    soft = tissue_set("muscle", "fat", "visceral_fat")
    for side, word in ((1, "left"), (-1, "right")):
        painter.ellipsoid(f"gluteus_maximus_{word}", (side * 74, 76, 225), radii=(58, 26, 70), over=soft)
        painter.ellipsoid(f"gluteus_medius_{word}", (side * 124, 26, 285), radii=(24, 42, 58), over=soft)
        painter.ellipsoid(f"gluteus_minimus_{word}", (side * 112, 8, 270), radii=(14, 30, 34), over=soft)
        back = [(side * 25, 78, 300), (side * 28, 68, 400), (side * 28, 80, 520), (side * 24, 90, 650)]
        painter.tube(
            f"autochthon_{word}",
            [*back, (side * 22, 72, 780)],
            radii=[19, 23, 20, 15, 13],
            flatness=(1, 0.8, 1),
            over=soft,
        )
        psoas = [
            (side * 34, 30, 490),
            (side * 44, 26, 400),
            (side * 62, 8, 310),
            (side * 88, -28, 240),
            (side * 98, -2, 180),
        ]
        painter.tube(f"iliopsoas_{word}", psoas, radii=[9, 18, 21, 16, 11], over=soft)


def paint_lungs(painter: Painter) -> None:
    """Five lobes above the domes of the diaphragm, cut by the fissures, with the mediastinum between."""
    slices, level = painter.stack_level(CAGE, grow_mm=-WALL_MM + 1.0)  # up to the wall: no fat beside the lung
    box = (slices, slice(None), slice(None))
    build, rng = painter.build, painter.rng
    x, y, z = painter.canvas.coordinates_mm_xyz(painter.canvas.box(np.full(3, -1e4), np.full(3, 1e4)))
    z = z[slices]
    heights = z[:, 0, 0] / build.scale_xyz[2]
    shift_x, shift_y = build.shift_mm(heights)
    width = build.width(heights)
    x_mm = (x - shift_x[:, None, None].astype(np.float32)) / (build.scale_xyz[0] * width)[:, None, None].astype(
        np.float32
    )
    y_mm = (y - shift_y[:, None, None].astype(np.float32)) / (build.scale_xyz[1] * width)[:, None, None].astype(
        np.float32
    )
    z_mm = (z / np.float32(build.scale_xyz[2])).astype(np.float32)
    fissure = z_mm - np.float32(640 + rng.normal(0, 8)) - np.float32(1.1) * y_mm
    minor = np.float32(655 + rng.normal(0, 8))
    middle = np.interp(heights, [480, 560, 640, 700, 760, 800], [40, 42, 36, 24, 22, 20])[:, None, None].astype(
        np.float32
    )
    for side, top, word in ((1, 572.0, "left"), (-1, 588.0, "right")):
        dome = np.float32(top + rng.normal(0, 7)) - np.float32(0.0085) * ((x_mm - side * 66) ** 2 + (y_mm - 0.0) ** 2)
        inside = (level < 1.0) & (x_mm * side > middle + 0.04 * y_mm) & (z_mm > dome)
        lower = inside & (fissure < 0)
        upper = inside & ~lower
        painter.fill(f"lung_lower_lobe_{word}", box, lower)
        if side == -1:
            central = upper & (z_mm < minor) & (y_mm < 20)
            painter.fill("lung_middle_lobe_right", box, central)
            upper &= ~central
        painter.fill(f"lung_upper_lobe_{word}", box, upper)
