"""Which networks may predict which training patient: only the folds that were not trained on the patient."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from petct.case import Tracer
from petct.errors import CaseError
from training.datasets.descriptions import LESION_DATASETS, dataset_name
from training.folds.splits import dataset_file, read_splits
from training.networks.recipe import NetworkRecipe
from training.networks.train import is_trained

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoldPlan:
    """What can be predicted, and by what.

    Attributes:
        networks: Per fold the networks that are trained on it; each such fold has some for both tracers.
        folds: Per patient the fold that has not seen him and is trained.
        left_out: Per patient who cannot be predicted the reason.
    """

    networks: dict[int, tuple[NetworkRecipe, ...]]
    folds: dict[str, int]
    left_out: dict[str, str]


def plan_folds(networks: Sequence[NetworkRecipe], *, nnunet: Path, patients: Sequence[str]) -> FoldPlan:
    """Give every patient the fold whose networks have not seen him.

    For a fold, that is every network of the recipe that declares the fold and is trained on it to the end. All of their
    data sets must hold the patient, in that fold's validation.

    Args:
        networks: The recipe; its organ network plays no part here.
        nnunet: Folder with nnU-Net's three folders.
        patients: Names of the patients.

    Raises:
        CaseError: Two data sets have a patient in different folds, a data set has no splits, or no fold is trained for
            both tracers.
    """
    lesion_networks = [network for network in networks if network.dataset in LESION_DATASETS]
    trained = {
        fold: tuple(
            network
            for network in lesion_networks
            if fold in network.folds and is_trained(network, fold=fold, nnunet=nnunet)
        )
        for fold in sorted({fold for network in lesion_networks for fold in network.folds})
    }
    homes = {
        number: _homes(nnunet, number=number)
        for number in sorted({network.dataset for members in trained.values() for network in members})
    }
    _check_same_folds(homes)
    _report_untrained(lesion_networks, trained=trained)
    usable = {fold: members for fold, members in trained.items() if _has_both(members)}
    if not usable:
        raise CaseError("recipe", f"must have a fold that is trained to its end for both tracers in {nnunet}", "none")
    folds: dict[str, int] = {}
    left_out: dict[str, str] = {}
    for patient in patients:
        found = {home[patient] for home in homes.values() if patient in home}
        if not found:
            left_out[patient] = "is in no fold of the data sets"
            continue
        (fold,) = found
        if fold not in usable:
            left_out[patient] = f"is in fold {fold}, which is not trained for both tracers"
        elif lacking := sorted({n.dataset for n in usable[fold] if patient not in homes[n.dataset]}):
            left_out[patient] = f"is not in {', '.join(map(dataset_name, lacking))}"
        else:
            folds[patient] = fold
    return FoldPlan(networks=usable, folds=folds, left_out=left_out)


def _homes(nnunet: Path, *, number: int) -> dict[str, int]:
    """The fold in whose validation each patient of a data set is."""
    splits = read_splits(dataset_file(nnunet, number=number))
    return {patient: fold for fold, split in enumerate(splits) for patient in split.val}


def _check_same_folds(homes: dict[int, dict[str, int]]) -> None:
    for (one, own), (other, others) in combinations(homes.items(), 2):
        for patient in sorted(own.keys() & others.keys()):
            if own[patient] != others[patient]:
                where = f"{dataset_name(one)} and {dataset_name(other)}"
                got = f"{patient} in fold {own[patient]} and in fold {others[patient]}"
                raise CaseError(where, "splits must have each patient in the same fold", got)


def _report_untrained(networks: Sequence[NetworkRecipe], *, trained: dict[int, tuple[NetworkRecipe, ...]]) -> None:
    for fold, members in trained.items():
        lacking = [network.name for network in networks if fold in network.folds and network not in members]
        if lacking:
            log.warning("fold %d: not trained to the end, and so left out: %s", fold, ", ".join(lacking))


def _has_both(networks: Sequence[NetworkRecipe]) -> bool:
    tracers = {LESION_DATASETS[network.dataset].tracer for network in networks}
    return tracers == set(Tracer)
