"""Putting folds where all data sets find them, and never under networks that were trained on others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from petct.errors import CaseError
from training.datasets.descriptions import DATASET_NUMBERS, dataset_name
from training.folds.splits import (
    Splits,
    dataset_file,
    master_file,
    patients_of,
    read_splits,
    splits_for_dataset,
    splits_of,
    write_splits,
)

log = logging.getLogger(__name__)


def restrict_splits(splits: Splits, *, patients: Sequence[str], left_out: Sequence[str], where: str) -> Splits:
    """Given splits without the patients that are left out.

    Args:
        splits: Splits of patients.
        patients: Who must be in them.
        left_out: Who may be in them, and is taken out.
        where: The file they were read from, for the error.

    Raises:
        CaseError: The splits lack a patient or name another one, or a fold has none left.
    """
    named = set(patients_of(splits))
    if missing := sorted(set(patients) - named):
        raise CaseError(where, "must name every patient of the folder", f"no {', '.join(missing)}")
    if unknown := sorted(named - set(patients) - set(left_out)):
        raise CaseError(where, "must name patients of the folder only", ", ".join(unknown))
    if dropped := sorted(named & set(left_out)):
        log.info("%s: %d left out: %s", where, len(dropped), ", ".join(dropped))
    kept = splits_of([[name for name in fold.val if name not in left_out] for fold in splits])
    for index, fold in enumerate(kept):
        if not fold.val:
            raise CaseError(where, f"fold {index} must keep a patient to validate on", "none")
    return kept


def put_splits(nnunet: Path, splits: Splits, *, overwrite: bool) -> None:
    """Write the master's splits, and those of every preprocessed data set; all checks come before the first file.

    Splits that are there already and equal are left alone, so this can be repeated.

    Args:
        nnunet: Folder with nnU-Net's three folders; made if missing.
        splits: Splits of patients.
        overwrite: Whether other splits are replaced, as long as nothing was trained on them.

    Raises:
        CaseError: Networks were trained on other splits, others are there and must not be overwritten, or a data set
            has patients who are not in the splits.
    """
    master = master_file(nnunet)
    wanted = {master: splits}
    for number in DATASET_NUMBERS:
        file = dataset_file(nnunet, number=number)
        if file.parent.is_dir():
            wanted[file] = splits_for_dataset(splits, nnunet=nnunet, number=number)
    held = {file: _held(file) for file in wanted}
    for number in DATASET_NUMBERS:
        file = dataset_file(nnunet, number=number)
        # Results may outlive the data set that they were trained on; then the master says what its folds were.
        decides = file if file in wanted else master
        if held[decides] != wanted[decides]:
            _check_untrained(nnunet, number=number)
    others = [file for file in wanted if file.exists() and held[file] != wanted[file]]
    if others and not overwrite:
        raise CaseError(str(others[0]), "other folds are there; --overwrite replaces them", f"{len(others)} such files")
    for file in reversed(wanted):  # the master last: while it is missing or old, nothing says that all is done
        if held[file] != wanted[file]:
            write_splits(file, wanted[file])
            log.info("%s written", file)
        else:
            log.info("%s has these folds already", file)


def _held(file: Path) -> Splits | None:
    """The splits that are there; None when there are none, or none that can be read."""
    try:
        return read_splits(file)
    except CaseError:
        return None


def _check_untrained(nnunet: Path, *, number: int) -> None:
    results = nnunet / "nnUNet_results" / dataset_name(number)
    # nnU-Net's name for a network trained on everybody is fold_all: no splits were used.
    trained = sorted(path for path in results.glob("*/fold_*") if path.name.removeprefix("fold_").isdecimal())
    if trained:
        rule = "a network was trained here on other folds, which must stay as they are; remove it first"
        raise CaseError(str(trained[0]), rule, f"{len(trained)} such folders in {results.name}")
