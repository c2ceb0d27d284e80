import csv
import logging
import re
from pathlib import Path

import pytest

from fold_cases import edit_truth, make_dataset, one_by_one, trained
from petct.case import Tracer
from tiny_patients import write_patients
from training.__main__ import main
from training.datasets.descriptions import DATASET_NUMBERS, dataset_name
from training.datasets.organ_maps import computed_map
from training.datasets.provenance import DatasetProvenance, write_provenance
from training.folds import patient_traits
from training.folds.splits import (
    master_file,
    patients_of,
    read_splits,
    splits_of,
    validation_patients,
    write_splits,
)


def call(*arguments: object) -> int:
    return main(["folds", *[str(argument) for argument in arguments]])


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert call(*arguments) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message.rstrip("\n")


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient_traits, "in_processes", one_by_one)


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    """Six patients, two of each of three sizes of disease."""
    folder = write_patients(tmp_path / "patients", count=6)
    for number, patient in enumerate(sorted(folder.iterdir())):
        more = [(10, y, x) for y in range(3 * (number // 2)) for x in range(6)]
        edit_truth(patient, "PSMA", dict.fromkeys(more, 1))
    return folder


def test_the_command_end_to_end(tmp_path: Path, patients: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nnunet = tmp_path / "nnunet"
    names = sorted(path.name for path in patients.iterdir())
    for number in DATASET_NUMBERS:
        make_dataset(nnunet, number, patients=names)
    table = tmp_path / "tables" / "patients.csv"
    options = ("--patients", patients, "--nnunet", nnunet, "--folds", 2)
    assert call(*options, "--csv", table) == 0
    shown = capsys.readouterr().out
    splits = read_splits(master_file(nnunet))
    # Three pairs of equal patients: one of each in either fold.
    assert [{int(name[-4:]) // 2 for name in fold.val} for fold in splits] == [{0, 1, 2}, {0, 1, 2}]
    for number in DATASET_NUMBERS:
        assert [validation_patients(nnunet, number=number, fold=k) for k in range(2)] == [fold.val for fold in splits]
    lines = {line[:36].strip(): line[36:].split() for line in shown.splitlines() if line.startswith("  ")}
    assert float(lines["PSMA TTB, mL"][0]) > 0  # of the second table, which comes last
    assert re.search(r"^  PSMA TTB, mL +0\.000 +0\.\d+ +0\.\d+$", shown, re.MULTILINE)
    assert shown.splitlines()[-1] == "2 folds of 6 patients, 0 left out"
    with table.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["patient"]: int(row["fold"]) for row in rows} == {
        name: k for k, fold in enumerate(splits) for name in fold.val
    }
    assert float(rows[5]["psma_ttb_ml"]) == pytest.approx((3 * 3 * 2 + 1 + 6 * 6) * 4.0 * 5.0 * 3.0 / 1000)
    # Again: nothing changes; another seed's folds want --overwrite, and nothing is overwritten in part.
    assert call(*options) == 0
    assert read_splits(master_file(nnunet)) == splits
    assert refusal(capsys, *options, "--csv", table) == f"{table}: table is there already; --overwrite replaces it"
    other = next(seed for seed in range(2, 9) if call(*options, "--seed", seed) == 1)
    assert "splits_final.json: other folds are there; --overwrite replaces them, got 10" in capsys.readouterr().err
    assert call(*options, "--seed", other, "--overwrite", "--csv", table) == 0
    assert read_splits(master_file(nnunet)) != splits


def test_a_broken_patient_is_left_out_only_when_told_to(
    tmp_path: Path, patients: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nnunet = tmp_path / "nnunet"
    (patients / "train_0003" / "PSMA" / "TTB.nii.gz").write_bytes(b"cut off")
    options = ("--patients", patients, "--nnunet", nnunet)
    error = refusal(capsys, *options)
    assert error == f"{patients}: every patient must be measured, or be named by --leave-out, got broken: train_0003"
    assert not nnunet.exists()
    assert call(*options, "--leave-out", "train_0003") == 0
    assert patients_of(read_splits(master_file(nnunet))) == tuple(f"train_000{n}" for n in (0, 1, 2, 4, 5))
    assert "5 folds of 5 patients, 1 left out" in capsys.readouterr().out
    error = refusal(capsys, *options, "--leave-out", "train_0009")
    assert error == f"--leave-out: must be patients of {patients}, got train_0009"


def leave_out(nnunet: Path, number: int, *names: str) -> None:
    """A data set without some of the six patients."""
    kept = [name for name in (f"train_000{n}" for n in range(6)) if name not in names]
    make_dataset(nnunet, number, patients=kept)
    made = DatasetProvenance(tuple(kept), (), left_out=names, organs_computed=(), clip=None, sha256="0" * 64)
    write_provenance(nnunet / "nnUNet_raw" / dataset_name(number), made)


def test_whom_all_data_sets_leave_out_the_folds_leave_out(
    tmp_path: Path, patients: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    nnunet = tmp_path / "nnunet"
    (patients / "train_0003" / "PSMA" / "TTB.nii.gz").write_bytes(b"cut off")
    leave_out(nnunet, 801, "train_0001", "train_0003")
    leave_out(nnunet, 802, "train_0003", "train_0009")
    options = ("--patients", patients, "--nnunet", nnunet, "--folds", 2)
    caplog.set_level(logging.INFO)
    assert call(*options) == 0
    assert patients_of(read_splits(master_file(nnunet))) == tuple(f"train_000{n}" for n in (0, 1, 2, 4, 5))
    assert "the data sets are without, and so are the folds: train_0003" in caplog.messages
    assert "2 folds of 5 patients, 1 left out" in capsys.readouterr().out
    # One data set that has the patient, or does not say, and the patient must be measured.
    leave_out(nnunet, 901)
    assert "got broken: train_0003" in refusal(capsys, *options)
    (nnunet / "nnUNet_raw" / dataset_name(901) / "provenance.json").unlink()
    assert "got broken: train_0003" in refusal(capsys, *options)


def test_computed_organ_maps_are_found(tmp_path: Path, patients: Path) -> None:
    options = ("--patients", patients, "--folds", 2, "--nnunet")
    assert call(*options, tmp_path / "given", "--csv", tmp_path / "given.csv") == 0
    for patient in patients.iterdir():
        computed = computed_map(tmp_path / "computed" / "organs", patient=patient.name, tracer=Tracer.FDG)
        computed.parent.mkdir(parents=True)
        (patient / "FDG" / "totseg_24.nii.gz").rename(computed)
    assert call(*options, tmp_path / "computed", "--csv", tmp_path / "computed.csv") == 0
    assert call(*options, tmp_path / "none", "--csv", tmp_path / "none.csv") == 0
    given, computed, none = ((tmp_path / f"{name}.csv").read_text("utf-8") for name in ("given", "computed", "none"))
    assert given == computed != none


def test_the_authors_splits_are_used_as_they_are(
    tmp_path: Path, patients: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(path.name for path in patients.iterdir())
    authors = splits_of([names[:2], names[2:4], names[4:]])  # badly balanced, and theirs
    write_splits(tmp_path / "authors.json", authors)
    options = ("--patients", patients, "--nnunet", tmp_path / "nnunet", "--splits", tmp_path / "authors.json")
    assert call(*options) == 0
    assert read_splits(master_file(tmp_path / "nnunet")) == authors
    assert re.search(r"^  PSMA TTB, mL .* \*$", capsys.readouterr().out, re.MULTILINE)
    where = tmp_path / "authors.json"
    assert refusal(capsys, *options, "--folds", 5) == f"--folds: must be 3 as in {where}, or not given, got 5"
    assert call(*options, "--leave-out", names[0], "--overwrite") == 0
    assert read_splits(master_file(tmp_path / "nnunet")) == splits_of([names[1:2], names[2:4], names[4:]])
    error = refusal(capsys, *options, "--leave-out", *names[:2])
    assert error == f"{where}: fold 0 must keep a patient to validate on, got none"
    write_splits(where, splits_of([names[:2], names[2:4]]))
    error = refusal(capsys, *options)
    assert error == f"{where}: must name every patient of the folder, got no train_0004, train_0005"
    write_splits(where, splits_of([names, ["train_0017"]]))
    error = refusal(capsys, *options)
    assert error == f"{where}: must name patients of the folder only, got train_0017"
    write_splits(where, splits_of([names[:4], names[3:]]))
    error = refusal(capsys, *options)
    assert "train_0003" in error


def test_folds_stay_when_something_was_trained_on_them(
    tmp_path: Path, patients: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nnunet = tmp_path / "nnunet"
    options = ("--patients", patients, "--nnunet", nnunet, "--folds", 3)
    assert call(*options) == 0
    folder = trained(nnunet, 922, fold="fold_0")
    assert call(*options, "--overwrite") == 0  # the same folds
    error = refusal(capsys, *options[:-1], 2, "--overwrite")
    assert error.startswith(f"{folder}: a network was trained here on other folds, which must stay as they are")


@pytest.mark.parametrize("folds", [1, 7])
def test_a_number_of_folds_that_cannot_be_is_refused_before_measuring(
    tmp_path: Path, patients: Path, capsys: pytest.CaptureFixture[str], folds: int
) -> None:
    error = refusal(capsys, "--patients", patients, "--nnunet", tmp_path / "nnunet", "--folds", folds)
    assert error == f"--folds: must be within 2 and the number of patients, 6, got {folds}"
