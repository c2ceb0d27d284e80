"""Grids, the two doors between numpy and SimpleITK, and resampling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from cases import CT_GRIDS, PET_GRIDS, grid_around
from petct.errors import CaseError
from petct.geometry import Grid, check_same_grid, grid_of, resample_ct, resample_labels, to_array, to_image

GRID = PET_GRIDS["PSMA"]


def test_axes_are_named_once():
    assert GRID.shape_zyx == (11, 9, 7)
    assert GRID.size_xyz == (7, 9, 11)
    assert GRID.spacing_mm_xyz == (4.0, 5.0, 3.0)
    assert GRID.spacing_mm_zyx == (3.0, 5.0, 4.0)
    assert GRID.voxel_ml == pytest.approx(4.0 * 5.0 * 3.0 / 1000.0)


def test_an_array_becomes_an_image_and_back():
    array = np.arange(11 * 9 * 7, dtype=np.int16).reshape(11, 9, 7)
    image = to_image(array, GRID)
    assert image.GetSize() == (7, 9, 11)
    assert image.GetPixel(6, 8, 1) == array[1, 8, 6]
    assert grid_of(image) == GRID
    assert to_array(image).dtype == np.int16
    assert np.array_equal(to_array(image), array)


def test_an_array_is_a_copy():
    image = to_image(np.zeros((11, 9, 7), dtype=np.uint8), GRID)
    to_array(image)[0, 0, 0] = 1
    assert image.GetPixel(0, 0, 0) == 0


def test_an_array_of_another_shape_is_no_image_of_the_grid():
    with pytest.raises(ValueError, match=r"shape \(11, 9, 7\) \(z, y, x\), got \(7, 9, 11\)"):
        to_image(np.zeros((7, 9, 11), dtype=np.uint8), GRID)


def test_positions_are_those_of_simpleitk():
    image = to_image(np.zeros(GRID.shape_zyx, dtype=np.uint8), GRID)
    assert GRID.position_mm_xyz((3.5, 2.0, 5.25)) == pytest.approx(
        image.TransformContinuousIndexToPhysicalPoint((5.25, 2.0, 3.5))
    )


def test_corners_are_those_of_simpleitk():
    image = to_image(np.zeros(GRID.shape_zyx, dtype=np.uint8), GRID)
    expected = [
        image.TransformContinuousIndexToPhysicalPoint((x, y, z))
        for x in (-0.5, 6.5)
        for y in (-0.5, 8.5)
        for z in (-0.5, 10.5)
    ]
    assert sorted(map(tuple, GRID.corners_mm_xyz().round(6))) == sorted(map(tuple, np.round(expected, 6)))


def test_rounding_in_a_header_is_no_difference():
    rounded = replace(
        GRID,
        spacing_mm_xyz=tuple(s + 0.004 for s in GRID.spacing_mm_xyz),
        origin_mm_xyz=tuple(round(o, 2) for o in GRID.origin_mm_xyz),
    )
    check_same_grid(rounded, GRID, where="organs", name="CT")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"shape_zyx": (11, 9, 8)},
            r"^organs: grid must match CT, got \(8, 9, 11\) voxels \(x, y, z\) for \(7, 9, 11\)$",
        ),
        (
            {"spacing_mm_xyz": (4.0, 5.0, 3.02)},
            r"^organs: grid must match CT within 0.01 mm, got spacing that differs by 0.02 mm along z$",
        ),
        (
            {"origin_mm_xyz": tuple(np.add(GRID.origin_mm_xyz, (0.0, -3.2, 0.0)))},
            r"^organs: grid must match CT within 0.01 mm, got origin that differs by 3.2 mm along y$",
        ),
    ],
)
def test_another_grid_is_refused(change, message):
    with pytest.raises(CaseError, match=message):
        check_same_grid(replace(GRID, **change), GRID, where="organs", name="CT")


def test_another_direction_is_refused():
    # Same origin, so only the far corners move; a quarter of a degree over 50 mm is 0.2 mm, three degrees are 2.6 mm.
    for degrees, differs in ((0.25, False), (3.0, True)):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        turned = np.reshape(GRID.direction, (3, 3)) @ [[c, -s, 0], [s, c, 0], [0, 0, 1]]
        other = replace(GRID, direction=tuple(turned.ravel()))
        if differs:
            with pytest.raises(CaseError, match="corners must lie within 0.5 mm of those of CT, got"):
                check_same_grid(other, GRID, where="organs", name="CT")
        else:
            check_same_grid(other, GRID, where="organs", name="CT")


def test_ct_is_interpolated_linearly_and_is_air_outside():
    # A CT that is linear in LPS position is its own linear interpolation, on any grid.
    ct_grid = CT_GRIDS["PSMA"]
    ct = sitk.Cast(_linear_image(ct_grid), sitk.sitkInt16)
    onto = grid_around(
        (12.0, 8.0, -420.0), shape_zyx=(21, 8, 10), spacing_mm_xyz=(1.3, 1.7, 2.1), turned_deg_xyz=(20.0, 10.0, -30.0)
    )
    resampled = resample_ct(ct, onto)
    assert grid_of(resampled) == onto
    assert resampled.GetPixelID() == sitk.sitkFloat32
    found, expected = to_array(resampled), to_array(_linear_image(onto))
    index = np.array(
        [
            ct.TransformPhysicalPointToContinuousIndex(onto.position_mm_xyz(index))
            for index in np.ndindex(onto.shape_zyx)
        ]
    ).reshape(*onto.shape_zyx, 3)
    is_between = np.all((index >= 0.0) & (index <= np.array(ct_grid.size_xyz) - 1.0), axis=-1)
    is_outside = np.any((index < -0.5) | (index > np.array(ct_grid.size_xyz) - 0.5), axis=-1)
    assert is_between.sum() > 200
    assert is_outside.sum() > 200
    assert np.abs(found - expected)[is_between].max() <= 1.0  # whole HU: the CT is rounded
    assert (found[is_outside] == -1000.0).all()


def _linear_image(grid: Grid) -> sitk.Image:
    positions_mm = np.array([grid.position_mm_xyz(index) for index in np.ndindex(grid.shape_zyx)])
    hu = positions_mm @ (3.0, -5.0, 2.0) + 900.0
    return to_image(hu.reshape(grid.shape_zyx), grid)


def _full(grid: Grid) -> sitk.Image:
    return to_image(np.ones(grid.shape_zyx, dtype=np.uint8), grid)


def test_labels_are_never_mixed():
    labels = to_image(np.where(np.indices((14, 21, 18))[2] < 9, 10, 90).astype(np.uint8), CT_GRIDS["PSMA"])
    resampled = resample_labels(labels, grid_of(_full(GRID)))
    assert resampled.GetPixelID() == sitk.sitkUInt8
    assert set(np.unique(to_array(resampled))) == {0, 10, 90}


def test_labels_are_those_of_the_nearest_voxel():
    ct_grid = CT_GRIDS["FDG"]
    labels = np.arange(np.prod(ct_grid.shape_zyx)).reshape(ct_grid.shape_zyx).astype(np.uint16)
    image = to_image(labels, ct_grid)
    onto = PET_GRIDS["FDG"]
    found = to_array(resample_labels(image, onto))
    for index_zyx in ((0, 0, 0), (6, 4, 5), (3, 2, 7), (11, 7, 9)):
        x, y, z = image.TransformPhysicalPointToIndex(onto.position_mm_xyz(index_zyx))
        is_inside = all(0 <= i < n for i, n in zip((x, y, z), ct_grid.size_xyz, strict=True))
        assert found[index_zyx] == (labels[z, y, x] if is_inside else 0)
    assert found[6, 4, 5] != 0
