"""The skeleton: spine, ribs, sternum, shoulder girdle, pelvis, thighs, skull."""

import numpy as np

from training.phantoms.painter import Painter, Point
from training.phantoms.trunk import CAGE, arm_path

SACRUM_TOP_MM = 305.0
# y of the vertebral bodies' centres along the spine (standard mm): lordosis, kyphosis, lordosis.
SPINE_Z_MM = (230, 270, 305, 350, 400, 460, 510, 600, 700, 780, 830, 880, 910)
SPINE_Y_MM = (72, 68, 52, 34, 28, 34, 43, 56, 55, 40, 28, 20, 18)

STERNUM_Z_MM = (610.0, 690.0, 740.0, 776.0)
STERNUM_Y_MM = (-92.0, -84.0, -67.0, -54.0)


def spine_y_mm(z_mm: float) -> float:
    """The y of the middle of the vertebral body at a height (standard mm)."""
    return float(np.interp(z_mm, SPINE_Z_MM, SPINE_Y_MM))


def vertebrae() -> list[tuple[str, float, float]]:
    """Name, z of the centre and height of each vertebra from L5 up to C1 (standard mm)."""
    names = (
        [f"L{n}" for n in range(5, 0, -1)] + [f"T{n}" for n in range(12, 0, -1)] + [f"C{n}" for n in range(7, 0, -1)]
    )
    heights = np.concatenate([np.full(5, 35.5), np.linspace(29.0, 20.5, 12), np.linspace(17.5, 15.5, 7)])
    base = SACRUM_TOP_MM + 17.0 + np.concatenate([[0.0], np.cumsum(heights)[:-1]])
    return [
        (f"vertebrae_{name}", float(low + height / 2), float(height))
        for name, low, height in zip(names, base, heights, strict=True)
    ]


def paint_spine(painter: Painter) -> None:
    """Sacrum, S1 and the 24 vertebrae with their arches, and the spinal canal with the cord."""
    painter.tube(
        "sacrum",
        [(0, 58, 296), (0, 72, 262), (0, 76, 235), (0, 66, 215)],
        radii=[24, 22, 14, 7],
        flatness=(1.7, 0.75, 1),
    )
    painter.ellipsoid("vertebrae_S1", (0, spine_y_mm(305), 305), radii=(26, 18, 17), squareness=0.5, shift_mm=1)
    canal: list[Point] = [(0, 90, 270), (0, spine_y_mm(305) + 25, 305)]
    for name, z, height in vertebrae():
        part = np.interp(z, [330, 500, 780, 910], [1.0, 0.9, 0.62, 0.5])
        y = spine_y_mm(z)
        rx, ry = 25.0 * part, 18.0 * part
        painter.ellipsoid(
            name,
            (0, y, z),
            radii=(rx, ry, height / 2 - 1.0),
            squareness=0.6,
            shift_mm=0.5,
            size_spread=0.02,
            roughness=0.03,
        )
        back = y + ry + 7.0
        for side in (1, -1):
            painter.tube(
                name, [(side * rx * 0.55, y + ry * 0.6, z), (side * 13 * part, back + 9, z - 3)], radii=[5.5 * part + 1]
            )
            painter.tube(name, [(side * 12 * part, back + 1, z), (side * 36 * part, back + 5, z)], radii=[5.5, 4.5])
        painter.tube(
            name, [(0, back + 7, z - 2), (0, back + 26 * part, z - 9)], radii=[6.0, 4.5], flatness=(0.8, 1, 1.4)
        )
        canal.append((0, back - 0.5, z))
    painter.tube("spinal_canal", canal, radii=[8.0], roughness=0.0)
    painter.tube("spinal_cord", canal[4:], radii=[5.5], roughness=0.0)


def rib_path(number: int, side: int) -> list[Point]:
    """Centre line of a rib from the spine forwards (standard mm)."""
    start = next(z for name, z, _ in vertebrae() if name == f"vertebrae_T{number}")
    drop = float(np.interp(number, [1, 4, 7, 10, 12], [32, 66, 90, 88, 55]))
    last = float(np.interp(number, [1, 7, 8, 10, 11, 12], [150, 142, 132, 118, 88, 62]))
    path: list[Point] = []
    for angle in np.deg2rad(np.linspace(16.0, last, 15)):
        z = start + 4 - drop * (1 - np.cos(angle)) / 2 * 1.15
        half_x, half_y, centre = (float(np.interp(z, CAGE[:, 0], CAGE[:, i])) for i in (1, 2, 3))
        stretch = 1.0 / np.sqrt(max(1 - 0.35 * np.sin(angle) ** 2 * np.cos(angle) ** 2, 0.5))
        path.append((side * half_x * np.sin(angle) * stretch, centre + half_y * np.cos(angle) * stretch, float(z)))
    return [(side * 20, spine_y_mm(start) + 14, start + 2), *path]


def paint_ribs(painter: Painter) -> None:
    """Twenty-four ribs, their cartilages and the sternum."""
    for number in range(1, 13):
        for side, word in ((1, "left"), (-1, "right")):
            path = rib_path(number, side)
            if number <= 10:
                x, y, z = path[-1]
                end_z = float(np.interp(number, [1, 7, 10], [762, 605, 592]))
                end_y = float(np.interp(end_z, STERNUM_Z_MM, STERNUM_Y_MM)) + 2.0
                path_end = (side * (14 if number <= 7 else 30), end_y, end_z)
                middle = ((x + path_end[0]) / 2, (y + end_y) / 2 - 3.0, (z + end_z) / 2 - 8)
                painter.tube("costal_cartilages", [(x, y, z), middle, path_end], radii=[5.5])
            painter.tube(f"rib_{word}_{number}", path, radii=[5.2], flatness=(0.95, 0.95, 1.35))
    sternum = [(0.0, y, z) for y, z in zip(STERNUM_Y_MM, STERNUM_Z_MM, strict=True)]
    painter.tube("sternum", sternum, radii=[9, 11, 13, 15], flatness=(1.5, 0.6, 1.0))


def paint_shoulders(painter: Painter) -> None:
    """Clavicle, scapula, humerus and the (unlabelled) bones of the forearm."""
    extra = painter.build.extra_fat_mm
    for side, word in ((1, "left"), (-1, "right")):
        painter.tube(
            f"clavicula_{word}", [(side * 18, -58, 782), (side * 70, -50, 794), (side * 135, -6, 800)], radii=[8, 6, 7]
        )
        spine_of_scapula = (side * 130, 28, 790)
        for inner, z in ((72, 768), (78, 740), (86, 710), (94, 682), (100, 660)):
            painter.tube(
                f"scapula_{word}", [(side * 134, 22, 768), (side * inner, 82 - (768 - z) * 0.02, z)], radii=[7, 5]
            )
        painter.tube(f"scapula_{word}", [spine_of_scapula, (side * 80, 86, 765)], radii=[8, 5])
        arm = [(side * x, y, z) for x, y, z in arm_path(extra)]
        head = (side * 152, 12, 766)
        painter.tube(f"humerus_{word}", [head, arm[1], arm[2], arm[3]], radii=[23, 12, 11, 14])
        for offset in (-9, 9):
            painter.tube("limb_bone", [(x + offset, y - offset * 0.5, z) for x, y, z in arm[3:]], radii=[8, 6, 7])


def paint_pelvis(painter: Painter) -> None:
    """Hip bones as fans of struts around the socket, pubis, ischium, and the femora."""
    for side, word in ((1, "left"), (-1, "right")):
        hip = f"hip_{word}"
        socket = (side * 88, 4, 246)
        crest = [
            (36, 66, 300),
            (46, 66, 330),
            (66, 52, 352),
            (86, 34, 360),
            (104, 12, 358),
            (116, -14, 346),
            (118, -38, 326),
        ]
        for i in range(len(crest) - 1):
            for part in (0.0, 0.5):
                x, y, z = (a + (b - a) * part for a, b in zip(crest[i], crest[i + 1], strict=True))
                painter.tube(hip, [socket, (side * x, y, z)], radii=[12, 7])
        painter.tube(hip, [(side * x, y, z) for x, y, z in crest], radii=[9])
        painter.ellipsoid(hip, (side * 90, 0, 232), radii=(34, 33, 34), shift_mm=1)
        painter.tube(hip, [(side * 80, -22, 236), (side * 40, -50, 222), (side * 10, -56, 208)], radii=[13, 9, 13])
        painter.tube(hip, [(side * 78, 26, 222), (side * 66, 36, 178)], radii=[16, 17])
        painter.tube(hip, [(side * 62, 30, 168), (side * 36, -14, 176), (side * 12, -52, 198)], radii=[12, 8, 10])
        femur = f"femur_{word}"
        painter.ellipsoid(femur, (side * 93, -2, 231), radii=(25, 25, 25), roughness=0.03, shift_mm=0.5)
        painter.tube(femur, [(side * 93, -2, 231), (side * 126, 8, 205)], radii=[17, 19])
        painter.tube(
            femur,
            [(side * 130, 10, 218), (side * 122, 6, 160), (side * 112, 2, 70), (side * 105, 0, -30)],
            radii=[20, 19, 15, 15],
        )


def paint_skull(painter: Painter) -> None:
    """Vault as a thick ellipsoid (the brain is painted into it), base, jaws and cheek bones."""
    painter.ellipsoid("skull", (0, -6, 978), radii=(73, 88, 74), roughness=0.02, shift_mm=0.0, size_spread=0.0)
    painter.ellipsoid("skull", (0, 8, 922), radii=(52, 44, 18), roughness=0.06, shift_mm=1)
    for side in (1, -1):
        painter.tube(
            "skull",
            [(side * 50, -8, 922), (side * 46, -26, 868), (side * 14, -78, 856), (0, -82, 856)],
            radii=[7, 8, 9, 9],
        )
        painter.tube("skull", [(side * 56, -20, 928), (side * 48, -70, 928), (side * 24, -86, 920)], radii=[5, 7, 7])
        painter.tube("skull", [(side * 24, -84, 955), (side * 44, -74, 962), (side * 48, -72, 938)], radii=[5])
    painter.tube("skull", [(-20, -82, 892), (0, -88, 892), (20, -82, 892)], radii=[10])
    painter.tube("skull", [(-14, -86, 915), (0, -92, 915), (14, -86, 915)], radii=[7])
