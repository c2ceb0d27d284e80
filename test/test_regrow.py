import numpy as np
import pytest
import SimpleITK as sitk

from petct.geometry import Grid, to_array, to_image
from petct.organs import Organ
from postprocessing.regrow import regrow

SHAPE_ZYX = (9, 13, 17)
SPACING_MM_ZYX = (3.0, 2.0, 1.5)
SEED = (4, 6, 8)
PROTECTED = frozenset({Organ.SPLEEN, Organ.KIDNEY, Organ.LIVER, Organ.URINARY_BLADDER, Organ.BRAIN})


def mask_of(*voxels_zyx):
    mask = np.zeros(SHAPE_ZYX, dtype=bool)
    for voxel in voxels_zyx:
        mask[voxel] = True
    return mask


def grow(ttb, **changes):
    """Regrow on a uniformly hot PET without organs, by the method's 7 mm; `changes` say what differs."""
    arguments = {
        "normal": np.zeros(ttb.shape, dtype=bool),
        "pet_suv": np.full(ttb.shape, 10.0, dtype=np.float32),
        "organs": np.zeros(ttb.shape, dtype=np.uint8),
        "suv_threshold": 3.0,
        "radius_mm": 7.0,
        "protected": PROTECTED,
        "spacing_mm_zyx": SPACING_MM_ZYX,
    }
    return regrow(ttb, **(arguments | changes))


def within(ttb, *, radius_mm, spacing_mm_zyx):
    """All pairs of voxels: which lie within the radius of a voxel of the mask."""
    every_mm = np.argwhere(np.ones(ttb.shape, dtype=bool)) * np.array(spacing_mm_zyx)
    seeds_mm = np.argwhere(ttb) * np.array(spacing_mm_zyx)
    distance_mm = np.linalg.norm(every_mm[:, None] - seeds_mm[None], axis=2)
    return (distance_mm <= radius_mm + 1e-6).any(axis=1).reshape(ttb.shape)


def random_case(seed=3):
    rng = np.random.default_rng(seed)
    ttb = rng.random(SHAPE_ZYX) < 0.01
    ttb[1:4, 2:7, 1:6] = True  # large enough to have an inside
    ttb[2, 4, 3] = False  # and a hole
    return ttb


def test_growth_along_each_axis_is_in_true_millimetres():
    grown = grow(mask_of(SEED))
    z, y, x = SEED
    # 7 mm is 2 voxels of 3 mm, 3 of 2 mm and 4 of 1.5 mm; not 7 voxels, and not the same number along any two axes.
    assert np.flatnonzero(grown[:, y, x]).tolist() == list(range(z - 2, z + 2 + 1))
    assert np.flatnonzero(grown[z, :, x]).tolist() == list(range(y - 3, y + 3 + 1))
    assert np.flatnonzero(grown[z, y, :]).tolist() == list(range(x - 4, x + 4 + 1))


def test_growth_is_a_ball_not_a_box():
    grown = grow(mask_of(SEED))
    z, y, x = SEED
    assert np.hypot(2 * 3.0, 1 * 2.0) < 7.0 < np.hypot(2 * 3.0, 2 * 2.0)
    assert grown[z + 2, y + 1, x]
    assert not grown[z + 2, y + 2, x]


@pytest.mark.parametrize("radius_mm", [0.0, 1.5, 2.9, 7.0, 11.3])
def test_growth_is_that_of_all_pairs_of_voxels(radius_mm):
    ttb = random_case()
    grown = grow(ttb, radius_mm=radius_mm)
    expected = within(ttb, radius_mm=radius_mm, spacing_mm_zyx=SPACING_MM_ZYX)
    np.testing.assert_array_equal(grown, expected)


def test_growth_is_that_of_simpleitks_distance_map():
    # SimpleITK measures to the centres of the mask's boundary voxels, of which a one-voxel seed is its own.
    grid = Grid(SHAPE_ZYX, SPACING_MM_ZYX[::-1], (-31.0, 12.0, 7.5), (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0))
    ttb = mask_of((2, 3, 4), (6, 10, 3), (5, 6, 15))
    distance_mm = sitk.SignedMaurerDistanceMap(
        to_image(ttb.astype(np.uint8), grid), squaredDistance=False, useImageSpacing=True
    )
    grown = grow(ttb, spacing_mm_zyx=grid.spacing_mm_zyx)
    np.testing.assert_array_equal(grown, to_array(distance_mm) <= 7.0)


def test_swapped_axes_would_be_seen():
    ttb = random_case()
    wrong = tuple(reversed(SPACING_MM_ZYX))
    assert (grow(ttb) != grow(ttb, spacing_mm_zyx=wrong)).any()
    moved = grow(ttb.transpose(2, 0, 1), spacing_mm_zyx=tuple(SPACING_MM_ZYX[axis] for axis in (2, 0, 1)))
    np.testing.assert_array_equal(moved, grow(ttb).transpose(2, 0, 1))


@pytest.mark.parametrize("spacing_mm", [3.5, 3.4999999, 3.5000001])
def test_a_distance_equal_to_the_radius_is_within_it_in_spite_of_rounded_spacings(spacing_mm):
    grown = grow(mask_of(SEED), spacing_mm_zyx=(9.0, spacing_mm, 8.0))
    z, y, x = SEED
    assert np.argwhere(grown).tolist() == [[z, y + step, x] for step in (-2, -1, 0, 1, 2)]


def test_an_oblique_distance_equal_to_the_radius_is_within_it():
    # (2, 3, 6) is 7 long, and none of the four, divided by 10, is exact in binary.
    z, y, x = SEED
    grown = grow(mask_of(SEED), spacing_mm_zyx=(0.2, 0.3, 0.6), radius_mm=0.7)
    assert grown[z + 1, y + 1, x + 1]
    assert not grown[z + 2, y + 1, x + 1]


def test_a_distance_beyond_the_radius_is_not_within_it():
    grown = grow(mask_of(SEED), spacing_mm_zyx=(9.0, 3.51, 8.0))
    z, y, x = SEED
    assert np.argwhere(grown).tolist() == [[z, y + step, x] for step in (-1, 0, 1)]


def test_radius_zero_adds_nothing():
    ttb = random_case()
    np.testing.assert_array_equal(grow(ttb, radius_mm=0.0), ttb)


def test_seeds_at_the_grids_corners_do_not_wrap_around():
    ttb = mask_of((0, 0, 0), (8, 12, 16))
    np.testing.assert_array_equal(grow(ttb), within(ttb, radius_mm=7.0, spacing_mm_zyx=SPACING_MM_ZYX))


@pytest.mark.parametrize("organ", sorted(PROTECTED))
def test_nothing_grows_inside_a_protected_organ_and_what_was_predicted_there_stays(organ):
    z, y, x = SEED
    organs = np.zeros(SHAPE_ZYX, dtype=np.uint8)
    organs[:, :, x + 1 :] = organ
    predicted_inside = (z, y, x + 6)
    grown = grow(mask_of(SEED, predicted_inside), organs=organs)
    inside = organs == organ
    assert np.argwhere(grown & inside).tolist() == [list(predicted_inside)]
    # Outside, the growth of both seeds stays, that of the seed inside included: 5 x 1.5 mm from it is out of reach,
    # 4 x 1.5 mm from the other is not.
    expected = within(mask_of(SEED, predicted_inside), radius_mm=7.0, spacing_mm_zyx=SPACING_MM_ZYX)
    np.testing.assert_array_equal(grown & ~inside, expected & ~inside)


def test_a_seed_inside_a_protected_organ_grows_out_of_it():
    z, y, x = SEED
    organs = np.zeros(SHAPE_ZYX, dtype=np.uint8)
    organs[z, y, x - 1 : x + 2] = Organ.LIVER
    grown = grow(mask_of(SEED), organs=organs, radius_mm=3.0)
    assert np.flatnonzero(grown[z, y]).tolist() == [x - 2, x, x + 2]


@pytest.mark.parametrize("organ", sorted(set(Organ) - PROTECTED))
def test_other_organs_do_not_stop_growth(organ):
    ttb = mask_of(SEED)
    np.testing.assert_array_equal(grow(ttb, organs=np.full(SHAPE_ZYX, organ, dtype=np.uint8)), grow(ttb))


def test_normal_uptake_is_removed_even_where_disease_was_predicted():
    z, y, x = SEED
    normal = mask_of(SEED, (z, y, x + 1))
    grown = grow(mask_of(SEED), normal=normal)
    assert not (grown & normal).any()
    np.testing.assert_array_equal(grown, grow(mask_of(SEED)) & ~normal)


def test_only_voxels_at_or_above_the_suv_threshold_are_left():
    z, y, x = SEED
    pet_suv = np.full(SHAPE_ZYX, 10.0, dtype=np.float32)
    pet_suv[z, y, x + 1] = 3.1
    pet_suv[z, y, x + 2] = np.nextafter(np.float32(3.1), np.float32(0.0))
    grown = grow(mask_of(SEED), pet_suv=pet_suv, suv_threshold=np.float64(3.1))
    assert grown[z, y, x + 1]
    assert not grown[z, y, x + 2]
    assert grown[z, y, x + 3]


def test_a_predicted_voxel_below_the_threshold_is_removed_but_has_grown():
    z, y, x = SEED
    pet_suv = np.full(SHAPE_ZYX, 10.0, dtype=np.float32)
    pet_suv[SEED] = 2.9
    grown = grow(mask_of(SEED), pet_suv=pet_suv)
    np.testing.assert_array_equal(grown, grow(mask_of(SEED)) & ~mask_of(SEED))
    assert grown[z, y, x + 4]


def test_a_predicted_voxel_below_the_threshold_is_removed_from_a_protected_organ_too():
    organs = np.full(SHAPE_ZYX, Organ.KIDNEY, dtype=np.uint8)
    pet_suv = np.full(SHAPE_ZYX, 2.9, dtype=np.float32)
    assert not grow(mask_of(SEED), organs=organs, pet_suv=pet_suv).any()


def test_nothing_predicted_gives_nothing():
    grown = grow(mask_of())
    assert grown.shape == SHAPE_ZYX
    assert grown.dtype == bool
    assert not grown.any()


def test_the_predicted_mask_is_not_changed():
    ttb = random_case()
    before = ttb.copy()
    grow(ttb, normal=ttb)
    np.testing.assert_array_equal(ttb, before)


@pytest.mark.parametrize(("name", "dtype"), [("normal", bool), ("pet_suv", np.float32), ("organs", np.uint8)])
def test_an_array_of_another_shape_is_refused(name, dtype):
    with pytest.raises(ValueError, match=rf"{name}: must have the mask's shape \(9, 13, 17\) voxels \(z, y, x\), got"):
        grow(mask_of(SEED), **{name: np.zeros((1, *SHAPE_ZYX[1:]), dtype=dtype)})


@pytest.mark.parametrize("radius_mm", [-0.1, float("nan"), float("inf")])
def test_an_impossible_radius_is_refused(radius_mm):
    with pytest.raises(ValueError, match="regrow radius: must be finite and >= 0, got .* mm"):
        grow(mask_of(SEED), radius_mm=radius_mm)
