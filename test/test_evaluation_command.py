"""`python -m evaluation` on tiny patients, from folders to table, summary and plots."""

import csv
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from cases import CT_GRIDS, PET_GRIDS
from evaluation import runs as evaluation_runs
from evaluation.__main__ import main, name_runs
from evaluation.judgement import judge_scan
from evaluation.metrics import METRICS, measure_masks
from evaluation.plots import PLOT_NAMES
from evaluation.tables import write_scans
from judgements import judgement
from petct.errors import CaseError
from petct.geometry import to_image
from tiny_patients import DISEASE, write_patients

VOXEL_ML = {"PSMA": 4.0 * 5.0 * 3.0 / 1000.0, "FDG": 3.5 * 4.0 * 2.5 / 1000.0}
SHIFTED = tuple(slice(part.start + 1, part.stop + 1) for part in DISEASE)
FIRST_COLUMNS = [
    "case", "tracer", "dice", "fp_volume_ml", "fn_volume_ml", "surface_dice", "suv_mean_ratio", "volume_ratio"
]  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet_after():
    """`main` configures the root logger, which belongs to pytest's other tests."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return write_patients(tmp_path / "truth", count=3)


def write_mask(path: Path, scan: str, *places, grid=None, pixel=np.uint8, value=1) -> Path:
    grid = grid or PET_GRIDS[scan]
    mask = np.zeros(grid.shape_zyx, dtype=pixel)
    for place in places:
        mask[place] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(to_image(mask, grid), path)
    return path


def write_run(folder: Path, *places, patients=3) -> Path:
    for number in range(patients):
        for scan in PET_GRIDS:
            write_mask(folder / f"train_{number:04d}" / scan / "TTB.nii.gz", scan, *places)
    return folder


def evaluate(truth: Path, *predictions: str | Path, options=()) -> int:
    arguments = [text for prediction in predictions for text in ("--prediction", str(prediction))]
    return main(
        ["--truth", str(truth), *arguments, "--csv", str(truth.parent / "table.csv"), "--processes", "1", *options]
    )


def rows(truth: Path) -> list[dict[str, str]]:
    with (truth.parent / "table.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_table_holds_the_metrics_of_every_scan(truth, capsys):
    run = write_run(truth.parent / "run", SHIFTED)

    assert evaluate(truth, run) == 0

    table = rows(truth)
    assert list(table[0])[:8] == FIRST_COLUMNS
    assert [(row["case"], row["tracer"]) for row in table] == [
        (f"train_{n:04d}", tracer) for n in range(3) for tracer in ("psma", "fdg")
    ]
    for row in table:
        scan = row["tracer"].upper()
        folder = truth / row["case"] / scan
        true, pet_suv = (sitk.GetArrayFromImage(sitk.ReadImage(folder / f"{name}.nii.gz")) for name in ("TTB", "PET"))
        prediction = np.zeros(true.shape, dtype=bool)
        prediction[SHIFTED] = True
        spacing = PET_GRIDS[scan].spacing_mm_zyx
        expected = measure_masks(prediction, truth=true == 1, pet_suv=pet_suv, spacing_mm_zyx=spacing)
        for name in METRICS:
            # NIfTI keeps spacings in single precision.
            assert float(row[name]) == pytest.approx(getattr(expected, name), rel=1e-6)
        # The boxes share 2 x 2 x 1 of 3 x 3 x 2 voxels; the truth has a faint voxel more, beside them both.
        assert float(row["dice"]) == pytest.approx(2 * 4 / (18 + 19))
        assert float(row["truth_ml"]) == pytest.approx(19 * VOXEL_ML[scan], rel=1e-6)
        assert (row["note"], row["run"]) == ("", "run")
    said = capsys.readouterr()
    assert said.err == ""
    assert "run: 6 of 6 scans judged, 0 left out (0 without a prediction, 0 refused)" in said.out
    assert "run, PSMA: 3 patients" in said.out
    assert "3 of 3 patients with totseg_24" in said.out


def test_every_edge_case_is_said_and_nothing_is_nan(truth, capsys):
    run = write_run(truth.parent / "run")
    write_mask(truth / "train_0001/PSMA/TTB.nii.gz", "PSMA")
    write_mask(truth / "train_0001/FDG/TTB.nii.gz", "FDG")
    write_mask(run / "train_0001/FDG/TTB.nii.gz", "FDG", DISEASE)

    assert evaluate(truth, run, options=["--plots", str(truth.parent / "plots")]) == 0

    text = (truth.parent / "table.csv").read_text(encoding="utf-8")
    said = capsys.readouterr().out
    assert "nan" not in text.lower()
    assert "nan" not in said.lower()
    by_scan = {(row["case"], row["tracer"]): row for row in rows(truth)}
    diseased = by_scan["train_0000", "psma"]
    assert [diseased[name] for name in FIRST_COLUMNS[2:]] == ["0.0", "0.0", diseased["truth_ml"], "0.0", "", "0.0"]
    assert diseased["note"].startswith("prediction empty:")
    healthy = by_scan["train_0001", "psma"]
    assert [healthy[name] for name in FIRST_COLUMNS[2:]] == ["", "0.0", "0.0", "", "", ""]
    assert healthy["note"].startswith("no disease in truth or prediction:")
    made_up = by_scan["train_0001", "fdg"]
    assert [made_up[name] for name in FIRST_COLUMNS[2:]] == ["0.0", made_up["predicted_ml"], "0.0", "0.0", "", ""]
    assert made_up["note"].startswith("truth empty:")
    assert "2 x prediction empty" in said
    assert "1 x truth empty" in said


def test_the_containers_output_is_a_prediction_too(truth):
    run = truth.parent / "run"
    for number in range(3):
        for scan, slug in (("PSMA", "psma"), ("FDG", "fdg")):
            write_mask(run / f"train_{number:04d}/images/{slug}-pet-ttb/ttb.mha", scan, DISEASE)

    assert evaluate(truth, run) == 0

    assert {row["volume_ratio"] for row in rows(truth)} == {str(18 / 19)}
    write_mask(run / "train_0001/PSMA/TTB.nii.gz", "PSMA", DISEASE)
    assert evaluate(truth, run, options=["--overwrite"]) == 1
    assert len(rows(truth)) == 5


def refusals(truth: Path, *predictions, capsys, options=()) -> list[str]:
    assert evaluate(truth, *predictions, options=options) == 1
    return capsys.readouterr().err.splitlines()


def test_what_breaks_a_rule_is_named_and_the_others_go_on(truth, capsys):
    run = write_run(truth.parent / "run", DISEASE)
    x, y, z = PET_GRIDS["PSMA"].origin_mm_xyz
    moved = replace(PET_GRIDS["PSMA"], origin_mm_xyz=(x, y, z - 3.2))
    write_mask(run / "train_0000/PSMA/TTB.nii.gz", "PSMA", DISEASE, grid=moved)
    write_mask(run / "train_0000/FDG/TTB.nii.gz", "FDG", DISEASE, value=2)
    write_mask(run / "train_0001/PSMA/TTB.nii.gz", "PSMA", DISEASE, pixel=np.float32, value=0.5)
    write_mask(truth / "train_0001/FDG/TTB.nii.gz", "PSMA", DISEASE)
    (run / "train_0002/PSMA/TTB.nii.gz").unlink()

    assert evaluate(truth, run) == 1

    said = capsys.readouterr()
    mask = "mask must hold 0 and 1 only, got"
    assert said.err.splitlines() == [
        f"{run}/train_0000/PSMA/TTB.nii.gz: grid must match the PET within 0.01 mm, got origin that differs by 3.2 mm "
        "along z",
        f"{run}/train_0000/FDG/TTB.nii.gz: {mask} 2 in 18 voxels",
        f"{run}/train_0001/PSMA/TTB.nii.gz: {mask} 0.5 in 18 voxels",
        f"{truth}/train_0001/FDG/TTB.nii.gz: grid must match the PET, got (7, 9, 11) voxels (x, y, z) for (10, 8, 12)",
        f"{run}/train_0002/PSMA/TTB.nii.gz: file is missing",
    ]
    assert [(row["case"], row["tracer"]) for row in rows(truth)] == [("train_0002", "fdg")]
    assert "run: 1 of 6 scans judged, 5 left out (1 without a prediction, 4 refused)" in said.out


def test_a_broken_truth_leaves_every_run_without_that_scan(truth, capsys):
    runs = [write_run(truth.parent / name, DISEASE) for name in ("one", "two")]
    (truth / "train_0000/PSMA/PET.nii.gz").unlink()
    (truth / "train_0002/FDG/PET.nii.gz").unlink()
    pet = truth / "train_0002/FDG/PET.mha"  # ITK reads nan in NIfTI as 0
    pet_suv = np.full(PET_GRIDS["FDG"].shape_zyx, np.nan, dtype=np.float32)
    sitk.WriteImage(to_image(pet_suv, PET_GRIDS["FDG"]), pet)

    lines = refusals(truth, *runs, capsys=capsys)

    assert lines == [
        f"{truth}/train_0000/PSMA/PET.nii.gz: file is missing",
        f"{pet}: every voxel must be finite, got nan or infinite voxels",
    ]
    assert len(rows(truth)) == 2 * 4


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("itk::ERROR: no more\nof it"), "RuntimeError: itk::ERROR: no more"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_scan_that_breaks_down_is_named_and_the_others_go_on(truth, capsys, monkeypatch, error, words):
    run = write_run(truth.parent / "run", DISEASE)

    def breaks_down(files, *, predictions):
        if (files.case, files.tracer) == ("train_0001", "fdg"):
            raise error
        return judge_scan(files, predictions=predictions)

    monkeypatch.setattr(evaluation_runs, "judge_scan", breaks_down)

    assert evaluate(truth, run) == 1

    said = capsys.readouterr()
    assert said.err.splitlines() == [f"{truth}/train_0001/FDG: scan must be possible to judge, got {words}"]
    assert "run: 5 of 6 scans judged, 1 left out" in said.out
    assert len(rows(truth)) == 5


def test_nothing_to_judge_writes_no_table(truth, capsys):
    (truth.parent / "run").mkdir()
    lines = refusals(truth, truth.parent / "run", capsys=capsys)
    assert len(lines) == 6 + 1
    assert lines[-1] == f"{truth}: at least one scan must be judged, got none; no table is written"
    assert not (truth.parent / "table.csv").exists()


def test_folders_that_are_none_are_refused(truth, capsys):
    run = write_run(truth.parent / "run", DISEASE)
    absent = truth.parent / "absent"
    assert refusals(absent, run, capsys=capsys) == [f"{absent}: must be a folder of patients, got nothing"]
    (line,) = refusals(truth, absent, capsys=capsys)
    assert line == f"{absent}: prediction absent must be a folder, got nothing"
    (line,) = refusals(truth / "train_0000", run, capsys=capsys)
    assert line.endswith("must hold patients' folders with PSMA/ and FDG/, got none")
    (line,) = refusals(truth, run, capsys=capsys, options=["--patients", "train_0001", "train_0007"])
    assert line == f"{truth}: must hold the patients asked for, got no train_0007"


def test_nothing_is_overwritten_without_being_told_to(truth, capsys):
    run = write_run(truth.parent / "run", DISEASE)
    plots = truth.parent / "plots"
    assert evaluate(truth, run) == 0
    before = (truth.parent / "table.csv").read_bytes()
    capsys.readouterr()

    (line,) = refusals(truth, run, capsys=capsys)
    assert line == f"{truth.parent}/table.csv: must not exist yet without --overwrite"
    assert (truth.parent / "table.csv").read_bytes() == before

    write_run(run, SHIFTED)
    assert evaluate(truth, run, options=["--overwrite", "--plots", str(plots)]) == 0
    assert (truth.parent / "table.csv").read_bytes() != before
    assert sorted(path.name for path in plots.iterdir()) == sorted(PLOT_NAMES)

    (truth.parent / "table.csv").unlink()
    capsys.readouterr()
    (line,) = refusals(truth, run, capsys=capsys, options=["--plots", str(plots)])
    assert line == f"{plots}/{PLOT_NAMES[0]}: must not exist yet without --overwrite"
    assert sorted(path.name for path in truth.parent.iterdir()) == ["plots", "run", "truth"]


def test_a_table_that_cannot_be_written_is_refused_before_the_work(truth, capsys):
    run = write_run(truth.parent / "run", DISEASE)
    (truth.parent / "file").write_text("")
    place = truth.parent / "file" / "new" / "table.csv"
    (line,) = refusals(truth, run, capsys=capsys, options=["--csv", str(place)])
    assert line == f"{place}: must lie in a folder that can be written to, got {truth.parent}/file above it"
    (truth.parent / "table.csv").mkdir()
    (line,) = refusals(truth, run, capsys=capsys)
    assert line == f"{truth.parent}/table.csv: must be a file, got a folder"


def test_a_table_is_whole_or_not_there(tmp_path):
    good, broken = judgement(), judgement(run=UnwritableName())
    with pytest.raises(RuntimeError, match="half-way"):
        write_scans([good, broken], file=tmp_path / "table.csv")
    assert list(tmp_path.iterdir()) == []
    write_scans([good], file=tmp_path / "table.csv")
    with pytest.raises(RuntimeError, match="half-way"):
        write_scans([good, broken], file=tmp_path / "table.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 2


def test_a_table_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CaseError, match=r"table\.csv: table must be writable, got File exists$"):
        write_scans([judgement()], file=tmp_path / "file" / "table.csv")


class UnwritableName:
    def __str__(self):
        raise RuntimeError("half-way")


def test_only_the_patients_asked_for_are_judged(truth):
    run = write_run(truth.parent / "run", DISEASE, patients=1)
    assert evaluate(truth, run, options=["--patients", "train_0000"]) == 0
    assert {row["case"] for row in rows(truth)} == {"train_0000"}


def test_two_runs_are_compared(truth, capsys):
    good, bad = write_run(truth.parent / "x", DISEASE), write_run(truth.parent / "y", SHIFTED)
    # A patient that only one of them has is left out of the comparison.
    shutil.rmtree(bad / "train_0002")

    assert evaluate(truth, f"Good={good}", f"Bad={bad}") == 1

    assert [row["run"] for row in rows(truth)] == ["Good", "Bad"] * 4 + ["Good"] * 2
    said = capsys.readouterr().out
    comparison = said.partition("Bad minus Good")[2]
    dice = next(line for line in comparison.splitlines() if line.split()[:2] == ["PSMA", "dice"])
    assert dice.split()[2:5] == ["2", "0", f"{2 * 4 / 37 - 2 * 18 / 37:+.3f}"]
    ranking = said.partition("rank over 12 of the 12 categories")[2]
    place = next(line for line in ranking.splitlines() if line.split()[:1] == ["place"])
    assert place.split() == ["place", "1", "2"]
    assert "Bad: 4 of 6 scans judged, 2 left out (2 without a prediction, 0 refused)" in said


def test_probabilities_score_the_lesions(truth, capsys):
    run = write_run(truth.parent / "run", DISEASE)
    for number in range(3):
        folder = run / f"train_{number:04d}/PSMA"
        write_mask(folder / "TTB_probability.nii.gz", "PSMA", DISEASE, pixel=np.float32, value=0.75)
    write_mask(run / "train_0002/PSMA/TTB_probability.nii.gz", "FDG", pixel=np.float32)

    (line,) = refusals(truth, run, capsys=capsys)

    assert line.startswith(f"{run}/train_0002/PSMA/TTB_probability.nii.gz: grid must match the PET")
    assert len(rows(truth)) == 5


def test_organ_maps_are_optional_and_a_broken_one_changes_no_metric(truth, capsys):
    run = write_run(truth.parent / "run", DISEASE)
    assert evaluate(truth, run) == 0
    before = rows(truth)
    (truth / "train_0000/PSMA/totseg_24.nii.gz").unlink()
    broken = truth / "train_0001/PSMA/totseg_24.nii.gz"
    labels = np.full(CT_GRIDS["PSMA"].shape_zyx, 118, dtype=np.uint8)
    sitk.WriteImage(to_image(labels, CT_GRIDS["PSMA"]), broken)
    for number in range(3):
        (truth / f"train_{number:04d}/FDG/totseg_24.nii.gz").unlink()
    capsys.readouterr()

    assert evaluate(truth, run, options=["--overwrite"]) == 0

    said = capsys.readouterr().out
    assert rows(truth) == before
    assert "run, PSMA, mL by region, 1 of 3 patients with totseg_24" in said
    assert "run, FDG, mL by region: no patient has a totseg_24 beside the truth that can be used" in said


def test_a_scan_that_the_truth_does_not_have_is_said_and_not_judged(truth, caplog):
    run = write_run(truth.parent / "run", DISEASE, patients=5)
    shutil.rmtree(truth / "train_0001/FDG")
    caplog.set_level(logging.WARNING)

    assert evaluate(truth, run) == 0

    assert len(rows(truth)) == 5
    assert f"{truth}/train_0001: no folder FDG in the truth, not judged" in caplog.text
    assert f"{run}: 2 folders that the truth does not have, not judged: train_0003, train_0004" in caplog.text


def test_runs_are_named(tmp_path):
    (tmp_path / "a=b").mkdir()
    assert name_runs([str(tmp_path / "one"), "two=x/y", str(tmp_path / "a=b")]) == {
        "one": tmp_path / "one",
        "two": Path("x/y"),
        "a=b": tmp_path / "a=b",
    }
    with pytest.raises(CaseError, match="runs must have different names, given as NAME=FOLDER, got one twice"):
        name_runs(["x/one", "y/one"])


def test_several_processes_find_what_one_finds(truth):
    run = write_run(truth.parent / "run", SHIFTED)
    (run / "train_0001/PSMA/TTB.nii.gz").write_bytes(b"not an image")
    assert evaluate(truth, run) == 1
    one = rows(truth)

    command = [sys.executable, "-m", "evaluation", "--truth", truth, "--prediction", run, "--overwrite"]
    done = subprocess.run(
        [*command, "--csv", truth.parent / "table.csv", "--processes", "2"],
        cwd=Path(__file__).resolve().parent.parent, env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip

    assert done.returncode == 1
    assert rows(truth) == one
    assert len(one) == 5
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{run}/train_0001/PSMA/TTB.nii.gz: ")
    assert "(6 of 6)" in done.stdout
