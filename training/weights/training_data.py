"""What a model was trained on, for its provenance, and whether the data set that is there still is that."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petct.channels import ClipHU
from petct.errors import CaseError
from training.datasets.descriptions import dataset_name
from training.datasets.provenance import read_provenance
from training.datasets.staleness import TRAINED_ON_NAME, UNKNOWN, outdated_results
from training.networks.recipe import NetworkRecipe
from training.networks.train import results_folder

FINGERPRINT_FILE = "dataset_fingerprint.json"  # what nnU-Net measured on a data set, kept with each training on it

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingData:
    """The data that a model was trained on.

    Attributes:
        record: Name, sha256 and numbers of patients, as JSON values, for people.
        clip: What the CT was clipped to, or None.
    """

    record: dict[str, Any]
    clip: ClipHU | None


def training_data(network: NetworkRecipe, *, folds: Sequence[int], nnunet: Path, allow_unknown: bool) -> TrainingData:
    """The data set of a network, once it is certain that its folds were trained on it.

    Args:
        network: The network.
        folds: Its folds that matter.
        nnunet: Folder with nnU-Net's three folders.
        allow_unknown: Whether data that nobody knows will do; their CT is then taken as not clipped.

    Raises:
        CaseError: A fold was trained on another version of the data set than the one that is there, or nobody knows.
    """
    _check_fingerprint(network, nnunet=nnunet)
    name = dataset_name(network.dataset)
    if unknown := _why_unknown(network, folds=folds, nnunet=nnunet):
        if not allow_unknown:
            rule = "what it was trained on must be known (--allow-unknown-data packs it all the same)"
            raise CaseError(network.model, rule, unknown)
        log.warning("%s: trained on unknown data, the CT is taken as not clipped: %s", network.model, unknown)
        return TrainingData({"name": name, "sha256": UNKNOWN}, None)
    provenance = read_provenance(nnunet, number=network.dataset)
    record = {
        "name": name,
        "sha256": provenance.sha256,
        "patients": len(provenance.patients),
        "corrected": len(provenance.corrected),
        "organs_computed": len(provenance.organs_computed),
    }
    return TrainingData(record, provenance.clip)


def _why_unknown(network: NetworkRecipe, *, folds: Sequence[int], nnunet: Path) -> str:
    """Why nobody knows what the folds were trained on; "" when it is known."""
    name = dataset_name(network.dataset)
    try:
        sha256 = read_provenance(nnunet, number=network.dataset).sha256
    except CaseError as error:
        return str(error)
    outdated = outdated_results(nnunet, number=network.dataset)
    for fold in folds:
        folder = results_folder(network, nnunet=nnunet) / f"fold_{fold}"
        if folder not in outdated:
            continue
        former = (folder / TRAINED_ON_NAME).read_text(encoding="ascii").strip()
        if former != UNKNOWN:
            rule = f"must be trained on the {name} that is there, sha256 {sha256}"
            raise CaseError(f"{network.model} fold {fold}", rule, f"a former version, sha256 {former}")
        return f"fold {fold} saw a former version of {name}, which had no provenance.json"
    return ""


def _check_fingerprint(network: NetworkRecipe, *, nnunet: Path) -> None:
    """Refuse a training on other data than what is preprocessed now, as far as nnU-Net's own record tells."""
    trained = results_folder(network, nnunet=nnunet) / FINGERPRINT_FILE
    now = nnunet / "nnUNet_preprocessed" / dataset_name(network.dataset) / FINGERPRINT_FILE
    if trained.is_file() and now.is_file() and trained.read_bytes() != now.read_bytes():
        rule = f"must be trained on the data set that is there, {FINGERPRINT_FILE} differs from its own"
        raise CaseError(network.model, f"{rule}: {dataset_name(network.dataset)} was made again since")
