"""Tiny patients in the training set's layout, with truth: a few seconds of nnU-Net each, and every label in them."""

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from cases import PET_GRIDS, THRESHOLDS_SUV, write_training_case
from petct.geometry import to_image

# (z, y, x) boxes and voxels that both scans' PET have room for.
DISEASE = (slice(2, 5), slice(1, 4), slice(1, 3))
NORMAL = (slice(6, 9), slice(4, 7), slice(3, 6))
FAINT_DISEASE = (5, 2, 1)  # drawn by the physician, below the threshold
AT_THRESHOLD = (9, 1, 1)
BELOW_THRESHOLD = (9, 5, 2)


def write_patients(folder: Path, *, count: int) -> Path:
    """`train_0000`, `train_0001`, ...; returns the folder."""
    for seed in range(count):
        write_patient(folder / f"train_{seed:04d}", seed=seed)
    return folder


def write_patient(folder: Path, *, seed: int = 0, has_organs: bool = True) -> Path:
    """A patient with disease at 20 SUV and normal uptake at 8 SUV in noise; returns its folder."""
    write_training_case(folder, has_organs=has_organs)
    for scan, grid in PET_GRIDS.items():
        pet_suv = np.random.default_rng(seed).random(grid.shape_zyx).astype(np.float32)
        pet_suv[DISEASE] += 20.0
        pet_suv[NORMAL] += 8.0
        pet_suv[AT_THRESHOLD] = THRESHOLDS_SUV[scan]
        pet_suv[BELOW_THRESHOLD] = np.nextafter(np.float32(THRESHOLDS_SUV[scan]), np.float32(0.0))
        truth = np.zeros(grid.shape_zyx, dtype=np.uint8)
        truth[DISEASE] = truth[FAINT_DISEASE] = 1
        sitk.WriteImage(to_image(pet_suv, grid), folder / scan / "PET.nii.gz")
        sitk.WriteImage(to_image(truth, grid), folder / scan / "TTB.nii.gz")
    return folder


def write_recipe(path: Path, *networks: dict[str, object]) -> Path:
    """A recipe of tiny networks; each argument changes one network's values. Returns its path."""
    tiny = {
        "datasets": [901],
        "architectures": ["plain"],
        "trainer": "ShortTrainer",
        "folds": [0],
        "epochs": 1,
        "weight": 1.0,
    }
    narrow = {"features": [4, 8, 8], "blocks": [1, 1, 1], "patch_zyx": [4, 12, 8], "batch_size": 2}
    # JSON's texts, numbers and lists are TOML's too.
    blocks = []
    for network in networks:
        table = tiny | {key: value for key, value in network.items() if key not in narrow}
        inner = narrow | {key: value for key, value in network.items() if key in narrow}
        blocks.append("\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items()))
        blocks[-1] += "\n[networks.narrow]\n"
        blocks[-1] += "\n".join(f"{key} = {json.dumps(value)}" for key, value in inner.items())
    path.write_text("".join(f"[[networks]]\n{block}\n" for block in blocks), encoding="utf-8")
    return path
