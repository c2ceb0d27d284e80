import numpy as np
import pytest

from petct.organs import label_number
from postprocessing.lesions import label_lesions, measure_lesions

SHAPE_ZYX = (5, 7, 9)
VOXEL_ML = 3.0 * 2.0 * 1.5 / 1000.0
LIVER, SPLEEN, RIB = label_number("liver"), label_number("spleen"), label_number("rib_left_4")


def mask_of(*voxels_zyx):
    mask = np.zeros(SHAPE_ZYX, dtype=bool)
    for voxel in voxels_zyx:
        mask[voxel] = True
    return mask


def measure(mask, *, pet_suv=None, labels=None):
    lesions, _ = label_lesions(mask)
    return measure_lesions(
        lesions,
        pet_suv=np.zeros(SHAPE_ZYX, dtype=np.float32) if pet_suv is None else pet_suv,
        labels=np.zeros(SHAPE_ZYX, dtype=np.uint8) if labels is None else labels,
        voxel_ml=VOXEL_ML,
    )


@pytest.mark.parametrize(
    ("neighbour", "count"),
    [
        ((2, 3, 5), 1),
        ((2, 4, 4), 1),
        ((3, 3, 4), 1),
        ((2, 4, 5), 1),
        ((3, 3, 5), 1),
        ((3, 4, 4), 1),
        ((3, 4, 5), 2),
        ((1, 2, 3), 2),
        ((2, 3, 6), 2),
    ],
)
def test_faces_and_edges_connect_and_corners_do_not(neighbour, count):
    lesions, found = label_lesions(mask_of((2, 3, 4), neighbour))
    assert found == count
    assert set(np.unique(lesions)) == set(range(count + 1))


def test_every_voxel_of_the_mask_and_no_other_has_a_number():
    mask = np.random.default_rng(1).random(SHAPE_ZYX) < 0.1
    lesions, count = label_lesions(mask)
    np.testing.assert_array_equal(lesions > 0, mask)
    assert count == lesions.max() > 1


def test_a_uint8_mask_is_one_too():
    mask = mask_of((0, 0, 0), (2, 3, 4))
    lesions, count = label_lesions(mask.astype(np.uint8) * 3)
    assert count == 2
    np.testing.assert_array_equal(lesions > 0, mask)


def test_measures_are_those_of_the_lesions_voxels():
    first, second = ((0, 1, 2), (0, 1, 3), (1, 1, 3)), ((4, 6, 8), (4, 5, 8))
    pet_suv = np.full(SHAPE_ZYX, 99.0, dtype=np.float32)
    labels = np.full(SHAPE_ZYX, SPLEEN, dtype=np.uint8)
    for voxel, suv, label in zip(first + second, (3.5, 8.25, 4.0, 5.0, 7.0), (LIVER, 0, RIB, 0, 0), strict=True):
        pet_suv[voxel], labels[voxel] = suv, label
    found = {lesion.voxels: lesion for lesion in measure(mask_of(*first, *second), pet_suv=pet_suv, labels=labels)}
    assert sorted(lesion.number for lesion in found.values()) == [1, 2]

    assert found[3].volume_ml == pytest.approx(3 * 3.0 * 2.0 * 1.5 / 1000)
    assert found[3].suv_max == 8.25
    assert found[3].suv_mean == pytest.approx((3.5 + 8.25 + 4.0) / 3)
    assert found[3].labels == frozenset({LIVER, RIB})
    assert found[3].centre_zyx == pytest.approx(((0 + 0 + 1) / 3, 1.0, (2 + 3 + 3) / 3))

    assert found[2].volume_ml == pytest.approx(2 * 3.0 * 2.0 * 1.5 / 1000)
    assert found[2].suv_max == 7.0
    assert found[2].suv_mean == pytest.approx((5.0 + 7.0) / 2)
    assert found[2].labels == frozenset()
    assert found[2].centre_zyx == pytest.approx((4.0, (6 + 5) / 2, 8.0))


def test_measures_are_in_the_order_of_the_numbers_and_agree_with_each_lesion_alone():
    rng = np.random.default_rng(2)
    mask = rng.random(SHAPE_ZYX) < 0.12
    pet_suv = rng.uniform(3, 30, SHAPE_ZYX).astype(np.float32)
    labels = rng.integers(0, 118, SHAPE_ZYX).astype(np.uint8)
    lesions, count = label_lesions(mask)
    measured = measure_lesions(lesions, pet_suv=pet_suv, labels=labels, voxel_ml=VOXEL_ML)
    assert [lesion.number for lesion in measured] == list(range(1, count + 1))
    assert count > 5
    for lesion in measured:
        alone = lesions == lesion.number
        assert lesion.voxels == alone.sum()
        assert lesion.suv_max == pet_suv[alone].max()
        assert lesion.suv_mean == pytest.approx(pet_suv[alone].mean(), rel=1e-5)
        assert lesion.labels == frozenset(labels[alone].tolist()) - {0}
        assert lesion.centre_zyx == pytest.approx(tuple(np.argwhere(alone).mean(axis=0)))


def test_negative_suv_has_a_maximum_too():
    # A mask may be anything; noise makes reconstructed PET slightly negative.
    (lesion,) = measure(mask_of((1, 2, 3)), pet_suv=np.full(SHAPE_ZYX, -0.25, dtype=np.float32))
    assert lesion.suv_max == -0.25


def test_a_lesion_next_to_a_label_does_not_touch_it():
    labels = np.full(SHAPE_ZYX, LIVER, dtype=np.uint8)
    labels[1, 2, 3] = 0
    (lesion,) = measure(mask_of((1, 2, 3)), labels=labels)
    assert lesion.labels == frozenset()


def test_no_lesion():
    lesions, count = label_lesions(mask_of())
    assert count == 0
    assert lesions.shape == SHAPE_ZYX
    assert not lesions.any()
    assert measure(mask_of()) == ()


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"mask: must be 3D \(z, y, x\), got 2D"):
        label_lesions(np.zeros((3, 4), dtype=bool))
    with pytest.raises(ValueError, match=r"pet_suv: must have the mask's shape \(5, 7, 9\).*got \(9, 7, 5\)"):
        measure(mask_of(), pet_suv=np.zeros(SHAPE_ZYX[::-1], dtype=np.float32))
    with pytest.raises(ValueError, match=r"labels: must have the mask's shape \(5, 7, 9\).*got \(9, 7, 5\)"):
        measure(mask_of(), labels=np.zeros(SHAPE_ZYX[::-1], dtype=np.uint8))
