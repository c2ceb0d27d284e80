"""The CT of a phantom: Hounsfield units per tissue on the canvas, then the scanner's grid, noise and table."""

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from petct.geometry import AIR_HU, Grid, to_array, to_image
from petct.organs import Organ, labels_of
from training.phantoms.shapes import Canvas
from training.phantoms.tissues import LUNGS, Tissue, tissue_number
from training.phantoms.uptake import BLOOD

SOFT_HU = 45.0
ORGAN_HU = {
    "liver": 62, "spleen": 52, "kidney_left": 34, "kidney_right": 34, "kidney_pelvis_left": 8, "kidney_pelvis_right": 8,
    "gallbladder": 8, "stomach": 28, "pancreas": 38, "small_bowel": 30, "jejunum": 34, "duodenum": 30, "colon": 24,
    "urinary_bladder": 6, "prostate": 40, "thyroid_gland": 95, "brain": 37, "white_matter": 28, "spinal_cord": 32,
    "spinal_canal": 8,
    "myocardium": 50, "costal_cartilages": 95, "airway": -960, "trachea": -980, "colon_gas": -900, "stomach_gas": -900,
    "fat": -105, "visceral_fat": -98, "muscle": 55, "parotid_gland": 5, "limb_bone": 800, "esophagus": 32,
}  # fmt: skip
LUNG_HU = (-870.0, -800.0)
BLOOD_HU = 40.0
MARROW_HU = (90.0, 230.0)
CORTEX_HU = (500.0, 900.0)
CORTEX_MM = 2.2
LESION_HU = {1: 520.0, 2: 70.0, 3: 42.0}
TEXTURE_HU = 6.0
TABLE_HU = -150.0
TABLE_MM = 9.0
LOWEST_HU, HIGHEST_HU = -1024, 3071


def canvas_hu(rng: np.random.Generator, canvas: Canvas, *, is_lesion: np.ndarray) -> np.ndarray:
    """Hounsfield units of a patient on the canvas, int16 (z, y, x), without noise."""
    table = np.full(256, SOFT_HU, dtype=np.float32)
    table[0] = AIR_HU
    table[[tissue_number(name) for name in BLOOD]] = BLOOD_HU
    table[[tissue_number(name) for name in LUNGS]] = rng.uniform(*LUNG_HU)
    for name, organ_hu in ORGAN_HU.items():
        table[tissue_number(name)] = organ_hu
    marrow, cortex = rng.uniform(*MARROW_HU), rng.uniform(*CORTEX_HU)
    bones = np.zeros(256, dtype=bool)
    bones[list(labels_of(Organ.BONE))] = True
    bones[Tissue.LIMB_BONE] = True
    table[bones] = marrow
    hu: np.ndarray = table[canvas.tissue]
    hu += TEXTURE_HU * np.where(canvas.tissue > 0, canvas.roughness, np.float32(0))
    is_bone = bones[canvas.tissue]
    steps = max(1, round(CORTEX_MM / canvas.spacing_mm))
    hu[is_bone & ~ndimage.binary_erosion(is_bone, iterations=steps)] = cortex
    for kind, value in LESION_HU.items():
        hu[is_lesion == kind] = value
    clipped: np.ndarray = np.clip(hu, LOWEST_HU, HIGHEST_HU).astype(np.int16)
    return clipped


def scan_ct(
    rng: np.random.Generator,
    hu: sitk.Image,
    *,
    grid: Grid,
    to_patient: sitk.Transform,
    noise_hu: float,
    table_top_mm: float,
) -> sitk.Image:
    """CT on a scanner's grid, int16 HU, with noise and a table whose top lies at y = `table_top_mm`."""
    image = sitk.Resample(
        hu,
        grid.size_xyz,
        to_patient,
        sitk.sitkLinear,
        grid.origin_mm_xyz,
        grid.spacing_mm_xyz,
        grid.direction,
        AIR_HU,
        sitk.sitkInt16,
    )
    voxels = to_array(image)
    del image
    in_table = _table(grid, table_top_mm)
    for z in range(voxels.shape[0]):
        part = voxels[z].astype(np.float32)
        part[in_table & (part < -500)] = TABLE_HU
        part += noise_hu * rng.standard_normal(part.shape, dtype=np.float32)
        voxels[z] = np.clip(np.rint(part), LOWEST_HU, HIGHEST_HU).astype(np.int16)
    return to_image(voxels, grid)


def _table(grid: Grid, top_mm: float) -> np.ndarray:
    """Boolean (y, x): the shell of a curved table."""
    x = grid.origin_mm_xyz[0] + np.arange(grid.size_xyz[0]) * grid.spacing_mm_xyz[0]
    y = grid.origin_mm_xyz[1] + np.arange(grid.size_xyz[1]) * grid.spacing_mm_xyz[1]
    middle = float(x.mean())
    depth = y[:, None] - top_mm + 25.0 * ((x[None, :] - middle) / 200.0) ** 2
    shell: np.ndarray = (depth > 0) & (depth < TABLE_MM) & (np.abs(x[None, :] - middle) < 200.0)
    return shell
