"""Tiny cases for tests: no cubes, three spacings, rotated grids, and no two scans on the same one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from petct.geometry import Grid, to_image
from platform_case import write_platform_case

FDG_CENTRE_MM = (40.0, -25.0, 310.0)
PSMA_CENTRE_MM = (12.0, 8.0, -420.0)


def grid_around(centre_mm, *, shape_zyx, spacing_mm_xyz, turned_deg_xyz):
    """A grid whose middle lies at a point, turned about that point by Euler angles."""
    direction = Rotation.from_euler("xyz", turned_deg_xyz, degrees=True).as_matrix()
    middle = (np.array(shape_zyx[::-1]) - 1) / 2.0
    origin = np.array(centre_mm) - direction @ (middle * np.array(spacing_mm_xyz))
    return Grid(
        shape_zyx=tuple(shape_zyx),
        spacing_mm_xyz=tuple(spacing_mm_xyz),
        origin_mm_xyz=tuple(origin.tolist()),
        direction=tuple(direction.ravel().tolist()),
    )


PET_GRIDS = {
    "PSMA": grid_around(
        PSMA_CENTRE_MM, shape_zyx=(11, 9, 7), spacing_mm_xyz=(4.0, 5.0, 3.0), turned_deg_xyz=(8.0, -5.0, 12.0)
    ),
    "FDG": grid_around(
        FDG_CENTRE_MM, shape_zyx=(12, 8, 10), spacing_mm_xyz=(3.5, 4.0, 2.5), turned_deg_xyz=(-6.0, 4.0, 15.0)
    ),
}
CT_GRIDS = {
    "PSMA": grid_around(
        PSMA_CENTRE_MM, shape_zyx=(14, 21, 18), spacing_mm_xyz=(1.5, 2.0, 2.5), turned_deg_xyz=(3.0, 5.0, -7.0)
    ),
    "FDG": grid_around(
        FDG_CENTRE_MM, shape_zyx=(15, 17, 22), spacing_mm_xyz=(1.6, 1.9, 2.2), turned_deg_xyz=(0.0, 2.0, 9.0)
    ),
}
THRESHOLDS_SUV = {"PSMA": 3.0, "FDG": 2.41}


def pet_image(scan="PSMA"):
    """Noise below 1 SUV and one hot voxel of 20 SUV at (z, y, x) = (3, 2, 4)."""
    grid = PET_GRIDS[scan]
    pet_suv = np.random.default_rng(1).random(grid.shape_zyx).astype(np.float32)
    pet_suv[3, 2, 4] = 20.0
    return to_image(pet_suv, grid)


def ct_image(scan="PSMA"):
    """Air and tissue in HU."""
    grid = CT_GRIDS[scan]
    return to_image(np.random.default_rng(2).integers(-1000, 400, grid.shape_zyx, dtype=np.int16), grid)


def organ_image(scan="PSMA", *, pixel=np.uint8):
    """Every one of TotalSegmentator's labels, 0 and 117 among them."""
    grid = CT_GRIDS[scan]
    return to_image((np.arange(np.prod(grid.shape_zyx)) % 118).reshape(grid.shape_zyx).astype(pixel), grid)


def write_training_case(folder: Path, *, has_organs: bool = True, suffix: str = ".nii.gz") -> Path:
    """A case in the training set's layout; returns its folder."""
    for scan in ("PSMA", "FDG"):
        (folder / scan).mkdir(parents=True)
        sitk.WriteImage(pet_image(scan), folder / scan / f"PET{suffix}")
        sitk.WriteImage(ct_image(scan), folder / scan / f"CT{suffix}")
        if has_organs:
            sitk.WriteImage(organ_image(scan), folder / scan / f"totseg_24{suffix}")
        (folder / scan / "threshold.json").write_text(json.dumps({"suv_threshold": THRESHOLDS_SUV[scan]}))
    sitk.WriteTransform(sitk.Euler3DTransform(FDG_CENTRE_MM, 0.1, 0.0, 0.2, (5.0, 6.0, 7.0)), folder / "FDG/rigid.tfm")
    return folder


def write_input(folder: Path, **options) -> Path:
    """The same case as the platform lays it out; `options` are those of `write_platform_case`. Returns its folder."""
    training = write_training_case(folder / "training")
    write_platform_case(training, input_dir=folder / "input", **options)
    return folder / "input"
