"""The network's channels; the distance is compared with SimpleITK's own on the whole grid."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.special import expit

from cases import CT_GRIDS, PET_GRIDS, grid_around, pet_image
from petct.channels import ClipHU, OrganEncoding, build_channels, channel_names, soft_distance
from petct.geometry import to_array, to_image
from petct.organs import Organ

GRID = PET_GRIDS["PSMA"]
NAMES = ("spleen", "kidney", "liver", "lung", "brain", "urinary_bladder", "bone", "thyroid")
TAU_MM = 10.0 / (2.0 * np.log(9.0))  # the 4.394 of the paper, unrounded: sigmoid(ln 9) = 0.9


def _ct(hu=40.0):
    return to_image(np.full(CT_GRIDS["PSMA"].shape_zyx, hu, dtype=np.float32), CT_GRIDS["PSMA"])


def _organs():
    """Two organs on the PET's grid: liver and bone."""
    organs = np.zeros(GRID.shape_zyx, dtype=np.uint8)
    organs[2:5, 3:6, 1:4] = Organ.LIVER
    organs[8:10, 1:4, 5:7] = Organ.BONE
    return organs


def _build(encoding, **changes):
    arguments = {"ct": _ct(), "organs": _organs(), "suv_threshold": 2.5, "encoding": encoding, "clip": None}
    return build_channels(pet_image(), **(arguments | changes))


def test_names_are_in_the_order_of_the_channels():
    assert channel_names(OrganEncoding.NONE) == ("pet_ratio", "ct")
    assert channel_names(OrganEncoding.BINARY) == ("pet_ratio", "ct", *NAMES)
    assert channel_names(OrganEncoding.SOFT_DISTANCE) == ("pet_ratio", "ct", *NAMES)


@pytest.mark.parametrize("encoding", OrganEncoding)
def test_first_channel_is_suv_over_threshold(encoding):
    channels = _build(encoding)
    assert channels.dtype == np.float32
    assert channels.shape == (len(channel_names(encoding)), 11, 9, 7)
    assert channels[0] == pytest.approx(to_array(pet_image()) / 2.5, rel=1e-6)
    assert channels[0, 3, 2, 4] == pytest.approx(20.0 / 2.5)


def test_second_channel_is_the_ct_at_the_same_place_in_the_patient():
    # One bright CT voxel under each of some PET voxels: put the PET voxel's value where SimpleITK says that it lies.
    grid = grid_around(
        GRID.position_mm_xyz((5, 4, 3)),
        shape_zyx=(31, 33, 29),
        spacing_mm_xyz=(2.0, 2.2, 1.8),
        turned_deg_xyz=(0, 0, 0),
    )
    ct = to_image(np.zeros(grid.shape_zyx, dtype=np.float32), grid)
    for number, index_zyx in enumerate([(2, 1, 5), (5, 4, 3), (8, 6, 2)], start=1):
        x, y, z = ct.TransformPhysicalPointToIndex(GRID.position_mm_xyz(index_zyx))
        ct[x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2] = 100.0 * number
    channel = _build(OrganEncoding.NONE, ct=ct)[1]
    assert channel[2, 1, 5] == pytest.approx(100.0)
    assert channel[5, 4, 3] == pytest.approx(200.0)
    assert channel[8, 6, 2] == pytest.approx(300.0)
    assert channel[5, 1, 5] == pytest.approx(0.0)


def test_outside_the_ct_is_air():
    grid = grid_around(
        GRID.position_mm_xyz((5, 4, 3)), shape_zyx=(6, 40, 40), spacing_mm_xyz=(2.0, 2.2, 1.8), turned_deg_xyz=(0, 0, 0)
    )
    ct = to_image(np.full(grid.shape_zyx, 40.0, dtype=np.float32), grid)
    channel = _build(OrganEncoding.NONE, ct=ct)[1]
    assert set(np.unique(channel)) == {-1000.0, 40.0}
    assert channel[5, 4, 3] == 40.0
    assert channel[0, 4, 3] == -1000.0
    assert channel[10, 4, 3] == -1000.0


def test_ct_is_clipped_only_when_asked_and_outside_it_too():
    ct = _ct(700.0)
    assert _build(OrganEncoding.NONE, ct=ct)[1].max() == 700.0
    assert _build(OrganEncoding.NONE, ct=ct)[1].min() == -1000.0
    clipped = _build(OrganEncoding.NONE, ct=ct, clip=ClipHU(low_hu=-832.0, high_hu=328.0))[1]
    assert set(np.unique(clipped)) == {-832.0, 328.0}


def test_binary_organs_in_order_and_absent_organs_zero():
    channels = _build(OrganEncoding.BINARY)
    organs = _organs()
    for channel, organ in zip(channels[2:], Organ, strict=True):
        assert np.array_equal(channel, (organs == organ).astype(np.float32)), organ.name
    assert channels[2 + NAMES.index("liver")].sum() == 3 * 3 * 3
    assert channels[2 + NAMES.index("bone")].sum() == 2 * 3 * 2
    assert channels[2:].sum() == 3 * 3 * 3 + 2 * 3 * 2


def test_soft_organs_in_order_and_absent_organs_zero():
    channels = _build(OrganEncoding.SOFT_DISTANCE)
    organs = _organs()
    for channel, organ in zip(channels[2:], Organ, strict=True):
        mask = organs == organ
        if mask.any():
            assert channel == pytest.approx(_expected(mask, GRID), abs=1e-6)
        else:
            assert not channel.any(), organ.name


def _expected(mask, grid):
    """The definition: sigmoid of SimpleITK's signed distance, on the whole grid."""
    distance_mm = sitk.SignedMaurerDistanceMap(
        to_image(mask.astype(np.uint8), grid), insideIsPositive=True, squaredDistance=False, useImageSpacing=True
    )
    return expit(to_array(distance_mm) / TAU_MM)


def _wide_grid():
    """120 x 115 x 108 mm and more: wider than the 40 mm around a mask that are computed."""
    return grid_around(
        (-30.0, 55.0, 7.0), shape_zyx=(40, 23, 60), spacing_mm_xyz=(1.8, 5.0, 3.0), turned_deg_xyz=(14.0, -9.0, 33.0)
    )


def _blobs(shape_zyx, *boxes):
    mask = np.zeros(shape_zyx, dtype=bool)
    for box in boxes:
        mask[box] = True
    return mask


SHAPE = (40, 23, 60)
MASKS = {
    "inside": _blobs(SHAPE, np.s_[15:24, 8:14, 20:41]),
    "at the border": _blobs(SHAPE, np.s_[0:7, 0:4, 50:60]),
    "two apart": _blobs(SHAPE, np.s_[2:6, 3:5, 3:9], np.s_[30:38, 18:22, 48:57]),
    "one voxel": _blobs(SHAPE, np.s_[20:21, 11:12, 30:31]),
    "a slab through": _blobs(SHAPE, np.s_[:, 10:13, :]),
    "everything but a voxel": ~_blobs(SHAPE, np.s_[20:21, 11:12, 30:31]),
}


@pytest.mark.parametrize("name", MASKS)
def test_soft_distance_is_simpleitk_s_on_the_whole_grid(name):
    grid = _wide_grid()
    soft = soft_distance(MASKS[name], grid=grid)
    assert soft.dtype == np.float32
    assert np.abs(soft - _expected(MASKS[name], grid)).max() <= 1e-6


def test_soft_distance_of_a_full_mask_is_inside_everywhere():
    grid = _wide_grid()
    assert np.abs(soft_distance(np.ones(SHAPE, dtype=bool), grid=grid) - _expected(np.ones(SHAPE), grid)).max() <= 1e-6


def test_soft_distance_of_an_empty_mask_is_zero():
    assert not soft_distance(np.zeros(SHAPE, dtype=bool), grid=_wide_grid()).any()


def test_soft_distance_steps_from_a_tenth_to_nine_tenths_over_10_mm():
    # A half-space: 1 mm spacing along x, boundary voxel at x = 20.
    grid = grid_around((0, 0, 0), shape_zyx=(3, 5, 41), spacing_mm_xyz=(1.0, 9.0, 20.0), turned_deg_xyz=(0, 0, 0))
    mask = np.broadcast_to(np.arange(41) >= 20, (3, 5, 41))
    along_x = soft_distance(mask, grid=grid)[1, 2]
    assert along_x[20] == pytest.approx(0.5)
    assert along_x[20 - 5] == pytest.approx(0.1, abs=1e-4)
    assert along_x[20 + 5] == pytest.approx(0.9, abs=1e-4)


@pytest.mark.parametrize("encoding", [OrganEncoding.BINARY, OrganEncoding.SOFT_DISTANCE])
def test_an_encoding_without_its_organs_is_refused(encoding):
    with pytest.raises(ValueError, match="organs must be on the PET's grid .* got None"):
        _build(encoding, organs=None)
    with pytest.raises(ValueError, match=r"got \(7, 9, 11\)"):
        _build(encoding, organs=np.zeros((7, 9, 11), dtype=np.uint8))


def test_without_organ_encoding_no_organs_are_needed():
    assert np.array_equal(_build(OrganEncoding.NONE, organs=None), _build(OrganEncoding.NONE))
