"""Folds of patients: one master split for all data sets, in the format and the places in which nnU-Net reads it."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from petct.case import Tracer
from petct.errors import CaseError
from petct.images import IMAGE_SUFFIXES, is_image_file
from petct.scan_files import CaseFile, read_json
from petct.written_whole import written_whole
from training.datasets.descriptions import ORGAN_DATASET_ID, dataset_name

SPLITS_NAME = "splits_final.json"
FEWEST_FOLDS = 2
_NAMED = 5  # patients that a refusal names before it counts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fold:
    """One fold.

    Attributes:
        train: Names to train on, sorted.
        val: Names to validate on, sorted; none of them is in `train`.
    """

    train: tuple[str, ...]
    val: tuple[str, ...]


Splits = tuple[Fold, ...]


def splits_of(validation: Sequence[Collection[str]]) -> Splits:
    """The splits in which each of these groups is validated on once, and everybody else is trained on meanwhile."""
    everybody = sorted(name for group in validation for name in group)
    return tuple(
        Fold(train=tuple(name for name in everybody if name not in group), val=tuple(sorted(group)))
        for group in map(frozenset, validation)
    )


def patients_of(splits: Splits) -> tuple[str, ...]:
    """Everybody in the splits, sorted."""
    return tuple(sorted(name for fold in splits for name in fold.val))


def master_file(nnunet: Path) -> Path:
    """Where the splits of patients are that all data sets share."""
    return nnunet / SPLITS_NAME


def dataset_file(nnunet: Path, *, number: int) -> Path:
    """Where nnU-Net looks for a data set's splits."""
    return nnunet / "nnUNet_preprocessed" / dataset_name(number) / SPLITS_NAME


def read_splits(path: Path) -> Splits:
    """Read splits in nnU-Net's format and check that they are a cross-validation.

    Args:
        path: JSON: `[{"train": [...], "val": [...]}, ...]`, at least two folds.

    Returns:
        The folds in the file's order, their names sorted.

    Raises:
        CaseError: The file is missing or not of that form, a name is not in exactly one fold's val, or a fold does not
            train on all others.
    """
    where = str(path)
    splits = _parse(path)
    homes = Counter(name for fold in splits for name in fold.val)
    everybody = {name for fold in splits for name in (*fold.train, *fold.val)}
    for names, got in (
        ([name for name in homes if homes[name] > 1], "more than one"),
        (everybody - set(homes), "none"),
    ):
        if names:
            raise CaseError(where, "each patient must be in exactly one fold's val", f"{_listed(names)} in {got}")
    for index, fold in enumerate(splits):
        if not fold.val:
            raise CaseError(f"{where} fold {index}", "val must name at least one patient", "none")
        if missing := everybody - {*fold.train, *fold.val}:
            raise CaseError(f"{where} fold {index}", "train must name all who are not in val", f"no {_listed(missing)}")
    return splits


def write_splits(path: Path, splits: Splits) -> None:
    """Write splits as nnU-Net's JSON; the file appears whole or not at all, in place of one that was there.

    Raises:
        CaseError: It cannot be written.
    """
    content = [{"train": fold.train, "val": fold.val} for fold in splits]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as partial:
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise CaseError(str(path), "file must be writable", error.strerror) from error


def ensure_splits(nnunet: Path, *, number: int) -> None:
    """Give a data set the master's splits, unless it has them; without a master, say what nnU-Net will do.

    Patients of the master whom the data set leaves out are dropped from its splits, and logged.

    Args:
        nnunet: Folder with nnU-Net's three folders and perhaps the master.
        number: Data set number; the data set is written (raw, or preprocessed).

    Raises:
        CaseError: The data set has other splits, or patients whom the master does not know.
    """
    master, file = master_file(nnunet), dataset_file(nnunet, number=number)
    if not master.exists():
        if file.exists():
            log.info("%s: folds are its own, %s is not there", dataset_name(number), master)
        else:
            log.info("%s: %s is not there, nnU-Net will make random folds", dataset_name(number), master)
        return
    splits = splits_for_dataset(read_splits(master), nnunet=nnunet, number=number)
    if not file.exists():
        write_splits(file, splits)
        log.info("%s: %d folds from %s", dataset_name(number), len(splits), master)
    elif read_splits(file) != splits:
        rule = f"folds must be those of {master}; remove the file, or make folds with --overwrite"
        raise CaseError(f"{dataset_name(number)} {SPLITS_NAME}", rule, "others")


def splits_for_dataset(splits: Splits, *, nnunet: Path, number: int) -> Splits:
    """Splits of patients as splits of the cases that a data set has of them.

    Args:
        splits: Splits of patients.
        nnunet: Folder with nnU-Net's three folders.
        number: Data set number. The organ data set has two cases of a patient, which stay in one fold.

    Raises:
        CaseError: The data set is not there, has cases of other patients, or none for a fold to validate on.
    """
    where = dataset_name(number)
    cases: dict[str, list[str]] = {}
    for case in _case_names(nnunet, number=number):
        cases.setdefault(_patient_of(case, number=number), []).append(case)
    patients = patients_of(splits)
    if unknown := set(cases) - set(patients):
        raise CaseError(where, "patients must be those of the folds", f"{_listed(unknown)} besides")
    if left_out := sorted(set(patients) - set(cases)):
        log.warning("%s: %d patients of the folds are not in it: %s", where, len(left_out), ", ".join(left_out))
    own = splits_of([[case for patient in fold.val for case in cases.get(patient, ())] for fold in splits])
    for index, fold in enumerate(own):
        if not fold.val:
            raise CaseError(where, f"fold {index} must have patients to validate on", "none")
    return own


def validation_patients(nnunet: Path, *, number: int, fold: int) -> tuple[str, ...]:
    """The patients that a fold of a data set was not trained on, by the data set's own splits.

    Args:
        nnunet: Folder with nnU-Net's three folders; no master is needed.
        number: Data set number.
        fold: Fold, from 0.

    Returns:
        Patient names, sorted.

    Raises:
        CaseError: The data set has no splits or not that fold, or a patient of the organ data set is in its train too.
    """
    where = f"{dataset_name(number)} {SPLITS_NAME}"
    file = dataset_file(nnunet, number=number)
    if not file.exists():
        raise CaseError(where, "file is missing; it comes with folds, or with nnU-Net's first training")
    splits = _parse(file)
    if not 0 <= fold < len(splits):
        raise CaseError(where, f"fold must be within 0-{len(splits) - 1}", str(fold))
    val, train = (
        {_patient_of(case, number=number) for case in cases} for cases in (splits[fold].val, splits[fold].train)
    )
    if val & train:
        raise CaseError(where, "all scans of a patient must be in one fold", f"{_listed(val & train)} in several")
    return tuple(sorted(val))


def _parse(path: Path) -> Splits:
    """Folds of nnU-Net's form, in which nobody is twice."""
    if not path.exists():
        raise CaseError(str(path), "file is missing")
    content = read_json(CaseFile(path, where=str(path)))
    if not isinstance(content, list) or len(content) < FEWEST_FOLDS:
        got = f"{len(content)}" if isinstance(content, list) else type(content).__name__
        raise CaseError(str(path), f"must be a list of at least {FEWEST_FOLDS} folds", got)
    splits = []
    for index, entry in enumerate(content):
        where = f"{path} fold {index}"
        if not isinstance(entry, dict) or set(entry) != {"train", "val"}:
            raise CaseError(where, 'must be {"train": [...], "val": [...]}', str(entry)[:80])
        for key, names in entry.items():
            if not isinstance(names, list) or any(not isinstance(name, str) or not name for name in names):
                raise CaseError(where, f"{key} must be a list of patients' names", str(names)[:80])
        counts = Counter([*entry["train"], *entry["val"]])
        if twice := [name for name in counts if counts[name] > 1]:
            raise CaseError(where, "must name a patient once, in train or in val", f"{_listed(twice)} again")
        splits.append(Fold(train=tuple(sorted(entry["train"])), val=tuple(sorted(entry["val"]))))
    return tuple(splits)


def _case_names(nnunet: Path, *, number: int) -> list[str]:
    """The cases of a data set, by its labels: the raw ones, or nnU-Net's copy where the raw ones were thrown away."""
    name = dataset_name(number)
    for place in (f"nnUNet_raw/{name}/labelsTr", f"nnUNet_preprocessed/{name}/gt_segmentations"):
        files = [path.name for path in (nnunet / place).glob("*") if is_image_file(path)]
        if files:
            return sorted(_stem(file) for file in files)
    raise CaseError(name, f"data set must be made first, by `python -m training dataset {number}`")


def _stem(file: str) -> str:
    """The name of an image file without its suffix."""
    return next(file.removesuffix(suffix) for suffix in IMAGE_SUFFIXES if file.endswith(suffix))


def _patient_of(case: str, *, number: int) -> str:
    """The patient of a case; one of the organ data set bears its tracer's name too (`train_0001_psma`)."""
    patient, _, tracer = case.rpartition("_")
    return patient if number == ORGAN_DATASET_ID and tracer in list(Tracer) else case


def _listed(names: Iterable[str]) -> str:
    """Names in order; of many, the first ones and how many more."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _NAMED} more" if len(ordered) > _NAMED else ""
    return ", ".join(ordered[:_NAMED]) + more
