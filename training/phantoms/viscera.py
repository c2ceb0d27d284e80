"""Organs of chest, belly and pelvis, and the great vessels."""

import itertools

import numpy as np

from training.phantoms.bones import spine_y_mm
from training.phantoms.painter import Painter, Point
from training.phantoms.tissues import LUNGS, tissue_set

AORTA: list[Point] = [
    (-6, -22, 655),
    (-14, -28, 700),
    (-4, -10, 728),
    (14, 18, 728),
    (22, 32, 705),
    (18, 28, 620),
    (12, 18, 520),
    (8, -2, 440),
    (4, -4, 372),
]
ILIAC_LEFT: list[Point] = [(4, -4, 372), (30, 8, 325), (58, 8, 285), (74, -34, 232), (80, -44, 170), (86, -30, 40)]


def paint_chest(painter: Painter) -> None:
    """Heart with its muscle, oesophagus and the vessels above the diaphragm."""
    chest = tissue_set("visceral_fat", "muscle", *LUNGS)
    painter.ellipsoid("heart", (16, -38, 625), radii=(50, 44, 50), tilt_deg_xyz=(0, 0, 0), shift_mm=4, over=chest)
    heart = tissue_set("heart")
    tilt = (20.0, 35.0, 0.0)
    left = (36 + painter.rng.normal(0, 3), -42.0, 612 + painter.rng.normal(0, 3))
    painter.ellipsoid("heart", left, radii=(33, 33, 44), tilt_deg_xyz=tilt, shift_mm=0, size_spread=0, over=chest)
    painter.ellipsoid("myocardium", left, radii=(31, 31, 42), tilt_deg_xyz=tilt, shift_mm=0, size_spread=0, over=heart)
    pool = (left[0] - 2, left[1] + 1, left[2] + 6)
    painter.ellipsoid("heart", pool, radii=(20, 20, 33), tilt_deg_xyz=tilt, shift_mm=0, size_spread=0)
    painter.ellipsoid("atrial_appendage_left", (42, -30, 665), radii=(10, 10, 12), over=chest)
    painter.tube("pulmonary_vein", [(-45, 8, 655), (0, 2, 652), (48, 8, 658)], radii=[8, 12, 8], over=chest)
    painter.tube("esophagus", [(3, 4, 830), (4, 16, 760), (4, 24, 690), (8, 26, 610), (22, 6, 560)], radii=[8])
    painter.tube("superior_vena_cava", [(-26, -24, 720), (-28, -24, 650)], radii=[10], over=chest)
    painter.tube("brachiocephalic_vein_right", [(-26, -24, 720), (-36, -32, 775)], radii=[8])
    painter.tube("brachiocephalic_vein_left", [(-22, -34, 728), (10, -46, 752), (40, -36, 776)], radii=[7])
    painter.tube("brachiocephalic_trunk", [(-8, -20, 730), (-22, -12, 772)], radii=[7])
    painter.tube("common_carotid_artery_left", [(6, -4, 732), (22, -8, 800), (28, -6, 860)], radii=[5])
    painter.tube("common_carotid_artery_right", [(-22, -12, 772), (-26, -8, 810), (-28, -6, 860)], radii=[5])
    painter.tube("subclavian_artery_left", [(14, 14, 732), (32, 4, 780), (90, -8, 784)], radii=[6, 6, 5])
    painter.tube("subclavian_artery_right", [(-22, -12, 772), (-40, 0, 782), (-90, -8, 784)], radii=[6, 6, 5])
    painter.tube("trachea", [(0, 10, 716), (0, 12, 706), (34, 8, 672)], radii=[8, 7, 6], over=chest)
    painter.tube("trachea", [(0, 12, 706), (-32, 8, 676)], radii=[7, 6], over=chest)


def paint_vessels(painter: Painter) -> None:
    """Aorta, inferior vena cava, iliac and portal vessels."""
    painter.tube(
        "inferior_vena_cava", [(-22, -10, 580), (-22, 4, 510), (-20, 2, 440), (-16, 4, 368)], radii=[11, 11, 10, 9]
    )
    painter.tube("aorta", AORTA, radii=[15, 15, 14, 13, 12, 12, 10, 9, 8])
    painter.tube(
        "portal_vein_and_splenic_vein",
        [(-50, -18, 525), (-18, -16, 505), (30, -6, 508), (80, 22, 540)],
        radii=[7, 7, 5, 4],
    )
    for side, word in ((1, "left"), (-1, "right")):
        path = [(side * x, y, z) for x, y, z in ILIAC_LEFT]
        painter.tube(f"iliac_artery_{word}", [ILIAC_LEFT[0], *path[1:4]], radii=[6])
        painter.tube(f"iliac_vena_{word}", [(x - side * 10, y + 10, z) for x, y, z in path[:4]], radii=[7])
        painter.tube("muscle", path[4:], radii=[5])


def paint_belly(painter: Painter) -> None:
    """Liver, spleen, kidneys, stomach, bowel and the small organs, all inside the cavity."""
    fat = tissue_set("visceral_fat")
    rng = painter.rng
    free = tissue_set("visceral_fat", "small_bowel", "jejunum", "colon")
    painter.ellipsoid("liver", (-64, -10, 535), radii=(80, 84, 76), shift_mm=5, over=fat, roughness=0.04)
    painter.ellipsoid("liver", (8, -52, 552), radii=(62, 38, 32), shift_mm=5, over=fat)
    painter.ellipsoid(
        "spleen",
        (104, 32, 548),
        radii=(26, 40, 52),
        shift_mm=4,
        size_spread=0.12,
        over=tissue_set("visceral_fat", "liver"),
    )
    painter.tube(
        "stomach",
        [(30, 0, 560), (66, -14, 558), (72, -40, 520), (36, -64, 488), (-14, -54, 490)],
        radii=[22, 34, 32, 24, 14],
        over=fat,
        shift_mm=4,
    )
    painter.ellipsoid("stomach_gas", (68, -36, 548), radii=(22, 14, 20), over=tissue_set("stomach"))
    paint_colon(painter)
    loops = small_bowel_path(rng)
    third = len(loops) // 3
    painter.tube("small_bowel", loops[third:], radii=[13.5], over=fat, roughness=0.12)
    painter.tube("jejunum", loops[: third + 1], radii=[13.0], over=fat, roughness=0.12)
    around = tissue_set("visceral_fat", "small_bowel", "jejunum", "stomach", "liver")
    painter.tube(
        "duodenum",
        [(-22, -46, 488), (-46, -22, 486), (-48, -4, 440), (-10, -8, 424), (26, -22, 446)],
        radii=[13],
        over=around,
        shift_mm=3,
    )
    painter.tube(
        "pancreas", [(-30, -22, 478), (0, -26, 496), (40, -12, 512), (80, 14, 534)], radii=[16, 12, 12, 9], over=around
    )
    painter.ellipsoid(
        "gallbladder",
        (-58, -66, 494),
        radii=(14, 17, 28),
        size_spread=0.15,
        over=tissue_set("visceral_fat", "liver", "colon"),
    )
    for side, word, z in ((1, "left", 478.0), (-1, "right", 464.0)):
        where = (side * 62.0 + rng.normal(0, 3), 42.0 + rng.normal(0, 3), z + rng.normal(0, 7))
        tilt = (8.0, side * 12.0, 0.0)
        kidney = tissue_set(
            "visceral_fat", "liver", "spleen", "small_bowel", "jejunum", "colon", f"iliopsoas_{word}", "muscle"
        )
        painter.ellipsoid(
            f"kidney_{word}", where, radii=(28, 26, 54), shift_mm=0, size_spread=0.09, tilt_deg_xyz=tilt, over=kidney
        )
        pelvis = (where[0] - side * 14, where[1] - 4, where[2])
        painter.ellipsoid(
            f"kidney_pelvis_{word}",
            pelvis,
            radii=(13, 9, 19),
            tilt_deg_xyz=tilt,
            over=tissue_set(f"kidney_{word}", "visceral_fat"),
        )
        painter.ellipsoid(f"adrenal_gland_{word}", (side * 40, 26, 532), radii=(9, 12, 14), over=around)
        ureter: list[Point] = [
            (where[0] - side * 24, where[1] - 8, where[2] - 12),
            (side * 38, 18, 400),
            (side * 46, 14, 330),
            (side * 56, 34, 262),
            (side * 22, 10, 232),
        ]
        points = _cut(ureter)
        for i in range(len(points) - 1):
            if rng.random() < 0.5:
                painter.tube(
                    "ureter",
                    [points[i], points[i + 1]],
                    radii=[3.2],
                    over=tissue_set("visceral_fat", "muscle", "small_bowel", f"iliopsoas_{word}"),
                )

    painter.ellipsoid("urinary_bladder", (0, -16, 232), radii=(36, 32, 32), size_spread=0.17, shift_mm=3, over=free)
    painter.ellipsoid(
        "prostate",
        (0, 2, 188),
        radii=(25, 20, 19),
        size_spread=0.12,
        over=tissue_set("visceral_fat", "muscle", "fat", "urinary_bladder", "colon"),
    )


def _cut(path: list[Point]) -> list[Point]:
    """Each stretch of a polyline but its end, cut into three."""
    return [
        (a[0] + (b[0] - a[0]) * part, a[1] + (b[1] - a[1]) * part, a[2] + (b[2] - a[2]) * part)
        for a, b in itertools.pairwise(path)
        for part in (0.0, 0.33, 0.67)
    ]


def paint_colon(painter: Painter) -> None:
    """Rectum, sigmoid and the frame of the colon, with pockets of gas."""
    fat = tissue_set("visceral_fat", "liver", "muscle")
    path: list[Point] = [
        (0, 44, 180),
        (0, 52, 222),
        (4, 46, 262),
        (34, 22, 292),
        (64, 0, 296),
        (88, 6, 330),
        (100, 20, 380),
        (102, 22, 450),
        (100, 10, 508),
        (70, -58, 496),
        (0, -82, 458),
        (-66, -64, 462),
        (-92, -12, 462),
        (-98, 8, 410),
        (-92, 0, 350),
        (-84, -14, 314),
    ]
    moved = [tuple(np.asarray(p) + painter.rng.normal(0, 4, 3) * (i > 2)) for i, p in enumerate(path)]
    painter.tube(
        "colon", moved, radii=[13, 16, 14, 13, 14, 15, 16, 17, 18, 18, 18, 19, 20, 21, 22, 22], over=fat, roughness=0.14
    )
    for _ in range(6):
        place = moved[int(painter.rng.integers(4, len(moved)))]
        painter.ellipsoid("colon_gas", place, radii=(10, 8, 13), over=tissue_set("colon"))


def small_bowel_path(rng: np.random.Generator) -> list[Point]:
    """A winding line through the middle of the belly; its first third lies high on the left (jejunum)."""
    points: list[Point] = []
    for i in range(36):
        share = i / 35
        middle = np.array([34 - 60 * share + 62 * np.sin(i * 1.7), -34.0 + 26 * np.cos(i * 2.3), 446 - 150 * share])
        x, y, z = middle + rng.normal(0, [16, 11, 12])
        points.append(
            (float(np.clip(x, -72, 78)), float(np.clip(y, -72, spine_y_mm(z) - 38)), float(np.clip(z, 276, 462)))
        )
    return points
