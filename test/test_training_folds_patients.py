import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from cases import CT_GRIDS, PET_GRIDS
from fold_cases import edit_truth, one_by_one, scan_traits
from petct.case import Tracer
from petct.folders import read_truth
from petct.geometry import Grid, to_array, to_image
from tiny_patients import write_patient, write_patients
from training.datasets.organ_maps import computed_map
from training.folds import patient_traits
from training.folds.patient_traits import PatientTraits, grid_class, measure_patient, measure_patients
from training.folds.traits import Trait, standardised, traits_of
from whole_case import nearest

LIVER, SPLEEN = 5, 1
NONE = Path("no computed organ maps")


def test_disease_and_grids_are_measured(tmp_path: Path) -> None:
    patient = write_patient(tmp_path / "train_0001")
    # Beside the 3 x 3 x 2 box and the faint voxel that touches it: one that shares an edge only with the box, one that
    # shares a corner only with that one, and one that is far away.
    edit_truth(patient, "PSMA", {(5, 3, 3): 0, (5, 4, 2): 1, (6, 5, 3): 1, (10, 8, 6): 1})
    edit_truth(patient, "FDG", {(1, 2, 3): 1}, is_empty=True)
    found = measure_patient(patient, organs=NONE)
    assert found.name == "train_0001"
    assert found.psma.lesions == 3
    assert found.psma.voxel_ml == pytest.approx(4.0 * 5.0 * 3.0 / 1000)
    assert found.psma.ttb_ml == pytest.approx((3 * 3 * 2 + 1 + 3) * 4.0 * 5.0 * 3.0 / 1000)
    assert (found.fdg.lesions, found.fdg.ttb_ml) == (1, pytest.approx(3.5 * 4.0 * 2.5 / 1000))
    assert found.psma.grid == "7 x 9, 4.0 x 5.0 x 3.0 mm"
    assert found.fdg.grid == "10 x 8, 3.5 x 4.0 x 2.5 mm"
    assert not found.is_alone(Tracer.PSMA)
    assert not found.is_alone(Tracer.FDG)


def test_a_grids_class_leaves_the_number_of_slices_and_rounding_out() -> None:
    grid = Grid(
        shape_zyx=(335, 190, 192),
        spacing_mm_xyz=(2.8646, 2.9012, 3.27),
        origin_mm_xyz=(1.0, 2.0, 3.0),
        direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    )
    assert grid_class(grid) == "192 x 190, 2.9 x 2.9 x 3.3 mm"
    same = replace(grid, shape_zyx=(263, 190, 192), spacing_mm_xyz=(2.8599, 2.9, 3.2699))
    assert grid_class(same) == grid_class(grid)
    assert grid_class(replace(grid, shape_zyx=(335, 192, 190))) != grid_class(grid)


@pytest.mark.parametrize(("scan", "alone"), [("PSMA", Tracer.FDG), ("FDG", Tracer.PSMA)])
def test_a_patient_with_disease_of_one_tracer_only(tmp_path: Path, scan: str, alone: Tracer) -> None:
    patient = write_patient(tmp_path / "train_0001")
    edit_truth(patient, scan, {}, is_empty=True)
    found = measure_patient(patient, organs=NONE)
    assert [found.is_alone(tracer) for tracer in Tracer] == [tracer is alone for tracer in Tracer]
    other = found.psma if alone is Tracer.FDG else found.fdg
    assert (other.ttb_ml, other.lesions, other.alone_share) == (0.0, 0, 0.0)
    assert found.scan(alone).alone_share == 1.0


def test_the_share_of_disease_that_one_tracer_shows_alone(tmp_path: Path) -> None:
    patient = write_patient(tmp_path / "train_0001")
    # PSMA: all of it in the liver. FDG: liver up to a plane through the disease, spleen beyond, nothing at the end.
    liver = np.full(CT_GRIDS["PSMA"].shape_zyx, LIVER, dtype=np.uint8)
    both = np.full(CT_GRIDS["FDG"].shape_zyx, SPLEEN, dtype=np.uint8)
    both[:, :, :5], both[:, :3, :] = LIVER, 0
    for scan, labels in (("PSMA", liver), ("FDG", both)):
        sitk.WriteImage(to_image(labels, CT_GRIDS[scan]), patient / scan / "totseg_24.nii.gz")
    on_pet = nearest(both, CT_GRIDS["FDG"], at=PET_GRIDS["FDG"])[to_array(read_truth(patient, Tracer.FDG)) > 0]
    counts = {label: int((on_pet == label).sum()) for label in (0, LIVER, SPLEEN)}
    assert min(counts.values()) > 0  # or the test says nothing
    found = measure_patient(patient, organs=NONE)
    assert found.psma.alone_share == 0.0
    # Unlabelled disease counts neither for nor against.
    assert found.fdg.alone_share == pytest.approx(counts[SPLEEN] / (counts[SPLEEN] + counts[LIVER]))


def test_shares_are_unknown_without_an_organ_map(tmp_path: Path) -> None:
    patient = write_patient(tmp_path / "train_0001")
    (patient / "PSMA" / "totseg_24.nii.gz").unlink()
    found = measure_patient(patient, organs=NONE)
    assert (found.psma.alone_share, found.fdg.alone_share) == (None, None)
    assert found.psma.lesions == 1


def test_a_computed_organ_map_is_used_like_a_given_one(tmp_path: Path) -> None:
    patient = write_patient(tmp_path / "train_0001")
    given = measure_patient(patient, organs=NONE)
    assert given.psma.alone_share is not None
    computed = computed_map(tmp_path / "organs", patient="train_0001", tracer=Tracer.PSMA)
    computed.parent.mkdir(parents=True)
    (patient / "PSMA" / "totseg_24.nii.gz").rename(computed)
    assert measure_patient(patient, organs=NONE).psma.alone_share is None
    assert measure_patient(patient, organs=tmp_path / "organs") == given
    # A given one goes before a computed one.
    liver = np.full(CT_GRIDS["FDG"].shape_zyx, LIVER, dtype=np.uint8)
    fdg = computed_map(tmp_path / "organs", patient="train_0001", tracer=Tracer.FDG)
    fdg.parent.mkdir(parents=True)
    sitk.WriteImage(to_image(liver, CT_GRIDS["FDG"]), str(fdg))
    assert measure_patient(patient, organs=tmp_path / "organs") == given


def test_broken_patients_are_named_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_patients(tmp_path, count=4)
    (folder / "train_0001" / "FDG" / "TTB.nii.gz").unlink()
    wrong = folder / "train_0002" / "PSMA"
    sitk.WriteImage(to_image(np.zeros(PET_GRIDS["FDG"].shape_zyx, np.uint8), PET_GRIDS["FDG"]), wrong / "TTB.nii.gz")
    folders = sorted(folder.iterdir())
    caplog.set_level(logging.INFO)
    found, broken = measure_patients(folders, organs=NONE, processes=2)
    assert found == [measure_patient(folders[0], organs=NONE), measure_patient(folders[3], organs=NONE)]
    assert [str(error).split(",")[0] for error in broken] == [
        "train_0001 FDG/TTB.nii.gz: file is missing",
        "train_0002 PSMA/TTB: grid must match the PET",
    ]
    assert [message for message in caplog.messages if "grid must match" in message]
    assert caplog.messages[-1].endswith("(4 of 4)")
    monkeypatch.setattr(patient_traits, "in_processes", one_by_one)
    assert measure_patients(folders, organs=NONE, processes=1)[0] == found


def test_a_program_error_is_no_broken_patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(patient: Path, *, organs: Path) -> None:
        raise KeyError(patient.name)

    monkeypatch.setattr(patient_traits, "in_processes", one_by_one)
    monkeypatch.setattr(patient_traits, "measure_patient", fail)
    with pytest.raises(KeyError, match="train_0000"):
        measure_patients([write_patient(tmp_path / "train_0000")], organs=NONE, processes=1)


def test_columns_of_patients() -> None:
    patients = [
        PatientTraits("a", psma=scan_traits(ttb_ml=0.0, lesions=0, alone=0.0), fdg=scan_traits(ttb_ml=7.0)),
        PatientTraits("b", psma=scan_traits(grid="B", alone=None), fdg=scan_traits(ttb_ml=0.0, grid="B")),
        PatientTraits("c", psma=scan_traits(grid="B"), fdg=scan_traits(grid="B")),
        PatientTraits("d", psma=scan_traits(), fdg=scan_traits(grid="C", lesions=9)),
    ]
    traits = {trait.name: trait for trait in traits_of(patients, folds=2)}
    assert traits["PSMA TTB, mL"].values == pytest.approx([0.0, np.log(4), np.log(4), np.log(4)])
    assert traits["FDG lesions"].values == pytest.approx([np.log(3), np.log(3), np.log(3), np.log(10)])
    assert traits["FDG voxel, mm3"].values == pytest.approx([np.log(51)] * 4)
    assert traits["PSMA-only patient"].values == (0.0, 1.0, 0.0, 0.0)
    assert traits["FDG-only patient"].values == (1.0, 0.0, 0.0, 0.0)
    assert traits["PSMA-only share"].values == pytest.approx([0.0, np.nan, 0.1, 0.1], nan_ok=True)
    # One of four at distance 3 / 4 of a step, three at 1 / 4; the variance is 3 / 16 of the step squared.
    assert traits["PSMA TTB spread"].values == pytest.approx([3.0, 1 / 3, 1 / 3, 1 / 3])
    # A class needs a patient for each of two folds; those of a scanner weigh as much as one trait together.
    classes = [f"{tracer.name} {grid}" for tracer in Tracer for grid in "ABC"]
    assert [(name, trait.weight) for name, trait in traits.items() if name in classes] == [
        ("PSMA A", 0.5),
        ("PSMA B", 0.5),
        ("FDG B", 1.0),
    ]
    assert traits["PSMA B"].values == (0.0, 1.0, 1.0, 0.0)


def test_columns_are_standardised_and_what_is_unknown_is_average() -> None:
    found = standardised(Trait("t", (2.0, np.nan, 6.0, 4.0)))
    assert found == pytest.approx([-np.sqrt(1.5), 0.0, np.sqrt(1.5), 0.0])
    assert standardised(Trait("t", (2.0, np.nan, 2.0))) is None
    assert standardised(Trait("t", (np.nan, np.nan))) is None
