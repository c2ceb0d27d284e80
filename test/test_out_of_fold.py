"""Out-of-fold predictions with tiny networks, each of which says one probability of its own in every voxel."""

import gc
import json
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from cases import PET_GRIDS, THRESHOLDS_SUV
from inference import Predicted, predict_scan
from petct.channels import OrganEncoding
from petct.errors import CaseError
from petct.geometry import Grid
from petct.manifest import Architecture
from petct.organs import Organ
from tiny_nnunet import make_results
from tiny_patients import DISEASE, NORMAL, write_patients, write_recipe
from training.__main__ import main
from training.datasets.descriptions import dataset_name
from training.datasets.provenance import DatasetProvenance, write_provenance
from training.folds.splits import dataset_file, splits_of, write_splits
from training.studies.out_of_fold import predict as out_of_fold
from training.studies.out_of_fold.lesions import COLUMNS, JudgedLesion, read_lesions
from training.studies.out_of_fold.probabilities import FLOOR, candidates_of, read_candidates, write_candidates
from training.studies.out_of_fold.record import read_record

PATIENTS = 6
VALIDATION = (("train_0000", "train_0004"), ("train_0002", "train_0005"), ("train_0001", "train_0003"))
FOLD_OF = {name: fold for fold, names in enumerate(VALIDATION) for name in names}
# P(ttb) of each fold; 901 counts three times as much as 801, and its fold 1 is not trained.
TTB = {801: (0.61, 0.66, 0.71), 802: (0.31, 0.36, 0.41), 901: (0.81, None, 0.85)}
NORMAL_P = 0.1
PSMA_TTB = ((0.61 + 3 * 0.81) / 4, 0.66, (0.71 + 3 * 0.85) / 4)


def results(nnunet: Path, number: int) -> Path:
    folder = nnunet / "nnUNet_results" / dataset_name(number) / "ShortTrainer__nnUNetPlansNarrow__3d_fullres"
    if not folder.exists():
        trained = [fold for fold, ttb in enumerate(TTB[number]) if ttb is not None]
        encoding = OrganEncoding.BINARY if number == 901 else OrganEncoding.NONE
        made = make_results(
            nnunet / "made", architecture=Architecture.PLAIN, dataset_id=number, folds=trained, encoding=encoding
        )
        folder.parent.mkdir(parents=True)
        made.rename(folder)
    return folder


def say(checkpoint: Path, ttb: float) -> None:
    """Make a checkpoint's network say the same probabilities in every voxel."""
    content = torch.load(checkpoint, weights_only=False)
    bias = torch.log(torch.tensor([1.0 - ttb - NORMAL_P, ttb, NORMAL_P]))
    for name, tensor in content["network_weights"].items():
        if ".seg_layers." in name:
            tensor.copy_(bias if name.endswith("bias") else torch.zeros_like(tensor))
    torch.save(content | {"current_epoch": 1}, checkpoint)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patients, a recipe, and an nnU-Net folder trained on two data sets of PSMA and one of FDG."""
    root = tmp_path_factory.mktemp("oof")
    write_patients(root / "patients", count=PATIENTS)
    nnunet = root / "nnunet"
    for number, folds in TTB.items():
        for fold, ttb in enumerate(folds):
            if ttb is not None:
                say(results(nnunet, number) / f"fold_{fold}" / "checkpoint_final.pth", ttb)
        write_splits(dataset_file(nnunet, number=number), splits_of(VALIDATION))
        raw = nnunet / "nnUNet_raw" / dataset_name(number)
        raw.mkdir(parents=True)
        write_provenance(
            raw,
            DatasetProvenance(
                patients=tuple(FOLD_OF), corrected=(), left_out=(), organs_computed=(), clip=None, sha256="0" * 64
            ),
        )
    write_recipe(
        root / "recipe.toml",
        {"datasets": [801, 802], "folds": [0, 1, 2]},
        {"datasets": [901], "folds": [0, 1, 2], "weight": 3.0},
    )
    return root


@pytest.fixture
def own(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "own"))


def predict(root: Path, output: Path, *more: str) -> int:
    paths = {"--recipe": "recipe.toml", "--nnunet": "nnunet", "--patients": "patients"}
    arguments = [text for option, name in paths.items() for text in (option, str(root / name))]
    return main(["predict-oof", *arguments, "--output", str(output), "--device", "cpu", "--organs", "given", *more])


@pytest.fixture(scope="module")
def predicted(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("out") / "oof"
    assert predict(made, output) == 0
    return output


def mask(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def pet(root: Path, name: str, scan: str) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(root / "patients" / name / scan / "PET.nii.gz")))


@pytest.mark.parametrize("name", sorted(FOLD_OF))
def test_a_patient_is_predicted_by_the_fold_that_has_not_seen_him_only(predicted: Path, name: str) -> None:
    fold = FOLD_OF[name]
    for scan, ttb in (("PSMA", PSMA_TTB[fold]), ("FDG", TTB[802][fold])):
        candidates = read_candidates(predicted / name / scan / "probabilities.npz", where=name)
        assert candidates.index.size == np.prod(PET_GRIDS[scan].shape_zyx)  # all may grow
        np.testing.assert_allclose(candidates.ttb, ttb, atol=2.0**-11)
        np.testing.assert_allclose(candidates.normal, NORMAL_P, atol=2.0**-13)
    record = read_record(predicted / name)
    assert record.fold == fold
    assert record.members == {
        "psma": ["plain_801"] if fold == 1 else ["plain_801", "plain_901"],
        "fdg": ["plain_802"],
    }


def test_masks_are_the_products(made: Path, predicted: Path) -> None:
    # Every voxel is ttb (0.61 > 0.5, 0.31 > 0.25) and none normal: what is at or above the threshold is disease.
    for name in FOLD_OF:
        psma, fdg = pet(made, name, "PSMA"), pet(made, name, "FDG")
        np.testing.assert_array_equal(mask(predicted / name / "PSMA/TTB.nii.gz"), psma >= THRESHOLDS_SUV["PSMA"])
        before = mask(predicted / name / "FDG/TTB_before_refinement.nii.gz")
        np.testing.assert_array_equal(before, fdg >= np.float32(THRESHOLDS_SUV["FDG"]))
        after = mask(predicted / name / "FDG/TTB.nii.gz")
        assert after[DISEASE].all()
        assert before.dtype == after.dtype == np.uint8
        lesions = read_lesions(predicted / name / "lesions.csv", where=name)
        assert sum(lesion.lesion.voxels for lesion in lesions) == before.sum()
        kept = [lesion for lesion in lesions if is_kept(lesion)]
        assert len(kept) < len(lesions)
        assert after.sum() == sum(lesion.lesion.voxels for lesion in kept)
        assert not after[before == 0].any()


def is_kept(lesion: JudgedLesion) -> bool:
    """By the rules of paper.toml, worked out again."""
    p = 1 / (1 + np.exp(5.4058 - 3.3451 * lesion.psma_present - 0.6980 * lesion.features.log_volume
                        - 0.8363 * lesion.lesion.suv_max))  # fmt: skip
    return bool(p >= 0.5 or lesion.lesion.volume_ml > 7.0 or not lesion.lesion.labels)


def test_lesions_say_what_is_disease(made: Path, predicted: Path) -> None:
    voxel_ml = 3.5 * 4.0 * 2.5 / 1000.0
    for name, fold in FOLD_OF.items():
        lesions = read_lesions(predicted / name / "lesions.csv", where=name)
        assert [lesion.lesion.number for lesion in lesions] == list(range(1, len(lesions) + 1))
        assert {(lesion.case, lesion.fold) for lesion in lesions} == {(name, fold)}
        (disease,) = (lesion for lesion in lesions if lesion.is_disease)
        assert disease.lesion.voxels == 3 * 3 * 2
        assert disease.overlap_ml == pytest.approx(3 * 3 * 2 * voxel_ml)
        assert disease.lesion.suv_max == pytest.approx(float(pet(made, name, "FDG")[DISEASE].max()))
        (normal,) = (lesion for lesion in lesions if lesion.lesion.voxels == 27)
        assert normal.overlap_ml == 0.0
        assert normal.lesion.suv_max == pytest.approx(float(pet(made, name, "FDG")[NORMAL].max()))
        assert normal.features.log_volume == pytest.approx(np.log(27 * voxel_ml + 1.0))


def test_an_interrupted_run_goes_on(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "oof"
    assert predict(made, output, "--only", "train_0001", "train_0004") == 0
    assert "2 predicted, 0 there already, 0 left out, 0 broken" in capsys.readouterr().out
    packed = sorted(path.name for path in (output / ".packed").iterdir())
    assert packed == [f"plain_{number}_fold_{fold}" for number in (801, 802, 901) for fold in (0, 2)]
    times = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    (output / ".train_0002.partial").mkdir()  # what a killed run leaves
    assert predict(made, output) == 0
    assert "4 predicted, 2 there already, 0 left out, 0 broken" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in times} == times
    names = sorted(path.name for path in output.iterdir())
    assert names == [".packed", *sorted(FOLD_OF)]


def test_patients_of_untrained_folds_are_named_and_left_out(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (results(own / "nnunet", 802) / "fold_1" / "checkpoint_final.pth").unlink()
    shutil.copytree(own / "patients" / "train_0000", own / "patients" / "train_0077")
    assert predict(own, tmp_path / "oof", "--only", "train_0002", "train_0005", "train_0000", "train_0077") == 0
    out = capsys.readouterr().out
    assert "left out: train_0002: is in fold 1, which is not trained for both tracers" in out
    assert "left out: train_0005: is in fold 1, which is not trained for both tracers" in out
    assert "left out: train_0077: is in no fold of the data sets" in out
    assert "1 predicted, 0 there already, 3 left out, 0 broken" in out


def test_data_sets_with_different_splits_are_refused(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = (("train_0000", "train_0004"), ("train_0001", "train_0005"), ("train_0002", "train_0003"))
    write_splits(dataset_file(own / "nnunet", number=901), splits_of(other))
    assert predict(own, tmp_path / "oof") == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"{dataset_name(801)} and {dataset_name(901)}: splits must have each patient in the same fold, "
        "got train_0001 in fold 2 and in fold 1"
    )
    assert not (tmp_path / "oof").exists()


def test_a_patient_whom_a_data_set_lacks_is_left_out(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer = (("train_0000",), *VALIDATION[1:])
    write_splits(dataset_file(own / "nnunet", number=802), splits_of(fewer))
    assert predict(own, tmp_path / "oof", "--only", "train_0004") == 0
    assert f"left out: train_0004: is not in {dataset_name(802)}" in capsys.readouterr().out


def test_nothing_trained_is_refused(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(own / "nnunet" / "nnUNet_results" / dataset_name(802))
    assert predict(own, tmp_path / "oof") == 1
    assert "recipe: must have a fold that is trained to its end for both tracers" in capsys.readouterr().err


def test_a_broken_patient_is_named_and_the_others_go_on(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own / "patients" / "train_0000" / "FDG" / "TTB.nii.gz").unlink()
    assert predict(own, tmp_path / "oof", "--only", "train_0000", "train_0004") == 1
    out = capsys.readouterr().out
    assert "broken: train_0000: FDG/TTB.nii.gz: file is missing" in out
    assert "1 predicted, 0 there already, 0 left out, 1 broken" in out
    assert sorted(path.name for path in (tmp_path / "oof").iterdir()) == [".packed", "train_0004"]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate"), "OutOfMemoryError: CUDA out of memory."),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_patient_whom_memory_is_short_for_is_named_and_the_others_go_on(
    made: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    line: str,
) -> None:
    calls = []

    def short_of_memory(scan: object, **options: object) -> Predicted:
        calls.append(scan)
        if len(calls) == 2:  # the first patient's FDG
            raise error
        return predict_scan(scan, **options)

    monkeypatch.setattr(out_of_fold, "predict_scan", short_of_memory)
    assert predict(made, tmp_path / "oof", "--only", "train_0000", "train_0004") == 1
    out = capsys.readouterr().out
    assert f"broken: train_0000: {line}\n" in out
    assert "1 predicted, 0 there already, 0 left out, 1 broken" in out
    assert sorted(path.name for path in (tmp_path / "oof").iterdir()) == [".packed", "train_0004"]


def test_one_scans_probabilities_are_held_at_a_time(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_before: list[weakref.ref[Predicted]] = []
    held = []

    def watched(scan: object, **options: object) -> Predicted:
        gc.collect()
        held.append(sum(reference() is not None for reference in made_before))
        predicted = predict_scan(scan, **options)
        made_before.append(weakref.ref(predicted))
        return predicted

    monkeypatch.setattr(out_of_fold, "predict_scan", watched)
    assert predict(made, tmp_path / "oof", "--only", "train_0000", "train_0004") == 0
    assert held == [0, 0, 0, 0]


def test_other_networks_are_not_mixed_in(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "oof"
    assert predict(own, output, "--only", "train_0000") == 0
    say(results(own / "nnunet", 802) / "fold_0" / "checkpoint_final.pth", 0.45)  # trained again
    assert predict(own, output, "--only", "train_0000", "train_0004") == 1
    rule = "patients must be predicted with the same networks and rules; use --overwrite, or another --output"
    assert capsys.readouterr().err.splitlines()[-1] == f"{output}: {rule}, got others for train_0000"
    assert not (output / "train_0004").exists()
    assert predict(own, output, "--only", "train_0000", "--overwrite") == 0
    again = read_candidates(output / "train_0000/FDG/probabilities.npz", where="FDG")
    np.testing.assert_allclose(again.ttb, 0.45, atol=2.0**-11)


def test_an_unknown_patient_is_refused(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(made, tmp_path / "oof", "--only", "train_0099") == 1
    assert capsys.readouterr().err == f"--only: must be patients of {made / 'patients'}, got train_0099\n"


def test_a_data_set_that_does_not_say_how_its_ct_was_clipped_is_refused(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own / "nnunet" / "nnUNet_raw" / dataset_name(901) / "provenance.json").unlink()
    assert predict(own, tmp_path / "oof") == 1
    assert f"{dataset_name(901)}/provenance.json: file is missing" in capsys.readouterr().err


GRID = Grid(
    shape_zyx=(3, 4, 5),
    spacing_mm_xyz=(2.0, 3.0, 4.5),
    origin_mm_xyz=(-7.0, 11.0, 30.0),
    direction=(1.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 1.0, 0.0),
)


def test_only_voxels_that_can_matter_are_kept(tmp_path: Path) -> None:
    probabilities = np.zeros((3, *GRID.shape_zyx), dtype=np.float32)
    pet_suv = np.zeros(GRID.shape_zyx, dtype=np.float32)
    organs = np.zeros(GRID.shape_zyx, dtype=np.uint8)
    probabilities[1, 0, 1, 2] = FLOOR  # not above the floor, and cold
    probabilities[1, 0, 2, 1] = 0.3  # a seed, cold
    probabilities[:, 1, 3, 4] = (0.1, 0.005, 0.895)  # hot: where a seed may grow onto
    pet_suv[1, 3, 4] = 2.5
    organs[1, 3, 4] = Organ.LIVER
    probabilities[2, 2, 0, 0] = 0.9  # normal, and cold
    labels = np.zeros(GRID.shape_zyx, dtype=np.uint8)
    scan = Predicted(
        grid=GRID, pet_suv=pet_suv, suv_threshold=2.5, labels=labels, organs=organs, probabilities=probabilities
    )
    write_candidates(tmp_path / "probabilities.npz", candidates_of(scan))
    found = read_candidates(tmp_path / "probabilities.npz", where="FDG")
    assert found.grid == GRID
    assert found.suv_threshold == 2.5
    assert found.index.tolist() == [0 * 20 + 2 * 5 + 1, 1 * 20 + 3 * 5 + 4]
    assert found.ttb.tolist() == [float(np.float16(0.3)), 0.0]
    assert found.normal.tolist() == [0.0, float(np.float16(0.895))]
    assert found.organs.tolist() == [0, Organ.LIVER]
    assert found.is_hot.tolist() == [False, True]


def test_a_cut_off_file_of_probabilities_is_refused(tmp_path: Path, predicted: Path) -> None:
    whole = (predicted / "train_0000/FDG/probabilities.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CaseError, match="FDG: file must be probabilities as predict-oof writes them"):
        read_candidates(tmp_path / "half.npz", where="FDG")
    with pytest.raises(CaseError, match="FDG: file is missing"):
        read_candidates(tmp_path / "none.npz", where="FDG")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "columns must be case, fold"),
        ("case,fold\n", "columns must be .*, got case, fold"),
        (",".join(COLUMNS) + "\ntrain_0000,0,1\n", "line 2: line must be a lesion"),
        (",".join(COLUMNS) + "\nt,0,1,1,0.1,-3,1,,1,0.1,3,2,1,1,1\n", "line 2: .* must be finite and >= 0"),
    ],
)
def test_malformed_lesions_are_refused(tmp_path: Path, text: str, rule: str) -> None:
    (tmp_path / "lesions.csv").write_text(text, encoding="utf-8")
    with pytest.raises(CaseError, match=rule):
        read_lesions(tmp_path / "lesions.csv", where="lesions.csv")


def test_a_malformed_record_is_refused(tmp_path: Path, predicted: Path) -> None:
    folder = Path(shutil.copytree(predicted / "train_0000", tmp_path / "train_0000"))
    content = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    for change, rule in (
        ({"fold": "0"}, "fold must be int"),
        ({"made_with": "abc"}, "must be as predict-oof writes it"),
        ({"extra": 1}, "must hold case, fold, made_with, members, rules"),
    ):
        (folder / "case.json").write_text(json.dumps(content | change), encoding="utf-8")
        with pytest.raises(CaseError, match=f"train_0000/case.json: {rule}"):
            read_record(folder)
