"""A recipe's trained networks, packed into one folder with the manifest that runs them."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from petct.case import Tracer
from petct.errors import CaseError
from petct.manifest import Checkpoint, Manifest, Member, OrganTask, read_manifest
from training.datasets.descriptions import LESION_DATASETS, ORGAN_DATASET_ID, dataset_name
from training.networks.recipe import NetworkRecipe
from training.networks.train import SEED, results_folder
from training.weights.manifest_text import manifest_toml
from training.weights.organ_weights import export_organ_weights
from training.weights.pack import pack_model

log = logging.getLogger(__name__)


def pack_recipe(
    networks: Sequence[NetworkRecipe], *, nnunet: Path, base: Path, manifest: Path, warning: str, overwrite: bool
) -> Manifest:
    """Pack every network of a recipe beside a new manifest, in a folder of the manifest's name.

    Args:
        networks: The recipe; every fold of it is trained.
        nnunet: Folder with nnU-Net's three folders.
        base: A manifest whose thresholds and rules the new one takes over.
        manifest: The manifest to write, `<name>.toml`; its weights go to the folder `<name>` beside it.
        warning: A line that every run with these weights logs.
        overwrite: Whether packed networks that are there already are replaced.

    Returns:
        The manifest, read back.

    Raises:
        CaseError: A network is not trained, a packed one is there already, a tracer has no network, or the manifest is
            not called `<name>.toml`.
    """
    if manifest.suffix != ".toml":
        raise CaseError("--manifest", "must be called <name>.toml, because its weights go to <name>", manifest.name)
    rules = read_manifest(base)
    _check_networks(networks, nnunet=nnunet)
    root = manifest.resolve().parent
    name = manifest.stem
    organs = replace(rules.organs, weights=root / name / "totalsegmentator")
    members: dict[Tracer, list[Member]] = {tracer: [] for tracer in Tracer}
    for network in networks:
        trained = _trained_folder(network, nnunet=nnunet)
        if network.dataset == ORGAN_DATASET_ID:
            if overwrite:
                shutil.rmtree(organs.weights, ignore_errors=True)
            digests = export_organ_weights(
                trained / f"fold_{network.folds[0]}",
                plans=trained / "plans.json",
                dataset_json=trained / "dataset.json",
                task=OrganTask.FASTEST,
                destination=organs.weights,
            )
            organs = replace(organs, task=OrganTask.FASTEST, sha256=digests)
        else:
            member = _pack_member(network, trained=trained, folder=root / name, overwrite=overwrite)
            members[LESION_DATASETS[network.dataset].tracer].append(member)
        log.info("packed %s", network.name)
    whole = replace(
        rules,
        path=manifest.resolve(),
        name=name,
        warning=warning,
        organs=organs,
        psma=replace(rules.psma, members=tuple(members[Tracer.PSMA])),
        fdg=replace(rules.fdg, members=tuple(members[Tracer.FDG])),
    )
    comment = f"Written by `python -m training pack`; thresholds and rules are those of {base.name}."
    partial = manifest.with_name(f".{manifest.name}.partial")
    partial.write_text(manifest_toml(whole, comment=comment), encoding="utf-8")
    os.replace(partial, manifest)
    return read_manifest(manifest)


def _check_networks(networks: Sequence[NetworkRecipe], *, nnunet: Path) -> None:
    """Refuse what cannot become a manifest before any file is written or replaced."""
    lesion_networks = [network for network in networks if network.dataset != ORGAN_DATASET_ID]
    for tracer in Tracer:
        if not any(LESION_DATASETS[network.dataset].tracer is tracer for network in lesion_networks):
            raise CaseError("recipe", f"must have a network for {tracer.name}", "none")
    for network in networks:
        for fold in network.folds:
            if not (_trained_folder(network, nnunet=nnunet) / f"fold_{fold}" / "checkpoint_final.pth").is_file():
                raise CaseError(f"{network.name} fold {fold}", f"must be trained to its end in {nnunet}")


def _trained_folder(network: NetworkRecipe, *, nnunet: Path) -> Path:
    return results_folder(network, nnunet=nnunet)


def _pack_member(network: NetworkRecipe, *, trained: Path, folder: Path, overwrite: bool) -> Member:
    digests = pack_model(
        trained,
        folds=network.folds,
        destination=folder / network.name,
        clip=None,
        provenance=_provenance(network),
        half=True,
        overwrite=overwrite,
    )
    return Member(
        name=network.name,
        folder=folder / network.name,
        architecture=network.architecture,
        dataset_id=network.dataset,
        folds=network.folds,
        checkpoint=Checkpoint.FINAL,
        organ_encoding=LESION_DATASETS[network.dataset].encoding,
        weight=network.weight,
        sha256=digests,
    )


def _provenance(network: NetworkRecipe) -> Mapping[str, str]:
    return {
        "dataset": dataset_name(network.dataset),
        "epochs": str(network.epochs),
        "seed": str(SEED),
        "nnunetv2": version("nnunetv2"),
        "torch": version("torch"),
    }
