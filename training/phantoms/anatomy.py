"""One patient's anatomy: the order in which outline, organs and bones are painted decides who displaces whom."""

import numpy as np

from training.phantoms.bones import paint_pelvis, paint_ribs, paint_shoulders, paint_spine
from training.phantoms.head import paint_head, paint_head_outline
from training.phantoms.painter import STANDARD_HIGH_MM_XYZ, STANDARD_LOW_MM_XYZ, Build, Painter
from training.phantoms.shapes import Canvas, make_canvas
from training.phantoms.trunk import paint_lungs, paint_muscles, paint_outline
from training.phantoms.viscera import paint_belly, paint_chest, paint_vessels

MARGIN_MM = 12.0


def paint_patient(rng: np.random.Generator, *, build: Build, spacing_mm: float) -> Canvas:
    """Canvas with the tissues of one patient, in the patient's own coordinates (LPS, z = 0 at mid thigh)."""
    scale = np.asarray(build.scale_xyz)
    canvas = make_canvas(
        rng,
        low_mm_xyz=STANDARD_LOW_MM_XYZ * scale - [MARGIN_MM, MARGIN_MM, 0.0],
        high_mm_xyz=STANDARD_HIGH_MM_XYZ * scale + MARGIN_MM,
        spacing_mm=spacing_mm,
    )
    painter = Painter(canvas, build=build, rng=rng)
    paint_head_outline(painter)
    paint_outline(painter)
    paint_muscles(painter)
    paint_lungs(painter)
    paint_chest(painter)
    paint_belly(painter)
    paint_vessels(painter)
    paint_ribs(painter)
    paint_shoulders(painter)
    paint_pelvis(painter)
    paint_spine(painter)
    paint_head(painter)
    return canvas
