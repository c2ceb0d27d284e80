"""What differs between the two scans of a patient: grids, position on the table, sharpness, noise."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from petct.case import Tracer
from petct.errors import CaseError
from petct.geometry import Grid

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
PET_GRIDS = Path(__file__).with_name("pet_grids.json")
NOISE_SHARE = {Tracer.PSMA: (0.010, 0.030), Tracer.FDG: (0.008, 0.022)}


@dataclass(frozen=True)
class PetGrid:
    """How many voxels a PET has, and of what size, both along (z, y, x)."""

    spacing_mm_zyx: tuple[float, float, float]
    shape_zyx: tuple[int, int, int]


# The grids that PETs of clinical size are to have instead of drawn ones.
PetGrids = Mapping[Tracer, PetGrid]


class PhantomSize(StrEnum):
    """Demo: grids for networks on a CPU; tiny: twice as coarse, to try commands; clinical: grids of real scanners."""

    TINY = "tiny"
    DEMO = "demo"
    CLINICAL = "clinical"


@dataclass(frozen=True)
class Scanner:
    """One scan's settings.

    Attributes:
        pet_grid: grid of the PET, in the scanner's coordinates.
        ct_grid: grid of the CT, in the same coordinates.
        to_scanner: rigid transform from the patient's coordinates to the scanner's.
        psf_fwhm_mm: full width at half maximum of the PET's point-spread function.
        noise_suv: variance of the PET's noise per SUV of signal, in SUV.
        noise_fwhm_mm: width of the filter that correlates the noise.
        ct_noise_hu: standard deviation of the CT's noise.
    """

    pet_grid: Grid
    ct_grid: Grid
    to_scanner: sitk.Euler3DTransform
    psf_fwhm_mm: float
    noise_suv: float
    noise_fwhm_mm: float
    ct_noise_hu: float


def draw_scanner(
    rng: np.random.Generator,
    *,
    tracer: Tracer,
    size: PhantomSize,
    low_mm_xyz: np.ndarray,
    high_mm_xyz: np.ndarray,
    pet_grids: PetGrids | None = None,
) -> Scanner:
    """Settings of one scan of a patient who fills the box between two corners (patient's coordinates).

    Args:
        rng: A grid is drawn from it whether one is given or not, so that all else stays what it was.
        tracer: Which scan.
        size: Tiny, demo or clinical.
        low_mm_xyz: The patient's lowest corner.
        high_mm_xyz: The highest.
        pet_grids: The PETs' grids, clinical size only; None draws one of those of real scanners.

    Raises:
        CaseError: Grids are given for another size.
    """
    if pet_grids is not None and size is not PhantomSize.CLINICAL:
        raise CaseError("phantom", "PET grids may be given for clinical size only", str(size))
    middle = (low_mm_xyz + high_mm_xyz) / 2
    to_scanner = sitk.Euler3DTransform()
    to_scanner.SetCenter([float(v) for v in middle])
    to_scanner.SetRotation(*[float(v) for v in np.deg2rad(rng.normal(0.0, [1.0, 1.0, 1.5]))])
    # Every scanner counts its table from somewhere else.
    shift = rng.normal(0.0, [7.0, 9.0, 14.0]) + np.array([0.0, 0.0, rng.uniform(-1400.0, -600.0)])
    to_scanner.SetTranslation([float(v) for v in shift])
    centre = middle + shift
    extent = high_mm_xyz - low_mm_xyz
    if size is not PhantomSize.CLINICAL:
        pet_grid = _demo_pet_grid(rng, centre, extent)
        ct_grid = _demo_ct_grid(rng, centre, extent)
        if size is PhantomSize.TINY:
            pet_grid, ct_grid = _coarser(pet_grid, centre), _coarser(ct_grid, centre)
    else:
        given = None if pet_grids is None else pet_grids[tracer]
        pet_grid = _clinical_pet_grid(rng, centre, extent, tracer, given=given)
        ct_grid = _clinical_ct_grid(rng, pet_grid, centre)
    return Scanner(
        pet_grid=pet_grid,
        ct_grid=ct_grid,
        to_scanner=to_scanner,
        psf_fwhm_mm=float(rng.uniform(5.0, 7.0)),
        noise_suv=float(rng.uniform(*NOISE_SHARE[tracer])),
        noise_fwhm_mm=float(rng.uniform(5.0, 8.0)),
        ct_noise_hu=float(rng.uniform(9.0, 20.0)),
    )


def _demo_pet_grid(rng: np.random.Generator, centre: np.ndarray, extent: np.ndarray) -> Grid:
    finer = 0.94 if rng.random() < 0.2 else 1.0
    in_plane, slices = float(rng.uniform(4.95, 5.6)) * finer, float(rng.uniform(5.3, 6.4)) * finer
    columns = int(np.clip(np.ceil((extent[0] + 6.0) / in_plane), 72, 90))
    rows = int(columns - rng.integers(2, 9))
    depth = int(np.ceil((extent[2] + rng.uniform(-10.0, 25.0)) / slices))
    return _grid(centre, (depth, rows, columns), (slices, in_plane, in_plane))


def _demo_ct_grid(rng: np.random.Generator, centre: np.ndarray, extent: np.ndarray) -> Grid:
    in_plane, slices = float(rng.uniform(2.8, 3.4)), float(rng.uniform(3.0, 4.0))
    columns = int(np.clip(np.ceil((extent[0] + 12.0) / in_plane), 128, 156))
    depth = int(np.ceil((extent[2] + rng.uniform(-5.0, 20.0)) / slices))
    return _grid(centre + rng.normal(0.0, 2.0, 3), (depth, columns, columns), (slices, in_plane, in_plane))


def _coarser(grid: Grid, centre: np.ndarray) -> Grid:
    """Half the voxels along every axis, twice the size."""
    shape = tuple(-(-voxels // 2) for voxels in grid.shape_zyx)
    return _grid(centre, shape, tuple(2.0 * np.asarray(grid.spacing_mm_zyx)))


def _clinical_pet_grid(
    rng: np.random.Generator, centre: np.ndarray, extent: np.ndarray, tracer: Tracer, *, given: PetGrid | None
) -> Grid:
    choices = real_pet_grids()[tracer]
    drawn = choices[int(rng.integers(len(choices)))]
    grid = drawn if given is None else given
    length = grid.shape_zyx[0] * grid.spacing_mm_zyx[0]
    # A scan longer than the patient reaches below the thighs; a shorter one keeps the head.
    middle = centre + np.array([0.0, 0.0, (extent[2] - length) / 2 + float(rng.uniform(0.0, 20.0))])
    return _grid(middle, grid.shape_zyx, grid.spacing_mm_zyx)


def _clinical_ct_grid(rng: np.random.Generator, pet_grid: Grid, centre: np.ndarray) -> Grid:
    in_plane, slices = float(rng.choice([0.9766, 1.1719, 1.3672])), float(rng.choice([2.0, 2.5, 3.0]))
    length = pet_grid.shape_zyx[0] * pet_grid.spacing_mm_xyz[2]
    pet_middle = pet_grid.origin_mm_xyz[2] + (length - pet_grid.spacing_mm_xyz[2]) / 2
    middle = np.array([centre[0], centre[1], pet_middle + float(rng.uniform(-3.0, 3.0))])
    return _grid(middle, (int(length // slices), 512, 512), (slices, in_plane, in_plane))


def _grid(centre: np.ndarray, shape_zyx: tuple[int, ...], spacing_mm_zyx: tuple[float, ...]) -> Grid:
    spacing = np.round(np.asarray(spacing_mm_zyx[::-1]), 4)
    origin = np.round(centre - spacing * (np.asarray(shape_zyx[::-1]) - 1) / 2, 3)
    z, y, x = shape_zyx
    return Grid(
        shape_zyx=(int(z), int(y), int(x)),
        spacing_mm_xyz=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        origin_mm_xyz=(float(origin[0]), float(origin[1]), float(origin[2])),
        direction=IDENTITY,
    )


@cache
def real_pet_grids() -> Mapping[Tracer, tuple[PetGrid, ...]]:
    """The grids of real PETs, one per scan of the challenge's training set, so common ones are there more often."""
    table = json.loads(PET_GRIDS.read_text(encoding="utf-8"))
    return {
        tracer: tuple(PetGrid(tuple(row["spacing_mm_zyx"]), tuple(row["shape_zyx"])) for row in table[tracer.value])
        for tracer in Tracer
    }
