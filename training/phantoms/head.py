"""Head and neck: outline, brain, airways, thyroid, and the glands that take up PSMA but have no label."""

from training.phantoms.bones import paint_skull
from training.phantoms.painter import Painter
from training.phantoms.tissues import tissue_set


def paint_head_outline(painter: Painter) -> None:
    """Scalp, face and muscles of the neck; before everything else of the head."""
    painter.ellipsoid("fat", (0, -6, 978), radii=(80, 96, 80), roughness=0.01, shift_mm=0, size_spread=0)
    painter.ellipsoid("fat", (0, -42, 908), radii=(66, 62, 66), roughness=0.03, shift_mm=0, size_spread=0)
    painter.ellipsoid("muscle", (0, -38, 905), radii=(60, 56, 58), roughness=0.03, shift_mm=0, size_spread=0)
    painter.ellipsoid("muscle", (0, 30, 905), radii=(50, 38, 50), roughness=0.03, shift_mm=0, size_spread=0)


def paint_head(painter: Painter) -> None:
    """Skull with the brain in it, air of mouth and nose, glands and the thyroid."""
    paint_skull(painter)
    painter.ellipsoid("brain", (0, -6, 981), radii=(66, 81, 62), roughness=0.03, shift_mm=0, size_spread=0)
    painter.ellipsoid("brain", (0, 38, 938), radii=(46, 34, 24), roughness=0.03, shift_mm=0, size_spread=0)
    painter.tube("brain", [(0, 10, 945), (0, 20, 918)], radii=[14, 9])
    painter.ellipsoid("white_matter", (0, -8, 984), radii=(44, 58, 36), roughness=0.12, shift_mm=1)
    painter.tube(
        "airway", [(0, -82, 925), (0, -45, 925), (0, -22, 905), (0, -12, 870), (0, -12, 846)], radii=[9, 11, 9, 8, 8]
    )
    painter.ellipsoid("airway", (24, -66, 918), radii=(12, 14, 15))
    painter.ellipsoid("airway", (-24, -66, 918), radii=(12, 14, 15))
    soft = tissue_set("fat", "muscle")
    for side in (1, -1):
        painter.ellipsoid(
            "parotid_gland", (side * 59, -6, 898), radii=(12, 17, 24), roughness=0.12, size_spread=0.12, over=soft
        )
        painter.ellipsoid(
            "submandibular_gland", (side * 32, -36, 862), radii=(11, 15, 12), roughness=0.1, size_spread=0.12, over=soft
        )
        painter.ellipsoid("lacrimal_gland", (side * 46, -78, 972), radii=(8, 8, 7), roughness=0.08, shift_mm=1)
        painter.ellipsoid("tonsil", (side * 15, -24, 888), radii=(6, 8, 11))
        painter.ellipsoid("thyroid_gland", (side * 17, -16, 812), radii=(10, 10, 22), size_spread=0.15)
        painter.ellipsoid("vocal_cord", (side * 5, -24, 836), radii=(4, 8, 4))
    painter.tube("thyroid_gland", [(-12, -25, 806), (12, -25, 806)], radii=[5])
    painter.tube("trachea", [(0, -14, 845), (0, -8, 800), (0, 6, 750), (0, 10, 712)], radii=[9, 9, 9, 9])
