"""Maximum-intensity projections of PSMA and FDG side by side, with masks on top: what a physician looks at first."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from petct.case import Tracer
from petct.geometry import grid_of, to_array
from petct.written_whole import written_whole

WINDOW_SUV = {Tracer.PSMA: 15.0, Tracer.FDG: 10.0}
TRUTH_COLOUR = "red"
OTHER_COLOUR = "deepskyblue"


@dataclass(frozen=True)
class PictureScan:
    """One PET with the masks to draw: truth in red, `other` (a prediction, say) in blue; either may be None."""

    tracer: Tracer
    pet: sitk.Image
    truth: sitk.Image | None = None
    other: sitk.Image | None = None


@dataclass(frozen=True)
class PicturePatient:
    """A patient's title and scans, drawn from left to right."""

    title: str
    scans: Sequence[PictureScan]


def draw_patients(patients: Sequence[PicturePatient], path: Path, *, dots_per_inch: int = 100) -> Path:
    """Draw coronal and sagittal projections of each scan of one to four patients in a row, as a PNG.

    Raises:
        ValueError: There are no patients, or more than four.
    """
    if not 1 <= len(patients) <= 4:
        raise ValueError(f"picture: patients must be 1 to 4, got {len(patients)}")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = [(patient, scan, axis) for patient in patients for scan in patient.scans for axis in (1, 2)]
    widths = [_extent_mm(scan.pet, axis)[0] for _, scan, axis in columns]
    tallest = max(_extent_mm(scan.pet, axis)[1] for _, scan, axis in columns)
    height_inch = 7.0
    figure = Figure(figsize=(height_inch * sum(widths) / tallest * 1.03, height_inch + 0.35), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(columns), width_ratios=widths, squeeze=False)[0]
    for panel, (patient, scan, axis) in zip(panels, columns, strict=True):
        _draw_projection(panel, scan, axis=axis, window_suv=WINDOW_SUV[scan.tracer])
        if axis == 1:
            panel.set_title(f"{patient.title} {scan.tracer.value.upper()}".strip(), fontsize=9, loc="left")
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=dots_per_inch)
    return path


def _draw_projection(panel: Any, scan: PictureScan, *, axis: int, window_suv: float) -> None:
    width, height = _extent_mm(scan.pet, axis)
    extent = (0.0, width, 0.0, height)
    panel.imshow(
        to_array(scan.pet).max(axis=axis), cmap="gray_r", vmin=0, vmax=window_suv, origin="lower", extent=extent,
        interpolation="bilinear",
    )  # fmt: skip
    for mask, colour in ((scan.truth, TRUTH_COLOUR), (scan.other, OTHER_COLOUR)):
        shadow = None if mask is None else to_array(mask).astype(bool).max(axis=axis)
        if shadow is not None and shadow.any():
            panel.contour(
                shadow.astype(float), levels=[0.5], colors=colour, linewidths=0.7, extent=extent, origin="lower"
            )
    panel.set_axis_off()


def _extent_mm(pet: sitk.Image, axis: int) -> tuple[float, float]:
    """Width and height of a projection along a numpy axis (1: coronal, 2: sagittal)."""
    grid = grid_of(pet)
    lengths = np.asarray(grid.shape_zyx) * np.asarray(grid.spacing_mm_zyx)
    return float(lengths[2 if axis == 1 else 1]), float(lengths[0])
