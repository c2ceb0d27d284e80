"""One patient from a seed: anatomy, disease, and two scans that see them."""

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from petct.case import Tracer
from petct.errors import CaseError
from petct.geometry import Grid, to_array, to_image
from petct.organs import label_number
from training.phantoms.anatomy import paint_patient
from training.phantoms.ct import canvas_hu, scan_ct
from training.phantoms.disease import Lesion, Spread, spread_disease
from training.phantoms.painter import draw_build
from training.phantoms.pet import scan_pet, suv_threshold, true_burden
from training.phantoms.scanner import IDENTITY, PetGrids, PhantomSize, Scanner, draw_scanner
from training.phantoms.shapes import Canvas
from training.phantoms.tissues import label_table
from training.phantoms.uptake import physiological_suv

__all__ = ["Phantom", "PhantomScan", "PhantomSize", "generate_patient"]

CANVAS_SPACING_MM = {PhantomSize.TINY: 2.6, PhantomSize.DEMO: 2.6, PhantomSize.CLINICAL: 1.75}
OVERALL_SCALE = {
    PhantomSize.TINY: (0.82, 0.90),
    PhantomSize.DEMO: (0.82, 0.90),
    PhantomSize.CLINICAL: (0.94, 1.08),
}
TABLE_GAP_MM = 4.0


@dataclass(frozen=True)
class PhantomScan:
    """One tracer's scan.

    Attributes:
        ct: int16 HU.
        pet: float32 SUV, on a grid of its own.
        organs: uint8 TotalSegmentator v2 labels on the CT's grid.
        truth: uint8 TTB {0, 1} on the PET's grid.
        suv_threshold: SUV from which a voxel can be disease.
        from_patient: rigid transform from the patient's own coordinates, in which lesions are listed, to the scan's.
    """

    ct: sitk.Image
    pet: sitk.Image
    organs: sitk.Image
    truth: sitk.Image
    suv_threshold: float
    from_patient: sitk.Euler3DTransform


@dataclass(frozen=True)
class Phantom:
    """A patient.

    Attributes:
        seed: what it was made from, together with `size`.
        size: tiny, demo or clinical.
        psma: the PSMA scan.
        fdg: the FDG scan.
        psma_to_fdg: the transform that resamples PSMA (moving) onto FDG (fixed); as ITK defines it, it takes a point of
            the FDG scan to the same place in the PSMA scan.
        lesions: every focus placed, disease and harmless uptake.
    """

    seed: int
    size: PhantomSize
    psma: PhantomScan
    fdg: PhantomScan
    psma_to_fdg: sitk.Euler3DTransform
    lesions: tuple[Lesion, ...]

    def scan(self, tracer: Tracer) -> PhantomScan:
        """The scan of a tracer."""
        return self.psma if tracer is Tracer.PSMA else self.fdg


def generate_patient(seed: int, *, size: PhantomSize, pet_grids: PetGrids | None = None) -> Phantom:
    """Make the patient of a seed; the same seed, size and grids give the same voxels.

    Args:
        seed: What the patient is made from, >= 0.
        size: How large the images are.
        pet_grids: The PETs' grids, clinical size only; None draws each from those of real scanners.

    Raises:
        CaseError: The seed is negative, the size is not a `PhantomSize` or the name of one, or grids are given for
            another size than clinical.
    """
    if seed < 0:
        raise CaseError("phantom", "seed must be >= 0", str(seed))
    if size not in list(PhantomSize):
        raise CaseError("phantom", f"size must be one of {', '.join(PhantomSize)}", repr(str(size)))
    size = PhantomSize(size)
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(8)]
    build = draw_build(streams[0], overall_scale=float(streams[0].uniform(*OVERALL_SCALE[size])))
    canvas = paint_patient(streams[1], build=build, spacing_mm=CANVAS_SPACING_MM[size])
    normal = {tracer: physiological_suv(streams[2], canvas, tracer=tracer) for tracer in Tracer}
    spread = spread_disease(streams[3], canvas, build=build, normal_suv=normal)
    low, high = _body_box(canvas)
    hu = canvas_hu(streams[4], canvas, is_lesion=spread.is_lesion)
    scanners = {
        tracer: draw_scanner(
            streams[5], tracer=tracer, size=size, low_mm_xyz=low, high_mm_xyz=high, pet_grids=pet_grids
        )
        for tracer in Tracer
    }
    scans = {
        tracer: _scan(
            stream,
            tracer=tracer,
            canvas=canvas,
            hu=hu,
            normal_suv=normal[tracer],
            spread=spread,
            scanner=scanners[tracer],
        )
        for tracer, stream in zip(Tracer, streams[6:8], strict=True)
    }
    transform = _between(fixed=scanners[Tracer.FDG].to_scanner, moving=scanners[Tracer.PSMA].to_scanner)
    return Phantom(seed, size, scans[Tracer.PSMA], scans[Tracer.FDG], transform, spread.lesions)


def _scan(
    rng: np.random.Generator,
    *,
    tracer: Tracer,
    canvas: Canvas,
    hu: np.ndarray,
    normal_suv: np.ndarray,
    spread: Spread,
    scanner: Scanner,
) -> PhantomScan:
    grid = _canvas_grid(canvas)
    to_patient = scanner.to_scanner.GetInverse()
    pet = scan_pet(
        rng,
        normal_suv=normal_suv,
        disease_suv=spread.disease_suv[tracer],
        canvas_grid=grid,
        scanner=scanner,
        to_patient=to_patient,
    )
    labels = to_image(label_table()[canvas.tissue], grid)
    on_pet = to_array(_nearest(labels, scanner.pet_grid, to_patient))
    threshold = suv_threshold(tracer, pet=pet, is_liver=on_pet == label_number("liver"), grid=scanner.pet_grid)
    back = float(_body_box(canvas)[1][1]) + scanner.to_scanner.GetTranslation()[1]
    return PhantomScan(
        ct=scan_ct(
            rng,
            to_image(hu, grid),
            grid=scanner.ct_grid,
            to_patient=to_patient,
            noise_hu=scanner.ct_noise_hu,
            table_top_mm=back + TABLE_GAP_MM,
        ),
        pet=to_image(pet.measured_suv, scanner.pet_grid),
        organs=_nearest(labels, scanner.ct_grid, to_patient),
        truth=to_image(true_burden(pet, threshold_suv=threshold), scanner.pet_grid),
        suv_threshold=threshold,
        from_patient=scanner.to_scanner,
    )


def _canvas_grid(canvas: Canvas) -> Grid:
    z, y, x = canvas.tissue.shape
    return Grid((z, y, x), (canvas.spacing_mm,) * 3, canvas.origin_mm_xyz, IDENTITY)


def _nearest(labels: sitk.Image, grid: Grid, to_patient: sitk.Transform) -> sitk.Image:
    return sitk.Resample(
        labels,
        grid.size_xyz,
        to_patient,
        sitk.sitkNearestNeighbor,
        grid.origin_mm_xyz,
        grid.spacing_mm_xyz,
        grid.direction,
        0.0,
        sitk.sitkUInt8,
    )


def _body_box(canvas: Canvas) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner of the body, in the patient's millimetres (x, y, z)."""
    filled = canvas.tissue > 0
    corners = []
    for axis in (2, 1, 0):
        places = np.flatnonzero(filled.any(axis=tuple(a for a in range(3) if a != axis)))
        corners.append((places[0], places[-1]))
    origin = np.asarray(canvas.origin_mm_xyz)
    first, last = np.array(corners, dtype=float).T
    return origin + first * canvas.spacing_mm, origin + last * canvas.spacing_mm


def _between(*, fixed: sitk.Euler3DTransform, moving: sitk.Euler3DTransform) -> sitk.Euler3DTransform:
    """Transform from the fixed scan's points to the moving scan's, for two transforms from the patient to a scan."""
    fixed_matrix, moving_matrix = (np.reshape(t.GetMatrix(), (3, 3)) for t in (fixed, moving))
    matrix = moving_matrix @ fixed_matrix.T
    centre = np.array(fixed.TransformPoint(fixed.GetCenter()))
    image_of_centre = np.array(moving.TransformPoint(fixed.GetCenter()))
    transform = sitk.Euler3DTransform()
    transform.SetCenter([float(v) for v in centre])
    transform.SetMatrix([float(v) for v in matrix.ravel()], 1e-6)
    transform.SetTranslation([float(v) for v in image_of_centre - centre])
    return transform
