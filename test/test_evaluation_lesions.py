"""Lesions found and made up, where in the body, and the FROC curve."""

from dataclasses import astuple

import numpy as np
import pytest
import SimpleITK as sitk

from cases import CT_GRIDS
from evaluation.folders import find_prediction, find_truth
from evaluation.froc import froc_curve
from evaluation.judgement import judge_scan
from evaluation.lesionwise import LesionScores, find_lesions, score_lesions
from evaluation.metrics import find_overlap
from evaluation.plots import PLOT_NAMES, draw_plots
from evaluation.regions import REGIONS, RegionVolumes, measure_regions, region_map
from evaluation.summary import summarise
from judgements import EMPTY_PREDICTION, judgement
from petct.case import Tracer
from petct.errors import CaseError
from petct.geometry import grid_of, to_array, to_image
from petct.organs import label_number, totalsegmentator_labels
from tiny_patients import write_patient

SHAPE_ZYX = (6, 8, 11)


def mask(*places):
    found = np.zeros(SHAPE_ZYX, dtype=bool)
    for place in places:
        found[place] = True
    return found


A, B, C = np.s_[0:2, 0:3, 0:2], np.s_[4:6, 0:2, 0:3], np.s_[0:1, 6:8, 8:11]


def test_a_lesion_is_touched_by_one_voxel():
    lesions = find_lesions(mask(A, B, C), other=mask(np.s_[1:2, 2:3, 1:8], np.s_[5:6, 2:4, 0:3]))
    touched = {
        int(voxels): bool(is_touched) for voxels, is_touched in zip(lesions.voxels, lesions.is_touched, strict=True)
    }
    assert sorted(lesions.voxels.tolist()) == [6, 12, 12]
    assert touched[6] is False
    assert (lesions.count, lesions.touched, lesions.untouched_voxels) == (3, 1, 12 + 6)


def test_no_lesions():
    lesions = find_lesions(mask(), other=mask(A))
    assert (lesions.count, lesions.touched, lesions.untouched_voxels) == (0, 0, 0)
    assert find_lesions(mask(A), other=mask()).untouched_voxels == 12
    with pytest.raises(ValueError, match="other: must have the mask's shape"):
        find_lesions(mask(A), other=mask(A)[:-1])


def test_scores_are_the_highest_in_the_predicted_lesion():
    values = np.zeros(SHAPE_ZYX, dtype=np.float32)
    predicted = mask(np.s_[0:2, 0:3, 0:6], C)
    values[1, 1, 5] = 0.75  # in the predicted lesion that touches A and near, outside both
    values[0, 7, 9] = 0.5
    values[4, 0, 0] = 0.99  # in B, which nothing touches
    near = np.s_[0:2, 0:3, 4:5]
    true = mask(A, B, near)
    found = score_lesions(find_lesions(predicted, other=true), true=find_lesions(true, other=predicted), values=values)
    assert sorted(found.true, key=str) == [0.75, 0.75, None]
    assert found.false == (0.5,)


def test_a_true_lesion_has_the_best_score_of_those_that_touch_it():
    values = np.zeros(SHAPE_ZYX, dtype=np.float32)
    values[0, 0, 0], values[0, 0, 8] = 3.0, 5.0
    predicted, true = mask(np.s_[0:2, 0:2, 0:2], np.s_[0:2, 0:2, 8:10]), mask(np.s_[0:1, 0:1, 0:11])
    found = score_lesions(find_lesions(predicted, other=true), true=find_lesions(true, other=predicted), values=values)
    assert found == LesionScores(true=(5.0,), false=())


# --- regions


def test_every_label_has_a_region_and_bone_is_the_methods_bone():
    labels = np.array([0, *totalsegmentator_labels()], dtype=np.uint8).reshape(1, 2, -1)
    grid = type(CT_GRIDS["PSMA"])(
        labels.shape, CT_GRIDS["PSMA"].spacing_mm_xyz, CT_GRIDS["PSMA"].origin_mm_xyz, CT_GRIDS["PSMA"].direction
    )
    found = region_map(to_image(labels, grid), where="totseg_24").ravel()
    by_name = {name: REGIONS[found[number]] for number, name in totalsegmentator_labels().items()}
    assert REGIONS[found[0]] == "unlabelled"
    assert by_name["rib_left_7"] == by_name["sternum"] == by_name["vertebrae_T12"] == "bone"
    assert by_name["costal_cartilages"] == by_name["pancreas"] == by_name["iliopsoas_left"] == "other"
    assert by_name["kidney_right"] == "kidney"
    assert by_name["prostate"] == "prostate"
    assert by_name["colon"] == "stomach_and_bowel"
    assert by_name["iliac_vena_right"] == "heart_and_vessels"
    assert set(by_name.values()) == set(REGIONS) - {"unlabelled"}


def test_a_value_that_is_no_label_is_refused():
    for value in (118.0, -1.0, 5.5):
        labels = np.zeros(CT_GRIDS["FDG"].shape_zyx, dtype=np.float32)
        labels[3, 4, 5] = value
        with pytest.raises(CaseError, match=rf"totseg: organ labels must be whole numbers within 0-117, got {value:g}"):
            region_map(to_image(labels, CT_GRIDS["FDG"]), where="totseg")


def test_volumes_by_region_add_up_to_those_of_the_scan():
    true, predicted = mask(A, B), mask(np.s_[1:2, 0:3, 0:4], C)
    overlap = find_overlap(predicted, truth=true)
    regions = np.full(SHAPE_ZYX, REGIONS.index("unlabelled"), dtype=np.uint8)
    regions[:, :1] = REGIONS.index("liver")
    regions[:, :, 9:] = REGIONS.index("bone")
    found = measure_regions(overlap, regions=regions[overlap.box], voxel_ml=0.5)
    none = RegionVolumes(0.0, 0.0, 0.0, 0.0)
    assert found["liver"] == RegionVolumes(truth_ml=0.5 * (4 + 6), predicted_ml=0.5 * 4, fp_ml=0.0, fn_ml=0.5 * 6)
    assert found["bone"] == RegionVolumes(truth_ml=0.0, predicted_ml=0.5 * 4, fp_ml=0.5 * 4, fn_ml=0.0)
    assert found["unlabelled"] == RegionVolumes(
        truth_ml=0.5 * (8 + 6), predicted_ml=0.5 * (8 + 2), fp_ml=0.5 * 2, fn_ml=0.5 * 6
    )
    assert all(volumes == none for name, volumes in found.items() if name not in ("liver", "bone", "unlabelled"))
    sums = np.sum([astuple(volumes) for volumes in found.values()], axis=0)
    assert sums.tolist() == [0.5 * true.sum(), 0.5 * predicted.sum(), 0.5 * 6, 0.5 * 12]


def test_a_scans_regions_are_those_of_its_organ_map_on_the_pet_grid(tmp_path):
    patient = write_patient(tmp_path / "train_0000")
    for scan, tracer in (("PSMA", Tracer.PSMA), ("FDG", Tracer.FDG)):
        organs = sitk.ReadImage(patient / scan / "totseg_24.nii.gz")
        stripes = to_array(organs)
        stripes[:, ::2], stripes[:, 1::2] = label_number("liver"), label_number("sacrum")
        sitk.WriteImage(to_image(stripes, grid_of(organs)), patient / scan / "totseg_24.nii.gz")
        files = find_truth(tmp_path, case="train_0000", tracer=tracer)
        pet = sitk.ReadImage(files.pet.path)
        mask = np.zeros(grid_of(pet).shape_zyx, dtype=np.uint8)
        mask[3:10, 2:7, 2:6] = 1
        sitk.WriteImage(to_image(mask, grid_of(pet)), patient / scan / "TTB.nii.gz")
        prediction = find_prediction(tmp_path, case="train_0000", tracer=tracer)

        (found,) = judge_scan(files, predictions={"truth": prediction}).judgements

        whole = sitk.Resample(to_image(stripes, grid_of(organs)), pet, sitk.Transform(), sitk.sitkNearestNeighbor)
        labels = sitk.GetArrayFromImage(whole)[mask == 1]
        voxel_ml = np.prod(pet.GetSpacing()) / 1000.0
        for name, label in (("liver", "liver"), ("bone", "sacrum")):
            count = np.sum(labels == label_number(label))
            assert count > 3
            assert found.regions[name].truth_ml == pytest.approx(count * voxel_ml)
            assert found.regions[name].predicted_ml == pytest.approx(count * voxel_ml)
        assert found.regions["unlabelled"].truth_ml == pytest.approx(np.sum(labels == 0) * voxel_ml)


# --- sums over patients


def test_lesions_are_added_up_over_patients_and_notes_are_counted():
    found = [
        judgement(case="p", true_lesions=3, found_lesions=1, false_lesions=4),
        judgement(case="q", true_lesions=7, found_lesions=7, false_lesions=0),
        judgement(case="r", base=EMPTY_PREDICTION),  # four lesions
        judgement("other", case="p", false_lesions=99),
        judgement(case="p", tracer=Tracer.FDG, false_lesions=99),
    ]
    summary = summarise(found, run="a", tracer=Tracer.PSMA)
    assert summary.patients == 3
    assert (summary.found_lesions, summary.true_lesions) == (1 + 7, 3 + 7 + 4)
    assert summary.sensitivity.value == pytest.approx(8 / 14)
    assert summary.false_lesions.value == pytest.approx((4 + 0 + 0) / 3)
    assert summary.means["dice"].value == pytest.approx((0.9 + 0.9 + 0.0) / 3)
    assert (summary.means["suv_mean_ratio"].value, summary.means["suv_mean_ratio"].count) == (1.0, 2)
    assert summary.notes == {"prediction empty": 1}
    assert summary.regions is None


def test_regions_are_added_up_over_the_patients_that_have_them():
    volumes = {name: RegionVolumes(1.0, 2.0, 0.5, 0.25) for name in REGIONS}
    found = [judgement(case="p", regions=volumes), judgement(case="q"), judgement(case="r", regions=volumes)]
    summary = summarise(found, run="a", tracer=Tracer.PSMA)
    assert summary.region_patients == 2
    assert summary.regions["bone"] == RegionVolumes(2.0, 4.0, 1.0, 0.5)


# --- FROC


def froc_patients(kind="scores"):
    first = LesionScores(true=(0.9, 0.5, None), false=(0.7,))
    second = LesionScores(true=(0.8,), false=(0.5, 0.3))
    return [judgement(case="p", **{kind: first}), judgement(case="q", **{kind: second})]


def test_the_curve_by_hand():
    curve = froc_curve(froc_patients(), run="a", tracer=Tracer.PSMA)
    # Thresholds 0.9, 0.8, 0.7, 0.5 (a found and a false lesion at once), 0.3; four true lesions, two patients.
    assert curve.sensitivity == (0.0, 1 / 4, 2 / 4, 2 / 4, 3 / 4, 3 / 4)
    assert curve.false_per_patient == (0.0, 0.0, 0.0, 1 / 2, 2 / 2, 3 / 2)
    assert not curve.is_by_probability


def test_probability_orders_lesions_only_where_every_patient_has_it():
    both = froc_patients("probability")
    assert froc_curve(both, run="a", tracer=Tracer.PSMA).is_by_probability
    mixed = [both[0], froc_patients()[1]]
    curve = froc_curve(mixed, run="a", tracer=Tracer.PSMA)
    assert not curve.is_by_probability
    assert curve.sensitivity == (0.0, 1.0, 1.0, 1.0)  # the second patient's, by SUVmax; the first has none there


def test_without_true_lesions_there_is_no_curve():
    assert froc_curve([judgement()], run="a", tracer=Tracer.PSMA) is None
    assert froc_curve(froc_patients(), run="b", tracer=Tracer.PSMA) is None


def test_without_predictions_the_curve_stays_at_nothing():
    found = [judgement(scores=LesionScores(true=(None, None), false=()))]
    curve = froc_curve(found, run="a", tracer=Tracer.PSMA)
    assert (curve.sensitivity, curve.false_per_patient) == ((0.0,), (0.0,))


# --- plots


def test_plots_are_drawn_whole_for_anything_there_is(tmp_path):
    one_patient = [judgement(base=EMPTY_PREDICTION)]
    many = [
        judgement(run, f"p{n}", tracer, volume_ratio=0.1 + n, truth_ml=10.0**n, fp_volume_ml=7.0 * n**3, scores=scores)
        for run in ("a", "b")
        for tracer in Tracer
        for n, scores in enumerate([LesionScores((4.0, None), (5.0,)), LesionScores((3.0,), ()), LesionScores((), ())])
    ]
    for number, (found, runs) in enumerate([(one_patient, ["a"]), (many, ["a", "b"])]):
        folder = tmp_path / "new" / str(number)
        paths = draw_plots(found, runs=runs, folder=folder)
        assert sorted(path.name for path in folder.iterdir()) == sorted(PLOT_NAMES)
        assert [path.name for path in paths] == list(PLOT_NAMES)
        for path in paths:
            assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
            assert path.read_bytes().endswith(b"IEND\xaeB`\x82")


def test_plots_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CaseError, match="plots must be writable"):
        draw_plots([judgement()], runs=["a"], folder=tmp_path / "file")
