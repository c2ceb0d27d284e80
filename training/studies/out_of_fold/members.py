"""A fold's ensemble as a manifest of its own: each network's fold packed once, in float32 as it was trained."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from petct.case import Tracer
from petct.errors import CaseError
from petct.manifest import Checkpoint, Manifest, Member, Mode
from segmentation.weight_files import MODEL_FILE, check_member_files, sha256_of
from training.datasets.descriptions import LESION_DATASETS
from training.datasets.provenance import read_provenance
from training.networks.recipe import NetworkRecipe
from training.networks.train import results_folder
from training.weights.pack import pack_model

_SOURCE = "checkpoint_sha256"  # in a packed model's provenance: which checkpoint it was made of

log = logging.getLogger(__name__)


def fold_manifest(
    base: Manifest, *, networks: Sequence[NetworkRecipe], fold: int, nnunet: Path, packed: Path
) -> Manifest:
    """The base manifest's thresholds and rules with one fold of some networks as the ensemble.

    Args:
        base: Thresholds and rules.
        networks: Networks that are trained on the fold, some for each tracer.
        fold: The fold.
        nnunet: Folder with nnU-Net's three folders.
        packed: Folder for packed folds. One that is there is used again while its checkpoint is the same.

    Raises:
        CaseError: A network cannot be packed, or its data set does not say how its CT was clipped.
    """
    members: dict[Tracer, list[Member]] = {tracer: [] for tracer in Tracer}
    for network in networks:
        member = _member(network, fold=fold, nnunet=nnunet, packed=packed)
        check_member_files(member)
        members[LESION_DATASETS[network.dataset].tracer].append(member)
    return replace(
        base,
        name=f"{base.name} fold {fold}",
        mode=Mode.EXACT,  # what is fitted to these predictions must not depend on what a faster run leaves out
        psma=replace(base.psma, members=tuple(members[Tracer.PSMA])),
        fdg=replace(base.fdg, members=tuple(members[Tracer.FDG])),
    )


def _member(network: NetworkRecipe, *, fold: int, nnunet: Path, packed: Path) -> Member:
    folder = packed / f"{network.model}_fold_{fold}"
    clip = read_provenance(nnunet, number=network.dataset).clip
    results = results_folder(network, nnunet=nnunet)
    source = sha256_of(results / f"fold_{fold}" / "checkpoint_final.pth")
    provenance = {_SOURCE: source, "ct_clip": str(clip)}
    if _is_packed(folder, provenance=provenance):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        digests = {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}
    else:
        log.info("packing %s fold %d", network.model, fold)
        digests = pack_model(
            results, folds=(fold,), destination=folder, clip=clip, provenance=provenance, half=False, overwrite=True
        )
    return Member(
        name=network.name,
        folder=folder,
        architecture=network.architecture,
        dataset_id=network.dataset,
        folds=(fold,),
        checkpoint=Checkpoint.FINAL,
        organ_encoding=LESION_DATASETS[network.dataset].encoding,
        weight=network.weight,
        sha256=digests,
    )


def _is_packed(folder: Path, *, provenance: dict[str, str]) -> bool:
    """Whether the folder was packed from the same checkpoint with the same clipping."""
    file = folder / MODEL_FILE
    if not file.is_file():
        return False
    try:
        packed = json.loads(file.read_text(encoding="utf-8"))["provenance"]
    except (ValueError, KeyError, TypeError) as error:
        raise CaseError(str(file), "file must be as packed; remove its folder", str(error)[:120]) from error
    return all(packed.get(key) == value for key, value in provenance.items())
