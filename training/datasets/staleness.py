"""What a rebuilt data set leaves behind: preprocessed data and trained networks of its former version."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

from petct.errors import CaseError
from training.datasets.descriptions import dataset_name
from training.datasets.provenance import read_provenance

# Both hold the sha256 of the raw data set: the one from before the fingerprint, the other from after the last case.
BEGUN_NAME = "preprocessing_begun"
DONE_NAME = "preprocessing_done"
SPLITS_NAME = "splits_final.json"
TRAINED_ON_NAME = "trained_on_sha256"  # in a trained fold: a former version of the data set, which is no more
UNKNOWN = "unknown"

log = logging.getLogger(__name__)


def is_preprocessed(nnunet: Path, *, number: int) -> bool:
    """Whether the raw data set that is there now was preprocessed to the end.

    Raises:
        CaseError: The raw data set has no provenance.
    """
    folder, sha256 = _preprocessed(nnunet, number), read_provenance(nnunet, number=number).sha256
    return all(_held(folder / name) == sha256 for name in (BEGUN_NAME, DONE_NAME))


def begin_preprocessing(nnunet: Path, *, number: int) -> None:
    """Remove what was made of a former version of the raw data set; what was begun of this one is kept.

    Raises:
        CaseError: The raw data set has no provenance.
    """
    folder, sha256 = _preprocessed(nnunet, number), read_provenance(nnunet, number=number).sha256
    if _held(folder / BEGUN_NAME) != sha256:
        forget_preprocessed(nnunet, number=number)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / BEGUN_NAME).write_text(sha256 + "\n", encoding="ascii")


def note_preprocessed(nnunet: Path, *, number: int) -> None:
    """Note which data set it was that has been preprocessed."""
    sha256 = read_provenance(nnunet, number=number).sha256
    (_preprocessed(nnunet, number) / DONE_NAME).write_text(sha256 + "\n", encoding="ascii")


def forget_preprocessed(nnunet: Path, *, number: int) -> None:
    """Remove what nnU-Net made of a former version: fingerprint, plans and images.

    Folds of the same cases are kept.
    """
    folder = _preprocessed(nnunet, number)
    if not folder.is_dir():
        return
    for name in (DONE_NAME, BEGUN_NAME):  # first, so that half of the rest is not taken for whole
        (folder / name).unlink(missing_ok=True)
    keeps = _are_splits_of_data_set(folder / SPLITS_NAME, nnunet=nnunet, number=number)
    former = [path for path in folder.iterdir() if not (path.name == SPLITS_NAME and keeps)]
    if former:
        log.info("%s: preprocessed data of a former version are removed", folder.name)
    for path in former:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def note_former_version(nnunet: Path, *, number: int) -> None:
    """Note in every trained fold which version of the data set it saw, before that version is replaced."""
    try:
        sha256 = read_provenance(nnunet, number=number).sha256
    except CaseError:  # a data set from before there was provenance
        sha256 = UNKNOWN
    for fold in _trained_folds(nnunet, number):
        note = fold / TRAINED_ON_NAME
        if not note.exists():
            note.write_text(sha256 + "\n", encoding="ascii")


def outdated_results(nnunet: Path, *, number: int) -> list[Path]:
    """Folders of folds that were trained, or begun, on another version of the data set than the one that is there.

    Raises:
        CaseError: The raw data set has no provenance.
    """
    sha256 = read_provenance(nnunet, number=number).sha256
    noted = [fold for fold in _trained_folds(nnunet, number) if (fold / TRAINED_ON_NAME).exists()]
    return [fold for fold in noted if _held(fold / TRAINED_ON_NAME) != sha256]


def _held(file: Path) -> str | None:
    return file.read_text(encoding="ascii").strip() if file.is_file() else None


def _preprocessed(nnunet: Path, number: int) -> Path:
    return nnunet / "nnUNet_preprocessed" / dataset_name(number)


def _trained_folds(nnunet: Path, number: int) -> list[Path]:
    results = nnunet / "nnUNet_results" / dataset_name(number)
    return sorted(path for path in results.glob("*/fold_*") if path.is_dir())


def _are_splits_of_data_set(splits: Path, *, nnunet: Path, number: int) -> bool:
    """Whether nnU-Net could still use these folds: the same cases."""
    labels = nnunet / "nnUNet_raw" / dataset_name(number) / "labelsTr"
    cases = {path.name.removesuffix(".mha") for path in labels.glob("*.mha")}
    try:
        folds = json.loads(splits.read_text(encoding="utf-8"))
        return all({*fold["train"], *fold["val"]} == cases for fold in folds)
    except (OSError, ValueError, KeyError, TypeError):
        return False
