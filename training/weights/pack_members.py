"""The members of an ensemble: each trained model of a recipe packed once, with its provenance."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from petct.case import Tracer
from petct.errors import CaseError
from petct.manifest import Checkpoint, Member
from segmentation.packed_model import read_packed_model
from segmentation.weight_files import MODEL_FILE, member_files
from training.datasets.descriptions import LESION_DATASETS
from training.networks.jobs import Job
from training.networks.recipe import NetworkRecipe
from training.networks.train import results_folder, seed_of, trainer_iterations
from training.weights.pack import pack_model
from training.weights.training_data import training_data

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackingChoices:
    """How weights are stored, and what is said of them.

    Attributes:
        half: Whether they are stored as float16.
        licence: The licence of the weights, an SPDX identifier or a sentence.
        allow_unknown_data: Whether a network may be packed whose data set has no provenance; its CT is then taken as
            not clipped.
    """

    half: bool
    licence: str
    allow_unknown_data: bool


def pack_members(
    networks: Sequence[NetworkRecipe], *, nnunet: Path, folder: Path, choices: PackingChoices
) -> dict[Tracer, tuple[Member, ...]]:
    """Pack the lesion networks of a recipe.

    Networks that share a trained model, because their folds have different weights, share one packed folder.

    Args:
        networks: The recipe; every fold of it is trained. Organ networks are passed over.
        nnunet: Folder with nnU-Net's three folders.
        folder: The folder for the packed models, each named after its trained model; made if missing.
        choices: How they are packed.

    Returns:
        The members by tracer, in the order of the recipe.

    Raises:
        CaseError: A results folder cannot be packed, is not what the recipe or the data set says, or was trained on
            another data set than the one that is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lesion_networks = [network for network in networks if network.dataset in LESION_DATASETS]
    digests: dict[str, dict[str, str]] = {}
    for number, model in enumerate(models := list(dict.fromkeys(network.model for network in lesion_networks)), 1):
        sharing = [network for network in lesion_networks if network.model == model]
        digests[model] = _pack_model(sharing, nnunet=nnunet, destination=folder / model, choices=choices)
        log.info("packed %s (%d of %d)", model, number, len(models))
    members: dict[Tracer, tuple[Member, ...]] = dict.fromkeys(Tracer, ())
    for network in lesion_networks:
        member = _member(network, folder=folder / network.model, digests=digests[network.model])
        read_packed_model(member)  # refuses plans that are not those of the data set or the architecture
        members[LESION_DATASETS[network.dataset].tracer] += (member,)
    return members


def _pack_model(
    networks: Sequence[NetworkRecipe], *, nnunet: Path, destination: Path, choices: PackingChoices
) -> dict[str, str]:
    """Pack what some networks share, all of their folds."""
    network = networks[0]
    trained = results_folder(network, nnunet=nnunet)
    if any(results_folder(other, nnunet=nnunet) != trained for other in networks):
        rule = "networks of one data set and architecture must have one trainer, because they share a packed model"
        raise CaseError(network.model, rule, ", ".join(other.trainer for other in networks))
    folds = sorted(fold for sharing in networks for fold in sharing.folds)
    data = training_data(network, folds=folds, nnunet=nnunet, allow_unknown=choices.allow_unknown_data)
    digests = pack_model(
        trained,
        folds=folds,
        destination=destination,
        clip=data.clip,
        provenance={
            "architecture": network.architecture,
            "dataset": data.record,
            "seeds": {str(fold): seed_of(network, fold=fold) for fold in folds},
            "licence": choices.licence,
        },
        checkpoint=Checkpoint.FINAL,
        half=choices.half,
    )
    model = json.loads((destination / MODEL_FILE).read_text(encoding="utf-8"))
    _check_training(network, model["provenance"])
    return digests


def _check_training(network: NetworkRecipe, provenance: Mapping[str, Any]) -> None:
    """Refuse a results folder that holds another training than the recipe's."""
    if provenance["trainer"] != network.trainer:
        raise CaseError(network.model, f"trainer must be {network.trainer}", provenance["trainer"])
    for fold, record in provenance["folds"].items():
        said = {
            "epochs": Job(network, int(fold)).epochs,
            "iterations_per_epoch": network.iterations or trainer_iterations(network.trainer),
        }
        for key, value in said.items():
            if record.get(key, value) != value:
                name = key.replace("_", " ")
                raise CaseError(f"{network.model} fold {fold}", f"{name} must be the recipe's {value}", record[key])


def _member(network: NetworkRecipe, *, folder: Path, digests: Mapping[str, str]) -> Member:
    member = Member(
        name=network.name,
        folder=folder,
        architecture=network.architecture,
        dataset_id=network.dataset,
        folds=network.folds,
        checkpoint=Checkpoint.FINAL,
        organ_encoding=LESION_DATASETS[network.dataset].encoding,
        weight=network.weight,
        sha256={},
    )
    return replace(member, sha256={file: digests[file] for file in member_files(member)})
