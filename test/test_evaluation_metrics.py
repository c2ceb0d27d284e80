import cc3d
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evaluation.metrics import (
    METRICS,
    NO_CONTOUR,
    NO_DISEASE,
    NO_TRUE_SUV,
    PREDICTION_EMPTY,
    TRUTH_EMPTY,
    box_around,
    contour_of,
    find_overlap,
    measure_masks,
    surface_dice,
)

SHAPE_ZYX = (9, 11, 13)
SPACING_MM_ZYX = (3.0, 2.0, 1.5)
VOXEL_ML = 3.0 * 2.0 * 1.5 / 1000.0


def empty():
    return np.zeros(SHAPE_ZYX, dtype=bool)


def boxes(*slices):
    mask = empty()
    for one in slices:
        mask[one] = True
    return mask


def measure(prediction, truth, pet_suv=None):
    pet_suv = np.ones(truth.shape, dtype=np.float32) if pet_suv is None else pet_suv
    return measure_masks(prediction, truth=truth, pet_suv=pet_suv, spacing_mm_zyx=SPACING_MM_ZYX)


# --- by hand

TRUE_BOX = np.s_[1:4, 2:6, 3:8]  # 3 x 4 x 5
MOVED_BOX = np.s_[1:4, 2:6, 4:9]  # a voxel further along x
MISSED = np.s_[7:8, 9:11, 1:4]  # 1 x 2 x 3
MADE_UP = np.s_[6:8, 1:3, 11:13]  # 2 x 2 x 2


def test_all_six_of_a_case_that_can_be_counted():
    truth, prediction = boxes(TRUE_BOX, MISSED), boxes(MOVED_BOX, MADE_UP)
    pet_suv = np.ones(SHAPE_ZYX, dtype=np.float32)
    pet_suv[TRUE_BOX] = 4.0
    pet_suv[MISSED] = 6.0
    pet_suv[MADE_UP] = 8.0

    found = measure(prediction, truth, pet_suv)

    assert found.dice == pytest.approx(2 * 3 * 4 * 4 / (66 + 68))
    assert found.fp_volume_ml == pytest.approx(8 * VOXEL_ML)
    assert found.fn_volume_ml == pytest.approx(6 * VOXEL_ML)
    # A 3 x 4 x 5 box has an inside of 1 x 2 x 3, MISSED and MADE_UP have none. The contours of the two boxes share the
    # 3 x 4 x 4 voxels of both boxes except the inside of either, which is 1 x 2 x 4 together.
    assert found.surface_dice == pytest.approx(2 * (48 - 8) / ((60 - 6 + 6) + (60 - 6 + 8)))
    true_mean, predicted_mean = (60 * 4.0 + 6 * 6.0) / 66, (48 * 4.0 + 12 * 1.0 + 8 * 8.0) / 68
    assert found.suv_mean_ratio == pytest.approx(predicted_mean / true_mean)
    assert (found.truth_suv_mean, found.predicted_suv_mean) == pytest.approx((true_mean, predicted_mean))
    assert found.volume_ratio == pytest.approx(68 / 66)
    assert (found.truth_ml, found.predicted_ml) == pytest.approx((66 * VOXEL_ML, 68 * VOXEL_ML))
    assert (found.true_lesions, found.found_lesions) == (2, 1)
    assert (found.predicted_lesions, found.false_lesions) == (2, 1)
    assert found.notes == ()


def test_edges_join_lesions_and_corners_do_not():
    touching_edge = boxes(np.s_[2:4, 2:4, 2:4], np.s_[4:6, 4:6, 2:4])
    touching_corner = boxes(np.s_[2:4, 2:4, 2:4], np.s_[4:6, 4:6, 4:6])
    hit = boxes(np.s_[2:3, 2:3, 2:3])
    assert measure(touching_edge, hit).fp_volume_ml == 0.0
    assert measure(touching_corner, hit).fp_volume_ml == pytest.approx(8 * VOXEL_ML)
    assert measure(hit, touching_edge).fn_volume_ml == 0.0
    assert measure(hit, touching_corner).fn_volume_ml == pytest.approx(8 * VOXEL_ML)


def test_a_mask_has_no_contour_along_the_border_of_the_grid():
    corner = boxes(np.s_[0:3, 0:4, 0:5])  # only its faces at z = 2, y = 3 and x = 4 look at voxels outside it
    assert contour_of(corner).sum() == 3 * 4 * 5 - 2 * 3 * 4
    assert measure(corner, corner).surface_dice == 1.0


def test_one_voxel_beside_another_agrees_with_nothing():
    found = measure(boxes(np.s_[4:5, 4:5, 4:5]), boxes(np.s_[4:5, 4:5, 5:6]))
    assert (found.dice, found.surface_dice) == (0.0, 0.0)
    assert found.fp_volume_ml == found.fn_volume_ml == pytest.approx(VOXEL_ML)
    assert (found.suv_mean_ratio, found.volume_ratio) == (1.0, 1.0)


def test_the_mean_suv_of_many_voxels_does_not_lose_digits():
    shape = (40, 50, 60)
    pet_suv = np.full(shape, 1000.1, dtype=np.float32)
    mask = np.ones(shape, dtype=bool)
    mask[0, 0, 0] = False
    found = measure_masks(mask, truth=mask, pet_suv=pet_suv, spacing_mm_zyx=SPACING_MM_ZYX)
    assert found.truth_suv_mean == pytest.approx(float(np.float32(1000.1)), rel=1e-12)


# --- edge cases


def undefined(found):
    return {name for name in METRICS if getattr(found, name) is None}


def test_nothing_to_find_and_nothing_found():
    found = measure(empty(), empty())
    assert undefined(found) == {"dice", "surface_dice", "suv_mean_ratio", "volume_ratio"}
    assert (found.fp_volume_ml, found.fn_volume_ml) == (0.0, 0.0)
    assert found.notes == (NO_DISEASE,)


def test_an_empty_prediction_of_a_diseased_case():
    found = measure(empty(), boxes(TRUE_BOX))
    assert undefined(found) == {"suv_mean_ratio"}
    assert (found.dice, found.surface_dice, found.volume_ratio, found.fp_volume_ml) == (0.0, 0.0, 0.0, 0.0)
    assert found.fn_volume_ml == pytest.approx(60 * VOXEL_ML)
    assert found.notes == (PREDICTION_EMPTY,)


def test_disease_predicted_where_there_is_none():
    found = measure(boxes(TRUE_BOX), empty())
    assert undefined(found) == {"suv_mean_ratio", "volume_ratio"}
    assert (found.dice, found.surface_dice, found.fn_volume_ml) == (0.0, 0.0, 0.0)
    assert found.fp_volume_ml == pytest.approx(60 * VOXEL_ML)
    assert found.notes == (TRUTH_EMPTY,)


def test_masks_that_fill_the_grid_have_no_surface():
    found = measure(~empty(), ~empty())
    assert undefined(found) == {"surface_dice"}
    assert (found.dice, found.volume_ratio) == (1.0, 1.0)
    assert found.notes == (NO_CONTOUR,)
    assert measure(~empty(), boxes(TRUE_BOX)).surface_dice == 0.0


def test_a_truth_without_uptake_has_no_ratio():
    found = measure(boxes(TRUE_BOX), boxes(TRUE_BOX), np.zeros(SHAPE_ZYX, dtype=np.float32))
    assert undefined(found) == {"suv_mean_ratio"}
    assert found.notes == (NO_TRUE_SUV,)


# --- refusals


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="truth: must have the mask's shape"):
        measure(empty(), empty()[:1])
    with pytest.raises(ValueError, match="pet_suv: must have the mask's shape"):
        measure(empty(), empty(), np.ones((13, 11, 9), dtype=np.float32))
    with pytest.raises(ValueError, match="mask: must be 3D"):
        measure(empty()[0], empty()[0])


def test_masks_of_other_types_are_refused():
    with pytest.raises(ValueError, match="prediction: must be boolean, got uint8"):
        measure(empty().astype(np.uint8), empty())
    with pytest.raises(ValueError, match="truth: must be boolean, got float64"):
        measure(empty(), empty().astype(float))


def test_a_pet_that_is_not_finite_in_disease_is_refused():
    pet_suv = np.ones(SHAPE_ZYX, dtype=np.float32)
    pet_suv[2, 3, 4] = np.nan
    with pytest.raises(ValueError, match="pet_suv: must be finite where there is disease"):
        measure(empty(), boxes(TRUE_BOX), pet_suv)


# --- against the organisers' definitions on the whole image, with the programs that they name

shapes = st.tuples(*[st.integers(1, 7)] * 3)


@st.composite
def masks_and_pet(draw):
    """Two masks, of few or many voxels and often at the border, and a PET."""
    shape = draw(shapes)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    truth = random.random(shape) < draw(st.sampled_from([0.03, 0.2, 0.6, 0.97]))
    prediction = truth ^ (random.random(shape) < draw(st.sampled_from([0.05, 0.3])))
    if draw(st.booleans()):
        prediction[:, : shape[1] // 2] = False
    return prediction, truth, random.gamma(2.0, 2.0, shape).astype(np.float32) + 0.1


def itk(mask):
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(SPACING_MM_ZYX[::-1])
    return image


def volume_of_untouched(mask, other):
    numbered = cc3d.connected_components(mask, connectivity=18)
    return sum(np.sum(numbered == n) * VOXEL_ML for n in range(1, numbered.max() + 1) if not other[numbered == n].any())


def surface_dice_by_distance(prediction, truth):
    surfaces = [sitk.LabelContour(itk(mask) == 1, False) for mask in (truth, prediction)]
    true_surface, predicted_surface = (sitk.GetArrayFromImage(surface).astype(bool) for surface in surfaces)
    if not (true_surface.any() or predicted_surface.any()):
        return None
    distance = sitk.Abs(sitk.SignedMaurerDistanceMap(surfaces[1], squaredDistance=False, useImageSpacing=True))
    matching = np.sum(sitk.GetArrayFromImage(distance)[true_surface] == 0)
    return 2.0 * matching / (true_surface.sum() + predicted_surface.sum())


def close(value):
    return None if value is None else pytest.approx(value, rel=1e-9, abs=1e-12)


@settings(max_examples=300, deadline=None)
@given(masks_and_pet())
def test_the_metrics_are_those_of_the_definitions(drawn):
    prediction, truth, pet_suv = drawn
    found = measure(prediction, truth, pet_suv)
    sizes = prediction.sum() + truth.sum()
    has_both = prediction.any() and truth.any()
    assert found.dice == close(2 * np.sum(prediction & truth) / sizes if sizes else None)
    assert found.fp_volume_ml == close(volume_of_untouched(prediction, truth))
    assert found.fn_volume_ml == close(volume_of_untouched(truth, prediction))
    assert found.surface_dice == close(surface_dice_by_distance(prediction, truth))
    ratio = np.mean(pet_suv[prediction], dtype=float) / np.mean(pet_suv[truth], dtype=float) if has_both else None
    assert found.suv_mean_ratio == close(ratio)
    assert found.volume_ratio == close(prediction.sum() / truth.sum() if truth.any() else None)
    assert bool(found.notes) == bool(undefined(found))


@settings(max_examples=200, deadline=None)
@given(shapes.flatmap(lambda shape: arrays(bool, shape)))
def test_contours_are_those_of_simpleitk(mask):
    assert np.array_equal(contour_of(mask), sitk.GetArrayFromImage(sitk.LabelContour(itk(mask), False)).astype(bool))


@settings(max_examples=200, deadline=None)
@given(masks_and_pet())
def test_the_box_changes_no_contour(drawn):
    prediction, truth, _ = drawn
    box = box_around(prediction, truth)
    assert prediction[box].sum() == prediction.sum()
    assert np.array_equal(contour_of(prediction)[box], contour_of(prediction[box]))
    assert surface_dice(prediction[box], truth=truth[box]) == surface_dice(prediction, truth=truth)


def test_the_box_is_as_small_as_it_can_be():
    assert box_around(boxes(np.s_[3:5, 0:2, 12:13]), boxes(np.s_[4:6, 1:3, 9:10])) == np.s_[2:7, 0:4, 8:13]
    assert find_overlap(empty(), truth=empty()).prediction.size == 1
