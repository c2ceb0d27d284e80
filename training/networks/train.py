"""Training one fold of one network, continued where it was interrupted, and validated as nnU-Net does."""

from __future__ import annotations

import json
import logging
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import torch

from petct.errors import CaseError
from training.datasets.descriptions import dataset_name
from training.datasets.planning import CONFIGURATION, narrow_plans
from training.folds.splits import SPLITS_NAME
from training.networks.checkpoints import FINAL, resume_point, write_whole
from training.networks.environment import LOADER_PROCESSES, variable
from training.networks.jobs import Job, is_trained, is_validated, plans_name, results_folder
from training.networks.locks import held
from training.networks.recipe import NetworkRecipe, TrainerName

__all__ = ["build_trainer", "is_trained", "plans_name", "results_folder", "seed_of", "train_fold", "trainer_iterations"]

SEED = 20260
_CLOSING_S = 5.0
_BETWEEN_S = 0.1
NNUNET_ITERATIONS = 250  # of an epoch, in both of nnU-Net's own trainers
SAVE_EVERY = 10  # epochs; nnU-Net's 50 are hours, lost whenever a training is stopped
VALIDATION_SHARE = 5  # nnU-Net looks at one validation batch in five training batches

log = logging.getLogger(__name__)


def train_fold(
    network: NetworkRecipe, *, fold: int, nnunet: Path, device: torch.device, validate: bool = False
) -> Path:
    """Train a fold, or go on with it; what is finished is left as it is.

    The seed is the fold's, so the demo's trainer gives the same network twice on one machine's CPU. nnU-Net's own
    trainers do not: their loaders are processes that nnU-Net seeds from the system's entropy and whose batches are
    taken as they come, and a GPU's kernels add up in any order.

    Args:
        network: The network.
        fold: The fold.
        nnunet: Folder with nnU-Net's three folders, in the environment already, with the data set preprocessed.
        device: Where to train.
        validate: Whether to predict the fold's validation scans at the end, as nnU-Net's own command does.

    Returns:
        The fold's results folder, with checkpoint_final.pth, and validation/summary.json when asked for.

    Raises:
        CaseError: The data set is not preprocessed.
        LockedError: Another process trains the fold.
    """
    job = Job(network, fold)
    folder = job.folder(nnunet)
    with held(job.lock(nnunet)), loader_processes(network, device=device):
        if is_trained(network, fold=fold, nnunet=nnunet):
            log.info("%s fold %d is trained already", network.model, fold)
            if not validate or is_validated(job, nnunet=nnunet):
                return folder
            trainer = build_trainer(network, fold=fold, nnunet=nnunet, device=device, continues=True)
            trainer.load_checkpoint(str(folder / FINAL))
        else:
            trainer = _train(job, nnunet=nnunet, device=device)
        if validate:
            log.info("%s: validation", job.name)
            trainer.perform_actual_validation(False)
    return folder


def _train(job: Job, *, nnunet: Path, device: torch.device) -> Any:
    """Train a job to its end; returns its trainer."""
    point = resume_point(job.folder(nnunet))
    trainer = build_trainer(job.network, fold=job.fold, nnunet=nnunet, device=device, continues=point is not None)
    _make_splits(trainer, preprocessed=nnunet / "nnUNet_preprocessed" / dataset_name(job.network.dataset))
    write_whole(trainer)
    if point is not None:
        trainer.load_checkpoint(str(point.checkpoint))
        log.info("%s fold %d goes on at epoch %d", job.network.model, job.fold, trainer.current_epoch)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # as nnU-Net's own command sets it
    try:
        trainer.run_training()
    finally:
        close_loaders(trainer)
    return trainer


def build_trainer(
    network: NetworkRecipe, *, fold: int, nnunet: Path, device: torch.device, continues: bool = False
) -> Any:
    """nnU-Net's trainer for one fold, initialised and seeded, before its first epoch.

    Args:
        network: The network.
        fold: The fold.
        nnunet: Folder with nnU-Net's three folders; the results go where the environment says.
        device: Where to train.
        continues: Whether a checkpoint will be loaded.

    Raises:
        CaseError: The data set is not preprocessed, or has no label of the focus's name.
    """
    preprocessed = nnunet / "nnUNet_preprocessed" / dataset_name(network.dataset)
    if not (preprocessed / "preprocessing_done").exists():
        rule = f"data set must be made first, by `python -m training dataset {network.dataset}`"
        raise CaseError(network.model, rule)
    plans = _read_plans(network, preprocessed=preprocessed)
    plans["continue_training"] = continues
    dataset_json = json.loads((preprocessed / "dataset.json").read_text(encoding="utf-8"))
    focus_label = dataset_json["labels"].get(network.focus)
    if network.focus and focus_label is None:
        raise CaseError(network.model, f"focus must be a label of {dataset_name(network.dataset)}", network.focus)
    _seed(seed_of(network, fold=fold))
    trainer = _trainer_class(network.trainer)(plans, CONFIGURATION, fold, dataset_json, device)
    trainer.save_every = min(trainer.save_every, SAVE_EVERY)
    if network.epochs is not None:
        trainer.num_epochs = network.epochs
    if network.iterations is not None:
        trainer.num_iterations_per_epoch = network.iterations
        trainer.num_val_iterations_per_epoch = max(1, network.iterations // VALIDATION_SHARE)
    if network.focus:
        trainer.focus_label = focus_label
    trainer.initialize()
    return trainer


def trainer_iterations(name: TrainerName) -> int:
    """Iterations of an epoch by the trainer's own choice."""
    if name is TrainerName.SHORT:
        from training.networks import trainer

        return trainer.ITERATIONS_PER_EPOCH
    return NNUNET_ITERATIONS


def seed_of(network: NetworkRecipe, *, fold: int) -> int:
    """The seed of a fold's training."""
    return SEED + 1000 * fold + network.dataset


@contextmanager
def loader_processes(network: NetworkRecipe, *, device: torch.device) -> Iterator[None]:
    """How many processes load and augment, unless the user has said so.

    None for the demo's trainer, whose loader is cheap and would take the core that the network needs; one beside
    nnU-Net's own trainers on a CPU; on a GPU what nnU-Net chooses.
    """
    is_short = network.trainer is TrainerName.SHORT
    if LOADER_PROCESSES in os.environ or (device.type == "cuda" and not is_short):
        yield
    else:
        with variable(LOADER_PROCESSES, "0" if is_short else "1"):
            yield


def close_loaders(trainer: Any) -> None:
    """End the processes that load and augment, which nnU-Net does only after a training that has come to its end."""
    for loader in (trainer.dataloader_train, trainer.dataloader_val):
        if hasattr(loader, "_finish"):
            _take_what_is_loaded(loader)
            loader._finish()


def _take_what_is_loaded(loader: Any) -> None:
    """Empty a loader's queue while its processes still live: what is fetched from one that has ended is an error."""
    if loader.pause_event is None:
        return
    loader.pause_event.set()
    give_up_s = time.monotonic() + _CLOSING_S
    while time.monotonic() < give_up_s and not loader._queue.empty():
        with suppress(Empty):
            loader.results_loop_queue.get(timeout=_BETWEEN_S)
    time.sleep(_BETWEEN_S)  # the last one is being fetched


def _read_plans(network: NetworkRecipe, *, preprocessed: Path) -> dict[str, Any]:
    """A network's plans; narrow ones are written first, by one process at a time."""
    path = preprocessed / f"{plans_name(network)}.json"
    if network.narrow is None:
        plans = json.loads(path.read_text(encoding="utf-8"))
    else:
        with held(preprocessed / ".narrow_plans.lock", wait=True):
            narrow_plans(preprocessed, architecture=network.architecture, network=network.narrow)
            plans = json.loads(path.read_text(encoding="utf-8"))
    return dict(plans)


def _make_splits(trainer: Any, *, preprocessed: Path) -> None:
    """Let nnU-Net make its own folds where nobody has given any, before a second fold reads a half-written file."""
    with held(preprocessed / ".splits.lock", wait=True):
        if not (preprocessed / SPLITS_NAME).exists():
            trainer.do_split()


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
