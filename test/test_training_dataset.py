"""`python -m training dataset`: what it refuses, what it leaves out, and what a rebuilt data set takes with it."""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor as extractor_module
import nnunetv2.experiment_planning.plan_and_preprocess_api as nnunet_api
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from petct.case import Scan, Tracer
from petct.errors import CaseError
from petct.geometry import grid_of, to_array, to_image
from petct.manifest import OrganSettings, read_manifest
from petct.scan_files import ScanFiles
from tiny_patients import write_patients
from training.__main__ import main
from training.datasets import build, clipping, organ_maps, planning, raw_cases
from training.datasets.descriptions import dataset_name
from training.datasets.disk_space import raw_bytes
from training.datasets.provenance import DatasetProvenance, read_provenance
from training.datasets.raw_cases import PatientInputs, patient_inputs
from training.datasets.sources import read_named_scan
from training.datasets.staleness import outdated_results
from whole_case import stand_in_models, write_manifest


class NnUNet:
    """Stands in for nnU-Net's planning: the same files in the same places, and a note of each call."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: list[tuple[str, int]] = []
        self.processes: list[int] = []
        self.extractor: type | None = None
        self.is_killed = False

    def folder(self, number: int) -> Path:
        return self.root / "nnUNet_preprocessed" / dataset_name(number)

    def fingerprint(self, number: int, *, fingerprint_extractor_class: type, num_processes: int, **_: Any) -> None:
        file = self.folder(number) / "dataset_fingerprint.json"
        self.extractor = fingerprint_extractor_class
        if not file.exists():  # as nnU-Net's with clean=False
            self.calls.append(("fingerprint", number))
            self.processes.append(num_processes)
            file.write_text(self._labels(number), encoding="utf-8")
        print("pages of output")  # noqa: T201 - as nnU-Net does

    def plan(self, number: int, planner: type) -> None:
        name = {"ExperimentPlanner": "nnUNetPlans"}.get(planner.__name__)
        name = name or f"nnUNetResEncUNet{planner.__name__[-1]}Plans"
        (self.folder(number) / f"{name}.json").write_text("{}", encoding="utf-8")

    def preprocess(self, number: int, plans: str, configurations: tuple[str], processes: tuple[int]) -> None:
        self.calls.append(("preprocess", number))
        if self.is_killed:
            raise KeyboardInterrupt
        assert (self.folder(number) / f"{plans}.json").exists()
        assert (self.folder(number) / "dataset_fingerprint.json").read_text("utf-8") == self._labels(number)
        self.processes.extend(processes)

    def _labels(self, number: int) -> str:
        labels = self.root / "nnUNet_raw" / dataset_name(number) / "labelsTr"
        return ",".join(sorted(path.name for path in labels.iterdir()))


@pytest.fixture
def nnunet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NnUNet:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, "")  # so that what the command sets is undone
    stand_in = NnUNet(tmp_path / "nnunet")
    monkeypatch.setattr(nnunet_api, "extract_fingerprint_dataset", stand_in.fingerprint)
    monkeypatch.setattr(nnunet_api, "plan_experiment_dataset", stand_in.plan)
    monkeypatch.setattr(nnunet_api, "preprocess_dataset", stand_in.preprocess)
    return stand_in


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    return write_patients(tmp_path / "patients", count=3)


def run(nnunet: NnUNet, patients: Path, *arguments: object) -> int:
    options = ("--patients", patients, "--nnunet", nnunet.root, "--processes", 1)
    return main(["dataset", *map(str, (*arguments, *options))])


def refusal(capsys: pytest.CaptureFixture[str], nnunet: NnUNet, patients: Path, *arguments: object) -> str:
    capsys.readouterr()
    assert run(nnunet, patients, *arguments) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message.rstrip("\n")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def break_patient(patients: Path, name: str = "train_0001") -> None:
    (patients / name / "FDG" / "CT.nii.gz").unlink()


def add_correction(patients: Path, scan: str, name: str = "train_0002") -> None:
    truth = sitk.ReadImage(str(patients / name / scan / "TTB.nii.gz"))
    sitk.WriteImage(truth, str(patients / name / scan / "TTB_fixed.nii.gz"))


def test_data_sets_are_checked_written_and_preprocessed(
    nnunet: NnUNet, patients: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert run(nnunet, patients, 801, 902, 801) == 0
    out = capsys.readouterr().out
    for number in (801, 902):
        made = read_provenance(nnunet.root, number=number)
        assert made.patients == ("train_0000", "train_0001", "train_0002")
        assert (made.corrected, made.left_out, made.organs_computed, made.clip) == ((), (), (), None)
        assert f"| {dataset_name(number)} | 3 | 0 | 0 | 0 | no | {made.sha256[:12]} |" in out
        assert (nnunet.folder(number) / "preprocessing_done").read_text("ascii").strip() == made.sha256
        assert {"nnUNetPlans.json", "nnUNetResEncUNetMPlans.json", "nnUNetResEncUNetLPlans.json"} < set(
            names(nnunet.folder(number))
        )
    steps = [(step, number) for number in (801, 902) for step in ("fingerprint", "preprocess")]
    assert nnunet.calls == steps
    assert "pages of output" not in out
    assert caplog.messages[0].startswith("makes 2 data sets of 3 patients in ")
    assert "Dataset902_FDG_PET_binary: train_0002 (3 of 3)" in caplog.messages


def test_what_is_made_is_kept(
    nnunet: NnUNet, patients: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert run(nnunet, patients, 901) == 0
    first = capsys.readouterr().out
    nnunet.calls.clear()
    with caplog.at_level(logging.INFO):
        assert run(nnunet, patients, 901) == 0
    assert nnunet.calls == []
    assert capsys.readouterr().out == first
    assert "Dataset901_PSMA_PET_binary is preprocessed already" in caplog.messages
    assert not any("checks" in message for message in caplog.messages)


def test_an_interrupted_preprocessing_goes_on(nnunet: NnUNet, patients: Path) -> None:
    nnunet.is_killed = True
    with pytest.raises(KeyboardInterrupt):
        run(nnunet, patients, 801)
    assert not (nnunet.folder(801) / "preprocessing_done").exists()
    written = (nnunet.root / "nnUNet_raw" / dataset_name(801) / "dataset.json").stat().st_mtime_ns
    nnunet.is_killed = False
    assert run(nnunet, patients, 801) == 0
    assert nnunet.calls == [("fingerprint", 801), ("preprocess", 801), ("preprocess", 801)]
    assert (nnunet.root / "nnUNet_raw" / dataset_name(801) / "dataset.json").stat().st_mtime_ns == written


# --- Broken patients.


def test_a_broken_patient_is_refused_and_every_error_named(
    nnunet: NnUNet, patients: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    break_patient(patients)
    (patients / "train_0002" / "PSMA" / "threshold.json").write_text("0", encoding="utf-8")
    error = refusal(capsys, nnunet, patients, 801)  # which does not look at FDG; patients are the same for all
    assert error == (
        "patients: 2 of 3 are broken; mend them, or --leave-out-broken (train_0001, train_0002), "
        "got train_0001 FDG/CT.nii.gz: file is missing"
    )
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == [
        "train_0001 FDG/CT.nii.gz: file is missing",
        "train_0002 PSMA/threshold.json: SUV threshold must be > 0, got 0",
    ]
    assert names(nnunet.root) == []


def test_broken_patients_are_left_out_when_asked_and_counted(
    nnunet: NnUNet, patients: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    break_patient(patients)
    assert run(nnunet, patients, 802, "--leave-out-broken") == 0
    made = read_provenance(nnunet.root, number=802)
    assert (made.patients, made.left_out) == (("train_0000", "train_0002"), ("train_0001",))
    assert "1 of 3 patients are broken and left out: train_0001" in caplog.messages
    out = capsys.readouterr().out
    assert "| Dataset802_FDG_PET_none | 2 | 0 | 0 | 1 | no |" in out
    assert out.endswith("left out: train_0001\n")
    # The same request finds it there; the one that must leave nobody out does not.
    assert run(nnunet, patients, 802, "--leave-out-broken") == 0
    error = refusal(capsys, nnunet, patients, 802)
    rule = "is there without patients who are not left out now; --overwrite makes it anew, got train_0001"
    assert error == f"Dataset802_FDG_PET_none: {rule}"


def refuse_ct(monkeypatch: pytest.MonkeyPatch, *refused: str) -> None:
    """A CT that breaks after the check, as one on a failing disk does."""

    def fail(files: ScanFiles, *, patient: str) -> Scan:
        if patient in refused:
            raise CaseError("PSMA/CT.nii.gz", "file must be readable")
        return read_named_scan(files, patient=patient)

    for module in (clipping, raw_cases):
        monkeypatch.setattr(module, "read_named_scan", fail)


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ((901,), "Dataset901_PSMA_PET_binary"),
        ((298,), "Dataset298_organs_6mm"),
        ((801, "--clip-ct"), "PSMA CT percent"),
    ],
)
def test_every_patient_is_tried_and_every_refused_one_named(
    nnunet: NnUNet,
    patients: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[object, ...],
    where: str,
) -> None:
    refuse_ct(monkeypatch, "train_0000", "train_0002")
    assert run(nnunet, patients, *arguments) == 1
    *each, last = capsys.readouterr().err.splitlines()
    assert each == [f"train_000{n} PSMA/CT.nii.gz: file must be readable" for n in (0, 2)]
    assert last.startswith(where)
    rule = "2 of 3 patients cannot be used; mend them, or --leave-out-broken (train_0000, train_0002)"
    assert last.endswith(f": {rule}, got {each[0]}")
    assert names(nnunet.root / "nnUNet_raw") == []
    number = int(str(arguments[0]))
    assert run(nnunet, patients, *arguments, "--leave-out-broken") == 0
    made = read_provenance(nnunet.root, number=number)
    assert (made.patients, made.left_out) == (("train_0001",), ("train_0000", "train_0002"))
    cases = names(nnunet.root / "nnUNet_raw" / dataset_name(number) / "imagesTr")
    assert cases
    assert all(case.startswith("train_0001") for case in cases)
    # The same request finds it there.
    nnunet.calls.clear()
    assert run(nnunet, patients, *arguments, "--leave-out-broken") == 0
    assert nnunet.calls == []


def test_what_was_written_of_a_refused_patient_is_removed_and_nothing_else(
    nnunet: NnUNet, patients: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (patients / "train_0002").rename(patients / "train_0001_psma_b")

    def fail(patient: Path, **_: Any) -> PatientInputs:
        if patient.name == "train_0001":
            raise CaseError("file", "must not change while it is read")
        return patient_inputs(patient, **_)

    monkeypatch.setattr(raw_cases, "patient_inputs", fail)
    assert run(nnunet, patients, 298, "--leave-out-broken") == 0
    labels = names(nnunet.root / "nnUNet_raw" / dataset_name(298) / "labelsTr")
    assert labels == [f"{name}_{t}.mha" for name in ("train_0000", "train_0001_psma_b") for t in ("fdg", "psma")]


def test_when_all_are_broken_there_is_no_data_set(
    nnunet: NnUNet, patients: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(3):
        break_patient(patients, f"train_000{n}")
    error = refusal(capsys, nnunet, patients, 802, "--leave-out-broken")
    assert error == "patients: one at least must not be broken, got 3 broken ones"


def test_patients_can_be_left_out_by_name(nnunet: NnUNet, patients: Path, caplog: pytest.LogCaptureFixture) -> None:
    break_patient(patients)
    assert run(nnunet, patients, 801, "--leave-out", "train_0001", "train_0002") == 0
    made = read_provenance(nnunet.root, number=801)
    assert (made.patients, made.left_out) == (("train_0000",), ("train_0001", "train_0002"))
    assert not any("train_0001" in message for message in caplog.messages)  # it is not even looked at


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((801, "--leave-out", "train_0009"), "--leave-out: must name patients of the folder, got train_0009"),
        (
            (801, "--leave-out", *(f"train_000{n}" for n in range(3))),
            "--leave-out: must leave some patient, got all of them",
        ),
        ((911, "--corrected", "none"), "--corrected: must be a folder of train_XXXX, got none"),
        ((801, 298, "--clip-ct"), "--clip-ct: is for lesions; TotalSegmentator does not clip, got 298"),
    ],
)
def test_what_cannot_be_meant_is_refused_first(
    nnunet: NnUNet, patients: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[object, ...], error: str
) -> None:
    assert refusal(capsys, nnunet, patients, *arguments) == error
    assert names(nnunet.root) == []


# --- A data set that is there and a request for another one.


def change_nothing(patients: Path) -> None:
    """Only the arguments differ."""


def change_threshold(patients: Path) -> None:
    (patients / "train_0000" / "PSMA" / "threshold.json").write_text("3.05", encoding="utf-8")


def add_patient(patients: Path) -> None:
    write_patients(patients.parent / "more", count=4)
    (patients.parent / "more" / "train_0003").rename(patients / "train_0003")


MADE_OF_ELSE = "Dataset801_PSMA_PET_none: is there, made of something else; --overwrite makes it anew, got "


@pytest.mark.parametrize(
    ("change", "arguments", "got"),
    [
        (change_threshold, (), "files that have changed since, or were added (corrections, organ maps)"),
        (add_patient, (), "3 patients of 3, now 4 are asked for"),
        (change_nothing, ("--leave-out", "train_0000"), "3 patients of 3, now 3 are asked for"),
        (change_nothing, ("--clip-ct",), "a CT that is not clipped"),
    ],
)
def test_a_data_set_of_something_else_is_not_taken_for_it(
    nnunet: NnUNet,
    patients: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], None],
    arguments: tuple[object, ...],
    got: str,
) -> None:
    assert run(nnunet, patients, 801) == 0
    before = read_provenance(nnunet.root, number=801)
    change(patients)
    assert refusal(capsys, nnunet, patients, 801, 802, *arguments) == MADE_OF_ELSE + got
    assert read_provenance(nnunet.root, number=801) == before
    assert names(nnunet.root / "nnUNet_raw") == ["Dataset801_PSMA_PET_none"]
    assert run(nnunet, patients, 801, "--overwrite", *arguments) == 0
    assert read_provenance(nnunet.root, number=801).sha256 != before.sha256


def test_overwriting_goes_on_where_it_was_interrupted(
    nnunet: NnUNet, patients: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(nnunet, patients, 801, 802) == 0
    raw = nnunet.root / "nnUNet_raw"
    made = {number: (raw / dataset_name(number) / "dataset.json").stat().st_ino for number in (801, 802)}
    change_threshold(patients)  # of PSMA, which 802 does not look at
    nnunet.calls.clear()
    with caplog.at_level(logging.INFO):
        assert run(nnunet, patients, 801, 802, "--overwrite") == 0
    assert nnunet.calls == [("fingerprint", 801), ("preprocess", 801)]
    assert (raw / dataset_name(801) / "dataset.json").stat().st_ino != made[801]
    assert (raw / dataset_name(802) / "dataset.json").stat().st_ino == made[802]
    got = "files that have changed since, or were added (corrections, organ maps)"
    assert f"Dataset801_PSMA_PET_none is made anew: {MADE_OF_ELSE}{got}" in caplog.messages
    assert "Dataset802_FDG_PET_none is made of just this, and kept" in caplog.messages
    nnunet.calls.clear()
    assert run(nnunet, patients, 801, 802, "--overwrite") == 0
    assert nnunet.calls == []


def test_a_data_set_from_before_provenance_is_refused(
    nnunet: NnUNet, patients: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (nnunet.root / "nnUNet_raw" / dataset_name(801)).mkdir(parents=True)
    error = refusal(capsys, nnunet, patients, 801)
    assert error == (
        "Dataset801_PSMA_PET_none/provenance.json: file is missing; "
        "`python -m training dataset 801 --overwrite` makes it with its data set"
    )


def train(nnunet: NnUNet, number: int, fold: int) -> Path:
    folder = nnunet.root / "nnUNet_results" / dataset_name(number) / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    (folder / f"fold_{fold}").mkdir(parents=True)
    return folder / f"fold_{fold}"


def write_splits(nnunet: NnUNet, number: int, *cases: str) -> Path:
    splits = nnunet.folder(number) / "splits_final.json"
    splits.write_text(json.dumps([{"train": list(cases[1:]), "val": [cases[0]]}]), encoding="utf-8")
    return splits


def test_a_rebuilt_data_set_is_planned_and_preprocessed_anew(
    nnunet: NnUNet, patients: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(nnunet, patients, 801) == 0
    first = read_provenance(nnunet.root, number=801).sha256
    (nnunet.folder(801) / "nnUNetPlansNarrow.json").touch()
    (nnunet.folder(801) / "nnUNetPlans_3d_fullres").mkdir()
    (nnunet.folder(801) / "nnUNetPlans_3d_fullres" / "train_0000.b2nd").touch()
    splits = write_splits(nnunet, 801, "train_0000", "train_0001", "train_0002")
    old = train(nnunet, 801, fold=0)
    assert outdated_results(nnunet.root, number=801) == []
    change_threshold(patients)
    nnunet.calls.clear()
    assert run(nnunet, patients, 801, "--overwrite") == 0
    assert nnunet.calls == [("fingerprint", 801), ("preprocess", 801)]
    second = read_provenance(nnunet.root, number=801).sha256
    assert (nnunet.folder(801) / "preprocessing_done").read_text("ascii").strip() == second != first
    assert not {"nnUNetPlansNarrow.json", "nnUNetPlans_3d_fullres"} & set(names(nnunet.folder(801)))
    assert splits.exists()  # the cases are the same
    assert outdated_results(nnunet.root, number=801) == [old]
    assert f"{old}: trained on a former version of the data set; remove it to train anew" in caplog.messages
    # What is trained now is of this version; going back to the first files makes the first fold valid again.
    train(nnunet, 801, fold=1)
    assert outdated_results(nnunet.root, number=801) == [old]
    (patients / "train_0000" / "PSMA" / "threshold.json").write_text('{"suv_threshold": 3.0}', encoding="utf-8")
    assert run(nnunet, patients, 801, "--overwrite") == 0
    assert read_provenance(nnunet.root, number=801).sha256 == first
    assert [path.name for path in outdated_results(nnunet.root, number=801)] == ["fold_1"]


def test_splits_of_other_cases_go_with_the_data_set(nnunet: NnUNet, patients: Path) -> None:
    assert run(nnunet, patients, 801) == 0
    splits = write_splits(nnunet, 801, "train_0000", "train_0001", "train_0002")
    assert run(nnunet, patients, 801, "--overwrite", "--leave-out", "train_0001") == 0
    assert not splits.exists()


def test_preprocessed_data_of_another_raw_data_set_are_not_used(nnunet: NnUNet, patients: Path) -> None:
    assert run(nnunet, patients, 801) == 0
    (nnunet.folder(801) / "preprocessing_done").write_text("0" * 64, encoding="ascii")
    (nnunet.folder(801) / "preprocessing_begun").write_text("0" * 64, encoding="ascii")
    (nnunet.folder(801) / "dataset_fingerprint.json").write_text("old", encoding="utf-8")
    assert run(nnunet, patients, 801) == 0
    assert nnunet.calls[2:] == [("fingerprint", 801), ("preprocess", 801)]


# --- Corrected annotations.


@pytest.mark.parametrize(("number", "scan"), [(911, "PSMA"), (912, "FDG")])
def test_corrected_data_sets_need_corrections(
    nnunet: NnUNet,
    patients: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    number: int,
    scan: str,
) -> None:
    add_correction(patients, "FDG" if scan == "PSMA" else "PSMA")  # the other tracer's do not help
    name = dataset_name(number)
    rule = f"needs corrected annotations, {scan}/TTB_fixed.nii.gz beside TTB or in the folder of --corrected"
    assert refusal(capsys, nnunet, patients, 801, number) == f"{name}: {rule}, got none in 3 patients"
    assert names(nnunet.root) == []
    add_correction(patients, scan)
    (patients / "train_0002" / scan / "TTB_fixed.nii.gz").rename(tmp_path / "TTB.nii.gz")
    place = tmp_path / "corrected" / "train_0002" / scan
    place.mkdir(parents=True)
    (tmp_path / "TTB.nii.gz").rename(place / "TTB.nii.gz")
    with caplog.at_level(logging.INFO):
        assert run(nnunet, patients, number, "--corrected", tmp_path / "corrected") == 0
    assert read_provenance(nnunet.root, number=number).corrected == ("train_0002",)
    assert f"{name}: 1 of 3 patients have a corrected annotation" in caplog.messages
    assert f"| {name} | 3 | 1 | 0 | 0 |" in capsys.readouterr().out


def test_a_broken_correction_breaks_its_patient(
    nnunet: NnUNet, patients: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_correction(patients, "PSMA", "train_0000")
    path = patients / "train_0000" / "PSMA" / "TTB_fixed.nii.gz"
    truth = sitk.ReadImage(str(path))
    sitk.WriteImage(to_image(to_array(truth) * 7, grid_of(truth)), str(path))
    error = refusal(capsys, nnunet, patients, 911)
    assert error.endswith("got train_0000 PSMA/TTB_fixed.nii.gz: truth must hold 0 and 1 only, got 1 other values: 7")


# --- Clipping.


def test_each_tracer_is_clipped_to_its_own_percentiles(
    nnunet: NnUNet, patients: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(nnunet, patients, 801, 901, 802, "--clip-ct") == 0
    out = capsys.readouterr().out
    clips = {number: read_provenance(nnunet.root, number=number).clip for number in (801, 901, 802)}
    assert clips[801] == clips[901] != clips[802]
    for number, clip in clips.items():
        assert clip is not None
        assert f"| {dataset_name(number)} | 3 | 0 | 0 | 0 | {clip.low_hu:g} to {clip.high_hu:g} |" in out
        images = nnunet.root / "nnUNet_raw" / dataset_name(number) / "imagesTr"
        hu = np.concatenate([to_array(sitk.ReadImage(str(path))).ravel() for path in images.glob("*_0001.mha")])
        assert (hu.min(), hu.max()) == (clip.low_hu, clip.high_hu)
        assert np.mean(hu <= clip.low_hu) > 0.045  # more where a PET lies outside of the CT, at -1000 HU
        assert np.mean(hu >= clip.high_hu) == pytest.approx(0.05, abs=0.005)  # to within a bin
    assert run(nnunet, patients, 801, "--clip-ct") == 0  # the same again
    assert refusal(capsys, nnunet, patients, 801) == MADE_OF_ELSE + "a CT that is clipped"


# --- Missing organ maps.


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Organs found by a stand-in for TotalSegmentator; whose, in order."""
    calls: list[str] = []

    def find_organs(ct: sitk.Image, *, settings: OrganSettings, device: str, where: str) -> sitk.Image:
        assert device == "cpu"
        calls.append(where)
        return to_image(np.full(grid_of(ct).shape_zyx, 5, dtype=np.uint8), grid_of(ct))

    monkeypatch.setattr(organ_maps, "find_organs", find_organs)
    return calls


def without_maps(patients: Path, *scans: str) -> None:
    for scan in scans:
        (patients / scan / "totseg_24.nii.gz").unlink()


def test_missing_maps_are_computed_once_and_beside_the_data_sets(
    nnunet: NnUNet, patients: Path, tmp_path: Path, found: list[str]
) -> None:
    without_maps(patients, "train_0000/FDG", "train_0002/FDG", "train_0002/PSMA")
    manifest = write_manifest(stand_in_models(tmp_path / "models"))
    before = sorted(patients.rglob("*"))
    assert run(nnunet, patients, 802, 902, "--manifest", manifest) == 0
    assert found == ["train_0000 FDG/CT.nii.gz", "train_0002 FDG/CT.nii.gz"]
    assert run(nnunet, patients, 922, 901, "--manifest", manifest) == 0
    assert found[2:] == ["train_0002 PSMA/CT.nii.gz"]
    assert read_provenance(nnunet.root, number=802).organs_computed == ()
    assert read_provenance(nnunet.root, number=922).organs_computed == ("train_0000", "train_0002")
    assert names(nnunet.root / "organs" / "train_0000" / "FDG") == ["totseg_24.json", "totseg_24.nii.gz"]
    assert sorted(patients.rglob("*")) == before
    liver = nnunet.root / "nnUNet_raw" / dataset_name(902) / "imagesTr" / "train_0000_0004.mha"
    assert to_array(sitk.ReadImage(str(liver))).max() == 1.0


def test_a_map_of_another_ct_or_model_is_not_taken(
    nnunet: NnUNet, patients: Path, tmp_path: Path, found: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    without_maps(patients, "train_0001/FDG")
    models = stand_in_models(tmp_path / "models")
    settings = read_manifest(write_manifest(models)).organs
    where = nnunet.root / "organs"
    missing = organ_maps.missing_maps(sorted(patients.iterdir()), tracers=tuple(Tracer))
    assert missing == [(patients / "train_0001", Tracer.FDG)]
    organ_maps.compute_maps(missing, organs=where, settings=settings, device="cpu")
    organ_maps.compute_maps(missing, organs=where, settings=settings, device="cpu")
    assert len(found) == 1
    ct = patients / "train_0001" / "FDG" / "CT.nii.gz"
    image = sitk.ReadImage(str(ct))
    sitk.WriteImage(to_image(to_array(image) + 1, grid_of(image)), str(ct))
    refused = organ_maps.compute_maps(missing, organs=where, settings=settings, device="cpu")
    file = where / "train_0001" / "FDG" / "totseg_24.nii.gz"
    rule = "must be computed from this CT by this model; remove it, and it is computed anew"
    assert {name: str(error) for name, error in refused.items()} == {"train_0001": f"{file}: {rule}"}
    assert len(found) == 1


def test_a_patient_whose_map_cannot_be_computed_does_not_stop_the_others(
    nnunet: NnUNet, patients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def find_organs(ct: sitk.Image, *, settings: OrganSettings, device: str, where: str) -> sitk.Image:
        if "train_0001" in where:
            raise CaseError(where, "TotalSegmentator must find organs", "none")
        return to_image(np.full(grid_of(ct).shape_zyx, 5, dtype=np.uint8), grid_of(ct))

    monkeypatch.setattr(organ_maps, "find_organs", find_organs)
    without_maps(patients, "train_0000/FDG", "train_0001/FDG", "train_0002/FDG")
    arguments = (902, "--manifest", write_manifest(stand_in_models(tmp_path / "models")))
    assert run(nnunet, patients, *arguments) == 1
    first, last = capsys.readouterr().err.splitlines()
    assert first == "train_0001 FDG/CT.nii.gz: TotalSegmentator must find organs, got none"
    assert last.startswith("organ maps: 1 of 3 patients cannot be used; ")
    assert names(nnunet.root / "organs") == ["train_0000", "train_0002"]
    assert names(nnunet.root / "nnUNet_raw") == []
    assert run(nnunet, patients, *arguments, "--leave-out-broken") == 0
    made = read_provenance(nnunet.root, number=902)
    assert (made.left_out, made.organs_computed) == (("train_0001",), ("train_0000", "train_0002"))


def test_without_weights_a_missing_map_is_refused_before_anything_is_written(
    nnunet: NnUNet, patients: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without_maps(patients, "train_0001/PSMA")
    error = refusal(capsys, nnunet, patients, 801, 901)  # the default is the paper's manifest, which brings none
    assert error.startswith("organ maps: TotalSegmentator's weights are missing: ")
    assert "totalseg_download_weights -t total_fast" in error
    assert names(nnunet.root) == []


def test_the_organ_data_set_needs_maps_of_its_own(
    nnunet: NnUNet, patients: Path, found: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    without_maps(patients, "train_0001/PSMA")
    error = refusal(capsys, nnunet, patients, 298)
    rule = "organ map totseg_24.nii.gz is missing; Dataset298_organs_6mm learns from given ones"
    assert error == f"train_0001 psma: {rule}"
    assert found == []


@pytest.mark.parametrize(("has_gpu", "device"), [(True, "cuda"), (False, "cpu")])
def test_organ_maps_are_computed_on_a_gpu_where_there_is_one(
    nnunet: NnUNet, patients: Path, monkeypatch: pytest.MonkeyPatch, has_gpu: bool, device: str
) -> None:
    asked: list[str] = []

    def note(numbers: list[int], request: build.BuildRequest) -> dict[int, DatasetProvenance]:
        asked.append(request.device)
        return {}

    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(build, "build_datasets", note)
    assert run(nnunet, patients, 801) == 0
    assert run(nnunet, patients, 801, "--device", "cpu") == 0
    assert asked == [device, "cpu"]


# --- Disk and memory.


@pytest.mark.parametrize("number", [801, 922, 298])
def test_the_bytes_of_a_raw_data_set_are_known_before_it_is_written(
    nnunet: NnUNet, patients: Path, number: int
) -> None:
    expected = raw_bytes(number, patients=sorted(patients.iterdir()))
    assert run(nnunet, patients, number) == 0
    folder = nnunet.root / "nnUNet_raw" / dataset_name(number)
    files = [*(folder / "imagesTr").iterdir(), *(folder / "labelsTr").iterdir()]
    voxel_bytes = sum(_voxel_bytes(file) for file in files)
    # A 6 mm grid is rounded to whole voxels, of which a tiny phantom has few.
    assert expected == (pytest.approx(voxel_bytes, rel=0.25) if number == 298 else voxel_bytes)


def _voxel_bytes(file: Path) -> int:
    image = sitk.ReadImage(str(file))
    return int(image.GetNumberOfPixels() * image.GetSizeOfPixelComponent())


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    nnunet: NnUNet, patients: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = sorted(patients.iterdir())
    needed = sum(raw_bytes(number, patients=folders) for number in (801, 922))
    free = needed - 1

    def usage(path: Path) -> SimpleNamespace:
        assert path.exists()
        return SimpleNamespace(free=free)

    monkeypatch.setattr("training.datasets.disk_space.shutil.disk_usage", usage)
    error = refusal(capsys, nnunet, patients, 801, 922)
    rule = f"2 raw data sets of 3 patients need {needed / 1e9:.3g} GB of free disk"
    assert error == f"{nnunet.root}: {rule}, got {free / 1e9:.3g} GB"
    assert names(nnunet.root) == []
    free = needed
    assert run(nnunet, patients, 801, 922) == 0


def test_processes_are_as_many_as_memory_allows(
    nnunet: NnUNet, patients: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def afford(wanted: int, *, bytes_each: int) -> int:
        asked.append((wanted, bytes_each))
        return 1 if len(asked) < 3 else 7

    monkeypatch.setattr(build, "affordable_processes", afford)
    assert run(nnunet, patients, 901) == 0
    assert [wanted for wanted, _ in asked] == [1, 1, 1]  # to check, to write, to preprocess
    assert nnunet.processes == [7, 7]
    assert all(need > 500 << 20 for _, need in asked)


@pytest.mark.parametrize(("number", "voxels"), [(801, 10**8), (901, 2 * 10**7), (298, 10**8)])
def test_fingerprints_hold_as_many_values_for_ten_channels_as_for_two(
    nnunet: NnUNet, patients: Path, monkeypatch: pytest.MonkeyPatch, number: int, voxels: int
) -> None:
    monkeypatch.setattr(planning, "FINGERPRINT_DRAWS", 10**9)  # as if there were as many voxels as in patients
    assert fingerprint_voxels(nnunet, patients, monkeypatch, number=number) == voxels


def test_a_small_data_sets_voxels_are_not_drawn_thousands_of_times(
    nnunet: NnUNet, patients: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = fingerprint_voxels(nnunet, patients, monkeypatch, number=801)
    labels = (nnunet.root / "nnUNet_raw" / dataset_name(801) / "labelsTr").iterdir()
    labelled = sum(np.count_nonzero(sitk.GetArrayFromImage(sitk.ReadImage(str(file)))) for file in labels)
    assert labelled > 0
    assert drawn == 100 * labelled


def fingerprint_voxels(nnunet: NnUNet, patients: Path, monkeypatch: pytest.MonkeyPatch, *, number: int) -> float:
    """How many voxels nnU-Net is told to draw for its statistics."""
    assert run(nnunet, patients, number) == 0
    monkeypatch.setattr(extractor_module, "nnUNet_raw", str(nnunet.root / "nnUNet_raw"))
    assert nnunet.extractor is not None
    return float(nnunet.extractor(dataset_name(number), 1).num_foreground_voxels_for_intensitystats)


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["dataset", "--help"])
    out = capsys.readouterr().out
    options = ("corrected", "clip-ct", "leave-out", "leave-out-broken", "overwrite", "manifest", "device", "processes")
    assert [option for option in options if not re.search(rf"--{option}\b", out)] == []
