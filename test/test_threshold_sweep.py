"""The sweep over both limits: what it says of a pair of limits is what the product's own mask is worth."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from evaluation.metrics import measure_masks
from inference import Predicted, outline
from petct.case import Tracer
from petct.errors import CaseError
from petct.folders import SCAN_FOLDERS
from petct.geometry import Grid, to_image
from petct.manifest import TracerSettings, read_manifest
from petct.organs import Organ
from training.__main__ import main
from training.studies.out_of_fold.probabilities import candidates_of, write_candidates
from training.studies.out_of_fold.record import CaseRecord, read_record, rules_of, write_record
from training.studies.sweep.choice import BEST, HONEST, MANIFEST, choices, choices_table
from training.studies.sweep.limits import sweep_scan
from training.studies.sweep.patients import TracerSweep

GRID = Grid(
    shape_zyx=(19, 26, 23),
    spacing_mm_xyz=(3.1, 2.6, 4.4),
    origin_mm_xyz=(-71.5, 38.25, 12.0),
    direction=(0.8, 0.0, 0.6, 0.6, 0.0, -0.8, 0.0, 1.0, 0.0),
)
PAPER = Path(__file__).resolve().parents[1] / "resources" / "paper.toml"
SETTINGS = TracerSettings(
    members=(),
    ttb_probability=0.25,
    normal_probability=0.75,
    regrow_radius_mm=7.0,
    protected_organs=frozenset({Organ.LIVER, Organ.BRAIN}),
    refinement=None,
)
TTB_LIMITS = (0.05, 0.25, 0.4, 0.5, 0.8)
NORMAL_LIMITS = (0.05, 0.3, 0.75, 0.95)


def scan(seed: int) -> tuple[Predicted, np.ndarray]:
    """Blobs of probability, of uptake and of truth that agree in part, in a body with two organs."""
    random = np.random.default_rng(seed)

    def blobs() -> np.ndarray:
        smooth = ndimage.gaussian_filter(random.standard_normal(GRID.shape_zyx), 1.2)
        return smooth / smooth.std()

    disease, normal = blobs(), blobs()
    logits = np.stack([np.ones(GRID.shape_zyx), 3.0 * disease - 2.0, 3.0 * normal - 1.0])
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=0)
    # As they are kept: rounded, so that the comparison is exact.
    probabilities = probabilities.astype(np.float16).astype(np.float32)
    pet_suv = (2.0 + disease + 0.5 * blobs() + normal.clip(0)).astype(np.float32)
    organs = np.zeros(GRID.shape_zyx, dtype=np.uint8)
    organs[:8, :, :11] = Organ.LIVER
    organs[12:, 10:, :] = Organ.BONE
    predicted = Predicted(
        grid=GRID, pet_suv=pet_suv, suv_threshold=2.5, labels=organs, organs=organs, probabilities=probabilities
    )
    return predicted, (disease + 0.6 * blobs() > 1.9) & (pet_suv >= 2.5)


@pytest.mark.parametrize("radius_mm", [0.0, 5.0, 7.0])
@pytest.mark.parametrize("seed", [1, 2])
def test_every_pair_of_limits_is_worth_what_the_products_mask_is(seed: int, radius_mm: float) -> None:
    predicted, truth = scan(seed)
    settings = replace(SETTINGS, regrow_radius_mm=radius_mm)
    sweep = sweep_scan(
        candidates_of(predicted), truth=truth, settings=settings, ttb_limits=TTB_LIMITS, normal_limits=NORMAL_LIMITS
    )
    masks = set()
    for i, ttb in enumerate(TTB_LIMITS):
        for j, normal in enumerate(NORMAL_LIMITS):
            limits = replace(settings, ttb_probability=ttb, normal_probability=normal)
            mask = outline(predicted, tracer=Tracer.FDG, settings=limits).ttb
            masks.add(mask.tobytes())
            metrics = measure_masks(mask, truth=truth, pet_suv=predicted.pet_suv, spacing_mm_zyx=GRID.spacing_mm_zyx)
            assert sweep.dice[i, j] == metrics.dice
            assert sweep.fp_volume_ml[i, j] == pytest.approx(metrics.fp_volume_ml, abs=1e-12)
            assert sweep.fn_volume_ml[i, j] == pytest.approx(metrics.fn_volume_ml, abs=1e-12)
    assert len(masks) >= 15  # without regrowing, five pairs that sum to 1 or more are like others
    assert sweep.fp_volume_ml.max() > 0.0
    assert sweep.fn_volume_ml.max() > 0.0


def test_more_limits_than_a_byte_counts() -> None:
    predicted, truth = scan(1)

    def sweep(ttb_limits: tuple[float, ...]):
        return sweep_scan(
            candidates_of(predicted), truth=truth, settings=SETTINGS, ttb_limits=ttb_limits, normal_limits=(0.3, 0.75)
        )

    many = tuple(np.linspace(0.02, 0.9, 261).tolist())
    fine, coarse = sweep(many), sweep(many[::26])
    for name in ("dice", "fp_volume_ml", "fn_volume_ml"):
        np.testing.assert_array_equal(getattr(fine, name)[::26], getattr(coarse, name))


@pytest.mark.parametrize("has_truth", [False, True])
def test_a_scan_in_which_nothing_is_found(has_truth: bool) -> None:
    predicted, truth = scan(3)
    truth &= has_truth
    probabilities = predicted.probabilities.copy()
    probabilities[1] = 0.02
    candidates = candidates_of(replace(predicted, probabilities=probabilities))
    sweep = sweep_scan(candidates, truth=truth, settings=SETTINGS, ttb_limits=TTB_LIMITS, normal_limits=NORMAL_LIMITS)
    assert np.array_equal(sweep.dice, np.full((5, 4), 0.0 if has_truth else np.nan), equal_nan=True)
    assert not sweep.fp_volume_ml.any()
    np.testing.assert_allclose(sweep.fn_volume_ml, truth.sum() * 3.1 * 2.6 * 4.4 / 1000.0)


@pytest.mark.parametrize(
    ("ttb_limits", "normal_limits", "rule"),
    [
        ((0.005, 0.5), (0.5,), "ttb_limits: must be >= 0.01"),
        ((0.5, 0.25), (0.5,), "ttb_limits: must rise"),
        ((0.5,), (), "normal_limits: must rise"),
    ],
)
def test_limits_that_are_refused(ttb_limits: tuple[float, ...], normal_limits: tuple[float, ...], rule: str) -> None:
    predicted, truth = scan(1)
    with pytest.raises(ValueError, match=rule):
        sweep_scan(
            candidates_of(predicted), truth=truth, settings=SETTINGS, ttb_limits=ttb_limits, normal_limits=normal_limits
        )


def test_truth_of_another_shape_is_refused() -> None:
    predicted, truth = scan(1)
    with pytest.raises(ValueError, match="truth: must have the mask's shape"):
        sweep_scan(
            candidates_of(predicted), truth=truth[:-1], settings=SETTINGS, ttb_limits=(0.5,), normal_limits=(0.5,)
        )


def by_hand(dice: list[list[float]], *, folds: tuple[int, ...]) -> TracerSweep:
    """One limit on P(normal), three on P(ttb); the manifest's is the first."""
    scores = np.array(dice)[:, :, None]
    return TracerSweep(
        tracer=Tracer.FDG,
        cases=tuple(f"train_{n:04d}" for n in range(len(dice))),
        folds=folds,
        ttb_limits=(0.2, 0.5, 0.8),
        normal_limits=(0.75,),
        dice=scores,
        fp_volume_ml=10.0 * scores,
        fn_volume_ml=100.0 * scores,
        manifest_point=(0, 0),
    )


def test_choosing_by_hand() -> None:
    # All: means 0.60, 0.60, 0.70. Without fold 0: 0.5, 0.9, 0.4. Without fold 1: 0.7, 0.3, 1.0.
    sweep = by_hand([[0.7, 0.3, 1.0], [0.5, 0.9, 0.4]], folds=(0, 1))
    manifest, best, honest = choices(sweep)
    assert (manifest.name, best.name, honest.name) == (MANIFEST, BEST, HONEST)
    assert (manifest.points, manifest.dice.value) == (((0, 0),), pytest.approx((0.7 + 0.5) / 2))
    assert (best.points, best.dice.value) == (((2, 0),), pytest.approx((1.0 + 0.4) / 2))
    # Fold 0 is scored where fold 1 is best, and the other way round.
    assert (honest.points, honest.dice.value) == (((1, 0), (2, 0)), pytest.approx((0.3 + 0.4) / 2))
    assert (manifest.dice_gain.low, manifest.dice_gain.value, manifest.dice_gain.high) == (0.0, 0.0, 0.0)
    assert best.dice_gain.value == pytest.approx(((1.0 - 0.7) + (0.4 - 0.5)) / 2)
    assert (best.dice_gain.low, best.dice_gain.high) == (pytest.approx(0.4 - 0.5), pytest.approx(1.0 - 0.7))
    assert honest.dice_gain.value == pytest.approx(((0.3 - 0.7) + (0.4 - 0.5)) / 2)
    assert "| 0.8 / 0.75 | 0.700 (0.400-1.000) | +0.100 (-0.100 to +0.300) |" in choices_table(sweep)
    assert honest.fp_volume_ml.value == pytest.approx(10 * (0.3 + 0.4) / 2)
    assert honest.fn_volume_ml.value == pytest.approx(100 * (0.3 + 0.4) / 2)


def test_of_equally_good_limits_the_nearest_to_the_manifest_is_best() -> None:
    best = choices(by_hand([[0.1, 0.6, 0.6]], folds=(0,)))[1]
    assert best.points == ((1, 0),)


def test_a_patient_without_disease_counts_in_volumes_only() -> None:
    sweep = by_hand([[0.7, 0.3, 1.0], [np.nan, 0.5, np.nan]], folds=(0, 0))
    sweep = replace(sweep, fp_volume_ml=np.ones((2, 3, 1)), fn_volume_ml=np.zeros((2, 3, 1)))
    _, best = choices(sweep)
    assert (best.points, best.dice.value, best.dice.count) == (((2, 0),), 1.0, 1)
    assert (best.dice_gain.value, best.dice_gain.count) == (pytest.approx(0.3), 1)
    assert best.fp_volume_ml.count == 2


def test_one_fold_gives_no_honest_estimate() -> None:
    assert "all patients are of one fold: no estimate" in choices_table(by_hand([[0.7, 0.3, 1.0]], folds=(2,)))


def test_patients_without_any_disease_are_refused() -> None:
    with pytest.raises(CaseError, match="FDG sweep: patients must have disease, in truth or prediction, got none"):
        choices(by_hand([[np.nan] * 3], folds=(0,)))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Out-of-fold predictions of two patients of two folds, and their truth."""
    manifest = read_manifest(PAPER)
    rules = {tracer.value: rules_of(manifest.tracer(tracer)) for tracer in Tracer}
    for number in range(2):
        name = f"train_{number:04d}"
        for tracer, folder in SCAN_FOLDERS.items():
            predicted, truth = scan(10 * number + len(tracer))
            for root in ("oof", "patients"):
                (tmp_path / root / name / folder).mkdir(parents=True)
            write_candidates(tmp_path / "oof" / name / folder / "probabilities.npz", candidates_of(predicted))
            image = to_image(truth.astype(np.uint8), GRID)
            sitk.WriteImage(image, tmp_path / "patients" / name / folder / "TTB.nii.gz")
        members = {tracer.value: ["plain"] for tracer in Tracer}
        record = CaseRecord(case=name, fold=number, members=members, rules=rules, made_with="0" * 64)
        write_record(tmp_path / "oof" / name, record)
    return tmp_path / "oof", tmp_path / "patients"


def sweep_command(folders: tuple[Path, Path], output: Path, *more: str) -> int:
    oof, patients = folders
    paths = ("--oof", str(oof), "--patients", str(patients), "--manifest", str(PAPER), "--output", str(output))
    return main(["sweep", *paths, *more])


def test_the_command_writes_pictures_and_tables(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # 0.3 and 0.6 and 0.9, and the manifest's own limits between them.
    assert sweep_command(folders, tmp_path / "out", "--step", "0.3") == 0
    out = capsys.readouterr().out
    assert "| PSMA, 2 patients | ttb / normal | Dice | Dice minus the manifest's, paired | FP mL | FN mL |" in out
    assert "| manifest | 0.25 / 0.75 |" in out
    assert "| chosen on the other folds |" in out
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["sweep_fdg.csv", "sweep_fdg.png", "sweep_psma.csv", "sweep_psma.png"]
    with (tmp_path / "out" / "sweep_fdg.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["ttb_probability"], row["normal_probability"]) for row in rows] == [
        (ttb, normal) for ttb in ("0.25", "0.3", "0.6", "0.9") for normal in ("0.3", "0.6", "0.75", "0.9")
    ]
    dice = []
    for number in range(2):
        predicted, truth = scan(10 * number + len(Tracer.FDG))
        settings = read_manifest(PAPER).fdg
        mask = outline(predicted, tracer=Tracer.FDG, settings=settings).ttb
        dice.append(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))
    (at_manifest,) = (r for r in rows if (r["ttb_probability"], r["normal_probability"]) == ("0.25", "0.75"))
    assert float(at_manifest["dice"]) == pytest.approx(np.mean(dice), abs=1e-6)
    assert at_manifest["patients"] == "2"
    size = (tmp_path / "out" / "sweep_fdg.png").read_bytes()[16:24]
    assert tuple(int.from_bytes(size[n : n + 4], "big") for n in (0, 4)) == (1500, 560)


def test_nothing_is_overwritten_unasked(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sweep_psma.csv").write_text("mine", encoding="utf-8")
    assert sweep_command(folders, tmp_path / "out", "--step", "0.5") == 1
    assert "sweep_psma.csv: file must not exist yet; use --overwrite" in capsys.readouterr().err
    assert sweep_command(folders, tmp_path / "out", "--step", "0.5", "--tracer", "fdg") == 0
    assert (tmp_path / "out" / "sweep_psma.csv").read_text(encoding="utf-8") == "mine"
    assert sweep_command(folders, tmp_path / "out", "--step", "0.5", "--overwrite") == 0
    assert (tmp_path / "out" / "sweep_psma.csv").read_text(encoding="utf-8") != "mine"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"members": {"psma": ["plain"], "fdg": ["other"]}}, "networks of the same names"),
        ({"rules": {"psma": {}, "fdg": {}}}, "the same limits and regrowing"),
    ],
)
def test_folds_that_were_not_predicted_alike_are_refused(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict, rule: str
) -> None:
    write_record(folders[0] / "train_0001", replace(read_record(folders[0] / "train_0001"), **change))
    assert sweep_command(folders, tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"{folders[0]} folds 0 and 1: all folds must be predicted with {rule}, got ")
    assert "for train_0000" in error
    assert "for train_0001" in error
    assert not (tmp_path / "out").exists()


def test_truth_on_another_grid_is_refused(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folders[1] / "train_0001" / "FDG" / "TTB.nii.gz"
    truth = sitk.ReadImage(str(path))
    truth.SetOrigin([mm + 2.0 * (axis == 1) for axis, mm in enumerate(truth.GetOrigin())])
    sitk.WriteImage(truth, str(path))
    assert sweep_command(folders, tmp_path / "out", "--tracer", "fdg") == 1
    error = capsys.readouterr().err
    assert error.startswith("train_0001/FDG/TTB: grid must match the out-of-fold prediction's within 0.01 mm")
    assert "2 mm along y" in error


@pytest.mark.parametrize("step", ["0", "0.7", "nan"])
def test_steps_that_are_refused(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], step: str
) -> None:
    assert sweep_command(folders, tmp_path / "out", "--step", step) == 1
    assert capsys.readouterr().err.startswith("--step: must be within 0.01-0.5")


def test_a_folder_without_predictions_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep_command((tmp_path, tmp_path), tmp_path / "out") == 1
    assert "must hold out-of-fold predictions of patients named train_XXXX, got none" in capsys.readouterr().err
