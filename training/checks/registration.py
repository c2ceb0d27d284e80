"""Checking rigid.tfm: rigid, the inverse of the other scan's, and pointing the right way.

The method does not read it, so a missing one is worth a warning. One that is there and false says that the files of
this patient were mixed up.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from petct.case import Tracer
from petct.folders import SCAN_FOLDERS
from petct.geometry import AIR_HU, Grid, grid_of, to_array
from petct.images import itk_warnings_in_log
from training.checks.findings import Findings

TRANSFORM_NAME = "rigid.tfm"
RIGID_TOLERANCE = 1e-3  # of a rotation's entries: 1 mm over a metre, as with the images' directions
INVERSE_TOLERANCE_MM = 1.0  # at the corners of a scan
SAMPLE_MM = 8.0
CLIP_HU = (AIR_HU, 300.0)  # the table and implants must not outweigh the body
# Correlation of two CTs of one patient, registered rigidly: 0.8 and more; a patient's length off: near 0.
ALIGNED = 0.5
CLEARLY_BETTER = 0.1
_OTHER = {Tracer.PSMA: Tracer.FDG, Tracer.FDG: Tracer.PSMA}


def check_registration(patient: Path, *, cts: Mapping[Tracer, sitk.Image], findings: Findings) -> None:
    """Check both scans' rigid.tfm, against each other and against the CTs.

    In FDG/ it moves PSMA onto FDG, which for ITK means that it takes points of the FDG scan to the PSMA scan; in PSMA/
    it is the inverse.

    Args:
        patient: The patient's folder.
        cts: The CTs that could be read; they may be thinned.
        findings: Where to note what is wrong.
    """
    transforms = {}
    for tracer, name in SCAN_FOLDERS.items():
        transform = _read(patient / name / TRANSFORM_NAME, where=f"{name}/{TRANSFORM_NAME}", findings=findings)
        if transform is not None:
            transforms[tracer] = transform
    if len(transforms) == len(Tracer) and Tracer.FDG in cts:
        corners = grid_of(cts[Tracer.FDG]).corners_mm_xyz()
        there = [transforms[Tracer.FDG].TransformPoint(corner.tolist()) for corner in corners]
        back = np.array([transforms[Tracer.PSMA].TransformPoint(point) for point in there])
        off_mm = float(np.max(np.linalg.norm(back - corners, axis=1)))
        if off_mm > INVERSE_TOLERANCE_MM:
            rule = f"must be the inverse of FDG/{TRANSFORM_NAME} within {INVERSE_TOLERANCE_MM:g} mm"
            findings.add(f"PSMA/{TRANSFORM_NAME}", rule, f"{off_mm:.3g} mm")
    if len(cts) == len(Tracer):
        for tracer, transform in transforms.items():
            _check_direction(transform, fixed=cts[tracer], moving=cts[_OTHER[tracer]], tracer=tracer, findings=findings)


def _read(path: Path, *, where: str, findings: Findings) -> sitk.Transform | None:
    """A rigid transform, or None with a finding."""
    if not path.is_file():
        findings.warn(where, "file is missing; the method does not need it")
        return None
    try:
        with itk_warnings_in_log(where):
            transform: sitk.Transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        findings.add(where, "file must be an ITK transform", str(error).splitlines()[-1][:120])
        return None
    if transform.GetDimension() != 3 or not transform.IsLinear():
        findings.add(where, "transform must be a rigid one in 3D", transform.GetName())
        return None
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.array([transform.TransformPoint(axis) for axis in np.eye(3).tolist()]).T - origin[:, None]
    off = float(np.max(np.abs(matrix.T @ matrix - np.eye(3)))) if np.all(np.isfinite(matrix)) else np.inf
    if off > RIGID_TOLERANCE:
        findings.add(where, "transform must be rigid", f"a matrix that is off a rotation by {off:.3g}")
        return None
    if np.linalg.det(matrix) < 0:
        findings.add(where, "transform must be rigid", "a mirroring")
        return None
    return transform


def _check_direction(
    transform: sitk.Transform, *, fixed: sitk.Image, moving: sitk.Image, tracer: Tracer, findings: Findings
) -> None:
    where = f"{SCAN_FOLDERS[tracer]}/{TRANSFORM_NAME}"
    other = _OTHER[tracer]
    forward = correlation(fixed, moving=moving, transform=transform)
    backward = correlation(fixed, moving=moving, transform=transform.GetInverse())
    rule = f"must move {other.name} onto {tracer.name}"
    if backward > forward + CLEARLY_BETTER and backward >= ALIGNED:
        got = f"the inverse: the CTs correlate by {backward:.2f} with it turned round, by {forward:.2f} as it is"
        findings.add(where, rule, got)
    elif forward < ALIGNED:
        findings.warn(where, rule, f"CTs that correlate by {forward:.2f} only; are both of one patient?")


def correlation(fixed: sitk.Image, *, moving: sitk.Image, transform: sitk.Transform) -> float:
    """Pearson's correlation of two CTs, one moved onto the other, at points 8 mm apart.

    Args:
        fixed: CT in HU.
        moving: CT in HU.
        transform: Takes points of `fixed` to points of `moving`.

    Returns:
        -1 to 1; 0 where one of them is even.
    """
    grid = _coarse(grid_of(fixed))
    one, other = _sample(fixed, grid, sitk.Transform()), _sample(moving, grid, transform)
    spread = float(one.std() * other.std())
    return 0.0 if spread <= 0.0 else float(np.mean((one - one.mean()) * (other - other.mean())) / spread)


def _sample(ct: sitk.Image, grid: Grid, transform: sitk.Transform) -> npt.NDArray[np.float64]:
    image = sitk.Resample(
        ct,
        grid.size_xyz,
        transform,
        sitk.sitkLinear,
        grid.origin_mm_xyz,
        grid.spacing_mm_xyz,
        grid.direction,
        AIR_HU,
        sitk.sitkFloat32,
    )
    clipped: npt.NDArray[np.float64] = np.clip(to_array(image), *CLIP_HU, dtype=np.float64)
    return clipped


def _coarse(grid: Grid) -> Grid:
    z, y, x = (max(1, round(n * mm / SAMPLE_MM)) for n, mm in zip(grid.shape_zyx, grid.spacing_mm_zyx, strict=True))
    return Grid((z, y, x), (SAMPLE_MM, SAMPLE_MM, SAMPLE_MM), grid.origin_mm_xyz, grid.direction)
