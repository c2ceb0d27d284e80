"""A recipe's trained networks, packed into one folder with the manifest that runs them, tried before they are shown."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from petct.case import Tracer
from petct.errors import CaseError
from petct.manifest import Manifest, OrganSettings, OrganTask, read_manifest
from petct.written_whole import written_whole
from training.datasets.descriptions import LESION_DATASETS, ORGAN_DATASET_ID
from training.networks.recipe import NetworkRecipe
from training.networks.train import is_trained, results_folder
from training.weights.manifest_text import manifest_toml
from training.weights.model_card import model_card
from training.weights.organ_weights import export_organ_weights
from training.weights.pack_members import PackingChoices, pack_members
from training.weights.publish import check_target, publish, staging_folder, weights_folder
from training.weights.take_organs import has_organ_weights, take_organ_weights
from training.weights.tarball import README_NAME, check_tarball, write_tarball
from training.weights.trial import TrialCase, check_organ_maps, make_trial_case, read_trial_case, try_ensemble

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OrganFolder:
    """TotalSegmentator's own weights, to take along.

    Attributes:
        folder: The folder that holds its models (TOTALSEG_WEIGHTS_PATH).
        task: Which of them; None for the base manifest's.
    """

    folder: Path
    task: OrganTask | None


def pack_recipe(
    networks: Sequence[NetworkRecipe],
    *,
    nnunet: Path,
    base: Path,
    manifest: Path,
    organs: OrganFolder | None,
    choices: PackingChoices,
    warning: str,
    case: Path | None,
    device: torch.device,
    tarball: Path | None,
    overwrite: bool,
) -> Manifest:
    """Pack every network of a recipe beside a new manifest, in a folder of the manifest's name.

    Everything is written to a hidden folder first and the ensemble is run on a case there. Only then it gets its place,
    in steps that leave the old ensemble or the new one whole wherever they are stopped.

    Args:
        networks: The recipe; every fold of it is trained.
        nnunet: Folder with nnU-Net's three folders.
        base: A manifest whose thresholds, rules and refinement the new one takes over, and, when the recipe has no
            organ network and no other are given, its organ weights if they are there.
        manifest: The manifest to write, `<name>.toml`; its weights go to the folder `<name>` beside it.
        organs: TotalSegmentator's weights to take along, or None.
        choices: How weights are stored, and what is said of them.
        warning: A line that every run with these weights logs; "" for none, or for the base's when its organ weights
            are taken over.
        case: The case to try the ensemble on, in either layout; None for a phantom. Organs are computed when there are
            organ weights, else the case's own are taken.
        device: Where to try it.
        tarball: The platform's model tarball to write too, or None.
        overwrite: Whether a manifest, its weights and a tarball that are there already are replaced.

    Returns:
        The manifest, read back.

    Raises:
        CaseError: A fold is not trained, or not as the recipe says, or on other data; a tracer has no network;
            something is there already; the case is broken; or the ensemble does not run on it.
    """
    check_target(manifest, overwrite=overwrite)
    if tarball is not None:
        check_tarball(tarball, overwrite=overwrite)
    rules = read_manifest(base)
    _check_networks(networks, nnunet=nnunet)
    organ_weights = _organ_weights(networks, given=organs, base=rules.organs)
    has_organs = organ_weights is not None
    trial = make_trial_case() if case is None else read_trial_case(case)
    check_organ_maps(trial, has_organ_weights=has_organs)
    folds = sum(len(network.folds) for network in networks)
    log.info("packing %d folds of %d networks to %s", folds, len(networks), weights_folder(manifest))
    with _staging(manifest) as staging:
        path = staging / manifest.name
        comment = f"Written by `python -m training pack`; thresholds and rules are those of {base.name}."
        members = pack_members(networks, nnunet=nnunet, folder=weights_folder(path), choices=choices)
        ensemble = replace(
            rules,
            path=path,
            name=manifest.stem,
            # What is said of the base's organ weights goes along with them.
            warning=warning or (rules.warning if organ_weights is rules.organs else ""),
            organs=_pack_organs(organ_weights, base=rules.organs, nnunet=nnunet, folder=weights_folder(path)),
            psma=replace(rules.psma, members=members[Tracer.PSMA]),
            fdg=replace(rules.fdg, members=members[Tracer.FDG]),
        )
        path.write_text(manifest_toml(ensemble, comment=comment), encoding="utf-8")
        staged = read_manifest(path)
        card = model_card(staged, licence=choices.licence)
        (weights_folder(path) / README_NAME).write_text(card, encoding="utf-8")
        _try(staged, trial=trial, device=device, has_organs=has_organs)
        if tarball is not None:
            write_tarball(path, tarball=staging / tarball.name, overwrite=False)
        publish(staged, manifest=manifest)
        if tarball is not None:
            _move(staging / tarball.name, tarball)
    return read_manifest(manifest)


@contextmanager
def _staging(manifest: Path) -> Iterator[Path]:
    """A hidden folder beside the manifest, gone afterwards."""
    staging = staging_folder(manifest)
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _try(staged: Manifest, *, trial: TrialCase, device: torch.device, has_organs: bool) -> None:
    try:
        try_ensemble(staged, trial=trial, device=device, has_organ_weights=has_organs)
    except (CaseError, torch.OutOfMemoryError) as error:
        rule = "packed ensemble must run on it before it is finished (--case tries another)"
        raise CaseError(f"trial {trial.case.name}", rule, str(error)) from error


def _check_networks(networks: Sequence[NetworkRecipe], *, nnunet: Path) -> None:
    """Refuse what cannot become a manifest before any file is written or replaced."""
    for tracer in Tracer:
        datasets = (LESION_DATASETS.get(network.dataset) for network in networks)
        if not any(dataset is not None and dataset.tracer is tracer for dataset in datasets):
            raise CaseError("recipe", f"must have a network for {tracer.name}", "none")
    organ_networks = [network.name for network in networks if network.dataset == ORGAN_DATASET_ID]
    if len(organ_networks) > 1:
        raise CaseError("recipe", "must have one organ network at most", ", ".join(organ_networks))
    for network in networks:
        for fold in network.folds:
            if not is_trained(network, fold=fold, nnunet=nnunet):
                raise CaseError(f"{network.name} fold {fold}", f"must be trained to its end in {nnunet}")


def _organ_weights(
    networks: Sequence[NetworkRecipe], *, given: OrganFolder | None, base: OrganSettings
) -> NetworkRecipe | OrganSettings | None:
    """Where organ weights come from: the recipe's organ network, those given, the base's, or nowhere."""
    for network in networks:
        if network.dataset == ORGAN_DATASET_ID:
            if given is not None:
                raise CaseError("--organs", "must not be given when the recipe has an organ network", network.name)
            return network
    if given is not None:
        return replace(base, weights=given.folder, task=given.task or base.task, sha256={})
    return base if has_organ_weights(base) else None


def _pack_organs(
    weights: NetworkRecipe | OrganSettings | None, *, base: OrganSettings, nnunet: Path, folder: Path
) -> OrganSettings:
    """Organ settings with packed weights, or ones that wait for weights."""
    destination = folder / "totalsegmentator"
    if isinstance(weights, NetworkRecipe):
        trained = results_folder(weights, nnunet=nnunet)
        digests = export_organ_weights(
            trained / f"fold_{weights.folds[0]}",
            plans=trained / "plans.json",
            dataset_json=trained / "dataset.json",
            task=OrganTask.FASTEST,
            destination=destination,
        )
        log.info("packed %s as TotalSegmentator's %s", weights.name, OrganTask.FASTEST)
        return replace(base, task=OrganTask.FASTEST, weights=destination, sha256=digests)
    if weights is not None:
        taken = take_organ_weights(weights, destination=destination)
        log.info("packed TotalSegmentator's weights (%s) of %s", weights.task, weights.weights)
        return taken
    log.warning("no organ weights are packed: every case must bring its organ maps (--organs takes weights along)")
    return replace(base, weights=destination, sha256={})


def _move(file: Path, destination: Path) -> None:
    """Move a file, also to another disk; it appears whole."""
    with written_whole(destination) as partial:
        shutil.move(file, partial)
