import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.crossval_split import generate_crossval_split

from fold_cases import NAMES, OTHER_SPLITS, SPLITS, make_dataset, trained
from petct.case import Tracer
from petct.errors import CaseError
from training.datasets.descriptions import DATASET_NUMBERS, LESION_DATASETS, ORGAN_DATASET_ID
from training.folds.in_place import put_splits
from training.folds.splits import (
    Fold,
    dataset_file,
    ensure_splits,
    master_file,
    patients_of,
    read_splits,
    splits_of,
    validation_patients,
    write_splits,
)

# Splits: nnU-Net's format


def test_splits_are_each_group_and_all_others() -> None:
    assert splits_of([["train_0003"], ["train_0002", "train_0001"]]) == (
        Fold(train=("train_0001", "train_0002"), val=("train_0003",)),
        Fold(train=("train_0003",), val=("train_0001", "train_0002")),
    )


def test_written_splits_are_read_again_and_are_nnunets_format(tmp_path: Path) -> None:
    write_splits(tmp_path / "new" / "splits.json", SPLITS)
    assert read_splits(tmp_path / "new" / "splits.json") == SPLITS
    assert patients_of(SPLITS) == NAMES
    content = json.loads((tmp_path / "new" / "splits.json").read_text(encoding="utf-8"))
    assert content[1] == {
        "train": ["train_0001", "train_0003", "train_0004", "train_0006", "train_0007"],
        "val": ["train_0002", "train_0005"],
    }
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["splits.json"]


def test_nnunets_own_splits_are_read(tmp_path: Path) -> None:
    own = generate_crossval_split(list(NAMES), seed=12345, n_splits=5)
    (tmp_path / "s.json").write_text(json.dumps(own), encoding="utf-8")
    found = read_splits(tmp_path / "s.json")
    assert [list(fold.val) for fold in found] == [sorted(fold["val"]) for fold in own]
    assert [list(fold.train) for fold in found] == [sorted(fold["train"]) for fold in own]


def fold(train: str, val: str) -> dict[str, list[str]]:
    return {"train": train.split(), "val": val.split()}


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({"train": [], "val": []}, ": must be a list of at least 2 folds, got dict"),
        ([fold("a", "b")], ": must be a list of at least 2 folds, got 1"),
        ([fold("a", "b"), {"train": ["b"]}], ' fold 1: must be {"train": [...], "val": [...]}, got {\'train\''),
        ([fold("a", "b"), {"train": ["b"], "val": "a"}], " fold 1: val must be a list of patients' names, got a"),
        ([fold("a", "b"), {"train": [3], "val": ["a"]}], " fold 1: train must be a list of patients' names, got [3]"),
        ([fold("a b", "b"), fold("b", "a")], " fold 0: must name a patient once, in train or in val, got b again"),
        ([fold("a", "b"), fold("b b", "a")], " fold 1: must name a patient once, in train or in val, got b again"),
        (
            [fold("c", "a b"), fold("a", "b c")],
            ": each patient must be in exactly one fold's val, got b in more than one",
        ),
        ([fold("b c", "a"), fold("a c", "b")], ": each patient must be in exactly one fold's val, got c in none"),
        ([fold("b", "a"), fold("a", "b"), fold("a b", "")], " fold 2: val must name at least one patient, got none"),
        ([fold("b", "a c"), fold("a", "b")], " fold 1: train must name all who are not in val, got no c"),
    ],
)
def test_splits_that_are_no_cross_validation_are_refused(tmp_path: Path, content: object, error: str) -> None:
    (tmp_path / "s.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CaseError, match=re.escape(f"{tmp_path}/s.json{error}")):
        read_splits(tmp_path / "s.json")


def test_splits_that_are_not_there_or_no_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="s.json: file is missing$"):
        read_splits(tmp_path / "s.json")
    (tmp_path / "s.json").write_text("[{", encoding="utf-8")
    with pytest.raises(CaseError, match="s.json: file must be JSON in UTF-8, got JSONDecodeError"):
        read_splits(tmp_path / "s.json")


def test_splits_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CaseError, match="splits.json: file must be writable"):
        write_splits(tmp_path / "file" / "splits.json", SPLITS)


# Splits of the data sets


@pytest.mark.parametrize("place", ["raw", "preprocessed"])
def test_all_data_sets_get_the_same_splits(tmp_path: Path, place: str) -> None:
    write_splits(master_file(tmp_path), SPLITS)
    for number in LESION_DATASETS:
        make_dataset(tmp_path, number, place=place)
        ensure_splits(tmp_path, number=number)
        assert read_splits(dataset_file(tmp_path, number=number)) == SPLITS
        ensure_splits(tmp_path, number=number)  # and again, where they are there
    assert dataset_file(tmp_path, number=912).parts[-3:] == (
        "nnUNet_preprocessed",
        "Dataset912_FDG_PET_binary_corrected",
        "splits_final.json",
    )


def test_nnunet_trains_on_the_splits(tmp_path: Path) -> None:
    write_splits(master_file(tmp_path), SPLITS)
    make_dataset(tmp_path, 801)
    ensure_splits(tmp_path, number=801)
    trainer = SimpleNamespace(
        fold=2,
        dataset_class=lambda *folder, **options: SimpleNamespace(identifiers=NAMES),
        preprocessed_dataset_folder="",
        preprocessed_dataset_folder_base=str(dataset_file(tmp_path, number=801).parent),
        folder_with_segs_from_previous_stage=None,
        print_to_log_file=lambda *text: None,
    )
    train, val = nnUNetTrainer.do_split(trainer)
    assert (tuple(train), tuple(val)) == (SPLITS[2].train, SPLITS[2].val)


def test_both_scans_of_a_patient_are_in_one_fold_of_the_organ_data_set(tmp_path: Path) -> None:
    write_splits(master_file(tmp_path), SPLITS)
    make_dataset(tmp_path, ORGAN_DATASET_ID)
    ensure_splits(tmp_path, number=ORGAN_DATASET_ID)
    found = read_splits(dataset_file(tmp_path, number=ORGAN_DATASET_ID))
    for own, master in zip(found, SPLITS, strict=True):
        assert own.val == tuple(sorted(f"{name}_{tracer}" for name in master.val for tracer in ("psma", "fdg")))
        assert len(own.train) == 2 * len(master.train)
    assert validation_patients(tmp_path, number=ORGAN_DATASET_ID, fold=1) == SPLITS[1].val


def test_patients_that_a_data_set_leaves_out_are_dropped_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_splits(master_file(tmp_path), SPLITS)
    make_dataset(tmp_path, 802, patients=NAMES[:-1])
    ensure_splits(tmp_path, number=802)
    assert read_splits(dataset_file(tmp_path, number=802)) == splits_of([fold.val for fold in without(NAMES[-1])])
    assert "Dataset802_FDG_PET_none: 1 patients of the folds are not in it: train_0007" in caplog.messages
    ensure_splits(tmp_path, number=802)


def without(name: str) -> list[Fold]:
    return [replace(fold, val=tuple(patient for patient in fold.val if patient != name)) for fold in SPLITS]


def test_a_data_set_that_does_not_fit_the_master_is_refused(tmp_path: Path) -> None:
    write_splits(master_file(tmp_path), SPLITS)
    with pytest.raises(CaseError, match="^Dataset801_PSMA_PET_none: data set must be made first, by `.* dataset 801`$"):
        ensure_splits(tmp_path, number=801)
    make_dataset(tmp_path, 801, patients=(*NAMES, "train_0008", "train_0099"))
    error = "^Dataset801_PSMA_PET_none: patients must be those of the folds, got train_0008, train_0099 besides$"
    with pytest.raises(CaseError, match=error):
        ensure_splits(tmp_path, number=801)
    make_dataset(tmp_path, 802, patients=[name for name in NAMES if name not in SPLITS[1].val])
    with pytest.raises(CaseError, match="^Dataset802_.*: fold 1 must have patients to validate on, got none$"):
        ensure_splits(tmp_path, number=802)
    # A name of another data set's kind is no patient.
    make_dataset(tmp_path, 901, patients=[f"{name}_psma" for name in NAMES])
    with pytest.raises(CaseError, match="got train_0001_psma, .*train_0005_psma and 2 more besides$"):
        ensure_splits(tmp_path, number=901)
    assert not list(tmp_path.glob("nnUNet_preprocessed/*/splits_final.json"))


def test_a_data_set_with_other_splits_is_refused_and_keeps_them(tmp_path: Path) -> None:
    write_splits(master_file(tmp_path), SPLITS)
    make_dataset(tmp_path, 921)
    write_splits(dataset_file(tmp_path, number=921), OTHER_SPLITS)
    with pytest.raises(CaseError) as refusal:
        ensure_splits(tmp_path, number=921)
    rule = f"folds must be those of {tmp_path}/splits_final.json; remove the file, or make folds with --overwrite"
    assert str(refusal.value) == f"Dataset921_PSMA_PET_soft_distance splits_final.json: {rule}, got others"
    assert read_splits(dataset_file(tmp_path, number=921)) == OTHER_SPLITS


def test_the_same_patients_in_another_order_of_folds_are_other_splits(tmp_path: Path) -> None:
    write_splits(master_file(tmp_path), SPLITS)
    make_dataset(tmp_path, 801)
    write_splits(dataset_file(tmp_path, number=801), SPLITS[::-1])
    with pytest.raises(CaseError, match="folds must be those of"):
        ensure_splits(tmp_path, number=801)


def test_without_a_master_nnunet_makes_its_own_folds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    make_dataset(tmp_path, 801)
    ensure_splits(tmp_path, number=801)
    master = f"{tmp_path}/splits_final.json is not there"
    assert caplog.messages == [f"Dataset801_PSMA_PET_none: {master}, nnU-Net will make random folds"]
    assert not dataset_file(tmp_path, number=801).exists()
    write_splits(dataset_file(tmp_path, number=801), OTHER_SPLITS)
    ensure_splits(tmp_path, number=801)
    assert caplog.messages[1:] == [f"Dataset801_PSMA_PET_none: folds are its own, {master}"]
    assert validation_patients(tmp_path, number=801, fold=2) == NAMES[5:]


def test_validation_patients_are_refused_where_nobody_knows_them(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="^Dataset801_PSMA_PET_none splits_final.json: file is missing; it comes with"):
        validation_patients(tmp_path, number=801, fold=0)
    write_splits(dataset_file(tmp_path, number=801), SPLITS)
    for missing in (3, -1):
        with pytest.raises(CaseError, match=f"fold must be within 0-2, got {missing}$"):
            validation_patients(tmp_path, number=801, fold=missing)
    # nnU-Net's own random split of scans tears patients apart.
    scans = [f"{name}_{tracer}" for name in NAMES for tracer in Tracer]
    write_splits(dataset_file(tmp_path, number=ORGAN_DATASET_ID), splits_of([scans[:5], scans[5:]]))
    with pytest.raises(CaseError, match="all scans of a patient must be in one fold, got train_0003 in several$"):
        validation_patients(tmp_path, number=ORGAN_DATASET_ID, fold=0)


# Putting splits in place


def test_splits_are_put_into_every_data_set_that_there_is(tmp_path: Path) -> None:
    for number in DATASET_NUMBERS:
        make_dataset(tmp_path, number)
    put_splits(tmp_path, SPLITS, overwrite=False)
    assert read_splits(master_file(tmp_path)) == SPLITS
    for number in DATASET_NUMBERS:
        for index, fold in enumerate(SPLITS):
            assert validation_patients(tmp_path, number=number, fold=index) == fold.val


def test_other_splits_are_overwritten_only_when_told_to(tmp_path: Path) -> None:
    put_splits(tmp_path, SPLITS, overwrite=False)
    make_dataset(tmp_path, 802)
    put_splits(tmp_path, SPLITS, overwrite=False)  # the same once more: what is missing is added
    assert read_splits(dataset_file(tmp_path, number=802)) == SPLITS
    make_dataset(tmp_path, 801)
    with pytest.raises(CaseError) as refusal:
        put_splits(tmp_path, OTHER_SPLITS, overwrite=False)
    rule = "other folds are there; --overwrite replaces them, got 2 such files"
    assert str(refusal.value) == f"{tmp_path}/splits_final.json: {rule}"
    assert read_splits(master_file(tmp_path)) == SPLITS
    assert not dataset_file(tmp_path, number=801).exists()
    put_splits(tmp_path, OTHER_SPLITS, overwrite=True)
    for file in (master_file(tmp_path), *(dataset_file(tmp_path, number=number) for number in (801, 802))):
        assert read_splits(file) == OTHER_SPLITS


def test_a_damaged_file_counts_as_other_splits(tmp_path: Path) -> None:
    master_file(tmp_path).write_text("[]", encoding="utf-8")
    with pytest.raises(CaseError, match="other folds are there"):
        put_splits(tmp_path, SPLITS, overwrite=False)
    put_splits(tmp_path, SPLITS, overwrite=True)
    assert read_splits(master_file(tmp_path)) == SPLITS


@pytest.mark.parametrize("is_preprocessed", [True, False])
def test_folds_are_not_changed_under_trained_networks(tmp_path: Path, is_preprocessed: bool) -> None:
    if is_preprocessed:
        make_dataset(tmp_path, 911)
    make_dataset(tmp_path, 801)
    put_splits(tmp_path, SPLITS, overwrite=False)
    folder = trained(tmp_path, 911)
    with pytest.raises(CaseError) as refusal:
        put_splits(tmp_path, OTHER_SPLITS, overwrite=True)
    rule = "a network was trained here on other folds, which must stay as they are; remove it first"
    assert str(refusal.value) == f"{folder}: {rule}, got 1 such folders in Dataset911_PSMA_PET_binary_corrected"
    for file in (master_file(tmp_path), dataset_file(tmp_path, number=801)):
        assert read_splits(file) == SPLITS
    put_splits(tmp_path, SPLITS, overwrite=False)
    put_splits(tmp_path, SPLITS, overwrite=True)


def test_folds_are_not_put_under_networks_that_were_trained_on_nnunets_own(tmp_path: Path) -> None:
    make_dataset(tmp_path, 802)
    write_splits(dataset_file(tmp_path, number=802), OTHER_SPLITS)
    trained(tmp_path, 802)
    with pytest.raises(CaseError, match="fold_1: a network was trained here on other folds"):
        put_splits(tmp_path, SPLITS, overwrite=True)
    assert not master_file(tmp_path).exists()


def test_it_is_the_data_sets_own_folds_that_its_networks_were_trained_on(tmp_path: Path) -> None:
    write_splits(master_file(tmp_path), SPLITS)
    make_dataset(tmp_path, 802)
    write_splits(dataset_file(tmp_path, number=802), OTHER_SPLITS)
    trained(tmp_path, 802)
    with pytest.raises(CaseError, match="fold_1: a network was trained here on other folds"):
        put_splits(tmp_path, SPLITS, overwrite=True)
    assert read_splits(dataset_file(tmp_path, number=802)) == OTHER_SPLITS


def test_a_patient_more_in_the_master_changes_nothing_for_a_data_set_without_that_patient(tmp_path: Path) -> None:
    make_dataset(tmp_path, 802)
    put_splits(tmp_path, SPLITS, overwrite=False)
    trained(tmp_path, 802)
    more = splits_of([SPLITS[0].val, (*SPLITS[1].val, "train_0008"), SPLITS[2].val])
    put_splits(tmp_path, more, overwrite=True)
    assert read_splits(master_file(tmp_path)) == more
    assert read_splits(dataset_file(tmp_path, number=802)) == SPLITS


def test_a_network_trained_on_everybody_has_no_folds(tmp_path: Path) -> None:
    put_splits(tmp_path, SPLITS, overwrite=False)
    trained(tmp_path, 802, fold="fold_all")
    put_splits(tmp_path, OTHER_SPLITS, overwrite=True)
    assert read_splits(master_file(tmp_path)) == OTHER_SPLITS
