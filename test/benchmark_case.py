"""A patient that tiny nnU-Nets find disease in, and a manifest of such networks, for benchmarks of both ways."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from cases import grid_around
from petct.case import Tracer
from petct.channels import ClipHU, OrganEncoding
from petct.folders import SCAN_FOLDERS
from petct.geometry import resample_ct, resample_labels, to_image
from petct.manifest import Architecture, Checkpoint, Member
from petct.organs import label_number
from tiny_nnunet import make_results, tiny_channels
from training.weights.pack import pack_model
from whole_case import Models, stand_in_models, write_manifest

CROP = {Tracer.PSMA: (slice(None), slice(1, 38), slice(2, 49)), Tracer.FDG: (slice(1, 24), slice(0, 36), slice(None))}
SEEDS = {Tracer.PSMA: 5, Tracer.FDG: 8}
THRESHOLDS_SUV = {Tracer.PSMA: 3.0, Tracer.FDG: 2.41}
CENTRES_MM = {Tracer.PSMA: (12.0, 8.0, -420.0), Tracer.FDG: (40.0, -25.0, 310.0)}
PET_GRIDS = {
    Tracer.PSMA: grid_around(
        CENTRES_MM[Tracer.PSMA], shape_zyx=(25, 37, 47), spacing_mm_xyz=(3.1, 2.6, 4.4), turned_deg_xyz=(8.0, -5.0, 9.0)
    ),
    Tracer.FDG: grid_around(
        CENTRES_MM[Tracer.FDG], shape_zyx=(23, 36, 49), spacing_mm_xyz=(2.9, 3.2, 4.1), turned_deg_xyz=(-6.0, 4.0, 5.0)
    ),
}
CT_GRIDS = {
    Tracer.PSMA: grid_around(
        CENTRES_MM[Tracer.PSMA], shape_zyx=(50, 60, 71), spacing_mm_xyz=(2.2, 1.9, 2.4), turned_deg_xyz=(3.0, 5.0, -7.0)
    ),
    Tracer.FDG: grid_around(
        CENTRES_MM[Tracer.FDG], shape_zyx=(47, 66, 74), spacing_mm_xyz=(2.1, 1.8, 2.3), turned_deg_xyz=(0.0, 2.0, 9.0)
    ),
}
ANATOMY = ("vertebrae_L3", "liver", "spleen", "hip_left", "urinary_bladder")
CLIP = ClipHU(low_hu=-500.0, high_hu=350.0)


def write_benchmark_case(folder: Path) -> Path:
    """The patient in the training set's layout; returns its folder."""
    for tracer, name in SCAN_FOLDERS.items():
        (folder / name).mkdir(parents=True)
        pet_ratio, hu = tiny_channels(seed=SEEDS[tracer])[(slice(None), *CROP[tracer])]
        noise = np.random.default_rng(SEEDS[tracer]).random(pet_ratio.shape, dtype=np.float32)
        pet_suv = (pet_ratio + 0.1 * noise) * np.float32(THRESHOLDS_SUV[tracer])
        numbers, _ = ndimage.label(pet_ratio > 0)
        names = np.array([0, *(label_number(ANATOMY[n % len(ANATOMY)]) for n in range(numbers.max()))], dtype=np.uint8)
        ct = sitk.Cast(resample_ct(to_image(hu, PET_GRIDS[tracer]), CT_GRIDS[tracer]), sitk.sitkInt16)
        organs = resample_labels(to_image(names[numbers], PET_GRIDS[tracer]), CT_GRIDS[tracer])
        sitk.WriteImage(to_image(pet_suv, PET_GRIDS[tracer]), folder / name / "PET.nii.gz")
        sitk.WriteImage(ct, folder / name / "CT.nii.gz")
        sitk.WriteImage(organs, folder / name / "totseg_24.nii.gz")
        (folder / name / "threshold.json").write_text(json.dumps({"suv_threshold": THRESHOLDS_SUV[tracer]}))
    return folder


def write_benchmark_manifest(folder: Path) -> Path:
    """Soft distances and a clipped CT for PSMA; masks of organs and two folds for FDG."""
    members = {
        Tracer.PSMA: (
            _member(folder, "soft", Architecture.PLAIN, 921, (2,), encoding=OrganEncoding.SOFT_DISTANCE, clip=CLIP),
        ),
        Tracer.FDG: (
            _member(folder, "masks", Architecture.RESENC_M, 902, (0, 3), encoding=OrganEncoding.BINARY, clip=None),
        ),
    }
    organ_weights = stand_in_models(folder / "organs").organ_weights
    return write_manifest(Models(folder=folder, members=members, organ_weights=organ_weights))


def _member(
    folder: Path,
    name: str,
    architecture: Architecture,
    dataset_id: int,
    folds: tuple[int, ...],
    *,
    encoding: OrganEncoding,
    clip: ClipHU | None,
) -> Member:
    results = make_results(
        folder / "results", architecture=architecture, dataset_id=dataset_id, folds=folds, encoding=encoding
    )
    digests = pack_model(results, folds=folds, destination=folder / name, clip=clip, provenance={"data": "none"})
    return Member(
        name=name,
        folder=folder / name,
        architecture=architecture,
        dataset_id=dataset_id,
        folds=folds,
        checkpoint=Checkpoint.FINAL,
        organ_encoding=encoding,
        weight=1.0,
        sha256=digests,
    )
