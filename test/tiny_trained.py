"""Tiny nnU-Nets in the places where a recipe's training leaves them, and the recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from petct.channels import ClipHU, OrganEncoding
from petct.manifest import Architecture
from tiny_nnunet import make_results
from tiny_organ_net import write_tiny_fold
from training.datasets.descriptions import ORGAN_DATASET_ID, dataset_name
from training.datasets.provenance import DatasetProvenance, write_provenance

PATIENTS = ("train_0001", "train_0002", "train_0007")
CLIP = ClipHU(low_hu=-20.5, high_hu=180.0)
DIGESTS = {801: "8" * 64, 802: "2" * 64, 912: "9" * 64}
_PLANS = {Architecture.PLAIN: "nnUNetPlans", Architecture.RESENC_M: "nnUNetResEncUNetMPlans"}

# As in the authors' final choice: two folds of one model count differently, and one network has 250 epochs.
RECIPE = """
[[networks]]
datasets = [801]
architectures = ["plain"]
trainer = "nnUNetTrainer"
folds = [0]
weight = 1.0

[[networks]]
datasets = [802]
architectures = ["plain"]
trainer = "nnUNetTrainer"
folds = [0]
weight = 2.0

[[networks]]
datasets = [802]
architectures = ["plain"]
trainer = "nnUNetTrainer"
folds = [1]
weight = 1.0

[[networks]]
datasets = [912]
architectures = ["resenc_m"]
trainer = "nnUNetTrainer_250epochs"
folds = [4]
weight = 1.0
"""
ORGAN_NETWORK = """
[[networks]]
datasets = [298]
architectures = ["plain"]
trainer = "nnUNetTrainer"
folds = [0]
weight = 1.0
"""


def write_trained(root: Path) -> Path:
    """nnU-Net's three folders with all that the recipe trains; 802's CT was clipped. Returns their folder."""
    nnunet = root / "nnunet"
    _results(nnunet, 801, Architecture.PLAIN, folds=(0,), clip=None)
    _results(nnunet, 802, Architecture.PLAIN, folds=(0, 1), clip=CLIP)
    _results(nnunet, 912, Architecture.RESENC_M, folds=(4,), clip=None, trainer="nnUNetTrainer_250epochs")
    return nnunet


def write_organ_network(nnunet: Path) -> Path:
    """Adds the organ network that is written by hand; returns nnU-Net's results folder of it."""
    trained = write_tiny_fold(nnunet / "organs").parent
    place = nnunet / "nnUNet_results" / dataset_name(ORGAN_DATASET_ID) / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    place.parent.mkdir(parents=True)
    return trained.rename(place)


def fold_folder(nnunet: Path, number: int, fold: int) -> Path:
    (folder,) = (nnunet / "nnUNet_results" / dataset_name(number)).glob(f"*/fold_{fold}")
    return folder


def change_checkpoint(nnunet: Path, number: int, fold: int, **changes: Any) -> None:
    path = fold_folder(nnunet, number, fold) / "checkpoint_final.pth"
    torch.save(torch.load(path, weights_only=False) | changes, path)


def _results(
    nnunet: Path,
    number: int,
    architecture: Architecture,
    *,
    folds: tuple[int, ...],
    clip: ClipHU | None,
    trainer: str = "nnUNetTrainer",
) -> None:
    name = dataset_name(number)
    encoding = OrganEncoding.BINARY if number > 900 else OrganEncoding.NONE
    made = make_results(nnunet / "made", architecture=architecture, dataset_id=number, folds=folds, encoding=encoding)
    place = nnunet / "nnUNet_results" / name / f"{trainer}__{_PLANS[architecture]}__3d_fullres"
    place.parent.mkdir(parents=True)
    made.rename(place)
    # What nnU-Net says of the data: beside the preprocessed data set, and kept with the training.
    for folder in (place, nnunet / "nnUNet_preprocessed" / name):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dataset_fingerprint.json").write_text(json.dumps({"spacings": [number]}), encoding="utf-8")
    epochs = 250 if trainer.endswith("_250epochs") else 1000
    for fold in folds:
        logging = {"dice_per_class_or_region": [[0.1, 0.2], [0.5 + fold / 10, float("nan")]]}
        change_checkpoint(nnunet, number, fold, trainer_name=trainer, current_epoch=epochs, logging=logging)
        debug = {
            "num_iterations_per_epoch": "250",
            "torch_version": "2.7.1",
            "gpu_name": "NVIDIA T4",
            "fold": str(fold),
        }
        (place / f"fold_{fold}" / "debug.json").write_text(json.dumps(debug), encoding="utf-8")
    raw = nnunet / "nnUNet_raw" / name
    raw.mkdir(parents=True)
    write_provenance(
        raw,
        DatasetProvenance(
            patients=PATIENTS,
            corrected=PATIENTS[:1] if number == 912 else (),
            left_out=("train_0003",),
            organs_computed=PATIENTS[1:],
            clip=clip,
            sha256=DIGESTS[number],
        ),
    )
