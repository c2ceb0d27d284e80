"""The PET of a phantom, and its truth: disease and normal activity go through the same scanner apart."""

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from petct.case import Tracer
from petct.geometry import Grid, to_array, to_image
from training.phantoms.scanner import Scanner

PSMA_THRESHOLD_SUV = 3.0  # the challenge's rule
FWHM_PER_SIGMA = 2.3548
LIVER_EROSION_MM = 10.0
NO_DISEASE_SUV = 0.05
LEAST_LIVER_VOXELS = 20


@dataclass(frozen=True)
class PetScan:
    """A PET, and its normal and disease parts without noise: all float32 SUV (z, y, x) on the PET's grid."""

    measured_suv: np.ndarray
    normal_suv: np.ndarray
    disease_suv: np.ndarray


def scan_pet(
    rng: np.random.Generator,
    *,
    normal_suv: np.ndarray,
    disease_suv: np.ndarray,
    canvas_grid: Grid,
    scanner: Scanner,
    to_patient: sitk.Transform,
) -> PetScan:
    """Blur both activities, bring them onto the PET's grid, add noise whose variance follows the signal."""
    sigma = scanner.psf_fwhm_mm / FWHM_PER_SIGMA / canvas_grid.spacing_mm_xyz[0]
    normal, disease = (
        resample(ndimage.gaussian_filter(part, sigma, truncate=3.0), canvas_grid, scanner.pet_grid, to_patient)
        for part in (normal_suv, disease_suv)
    )
    noise = rng.standard_normal(normal.shape, dtype=np.float32)
    widths = [scanner.noise_fwhm_mm / FWHM_PER_SIGMA / step for step in scanner.pet_grid.spacing_mm_zyx]
    noise = ndimage.gaussian_filter(noise, widths, truncate=3.0)
    noise /= noise.std()
    noise *= np.sqrt(np.float32(scanner.noise_suv) * (normal + disease))
    noise += normal
    noise += disease
    return PetScan(np.maximum(noise, 0, out=noise), normal, disease)


def resample(array: np.ndarray, grid: Grid, onto: Grid, to_patient: sitk.Transform) -> np.ndarray:
    """Linear resampling of activity through a rigid transform; 0 outside."""
    image = sitk.Resample(
        to_image(array, grid),
        onto.size_xyz,
        to_patient,
        sitk.sitkLinear,
        onto.origin_mm_xyz,
        onto.spacing_mm_xyz,
        onto.direction,
        0.0,
        sitk.sitkFloat32,
    )
    return to_array(image)


def suv_threshold(tracer: Tracer, *, pet: PetScan, is_liver: np.ndarray, grid: Grid) -> float:
    """The challenge's threshold: 3.0 for PSMA; for FDG the liver's mean + 2 standard deviations.

    Args:
        tracer: which scan.
        pet: the scan.
        is_liver: the liver on the PET's grid, with its lesions; lesions and a centimetre of its rim are left out.
        grid: the PET's grid.
    """
    if tracer is Tracer.PSMA:
        return PSMA_THRESHOLD_SUV
    box = ndimage.find_objects(is_liver.astype(np.uint8))[0]  # a distance map of the whole body would be slow
    liver, measured = np.pad(is_liver[box], 1), np.pad(pet.measured_suv[box], 1)
    free = liver & (np.pad(pet.disease_suv[box], 1) < NO_DISEASE_SUV)
    inner = ndimage.distance_transform_edt(free, sampling=grid.spacing_mm_zyx) > LIVER_EROSION_MM
    # A liver full of metastases may have no centimetre of healthy tissue; its least diseased part then has to do.
    suv = measured[inner if inner.sum() >= LEAST_LIVER_VOXELS else (free if free.any() else liver)]
    return round(float(suv.mean() + 2.0 * suv.std()), 4)


def true_burden(pet: PetScan, *, threshold_suv: float) -> np.ndarray:
    """TTB, uint8 (z, y, x): at or above the threshold, and more disease than normal activity."""
    return ((pet.measured_suv >= threshold_suv) & (pet.disease_suv > pet.normal_suv)).astype(np.uint8)
