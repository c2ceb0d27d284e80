"""The jobs of a recipe, one fold of one network each, and how far each of them is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from petct.errors import CaseError
from training.datasets.descriptions import dataset_name
from training.datasets.planning import CONFIGURATION, NNUNET_PLANS, narrow_identifier
from training.networks.checkpoints import FINAL, is_finished, next_epoch, resume_point
from training.networks.locks import holder
from training.networks.recipe import NetworkRecipe, TrainerName

# nnU-Net's own numbers of epochs; the demo's trainer keeps the standard one's.
TRAINER_EPOCHS = {TrainerName.STANDARD: 1000, TrainerName.EPOCHS_250: 250, TrainerName.SHORT: 1000}


class Validation(StrEnum):
    """Which trainings end with nnU-Net's validation of the whole scans of their fold."""

    OWN = "nnU-Net's own trainers"
    ALL = "all trainers"
    NONE = "none"


class State(StrEnum):
    """How far a job is."""

    FINISHED = "finished"
    TO_VALIDATE = "trained, to be validated"
    INTERRUPTED = "goes on"
    NEW = "new"
    BUSY = "in training"


@dataclass(frozen=True)
class Job:
    """One fold of one network.

    Attributes:
        network: The network.
        fold: The fold, one of the network's.
    """

    network: NetworkRecipe
    fold: int

    @property
    def name(self) -> str:
        """What the job is called in tables and logs."""
        return f"{self.network.model}_fold_{self.fold}"

    @property
    def epochs(self) -> int:
        """Epochs of the whole training."""
        return self.network.epochs or TRAINER_EPOCHS[self.network.trainer]

    def folder(self, nnunet: Path) -> Path:
        """The fold's results folder."""
        return results_folder(self.network, nnunet=nnunet) / f"fold_{self.fold}"

    def lock(self, nnunet: Path) -> Path:
        """The lock file of its training."""
        return results_folder(self.network, nnunet=nnunet) / f".fold_{self.fold}.lock"

    def log(self, nnunet: Path) -> Path:
        """Where its output goes when it runs in a process of its own."""
        return nnunet / "logs" / f"{self.name}.log"


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    Attributes:
        job: The job.
        state: Its state.
        epoch: The epoch that comes next.
        owner: Which process trains it at this moment; "" for none.
    """

    job: Job
    state: State
    epoch: int
    owner: str

    @property
    def is_left(self) -> bool:
        """Whether a run must do something for it."""
        return self.state not in (State.FINISHED, State.BUSY)

    @property
    def epochs_left(self) -> int:
        """Epochs still to be trained."""
        return self.job.epochs - self.epoch

    @property
    def text(self) -> str:
        """The state in a table."""
        if self.state is State.INTERRUPTED:
            return f"goes on at epoch {self.epoch} of {self.job.epochs}"
        if self.state is State.BUSY:
            return f"in training by {self.owner}"
        return f"new, {self.job.epochs} epochs" if self.state is State.NEW else self.state.value


def plans_name(network: NetworkRecipe) -> str:
    """The identifier of the plans that a network is trained with."""
    return NNUNET_PLANS[network.architecture] if network.narrow is None else narrow_identifier(network.architecture)


def results_folder(network: NetworkRecipe, *, nnunet: Path) -> Path:
    """Where nnU-Net puts what a network's folds share: `.../<trainer>__<plans>__3d_fullres`."""
    name = f"{network.trainer}__{plans_name(network)}__{CONFIGURATION}"
    return nnunet / "nnUNet_results" / dataset_name(network.dataset) / name


def is_trained(network: NetworkRecipe, *, fold: int, nnunet: Path) -> bool:
    """Whether a fold is trained to its end; an unreadable last checkpoint is none.

    Raises:
        CaseError: It was trained to another end than the recipe's, by a trial with fewer epochs, say.
    """
    job = Job(network, fold)
    folder = job.folder(nnunet)
    if not is_finished(folder):
        return False
    epochs = next_epoch(folder / FINAL)
    if epochs != job.epochs:
        rule = f"must have been trained for the recipe's {job.epochs} epochs; remove {folder} to train it again"
        raise CaseError(job.name, rule, f"{epochs} epochs")
    return True


def is_validated(job: Job, *, nnunet: Path) -> bool:
    """Whether nnU-Net's validation of a fold is there, and not older than the network."""
    folder = job.folder(nnunet)
    summary = folder / "validation" / "summary.json"
    try:
        json.loads(summary.read_text(encoding="utf-8"))
        return summary.stat().st_mtime >= (folder / FINAL).stat().st_mtime
    except (FileNotFoundError, ValueError):
        return False


def wants_validation(network: NetworkRecipe, validation: Validation) -> bool:
    """Whether a network's trainings end with a validation."""
    return validation is Validation.ALL or (validation is Validation.OWN and network.trainer is not TrainerName.SHORT)


def choose_jobs(networks: Sequence[NetworkRecipe], *, only: Sequence[str], folds: Sequence[int]) -> tuple[Job, ...]:
    """The jobs of a recipe, in its order.

    Args:
        networks: The recipe.
        only: Names of networks or numbers of data sets; all when it is empty.
        folds: Folds; all when it is empty.

    Raises:
        CaseError: The recipe has no such network, data set or fold.
    """
    datasets = {str(network.dataset) for network in networks}
    names = {network.name for network in networks}
    unknown = [text for text in only if text not in datasets | names]
    if numbers := sorted({text for text in unknown if text.isdecimal()}):
        rule = f"must be data sets of the recipe, which has {', '.join(sorted(datasets))}"
        raise CaseError("--only", rule, ", ".join(numbers))
    if unknown:
        rule = f"must be networks or data sets of the recipe, which has {', '.join(sorted(names))}"
        raise CaseError("--only", rule, ", ".join(sorted(unknown)))
    chosen = [network for network in networks if not only or {network.name, str(network.dataset)} & set(only)]
    known = {fold for network in chosen for fold in network.folds}
    if strange := sorted(set(folds) - known):
        rule = f"must be folds of the networks chosen, which have {', '.join(map(str, sorted(known)))}"
        raise CaseError("--folds", rule, ", ".join(map(str, strange)))
    return tuple(Job(network, fold) for network in chosen for fold in network.folds if not folds or fold in folds)


def look(job: Job, *, nnunet: Path, validation: Validation) -> Progress:
    """How far a job is, by the files that are there.

    Raises:
        CaseError: It was trained to another end than the recipe's.
    """
    folder = job.folder(nnunet)
    finished = is_trained(job.network, fold=job.fold, nnunet=nnunet)
    point = None if finished else resume_point(folder)
    epoch = job.epochs if finished else point.epoch if point else 0
    if owner := holder(job.lock(nnunet)):
        return Progress(job, State.BUSY, epoch, owner)
    if finished:
        is_done = is_validated(job, nnunet=nnunet) or not wants_validation(job.network, validation)
        return Progress(job, State.FINISHED if is_done else State.TO_VALIDATE, epoch, "")
    return Progress(job, State.INTERRUPTED if point else State.NEW, epoch, "")
