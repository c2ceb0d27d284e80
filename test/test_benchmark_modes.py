import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from benchmark import mode_distance
from benchmark.__main__ import main
from benchmark.mode_distance import ModeRow, ScanDistance
from benchmark.mode_summary import distances, effects, seconds_ratio, tables
from benchmark_case import PET_GRIDS, write_benchmark_case, write_benchmark_manifest
from evaluation import statistics
from evaluation.metrics import METRICS, measure_masks
from inference import segment_case
from petct.case import Tracer
from petct.folders import SCAN_FOLDERS, read_case
from petct.geometry import to_array, to_image
from petct.manifest import Backend, Mode, read_manifest
from segmentation.organ_maps import OrganSource

CPU = torch.device("cpu")
SHAPE = (5, 6, 7)


def write_patient(folder):
    """The patient of benchmark_case.py; truth is every voxel of twice the threshold in the lower half."""
    write_benchmark_case(folder)
    for tracer, name in SCAN_FOLDERS.items():
        pet_suv = to_array(sitk.ReadImage(str(folder / name / "PET.nii.gz")))
        truth = (pet_suv > 6.0).astype(np.uint8)
        truth[len(truth) // 2 :] = 0
        sitk.WriteImage(to_image(truth, PET_GRIDS[tracer]), folder / name / "TTB.nii.gz")
    return folder


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Intervals only have to be there; how they are made is tested elsewhere."""
    monkeypatch.setattr(statistics, "RESAMPLES", 499)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two patients, alike but for their names, and a manifest of tiny networks."""
    root = tmp_path_factory.mktemp("made")
    for name in ("train_0001", "train_0002"):
        write_patient(root / "patients" / name)
    return root / "patients", write_benchmark_manifest(root / "models")


@pytest.fixture
def run(made, tmp_path):
    """The command on the patients; returns the exit code and what it wrote."""
    patients, manifest = made
    file = tmp_path / "modes.json"

    def run(*more, folder=patients):
        command = ["modes", "--patients", str(folder), "--json", str(file), "--manifest", str(manifest)]
        code = main([*command, "--backend", "torch", *more])
        return code, json.loads(file.read_text()) if file.is_file() else None

    return run


class CountedCases:
    """The method, counting its runs; in the modes that are spoilt PSMA loses the last half of its disease."""

    def __init__(self, *spoilt):
        self.modes = []
        self._spoilt = spoilt

    def __call__(self, case, *, manifest, **options):
        self.modes.append((case.name, manifest.mode))
        found = segment_case(case, manifest=manifest, **options)
        if manifest.mode in self._spoilt:
            psma = found[Tracer.PSMA]
            ttb = psma.ttb.copy()
            places = np.flatnonzero(ttb)
            ttb.ravel()[places[len(places) // 2 :]] = False
            found = {**found, Tracer.PSMA: replace(psma, ttb=ttb)}
        return found


def row(case, mode, *, dice, differing=0, network_s=1.0, total_s=3.0, masks=None):
    metrics = None
    if masks is not None:
        mask, truth = masks
        metrics = measure_masks(mask, truth=truth, pet_suv=np.full(SHAPE, 4.0), spacing_mm_zyx=(2.0, 3.0, 4.0))
    scan = ScanDistance(dice=dice, differing_voxels=differing, voxels=5 * 6 * 7, metrics=metrics)
    return ModeRow(
        key=f"{case} {mode}",
        case=case,
        mode=mode,
        scans={Tracer.PSMA: scan, Tracer.FDG: scan},
        total_s=total_s,
        stages_s={} if network_s is None else {"network": network_s},
    )


def test_distances_are_means_with_the_worst_patient():
    dices = (1.0, 0.9, None)
    rows = [row(f"{n}", Mode.EXACT, dice=1.0) for n in range(3)]
    rows += [row(f"{n}", Mode.FAST, dice=dice, differing=21 * n) for n, dice in enumerate(dices)]
    found = distances(rows, mode=Mode.FAST, tracer=Tracer.FDG)
    assert found.dice.value == pytest.approx((1.0 + 0.9) / 2)
    assert found.dice.count == 2  # nothing in both masks has no Dice
    assert found.least_dice == 0.9
    assert found.differing_fraction.value == pytest.approx((0 + 21 + 42) / 3 / 210)
    assert found.most_differing_fraction == pytest.approx(42 / 210)
    assert (found.same, found.patients) == (1, 3)
    assert "| FDG | fast | 0.9500 [0.9000, 1.0000] | 0.9000 | 1.0e-01 | 2.0e-01 | 1 of 3 |" in tables(rows)


def test_seconds_are_compared_within_each_patient():
    rows = [
        row("1", Mode.EXACT, dice=1.0, network_s=8.0, total_s=10.0),
        row("1", Mode.FAST, dice=1.0, network_s=1.0, total_s=2.0),
        row("2", Mode.EXACT, dice=1.0, network_s=40.0, total_s=44.0),
        row("2", Mode.FAST, dice=1.0, network_s=10.0, total_s=11.0),
        row("3", Mode.EXACT, dice=1.0, network_s=6.0, total_s=9.0),
        row("3", Mode.FAST, dice=1.0, network_s=2.0, total_s=3.0),
    ]
    network = seconds_ratio(rows, mode=Mode.FAST, stage="network")
    assert (network.value, network.count) == (4.0, 3)  # of 8, 4 and 3
    assert seconds_ratio(rows, mode=Mode.FAST, stage=None).value == 4.0  # of 5, 4 and 3
    assert seconds_ratio(rows, mode=Mode.FAST, stage="refine").value is None


def test_metrics_are_paired_by_patient():
    truth = np.zeros(SHAPE, dtype=bool)
    truth[1:4, 2:4, 3:5] = True
    half = truth.copy()
    half[3] = False
    rows = []
    for case, mask in (("1", truth), ("2", half)):
        rows.append(row(case, Mode.EXACT, dice=1.0, masks=(truth, truth)))
        rows.append(row(case, Mode.BALANCED, dice=1.0, masks=(mask, truth)))
    found = {effect.category.metric: effect for effect in effects(rows, mode=Mode.BALANCED, tracer=Tracer.PSMA)}
    assert list(found) == list(METRICS)
    assert found["dice"].difference.value == pytest.approx((0.0 + (2 * 8 / (12 + 8) - 1.0)) / 2)
    assert found["volume_ratio"].difference.value == pytest.approx((0.0 + (1 - 8 / 12)) / 2)  # off 1 by a third
    assert found["fp_volume_ml"].difference.value == 0.0
    assert "| balanced - exact | -0.1000 [-0.2000, 0.0000] | 0.000 [0.000, 0.000] |" in tables(rows)


def test_without_truth_there_are_no_metrics():
    rows = [row("1", Mode.EXACT, dice=1.0), row("1", Mode.FAST, dice=1.0)]
    assert effects(rows, mode=Mode.FAST, tracer=Tracer.PSMA) == ()
    assert "surface Dice" not in tables(rows)


def test_a_mode_that_gives_another_mask_is_shown_with_its_dice(run, made, monkeypatch, capsys):
    monkeypatch.setattr(mode_distance, "segment_case", CountedCases(Mode.FAST))
    code, written = run("--truth-in-patients", "--modes", "fast")
    assert code == 0
    patients, manifest = made
    exact = segment_case(
        read_case(patients / "train_0001"),
        manifest=replace(read_manifest(manifest), mode=Mode.EXACT, backend=Backend.TORCH),
        organ_source=OrganSource.GIVEN,
        device=CPU,
    )[Tracer.PSMA]
    voxels = int(exact.ttb.sum())
    assert voxels > 20
    summary = written["summary"]["fast"]["psma"]
    kept = written["rows"][1]["scans"]["psma"]
    assert summary["dice"]["value"] == kept["dice"] < 0.9
    assert kept["differing_voxels"] >= voxels // 4
    assert kept["voxels"] == exact.ttb.size
    assert summary["same"] == 0
    assert f"| PSMA | fast | {kept['dice']:.4f}" in capsys.readouterr().out
    # The metrics are the evaluation's own.
    truth = to_array(sitk.ReadImage(str(patients / "train_0001" / "PSMA" / "TTB.nii.gz"))) > 0
    expected = measure_masks(exact.ttb, truth=truth, pet_suv=exact.pet_suv, spacing_mm_zyx=exact.grid.spacing_mm_zyx)
    found = written["rows"][0]
    assert found["mode"] == "exact"
    assert found["scans"]["psma"]["differing_voxels"] == 0
    assert found["scans"]["psma"]["metrics"]["dice"] == pytest.approx(expected.dice)
    assert found["scans"]["psma"]["metrics"]["false_lesions"] == expected.false_lesions
    difference = summary["metrics_minus_exact"]["dice"]["value"]
    assert difference == pytest.approx(kept["metrics"]["dice"] - expected.dice)


def test_a_run_goes_on_where_it_was_stopped(run, made, monkeypatch, capsys):
    counted = CountedCases()
    stop_at = ("train_0002", Mode.EXACT)

    def stopped(case, *, manifest, **options):
        if (case.name, manifest.mode) == stop_at:
            raise KeyboardInterrupt
        return counted(case, manifest=manifest, **options)

    monkeypatch.setattr(mode_distance, "segment_case", stopped)
    with pytest.raises(KeyboardInterrupt):
        run("--modes", "balanced")
    monkeypatch.setattr(mode_distance, "segment_case", counted)
    code, written = run("--modes", "balanced")
    assert code == 0
    both = [Mode.EXACT, Mode.BALANCED]
    assert counted.modes == [(name, mode) for name in ("train_0001", "train_0002") for mode in both]
    assert [(one["case"], one["mode"]) for one in written["rows"]] == [
        (name, mode.value) for name in ("train_0001", "train_0002") for mode in both
    ]
    shown = capsys.readouterr().out
    assert run("--modes", "balanced") == (0, written)
    assert len(counted.modes) == 4
    assert capsys.readouterr().out.splitlines()[-1] == shown.splitlines()[-1]
    # The truth is another question, and --overwrite asks again.
    run("--modes", "balanced", "--truth-in-patients")
    assert len(counted.modes) == 8
    assert len(run("--modes", "balanced", "--overwrite")[1]["rows"]) == 4
    assert len(counted.modes) == 12


def test_a_broken_patient_is_named_and_the_others_go_on(run, made, tmp_path, capsys):
    patients, _ = made
    for name in ("train_0001", "train_0002", "train_0003"):
        shutil.copytree(patients / "train_0001", tmp_path / "some" / name)
    (tmp_path / "some" / "train_0001" / "FDG" / "totseg_24.nii.gz").unlink()
    (tmp_path / "some" / "train_0003" / "PSMA" / "TTB.nii.gz").unlink()
    code, written = run("--modes", "balanced", "--truth-in-patients", folder=tmp_path / "some")
    assert code == 1
    assert {one["case"] for one in written["rows"]} == {"train_0002"}
    said = capsys.readouterr()
    first, second = said.err.strip().splitlines()
    assert first.startswith("train_0001: ")
    assert "organ maps" in first
    assert second.startswith("train_0003: ")
    assert "TTB.nii.gz: file is missing" in second
    assert said.out.strip().endswith("1 of 3 patients measured, 2 left out")


def test_no_patient_at_all_is_refused(run, made, tmp_path, capsys):
    patients, _ = made
    shutil.copytree(patients / "train_0001", tmp_path / "some" / "train_0001")
    (tmp_path / "some" / "train_0001" / "PSMA" / "PET.nii.gz").unlink()
    code, written = run(folder=tmp_path / "some")
    assert (code, written) == (1, None)
    assert "must hold a patient that can be measured, got 0 of 1" in capsys.readouterr().err
