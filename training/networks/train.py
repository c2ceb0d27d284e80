"""Training one fold of one network, continued where it was interrupted."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from petct.errors import CaseError
from training.datasets.descriptions import dataset_name
from training.datasets.planning import CONFIGURATION, NNUNET_PLANS, narrow_identifier, narrow_plans
from training.networks.recipe import NetworkRecipe, TrainerName

SEED = 20260
VALIDATION_SHARE = 5  # nnU-Net looks at one validation batch in five training batches

log = logging.getLogger(__name__)


def plans_name(network: NetworkRecipe) -> str:
    """The identifier of the plans that a network is trained with."""
    return NNUNET_PLANS[network.architecture] if network.narrow is None else narrow_identifier(network.architecture)


def results_folder(network: NetworkRecipe, *, nnunet: Path) -> Path:
    """Where nnU-Net puts what a network's folds share: `.../<trainer>__<plans>__3d_fullres`."""
    name = f"{network.trainer}__{plans_name(network)}__{CONFIGURATION}"
    return nnunet / "nnUNet_results" / dataset_name(network.dataset) / name


def is_trained(network: NetworkRecipe, *, fold: int, nnunet: Path) -> bool:
    """Whether a fold is trained to its end."""
    return (results_folder(network, nnunet=nnunet) / f"fold_{fold}" / "checkpoint_final.pth").is_file()


def train_fold(network: NetworkRecipe, *, fold: int, nnunet: Path, device: torch.device) -> Path:
    """Train a fold, or go on with it; a finished one is left as it is.

    Args:
        network: The network.
        fold: The fold.
        nnunet: Folder with nnU-Net's three folders, in the environment already, with the data set preprocessed.
        device: Where to train.

    Returns:
        The fold's results folder, with checkpoint_final.pth.

    Raises:
        CaseError: The data set is not preprocessed.
    """
    folder = results_folder(network, nnunet=nnunet) / f"fold_{fold}"
    if is_trained(network, fold=fold, nnunet=nnunet):
        log.info("%s fold %d is trained already", network.model, fold)
        return folder
    trainer = build_trainer(network, fold=fold, nnunet=nnunet, device=device)
    latest = folder / "checkpoint_latest.pth"
    if latest.exists():
        trainer.load_checkpoint(str(latest))
        log.info("%s fold %d goes on at epoch %d", network.model, fold, trainer.current_epoch)
    trainer.run_training()
    return folder


def build_trainer(network: NetworkRecipe, *, fold: int, nnunet: Path, device: torch.device) -> Any:
    """nnU-Net's trainer for one fold, initialised and seeded, before its first epoch.

    Raises:
        CaseError: The data set is not preprocessed, or has no label of the focus's name.
    """
    preprocessed = nnunet / "nnUNet_preprocessed" / dataset_name(network.dataset)
    if not (preprocessed / "preprocessing_done").exists():
        rule = f"data set must be made first, by `python -m training dataset {network.dataset}`"
        raise CaseError(network.model, rule)
    if network.narrow is not None:
        narrow_plans(preprocessed, architecture=network.architecture, network=network.narrow)
    plans = json.loads((preprocessed / f"{plans_name(network)}.json").read_text(encoding="utf-8"))
    latest = results_folder(network, nnunet=nnunet) / f"fold_{fold}" / "checkpoint_latest.pth"
    plans["continue_training"] = latest.exists()
    dataset_json = json.loads((preprocessed / "dataset.json").read_text(encoding="utf-8"))
    focus_label = dataset_json["labels"].get(network.focus)
    if network.focus and focus_label is None:
        raise CaseError(network.model, f"focus must be a label of {dataset_name(network.dataset)}", network.focus)
    _seed(SEED + 1000 * fold + network.dataset)
    trainer = _trainer_class(network.trainer)(plans, CONFIGURATION, fold, dataset_json, device)
    if network.epochs is not None:
        trainer.num_epochs = network.epochs
    if network.iterations is not None:
        trainer.num_iterations_per_epoch = network.iterations
        trainer.num_val_iterations_per_epoch = max(1, network.iterations // VALIDATION_SHARE)
    if network.focus:
        trainer.focus_label = focus_label
    trainer.initialize()
    return trainer


def _trainer_class(name: TrainerName) -> Any:
    # Imported here, because each brings all of nnU-Net's training along.
    if name is TrainerName.SHORT:
        from training.networks.trainer import ShortTrainer

        return ShortTrainer
    if name is TrainerName.EPOCHS_250:
        from nnunetv2.training.nnUNetTrainer.variants.training_length.nnUNetTrainer_Xepochs import (
            nnUNetTrainer_250epochs,
        )

        return nnUNetTrainer_250epochs
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    return nnUNetTrainer


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - nnU-Net's loader draws from numpy's global generator
    torch.manual_seed(seed)
