import numpy as np
import pytest

from petct.labels import Label
from postprocessing.threshold import threshold

SHAPE_ZYX = (2, 3, 4)


def probabilities_of(ttb, normal):
    """Probabilities with these P(ttb) and P(normal) in voxel (1, 2, 3) and background everywhere else."""
    probabilities = np.zeros((3, *SHAPE_ZYX), dtype=np.float32)
    probabilities[Label.BACKGROUND] = 1.0
    probabilities[:, 1, 2, 3] = (1.0 - ttb - normal, ttb, normal)
    return probabilities


def at_voxel(prediction):
    return bool(prediction.ttb[1, 2, 3]), bool(prediction.normal[1, 2, 3])


def test_labels_are_in_the_networks_order():
    assert [label.name for label in Label] == ["BACKGROUND", "TTB", "NORMAL"]
    assert [int(label) for label in Label] == [0, 1, 2]


@pytest.mark.parametrize(
    ("ttb", "normal", "expected"),
    [
        (0.26, 0.74, (True, False)),
        (0.24, 0.76, (False, True)),
        (0.30, 0.10, (True, False)),
        (0.10, 0.30, (False, False)),
        (0.25, 0.75, (False, False)),
        (np.nextafter(np.float32(0.25), np.float32(1.0)), 0.0, (True, False)),
        (0.0, np.nextafter(np.float32(0.75), np.float32(1.0)), (False, True)),
    ],
)
def test_fdg_limits_are_strict_and_each_mask_has_its_own(ttb, normal, expected):
    prediction = threshold(probabilities_of(ttb, normal), ttb_probability=0.25, normal_probability=0.75)
    assert at_voxel(prediction) == expected
    assert prediction.ttb.sum() + prediction.normal.sum() == sum(expected)


def test_psma_limits_leave_a_voxel_without_a_majority_in_neither():
    assert at_voxel(threshold(probabilities_of(0.5, 0.5), ttb_probability=0.5, normal_probability=0.5)) == (
        False,
        False,
    )
    assert at_voxel(threshold(probabilities_of(0.51, 0.49), ttb_probability=0.5, normal_probability=0.5)) == (
        True,
        False,
    )


def test_a_tie_that_float32_cannot_hold_is_still_a_tie():
    # float32(0.3) is 0.30000001192..., above the Python number 0.3.
    probabilities = probabilities_of(np.float32(0.3), 0.0)
    assert at_voxel(threshold(probabilities, ttb_probability=np.float64(0.3), normal_probability=0.5)) == (False, False)


def test_low_limits_can_make_a_voxel_both():
    prediction = threshold(probabilities_of(0.4, 0.4), ttb_probability=0.25, normal_probability=0.25)
    assert at_voxel(prediction) == (True, True)


def test_fdg_limits_never_make_a_voxel_both():
    rng = np.random.default_rng(7)
    probabilities = np.moveaxis(rng.dirichlet((0.3, 0.5, 0.5), size=(11, 13, 17)), -1, 0).astype(np.float32)
    prediction = threshold(probabilities, ttb_probability=0.25, normal_probability=0.75)
    assert prediction.ttb.any()
    assert prediction.normal.any()
    assert not (prediction.ttb & prediction.normal).any()


def test_background_everywhere_gives_empty_masks_of_the_grids_shape():
    prediction = threshold(probabilities_of(0.0, 0.0), ttb_probability=0.5, normal_probability=0.5)
    for mask in (prediction.ttb, prediction.normal):
        assert mask.shape == SHAPE_ZYX
        assert mask.dtype == bool
        assert not mask.any()


@pytest.mark.parametrize("shape", [(2, 2, 3, 4), (3, 3, 4), (2, 3, 4, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"probabilities: must be \(3, z, y, x\), got shape"):
        threshold(np.zeros(shape, dtype=np.float32), ttb_probability=0.5, normal_probability=0.5)
