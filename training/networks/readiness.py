"""What must be there before a training starts: data sets, plans and folds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from petct.errors import CaseError
from training.datasets.descriptions import dataset_name
from training.datasets.planning import NNUNET_PLANS
from training.datasets.provenance import PROVENANCE_NAME
from training.datasets.staleness import DONE_NAME, is_preprocessed, outdated_results
from training.folds.splits import dataset_file, ensure_splits
from training.networks.jobs import Job
from training.networks.locks import held

NNUNET_FOLDS = 5  # nnU-Net's own, where nobody has given any


def check_ready(jobs: Sequence[Job], *, nnunet: Path) -> None:
    """Check that everything that the jobs need is there, and give the data sets their folds.

    Args:
        jobs: The jobs.
        nnunet: Folder with nnU-Net's three folders.

    Raises:
        CaseError: A data set or its plans are not made, its folds are not the master's, a job's fold does not
            exist, or its results are of a former version of the data set.
    """
    _check_datasets(jobs, nnunet=nnunet)
    _check_results(jobs, nnunet=nnunet)
    for number in sorted({job.network.dataset for job in jobs}):
        with held(nnunet / "nnUNet_preprocessed" / dataset_name(number) / ".splits.lock", wait=True):
            ensure_splits(nnunet, number=number)
        count = _fold_count(dataset_file(nnunet, number=number))
        for job in jobs:
            if job.network.dataset == number and job.fold >= count:
                rule = f"fold must be one of {dataset_name(number)}'s {count}, 0-{count - 1}"
                raise CaseError(f"{job.network.name} fold {job.fold}", rule, str(job.fold))


def _check_datasets(jobs: Sequence[Job], *, nnunet: Path) -> None:
    numbers = dict.fromkeys(job.network.dataset for job in jobs)
    if missing := [number for number in numbers if not _is_made(nnunet, number=number)]:
        first = next(job for job in jobs if job.network.dataset in missing)
        rule = f"data set must be made first, by `python -m training dataset {' '.join(map(str, missing))}`"
        raise CaseError(first.network.model, rule)
    for job in jobs:
        number = job.network.dataset
        plans = f"{NNUNET_PLANS[job.network.architecture]}.json"
        if not (nnunet / "nnUNet_preprocessed" / dataset_name(number) / plans).is_file():
            rule = f"plans must be made first, by `python -m training dataset {number}`"
            raise CaseError(f"{job.network.model} {plans}", rule)


def _is_made(nnunet: Path, *, number: int) -> bool:
    """Whether a data set is preprocessed, and from the raw one that is there, unless that was thrown away."""
    if not (nnunet / "nnUNet_preprocessed" / dataset_name(number) / DONE_NAME).exists():
        return False
    return not _has_provenance(nnunet, number=number) or is_preprocessed(nnunet, number=number)


def _check_results(jobs: Sequence[Job], *, nnunet: Path) -> None:
    """Refuse to go on with a network that was begun on a data set that has been replaced since."""
    outdated: set[Path] = set()
    for number in {job.network.dataset for job in jobs}:
        if _has_provenance(nnunet, number=number):
            outdated.update(outdated_results(nnunet, number=number))
    if old := [job for job in jobs if job.folder(nnunet) in outdated]:
        rule = "results are of a former version of the data set; remove their folder to train again"
        more = f" and {len(old) - 1} more" if len(old) > 1 else ""
        raise CaseError(old[0].name, rule, f"{old[0].folder(nnunet)}{more}")


def _has_provenance(nnunet: Path, *, number: int) -> bool:
    return (nnunet / "nnUNet_raw" / dataset_name(number) / PROVENANCE_NAME).exists()


def _fold_count(splits: Path) -> int:
    if not splits.exists():
        return NNUNET_FOLDS
    return len(json.loads(splits.read_text(encoding="utf-8")))
