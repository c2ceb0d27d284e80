"""The phantom patients: what training and every end-to-end test stand on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from evaluation.picture import PicturePatient, PictureScan, draw_patients
from petct.case import Tracer
from petct.errors import CaseError
from petct.geometry import grid_of, resample_labels, to_array
from petct.organs import label_number, totalsegmentator_labels
from training.phantoms import Phantom, PhantomSize, generate_patient, write_patient
from training.phantoms.disease import Lesion
from training.phantoms.painter import Build
from training.phantoms.pet import PetScan, suv_threshold, true_burden
from training.phantoms.scanner import draw_scanner
from training.phantoms.shapes import Canvas, ellipsoid_mask, make_canvas, segment_mask

SEED = 1
DISCORDANT_SEEDS = (9, 15)
TRACERS = list(Tracer)


@pytest.fixture(scope="session")
def phantom() -> Phantom:
    return generate_patient(SEED, size=PhantomSize.DEMO)


def centroid_mm_xyz(labels: sitk.Image, *names: str) -> np.ndarray:
    index_zyx = np.argwhere(np.isin(to_array(labels), [label_number(name) for name in names])).mean(axis=0)
    return np.array(labels.TransformContinuousIndexToPhysicalPoint(index_zyx[::-1].tolist()))


def test_the_same_seed_gives_the_same_voxels_and_another_seed_does_not(phantom: Phantom) -> None:
    again, other = (generate_patient(seed, size=PhantomSize.DEMO) for seed in (SEED, SEED + 1))
    for tracer in TRACERS:
        for name in ("ct", "pet", "organs", "truth"):
            one, two = getattr(phantom.scan(tracer), name), getattr(again.scan(tracer), name)
            assert grid_of(one) == grid_of(two)
            np.testing.assert_array_equal(to_array(one), to_array(two))
        assert phantom.scan(tracer).suv_threshold == again.scan(tracer).suv_threshold
    assert phantom.lesions == again.lesions
    assert grid_of(phantom.psma.pet) != grid_of(other.psma.pet)
    assert phantom.lesions != other.lesions


@pytest.mark.parametrize("tracer", TRACERS)
def test_pixel_types_and_ranges(phantom: Phantom, tracer: Tracer) -> None:
    scan = phantom.scan(tracer)
    assert to_array(scan.ct).dtype == np.int16
    assert to_array(scan.pet).dtype == np.float32
    assert to_array(scan.organs).dtype == np.uint8
    assert to_array(scan.truth).dtype == np.uint8
    assert to_array(scan.pet).min() >= 0
    assert np.isfinite(to_array(scan.pet)).all()
    assert to_array(scan.ct).min() >= -1024
    assert set(np.unique(to_array(scan.truth))) == {0, 1}


def test_every_image_has_the_grid_it_should_have(phantom: Phantom) -> None:
    for tracer in TRACERS:
        scan = phantom.scan(tracer)
        assert grid_of(scan.organs) == grid_of(scan.ct)
        assert grid_of(scan.truth) == grid_of(scan.pet)
        assert grid_of(scan.ct) != grid_of(scan.pet)
        z, y, x = grid_of(scan.pet).shape_zyx
        assert z > x > y
        assert grid_of(scan.pet).spacing_mm_xyz[2] != grid_of(scan.pet).spacing_mm_xyz[0]
    assert grid_of(phantom.psma.pet) != grid_of(phantom.fdg.pet)
    assert grid_of(phantom.psma.ct) != grid_of(phantom.fdg.ct)


@pytest.mark.parametrize("tracer", TRACERS)
def test_organ_labels_are_totalsegmentators_and_nearly_all_there(phantom: Phantom, tracer: Tracer) -> None:
    found = set(np.unique(to_array(phantom.scan(tracer).organs)).tolist()) - {0}
    missing = {name for number, name in totalsegmentator_labels().items() if number not in found}
    assert found <= set(totalsegmentator_labels())
    assert missing <= {"kidney_cyst_left", "kidney_cyst_right"}


@pytest.mark.parametrize("tracer", TRACERS)
def test_the_patient_is_the_right_way_round(phantom: Phantom, tracer: Tracer) -> None:
    organs = phantom.scan(tracer).organs
    where = {
        name: centroid_mm_xyz(organs, name)
        for name in (
            "liver",
            "spleen",
            "kidney_left",
            "kidney_right",
            "heart",
            "vertebrae_T8",
            "urinary_bladder",
            "brain",
        )
    }
    # LPS: x grows to the left, y to the back, z to the head.
    assert where["liver"][0] < where["heart"][0] < where["spleen"][0]
    assert where["kidney_right"][0] < where["vertebrae_T8"][0] < where["kidney_left"][0]
    assert where["heart"][1] < where["vertebrae_T8"][1]
    assert where["urinary_bladder"][2] < where["liver"][2] < where["heart"][2] < where["brain"][2]
    for rib in range(1, 13):
        left, right = (centroid_mm_xyz(organs, f"rib_{side}_{rib}") for side in ("left", "right"))
        assert left[0] > right[0]
    spine = [f"vertebrae_{n}" for n in ("S1", "L5", "L1", "T12", "T1", "C7", "C1")]
    heights = [centroid_mm_xyz(organs, name)[2] for name in spine]
    assert heights == sorted(heights)


def test_ct_shows_air_lung_fat_soft_tissue_and_bone(phantom: Phantom) -> None:
    ct, organs = to_array(phantom.psma.ct), to_array(phantom.psma.organs)

    def mean_hu(name: str) -> float:
        return float(ct[organs == label_number(name)].mean())

    assert -900 < mean_hu("lung_upper_lobe_left") < -700
    assert 40 < mean_hu("liver") < 80
    assert -20 < mean_hu("urinary_bladder") < 30
    assert mean_hu("femur_left") > 200
    assert ct[0, 0, 0] < -900


@pytest.mark.parametrize(
    ("tracer", "hot", "cold"),
    [
        (Tracer.PSMA, "kidney_left", "liver"),
        (Tracer.PSMA, "liver", "brain"),
        (Tracer.PSMA, "urinary_bladder", "heart"),
        (Tracer.FDG, "brain", "liver"),
        (Tracer.FDG, "liver", "lung_upper_lobe_left"),
        (Tracer.FDG, "urinary_bladder", "heart"),
    ],
)
def test_organs_take_up_what_physiology_says(phantom: Phantom, tracer: Tracer, hot: str, cold: str) -> None:
    scan = phantom.scan(tracer)
    pet, truth = to_array(scan.pet), to_array(scan.truth)
    organs = to_array(resample_labels(scan.organs, grid_of(scan.pet)))
    hot_suv, cold_suv = (np.median(pet[(organs == label_number(name)) & (truth == 0)]) for name in (hot, cold))
    assert hot_suv > 1.2 * cold_suv


@pytest.mark.parametrize("tracer", TRACERS)
def test_truth_is_never_below_the_threshold_and_never_all_that_is_above(phantom: Phantom, tracer: Tracer) -> None:
    scan = phantom.scan(tracer)
    pet, truth = to_array(scan.pet), to_array(scan.truth).astype(bool)
    assert truth.any()
    assert pet[truth].min() >= scan.suv_threshold
    assert (pet[~truth] >= scan.suv_threshold).any()


def test_psma_threshold_is_three(phantom: Phantom) -> None:
    assert phantom.psma.suv_threshold == 3.0


def test_fdg_threshold_is_liver_mean_plus_two_standard_deviations(phantom: Phantom) -> None:
    pet, grid = to_array(phantom.fdg.pet), grid_of(phantom.fdg.pet)
    liver = to_array(resample_labels(phantom.fdg.organs, grid)) == label_number("liver")
    near_disease = ndimage.binary_dilation(to_array(phantom.fdg.truth), iterations=3)
    depth_mm = ndimage.distance_transform_edt(liver, sampling=grid.spacing_mm_zyx)
    inner = pet[(depth_mm > 12.0) & ~near_disease]
    assert phantom.fdg.suv_threshold == pytest.approx(inner.mean() + 2 * inner.std(), rel=0.06)


def test_fdg_threshold_leaves_out_the_rim_and_the_lesions_of_the_liver(phantom: Phantom) -> None:
    grid = replace(grid_of(phantom.fdg.pet), shape_zyx=(14, 16, 18), spacing_mm_xyz=(5.0, 4.0, 6.0))
    liver = np.zeros(grid.shape_zyx, dtype=bool)
    liver[1:13, 1:15, 1:17] = True
    depth_mm = ndimage.distance_transform_edt(liver, sampling=grid.spacing_mm_zyx)
    rng = np.random.default_rng(0)
    measured = np.where(depth_mm > 10.0, rng.normal(2.0, 0.1, liver.shape), 50.0).astype(np.float32)
    disease = np.zeros(liver.shape, dtype=np.float32)
    expected = measured[depth_mm > 10.0].mean() + 2 * measured[depth_mm > 10.0].std()
    whole = PetScan(measured, measured, disease)
    assert suv_threshold(Tracer.FDG, pet=whole, is_liver=liver, grid=grid) == pytest.approx(expected, abs=1e-3)
    measured[6, 8, 9], disease[6, 8, 9] = 40.0, 30.0
    found = suv_threshold(Tracer.FDG, pet=PetScan(measured, measured, disease), is_liver=liver, grid=grid)
    assert found == pytest.approx(expected, abs=0.05)


def test_truth_needs_the_threshold_and_more_disease_than_normal_activity() -> None:
    measured = np.array([[[2.9, 3.0, 9.0, 9.0, 9.0]]], dtype=np.float32)
    normal = np.array([[[0.5, 0.5, 6.0, 4.5, 1.0]]], dtype=np.float32)
    disease = np.array([[[2.4, 2.5, 3.0, 4.5, 8.0]]], dtype=np.float32)
    truth = true_burden(PetScan(measured, normal, disease), threshold_suv=3.0)
    np.testing.assert_array_equal(truth, [[[0, 1, 0, 0, 1]]])
    assert not true_burden(PetScan(measured, normal, 0 * disease), threshold_suv=3.0).any()


def test_the_transform_takes_fdg_points_to_psma_points(phantom: Phantom) -> None:
    for name in ("liver", "brain", "femur_left"):
        psma, fdg = (centroid_mm_xyz(phantom.scan(tracer).organs, name) for tracer in (Tracer.PSMA, Tracer.FDG))
        moved = np.array(phantom.psma_to_fdg.TransformPoint(fdg.tolist()))
        assert np.linalg.norm(moved - psma) < 2.0
        assert np.linalg.norm(fdg - psma) > 5.0


def truth_at(phantom: Phantom, lesion: Lesion, tracer: Tracer) -> int:
    """Largest value of the truth in the 3 x 3 x 3 voxels around a lesion's centre; 0 outside of the scan."""
    scan = phantom.scan(tracer)
    point = scan.from_patient.TransformPoint(lesion.centre_mm_xyz)
    x, y, z = scan.truth.TransformPhysicalPointToIndex(point)
    around = to_array(scan.truth)[max(z - 1, 0) : z + 2, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
    return int(around.max()) if around.size else 0


def distance_mm(one: Lesion, two: Lesion) -> float:
    return float(np.linalg.norm(np.subtract(one.centre_mm_xyz, two.centre_mm_xyz)))


@pytest.fixture(scope="session")
def discordant() -> list[Phantom]:
    """Patients who together have foci of every kind that lie alone; any seeds that have them would do."""
    return [generate_patient(seed, size=PhantomSize.DEMO) for seed in DISCORDANT_SEEDS]


@pytest.mark.parametrize("tracer", TRACERS)
def test_truth_holds_the_disease_that_the_tracer_sees_and_nothing_else(
    discordant: list[Phantom], tracer: Tracer
) -> None:
    found: dict[str, list[int]] = {"seen": [], "unseen": [], "harmless": []}
    for patient in discordant:
        seen = [lesion for lesion in patient.lesions if lesion.is_disease and tracer in lesion.tracers]
        for lesion in patient.lesions:
            if lesion in seen:
                found["seen"].append(truth_at(patient, lesion, tracer))
            elif all(distance_mm(lesion, other) > 55.0 for other in seen):  # with disease around, it could not tell
                found["unseen" if lesion.is_disease else "harmless"].append(truth_at(patient, lesion, tracer))
    assert found["unseen"]
    assert found["harmless"]
    assert not any(found["unseen"])
    assert not any(found["harmless"])
    # Faint or small lesions may stay below the threshold, or drown in the bladder.
    assert sum(found["seen"]) >= 0.75 * len(found["seen"])


def test_the_first_lesion_is_seen_on_both_tracers(phantom: Phantom) -> None:
    first = phantom.lesions[0]
    assert first.is_disease
    assert first.tracers == frozenset(Tracer)
    assert first.volume_ml > 0


def test_a_tiny_patient_is_the_demo_patient_seen_twice_as_coarsely(phantom: Phantom) -> None:
    tiny = generate_patient(SEED, size=PhantomSize.TINY)
    for tracer in Tracer:
        mine, demo = grid_of(tiny.scan(tracer).pet), grid_of(phantom.scan(tracer).pet)
        assert mine.shape_zyx == tuple(-(-voxels // 2) for voxels in demo.shape_zyx)
        np.testing.assert_allclose(mine.spacing_mm_zyx, 2.0 * np.array(demo.spacing_mm_zyx), atol=1e-4)
        coarse_ml = to_array(tiny.scan(tracer).truth).sum() * mine.voxel_ml
        fine_ml = to_array(phantom.scan(tracer).truth).sum() * demo.voxel_ml
        assert coarse_ml == pytest.approx(fine_ml, rel=0.5)


@pytest.mark.parametrize(
    ("seed", "size", "message"),
    [
        (-1, PhantomSize.DEMO, r"phantom: seed must be >= 0, got -1"),
        (1, "huge", r"phantom: size must be one of tiny, demo, clinical, got 'huge'"),
    ],
)
def test_a_wrong_seed_or_size_is_refused(seed: int, size: PhantomSize, message: str) -> None:
    with pytest.raises(CaseError, match=message):
        generate_patient(seed, size=size)


def test_a_written_patient_has_the_training_layout_and_reads_back(phantom: Phantom, tmp_path: Path) -> None:
    folder = write_patient(phantom, tmp_path / "new")
    assert folder == tmp_path / "new" / "train_0001"
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*")) == sorted(
        f"{tracer}/{name}"
        for tracer in ("PSMA", "FDG")
        for name in ("CT.nii.gz", "PET.nii.gz", "TTB.nii.gz", "totseg_24.nii.gz", "threshold.json", "rigid.tfm")
    )
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["train_0001"]
    for tracer in TRACERS:
        scan, place = phantom.scan(tracer), folder / tracer.value.upper()
        for name, image in (("CT", scan.ct), ("PET", scan.pet), ("TTB", scan.truth), ("totseg_24", scan.organs)):
            read = sitk.ReadImage(str(place / f"{name}.nii.gz"))
            np.testing.assert_array_equal(to_array(read), to_array(image))
            np.testing.assert_allclose(read.GetOrigin(), image.GetOrigin(), atol=1e-3)
            np.testing.assert_allclose(read.GetSpacing(), image.GetSpacing(), atol=1e-5)
        assert json.loads((place / "threshold.json").read_text()) == {"suv_threshold": scan.suv_threshold}
    point = (12.0, -34.0, -900.0)
    in_psma = sitk.ReadTransform(str(folder / "FDG" / "rigid.tfm")).TransformPoint(point)
    assert in_psma == pytest.approx(phantom.psma_to_fdg.TransformPoint(point))
    assert sitk.ReadTransform(str(folder / "PSMA" / "rigid.tfm")).TransformPoint(in_psma) == pytest.approx(point)


def test_a_patient_is_not_written_over_and_leaves_nothing_behind_when_it_fails(
    phantom: Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(sitk, "WriteTransform", fail)
    with pytest.raises(OSError, match="disk full"):
        write_patient(phantom, tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "train_0001").mkdir()
    with pytest.raises(CaseError, match=r"train_0001: folder must not exist yet"):
        write_patient(phantom, tmp_path)


@pytest.mark.parametrize("tracer", TRACERS)
def test_clinical_scans_have_a_real_pet_grid_and_a_512_ct(tracer: Tracer) -> None:
    scanners = [
        draw_scanner(
            np.random.default_rng(seed),
            tracer=tracer,
            size=PhantomSize.CLINICAL,
            low_mm_xyz=np.array([-220.0, -120.0, 0.0]),
            high_mm_xyz=np.array([220.0, 110.0, 1050.0]),
        )
        for seed in range(12)
    ]
    assert len({scanner.pet_grid.shape_zyx for scanner in scanners}) > 2
    for scanner in scanners:
        pet, ct = scanner.pet_grid, scanner.ct_grid
        assert pet.size_xyz[0] == pet.size_xyz[1]
        assert ct.size_xyz[:2] == (512, 512)
        pet_low, pet_high = (pet.corners_mm_xyz()[:, 2].min(), pet.corners_mm_xyz()[:, 2].max())
        ct_low, ct_high = (ct.corners_mm_xyz()[:, 2].min(), ct.corners_mm_xyz()[:, 2].max())
        assert abs(ct_low - pet_low) < 10.0
        assert abs(ct_high - pet_high) < 10.0


def small_canvas() -> Canvas:
    return make_canvas(
        np.random.default_rng(0),
        low_mm_xyz=np.array([-30.0, -40.0, 10.0]),
        high_mm_xyz=np.array([50.0, 30.0, 70.0]),
        spacing_mm=1.0,
    )


def test_an_ellipsoid_has_its_volume_and_place() -> None:
    canvas = small_canvas()
    box, mask = ellipsoid_mask(canvas, np.array([5.0, -8.0, 40.0]), radii_mm_xyz=np.array([16.0, 11.0, 7.0]))
    canvas.tissue[box][mask] = 1
    assert canvas.tissue.sum() == pytest.approx(4 / 3 * np.pi * 16 * 11 * 7, rel=0.02)
    z, y, x = np.nonzero(canvas.tissue)
    assert (x.mean() - 30, y.mean() - 40, z.mean() + 10) == pytest.approx((5.0, -8.0, 40.0))
    assert (np.ptp(x), np.ptp(y), np.ptp(z)) == pytest.approx((32, 22, 14), abs=2)


def test_a_tube_is_a_cylinder_with_round_ends() -> None:
    canvas = small_canvas()
    box, mask = segment_mask(
        canvas, np.array([-10.3, 0.4, 40.3]), np.array([29.7, 0.4, 40.3]), radii_mm=(6.0, 6.0), flatness_xyz=np.ones(3)
    )
    assert mask.sum() == pytest.approx(np.pi * 36 * 40 + 4 / 3 * np.pi * 216, rel=0.02)
    assert box[2].start <= 14
    assert box[2].stop >= 66


def test_shapes_outside_the_canvas_paint_nothing() -> None:
    _, mask = ellipsoid_mask(small_canvas(), np.array([500.0, 0.0, 40.0]), radii_mm_xyz=np.full(3, 9.0))
    assert mask.size == 0


def test_a_build_scales_points() -> None:
    build = Build((0.9, 0.8, 1.1), (0.0, 0.0), (0.0, 0.0), width_wave=0.0, width_phase=0.0, extra_fat_mm=0.0)
    np.testing.assert_allclose(build.point((10.0, 20.0, 300.0)), [9.0, 16.0, 330.0])
    assert build.mean_scale == pytest.approx((0.9 * 0.8 * 1.1) ** (1 / 3))


def test_the_picture_shows_truth_in_red_and_another_mask_in_blue(phantom: Phantom, tmp_path: Path) -> None:
    pet, truth = phantom.psma.pet, phantom.psma.truth
    drawn = {}
    for name, masks in (("none", {}), ("truth", {"truth": truth}), ("other", {"other": truth})):
        patient = PicturePatient("1", [PictureScan(Tracer.PSMA, pet, **masks)])
        path = draw_patients([patient], tmp_path / f"{name}.png", dots_per_inch=80)
        drawn[name] = to_array(sitk.ReadImage(str(path))).astype(int)
    assert not is_reddish(drawn["none"]).any()
    assert not is_bluish(drawn["none"]).any()
    assert is_reddish(drawn["truth"]).sum() > 50
    assert not is_bluish(drawn["truth"]).any()
    assert is_bluish(drawn["other"]).sum() > 50
    assert not is_reddish(drawn["other"]).any()


def is_reddish(picture: np.ndarray) -> np.ndarray:
    return picture[..., 0] - picture[..., 2] > 80


def is_bluish(picture: np.ndarray) -> np.ndarray:
    return picture[..., 2] - picture[..., 0] > 80


def test_a_picture_takes_one_to_four_patients(phantom: Phantom, tmp_path: Path) -> None:
    patient = PicturePatient("1", [PictureScan(Tracer.PSMA, phantom.psma.pet)])
    for count in (0, 5):
        with pytest.raises(ValueError, match=f"patients must be 1 to 4, got {count}"):
            draw_patients([patient] * count, tmp_path / "picture.png")
