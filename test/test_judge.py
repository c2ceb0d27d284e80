import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
import torch

from inference import Segmented
from petct.case import Case, Tracer
from petct.errors import CaseError
from petct.geometry import grid_of, resample_labels, to_array
from petct.manifest import Manifest, read_manifest
from petct.organs import Organ, collapse, labels_of
from segmentation.organ_maps import OrganSource
from tiny_patients import DISEASE, write_patient
from training.studies import judge as module
from training.studies.judge import Score, judge, table, write_csv

PAPER = Path(__file__).resolve().parent.parent / "resources" / "paper.toml"
CPU = torch.device("cpu")
NAN = math.nan
ORGANS = dict.fromkeys(Organ, 0.5) | {Organ.SPLEEN: 1.0, Organ.BRAIN: NAN, Organ.THYROID: 0.0}
SCORES = [
    Score("train_0001", Tracer.PSMA, 0.25, truth_ml=10.0, predicted_ml=12.0, organ_dice=ORGANS),
    Score("train_0001", Tracer.FDG, NAN, truth_ml=0.0, predicted_ml=0.0, organ_dice=dict.fromkeys(Organ, NAN)),
    Score("train_0002", Tracer.PSMA, 0.75, truth_ml=30.0, predicted_ml=21.0, organ_dice=dict.fromkeys(Organ, 0.9)),
    Score("train_0002", Tracer.FDG, 0.5, truth_ml=5.0, predicted_ml=3.0, organ_dice=ORGANS),
]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[OrganSource]:
    """The method, replaced: it finds half of the disease and all organs but the liver; how it is called is noted."""
    made: list[OrganSource] = []

    def segment_case(
        case: Case, *, manifest: Manifest, organ_source: OrganSource, device: torch.device
    ) -> dict[Tracer, Segmented]:
        made.append(organ_source)
        return {tracer: segmented(case, tracer) for tracer in Tracer}

    monkeypatch.setattr(module, "segment_case", segment_case)
    return made


def segmented(case: Case, tracer: Tracer) -> Segmented:
    scan = case.scan(tracer)
    grid = grid_of(scan.pet)
    assert scan.organs is not None
    labels: npt.NDArray[np.uint8] = to_array(resample_labels(scan.organs, grid))
    labels[np.isin(labels, labels_of(Organ.LIVER))] = 0
    ttb = np.zeros(grid.shape_zyx, dtype=bool)
    ttb[DISEASE] = True
    ttb[DISEASE[0].start] = False  # the lowest of three slices
    return Segmented(grid=grid, pet_suv=to_array(scan.pet), labels=labels, ttb=ttb)


def test_scores_are_those_of_the_masks(tmp_path: Path, calls: list[OrganSource]) -> None:
    patients = [write_patient(tmp_path / f"train_{seed:04d}", seed=seed) for seed in range(2)]
    scores = judge(patients, manifest=read_manifest(PAPER), device=CPU)
    assert calls == [OrganSource.TOTALSEGMENTATOR] * 2  # the true organs are there, and not to be used
    assert [(score.case, score.tracer) for score in scores] == [
        (patient.name, tracer) for patient in patients for tracer in Tracer
    ]
    found, true = 2 * 3 * 2, 3 * 3 * 2 + 1  # the box without its lowest slice; the box and the faint voxel
    for score, voxel_mm3 in zip(scores, (4.0 * 5.0 * 3.0, 3.5 * 4.0 * 2.5) * 2, strict=True):
        assert score.ttb_dice == pytest.approx(2 * found / (found + true))
        assert score.truth_ml == pytest.approx(true * voxel_mm3 / 1000.0)
        assert score.predicted_ml == pytest.approx(found * voxel_mm3 / 1000.0)
        assert score.organ_dice == {organ: float(organ is not Organ.LIVER) for organ in Organ}


def test_organs_are_compared_class_by_class(tmp_path: Path) -> None:
    # What `judge` compares must not be empty for the test above to mean anything.
    case = module.read_case(write_patient(tmp_path / "train_0000"))
    for tracer in Tracer:
        labels = segmented(case, tracer).labels
        assert set(np.unique(collapse(labels))) == {0, *Organ} - {Organ.LIVER}


@pytest.mark.parametrize("scan", ["PSMA", "FDG"])
def test_a_patient_without_truth_is_refused_before_hours_are_spent(
    tmp_path: Path, calls: list[OrganSource], scan: str
) -> None:
    patient = write_patient(tmp_path / "train_0000")
    (patient / scan / "TTB.nii.gz").unlink()
    with pytest.raises(CaseError, match=f"{scan}/TTB.nii.gz: file is missing"):
        judge([patient], manifest=read_manifest(PAPER), device=CPU)
    assert calls == []


def test_a_patient_without_organ_maps_is_refused(tmp_path: Path, calls: list[OrganSource]) -> None:
    patient = write_patient(tmp_path / "train_0007", has_organs=False)
    with pytest.raises(CaseError, match="train_0007 psma: organ map totseg_24.nii.gz is missing"):
        judge([patient], manifest=read_manifest(PAPER), device=CPU)
    assert calls == []


def test_truth_on_another_grid_is_refused(tmp_path: Path, calls: list[OrganSource]) -> None:
    patient = write_patient(tmp_path / "train_0000")
    path = patient / "FDG" / "TTB.nii.gz"
    truth = sitk.ReadImage(str(path))
    truth.SetOrigin([mm + 3.0 * (axis == 2) for axis, mm in enumerate(truth.GetOrigin())])
    sitk.WriteImage(truth, str(path))
    with pytest.raises(CaseError, match="train_0000 fdg TTB: grid must match the PET .* differs by 3 mm along z"):
        judge([patient], manifest=read_manifest(PAPER), device=CPU)
    assert calls == []


def test_table_of_scores() -> None:
    # Organs of the first scan: 1, five of 0.5 and a 0; the brain has no Dice.
    organs = (1.0 + 5 * 0.5 + 0.0) / 7
    assert table(SCORES).splitlines() == [
        "| patient | tracer | truth mL | found mL | Dice | organs |",
        "|---|---|---:|---:|---:|---:|",
        f"| train_0001 | PSMA | 10 | 12 | 0.250 | {organs:.3f} |",
        "| train_0001 | FDG | 0 | 0 | nan | nan |",
        "| train_0002 | PSMA | 30 | 21 | 0.750 | 0.900 |",
        f"| train_0002 | FDG | 5 | 3 | 0.500 | {organs:.3f} |",
        f"| **mean** | PSMA | {(10 + 30) / 2:.0f} | {(12 + 21) / 2:.0f} | **0.500** | **{(organs + 0.9) / 2:.3f}** |",
        f"| **mean** | FDG | {(0 + 5) / 2:.0f} | {(0 + 3) / 2:.0f} | **0.500** | **{organs:.3f}** |",
        "",
        "| organ | mean Dice |",
        "|---|---:|",
        f"| spleen | {(1.0 + 0.9 + 1.0) / 3:.3f} |",
        f"| kidney | {(0.5 + 0.9 + 0.5) / 3:.3f} |",
        f"| liver | {(0.5 + 0.9 + 0.5) / 3:.3f} |",
        f"| lung | {(0.5 + 0.9 + 0.5) / 3:.3f} |",
        "| brain | 0.900 |",
        f"| urinary bladder | {(0.5 + 0.9 + 0.5) / 3:.3f} |",
        f"| bone | {(0.5 + 0.9 + 0.5) / 3:.3f} |",
        f"| thyroid | {(0.0 + 0.9 + 0.0) / 3:.3f} |",
    ]


def test_a_table_where_nothing_is_defined_says_so() -> None:
    empty = replace(SCORES[1], tracer=Tracer.PSMA)
    lines = table([empty]).splitlines()
    assert lines[3] == "| **mean** | PSMA | 0 | 0 | **nan** | **nan** |"
    assert lines[4] == "| **mean** | FDG | nan | nan | **nan** | **nan** |"


def test_csv_has_every_score_under_its_name(tmp_path: Path) -> None:
    write_csv(SCORES, tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    assert header[:5] == ["case", "tracer", "dice", "truth_ml", "predicted_ml"]
    assert header[5:7] == ["dice_spleen", "dice_kidney"]
    assert len(header) == 5 + 8
    assert rows[0][:6] == ["train_0001", "psma", "0.2500", "10.0000", "12.0000", "1.0000"]
    assert dict(zip(header, rows[0], strict=True))["dice_brain"] == "nan"
    assert dict(zip(header, rows[3], strict=True))["dice_thyroid"] == "0.0000"
    assert [row[:2] for row in rows] == [[score.case, score.tracer.value] for score in SCORES]
