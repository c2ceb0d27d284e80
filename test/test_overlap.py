import math

import numpy as np
import pytest

from evaluation.overlap import dice, mean_dice, organ_dice
from petct.organs import Organ

SHAPE_ZYX = (3, 4, 5)


def first_voxels(count, *, start=0):
    mask = np.zeros(SHAPE_ZYX, dtype=bool)
    mask.ravel()[start : start + count] = True
    return mask


def test_dice_of_a_partial_overlap():
    # Voxels 0-6 and 4-13 share 4, 5 and 6.
    assert dice(first_voxels(7), truth=first_voxels(10, start=4)) == pytest.approx(2 * 3 / (7 + 10))


def test_dice_of_the_same_and_of_disjoint_masks():
    assert dice(first_voxels(7), truth=first_voxels(7)) == 1.0
    assert dice(first_voxels(7), truth=first_voxels(7, start=7)) == 0.0


def test_what_is_not_zero_is_inside():
    assert dice(first_voxels(7).astype(np.uint8) * 4, truth=first_voxels(7).astype(np.int16)) == 1.0


def test_one_empty_mask_gives_zero_and_two_give_nan():
    assert dice(first_voxels(0), truth=first_voxels(7)) == 0.0
    assert dice(first_voxels(7), truth=first_voxels(0)) == 0.0
    assert math.isnan(dice(first_voxels(0), truth=first_voxels(0)))


def test_other_shapes_are_refused_even_where_numpy_would_broadcast():
    with pytest.raises(ValueError, match=r"prediction: must have the truth's shape \(3, 4, 5\), got \(1, 4, 5\)"):
        dice(first_voxels(3)[:1], truth=first_voxels(3))


def test_dice_by_organ():
    truth = np.zeros(SHAPE_ZYX, dtype=np.uint8)
    prediction = np.zeros(SHAPE_ZYX, dtype=np.uint8)
    truth[0, 0, :4] = Organ.LIVER
    prediction[0, 0, 1:4] = Organ.LIVER
    truth[1, :3, 2] = Organ.BONE
    prediction[1, :3, 2] = Organ.LUNG
    scores = organ_dice(prediction, truth=truth)
    assert list(scores) == list(Organ)
    assert scores[Organ.LIVER] == pytest.approx(2 * 3 / (4 + 3))
    assert scores[Organ.BONE] == 0.0
    assert scores[Organ.LUNG] == 0.0
    absent = set(Organ) - {Organ.LIVER, Organ.BONE, Organ.LUNG}
    assert all(math.isnan(scores[organ]) for organ in absent)
    assert mean_dice(scores) == pytest.approx((2 * 3 / (4 + 3) + 0.0 + 0.0) / 3)


def test_no_organ_anywhere_has_no_mean():
    nothing = np.zeros(SHAPE_ZYX, dtype=np.uint8)
    assert math.isnan(mean_dice(organ_dice(nothing, truth=nothing)))
