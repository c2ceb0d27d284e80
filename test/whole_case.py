"""A patient for the whole method, spots of uptake in boxes of anatomy on rotated grids, and manifests for it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from cases import grid_around
from petct.case import Tracer
from petct.channels import OrganEncoding
from petct.folders import SCAN_FOLDERS
from petct.geometry import to_image
from petct.manifest import (
    Architecture,
    Backend,
    Checkpoint,
    Manifest,
    Member,
    Mode,
    OrganSettings,
    OrganTask,
    Refinement,
    TracerSettings,
)
from petct.organs import Organ, label_number
from segmentation.totalsegmentator import WEIGHT_FILES, model_folders
from segmentation.weight_files import fold_file, sha256_of
from tiny_organ_net import BLOCK_HU, TISSUE_HU
from training.weights.manifest_text import manifest_toml

_CENTRES_MM = {Tracer.PSMA: (12.0, 8.0, -420.0), Tracer.FDG: (40.0, -25.0, 310.0)}
PET_GRIDS = {
    Tracer.PSMA: grid_around(
        _CENTRES_MM[Tracer.PSMA],
        shape_zyx=(26, 19, 21),
        spacing_mm_xyz=(4.0, 5.0, 3.0),
        turned_deg_xyz=(8.0, -5.0, 12.0),
    ),
    Tracer.FDG: grid_around(
        _CENTRES_MM[Tracer.FDG],
        shape_zyx=(28, 21, 23),
        spacing_mm_xyz=(3.5, 4.0, 2.5),
        turned_deg_xyz=(-6.0, 4.0, 15.0),
    ),
}
CT_GRIDS = {
    Tracer.PSMA: grid_around(
        _CENTRES_MM[Tracer.PSMA],
        shape_zyx=(24, 38, 46),
        spacing_mm_xyz=(2.1, 2.9, 3.6),
        turned_deg_xyz=(3.0, 5.0, -7.0),
    ),
    Tracer.FDG: grid_around(
        _CENTRES_MM[Tracer.FDG],
        shape_zyx=(30, 33, 41),
        spacing_mm_xyz=(2.4, 3.1, 2.7),
        turned_deg_xyz=(0.0, 2.0, 9.0),
    ),
}
THRESHOLDS_SUV = {Tracer.PSMA: 3.0, Tracer.FDG: 2.41}
BACKGROUND_SUV = 1.0
BLOCK = (slice(6, 18), slice(10, 28), slice(12, 32))  # of BLOCK_HU in the CT, (z, y, x)


@dataclass(frozen=True)
class Spot:
    """Uptake in 5 x 3 x 3 voxels inside an organ of 7 x 5 x 5, and what a network is to say of it.

    Attributes:
        centre_zyx: The middle voxel of the PET.
        anatomy: TotalSegmentator's name of the organ, or "" for none.
        suv: Uptake in all of its voxels.
        ttb: P(ttb) of the middle voxel.
        normal: P(normal) of the middle voxel's neighbour along x.
    """

    centre_zyx: tuple[int, int, int]
    anatomy: str
    suv: float
    ttb: float
    normal: float = 0.0

    def box(self, reach_zyx: tuple[int, int, int]) -> tuple[slice, slice, slice]:
        z, y, x = (slice(n - reach, n + reach + 1) for n, reach in zip(self.centre_zyx, reach_zyx, strict=True))
        return z, y, x


SPOTS = {
    Tracer.PSMA: (
        Spot((4, 4, 4), "vertebrae_L3", suv=21.0, ttb=0.6),
        Spot((4, 4, 15), "hip_left", suv=2.9, ttb=0.6),  # below the threshold: no disease in the hip after all
        Spot((4, 14, 4), "liver", suv=21.0, ttb=0.6),  # protected
        Spot((4, 14, 15), "spleen", suv=21.0, ttb=0.6),
        Spot((13, 4, 4), "", suv=21.0, ttb=0.3),  # enough for FDG only
        Spot((13, 4, 15), "vertebrae_L3", suv=21.0, ttb=0.6, normal=0.7),  # normal for PSMA only
    ),
    Tracer.FDG: (
        Spot((22, 4, 4), "vertebrae_L3", suv=5.0, ttb=0.3),  # supported by PSMA
        Spot((22, 4, 15), "hip_left", suv=5.0, ttb=0.6),  # not supported by anything
        Spot((22, 14, 4), "hip_left", suv=30.0, ttb=0.6),  # supported by its uptake
        Spot((22, 14, 15), "spleen", suv=16.9, ttb=0.6),  # protected
        Spot((13, 4, 4), "liver", suv=16.9, ttb=0.6),
        Spot((13, 4, 15), "", suv=5.0, ttb=0.6),
        Spot((13, 14, 4), "vertebrae_L3", suv=16.9, ttb=0.6, normal=0.7),
        Spot((13, 14, 15), "vertebrae_L3", suv=2.7, ttb=0.6),  # below PSMA's threshold
    ),
}
UNSUPPORTED = SPOTS[Tracer.FDG][1]

REFINEMENT = Refinement(
    psma_present=2.0,
    log_volume=0.0,
    suv_max=0.1,
    intercept=-1.5,
    keep_probability=0.5,
    keep_above_ml=7.0,
    keep_unlabelled=True,
)


def pet_suv(tracer):
    suv = np.full(PET_GRIDS[tracer].shape_zyx, BACKGROUND_SUV, dtype=np.float32)
    for spot in SPOTS[tracer]:
        suv[spot.box((2, 1, 1))] = spot.suv
    return suv


def ct_hu(tracer):
    """A block in tissue, and a slab of air at the feet."""
    hu = np.full(CT_GRIDS[tracer].shape_zyx, TISSUE_HU, dtype=np.int16)
    hu[BLOCK] = BLOCK_HU
    hu[0] = -1000
    return hu


def organ_labels(tracer):
    """TotalSegmentator's labels on the CT's grid: each CT voxel has the label of the PET voxel that it lies in."""
    grid = PET_GRIDS[tracer]
    on_pet = np.zeros(grid.shape_zyx, dtype=np.uint8)
    for spot in SPOTS[tracer]:
        on_pet[spot.box((3, 2, 2))] = label_number(spot.anatomy) if spot.anatomy else 0
    return nearest(on_pet, grid, at=CT_GRIDS[tracer])


def nearest(labels, grid, *, at):
    """The labels of a grid at the voxels of another one, by the definition: the voxel that the point lies in, or 0."""
    z, y, x = np.indices(at.shape_zyx).reshape(3, -1)
    direction, other = (np.reshape(one.direction, (3, 3)) for one in (grid, at))
    points_mm = other @ (np.array([x, y, z]) * np.reshape(at.spacing_mm_xyz, (3, 1))).astype(float)
    points_mm += np.reshape(np.subtract(at.origin_mm_xyz, grid.origin_mm_xyz), (3, 1))
    index = np.rint((direction.T @ points_mm) / np.reshape(grid.spacing_mm_xyz, (3, 1))).astype(int)
    inside = np.all((index >= 0) & (index < np.reshape(grid.size_xyz, (3, 1))), axis=0)
    found = np.zeros(inside.size, dtype=labels.dtype)
    x, y, z = index[:, inside]
    found[inside] = labels[z, y, x]
    return found.reshape(at.shape_zyx)


def write_case(folder: Path, *, has_organs: bool = True) -> Path:
    """The patient in the training set's layout; returns the folder."""
    for tracer, name in SCAN_FOLDERS.items():
        (folder / name).mkdir(parents=True)
        sitk.WriteImage(to_image(pet_suv(tracer), PET_GRIDS[tracer]), folder / name / "PET.nii.gz")
        sitk.WriteImage(to_image(ct_hu(tracer), CT_GRIDS[tracer]), folder / name / "CT.nii.gz")
        if has_organs:
            write_organs(folder, tracer, organ_labels(tracer))
        (folder / name / "threshold.json").write_text(json.dumps({"suv_threshold": THRESHOLDS_SUV[tracer]}))
    registration = sitk.Euler3DTransform((1.0, 2.0, 3.0), 0.1, 0.0, 0.2, (5.0, 6.0, 7.0))
    sitk.WriteTransform(registration, folder / "FDG" / "rigid.tfm")
    return folder


def write_organs(folder: Path, tracer: Tracer, labels) -> None:
    sitk.WriteImage(to_image(labels, CT_GRIDS[tracer]), folder / SCAN_FOLDERS[tracer] / "totseg_24.nii.gz")


@dataclass(frozen=True)
class Models:
    """The ensembles of both tracers and TotalSegmentator's weights, all below one folder."""

    folder: Path
    members: dict[Tracer, tuple[Member, ...]]
    organ_weights: Path


def stand_in_models(folder: Path) -> Models:
    """Files in the places of weights, with the right digests; nothing can be computed with them."""
    members = {}
    for tracer in Tracer:
        place = folder / f"{tracer}_member"
        files = ("plans.json", "dataset.json", "model.json", fold_file(0, "final"))
        for file in files:
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            (place / file).write_text(f"{tracer} {file}", encoding="utf-8")
        members[tracer] = (
            Member(
                name=place.name,
                folder=place,
                architecture=Architecture.PLAIN,
                dataset_id=801,
                folds=(0,),
                checkpoint=Checkpoint.FINAL,
                organ_encoding=OrganEncoding.NONE,
                weight=1.0,
                sha256={file: sha256_of(place / file) for file in files},
            ),
        )
    (model,) = model_folders(OrganTask.FASTEST)
    for file in WEIGHT_FILES:
        path = folder / "organs" / model / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}", encoding="utf-8")
    return Models(folder=folder, members=members, organ_weights=folder / "organs")


def write_manifest(
    models: Models,
    *,
    name: str = "tiny",
    warning: str = "",
    mode: Mode = Mode.EXACT,
    backend: Backend = Backend.TORCH,
    mirroring: bool = False,
    refinement: Refinement | None = REFINEMENT,
) -> Path:
    """A manifest whose settings differ from tracer to tracer in every number; returns its file."""
    path = models.folder / f"{name}.toml"
    (model,) = model_folders(OrganTask.FASTEST)
    files = [f"{model}/{file}" for file in WEIGHT_FILES]  # some tests have none
    manifest = Manifest(
        path=path,
        name=name,
        warning=warning,
        mode=mode,
        backend=backend,
        mirroring=mirroring,
        tile_step=0.5,
        organs=OrganSettings(
            task=OrganTask.FASTEST,
            weights=models.organ_weights,
            timeout_s=600.0,
            sha256={
                file: sha256_of(models.organ_weights / file)
                for file in files
                if (models.organ_weights / file).is_file()
            },
        ),
        psma=TracerSettings(
            members=models.members[Tracer.PSMA],
            ttb_probability=0.45,
            normal_probability=0.65,
            regrow_radius_mm=7.0,
            protected_organs=frozenset({Organ.LIVER}),
            refinement=None,
        ),
        fdg=TracerSettings(
            members=models.members[Tracer.FDG],
            ttb_probability=0.25,
            normal_probability=0.75,
            regrow_radius_mm=4.0,
            protected_organs=frozenset({Organ.SPLEEN}),
            refinement=refinement,
        ),
    )
    path.write_text(manifest_toml(manifest, comment="For tests."), encoding="utf-8")
    return path
