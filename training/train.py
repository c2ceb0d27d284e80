"""Training one fold of one network, continued where it was interrupted."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path

import numpy as np
import torch

from petct.errors import CaseError
from training.datasets import dataset_name
from training.planning import CONFIGURATION, narrow_plans
from training.recipe import NetworkRecipe

SEED = 20260

log = logging.getLogger(__name__)


def results_folder(network: NetworkRecipe, *, nnunet: Path, plans: str) -> Path:
    """Where nnU-Net puts what a network's folds share: `.../ShortTrainer__<plans>__3d_fullres`."""
    return nnunet / "nnUNet_results" / dataset_name(network.dataset) / f"ShortTrainer__{plans}__{CONFIGURATION}"


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
    from training.trainer import ShortTrainer

    preprocessed = nnunet / "nnUNet_preprocessed" / dataset_name(network.dataset)
    if not (preprocessed / "preprocessing_done").exists():
        raise CaseError(network.name, f"data set must be made first, by `python -m training dataset {network.dataset}`")
    plans_name = narrow_plans(preprocessed, architecture=network.architecture, network=network.narrow)
    folder = results_folder(network, nnunet=nnunet, plans=plans_name) / f"fold_{fold}"
    if (folder / "checkpoint_final.pth").exists():
        log.info("%s fold %d is trained already", network.name, fold)
        return folder
    latest = folder / "checkpoint_latest.pth"
    plans = json.loads((preprocessed / f"{plans_name}.json").read_text(encoding="utf-8"))
    plans["continue_training"] = latest.exists()
    dataset_json = json.loads((preprocessed / "dataset.json").read_text(encoding="utf-8"))
    focus_label = dataset_json["labels"].get(network.focus)
    if network.focus and focus_label is None:
        raise CaseError(network.name, f"focus must be a label of {dataset_name(network.dataset)}", network.focus)
    _seed(SEED + 1000 * fold + network.dataset)
    trainer = ShortTrainer(plans, CONFIGURATION, fold, dataset_json, device)
    trainer.num_epochs = network.epochs
    trainer.focus_label = focus_label
    trainer.initialize()
    if latest.exists():
        trainer.load_checkpoint(str(latest))
        log.info("%s fold %d goes on at epoch %d", network.name, fold, trainer.current_epoch)
    trainer.run_training()
    return folder


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - nnU-Net's loader draws from numpy's global generator
    torch.manual_seed(seed)
